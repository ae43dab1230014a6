"""What this machine offers: kernel, limits, control groups, CPUs and the interpreter.

Reads files and limits only; `_doctor_runtime` asks threadlets what it makes of them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import re
import resource
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import threadlets
from threadlets.cli._findings import Finding
from threadlets.http._config import Config
from threadlets.http._control_groups import group_folders
from threadlets.http._cpus import cpu_quota

#: Below this a Python process and its connections are soon out of memory.
_MEMORY_LOW_BYTES = 256 << 20
#: What systems without a memory limit write into version 1's file: the largest number of pages.
_NO_LIMIT_BYTES = 1 << 60
_SECCOMP_MODES = {"0": "none", "1": "strict", "2": "filter"}


@dataclass(frozen=True)
class Machine:
    """Where the kernel says what it offers; tests give folders of their own."""

    proc: Path = Path("/proc")
    groups: Path = Path("/sys/fs/cgroup")

    def sysctl(self, name: str) -> str | None:
        """Return a kernel setting, or None if the kernel does not have it."""
        return _read(self.proc / "sys" / name.replace(".", "/"))

    def lowest_limit(self, controller: str, file_v2: str, file_v1: str) -> int | None:
        """Return the lowest limit of the control groups around this process; None without any."""
        found = []
        membership = self.proc / "self/cgroup"
        for version, folder in group_folders(controller, membership=membership, root=self.groups):
            text = _read(folder / (file_v2 if version == 2 else file_v1))
            if text is not None and text.isdecimal():
                found.append(int(text))
        return min(found, default=None)


def examine_machine(machine: Machine | None = None) -> list[Finding]:
    """Return what the kernel offers and what limits this process."""
    machine = machine or Machine()
    looks: tuple[Callable[[Machine], Finding], ...] = (
        _kernel,
        _io_uring,
        _seccomp,
        _descriptors,
        _locked_memory,
        _threads,
        _cpus,
        _memory,
        _backlog,
    )
    return [look(machine) for look in looks]


def examine_interpreter() -> list[Finding]:
    """Return what this CPython is, and how it and the native half were built."""
    return [*_interpreter(), _tls(), _core(), *_environment()]


# -- the kernel and its limits ---------------------------------------------------------------------


def _kernel(machine: Machine) -> Finding:
    release, architecture = platform.release(), platform.machine()
    system = platform.system()
    return Finding(
        "kernel",
        "ok",
        f"kernel: {system} {release}, {architecture}",
        data={"system": system, "release": release, "architecture": architecture},
    )


def _io_uring(machine: Machine) -> Finding:
    text = machine.sysctl("kernel.io_uring_disabled")
    data = {"io_uring_disabled": None if text is None else int(text)}
    if text == "2":
        return Finding(
            "io_uring",
            "warning",
            "io_uring: switched off for all processes",
            "kernel.io_uring_disabled is 2",
            "as root: sysctl -w kernel.io_uring_disabled=0",
            data,
        )
    if text == "1":
        group = machine.sysctl("kernel.io_uring_group")
        return Finding(
            "io_uring",
            "note",
            "io_uring: for privileged processes only",
            f"kernel.io_uring_disabled is 1, and kernel.io_uring_group is {group}",
            "as root: sysctl -w kernel.io_uring_disabled=0, or kernel.io_uring_group=GID of a group "
            "of this user",
            data,
        )
    why = "kernel.io_uring_disabled is 0" if text else "this kernel has no setting that forbids it"
    return Finding("io_uring", "ok", f"io_uring: not switched off; {why}", data=data)


def _seccomp(machine: Machine) -> Finding:
    status = _read(machine.proc / "self/status") or ""
    found = re.search(r"^Seccomp:\s*(\d)", status, re.MULTILINE)
    mode = "unknown" if found is None else _SECCOMP_MODES.get(found[1], found[1])
    data = {"mode": mode}
    if mode == "filter":
        return Finding(
            "seccomp",
            "note",
            "seccomp: a filter may forbid system calls to this process",
            "it runs in a container or a sandbox, as it seems; Docker's own filter forbids io_uring",
            "nothing, if the engine below is uring; otherwise allow io_uring_setup, io_uring_enter "
            "and io_uring_register in the filter",
            data,
        )
    return Finding("seccomp", "ok", f"seccomp: {mode}", data=data)


def _descriptors(machine: Machine) -> Finding:
    data = _limit(resource.RLIMIT_NOFILE)
    fact = f"descriptors: {_shown(data['soft'])} at a time, which may be raised to {_shown(data['hard'])}"
    return Finding("descriptors", "ok", fact, data=data)


def _locked_memory(machine: Machine) -> Finding:
    data = _limit(resource.RLIMIT_MEMLOCK)
    soft = data["soft"]
    fact = f"locked memory: {'unlimited' if soft is None else _size(soft)}"
    if soft is not None and soft < 1 << 20 and _version(platform.release()) < (5, 12):
        return Finding(
            "locked_memory",
            "warning",
            fact,
            "before Linux 5.12 each ring of io_uring counts as locked memory",
            "ulimit -l 8192, or LimitMEMLOCK=8M of the service",
            data,
        )
    return Finding("locked_memory", "ok", fact, data=data)


def _threads(machine: Machine) -> Finding:
    data: dict[str, Any] = {
        "processes": _limit(resource.RLIMIT_NPROC)["soft"],
        "pids_max": machine.lowest_limit("pids", "pids.max", "pids.max"),
        "threads_max": int(machine.sysctl("kernel.threads-max") or 0) or None,
    }
    if (lowest := min(filter(None, data.values()), default=None)) is None:
        return Finding("threads", "ok", "threads: unlimited", data=data)
    if lowest < 64:
        names = {"processes": "ulimit -u", "pids_max": "pids.max of the control group"}
        name = next((names.get(it, it) for it, value in data.items() if value == lowest), "")
        return Finding(
            "threads",
            "warning",
            f"threads: {lowest} at most",
            f"{name} is {lowest}; each function that blocks needs a thread while it does",
            "raise it: ulimit -u, TasksMax of the service, or --pids-limit of the container",
            data,
        )
    return Finding("threads", "ok", f"threads: {lowest} at most", data=data)


def _cpus(machine: Machine) -> Finding:
    n_online = os.cpu_count() or 1
    n_allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(membership=machine.proc / "self/cgroup", root=machine.groups)
    data = {"online": n_online, "affinity": n_allowed, "quota": quota}
    fact = f"CPUs: {n_online}"
    if n_allowed < n_online:
        fact += f", of which this process may use {n_allowed}"
    if quota is not None and quota < 1:
        return Finding(
            "cpus",
            "warning",
            f"{fact}; its control group allows the time of {quota:g}",
            "a process that has used its quota stands still for the rest of the period, 0.1 s mostly",
            "give the group a whole CPU: cpu.max, or --cpus of the container",
            data,
        )
    if quota is not None and quota < n_allowed:
        fact += f"; its control group allows the time of {quota:g}"
    return Finding("cpus", "ok", fact, data=data)


def _memory(machine: Machine) -> Finding:
    total = _total_memory(machine)
    limit = machine.lowest_limit("memory", "memory.max", "memory.limit_in_bytes")
    if limit is not None and limit >= min(total or _NO_LIMIT_BYTES, _NO_LIMIT_BYTES):
        limit = None
    data = {"total_bytes": total, "limit_bytes": limit}
    fact = f"memory: {'unknown' if total is None else _size(total)}"
    if limit is None:
        return Finding("memory", "ok", f"{fact}, no limit of a control group", data=data)
    fact += f", of which the control group allows {_size(limit)}"
    if limit < _MEMORY_LOW_BYTES:
        return Finding(
            "memory",
            "note",
            fact,
            "the kernel kills processes of a group that needs more",
            "raise memory.max, or --memory of the container; limit bodies and connections by "
            "--limit-request-body and --limit-connections",
            data,
        )
    return Finding("memory", "ok", fact, data=data)


def _total_memory(machine: Machine) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read(machine.proc / "meminfo") or "", re.MULTILINE)
    return None if found is None else int(found[1]) << 10


def _backlog(machine: Machine) -> Finding:
    backlog = Config().backlog
    text = machine.sysctl("net.core.somaxconn")
    if text is None:
        return Finding("backlog", "ok", "backlog: the kernel's limit cannot be read", data={})
    data = {"somaxconn": int(text), "backlog": backlog}
    if int(text) < backlog:
        return Finding(
            "backlog",
            "warning",
            f"backlog: {text} connections may wait to be accepted",
            f"net.core.somaxconn is {text}, and a server asks for {backlog}",
            f"as root: sysctl -w net.core.somaxconn={backlog}",
            data,
        )
    return Finding(
        "backlog", "ok", f"backlog: up to {text} connections wait to be accepted", data=data
    )


# -- the interpreter and the build -----------------------------------------------------------------


def _interpreter() -> Iterator[Finding]:
    version = platform.python_version()
    name = platform.python_implementation()
    is_free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    is_debug = hasattr(sys, "gettotalrefcount")
    is_gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)()
    data: dict[str, Any] = {
        "implementation": name,
        "version": version,
        "executable": sys.executable,
        "is_free_threaded": is_free_threaded,
        "is_gil_enabled": is_gil_enabled,
        "is_debug": is_debug,
    }
    fact = f"interpreter: {name} {version}"
    tested = _tested_versions()
    if tested and sys.version_info[:2] not in tested:
        shown = ", ".join(f"{major}.{minor}" for major, minor in tested)
        yield Finding(
            "interpreter",
            "warning",
            fact,
            f"this threadlets was made for and tested with {shown}",
            "use one of these, or a newer threadlets",
            data,
        )
    else:
        yield Finding("interpreter", "ok", fact, data=data)
    if is_free_threaded:
        yield Finding(
            "free_threading",
            "note",
            "free threading: this build runs with the GIL",
            "importing threadlets enables the GIL, which guards the state of its loops",
            "nothing; the usual build of CPython is faster with a GIL",
            {"is_gil_enabled": is_gil_enabled},
        )
    if is_debug:
        yield Finding(
            "debug_interpreter",
            "warning",
            "interpreter: a debug build, several times slower",
            "it was configured with --with-pydebug",
            "use a release build for anything but debugging CPython and its extensions",
        )


def _tested_versions() -> list[tuple[int, int]]:
    """Return the versions of Python that the package names."""
    try:
        classifiers = importlib.metadata.metadata("threadlets").get_all("Classifier") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = (
        re.fullmatch(r"Programming Language :: Python :: (\d+)\.(\d+)", it) for it in classifiers
    )
    return [(int(it[1]), int(it[2])) for it in found if it]


def _tls() -> Finding:
    try:
        version = importlib.import_module("ssl").OPENSSL_VERSION
    except ImportError as error:
        return Finding(
            "tls",
            "warning",
            "TLS: this interpreter has none",
            str(error),
            "install OpenSSL's headers and build CPython again; `threadlets serve` has a TLS of its "
            "own, and needs none",
            {"library": None},
        )
    return Finding(
        "tls", "ok", f"TLS of asyncio's connections: {version}", data={"library": version}
    )


def _core() -> Finding:
    build = threadlets.__build__
    data = {"version": threadlets.__version__, "build": build}
    fact = f"threadlets {threadlets.__version__}: {build}"
    if build.startswith("debug"):
        return Finding(
            "core",
            "warning",
            fact,
            "debug builds are made by `make dev`, for those who change threadlets, and are slow",
            "make build, or install a wheel",
            data,
        )
    return Finding("core", "ok", fact, data=data)


def _environment() -> Iterator[Finding]:
    """Yield what switches debug mode on for every loop."""
    reasons = {
        "python -X dev, or PYTHONDEVMODE": sys.flags.dev_mode,
        "PYTHONASYNCIODEBUG": bool(os.environ.get("PYTHONASYNCIODEBUG"))
        and not sys.flags.ignore_environment,
    }
    found = [name for name, is_on in reasons.items() if is_on]
    if found:
        yield Finding(
            "debug_mode",
            "note",
            "debug mode: on in every loop, which makes them slower",
            f"switched on by {' and by '.join(found)}",
            "leave it out in production",
        )


# -- small helpers ---------------------------------------------------------------------------------


def _read(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return None


def _limit(which: int) -> dict[str, int | None]:
    """Return the soft and the hard limit; None is unlimited."""
    names = ("soft", "hard")
    limits = resource.getrlimit(which)
    return {
        it: None if n == resource.RLIM_INFINITY else n for it, n in zip(names, limits, strict=True)
    }


def _shown(limit: int | None) -> str:
    return "unlimited" if limit is None else str(limit)


def _size(n_bytes: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if n_bytes >= 1 << shift:
            return f"{n_bytes / (1 << shift):.3g} {unit}"
    return f"{n_bytes} bytes"


def _version(release: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
