"""The command itself: version, help, and how it behaves without its extra packages."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import threadlets

from .conftest import RunCommand

_WITHOUT = """
import sys
sys.modules[{missing!r}] = None
from threadlets.cli import main
main({arguments!r})
"""


def _without(missing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = _WITHOUT.format(missing=missing, arguments=list(arguments))
    return subprocess.run(
        [sys.executable, "-c", program], text=True, capture_output=True, timeout=60, check=False
    )


def test_version_says_what_a_bug_report_needs(command: RunCommand) -> None:
    """`--version` prints version, build, interpreter and kernel, and engine, on a line each."""
    done = command("--version")
    assert 0 == done.returncode
    version, core, runs_on, engine = done.stdout.splitlines()
    assert f"threadlets {metadata.version('threadlets')}" == version
    assert re.fullmatch(
        r"core: (release|debug) build for [\w-]+ by rustc .+, with(out)? assertions", core
    )
    expected = f"runs on: CPython {platform.python_version()}, Linux {platform.release()} "
    assert runs_on.startswith(expected)
    assert engine.startswith(f"engine: {threadlets.engine().kind}: ")


def test_version_says_why_the_engine_is_another(command: RunCommand) -> None:
    """An engine that was asked for, and one that does not exist, is named with the reason."""
    for wanted, expected in (
        ("workers", "engine: workers: THREADLETS_ENGINE asks for it"),
        ("steam", 'engine: none: THREADLETS_ENGINE is "steam"; '),
    ):
        done = command("--version", env={**os.environ, "THREADLETS_ENGINE": wanted})
        assert 0 == done.returncode
        assert done.stdout.splitlines()[-1].startswith(expected)


def test_help_lists_the_commands(command: RunCommand) -> None:
    """The help of the group names each command and the exit statuses."""
    done = command("--help")
    assert 0 == done.returncode
    assert {"run", "serve"} <= set(done.stdout.split())
    assert "Exit status" in done.stdout


def test_unknown_command_is_a_usage_error(command: RunCommand) -> None:
    """A command that does not exist ends with status 2 and without a traceback."""
    done = command("frobnicate")
    assert 2 == done.returncode
    assert "frobnicate" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_cli_extra_is_one_line() -> None:
    """Without typer the command says in one line what to install."""
    done = _without("typer", "--help")
    assert 2 == done.returncode
    assert 1 == len(done.stderr.splitlines())
    assert "pip install 'threadlets[cli]'" in done.stderr


def test_serving_needs_no_server_of_others(tmp_path: Path) -> None:
    """Without uvicorn `serve` gets as far as with it."""
    done = _without("uvicorn", "serve", str(tmp_path / "nowhere"))
    assert 2 == done.returncode
    assert "there is no such folder" in done.stderr
