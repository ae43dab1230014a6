"""Debug mode names requests that leave a change behind which no request's context carries."""

from __future__ import annotations

import asyncio
import decimal
import locale
import signal
import threading
from typing import Any

import pytest
import threadlets

from .harness import Gate

pytestmark = pytest.mark.starts("inline", "beside")


def test_signal_mask_left_changed_is_named(run: Any) -> None:
    """The mask belongs to the thread: the next request runs with it."""

    def masks() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

    async def main() -> None:
        asyncio.get_running_loop().call_soon(masks)
        with pytest.warns(RuntimeWarning, match="masks .*test_shared_state.py.*signal mask"):
            await asyncio.sleep(0)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        with pytest.warns(RuntimeWarning, match="signal mask"):
            await asyncio.sleep(0)

    run(main(), debug=True)


def test_locale_left_changed_is_named(run: Any) -> None:
    """The locale belongs to the process."""
    before = locale.setlocale(locale.LC_ALL)
    other = next(it for it in ("C", "C.UTF-8", "POSIX") if _gives_another(it, before))

    async def localises() -> None:
        locale.setlocale(locale.LC_ALL, other)

    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="localises .*the locale"):
            await asyncio.create_task(localises())

    try:
        run(main(), debug=True)
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _gives_another(name: str, before: str) -> bool:
    try:
        return locale.setlocale(locale.LC_ALL, name) != before
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_ALL, before)


def test_inherited_decimal_context_that_is_changed_is_named(run: Any) -> None:
    """Tasks copy the context, but share the objects in it; `localcontext` makes a private one."""
    decimal.getcontext()

    async def careful() -> None:
        with decimal.localcontext() as own:
            own.prec = 5
            await asyncio.sleep(0)

    async def sets_precision() -> None:
        decimal.getcontext().prec = 7

    async def main() -> None:
        await asyncio.create_task(careful())
        with pytest.warns(RuntimeWarning, match=r"sets_precision .*decimal.localcontext\(\)"):
            await asyncio.create_task(sets_precision())
        assert 7 == decimal.getcontext().prec

    before = decimal.getcontext().prec
    try:
        run(main(), debug=True)
    finally:
        decimal.getcontext().prec = before


@pytest.mark.starts("inline")
def test_thread_identity_that_is_kept_is_named(run: Any) -> None:
    """After the take-over the task runs on another thread than the one that it remembers."""

    async def remembers(entered: asyncio.Event) -> None:
        ident = threading.get_ident()
        await entered.wait()
        assert ident != threading.get_ident()

    async def main() -> None:
        gate = Gate()
        task = asyncio.create_task(remembers(gate.entered))
        await asyncio.sleep(0)
        blocked = asyncio.create_task(threadlets.call(gate))
        with pytest.warns(RuntimeWarning, match=r"remembers .*in 'ident'.*ask again"):
            await gate.entered.wait()
        await task
        gate.open()
        await blocked

    run(main(), debug=True)
