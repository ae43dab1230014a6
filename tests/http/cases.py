"""What one case of the tables says: the bytes, the statuses that the RFC permits, and the connection afterwards.

Every case is sent with one more request right behind it, `PROBE`, which asks the server to close. A server that
took the same bytes for the case as the table does answers the probe and nothing else; one that
closes after the case does not answer it. So no case waits for a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from messages import HTTP_0_9, NO_ANSWER, Outcome, Response

PROBE = b"GET /probe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

ANSWERED = frozenset({200})
REFUSED = frozenset({400})
# A closed connection says as much as 400, to a peer that does not speak HTTP.
REFUSED_OR_CLOSED = frozenset({400, NO_ANSWER})
EITHER = frozenset({200, 400})


class After(StrEnum):
    """The connection after the answer; `EITHER_WAY` where the RFC leaves it to the server."""

    OPEN = "open"
    CLOSED = "closed"
    EITHER_WAY = "either"


OPEN, CLOSED, EITHER_WAY = After.OPEN, After.CLOSED, After.EITHER_WAY


@dataclass(frozen=True)
class Case:
    """One line of a table.

    `statuses` are those that the RFC permits, `preferred` those that our own server has to give. `body` and `target`
    are what an application sees if the request is answered with 200; None is not looked at.
    """

    name: str
    sent: bytes
    statuses: frozenset[int]
    after: After
    section: str
    preferred: frozenset[int] | None = None
    body: bytes | None = None
    target: bytes | None = None

    @property
    def method(self) -> bytes:
        """Return the method of the request."""
        return self.sent.lstrip(b"\r\n").partition(b" ")[0]

    def complaint(self, outcome: Outcome, *, is_ours: bool) -> str | None:
        """Return what is wrong with an outcome of the case and the probe, or None."""
        if outcome.ended == "waits":
            return f"the server waits, after the statuses {statuses(outcome)}"
        permitted = (self.preferred if is_ours else None) or self.statuses
        if outcome.status not in permitted:
            return f"the status is {outcome.status}, not one of {sorted(permitted)}"
        return self._complaint_of_the_application(outcome) or self._complaint_of_the_end(outcome)

    def _complaint_of_the_application(self, outcome: Outcome) -> str | None:
        if outcome.status != 200:
            return None
        _, target, n_bytes, body = echoed(final(outcome)[0].body)
        if target == b"/probe":
            return "the case was not answered, but the probe was"
        if self.target is not None and target != self.target:
            return f"the application saw {target!r}"
        if self.body is None:
            return None
        if int(n_bytes or 0) != len(self.body) or body not in (None, self.body):
            return f"the application saw {n_bytes!r} bytes: {body!r}"
        return None

    def _complaint_of_the_end(self, outcome: Outcome) -> str | None:
        others = final(outcome)[1:]
        if len(others) > 1 or any(echoed(it.body)[1] != b"/probe" for it in others):
            return f"there are answers to what was no request: {[it.body for it in others]}"
        if self.after is After.CLOSED and others:
            return "the connection is still open"
        if self.after is After.OPEN and not others:
            return "the connection is closed"
        return None


def statuses(outcome: Outcome) -> list[int]:
    """Return the statuses of all responses, in order."""
    return [it.status for it in outcome.responses]


def final(outcome: Outcome) -> list[Response]:
    """Return the responses that are not interim ones."""
    return [it for it in outcome.responses if it.status >= 200]


def echoed(answer: bytes) -> tuple[bytes, bytes, bytes, bytes | None]:
    """Return method, target, length and body which the application says that it saw; body None if it does not say."""
    line, _, body = answer.partition(b"\n")
    method, _, rest = line.partition(b" ")
    target, _, n_bytes = rest.rpartition(b" ")
    if n_bytes.endswith(b"-"):
        return method, target, n_bytes[:-1], None
    return method, target, n_bytes, body


__all__ = ["ANSWERED", "EITHER", "HTTP_0_9", "NO_ANSWER", "REFUSED", "REFUSED_OR_CLOSED"]
__all__ += ["CLOSED", "EITHER_WAY", "OPEN", "PROBE", "After", "Case", "echoed", "final", "statuses"]
