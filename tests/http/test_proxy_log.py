"""The access log behind a proxy: it has the client that a trusted proxy names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import servers
from messages import Connection
from servers import Server
from waiting import wait_until

if servers.chosen_kind() != servers.OURS:
    pytest.skip("these are claims about our server", allow_module_level=True)


def _ask(server: Server, headers: str, target: str = "/x") -> None:
    with Connection(server.address) as connection:
        request = f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n"
        connection.send(request.encode())
        connection.read_response()


def _logged(server: Server) -> str:
    wait_until(lambda: " - " in server.log_text())
    (line,) = (it for it in server.log_text().splitlines() if " - " in it)
    return line


@pytest.fixture
def start() -> Any:
    """Return a function that starts a server of its own with an access log."""
    started = []

    def start(*arguments: str, app: str = "echo_app:app") -> Server:
        started.append(servers.start(servers.OURS, "--access-log", *arguments, app=app))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ("X-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9:0"),
        ("X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9:0"),
        ('Forwarded: for="203.0.113.9:4711"\r\n', "203.0.113.9:4711"),
        ("X-Forwarded-For: nonsense !\r\n", "127.0.0.1:"),
        ("", "127.0.0.1:"),
    ],
)
def test_the_client_is_the_one_that_a_trusted_proxy_names(
    start: Any, headers: str, client: str
) -> None:
    """As in the scope of applications: what is malformed is not believed."""
    server = start("--proxy-headers")
    _ask(server, headers)
    assert _logged(server).startswith(f"INFO:     {client}")


@pytest.mark.parametrize(
    "options", [(), ("--proxy-headers", "--forwarded-allow-ips", "203.0.113.1")]
)
def test_nobody_else_is_believed(start: Any, options: tuple[str, ...]) -> None:
    """Without the option, and from a peer that is no trusted proxy."""
    server = start(*options)
    _ask(server, "X-Forwarded-For: 203.0.113.9\r\n")
    assert _logged(server).startswith("INFO:     127.0.0.1:")


def test_folders_and_refusals_have_the_client_too(start: Any, tmp_path: Path) -> None:
    """What no application has seen."""
    (tmp_path / "a.txt").write_text("a")
    server = start("--proxy-headers", app=str(tmp_path))
    _ask(server, "X-Forwarded-For: 203.0.113.9\r\n", "/a.txt")
    assert _logged(server).startswith('INFO:     203.0.113.9:0 - "GET /a.txt HTTP/1.1" 200')
