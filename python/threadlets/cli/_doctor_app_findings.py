"""What is made of what an application did: its long stays, loops, policies, threads, processes and packages."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio import events
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from threadlets.cli._doctor_watch import Made, Recorder, Sampler, Stay
from threadlets.cli._findings import Finding
from threadlets.http._server import threadlets_in_anyio

_LONG_S = 0.1
_LONG_IMPORT_S = 1.0
_N_NAMED_MAX = 5
#: The first greenlet whose C API says which greenlets are alive; the loop asks for that.
_GREENLET_MIN = (2, 0)


def look_at_import(recorder: Recorder, duration_s: float, n_native_threads: int) -> list[Finding]:
    """Return what the import has cost, and what it has left."""
    return [
        *_import_time(recorder.sampler, duration_s),
        *_waits_at_import(recorder.sampler),
        *_loops(recorder),
        *_threads(recorder, n_native_threads),
        *_processes(),
    ]


def look_at_long_stays(sampler: Sampler, stage: str) -> Iterator[Finding]:
    """Yield what has kept the loop from anything else."""
    for stay in sampler.long_stays(stage, _LONG_S)[:_N_NAMED_MAX]:
        what = "blocked the loop" if stay.is_wait else "computed on the loop"
        yield Finding(
            "app_blocking_startup",
            "warning",
            f"{stage}: {what} for {stay.wall_s:.2f} s at {_line(stay)}",
            "nothing else of the application runs meanwhile",
            "call it by `await threadlets.call(function, …)`, or use an asynchronous library",
            _data(stay),
        )


def look_at_packages(recorder: Recorder) -> list[Finding]:
    """Return what is set or installed that the loop does not obey, or does not work with."""
    return [*_policies(recorder), *_nest_asyncio(), *_anyio(), *_greenlet()]


# -- import ----------------------------------------------------------------------------------------


def _import_time(sampler: Sampler, duration_s: float) -> Iterator[Finding]:
    computed = [it for it in sampler.long_stays("import", _LONG_S) if not _is_own_wait(it)]
    slowest = [_data(it) for it in computed[:_N_NAMED_MAX]]
    data: dict[str, Any] = {"duration_s": round(duration_s, 3), "slowest": slowest}
    fact = f"import: done in {duration_s:.2f} s"
    if duration_s < _LONG_IMPORT_S or not computed:
        yield Finding("app_import_time", "ok", fact, data=data)
        return
    shown = "; ".join(f"{it.wall_s:.2f} s at {_line(it)}" for it in computed[:_N_NAMED_MAX])
    yield Finding(
        "app_import_time",
        "note",
        fact,
        shown,
        "import what is seldom needed in the functions that need it",
        data,
    )


def _waits_at_import(sampler: Sampler) -> Iterator[Finding]:
    waits = [it for it in sampler.long_stays("import", _LONG_S) if _is_own_wait(it)]
    for stay in waits[:_N_NAMED_MAX]:
        yield Finding(
            "app_blocking_import",
            "warning",
            f"import: waited for {stay.wall_s:.2f} s at {_line(stay)}",
            "each worker process, and each reload, waits for it before it answers",
            "do it in the start-up (lifespan), by `await threadlets.call(function, …)`",
            _data(stay),
        )


def _is_own_wait(stay: Stay) -> bool:
    # What imports another module waits for its file, too.
    return stay.is_wait and not stay.standing.is_importing


def _loops(recorder: Recorder) -> Iterator[Finding]:
    for made in recorder.loops:
        if made.stage != "import":
            continue
        where = f"a loop was made at {_at(made)}"
        data = {"class": type(made.what).__qualname__, "where": _where(made)}
        if made.what.is_closed():
            yield Finding(
                "app_loop_at_import",
                "note",
                f"import: {where}, and closed",
                "nothing that belongs to it works on the loop of the server; and the module cannot "
                "be imported where a loop runs",
                "do it in the start-up (lifespan)",
                data,
            )
        else:
            yield Finding(
                "app_loop_at_import",
                "warning",
                f"import: {where}, and left open",
                "the server makes a loop of its own: what belongs to this one never runs",
                "make locks, sessions, clients and tasks in the start-up (lifespan), where the loop "
                "runs",
                data,
            )


def _threads(recorder: Recorder, n_native: int) -> Iterator[Finding]:
    for made in recorder.threads:
        if made.stage != "import" or not made.what.is_alive():
            continue
        is_pool = "ThreadPoolExecutor" in made.what.name
        yield Finding(
            "app_threads",
            "warning",
            f"import: the thread '{made.what.name}' was started at {_at(made)}",
            "it runs in every process that imports the module, and is missing in the child of a fork"
            + ("; the server has threads for functions that block" if is_pool else ""),
            "use `await threadlets.call(function, …)` in the place of the pool"
            if is_pool
            else "start it in the start-up (lifespan), and end it in the shutdown",
            {"name": made.what.name, "where": _where(made)},
        )
    if n_native > 0:
        yield Finding(
            "app_native_threads",
            "note",
            f"import: libraries have started {n_native} thread{'s' if n_native > 1 else ''}",
            "they are none of Python's; numerical libraries start one on each CPU",
            "with several worker processes bound them: OPENBLAS_NUM_THREADS=1, OMP_NUM_THREADS=1",
            {"n": n_native},
        )


def _processes() -> Iterator[Finding]:
    for pid in _children():
        command = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
        yield Finding(
            "app_processes",
            "warning",
            f"import: the process {command.strip()[:60]!r} was started",
            "each worker process, and each reload, starts one more",
            "start it in the start-up (lifespan), and end it in the shutdown",
            {"command": command.strip()},
        )


def _children() -> list[int]:
    paths = Path("/proc/self/task").glob("*/children")
    return [int(pid) for path in paths for pid in path.read_text().split()]


# -- policies and packages -------------------------------------------------------------------------


def _policies(recorder: Recorder) -> Iterator[Finding]:
    policy = getattr(events, "_event_loop_policy", None)
    for made in recorder.policies:
        # Only the one that is still set has any effect.
        if made.what is not policy:
            continue
        module, name = type(policy).__module__, type(policy).__qualname__
        yield Finding(
            "app_loop_policy",
            "warning",
            f"an event loop policy was set at {_at(made)}: {module}.{name}",
            "`threadlets serve` and threadlets.run() make their own loops, and ignore it"
            + ("; the application does not run on uvloop" if module.startswith("uvloop") else ""),
            "remove uvloop.install()"
            if module.startswith("uvloop")
            else "remove it; CPython 3.16 has no policies any more",
            {"policy": f"{module}.{name}", "where": _where(made)},
        )


def _nest_asyncio() -> Iterator[Finding]:
    if getattr(asyncio, "_nest_patched", False):
        yield Finding(
            "app_nest_asyncio",
            "warning",
            "nest_asyncio has patched asyncio",
            "it replaces tasks, futures and asyncio.run by slower ones for the whole process",
            "await coroutines in the place of run_until_complete(); nest_asyncio.apply() goes then",
            {"version": _version_of("nest_asyncio")},
        )


def _anyio() -> Iterator[Finding]:
    if "anyio" not in sys.modules:
        return
    version = _version_of("anyio")
    try:
        with threadlets_in_anyio():
            pass
    except ImportError as error:
        yield Finding(
            "app_anyio",
            "problem",
            f"anyio {version}: the server refuses it",
            str(error),
            "pip install -U anyio threadlets, or threadlets serve --worker-threads anyio",
            {"version": version},
        )
    else:
        fact = f"anyio {version}: functions that it calls in threads are threadlets"
        yield Finding("app_anyio", "ok", fact, data={"version": version})


def _greenlet() -> Iterator[Finding]:
    if "greenlet" not in sys.modules:
        return
    version = _version_of("greenlet")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers and numbers < _GREENLET_MIN:
        yield Finding(
            "app_greenlet",
            "problem",
            f"greenlet {version}: too old for the loop",
            "its C API does not say which greenlets are alive, and their tasks have to keep their "
            "thread",
            "pip install -U greenlet",
            {"version": version},
        )
    else:
        fact = f"greenlet {version}: tasks with live greenlets keep their thread"
        yield Finding("app_greenlet", "ok", fact, data={"version": version})


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", "of an unknown version"))


# -- places ----------------------------------------------------------------------------------------


def _line(stay: Stay) -> str:
    place = stay.standing.place
    return f"{_relative(str(place))}: {place.source}" if place.source else _relative(str(place))


def _at(made: Made) -> str:
    return "an unknown place" if made.place is None else _relative(str(made.place))


def _where(made: Made) -> str | None:
    return None if made.place is None else str(made.place)


def _relative(place: str) -> str:
    return place.removeprefix(f"{os.getcwd()}/")


def _data(stay: Stay) -> dict[str, Any]:
    return {
        "where": str(stay.standing.place),
        "source": stay.standing.place.source,
        "duration_s": round(stay.wall_s, 3),
        "busy_s": round(stay.busy_s, 3),
    }
