"""Adapters that make frameworks call plain functions as threadlets, not in worker threads.

`use_threadlets_in_anyio` does it for everything that uses anyio's `to_thread.run_sync`: the `def`
endpoints of Starlette and FastAPI, their sync dependencies and background tasks, file responses.
`wsgi` does it for WSGI applications. anyio and a2wsgi are imported only when they are needed.
"""

from threadlets.exceptions import ClientDisconnected, MissingPackage
from threadlets.frameworks._gateway import wsgi
from threadlets.frameworks._threads import Replacement, use_threadlets_in_anyio

__all__ = [
    "ClientDisconnected",
    "MissingPackage",
    "Replacement",
    "use_threadlets_in_anyio",
    "wsgi",
]
