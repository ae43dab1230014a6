"""What a server has counted, as Prometheus' metrics, and an ASGI application that shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from threadlets.http._metrics import CONTENT_TYPE, Family, Histogram, format_metrics

Counts = Mapping[str, Any]

_COUNTERS = {
    "connections_accepted": "Connections that were accepted.",
    "connections_closed": "Connections that were closed.",
    "accepting_paused": "How often clients had to wait for one of --limit-connections to end.",
    "tls_handshakes": "TLS handshakes that were completed.",
    "tls_handshakes_failed": "TLS handshakes that failed, or that were none.",
    "requests": "Requests whose heads could be parsed.",
    "requests_ended": "Requests that have ended.",
    "clients_left": "Requests whose clients had left before their responses were sent.",
    "bytes_received": "Bytes that were received.",
    "bytes_sent": "Bytes that were sent.",
    "application_errors": "Requests whose application failed.",
    "websockets": "Connections that became websockets.",
}

_REFUSALS = ("malformed", "head_too_large", "body_too_large", "busy", "resets", "floods")
_TIMEOUTS = ("idle", "head", "body", "response", "ping")


def families(counts: Counts) -> dict[str, Family]:
    """Name what was counted as Prometheus' conventions ask: units in names, totals of counters."""
    found = {
        f"threadlets_{name}_total": Family("counter", text, {(): counts[name]})
        for name, text in _COUNTERS.items()
    }
    found["threadlets_refusals_total"] = Family(
        "counter",
        "Requests that the server refused, and connections for their resets and floods.",
        {(("reason", it),): counts[f"refused_{it}"] for it in _REFUSALS},
    )
    found["threadlets_timeouts_total"] = Family(
        "counter",
        "Connections whose clients took too long.",
        {(("what", it),): counts[f"timeouts_{it}"] for it in _TIMEOUTS},
    )
    found["threadlets_responses_total"] = Family(
        "counter",
        "Responses by the first digit of their status.",
        {(("status", f"{digit}xx"),): n for digit, n in enumerate(counts["responses"]) if digit},
    )
    found["threadlets_response_seconds"] = Family(
        "histogram",
        "From the head of a request to the end of its response.",
        {
            (): Histogram(
                [bound / 1e6 for bound in counts["response_time_bounds_us"]],
                counts["response_times"],
                counts["response_time_us"] / 1e6,
            )
        },
    )
    for name, text in (("connections", "Open connections."), ("in_flight", "Requests in flight.")):
        found[f"threadlets_{name}"] = Family("gauge", text, {(): counts[name]})
    return found


class MetricsApp:
    """Shows the metrics; `count` returns what was counted so far."""

    def __init__(self, count: Callable[[], Counts]) -> None:
        self._count = count

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = format_metrics(families(self._count())).encode()
        headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
