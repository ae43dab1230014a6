"""Who the client is behind proxies: X-Forwarded-For, X-Forwarded-Proto and Forwarded (RFC 7239)."""

from __future__ import annotations

import pytest
from threadlets.http._proxy import TrustedProxies, find_client

_PEER = ("127.0.0.1", 4711)
_XFF, _XFP, _FWD = "x-forwarded-for", "x-forwarded-proto", "forwarded"

Headers = list[tuple[str, str]]


def _found(
    headers: Headers,
    trusted: str = "127.0.0.1",
    peer: tuple[str, int] | None = _PEER,
    scheme: str = "http",
) -> tuple[object, str]:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return tuple(find_client(peer, scheme, raw, TrustedProxies(trusted)))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("headers", "trusted", "client", "scheme"),
    [
        # Nothing is said.
        ([], "127.0.0.1", _PEER, "http"),
        ([("host", "a")], "*", _PEER, "http"),
        # One proxy.
        ([(_XFF, "192.0.2.7")], "127.0.0.1", ("192.0.2.7", 0), "http"),
        ([(_XFF, "192.0.2.7:99")], "127.0.0.1", ("192.0.2.7", 99), "http"),
        ([(_XFF, "2001:db8::7")], "127.0.0.1", ("2001:db8::7", 0), "http"),
        ([(_XFF, "[2001:db8::7]")], "127.0.0.1", ("2001:db8::7", 0), "http"),
        ([(_XFF, "[2001:db8::7]:99")], "127.0.0.1", ("2001:db8::7", 99), "http"),
        ([(_XFF, "192.0.2.7"), (_XFP, "https")], "127.0.0.1", ("192.0.2.7", 0), "https"),
        ([(_XFP, "HTTPS")], "127.0.0.1", _PEER, "https"),
        # The peer is not trusted: anybody can say anything.
        ([(_XFF, "192.0.2.7"), (_XFP, "https")], "10.0.0.1", _PEER, "http"),
        ([(_FWD, "for=192.0.2.7;proto=https")], "10.0.0.1", _PEER, "http"),
        ([(_XFF, "192.0.2.7")], "", _PEER, "http"),
        # What a client says comes before what the proxy adds.
        ([(_XFF, "203.0.113.1, 192.0.2.7")], "127.0.0.1", ("192.0.2.7", 0), "http"),
        ([(_XFF, "203.0.113.1"), (_XFF, "192.0.2.7")], "127.0.0.1", ("192.0.2.7", 0), "http"),
        ([(_XFF, "127.0.0.1, 192.0.2.7")], "127.0.0.1", ("192.0.2.7", 0), "http"),
        # Several proxies, in networks.
        ([(_XFF, "192.0.2.7,10.1.2.3")], "127.0.0.1,10.0.0.0/8", ("192.0.2.7", 0), "http"),
        ([(_XFF, "192.0.2.7,11.1.2.3")], "127.0.0.1,10.0.0.0/8", ("11.1.2.3", 0), "http"),
        ([(_XFF, "192.0.2.7,::ffff:10.1.2.3")], "127.0.0.0/8,10.0.0.0/8", ("192.0.2.7", 0), "http"),
        ([(_XFF, "192.0.2.7,fd00::3")], "127.0.0.1, fd00::/8", ("192.0.2.7", 0), "http"),
        # Only proxies: the first of them is the client.
        ([(_XFF, "10.0.0.2,10.0.0.3")], "127.0.0.1,10.0.0.0/8", ("10.0.0.2", 0), "http"),
        ([(_XFF, "203.0.113.1,192.0.2.7")], "*", ("203.0.113.1", 0), "http"),
        # The scheme of the hop that is the client's, or else of the last proxy.
        (
            [(_XFF, "192.0.2.7,10.0.0.3"), (_XFP, "https,http")],
            "127.0.0.1,10.0.0.0/8",
            ("192.0.2.7", 0),
            "https",
        ),
        ([(_XFF, "192.0.2.7"), (_XFP, "https,http")], "127.0.0.1", ("192.0.2.7", 0), "http"),
        ([(_XFP, "gopher")], "127.0.0.1", _PEER, "http"),
        # Malformed: nothing of it is believed.
        ([(_XFF, "")], "127.0.0.1", _PEER, "http"),
        ([(_XFF, "not an address"), (_XFP, "https")], "127.0.0.1", _PEER, "http"),
        ([(_XFF, "192.0.2.7,")], "127.0.0.1", _PEER, "http"),
        ([(_XFF, "192.0.2.7:http")], "127.0.0.1", _PEER, "http"),
        ([(_XFF, "192.0.2.7:99999")], "127.0.0.1", _PEER, "http"),
        ([(_XFF, "192.0.2.777")], "127.0.0.1", _PEER, "http"),
        ([(_XFF, "localhost")], "127.0.0.1", _PEER, "http"),
        # A client that its proxy does not want to name.
        ([(_XFF, "unknown")], "127.0.0.1", ("unknown", 0), "http"),
        # Forwarded.
        ([(_FWD, "for=192.0.2.7")], "127.0.0.1", ("192.0.2.7", 0), "http"),
        ([(_FWD, "For=192.0.2.7; Proto=HTTPS;by=1.1.1.1")], "127.0.0.1", ("192.0.2.7", 0), "https"),
        ([(_FWD, 'for="[2001:db8::7]:99"')], "127.0.0.1", ("2001:db8::7", 99), "http"),
        ([(_FWD, 'for="192.0.2.7:_hidden"')], "127.0.0.1", ("192.0.2.7", 0), "http"),
        ([(_FWD, "for=_gazonk")], "127.0.0.1", ("_gazonk", 0), "http"),
        ([(_FWD, 'for="\\192.0.2.7"')], "127.0.0.1", ("192.0.2.7", 0), "http"),
        (
            [(_FWD, "for=203.0.113.1;proto=https, for=192.0.2.7")],
            "127.0.0.1",
            ("192.0.2.7", 0),
            "http",
        ),
        (
            [(_FWD, "for=192.0.2.7;proto=https"), (_FWD, "for=10.0.0.3;proto=http")],
            "127.0.0.1,10.0.0.0/8",
            ("192.0.2.7", 0),
            "https",
        ),
        ([(_FWD, "proto=https")], "127.0.0.1", ("unknown", 0), "https"),
        ([(_FWD, "for=192.0.2.7;for=1.1.1.1")], "127.0.0.1", _PEER, "http"),
        ([(_FWD, "for=192.0.2.7;")], "127.0.0.1", _PEER, "http"),
        ([(_FWD, 'for="192.0.2.7')], "127.0.0.1", _PEER, "http"),
        ([(_FWD, "for=2001:db8::7")], "127.0.0.1", _PEER, "http"),
        ([(_FWD, "192.0.2.7")], "127.0.0.1", _PEER, "http"),
        ([(_FWD, "")], "127.0.0.1", _PEER, "http"),
        # Most proxies pass a client's own Forwarded on.
        ([(_FWD, "for=203.0.113.1"), (_XFF, "192.0.2.7")], "127.0.0.1", ("192.0.2.7", 0), "http"),
        ([(_FWD, "for=203.0.113.1"), (_XFP, "https")], "127.0.0.1", _PEER, "https"),
    ],
)
def test_only_what_trusted_proxies_add_is_believed(
    headers: Headers, trusted: str, client: tuple[str, int], scheme: str
) -> None:
    """The client is the last hop that is no trusted proxy's."""
    assert (client, scheme) == _found(headers, trusted)


@pytest.mark.parametrize(
    ("scheme", "proto", "expected"),
    [("ws", "https", "wss"), ("ws", "wss", "wss"), ("wss", "http", "ws"), ("ws", "gopher", "ws")],
)
def test_a_websocket_keeps_the_kind_of_its_scheme(scheme: str, proto: str, expected: str) -> None:
    """A proxy speaks of HTTP only."""
    assert (_PEER, expected) == _found([(_XFP, proto)], scheme=scheme)


def test_clients_of_a_unix_socket_are_trusted_by_name() -> None:
    """They have no address that could be in a list."""
    headers = [(_XFF, "192.0.2.7")]
    assert (None, "http") == _found(headers, "127.0.0.1", peer=None)
    for trusted in ("unix", "*", "127.0.0.1, unix"):
        assert (("192.0.2.7", 0), "http") == _found(headers, trusted, peer=None)


def test_a_proxy_that_reaches_us_by_a_mapped_address_is_trusted() -> None:
    """A socket for both versions of IP names IPv4 peers so."""
    peer = ("::ffff:127.0.0.1", 4711)
    assert (("192.0.2.7", 0), "http") == _found([(_XFF, "192.0.2.7")], peer=peer)
