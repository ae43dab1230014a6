"""Atoms for sockets."""

from __future__ import annotations

from collections.abc import Sequence
from socket import SOCK_CLOEXEC

from threadlets._syslets.atom import Atom
from threadlets._syslets.operands import (
    Fd,
    Number,
    SizeOrTarget,
    SocketAddress,
    Source,
    Target,
    check_constant,
    make_atom,
)
from threadlets._syslets.symbols import Address, Buffer, Parameter


def socket(domain: Number, type: int, protocol: Number = 0) -> Atom:  # noqa: A002 - its name
    """Make a socket; the value is its descriptor, which is closed when the run ends; see socket(2).

    `type` must be constant; SOCK_CLOEXEC is added.

    Errors: EACCES, EAFNOSUPPORT, EINVAL, EMFILE, EPROTONOSUPPORT.
    """
    return make_atom("socket", domain, check_constant(type, "type") | SOCK_CLOEXEC, protocol)


def connect(fd: Fd, address: SocketAddress) -> Atom:
    """Connect a socket to an address in Python's form, with a numeric host; see connect(2).

    Errors: ECONNREFUSED, EADDRNOTAVAIL, EHOSTUNREACH, EISCONN, ENETUNREACH, ENOENT, ETIMEDOUT.
    """
    return make_atom("connect", fd, address)


def accept(fd: Fd, flags: int = 0, address: Address | None = None) -> Atom:
    """Accept a connection; the value is its descriptor, which is closed when the run ends.

    `address` is filled with the peer's address. `flags` must be constant; SOCK_CLOEXEC is added. See
    accept4(2).

    Errors: EAGAIN, EBADF, ECONNABORTED, EINVAL, EMFILE, ENOTSOCK.
    """
    return make_atom("accept", fd, check_constant(flags, "flags") | SOCK_CLOEXEC, address)


def recv(fd: Fd, buffer: SizeOrTarget, flags: Number = 0) -> Atom:
    """Receive as much as has arrived and fits; see recv(2).

    If `buffer` is a size in bytes, the value is the bytes that were received, b"" at the stream's
    end. If it is memory, the value is the number of bytes that were received into it, 0 at the end.

    Errors: EAGAIN, EBADF, ECONNRESET, ENOTCONN, ENOTSOCK.
    """
    return make_atom("recv", fd, buffer, flags)


def send(fd: Fd, data: Source, flags: Number = 0) -> Atom:
    """Send `data`; the value is the number of bytes that the kernel took; see send(2).

    Errors: EAGAIN, EBADF, ECONNRESET, EMSGSIZE, ENOTCONN, ENOTSOCK, EPIPE.
    """
    return make_atom("send", fd, data, flags)


def shutdown(fd: Fd, how: Number) -> Atom:
    """End receiving (SHUT_RD), sending (SHUT_WR) or both on a connection; see shutdown(2).

    Errors: EBADF, EINVAL, ENOTCONN, ENOTSOCK.
    """
    return make_atom("shutdown", fd, how)


def recvmsg(
    fd: Fd,
    buffers: Target | Sequence[Target],
    flags: Number = 0,
    control: Buffer | Parameter | None = None,
    address: Address | None = None,
) -> Atom:
    """Receive a message into several buffers, one after another; the value is the number of bytes.

    The value has fields: `message.control_length`, the number of bytes of `control` that were filled
    with ancillary data, and `message.flags`. `address` is filled with the sender's. See recvmsg(2).

    Errors: EAGAIN, EBADF, ECONNRESET, ENOTCONN, ENOTSOCK.
    """
    return make_atom("recvmsg", fd, buffers, flags, control, address)


def sendmsg(
    fd: Fd,
    buffers: Source | Sequence[Source],
    flags: Number = 0,
    control: bytes | Buffer | Parameter | None = None,
    address: SocketAddress | None = None,
) -> Atom:
    """Send several pieces of memory as one message; the value is the number of bytes taken.

    `control` is ancillary data in the kernel's form. See sendmsg(2).

    Errors: EAGAIN, EBADF, ECONNRESET, EMSGSIZE, ENOTCONN, ENOTSOCK, EPIPE.
    """
    return make_atom("sendmsg", fd, buffers, flags, control, address)
