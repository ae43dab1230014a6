"""The peers, by name: event loops, and other software that some scenarios compare with them.

One table, so that all peers get identical code.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import Any

#: The loop that goals and ratios are about.
SUBJECT = "threadlets"
PEERS = (SUBJECT, "asyncio", "uvloop")
#: The load generator's own echo server: not an event loop, but the ceiling of what one can reach.
CEILING = "ceiling"
#: Peers that are no loops, and the software whose version is recorded for them.
OTHERS = {
    "pool-64": "asyncio",
    "pool-1000": "asyncio",
    "direct": "asyncio",
    "anyio": "anyio",
    "trio": "trio",
    "gevent": "gevent",
    "nginx": "nginx",
    "alone": "",
    "read-file": SUBJECT,
    "call": SUBJECT,
    "sync": "asyncio",
    "open-read": "asyncio",
    "pool-32": "asyncio",
    "generator": "asyncio",
    "completion-ring": SUBJECT,
    "aiofiles": "aiofiles",
    "lighttpd": "lighttpd",
    **dict.fromkeys(("granian-asgi", "granian-rsgi", "granian-wsgi"), "granian"),
    **dict.fromkeys(("uvicorn", "uvicorn-async-def"), "uvicorn"),
    **dict.fromkeys(("gunicorn-gthread", "gunicorn-gevent"), "gunicorn"),
    "fastpysgi": "fastpysgi",
    "async-def": SUBJECT,
    "one-worker": SUBJECT,
    **dict.fromkeys(
        (
            "c-sync",
            "uring",
            "uring-fixed",
            "uring-plain",
            "uring-async",
            "uring-fd-link",
            "uring-direct",
            "uring-link",
            "uring-link-skip",
            "uring-replace",
        ),
        "cc",
    ),
}
#: Programs, by software: their Debian package, and the option that prints their version.
_PROGRAMS = {
    "nginx": ("nginx", "-v"),
    "lighttpd": ("lighttpd", "-v"),
    "cc": ("gcc", "-dumpfullversion"),
}

T = TypeVar("T")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class PeerUnavailable(Exception):
    """A peer is not installed here."""


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


def require(peer: str) -> None:
    """Check that a peer can be measured here.

    :raises PeerUnavailable: it is not installed.
    """
    software = OTHERS.get(peer, peer)
    if software in PEERS:
        loop_factory(software)
    elif software in _PROGRAMS:
        if shutil.which(software) is None:
            package, _ = _PROGRAMS[software]
            raise PeerUnavailable(
                f"{software} is not on the PATH; apt install {package}, or leave it out."
            )
    elif software:
        try:
            importlib.import_module(software)
        except ImportError as error:
            raise PeerUnavailable(f"{error}; pip install {software}, or leave it out.") from error


def versions(peers: Sequence[str]) -> dict[str, str]:
    """Return the versions of the software of these peers."""
    used = dict.fromkeys(OTHERS.get(peer, peer) for peer in peers if peer != CEILING)
    return {software: _version(software) for software in used if software}


def _version(software: str) -> str:
    """Return a version; the interpreter's for asyncio, "unknown" where none is recorded."""
    if software == "asyncio":
        return platform.python_version()
    if software in _PROGRAMS:
        argv = [software, _PROGRAMS[software][1]]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        # "1.2", or a sentence that begins with "nginx version: nginx/1.2" or "lighttpd/1.4.69 (ssl)".
        found = re.search(r"\d+(\.\d+)+", done.stdout or done.stderr)
        return found[0] if found else "unknown"
    try:
        return importlib.metadata.version(software)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
