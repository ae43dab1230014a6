"""Runs the cases of Autobahn's test suite against the chosen server, and prints those that it does not pass.

    AUTOBAHN_PYTHON=…/python2.7 AUTOBAHN_PATH=FOLDER python tests/http/autobahn.py [CASE…]

The suite is a program for Python 2.7. `pip install --target FOLDER` of that Python gets these; add an empty
FOLDER/zope/__init__.py:
autobahntestsuite==0.8.2 autobahn==0.10.9 Twisted==20.3.0 txaio==2.1.0 zope.interface==5.4.0 Automat==0.8.0
hyperlink==20.0.1 incremental==17.5.0 attrs==20.3.0
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

import servers  # noqa: E402

_RUN = (
    "import sys; from autobahntestsuite.wstest import run; "
    "sys.argv = ['wstest', '-m', 'fuzzingclient', '-s', {specification!r}]; run()"
)
# An informational outcome has no right answer; a non-strict one is allowed by the RFC.
_PASSED = {"OK", "INFORMATIONAL", "NON-STRICT"}


def main(cases: list[str]) -> int:
    """Run the cases, all by default; return 1 if one of them is not passed."""
    python = os.environ.get("AUTOBAHN_PYTHON", "python2.7")
    server = servers.start(servers.chosen_kind())
    with tempfile.TemporaryDirectory() as folder:
        host, port = server.address
        specification = Path(folder) / "specification.json"
        specification.write_text(
            json.dumps(
                {
                    "outdir": folder,
                    "servers": [{"agent": "server", "url": f"ws://{host}:{port}/"}],
                    "cases": cases or ["*"],
                    "exclude-cases": [],
                    "exclude-agent-cases": {},
                }
            )
        )
        try:
            program = _RUN.format(specification=str(specification))
            environment = {**os.environ, "PYTHONPATH": os.environ.get("AUTOBAHN_PATH", "")}
            subprocess.run(
                [python, "-W", "ignore", "-c", program],
                stdout=sys.stderr,
                env=environment,
                check=True,
            )
        finally:
            server.stop()
        outcomes = json.loads((Path(folder) / "index.json").read_text())["server"]
    bad = {
        case: outcome
        for case, outcome in outcomes.items()
        if outcome["behavior"] not in _PASSED or outcome["behaviorClose"] not in _PASSED
    }
    for case, outcome in sorted(bad.items()):
        print(f"{case}: {outcome['behavior']}, closed {outcome['behaviorClose']}")
    print(f"{len(outcomes) - len(bad)} passed, {len(bad)} failed")
    return int(bool(bad))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
