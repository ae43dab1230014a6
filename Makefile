# Every target sets up what it needs. `make help` lists the targets.

SHELL := bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find crates -name '*.rs' -o -name '*.[ch]' -o -name Cargo.toml)
BUILT := $(VENV)/.built

export PIP_QUIET := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/maturin:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install 'maturin>=1.16,<2'

# Tools, and the programs that the tests run on the loop.
$(VENV)/.dev: pyproject.toml | $(BIN)/maturin
	$(BIN)/python -m pip install --group tools --group thirdparty
	@touch $@

$(VENV)/.bench: pyproject.toml | $(BIN)/maturin
	$(BIN)/python -m pip install --group bench
	@touch $@

$(VENV)/.wheels: pyproject.toml | $(BIN)/maturin
	$(BIN)/python -m pip install --group wheels
	@touch $@

$(BUILT): pyproject.toml $(RUST_SOURCES) | $(BIN)/maturin
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --quiet --extras serve
	@touch $@

.PHONY: build
build: $(BUILT) ## Install a release build with its extras into .venv

# A debug build is made anew in seconds. What is built for others has to be a release, so the next `make build` makes one.
.PHONY: dev
dev: $(VENV)/.dev ## Install a debug build into .venv: for the time in which you edit, build and test
	@rm -f $(BUILT)
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --quiet --extras serve

.PHONY: demo
demo: build ## Serve the example site under real load, and print the results
	$(BIN)/python -m examples.site.demo

.PHONY: serve
serve: build ## Serve the example site until Ctrl-C
	$(BIN)/threadlets serve examples.site.app:app

.PHONY: test
test: build $(VENV)/.dev ## Run the tests: core, then Python
	cargo test --workspace --quiet
	$(BIN)/python -m pytest -n 3

.PHONY: pythons
pythons: ## Set up CPython 3.14 and 3.15 in .pythons, for compat and debug-python (on Debian, as root)
	.ci/pythons

# Every CPython here that has its own tests; those other than $(PYTHON) get environments of their own.
MINORS := 3.11 3.12 3.13 3.14 3.15
OUR_MINOR := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
find-python = $(shell \
	for python in $(CURDIR)/.pythons/bin/python$(1) python$(1) $(HOME)/.pyenv/versions/$(1).*/bin/python$(1); do \
	$$python -c 'import test.test_asyncio' 2>/dev/null && command -v $$python && break; done)
OTHER_VENVS = $(foreach minor,$(filter-out $(OUR_MINOR),$(MINORS)),$(if $(call find-python,$(minor)),.venv-$(minor)))

# All of them are built in one folder, since most dependencies of the core are the same for each. CPATH
# names the headers for those in .pythons, which are not where these interpreters say.
.venv-%/.built: pyproject.toml $(RUST_SOURCES) | $(BIN)/maturin
	$(or $(call find-python,$*),$(error no CPython $* with its own tests is here; `make pythons` sets up the newer ones)) \
		-m venv --without-pip .venv-$*
	$(BIN)/python -m pip --python .venv-$*/bin/python install --group tests --group thirdparty
	VIRTUAL_ENV=$(CURDIR)/.venv-$* CPATH=$(CURDIR)/.pythons/include/python$*:$(CURDIR)/.pythons/include \
		$(BIN)/maturin develop --profile compat --quiet --pip-path $(BIN)/pip --extras serve
	@touch $@

# In a target folder of its own: the checker replaces the atomics of the whole crate.
.PHONY: model
model: ## Check the take-over protocol and the lock-free queues under every interleaving
	CARGO_TARGET_DIR=target/model cargo test --package threadlets-core --features model --release --quiet --test model

.PHONY: miri
miri: ## Look for undefined behavior in the lock-free queue (needs nightly Rust with Miri)
	.ci/miri

.PHONY: sanitize
sanitize: ## Run the core's tests under the address and the thread sanitizer (needs nightly Rust)
	.ci/sanitize

# Two at a time: pip installs for one while cargo builds for another.
.PHONY: compat
compat: build $(VENV)/.dev ## Run our tests, and CPython's own on our loop, for each CPython here
	set -- $(OTHER_VENVS); $(MAKE) --no-print-directory -j 2 build $${@/%//.built} && .ci/compat --main $(VENV) $$@

DEBUG_MINOR ?= 3.14d

.PHONY: debug-python
debug-python: .venv-$(DEBUG_MINOR)/.built ## Run the tests of compat on the CPython with assertions that `make pythons` sets up
	.ci/compat .venv-$(DEBUG_MINOR)

.PHONY: suites
suites: build ## Run other projects' test suites on our loop and on the stock one (an hour; needs their sdists)
	$(BIN)/python tests/suites/run.py; status=$$?; $(BIN)/python tests/suites/run.py --page; exit $$status

.PHONY: lint
lint: build $(VENV)/.dev ## Check format, lints and types
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	PYO3_CONFIG_FILE=$(CURDIR)/crates/bindings/free-threaded.cfg CARGO_TARGET_DIR=target/free-threaded \
		cargo clippy --package threadlets-bindings --quiet -- -D warnings
	cargo fmt --check --manifest-path benches/loadgen/Cargo.toml
	$(BIN)/python wheels/licences.py --check
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest threadlets._core

.PHONY: format
format: $(VENV)/.dev ## Format everything
	cargo fmt --all
	cargo fmt --manifest-path benches/loadgen/Cargo.toml
	$(BIN)/ruff format --quiet .
	$(BIN)/ruff check --fix --quiet .

.PHONY: wheels
wheels: $(VENV)/.wheels ## Build wheels for CPython 3.11 to 3.15 and the sdist into dist/, and test each in an empty environment
	$(BIN)/python wheels/build.py
	$(BIN)/python wheels/smoke.py

.PHONY: reproduce
reproduce: $(VENV)/.wheels ## Build a wheel of dist/ again from the sdist, elsewhere, and compare it byte by byte
	$(BIN)/python wheels/reproduce.py

.PHONY: release
release: $(VENV)/.wheels ## Build, check and test what a release would publish; see docs/releasing.md
	$(BIN)/python wheels/release.py

.PHONY: licences
licences: ## Write LICENSE-THIRD-PARTY from Cargo.lock
	$(PYTHON) wheels/licences.py

.PHONY: bench
bench: build $(VENV)/.bench ## Measure against other loops; raw results in benches/results/local
	$(BIN)/python -m benches

# On a quiet machine, as root (for the cold caches), with nginx, lighttpd, ab and wrk: about an hour.
.PHONY: benchmarks
benchmarks: build $(VENV)/.bench ## Measure everything anew, store it, and write docs/benchmarks.md
	$(BIN)/python -m benches --publish

.PHONY: fuzz
fuzz: ## Run the core's property tests for 100,000 cases each
	PROPTEST_CASES=100000 cargo test --release --package threadlets-core --quiet

.PHONY: docs
docs: ## Build the documentation of the core
	cargo doc --package threadlets-core --no-deps --document-private-items

.PHONY: clean
clean: ## Remove what was built
	cargo clean
	rm -rf dist .venv .venv-3* .pythons .mypy_cache .ruff_cache .pytest_cache
