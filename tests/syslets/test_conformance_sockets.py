"""Conformance: atoms of sockets, in every way of running."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from threadlets import syslet
from threadlets.atoms import (
    accept,
    address,
    buffer,
    connect,
    recv,
    recvmsg,
    send,
    sendmsg,
    shutdown,
)
from threadlets.atoms import socket as make_socket

from .harness import Carry, Peers

Pair = Callable[..., tuple[socket.socket, socket.socket]]

_RIGHTS_HEADER = struct.Struct("@Nii")


@syslet
def _make(domain):
    fd = yield make_socket(domain, socket.SOCK_STREAM)
    return fd


@syslet
def _connect(fd, where):
    yield connect(fd, where)


@syslet
def _call(where):
    """Connect, send a request, and receive the answer."""
    fd = yield make_socket(socket.AF_INET, socket.SOCK_STREAM)
    yield connect(fd, where)
    yield send(fd, b"ping")
    yield shutdown(fd, socket.SHUT_WR)
    data = buffer(100)
    n = yield recv(fd, data, socket.MSG_WAITALL)
    return data[:n]


@syslet
def _accept(fd):
    peer = address()
    accepted = yield accept(fd, 0, peer)
    return accepted, peer


@syslet
def _accept_non_blocking(fd):
    accepted = yield accept(fd, socket.SOCK_NONBLOCK)
    return accepted


@syslet
def _recv(fd, flags=0):
    data = buffer(10)
    n = yield recv(fd, data, flags)
    return data[:n]


@syslet
def _send(fd, data, flags=0):
    n = yield send(fd, data, flags)
    return n


@syslet
def _shutdown(fd, how):
    yield shutdown(fd, how)


@syslet
def _recv_message(fd, flags=0):
    first, second, control, sender = buffer(4), buffer(6), buffer(64), address()
    message = yield recvmsg(fd, [first, second], flags, control, sender)
    return message, first, second, message.control_length, message.flags, control, sender


@syslet
def _send_message(fd, first, second):
    n = yield sendmsg(fd, [first, second])
    return n


@syslet
def _send_with_control(fd, data, control):
    n = yield sendmsg(fd, data, 0, control)
    return n


@syslet
def _send_to(fd, data, where):
    n = yield sendmsg(fd, data, 0, None, where)
    return n


def _drain(sock: socket.socket, into: bytearray) -> None:
    while piece := sock.recv(4096):
        into += piece


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def datagrams() -> Iterator[tuple[socket.socket, socket.socket]]:
    with contextlib.ExitStack() as stack:
        ends = [
            stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)
        ]
        for end in ends:
            end.bind(("127.0.0.1", 0))
        yield ends[0], ends[1]


def test_socket_hands_its_descriptor_over(carry: Carry) -> None:
    """The descriptor of a new socket does not survive exec."""
    with socket.socket(fileno=carry(_make, socket.AF_INET).unwrap()) as made:
        assert socket.AF_INET == made.family
        assert not made.get_inheritable()


def test_socket_of_no_family_is_refused(carry: Carry) -> None:
    """An unknown address family gives EAFNOSUPPORT."""
    assert errno.EAFNOSUPPORT == carry(_make, 12345).errno


def test_a_program_talks_to_a_server(carry: Carry, listener: socket.socket, peers: Peers) -> None:
    """One program connects, sends, and receives the answer."""

    def serve() -> None:
        with listener.accept()[0] as peer:
            heard = bytearray()
            _drain(peer, heard)
            peer.sendall(heard + b" pong")

    peers.call(serve)
    assert b"ping pong" == carry(_call, listener.getsockname()).unwrap()


@pytest.mark.parametrize("blocking", [True, False])
def test_connect_connects(carry: Carry, listener: socket.socket, blocking: bool) -> None:
    """connect does not change whether the descriptor blocks."""
    with socket.socket() as sock:
        sock.setblocking(blocking)
        assert carry(_connect, sock, listener.getsockname()).ok
        assert listener.getsockname() == sock.getpeername()
        assert blocking == os.get_blocking(sock.fileno())
        if blocking:  # Of other sockets the kernel says so only at the second attempt.
            assert errno.EISCONN == carry(_connect, sock, listener.getsockname()).errno


def test_connect_takes_addresses_of_all_families(carry: Carry, tmp_path: Path) -> None:
    """IPv6 addresses, Unix paths and abstract names are accepted."""
    names = [
        (socket.AF_INET6, ("::1", 0)),
        (socket.AF_UNIX, str(tmp_path / "socket")),
        (socket.AF_UNIX, b"\0threadlets-%d" % os.getpid()),
    ]
    for family, name in names:
        with socket.socket(family) as listener, socket.socket(family) as sock:
            listener.bind(name)
            listener.listen()
            assert carry(_connect, sock, listener.getsockname()).ok
            assert listener.getsockname() == sock.getpeername()


@pytest.mark.parametrize("blocking", [True, False])
def test_connect_without_a_listener_is_refused(carry: Carry, blocking: bool) -> None:
    """A port without a listener gives ECONNREFUSED, and a path that does not exist ENOENT."""
    with socket.socket() as unused, socket.socket() as sock:
        unused.bind(("127.0.0.1", 0))
        sock.setblocking(blocking)
        assert errno.ECONNREFUSED == carry(_connect, sock, unused.getsockname()).errno
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(blocking)
        assert errno.ENOENT == carry(_connect, sock, "/no/where").errno


def test_connect_needs_a_socket_of_that_family(carry: Carry, pipe: tuple[int, int]) -> None:
    """A pipe gives ENOTSOCK, a closed descriptor EBADF, another family EAFNOSUPPORT or EINVAL."""
    assert errno.ENOTSOCK == carry(_connect, pipe[0], ("127.0.0.1", 1)).errno
    assert errno.EBADF == carry(_connect, 1_000_000, ("127.0.0.1", 1)).errno
    with socket.socket(socket.AF_INET6) as sock:
        assert carry(_connect, sock, "/no/where").errno in (errno.EAFNOSUPPORT, errno.EINVAL)


@pytest.mark.parametrize("blocking", [True, False])
def test_accept_gives_the_connection_and_its_peer(
    carry: Carry, listener: socket.socket, peers: Peers, blocking: bool
) -> None:
    """accept waits for a connection, whether the listener blocks or not."""
    listener.setblocking(blocking)
    with socket.socket() as sock:
        peers.call(sock.connect, listener.getsockname())
        fd, peer = carry(_accept, listener).unwrap()
        with socket.socket(fileno=fd) as accepted:
            peers.join()
            assert sock.getsockname() == peer == accepted.getpeername()
            assert not accepted.get_inheritable()
            assert os.get_blocking(fd)
    assert blocking == os.get_blocking(listener.fileno())


def test_accept_makes_non_blocking_what_is_to_be(carry: Carry, listener: socket.socket) -> None:
    """SOCK_NONBLOCK makes the accepted socket non-blocking."""
    with socket.create_connection(listener.getsockname()):
        fd = carry(_accept_non_blocking, listener).unwrap()
        assert not os.get_blocking(fd)
        os.close(fd)


def test_accept_of_a_peer_without_a_name(carry: Carry, tmp_path: Path) -> None:
    """The address of such a peer is empty, as with socket.accept()."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as sock:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        sock.connect(listener.getsockname())
        fd, peer = carry(_accept, listener).unwrap()
        os.close(fd)
    assert "" == peer


def test_accept_needs_a_listener(carry: Carry, pair: Pair, pipe: tuple[int, int]) -> None:
    """A connected socket gives EINVAL, a pipe ENOTSOCK, and a closed descriptor EBADF."""
    assert errno.EINVAL == carry(_accept, pair()[0]).errno
    assert errno.ENOTSOCK == carry(_accept, pipe[0]).errno
    assert errno.EBADF == carry(_accept, 1_000_000).errno


@pytest.mark.parametrize("blocking", [True, False])
def test_recv_waits_for_some_bytes(carry: Carry, pair: Pair, peers: Peers, blocking: bool) -> None:
    """recv returns as soon as there are bytes, and gives 0 bytes at the peer's end."""
    one, other = pair()
    one.setblocking(blocking)
    peers.call(other.sendall, b"some")
    assert b"some" == carry(_recv, one).unwrap()
    peers.call(other.close)
    assert b"" == carry(_recv, one).unwrap()


def test_recv_waits_for_all_that_are_asked_for(carry: Carry, pair: Pair, peers: Peers) -> None:
    """With MSG_WAITALL, recv waits for all bytes, however they arrive, or for the peer's end."""
    one, other = pair()

    def feed() -> None:
        for start in range(14):
            other.send(b"0123456789abcd"[start : start + 1])
        other.close()

    peers.call(feed)
    assert b"0123456789" == carry(_recv, one, socket.MSG_WAITALL).unwrap()
    assert b"abcd" == carry(_recv, one, socket.MSG_WAITALL).unwrap()


def test_recv_peeks(carry: Carry, pair: Pair) -> None:
    """Bytes that were peeked at can still be received."""
    one, other = pair()
    other.sendall(b"ab")
    assert b"ab" == carry(_recv, one, socket.MSG_PEEK).unwrap()
    assert b"ab" == carry(_recv, one, 0).unwrap()


def test_recv_peeks_at_each_byte_once(carry: Carry, pair: Pair) -> None:
    """Also with MSG_WAITALL, and fewer bytes than were asked for."""
    one, other = pair()
    other.sendall(b"abcd")
    other.close()
    assert b"abcd" == carry(_recv, one, socket.MSG_PEEK | socket.MSG_WAITALL).unwrap()
    assert b"abcd" == one.recv(100)


def test_recv_without_waiting_says_that_there_is_nothing(carry: Carry, pair: Pair) -> None:
    """With MSG_DONTWAIT, which the program itself has set, the result is EAGAIN."""
    assert errno.EAGAIN == carry(_recv, pair()[0], socket.MSG_DONTWAIT).errno


def test_recv_takes_one_datagram(carry: Carry, pair: Pair) -> None:
    """Empty datagrams and MSG_WAITALL are no exception; bytes that do not fit are lost."""
    one, other = pair(socket.SOCK_DGRAM)
    for data in (b"first", b"", b"0123456789abc", b"last"):
        other.send(data)
    assert b"first" == carry(_recv, one, socket.MSG_WAITALL).unwrap()
    assert b"" == carry(_recv, one, 0).unwrap()
    assert b"0123456789" == carry(_recv, one, 0).unwrap()
    assert b"last" == carry(_recv, one, socket.MSG_WAITALL).unwrap()


def test_recv_says_that_the_peer_has_gone(carry: Carry, listener: socket.socket) -> None:
    """A hard close of the peer gives ECONNRESET."""
    with socket.create_connection(listener.getsockname()) as sock:
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        assert errno.ECONNRESET == carry(_recv, sock, 0).errno


@pytest.mark.parametrize("blocking", [True, False])
def test_sends_are_whole(carry: Carry, pair: Pair, peers: Peers, blocking: bool) -> None:
    """A send of more than fits waits until the peer has taken all of it, piece by piece."""
    one, other = pair()
    one.setblocking(blocking)
    data, drained = os.urandom(2_000_000), bytearray()
    peers.call(_drain, other, drained)
    assert len(data) == carry(_send, one, data).unwrap()
    one.close()
    peers.join()
    assert data == drained


def test_send_without_waiting_sends_what_fits(carry: Carry, pair: Pair) -> None:
    """With MSG_DONTWAIT, send sends a part, and gives EAGAIN when nothing fits."""
    one, _ = pair()
    sent = carry(_send, one, bytes(10_000_000), socket.MSG_DONTWAIT).unwrap()
    assert 0 < sent < 10_000_000
    while (result := carry(_send, one, bytes(100_000), socket.MSG_DONTWAIT)).ok:
        pass
    assert errno.EAGAIN == result.errno


def test_send_to_a_closed_socket_is_an_error_and_no_signal(carry: Carry, pair: Pair) -> None:
    """A closed peer gives EPIPE, and an unconnected socket ENOTCONN."""
    one, other = pair()
    other.close()
    assert errno.EPIPE == carry(_send, one, b"x").errno
    assert errno.EPIPE == carry(_send_message, one, b"x", b"y").errno
    with socket.socket(socket.AF_UNIX) as unconnected:
        assert errno.ENOTCONN == carry(_send, unconnected, b"x").errno


def test_send_says_that_a_datagram_is_too_long(
    carry: Carry, datagrams: tuple[socket.socket, socket.socket]
) -> None:
    """A datagram that is too long gives EMSGSIZE."""
    one, other = datagrams
    one.connect(other.getsockname())
    assert errno.EMSGSIZE == carry(_send, one, bytes(70_000)).errno


def test_shutdown_ends_one_direction(carry: Carry, pair: Pair) -> None:
    """The peer sees the end, and can still answer."""
    one, other = pair()
    assert carry(_shutdown, one, socket.SHUT_WR).ok
    assert b"" == other.recv(10)
    other.send(b"x")
    assert b"x" == one.recv(10)


def test_shutdown_says_why_it_cannot(carry: Carry, pipe: tuple[int, int], pair: Pair) -> None:
    """A pipe gives ENOTSOCK, an unknown direction EINVAL, an unconnected socket ENOTCONN."""
    assert errno.ENOTSOCK == carry(_shutdown, pipe[0], socket.SHUT_WR).errno
    assert errno.EINVAL == carry(_shutdown, pair()[0], 17).errno
    with socket.socket() as unconnected:
        assert errno.ENOTCONN == carry(_shutdown, unconnected, socket.SHUT_WR).errno


def test_recvmsg_fills_one_buffer_after_another(carry: Carry, pair: Pair) -> None:
    """Without ancillary data and a named sender, both are reported as empty."""
    one, other = pair()
    other.sendall(b"abcdef")
    n, first, second, n_control, flags, _, sender = carry(_recv_message, one).unwrap()
    assert (6, b"abcd", b"ef\0\0\0\0", 0, 0) == (n, first, second, n_control, flags)
    assert sender in ("", None)


def test_recvmsg_tells_the_sender_of_a_datagram_and_that_it_was_cut(
    carry: Carry, datagrams: tuple[socket.socket, socket.socket]
) -> None:
    """recvmsg gives the sender's address, and MSG_TRUNC if the datagram did not fit."""
    one, other = datagrams
    other.sendto(b"0123456789abc", one.getsockname())
    n, first, second, _, flags, _, sender = carry(_recv_message, one).unwrap()
    assert (10, b"0123", b"456789") == (n, first, second)
    assert socket.MSG_TRUNC == flags & socket.MSG_TRUNC
    assert other.getsockname() == sender


def test_recvmsg_keeps_what_came_before_the_peers_end(
    carry: Carry, pair: Pair, peers: Peers
) -> None:
    """With MSG_WAITALL over several buffers, no byte before the end is lost."""
    one, other = pair()

    def feed() -> None:
        for piece in (b"01", b"2345", b"6"):
            other.send(piece)
        other.close()

    peers.call(feed)
    n, first, second, *_ = carry(_recv_message, one, socket.MSG_WAITALL).unwrap()
    assert (7, b"0123", b"456\0\0\0") == (n, first, second)


def _received(control: bytes, n_bytes: int) -> list[int]:
    """Return the descriptors in ancillary data, as the kernel writes it."""
    length, level, kind = _RIGHTS_HEADER.unpack_from(control)
    assert (socket.SOL_SOCKET, socket.SCM_RIGHTS) == (level, kind)
    assert length <= n_bytes
    return list(array.array("i", control[_RIGHTS_HEADER.size : length]))


def test_recvmsg_takes_descriptors(carry: Carry, pair: Pair, pipe: tuple[int, int]) -> None:
    """SCM_RIGHTS is in the control buffer, and is as long as `control_length` says."""
    one, other = pair()
    socket.send_fds(other, [b"ab"], [pipe[1]])
    n, first, _, n_control, _, control, _ = carry(_recv_message, one).unwrap()
    assert (2, b"ab\0\0") == (n, first)
    (fd,) = _received(control, n_control)
    os.write(fd, b"through")
    os.close(fd)
    assert b"through" == os.read(pipe[0], 100)


def test_recvmsg_keeps_descriptors_while_it_waits_for_more_bytes(
    carry: Carry, pair: Pair, pipe: tuple[int, int], peers: Peers
) -> None:
    """With MSG_WAITALL, descriptors that came with the first bytes are in the result."""
    one, other = pair()
    socket.send_fds(other, [b"ab"], [pipe[1]])
    peers.call(other.sendall, b"cdefghij")
    n, first, _, n_control, _, control, _ = carry(_recv_message, one, socket.MSG_WAITALL).unwrap()
    peers.join()
    (fd,) = _received(control, n_control)
    os.close(fd)
    assert first == b"abcd"[:n] + bytes(4 - len(b"abcd"[:n]))


def test_sendmsg_sends_one_piece_after_another(carry: Carry, pair: Pair, peers: Peers) -> None:
    """All bytes are sent, however few the socket takes at once."""
    one, other = pair()
    first, second, drained = os.urandom(500_001), os.urandom(700_003), bytearray()
    peers.call(_drain, other, drained)
    assert 1_200_004 == carry(_send_message, one, first, second).unwrap()
    one.close()
    peers.join()
    assert first + second == drained


def test_sendmsg_sends_descriptors_once(
    carry: Carry, pair: Pair, pipe: tuple[int, int], peers: Peers
) -> None:
    """Descriptors are sent once, though the bytes go in many pieces."""
    one, other = pair()
    rights = array.array("i", [pipe[1]]).tobytes()
    length = _RIGHTS_HEADER.size + len(rights)
    control = _RIGHTS_HEADER.pack(length, socket.SOL_SOCKET, socket.SCM_RIGHTS) + rights
    control += bytes(socket.CMSG_SPACE(len(rights)) - length)
    data, drained, received = os.urandom(1_000_000), bytearray(), []

    def drain() -> None:
        while len(drained) < len(data):
            piece, fds, _, _ = socket.recv_fds(other, 100_000, 10)
            drained.extend(piece)
            received.extend(fds)

    peers.call(drain)
    assert len(data) == carry(_send_with_control, one, data, control).unwrap()
    peers.join()
    for fd in received:
        os.close(fd)
    assert data == drained
    assert 1 == len(received)


def test_sendmsg_takes_an_address(
    carry: Carry, datagrams: tuple[socket.socket, socket.socket]
) -> None:
    """A socket that is not connected sends to the address."""
    one, other = datagrams
    assert 2 == carry(_send_to, one, b"ab", other.getsockname()).unwrap()
    assert (b"ab", one.getsockname()) == other.recvfrom(100)


def test_messages_need_sockets(carry: Carry, pipe: tuple[int, int]) -> None:
    """A pipe gives ENOTSOCK, and a closed descriptor EBADF."""
    assert errno.ENOTSOCK == carry(_recv_message, pipe[0]).errno
    assert errno.ENOTSOCK == carry(_send_message, pipe[1], b"x", b"y").errno
    assert errno.ENOTSOCK == carry(_recv, pipe[0], 0).errno
    assert errno.ENOTSOCK == carry(_send, pipe[1], b"x").errno
    assert errno.EBADF == carry(_recv_message, 1_000_000).errno
    assert errno.EBADF == carry(_recv, 1_000_000, 0).errno


def test_a_closed_socket_is_no_descriptor(carry: Carry) -> None:
    """An object whose fileno() is -1 gives EBADF, not misuse."""
    sock: Any = socket.socket()
    sock.close()
    assert errno.EBADF == carry(_recv, sock, 0).errno
