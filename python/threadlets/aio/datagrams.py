"""Datagram transports: asyncio's own, whose receiving half is native."""

from __future__ import annotations

from asyncio import selector_events, transports
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from threadlets import _core


# Not in typeshed.
_Stock: Any = selector_events._SelectorDatagramTransport


class DatagramTransport(_Stock, transports.DatagramTransport):
    """A UDP or Unix datagram socket.

    Sending tries at once and queues what finds no room, as asyncio has it. Datagrams that arrive
    are received in ticks, natively.
    """

    _datagrams: _core.Datagrams | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Give what is received to `protocol` from now on."""
        super().set_protocol(protocol)
        if self._datagrams is not None:
            self._datagrams.set_protocol(protocol)

    def _add_reader(self, fd: int, _callback: Callable[..., object], *_args: Any) -> None:
        """Begin to receive, or begin again; asyncio's callback for it is not needed."""
        if self.is_reading():
            self._datagrams = self._loop._add_datagrams(fd, self._protocol)
