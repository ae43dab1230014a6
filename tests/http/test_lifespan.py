"""The lifespan of an application: who has one, what its modes make of failures, and what is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from threadlets._user_error import UserError
from threadlets.http._lifespan import Lifespan
from websocket_kit import Receive, Scope, Send, on_a_loop

_App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def _silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Return for what it does not know, as small applications do."""


async def _raising(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("only http is known here")


async def _raising_later(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise RuntimeError("no database")


async def _refusing(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def _refusing_and_raising(scope: Scope, receive: Receive, send: Send) -> None:
    """Do as Starlette does."""
    await _refusing(scope, receive, send)
    raise RuntimeError("no database")


async def _whole(scope: Scope, receive: Receive, send: Send) -> None:
    for _ in range(2):
        message = await receive()
        scope["state"].setdefault("events", []).append(message["type"])
        await send({"type": f"{message['type']}.complete"})


async def _started_and_gone(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


async def _not_shutting_down(scope: Scope, receive: Receive, send: Send) -> None:
    await _started_and_gone(scope, receive, send)
    await receive()
    raise RuntimeError("the file is full")


async def _breaking_down(scope: Scope, receive: Receive, send: Send) -> None:
    await _started_and_gone(scope, receive, send)
    raise RuntimeError("the file is full")


async def _refusing_to_shut_down(scope: Scope, receive: Receive, send: Send) -> None:
    await _started_and_gone(scope, receive, send)
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "the file is full"})


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("app", [_silent, _whole, _started_and_gone])
@on_a_loop
async def test_an_application_that_says_nothing_wrong_is_served(app: _App, mode: str) -> None:
    """Also one that has no lifespan and returns; it is not asked to shut down."""
    state: dict[str, Any] = {}
    lifespan = Lifespan(app, state, mode)
    async with asyncio.timeout(10):
        await lifespan.start()
        await asyncio.sleep(0)
        await lifespan.stop()
    if app is _whole:
        assert ["lifespan.startup", "lifespan.shutdown"] == state["events"]


@pytest.mark.parametrize("app", [_raising, _raising_later])
@on_a_loop
async def test_auto_takes_an_exception_for_no_lifespan(
    app: _App, caplog: pytest.LogCaptureFixture
) -> None:
    """It is served, without a warning."""
    lifespan = Lifespan(app, {}, "auto")
    await lifespan.start()
    await lifespan.stop()
    assert [] == [it for it in caplog.records if it.levelno > logging.INFO]


@pytest.mark.parametrize("app", [_raising, _raising_later])
@on_a_loop
async def test_on_takes_it_for_a_failure(app: _App, caplog: pytest.LogCaptureFixture) -> None:
    """The exception is in the log, to which the error refers."""
    with pytest.raises(UserError, match="did not start"):
        await Lifespan(app, {}, "on").start()
    (record,) = (it for it in caplog.records if it.levelno == logging.ERROR)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("app", [_refusing, _refusing_and_raising])
@on_a_loop
async def test_a_start_up_that_says_it_has_failed_has(
    app: _App, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In each mode, and its message is logged."""
    with pytest.raises(UserError, match="did not start"):
        await Lifespan(app, {}, mode).start()
    assert "no database" in caplog.text


@pytest.mark.parametrize(
    ("app", "mode", "fails"),
    [
        (_refusing_to_shut_down, "auto", True),
        (_refusing_to_shut_down, "on", True),
        (_not_shutting_down, "auto", False),
        (_not_shutting_down, "on", True),
        (_breaking_down, "auto", False),
        (_breaking_down, "on", True),
    ],
)
@on_a_loop
async def test_shutdowns_fail_as_start_ups_do(
    app: _App, mode: str, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What has failed is logged in each mode: the application had a lifespan."""
    lifespan = Lifespan(app, {}, mode)
    await lifespan.start()
    if fails:
        with pytest.raises(UserError, match="did not shut down"):
            await lifespan.stop()
    else:
        await lifespan.stop()
    assert "the file is full" in caplog.text
