"""Static pages from a folder, read once at start.

A request's path is a key in a dictionary and never becomes a file name, so no path leaves the
folder.
"""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path

from .http import Headers, Response, Scope, header


class Pages:
    """All files below `folder`, as responses that are ready to send."""

    def __init__(self, folder: Path) -> None:
        self._pages: dict[str, tuple[bytes, Response]] = {}
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self._add("/" + file.relative_to(folder).as_posix(), file)

    def respond(self, scope: Scope) -> Response | None:
        """Return the page, "not modified", or None when there is no such page."""
        found = self._pages.get(scope["path"])
        if found is None:
            return None
        etag, response = found
        known = header(scope, b"if-none-match")
        if known is not None and _matches(etag, known):
            return Response(304, [(b"etag", etag)])
        return response

    def _add(self, path: str, file: Path) -> None:
        body = file.read_bytes()
        etag = b'"' + hashlib.sha256(body).hexdigest()[:20].encode() + b'"'
        headers: Headers = [
            (b"content-type", _content_type(file)),
            (b"content-length", b"%d" % len(body)),
            (b"etag", etag),
            (b"cache-control", b"no-cache"),
            (b"x-content-type-options", b"nosniff"),
        ]
        page = (etag, Response(200, headers, body))
        self._pages[path] = page
        if file.name == "index.html":
            self._pages[path.removesuffix("index.html")] = page


def _content_type(file: Path) -> bytes:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    is_text = kind.startswith("text/") or kind in ("application/javascript", "image/svg+xml")
    return (f"{kind}; charset=utf-8" if is_text else kind).encode()


def _matches(etag: bytes, if_none_match: bytes) -> bool:
    candidates = (candidate.strip() for candidate in if_none_match.split(b","))
    return any(candidate in (b"*", etag, b"W/" + etag) for candidate in candidates)
