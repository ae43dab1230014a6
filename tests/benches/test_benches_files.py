"""The scenario of files, with few of them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from benches import peers
from benches.files import caches, corpus, uring
from benches.files.corpus import SIZE_MAX, SIZE_MIN, prepare
from benches.files.ways import WAYS
from benches.placement import ROOT, Placement
from benches.scenario import Budget, Case, MeasurementFailed, NotApplicable
from benches.scenarios import files

if TYPE_CHECKING:
    from pathlib import Path

    from benches.scenario import Figures

_N_FILES = 300
CASES = {case.name: case for case in files.SCENARIO.cases}
RING_CASES = {case.name: case for case in files.RINGS.cases}
WARM = CASES["warm-two-cpus"]
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="cc is not installed")


@pytest.fixture(autouse=True)
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> corpus.Corpus:
    """Put a small corpus in place of the large one."""
    few = prepare(_N_FILES, tmp_path)
    monkeypatch.setattr(corpus, "prepare", lambda _: few)
    return few


def taken(case: Case, peer: str) -> Figures:
    """Measure for a moment; skip the test if that is not possible here."""
    try:
        peers.require(peer)
        return files.measure(case, peer, Budget(0.01, Placement.of_this_machine()))
    except (NotApplicable, peers.PeerUnavailable) as reason:
        pytest.skip(str(reason))


def test_corpus_holds_what_it_says(few: corpus.Corpus) -> None:
    """Each path is there once, and the sizes are small and add up."""
    sizes = [(ROOT / path).stat().st_size for path in few.paths]
    assert _N_FILES == len(set(few.paths)) == few.n_files
    assert few.n_bytes == sum(sizes)
    assert SIZE_MIN <= min(sizes) <= max(sizes) <= SIZE_MAX


def test_corpus_is_made_once(few: corpus.Corpus, tmp_path: Path) -> None:
    """A complete corpus is used as it is."""
    before = few.paths_file.stat().st_mtime_ns
    assert few == prepare(_N_FILES, tmp_path)
    assert before == few.paths_file.stat().st_mtime_ns


def test_corpus_that_was_interrupted_is_made_anew(few: corpus.Corpus, tmp_path: Path) -> None:
    """A corpus without some of its files would be read too fast."""
    (few.paths_file.parent / "complete.json").unlink()
    (ROOT / few.paths[0]).unlink()
    assert few == prepare(_N_FILES, tmp_path)
    assert (ROOT / few.paths[0]).exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("peer", WAYS)
def test_every_way_reads_every_byte(peer: str, few: corpus.Corpus) -> None:
    """Each peer comes to the same count, and has the figures that the tables name."""
    figures = taken(WARM, peer)
    assert few.n_bytes == figures["n_bytes"]
    assert {metric.name for metric in WARM.metrics} <= figures.keys()
    assert figures["files_per_s"] > 0


@pytest.mark.timeout(60)
@needs_cc
@pytest.mark.parametrize("peer", uring.MODES)
def test_every_mode_of_the_ring_reads_every_byte(peer: str, few: corpus.Corpus) -> None:
    """Chains, descriptors of the ring and registered buffers change nothing of what is read."""
    assert few.n_bytes == taken(RING_CASES["warm-32"], peer)["n_bytes"]


@pytest.mark.timeout(60)
@needs_cc
@pytest.mark.parametrize("peer", ["sync", "uring"])
def test_peer_that_reads_too_little_fails(peer: str, few: corpus.Corpus) -> None:
    """A figure counts only when everything was read."""
    (ROOT / few.paths[7]).write_bytes(b"short")
    with pytest.raises(MeasurementFailed, match=f"of {few.n_bytes} bytes"):
        taken(WARM, peer)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("peer", ["sync", "uring"])
def test_file_that_is_missing_fails_the_measurement(peer: str, few: corpus.Corpus) -> None:
    """The message says why."""
    (ROOT / few.paths[7]).unlink()
    with pytest.raises(MeasurementFailed, match="No such file"):
        taken(WARM, peer)


def test_caches_are_emptied_by_root_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, the case is not applicable, and nothing is measured."""
    monkeypatch.setattr(caches, "may_empty", lambda: False)
    budget = Budget(0.01, Placement.of_this_machine())
    with pytest.raises(NotApplicable, match="only root"):
        files.measure(CASES["cold-one-cpu"], "sync", budget)


def test_ring_that_is_forbidden_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Containers often forbid io_uring; the reason says so, and nothing has failed."""
    forbidden = tmp_path / "uring_read"
    forbidden.write_text("#!/bin/sh\necho io_uring_setup: Operation not permitted >&2\nexit 1\n")
    forbidden.chmod(0o755)
    monkeypatch.setattr(uring, "build", lambda: forbidden)
    budget = Budget(0.01, Placement.of_this_machine())
    with pytest.raises(NotApplicable, match="forbids"):
        files.measure(WARM, "uring", budget)


def test_peers_of_the_cases_are_known() -> None:
    """Every peer can be asked for by name and has a way of reading."""
    for scenario in (files.SCENARIO, files.RINGS):
        assert scenario.cases
        for case in scenario.cases:
            assert set(case.peers or ()) <= {*WAYS, *uring.MODES}
        assert set(scenario.peers) <= {*peers.PEERS, *peers.OTHERS}


def test_without_a_compiler_the_ring_is_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the missing package."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(peers.PeerUnavailable, match="apt install gcc"):
        peers.require("uring")


@needs_cc
def test_program_that_does_not_compile_is_a_failed_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has what the compiler wrote."""
    source = tmp_path / "broken.c"
    source.write_text("no program\n")
    monkeypatch.setattr(uring, "SOURCE", source)
    monkeypatch.setattr(uring, "BINARY", tmp_path / "broken")
    with pytest.raises(MeasurementFailed, match="does not compile"):
        uring.build()
