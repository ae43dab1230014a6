r"""The access log: one line for each response, in uvicorn's form or as a JSON object.

The plain form: `INFO:     127.0.0.1:52144 - "GET /path?query HTTP/1.1" 200 OK`.

The fields of the JSON form, always in this order:

==================  ==============================================================================
time                when the request was complete enough to be answered: UTC, ISO 8601, milliseconds
client              address and port, or "" for a client of a Unix socket
method              as in the request
path, query         as in the request, percent-encoded; the query without its question mark
http_version        "1.0", "1.1" or "2"
status              of the response; a number
bytes               of the response's body, as sent; a number
duration_ms         until the response was sent; a number with three decimals
==================  ==============================================================================

What comes from a client can neither begin a new line nor control a terminal: in the plain form, control
characters, quotes, backslashes and what is not ASCII are escaped as \xNN, in the JSON form as JSON does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from json.encoder import encode_basestring_ascii
from typing import Literal, TypeAlias

Entry: TypeAlias = tuple[float, str, str, str, str, str, int, int, float]
"""time (seconds since 1970), client, method, path, query, http_version, status, bytes, duration_s."""

_PHRASES: Mapping[int, str] = {it.value: it.phrase for it in HTTPStatus}
#: Quotes and backslashes, so that the end of the request can be found, and what is not printable.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0x100), 0x22, 0x5C)}


def format_plain(entry: Entry) -> str:
    """Return the line of an entry in uvicorn's form, without its end."""
    _, client, method, path, query, http_version, status, _, _ = entry
    target = f"{path}?{query}" if query else path
    request = f"{method} {target}"
    if not request.isascii() or not request.isprintable() or '"' in request or "\\" in request:
        request = _escaped(request)
    return (
        f'INFO:     {client or "unix"} - "{request} HTTP/{http_version}" '
        f"{status} {_PHRASES.get(status, '')}".rstrip()
    )


def format_json(entry: Entry) -> str:
    """Return the line of an entry as a JSON object, without its end."""
    time_s, client, method, path, query, http_version, status, n_bytes, duration_s = entry
    seconds = int(time_s)
    line = (
        f'{{"time":"{_iso_time(seconds)}.{int((time_s - seconds) * 1000):03d}Z",'
        f'"client":{encode_basestring_ascii(client)},"method":{encode_basestring_ascii(method)},'
        f'"path":{encode_basestring_ascii(path)},"query":{encode_basestring_ascii(query)},'
        f'"http_version":"{http_version}","status":{status},"bytes":{n_bytes},'
        f'"duration_ms":{duration_s * 1000:.3f}}}'
    )
    # JSON leaves DEL as it is; a terminal may not.
    return line.replace("\x7f", "\\u007f")


FORMATS: Mapping[Literal["plain", "json"], Callable[[Entry], str]] = {
    "plain": format_plain,
    "json": format_json,
}


def _escaped(text: str) -> str:
    text = text.translate(_ESCAPES)
    if text.isascii():
        return text
    # Above U+00FF: only where a server decodes paths.
    return "".join(it if it.isascii() else it.encode("unicode_escape").decode() for it in text)


@lru_cache(maxsize=4)
def _iso_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
