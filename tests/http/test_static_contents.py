"""Contents of files through the socket: the kernel sends the larger ones by itself, whatever room there is."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
import servers
from messages import Connection, Response
from servers import Server, StartServer
from slow_reader import SlowReader

pytestmark = pytest.mark.skipif(servers.chosen_kind() != servers.OURS, reason="nginx has its own")

#: From 32 KiB on files are sent from sealed memory, up to 1 MiB they are kept; in bytes.
SIZES = (32 * 1024 - 1, 32 * 1024, 80 * 1024, 1 << 20, (1 << 20) + 1)
#: Those of which a hundred responses fit into a test.
SMALL = SIZES[:3]


def _contents(n_bytes: int) -> bytes:
    return random.Random(n_bytes).randbytes(n_bytes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make files of all sizes, whose modification is over: they are kept in memory."""
    folder = tmp_path_factory.mktemp("files")
    for n_bytes in SIZES:
        file = folder / f"{n_bytes}.bin"
        file.write_bytes(_contents(n_bytes))
        then = time.time() - 60
        os.utime(file, (then, then))
    return folder


@pytest.fixture(params=["plain", "TLS"])
def files(
    request: pytest.FixtureRequest, shared_server: StartServer, folder: Path, tls_folder: Path
) -> Server:
    """Return a server of the folder."""
    tls = tls_folder if request.param == "TLS" else None
    return shared_server(app=str(folder), tls=tls)


def _connect(server: Server) -> Connection:
    return Connection(server.address, tls=server.client_context())


def _get(n_bytes: int, fields: bytes = b"") -> bytes:
    return b"GET /%d.bin HTTP/1.1\r\nHost: a\r\n%s\r\n" % (n_bytes, fields)


def _ask(client: Connection, n_bytes: int, fields: bytes = b"") -> Response:
    client.send(_get(n_bytes, fields))
    return client.read_response()


@pytest.mark.parametrize("n_bytes", SIZES)
def test_contents_arrive(files: Server, n_bytes: int) -> None:
    """The first time from the file, then from memory; whole, and in ranges that begin anywhere."""
    contents = _contents(n_bytes)
    with _connect(files) as client:
        for _ in range(3):
            assert contents == _ask(client, n_bytes).body
        for start, end in ((1, n_bytes - 2), (n_bytes - 5000, n_bytes - 1), (4095, 20_000)):
            response = _ask(client, n_bytes, b"Range: bytes=%d-%d\r\n" % (start, end))
            assert (206, contents[start : end + 1]) == (response.status, response.body)


@pytest.mark.parametrize("n_bytes", SMALL)
def test_a_reader_that_leaves_no_room_gets_all(files: Server, n_bytes: int) -> None:
    """Each send is a short one; what is left of a file goes on where that ended."""
    n_requests = 40
    with SlowReader(files) as client:
        client.send(_get(n_bytes) * n_requests)
        time.sleep(0.2)
        for _ in range(n_requests):
            assert _contents(n_bytes) == client.read_response().body


def test_files_of_several_sizes_follow_each_other(files: Server) -> None:
    """On one connection, asked for at once."""
    order = [random.Random(it).choice(SIZES) for it in range(40)]
    with SlowReader(files) as client:
        client.send(b"".join(map(_get, order)))
        for n_bytes in order:
            assert _contents(n_bytes) == client.read_response().body


def test_a_file_that_changes_meanwhile_stays_what_it_was(files: Server, folder: Path) -> None:
    """What was begun ends with the old contents, also if the file is written in place; the next is the new one."""
    file = folder / "1234567.bin"
    old, new = _contents(80 * 1024), _contents(80 * 1024)[::-1]
    then = time.time() - 60
    file.write_bytes(old)
    os.utime(file, (then, then))
    with SlowReader(files) as client:
        client.send(_get(1234567) * 20)
        time.sleep(0.2)
        file.write_bytes(new)
        bodies = [client.read_response().body for _ in range(20)]
    assert old == bodies[0]
    assert {old, new} >= set(bodies)
    with _connect(files) as client:
        assert new == _ask(client, 1234567).body


def test_clients_that_leave_within_a_file_leave_the_server(files: Server) -> None:
    """A send to a connection that is reset is no signal to the process."""
    for _ in range(20):
        client = SlowReader(files)
        client.send(_get(1 << 20))
        client.reset()
    with _connect(files) as client:
        assert 200 == _ask(client, SMALL[-1]).status
