"""Parts of programs for sockets, for `yield from`."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from threadlets.atoms import add, break_if, counter, loop, send


def send_all(fd: Any, data: Any, n_bytes: Any) -> Generator[Any, Any, None]:
    """Send the first `n_bytes` of `data`, however many pieces the socket takes them in."""
    n_sent = counter()
    yield add(0, 0).into(n_sent)
    with loop():
        n = yield send(fd, data[n_sent:n_bytes])
        yield add(n_sent, n)
        break_if(n_sent == n_bytes)
