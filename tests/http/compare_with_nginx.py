"""Sends every case of the tables to nginx and to our server, and prints where they differ, as a table of Markdown.

    python tests/http/compare_with_nginx.py            the differences
    python tests/http/compare_with_nginx.py --write    put them into docs/serving-safety.md, between its marks

Every difference needs a reason below, by table and case, or by table alone.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

import servers  # noqa: E402
from cases import NO_ANSWER, PROBE, Case, echoed, final  # noqa: E402
from messages import Outcome, exchange  # noqa: E402
from test_http1_messages import TABLES  # noqa: E402

_DOCUMENT = _HERE.parent.parent / "docs" / "serving-safety.md"
_BEGIN, _END = "<!-- differences: begin -->\n", "<!-- differences: end -->\n"

_STRICT = "the grammar does not allow it; nginx skips or repairs what we refuse"
_HOST = "RFC 9112, 3.2 asks for 400; nginx takes almost any text"
_TARGET = "nginx decodes a target to find a file; here it is the application's, as it came"
_TUNNEL = "there are no tunnels here, so 501; nginx looks at the target first"
_TAB = "RFC 9110, 5.6.3 has tabs among the optional whitespace; nginx has spaces only"
_METHOD = "a method is any token, and its meaning the application's; nginx takes capitals alone"
_VERSION = "RFC 9112, 2.3: a version has two digits; 505 is for versions that can be read and are not spoken"
_HTTP_0_9 = "HTTP/0.9 is not spoken here"
_CODING = "both refuse: 501 is for codings that end in chunked, and else the length is unknown, which is 400"
_BOTH = "RFC 9112, 6.1 permits both: we read the chunks, and close, so that nothing behind them is a request"
_LF = "RFC 9112, 2.2 lets a bare LF end the lines of a head, not those of chunks, where it serves to smuggle"
_BOUNDED = "extensions and trailers are bounded here: 16 KiB for all chunks of a body"
_TRAILER = "trailers are parsed as strictly as headers; nginx drops them unread"
_SAME_LENGTH = "RFC 9112, 6.3 permits to take lengths that are the same for one"

# The reason of each difference: of a case, or of all cases of a table.
REASONS: dict[str, str] = {
    "target": _TARGET,
    "target: authority form with CONNECT": _TUNNEL,
    "target: origin form with CONNECT": _TUNNEL,
    "target: CONNECT without a port": _TUNNEL,
    "target: asterisk with OPTIONS": "RFC 9112, 3.2.4 has it for questions to the server; nginx does not know it",
    "target: characters that URIs do not have": _STRICT,
    "line": _STRICT,
    "method": _METHOD,
    "method: of 10,000 characters": "the line is within the limit of the head, and the limit of targets is not for methods",
    "method: TRACE": "TRACE is the application's; nginx never answers it",
    "version": _VERSION,
    "version: 1.1 that closes, then keeps": "RFC 9112, 9.3: close wins",
    "version: 1.1 with a token that only contains close": "options are compared whole; nginx looks for the letters",
    "version: 1.10": "RFC 9112, 2.3: a version has two digits",
    "version: 0.9, without a version": _HTTP_0_9,
    "version: no version, but headers": _HTTP_0_9,
    "version: a space in place of the version": _HTTP_0_9,
    "host": _HOST,
    "host: empty": "RFC 9112, 3.2 has an empty Host for targets without an authority",
    "host: mixed case and a tab": _TAB,
    "header name": "RFC 9110, 5.1: names are tokens; nginx drops the header and answers",
    "header value": "RFC 9110, 5.5: control characters are invalid, and may be kept",
    "header value: spaces around": _TAB,
    "line end": _STRICT,
    "length: spaces around": _TAB,
    "length: twice, the same": _SAME_LENGTH,
    "length: twice, other digits": _SAME_LENGTH,
    "length: 2^64 - 1": "both refuse",
    "coding": _CODING,
    "coding: chunked after a tab": _TAB,
    "coding: comma first": "RFC 9110, 5.6.1: empty elements of a list do not count",
    "coding: empty and chunked, in two lines": "RFC 9110, 5.6.1: empty elements of a list do not count",
    "coding: byte in the name": "RFC 9110, 5.1: names are tokens; nginx drops the header and answers",
    "length and coding": _BOTH,
    "length and coding: length, then identity": _CODING,
    "length and coding: length, then unknown": _CODING,
    "chunk": _LF,
    "chunk: two sizes": _STRICT,
    "extension": _BOUNDED,
    "extension: bare LF ends it": _LF,
    "trailer": _TRAILER,
    "trailer: bare LF": _LF,
    "trailer: two, the first with a bare LF": _LF,
    "trailer: a thousand": _BOUNDED,
    "trailer: of 100,000 bytes": _BOUNDED,
    "smuggling: length covers it, chunked ends before": _BOTH,
    "smuggling: chunk covers it, length ends before": _BOTH,
    "smuggling: coding after a bare LF": _BOTH,
    "smuggling: coding that is unknown": _CODING,
    "smuggling: length with a byte in its name": "RFC 9110, 5.1: names are tokens; nginx drops the header and answers",
    "smuggling: chunk extension with a bare LF": _LF,
    "smuggling: request in a trailer": _TRAILER,
}


def described(outcome: Outcome) -> str:
    """Return status, what the application saw of the body, and the end of the connection in a few words."""
    if outcome.ended == "waits":
        return "waits"
    if outcome.status == NO_ANSWER:
        return "closed without an answer"
    answers = final(outcome)
    words = "HTTP/0.9" if outcome.rest else str(outcome.status)
    if outcome.status == 200:
        n_bytes = echoed(answers[0].body)[2]
        if n_bytes not in (b"", b"0"):
            words += f", {int(n_bytes)} bytes"
    return words + (", open" if len(answers) > 1 else ", closed")


def differences() -> list[tuple[str, Case, str, str]]:
    """Return the table, the case, nginx's outcome and ours, for each case in which they differ."""
    kinds = ("nginx", servers.OURS)
    for kind in kinds:
        if why_not := servers.missing(kind):
            raise SystemExit(f"cannot compare: {why_not}; apt-get install nginx-light")
    started = [servers.start(kind, *servers.usual_options(kind)) for kind in kinds]
    found = []
    try:
        for table, cases in TABLES.items():
            for case in cases:
                outcomes = [
                    described(exchange(it.address, case.sent + PROBE, methods=(case.method,)))
                    for it in started
                ]
                if outcomes[0] != outcomes[1]:
                    found.append((table, case, *outcomes))
    finally:
        for server in started:
            server.stop()
    return found


def reason(table: str, case: Case) -> str:
    """Return why we differ from nginx in a case; empty if nobody has said so."""
    return REASONS.get(f"{table}: {case.name}") or REASONS.get(table) or ""


def shown(sent: bytes) -> str:
    """Return the bytes that matter as code of Markdown, cut where they are long."""
    text = repr(sent)[2:-1]
    if len(text) > 110:
        text = text[:90] + " … " + text[-17:]
    return "`" + text.replace("|", "\\|") + "`"


def table_of(found: list[tuple[str, Case, str, str]]) -> str:
    """Return the differences as a table."""
    lines = ["| case | sent | nginx | ours | RFC | why |", "| --- | --- | --- | --- | --- | --- |"]
    for table, case, nginx, ours in found:
        why = reason(table, case) or "**no reason given**"
        cells = (f"{table}: {case.name}", shown(case.sent), nginx, ours, case.section, why)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print or write the table; the exit status is 1 if a difference has no reason."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--write", action="store_true", help="write into docs/serving-safety.md")
    arguments = parser.parse_args()
    found = differences()
    n_cases = sum(map(len, TABLES.values()))
    versions = f"nginx {servers.version('nginx')}"
    text = f"{len(found)} of {n_cases} cases differ from {versions}.\n\n" + table_of(found)
    if arguments.write:
        document = _DOCUMENT.read_text()
        before, _, rest = document.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        _DOCUMENT.write_text(before + _BEGIN + text + _END + after)
    else:
        print(text, end="")
    return int(any(not reason(table, case) for table, case, _, _ in found))


if __name__ == "__main__":
    raise SystemExit(main())
