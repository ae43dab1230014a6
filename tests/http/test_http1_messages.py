"""HTTP/1.1 as a table: each case says which statuses its RFC permits, and what becomes of the connection."""

from __future__ import annotations

import cases_framing
import cases_headers
import cases_request_line
import pytest
from cases import PROBE, Case
from messages import exchange
from servers import Server

TABLES = {
    "target": cases_request_line.TARGETS,
    "line": cases_request_line.LINES,
    "method": cases_request_line.METHODS,
    "version": cases_request_line.VERSIONS,
    "host": cases_headers.HOST,
    "header name": cases_headers.NAMES,
    "header value": cases_headers.VALUES,
    "line end": cases_headers.LINE_ENDS,
    "folding": cases_headers.FOLDING,
    "length": cases_framing.LENGTHS,
    "coding": cases_framing.CODINGS,
    "length and coding": cases_framing.BOTH,
    "chunk": cases_framing.CHUNKS,
    "extension": cases_framing.EXTENSIONS,
    "trailer": cases_framing.TRAILERS,
    "smuggling": cases_framing.SMUGGLING,
}


def _parameters() -> list[object]:
    return [
        pytest.param(case, id=f"{table}: {case.name}")
        for table, cases in TABLES.items()
        for case in cases
    ]


@pytest.mark.parametrize("case", _parameters())
def test_messages_are_answered_as_the_rfc_says(server: Server, case: Case) -> None:
    """The status is one that the RFC permits, and no byte of the message is taken for another request."""
    outcome = exchange(server.address, case.sent + PROBE, methods=(case.method,))
    complaint = case.complaint(outcome, is_ours=server.is_ours)
    assert complaint is None, f"RFC {case.section}: {complaint}; {outcome}"


@pytest.mark.parametrize("case", _parameters())
def test_cuts_change_nothing(server: Server, case: Case) -> None:
    """Bytes that come one after the other mean the same as those that come at once."""
    sent = case.sent + PROBE
    # Short cases byte by byte; of long ones the ends, since nothing new is in the middle.
    cut = [sent[i : i + 1] for i in range(len(sent))]
    if len(sent) > 400:
        cut = [*cut[:150], sent[150:-150], *cut[-150:]]
    outcome = exchange(server.address, cut, methods=(case.method,))
    complaint = case.complaint(outcome, is_ours=server.is_ours)
    assert complaint is None, f"RFC {case.section}: {complaint}; {outcome}"


def test_no_two_cases_have_one_name() -> None:
    """A failure names one case."""
    for cases in TABLES.values():
        names = [case.name for case in cases]
        assert sorted(set(names)) == sorted(names)
