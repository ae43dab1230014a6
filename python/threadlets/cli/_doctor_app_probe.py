"""Imports an application, starts it and shuts it down, and writes what will hurt to a file.

``python -m threadlets.cli._doctor_app_probe ORDER`` is what `_doctor_app` runs; the order is JSON. The process
ends without waiting for anything that the application has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import threadlets
from threadlets._user_error import UserError
from threadlets._user_traceback import without_our_frames
from threadlets.cli._doctor_app_findings import look_at_import, look_at_long_stays, look_at_packages
from threadlets.cli._doctor_places import Place, Standing, place_of_traceback
from threadlets.cli._doctor_watch import Recorder, Sampler
from threadlets.cli._findings import Finding
from threadlets.http._lifespan import Lifespan
from threadlets.http._server import threadlets_in_anyio
from threadlets.http._target import Target, load_target

#: What the loop itself has for noticing that the limit is over, before the sampler ends the process.
_GRACE_S = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """What to look at, how long a stage may take, and where the findings go."""

    target: str
    app_dir: str
    factory: bool
    limit_s: float
    answer: str


class _Probe:
    """One application, looked at from its import to its shutdown."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._findings: list[Finding] = []
        self._sampler = Sampler(self._overdue)
        self._recorder = Recorder(self._sampler)

    def run(self) -> NoReturn:
        # Threads that are not of Python, of OpenBLAS for example, are counted against these.
        self._sampler.start()
        n_before = _n_threads()
        self._recorder.install()
        self._sampler.begin("import", self._order.limit_s)
        began_s = time.monotonic()
        target = self._load()
        duration_s = time.monotonic() - began_s
        self._sampler.begin("", float("inf"))
        if target is not None:
            n_native = _n_threads() - n_before - self._n_python_threads()
            self._findings += look_at_import(self._recorder, duration_s, n_native)
            if target.interface == "asgi":
                self._start(target.app)
            self._findings += look_at_packages(self._recorder)
        self._finish()

    def _load(self) -> Target | None:
        order = self._order
        try:
            target = load_target(order.target, app_dir=order.app_dir, factory=order.factory)
        except UserError as error:
            finding = Finding(
                "app",
                "problem",
                error.fact,
                error.cause,
                error.remedy,
                {"target": order.target},
                error.detail,
            )
        except BaseException as error:
            finding = Finding(
                "app",
                "problem",
                f"the module of '{order.target}' does not let itself be imported",
                f"{type(error).__name__}: {error}, raised at {_place(error)}",
                "raise only what says that the module cannot be used; let the program begin under "
                'if __name__ == "__main__":',
                {"target": order.target},
                _traceback(error),
            )
        else:
            data = {"target": order.target, "interface": target.interface}
            if target.interface != "static":
                name = target.interface.upper()
                fact = f"'{order.target}' is {'an' if name == 'ASGI' else 'a'} {name} application"
                self._findings.append(Finding("app", "ok", fact, data=data))
                return target
            finding = Finding(
                "app",
                "problem",
                f"'{order.target}' is a folder",
                "a folder has no code to look at",
                "name an application: threadlets doctor app package.module:app",
                data,
            )
        self._findings.append(finding)
        return None

    def _n_python_threads(self) -> int:
        return sum(it.what.is_alive() for it in self._recorder.threads)

    # -- start-up ----------------------------------------------------------------------------------

    def _start(self, app: Any) -> None:
        self._sampler.begin("start-up", self._order.limit_s + _GRACE_S)
        try:
            threadlets.run(self._take_through_life(app))
        except BaseException as error:
            # Of a task of the application's, which it has given up on: SystemExit, for example.
            self._findings.append(_failed("start-up", "app_startup", error))

    async def _take_through_life(self, app: Any) -> None:
        watched = _Watched(app)
        lifespan = Lifespan(watched, {}, "auto")
        began_s = time.monotonic()
        with threadlets_in_anyio():
            is_started = await self._do("start-up", "app_startup", lifespan.start(), watched)
            self._findings += look_at_long_stays(self._sampler, "start-up")
            if not is_started:
                return
            self._findings.append(_started(watched, time.monotonic() - began_s))
            self._sampler.begin("shutdown", self._order.limit_s + _GRACE_S)
            before = watched.failure
            if await self._do("shutdown", "app_shutdown", lifespan.stop(), watched):
                is_done = watched.failure is before
                self._findings.append(
                    Finding("app_shutdown", "ok", "shutdown: done")
                    if is_done
                    else _failed("shutdown", "app_shutdown", watched.failure)
                )

    async def _do(self, stage: str, key: str, step: Any, watched: _Watched) -> bool:
        """Return whether the step has ended well within the limit; if not, there is a finding."""
        try:
            async with asyncio.timeout(self._order.limit_s):
                await step
        except TimeoutError:
            place = await watched.where_it_waits()
            self._findings.append(_never_ends(stage, key, self._order.limit_s, place))
        except UserError as error:
            self._findings.append(_reported(stage, key, error, watched))
        else:
            return True
        return False

    # -- the end -----------------------------------------------------------------------------------

    def _overdue(self, standing: Standing | None) -> None:
        """Say where the stage stands that has taken too long, and end; called by the sampler."""
        stage = self._sampler.stage
        key = {"import": "app", "start-up": "app_startup"}.get(stage, "app_shutdown")
        place = None if standing is None else standing.place
        self._findings.append(_never_ends(stage, key, self._order.limit_s, place))
        self._finish()

    def _finish(self) -> NoReturn:
        found = json.dumps([it.as_json() for it in self._findings])
        # The file is there as a whole, or not at all.
        part = Path(f"{self._order.answer}.part")
        part.write_text(found)
        part.rename(self._order.answer)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(0)


class _Watched:
    """An ASGI application whose lifespan is watched: what it receives, sends and raises."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._task: asyncio.Task[Any] | None = None
        self.n_received = 0
        self.sent: list[dict[str, Any]] = []
        self.failure: BaseException | None = None

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Any) -> None:
        self._task = asyncio.current_task()

        async def noting_receive() -> Any:
            self.n_received += 1
            return await receive()

        async def noting_send(message: Any) -> None:
            self.sent.append(message)
            await send(message)

        try:
            await self._app(scope, noting_receive, noting_send)
        except BaseException as error:
            self.failure = error
            raise

    async def where_it_waits(self) -> Place | None:
        """Cancel it, and return the line at which that has reached it."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_GRACE_S / 2)
        return None if self.failure is None else place_of_traceback(self.failure.__traceback__)


# -- findings --------------------------------------------------------------------------------------


def _started(watched: _Watched, duration_s: float) -> Finding:
    data = {"duration_s": round(duration_s, 3)}
    if watched.failure is None:
        took_part = bool(watched.sent)
        fact = f"start-up: done in {duration_s:.2f} s" if took_part else "start-up: it has none"
        return Finding("app_startup", "ok", fact, data=data)
    # A server takes both for an application without a lifespan, as ASGI asks it to.
    if not watched.n_received:
        return Finding("app_startup", "ok", "start-up: it takes no part in the lifespan", data=data)
    return Finding(
        "app_startup",
        "problem",
        "start-up: it failed, and servers go on as if there were none",
        f"{_shown(watched.failure)}, raised at {_place(watched.failure)}",
        "fix it; to stop the server, send lifespan.startup.failed",
        data,
        _traceback(watched.failure),
    )


def _reported(stage: str, key: str, error: UserError, watched: _Watched) -> Finding:
    """Return the finding on a failure that the application has reported."""
    message = next((it["message"] for it in watched.sent if it.get("message")), "")
    cause = message.strip().splitlines()[-1] if message.strip() else error.cause
    if watched.failure is not None:
        cause = f"{_shown(watched.failure)}, raised at {_place(watched.failure)}"
    detail = "" if watched.failure is None else _traceback(watched.failure)
    return Finding(
        key, "problem", f"{stage}: it failed", cause, error.remedy, {}, message or detail
    )


def _failed(stage: str, key: str, error: BaseException | None) -> Finding:
    assert error is not None
    return Finding(
        key,
        "problem",
        f"{stage}: it failed",
        f"{_shown(error)}, raised at {_place(error)}",
        f"fix the application's {stage}",
        {},
        _traceback(error),
    )


def _never_ends(stage: str, key: str, limit_s: float, place: Place | None) -> Finding:
    where = "it cannot be seen where it waits" if place is None else f"it is at {place}"
    source = "" if place is None or not place.source else f": {place.source}"
    return Finding(
        key,
        "problem",
        f"{stage}: it has not ended within {limit_s:g} s",
        f"{where}{source}",
        "have it wait for less, or give it more time with --timeout",
        {"where": None if place is None else str(place), "limit_s": limit_s},
    )


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _place(error: BaseException) -> str:
    return str(place_of_traceback(error.__traceback__) or "a place without source")


def _traceback(error: BaseException) -> str:
    shown = error.with_traceback(without_our_frames(error.__traceback__))
    return "".join(traceback.format_exception(shown))


def _n_threads() -> int:
    return len(os.listdir("/proc/self/task"))


if __name__ == "__main__":
    # The application finds a command line of its own, and its folder first, as under a server.
    _order = Order(**json.loads(sys.argv[1]))
    sys.argv = ["threadlets"]
    assert threading.current_thread() is threading.main_thread()
    _Probe(_order).run()
