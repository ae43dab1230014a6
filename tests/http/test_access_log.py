"""The lines of the access log, and that clients cannot forge them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadlets.http._access_log import FORMATS, Entry, format_json, format_plain


def _entry(**changes: object) -> Entry:
    fields = {
        "time": 1_700_000_000.25,
        "client": "127.0.0.1:52144",
        "method": "GET",
        "path": "/a%20b",
        "query": "",
        "http_version": "1.1",
        "status": 200,
        "bytes": 12,
        "duration_s": 0.00125,
    }
    return tuple({**fields, **changes}.values())  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (_entry(), 'INFO:     127.0.0.1:52144 - "GET /a%20b HTTP/1.1" 200 OK'),
        (_entry(query="x=1"), 'INFO:     127.0.0.1:52144 - "GET /a%20b?x=1 HTTP/1.1" 200 OK'),
        (_entry(status=404), 'INFO:     127.0.0.1:52144 - "GET /a%20b HTTP/1.1" 404 Not Found'),
        (_entry(status=299), 'INFO:     127.0.0.1:52144 - "GET /a%20b HTTP/1.1" 299'),
        (_entry(client=""), 'INFO:     unix - "GET /a%20b HTTP/1.1" 200 OK'),
        (
            _entry(path='/"\n\x1b[2J\\'),
            'INFO:     127.0.0.1:52144 - "GET /\\x22\\x0a\\x1b[2J\\x5c HTTP/1.1" 200 OK',
        ),
        (
            _entry(path="/\x85é€"),
            'INFO:     127.0.0.1:52144 - "GET /\\x85\\xe9\\u20ac HTTP/1.1" 200 OK',
        ),
    ],
)
def test_plain_lines_have_the_form_of_uvicorns(entry: Entry, expected: str) -> None:
    """A client, the request in quotes, status and phrase."""
    assert expected == format_plain(entry)


def test_json_lines_hold_each_field() -> None:
    """In a fixed order, with numbers as numbers."""
    expected = {
        "time": "2023-11-14T22:13:20.250Z",
        "client": "127.0.0.1:52144",
        "method": "GET",
        "path": "/a%20b",
        "query": "x=1",
        "http_version": "1.1",
        "status": 200,
        "bytes": 12,
        "duration_ms": 1.25,
    }
    found = json.loads(format_json(_entry(query="x=1")))
    assert expected == found
    assert list(expected) == list(found)


@given(st.sampled_from(sorted(FORMATS)), st.text(), st.text(), st.text())
def test_no_request_breaks_a_line(form: str, method: str, path: str, query: str) -> None:
    """Whatever a client sends is one line of printable ASCII."""
    line = FORMATS[form](_entry(method=method, path=path, query=query))  # type: ignore[index]
    assert line.isascii()
    assert line.isprintable()
    if form == "json":
        found = json.loads(line)
        assert (method, path, query) == (found["method"], found["path"], found["query"])
    else:
        assert 2 == line.count('"')
