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
_LF_IN_CHUNKS = (
    "a bare LF ends no line of a chunked body; servers that differ here can be made to smuggle"
)
_HOST = "RFC 9112, 3.2 asks for 400; nginx takes any text without a slash or a NUL"

# The reason of each difference.
REASONS: dict[str, str] = {}


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
    started = [servers.start(kind) for kind in kinds]
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
