"""Frameworks that call plain functions in worker threads call them as threadlets instead.

`use_threadlets_in_anyio` does it for whatever runs on anyio's `to_thread.run_sync`: the `def`
endpoints of Starlette and FastAPI, their sync dependencies and background tasks, file responses.
`wsgi` does it for WSGI applications. anyio and a2wsgi are imported only where they are asked for.
"""

from threadlets.frameworks.gateway import wsgi
from threadlets.frameworks.packages import MissingPackage
from threadlets.frameworks.threads import Replacement, use_threadlets_in_anyio

__all__ = ["MissingPackage", "Replacement", "use_threadlets_in_anyio", "wsgi"]
