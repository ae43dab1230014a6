"""An ASGI application that answers with what its scope says, as JSON."""

from __future__ import annotations

import json
from typing import Any


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer one request."""
    if scope["type"] != "http":
        raise RuntimeError(f"{scope['type']} is not for this application")
    headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    told = {
        "http_version": scope["http_version"],
        "scheme": scope["scheme"],
        "headers": headers,
        "tls": scope["extensions"].get("tls"),
    }
    body = json.dumps(told).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
