"""The ASGI application: what each path answers, and what is opened and closed with the server."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import unquote

from ..scopes.asgi import cancel_on_disconnect
from .catalogue import Catalogue, default_path, open_catalogue
from .chat import Chat
from .counters import Counters, stream_events
from .http import Receive, Response, Scope, Send, error_response, json_response, query
from .pages import Pages
from .report import report

_STATIC = Path(__file__).with_name("static")
_MODULE_PREFIX = "/api/modules/"
_MODULES_MAX = 100


class Site:
    """One site: its pages, its counters, and, between start-up and shutdown, its catalogue."""

    def __init__(self, database: Path | None = None) -> None:
        self._database = database
        self._catalogue: Catalogue | None = None
        self._pages = Pages(_STATIC)
        self.counters = Counters()
        self._chat = Chat(self.counters)
        self._answers: dict[str, Callable[[Scope], Awaitable[Response]]] = {
            "/api/modules": self._modules,
            "/api/search": self._search,
            "/api/counters": self._counters,
        }
        self._watched_report = cancel_on_disconnect(self._report)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._catalogue = open_catalogue(self._database)
        except (OSError, sqlite3.Error) as error:
            where = self._database or default_path()
            problem = f"cannot open the catalogue: {error}; remove {where} to have it built anew"
            await send({"type": "lifespan.startup.failed", "message": problem})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._catalogue.close()
        self._catalogue = None
        await send({"type": "lifespan.shutdown.complete"})

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/ws":
            await self._chat.converse(receive, send)
        else:
            # Closing before accepting answers the handshake with 403.
            await receive()
            await send({"type": "websocket.close"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.counters.n_requests += 1
        method = scope["method"]
        if method not in ("GET", "HEAD"):
            allowed = [(b"allow", b"GET, HEAD")]
            response = error_response(405, f"{method} is not allowed", extra_headers=allowed)
        elif scope["path"] == "/events" and method == "GET":
            return await stream_events(scope, receive, send, self.counters)
        elif scope["path"] == "/report":
            return await self._watched_report(scope, receive, send)
        else:
            response = await self._respond(scope)
        await self._send(response, scope, send)
        return None

    async def _send(self, response: Response, scope: Scope, send: Send) -> None:
        self.counters.n_errors += response.status >= 500
        await response.send_through(send, with_body=scope["method"] == "GET")

    async def _respond(self, scope: Scope) -> Response:
        path = scope["path"]
        answer = self._answers.get(path)
        if answer is not None:
            return await answer(scope)
        if path.startswith(_MODULE_PREFIX):
            return self._module(unquote(path.removeprefix(_MODULE_PREFIX)))
        return self._pages.respond(scope) or error_response(404, f"there is no {path}")

    async def _modules(self, scope: Scope) -> Response:
        parameters = query(scope)
        try:
            offset = int(parameters.get("offset", "0"))
            limit = int(parameters.get("limit", "20"))
        except ValueError:
            return error_response(400, "offset and limit are whole numbers")
        if not (0 <= offset < 2**31 and 0 < limit <= _MODULES_MAX):
            return error_response(400, f"offset is at least 0, limit 1 to {_MODULES_MAX}")
        catalogue = self._open_catalogue()
        page = catalogue.modules(offset=offset, limit=limit)
        return json_response(catalogue.counts() | {"offset": offset, "page": page})

    def _module(self, name: str) -> Response:
        module = self._open_catalogue().module(name)
        if module is None:
            return error_response(404, f"there is no module '{name}'")
        return json_response(module)

    async def _search(self, scope: Scope) -> Response:
        text = query(scope).get("q", "")
        return json_response({"query": text, "found": self._open_catalogue().search(text)})

    async def _counters(self, _scope: Scope) -> Response:
        return json_response(self.counters.snapshot())

    async def _report(self, scope: Scope, _receive: Receive, send: Send) -> None:
        # A client that leaves does not stop the function, but nothing more is done for it.
        await self._send(json_response(await report()), scope, send)

    def _open_catalogue(self) -> Catalogue:
        assert self._catalogue is not None, "the server starts the lifespan before it serves"
        return self._catalogue


app = Site()
