"""The event loops under comparison, by name. One table, so that all of them get identical code."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

#: The loop that goals and ratios are about.
SUBJECT = "threadlets"
PEERS = (SUBJECT, "asyncio", "uvloop")
#: The load generator's own echo server: not an event loop, but the ceiling of what one can reach.
CEILING = "ceiling"

T = TypeVar("T")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class PeerUnavailable(Exception):
    """A peer cannot be imported here."""


def loop_factory(peer: str) -> LoopFactory:
    """Return the function that makes the peer's event loop.

    :raises PeerUnavailable: the package is missing or has no ``new_event_loop``.
    """
    if peer not in PEERS:
        raise PeerUnavailable(f"{peer!r} is not a peer; choose from {', '.join(PEERS)}.")
    try:
        factory = importlib.import_module(peer).new_event_loop
    except (ImportError, AttributeError) as error:
        raise PeerUnavailable(
            f"{peer} has no event loop here ({error}); install or build it, or leave it out."
        ) from error
    return factory  # type: ignore[no-any-return]


def run(peer: str, main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on a fresh loop of the peer."""
    with asyncio.Runner(loop_factory=loop_factory(peer)) as runner:
        return runner.run(main)


def version(peer: str) -> str:
    """Return the peer's version; the interpreter's for asyncio, "unknown" where none is recorded."""
    if peer == "asyncio":
        return platform.python_version()
    try:
        return importlib.metadata.version(peer)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
