"""Datagram transports: asyncio's own, with a native receiving half."""

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

    Sending is asyncio's: it tries at once, and queues what the socket has no room for. Datagrams are
    received natively, many at a time.
    """

    _datagrams: _core.Datagrams | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Deliver received datagrams to `protocol` from now on."""
        super().set_protocol(protocol)
        if self._datagrams is not None:
            self._datagrams.set_protocol(protocol)

    def _add_reader(self, fd: int, _callback: Callable[..., object], *_args: Any) -> None:
        """Start or resume receiving; asyncio's own read callback is not used."""
        if self.is_reading():
            self._datagrams = self._loop._add_datagrams(fd, self._protocol)
