"""Many small files, each read completely, with and without the kernel's caches.

The claims: warm, a sweep is as fast as a plain loop and hardly slower than C on io_uring; cold, it
keeps the disk busy, and reads five times as fast as a loop that waits for each file.
"""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from benches.files import caches, corpus, uring
from benches.files.ways import lacking
from benches.peers import SUBJECT
from benches.placement import python, run_pinned
from benches.scenario import Case, MeasurementFailed, Metric, NotApplicable, Scenario

if TYPE_CHECKING:
    from pathlib import Path

    from benches.scenario import Budget, Figures

_N_FILES = 20_000
_IN_PYTHON = ("sync", "open-read", "pool-32", "asyncio", "aiofiles", "anyio")
_PEERS = (SUBJECT, "read-file", "call", *_IN_PYTHON, "c-sync", "uring")
#: Peers of the experiment that decided how an engine uses its ring.
_RINGS = tuple(uring.MODES)


def measure(case: Case, peer: str, budget: Budget) -> Figures:
    """Read all files in one fresh process, and check that it read everything."""
    parameters = case.parameters
    if parameters["cold"] and not caches.may_empty():
        raise NotApplicable("only root may empty the caches (/proc/sys/vm/drop_caches)")
    if reason := lacking(peer):
        raise NotApplicable(reason)
    files = corpus.prepare(int(parameters["n_files"]))
    argv = _command(peer, budget.seconds, files.paths_file, dict(parameters))
    cpus = {budget.placement.server_cpu}
    if parameters["n_cpus"] == 2:
        cpus.add(budget.placement.load_cpu)
    try:
        laps = json.loads(run_pinned(argv, cpus, timeout_s=120 + 5 * budget.seconds))
    except MeasurementFailed as error:
        if "io_uring_setup" in str(error):
            raise NotApplicable("the kernel has no io_uring here, or forbids it") from error
        raise
    if wrong := [lap["n_bytes"] for lap in laps if lap["n_bytes"] != files.n_bytes]:
        raise MeasurementFailed(f"{peer} read {wrong[0]} of {files.n_bytes} bytes.")
    return {
        "files_per_s": statistics.median(files.n_files / lap["wall_s"] for lap in laps),
        "cpu_us_per_file": statistics.median(lap["cpu_s"] * 1e6 / files.n_files for lap in laps),
        "n_bytes": float(files.n_bytes),
        "n_laps": float(len(laps)),
    }


def _command(peer: str, seconds: float, paths_file: Path, parameters: dict[str, Any]) -> list[str]:
    if peer in uring.MODES:
        return uring.command(peer, seconds, paths_file, parameters)
    return python("benches.files", peer, str(seconds), str(paths_file), json.dumps(parameters))


def _case(
    name: str, peers: tuple[str, ...], goal: str | None = None, **parameters: str | int
) -> Case:
    metrics = (
        Metric("files_per_s", "files/s", "higher", goal),
        Metric("cpu_us_per_file", "us", "lower"),
    )
    return Case(name, metrics, {"n_files": _N_FILES, **parameters}, peers)


def _cases() -> tuple[Case, ...]:
    cases = []
    for state, goal in (("warm", ">=0.9x uring"), ("cold", ">=5x sync")):
        cold = int(state == "cold")
        for suffix, n_cpus in (("one-cpu", 1), ("two-cpus", 2)):
            limits = {"n_threads": 32, "n_tasks": 100, "depth": 256}
            name = f"{state}-{suffix}"
            cases.append(_case(name, _PEERS, goal, cold=cold, n_cpus=n_cpus, **limits))
    return tuple(cases)


def _ring_cases() -> tuple[Case, ...]:
    cases = []
    for state in ("warm", "cold"):
        cold = int(state == "cold")
        for depth in (32, 256):
            name = f"{state}-{depth}"
            cases.append(_case(name, _RINGS, cold=cold, n_cpus=1, depth=depth))
    return tuple(cases)


_DOC = f"{_N_FILES:,} files of 1 to 4 KiB in 100 folders, each opened, read completely and closed."
_LEGEND = (
    "warm: all files are in the page cache. cold: pages, folder entries and inodes are dropped before "
    "each lap (`sync; echo 3 > /proc/sys/vm/drop_caches`). On a virtual machine the host's cache "
    "stays, so cold is faster than a disk.",
    "Every peer counts the bytes that it reads; a measurement with a wrong count fails.",
    "c-sync: open(2), read(2), close(2) in C. uring: in C on io_uring, each of the three a request "
    "of its own, 256 files at once (warm-N, cold-N: N files), with SINGLE_ISSUER and DEFER_TASKRUN.",
)

SCENARIO = Scenario(
    name="files",
    doc=_DOC,
    cases=_cases(),
    measure=measure,
    peers=_PEERS,
    legend=(
        *_LEGEND,
        "threadlets: `sweep(syslet, paths, depth=256)`. read-file: `await threadlets.read_file(path)`. "
        "call: `await threadlets.call(function)`.",
        "sync: a loop over `os.open`, `os.read`, `os.close`. open-read: a loop over "
        '`open(path, "rb").read()`. pool-32: `ThreadPoolExecutor(32).map`.',
        "asyncio: `asyncio.to_thread`. aiofiles: `async with aiofiles.open(path)`. anyio: "
        "`anyio.Path(path).read_bytes()`. These, read-file and call: from 100 tasks.",
        "Further goals: warm at least as fast as sync, and 40 times as fast as aiofiles.",
    ),
)

#: The experiment that decided how an engine uses its ring; it is not repeated each time.
RINGS = Scenario(
    name="rings",
    doc=f"Ways to read with io_uring, in C. {_DOC}",
    cases=_ring_cases(),
    measure=measure,
    peers=_RINGS,
    is_published=False,
    legend=(
        *_LEGEND,
        "uring-fixed: registered buffers. uring-plain: without both flags. uring-async: opens go to a "
        "worker at once. uring-fd-link: read and close are a chain. uring-direct: descriptors of the "
        "ring. uring-link: these, and all three are a chain; -skip: no completion for the open. "
        "uring-replace: no close, the slot's next file replaces the last one.",
    ),
)
