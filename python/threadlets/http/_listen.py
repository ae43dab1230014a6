"""Binds the listening sockets, so that every refusal is explained before the application starts.

They listen from then on: connections wait in their backlogs until a server accepts. Knows nothing of
event loops.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress

from threadlets._user_error import STATUS_ENVIRONMENT, UserError
from threadlets.http._config import Config

_BACKLOG = 2048
_UDS_PERMISSIONS = 0o666


def bind(config: Config, n_slots: int = 1) -> list[list[socket.socket]]:
    """Bind what `config` names, and return the listening sockets of each of `n_slots` processes.

    On TCP each process gets sockets of its own, among which the kernel spreads the connections
    (SO_REUSEPORT). A Unix socket, or one that was inherited, is shared by all.
    """
    if config.fd is not None:
        shared = [adopt(config.fd, config.backlog)]
    elif config.uds is not None:
        shared = [bind_uds(config.uds, config.backlog)]
    elif n_slots == 1:
        return [bind_tcp(config.host, config.port, config.backlog)]
    else:
        return _bind_groups(config.host, config.port, config.backlog, n_slots)
    return [shared] * n_slots


def bind_metrics(config: Config) -> list[socket.socket]:
    """Bind the port of the metrics, if they have one of their own."""
    if not (config.metrics or "").startswith(":"):
        return []
    assert config.metrics is not None
    try:
        return bind_tcp(config.host, int(config.metrics[1:]))
    except UserError as error:
        error.remedy = "choose another port with --metrics, or end what listens there"
        raise


def adopt(fd: int, backlog: int = _BACKLOG) -> socket.socket:
    """Make a listening socket of a descriptor that was inherited."""

    def refused(cause: str) -> UserError:
        return UserError(
            fact=f"cannot listen on descriptor {fd}",
            cause=cause,
            remedy="pass a bound stream socket to the process, or leave out --fd",
        )

    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        raise refused("it is not open in this process") from None
    if not is_socket:
        raise refused("it is no socket")
    listener = socket.socket(fileno=fd)
    is_usable = listener.type == socket.SOCK_STREAM and listener.family in (
        socket.AF_INET,
        socket.AF_INET6,
        socket.AF_UNIX,
    )
    if not is_usable:
        listener.detach()
        raise refused("it is a socket of another kind than TCP's or a Unix stream's")
    try:
        # Without a call to bind, the kernel would choose a port that nobody knows.
        if not _is_bound(listener):
            raise OSError(errno.EINVAL, "it is not bound to an address")
        listener.listen(backlog)
    except OSError as error:
        listener.detach()
        raise refused(error.strerror or str(error)) from None
    listener.set_inheritable(False)
    return listener


def bind_tcp(
    host: str, port: int, backlog: int = _BACKLOG, *, is_shared: bool = False
) -> list[socket.socket]:
    """Bind one socket for each address of `host`; port 0 takes a free one on the first address.

    With `is_shared`, other processes of this user may listen there as well.
    """
    return _bind_addresses(host, port, backlog, is_shared=is_shared)


def _bind_groups(host: str, port: int, backlog: int, n_slots: int) -> list[list[socket.socket]]:
    # A socket that does not share its port finds out whether somebody else has it: another server
    # with SO_REUSEPORT would be joined otherwise, and get a part of the connections.
    probes = bind_tcp(host, port, 1)
    port = probes[0].getsockname()[1]
    _close_all(probes)
    groups: list[list[socket.socket]] = []
    try:
        for _ in range(n_slots):
            groups.append(_bind_addresses(host, port, backlog, is_shared=True))
    except UserError:
        for group in groups:
            _close_all(group)
        raise
    return groups


def _bind_addresses(host: str, port: int, backlog: int, *, is_shared: bool) -> list[socket.socket]:
    bound: list[socket.socket] = []
    refusal: OSError | None = None
    for family, address in _addresses(host, port):
        try:
            bound.append(_bind_address(family, address, backlog, is_shared=is_shared))
        except OSError as error:
            # A name such as localhost may have an IPv6 address on a machine without IPv6.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                _close_all(bound)
                raise explain_tcp_refusal(error, host, port) from None
            refusal = error
        if bound and port == 0:
            break
    if not bound:
        assert refusal is not None, "getaddrinfo returns at least one address or raises"
        raise explain_tcp_refusal(refusal, host, port)
    return bound


def bind_uds(path: str, backlog: int = _BACKLOG) -> socket.socket:
    """Bind a Unix socket; a socket file without a server is replaced."""
    _remove_stale_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, _UDS_PERMISSIONS)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise explain_uds_refusal(error, path) from None
    return listener


def explain_tcp_refusal(error: OSError, host: str, port: int) -> UserError:
    """Turn the errno of a refused bind into fact, cause and remedy."""
    where = f"{_format_host(host)}:{port}"
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    match error.errno:
        case errno.EADDRINUSE:
            cause = f"the port is taken by another process ({name})"
            remedy = f"stop it (`ss -ltnp 'sport = :{port}'` names it), or choose another --port"
        case errno.EACCES | errno.EPERM:
            cause = f"ports below 1024 are for privileged processes ({name})"
            remedy = "choose --port 8000, say, or grant CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            cause = f"this machine has no such address ({name})"
            remedy = "use --host 127.0.0.1 for this machine only, or --host 0.0.0.0 for all"
        case _:
            cause = f"{error.strerror or error} ({name})"
            remedy = "check --host and --port"
    return UserError(fact=f"cannot listen on {where}", cause=cause, remedy=remedy)


def explain_uds_refusal(error: OSError, path: str) -> UserError:
    """Turn the errno of a refused Unix-socket bind into fact, cause and remedy."""
    folder = os.path.dirname(os.path.abspath(path))
    match error.errno:
        case errno.ENOENT:
            cause, remedy = f"there is no folder {folder}", f"mkdir -p {folder}"
        case errno.ENOTDIR:
            cause, remedy = f"{folder} is not a folder", "choose another --uds path"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            cause = f"the folder {folder} may not be written to by this user"
            remedy = "choose a --uds path in a folder of yours, /tmp say"
        case errno.EADDRINUSE:
            cause = "another server listens there"
            remedy = "stop it, or choose another --uds path"
        case _ if "too long" in str(error):
            cause = f"the path has {len(os.fsencode(path))} bytes, the system allows 107"
            remedy = "choose a shorter --uds path"
        case _:
            cause, remedy = str(error.strerror or error), "choose another --uds path"
    return UserError(fact=f"cannot listen on '{path}'", cause=cause, remedy=remedy)


def describe(listener: socket.socket, *, is_tls: bool = False) -> str:
    """Return the address as a user would type it: a URL, or the path of a Unix socket."""
    address = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        # A name that begins with NUL is in no folder; such names are written with an @.
        return f"unix:{os.fsdecode(address).replace(chr(0), '@')}"
    scheme = "https" if is_tls else "http"
    return f"{scheme}://{_format_host(address[0])}:{address[1]}"


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(
            fact=f"cannot listen on the host '{host}'",
            cause=f"the name is not known here ({error})",
            remedy="use --host 127.0.0.1 for this machine only, or --host 0.0.0.0 for all",
            status=STATUS_ENVIRONMENT,
        ) from None
    # IPv4 first: port 0 is bound on the first address only, and most clients try IPv4.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return list(dict.fromkeys((entry[0], entry[4]) for entry in found))


def _bind_address(
    family: socket.AddressFamily, address: tuple[object, ...], backlog: int, *, is_shared: bool
) -> socket.socket:
    # Name the protocol: event loops set TCP_NODELAY only on sockets that say they are TCP, and a
    # response in two writes would wait 40 ms for a delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # Otherwise `::` also takes the port of IPv4, and a second address is refused.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        # Two servers may both bind with SO_REUSEADDR; only one may listen, so find out now.
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale_socket(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        # The file is absent or cannot be reached; bind reports why.
        return
    if not stat.S_ISSOCK(mode):
        raise UserError(
            fact=f"cannot listen on '{path}'",
            cause="a file that is no socket has this name",
            remedy="choose another --uds path, or remove the file",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(OSError):
                os.unlink(path)
        except OSError as error:
            raise explain_uds_refusal(error, path) from None
        else:
            taken = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
            raise explain_uds_refusal(taken, path)


def _is_bound(listener: socket.socket) -> bool:
    name = listener.getsockname()
    return bool(name) if listener.family == socket.AF_UNIX else name[1] != 0


def _close_all(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()


def _format_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
