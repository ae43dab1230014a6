"""Watches what an application does while it is imported and started: long stays, loops, threads, policies."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import time
from asyncio import base_events, events
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from threadlets.cli._doctor_places import Place, Standing, standing_of

#: How often the main thread is looked at.
_INTERVAL_S = 0.005


@dataclass
class Stay:
    """A time in which the main thread has stood at one line: how long, and how much of it it was busy."""

    standing: Standing
    stage: str
    began_s: float
    ended_s: float
    busy_s: float = 0.0

    @property
    def wall_s(self) -> float:
        return self.ended_s - self.began_s

    @property
    def is_wait(self) -> bool:
        """Whether it has waited, rather than computed."""
        return self.busy_s < self.wall_s / 2


class Sampler:
    """A thread that looks where the main thread is, and acts when a stage takes too long.

    A call that keeps the GIL stops this thread, too. It looks again as soon as the call returns, which is
    while the main thread still stands at its line, so that the time is counted there.
    """

    def __init__(self, on_overdue: Callable[[Standing | None], None]) -> None:
        self.stage = ""
        self._stays: list[Stay] = []
        self._stay: Stay | None = None
        self._before_s, self._busy_before_s = time.monotonic(), _busy_s()
        self._looking = threading.Lock()
        self._deadline_s = float("inf")
        self._on_overdue = on_overdue
        self._main = threading.main_thread().ident or 0
        self._thread = threading.Thread(target=self._watch, name="doctor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def begin(self, stage: str, limit_s: float) -> None:
        """Begin a stage, which has to end within the limit."""
        self.stage = stage
        self._deadline_s = time.monotonic() + limit_s

    def long_stays(self, stage: str, threshold_s: float) -> list[Stay]:
        """Return the stays of a stage that were as long as that, the longest first."""
        # Not while the thread is about to count the latest one.
        with self._looking:
            found = [it for it in self._stays if it.stage == stage and it.wall_s >= threshold_s]
        return sorted(found, key=lambda it: -it.wall_s)

    def _watch(self) -> None:
        while True:
            time.sleep(_INTERVAL_S)
            with self._looking:
                standing = self._look()
            if self._before_s > self._deadline_s:
                self._deadline_s = float("inf")
                self._on_overdue(standing)

    def _look(self) -> Standing | None:
        # Both before anything that releases the GIL, and lets the main thread go on.
        standing, stage = standing_of(sys._current_frames().get(self._main)), self.stage
        now_s, busy_s = time.monotonic(), _busy_s()
        stay = self._stay
        if standing is None:
            stay = None
        else:
            if stay is None or not _is_same(stay.standing, standing) or stay.stage != stage:
                # It may have been there ever since the last look.
                stay = Stay(standing, stage, self._before_s, now_s)
                self._stays.append(stay)
            stay.ended_s = now_s
            stay.busy_s += busy_s - self._busy_before_s
            stay.standing = standing if standing.is_importing else stay.standing
        self._stay, self._before_s, self._busy_before_s = stay, now_s, busy_s
        return standing


def _busy_s() -> float:
    """Return how long the main thread has run so far, or has waited for a CPU to run on."""
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/schedstat").read_text()
    except OSError:
        # A sandbox without it has the CPU time alone.
        clock = time.pthread_getcpuclockid(threading.main_thread().ident or 0)
        return time.clock_gettime(clock)
    run_ns, queued_ns, _ = map(int, text.split())
    return (run_ns + queued_ns) / 1e9


def _is_same(one: Standing, other: Standing) -> bool:
    return one.frame_id == other.frame_id and one.place == other.place


@dataclass
class Made:
    """Something that the program has made, and the line that made it."""

    what: Any
    stage: str
    place: Place | None


@dataclass
class Recorder:
    """Notes the loops, threads and policies that are made from now on, each with its place.

    It replaces functions of asyncio and threading for good: it is for a process that ends soon.
    """

    sampler: Sampler
    loops: list[Made] = field(default_factory=list)
    threads: list[Made] = field(default_factory=list)
    policies: list[Made] = field(default_factory=list)

    def install(self) -> None:
        for name in ("new_event_loop", "set_event_loop_policy"):
            if (function := getattr(events, name, None)) is not None:
                note = self._loop_made if name == "new_event_loop" else self._policy_set
                replacement = _noting(function, note)
                setattr(asyncio, name, replacement)
                setattr(events, name, replacement)
        initialize = base_events.BaseEventLoop.__init__
        start = threading.Thread.start

        def noting_initialize(loop: Any, *args: Any, **kwargs: Any) -> None:
            initialize(loop, *args, **kwargs)
            self._loop_made(loop)

        def noting_start(thread: threading.Thread) -> None:
            start(thread)
            self.threads.append(self._made(thread))

        setattr(base_events.BaseEventLoop, "__init__", noting_initialize)  # noqa: B010
        setattr(threading.Thread, "start", noting_start)  # noqa: B010

    def _loop_made(self, loop: Any, *_arguments: Any) -> None:
        if not any(it.what is loop for it in self.loops):
            self.loops.append(self._made(loop))

    def _policy_set(self, _result: None, policy: Any) -> None:
        if policy is not None:
            self.policies.append(self._made(policy))

    def _made(self, what: Any) -> Made:
        standing = standing_of(sys._getframe())
        return Made(what, self.sampler.stage, None if standing is None else standing.place)


def _noting(function: Callable[..., Any], note: Callable[..., None]) -> Callable[..., Any]:
    """Return the function, whose result and arguments are noted."""

    @functools.wraps(function)
    def noting(*args: Any) -> Any:
        result = function(*args)
        note(result, *args)
        return result

    return noting
