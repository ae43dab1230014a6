"""Who the client is when proxies are in front: X-Forwarded-For and -Proto, or Forwarded (RFC 7239).

Only what trusted proxies have added is believed. Each proxy adds the address that it was reached from at
the end of the list, so it is read from the end: the first address that is no trusted proxy's is the
client, and everything before it is only what the client says.

Many proxies set the X-Forwarded headers and pass a client's own Forwarded on. So Forwarded is believed only
where there is no X-Forwarded header at all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Lower-case names of the headers that proxies set.
FORWARDING_HEADERS = (b"x-forwarded-for", b"x-forwarded-proto", b"forwarded")

_CACHED_MAX = 4096
_SCHEMES = frozenset({"http", "https", "ws", "wss"})


class Client(NamedTuple):
    """Who a request came from: host and port, or None for a client of a Unix socket; the scheme."""

    address: tuple[str, int] | None
    scheme: str


class TrustedProxies:
    """The addresses and networks whose forwarding headers are believed.

    `text` lists them, separated by commas: addresses, networks such as 10.0.0.0/8, "unix" for clients of
    a Unix socket, and "*" for all, where no client can reach the server but through a proxy.

    Raises:
        ValueError: an entry is none of these.
    """

    def __init__(self, text: str) -> None:
        self._trusts_all = False
        self._trusts_unix = False
        self._addresses: set[_Address] = set()
        self._networks: list[_Network] = []
        # There are few proxies, and each client has many requests.
        self.trusts = lru_cache(maxsize=_CACHED_MAX)(self._trusts)
        for entry in filter(None, map(str.strip, text.split(","))):
            if entry == "*":
                self._trusts_all = True
            elif entry == "unix":
                self._trusts_unix = True
            else:
                self._add(entry)

    def _add(self, entry: str) -> None:
        try:
            network = ipaddress.ip_network(entry)
        except ValueError as error:
            raise ValueError(f"{entry!r} is neither an address nor a network ({error})") from None
        if network.prefixlen == network.max_prefixlen:
            self._addresses.add(network.network_address)
        else:
            self._networks.append(network)

    def trusts_peer(self, peer: tuple[str, int] | None) -> bool:
        """Return whether a connection's other end is a trusted proxy."""
        if self._trusts_all:
            return True
        return self._trusts_unix if peer is None else self.trusts(peer[0])

    def _trusts(self, host: str) -> bool:
        """Return whether an address is a trusted proxy's; names and pseudonyms are none."""
        if self._trusts_all:
            return True
        try:
            address: _Address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        # The test of a network's version is within `in`.
        return address in self._addresses or any(address in it for it in self._networks)


def find_client(
    peer: tuple[str, int] | None,
    scheme: str,
    headers: Iterable[tuple[bytes, bytes]],
    trusted: TrustedProxies,
) -> Client:
    """Return who has sent a request that came from `peer`, and by which scheme.

    `headers` have lower-case names. What is malformed is not believed at all: then the client is `peer`.
    """
    here = Client(peer, scheme)
    if not trusted.trusts_peer(peer):
        return here
    fors: list[str] = []
    protos: list[str] = []
    forwarded: list[str] = []
    is_x_forwarded = False
    for name, value in headers:
        if name == b"x-forwarded-for":
            is_x_forwarded = True
            fors += _listed(value)
        elif name == b"x-forwarded-proto":
            is_x_forwarded = True
            protos += _listed(value)
        elif name == b"forwarded":
            forwarded.append(value.decode("latin-1"))
    if is_x_forwarded:
        return _from_x_forwarded(here, fors, protos, trusted)
    if forwarded:
        return _from_forwarded(here, ",".join(forwarded), trusted)
    return here


def _listed(value: bytes) -> list[str]:
    return [it.strip() for it in value.decode("latin-1").split(",")]


def _from_x_forwarded(
    here: Client, fors: Sequence[str], protos: Sequence[str], trusted: TrustedProxies
) -> Client:
    nodes = [_node(it) for it in fors]
    if None in nodes:
        return here
    known = [it for it in nodes if it is not None]
    index = _client_index(known, trusted)
    address = here.address if index is None else known[index]
    if not protos:
        return Client(address, here.scheme)
    # One for each hop, or what the last proxy says.
    is_for_each = index is not None and len(protos) == len(known)
    proto = protos[index if is_for_each and index is not None else -1]
    return Client(address, _scheme(here.scheme, proto))


def _client_index(nodes: Sequence[tuple[str, int]], trusted: TrustedProxies) -> int | None:
    """Return which node is the client: the last that is not trusted, or else the first."""
    for index in range(len(nodes) - 1, -1, -1):
        if not trusted.trusts(nodes[index][0]):
            return index
    return 0 if nodes else None


def _scheme(scheme: str, proto: str) -> str:
    """Return the scheme that a proxy says; a websocket's stays one."""
    proto = proto.lower()
    if proto not in _SCHEMES:
        return scheme
    if scheme in ("ws", "wss"):
        return "wss" if proto in ("https", "wss") else "ws"
    return proto


# -- Forwarded (RFC 7239) --------------------------------------------------------------------------

_PAIR = re.compile(
    r"""[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)=
    (?:(?P<token>[!#$%&'*+.^_`|~0-9A-Za-z-]+)|"(?P<quoted>(?:[^"\\]|\\.)*)")[ \t]*""",
    re.VERBOSE,
)


def _from_forwarded(here: Client, text: str, trusted: TrustedProxies) -> Client:
    elements = _elements(text)
    if elements is None:
        return here
    nodes: list[tuple[str, int]] = []
    protos: list[str | None] = []
    for element in elements:
        # A hop that says nothing of its client is one that nobody knows.
        node = _node(element.get("for", "unknown"))
        if node is None:
            return here
        nodes.append(node)
        protos.append(element.get("proto"))
    index = _client_index(nodes, trusted)
    if index is None:
        return here
    proto = protos[index]
    return Client(nodes[index], here.scheme if proto is None else _scheme(here.scheme, proto))


def _elements(text: str) -> list[dict[str, str]] | None:
    """Return the elements of a Forwarded header, with lower-case names; None if it is malformed."""
    elements: list[dict[str, str]] = []
    element: dict[str, str] = {}
    at = 0
    while (pair := _PAIR.match(text, at)) is not None:
        name, token, quoted = pair["name"].lower(), pair["token"], pair["quoted"]
        if name in element:
            return None
        element[name] = re.sub(r"\\(.)", r"\1", quoted) if token is None else token
        at = pair.end()
        if at == len(text):
            return [*elements, element]
        if text[at] == ",":
            elements.append(element)
            element = {}
        elif text[at] != ";":
            return None
        at += 1
    return None


# -- addresses -------------------------------------------------------------------------------------

_NODE = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z._-]+))(?::(?P<port>[0-9A-Za-z._-]+))?"
)


@lru_cache(maxsize=_CACHED_MAX)
def _node(text: str) -> tuple[str, int] | None:
    """Return host and port of an entry, port 0 if there is none; None if it is malformed.

    A host may also be "unknown", or a pseudonym that begins with an underscore (RFC 7239).
    """
    try:
        # Without brackets, an IPv6 address has no port.
        return str(ipaddress.ip_address(text)), 0
    except ValueError:
        found = _NODE.fullmatch(text)
    if found is None:
        return None
    host, port = found["v6"] or found["name"], found["port"] or "0"
    if not (host == "unknown" or host.startswith("_")) or found["v6"] is not None:
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            return None
    # A pseudonym of a port says nothing.
    if not port.isdecimal():
        return (host, 0) if port.startswith("_") else None
    return (host, int(port)) if int(port) <= 65535 else None


class BehindProxies:
    """An ASGI application whose scopes have the client and the scheme that a trusted proxy names."""

    def __init__(self, app: Any, forwarded_allow_ips: str) -> None:
        self._app = app
        self._trusted = TrustedProxies(forwarded_allow_ips)

    def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> Any:
        if "client" in scope:
            is_websocket = scope["type"] == "websocket"
            client = find_client(scope["client"], scope["scheme"], scope["headers"], self._trusted)
            scope["client"] = client.address
            scope["scheme"] = _WEBSOCKET_SCHEMES[client.scheme] if is_websocket else client.scheme
        return self._app(scope, receive, send)


class WsgiBehindProxies:
    """The same for a WSGI application."""

    def __init__(self, app: Any, forwarded_allow_ips: str) -> None:
        self._app = app
        self._trusted = TrustedProxies(forwarded_allow_ips)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        address = environ.get("REMOTE_ADDR")
        peer = None if address is None else (address, int(environ["REMOTE_PORT"]))
        headers = [
            (name, environ[key].encode("latin-1"))
            for name in FORWARDING_HEADERS
            if (key := "HTTP_" + name.decode().upper().replace("-", "_")) in environ
        ]
        client = find_client(peer, environ["wsgi.url_scheme"], headers, self._trusted)
        if client.address is not None:
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = (str(it) for it in client.address)
        environ["wsgi.url_scheme"] = client.scheme
        return self._app(environ, start_response)


_WEBSOCKET_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
