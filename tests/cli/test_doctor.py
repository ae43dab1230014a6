"""`threadlets doctor`: what a machine offers, what threadlets makes of it, and what to change."""

from __future__ import annotations

import ctypes
import io
import json
import os
import platform
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import threadlets
from threadlets.cli._doctor_machine import Machine, examine_interpreter, examine_machine
from threadlets.cli._findings import Finding, Report

from .conftest import RunCommand, limit_descriptors

_IO_URING_SETUP = 425
_ANSWER_EPERM = 0x00050000 | 1
_KILL_PROCESS = 0x80000000


def _examine(folder: Path, files: dict[str, str], groups: dict[str, str]) -> dict[str, Finding]:
    """Return the findings on a machine whose /proc and /sys/fs/cgroup have these files."""
    for root, contents in (("proc", files), ("groups", groups)):
        for name, text in contents.items():
            path = folder / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    machine = Machine(proc=folder / "proc", groups=folder / "groups")
    return {it.key: it for it in examine_machine(machine)}


@pytest.mark.parametrize(
    ("files", "groups", "key", "status", "expected"),
    [
        ({}, {}, "io_uring", "ok", "no setting that forbids it"),
        ({"sys/kernel/io_uring_disabled": "0\n"}, {}, "io_uring", "ok", "is 0"),
        (
            {"sys/kernel/io_uring_disabled": "1\n", "sys/kernel/io_uring_group": "-1\n"},
            {},
            "io_uring",
            "note",
            "kernel.io_uring_group is -1",
        ),
        ({"sys/kernel/io_uring_disabled": "2\n"}, {}, "io_uring", "warning", "io_uring_disabled=0"),
        ({"self/status": "Seccomp:\t0\n"}, {}, "seccomp", "ok", "none"),
        ({"self/status": "Seccomp:\t2\n"}, {}, "seccomp", "note", "a filter may forbid"),
        ({"sys/net/core/somaxconn": "128\n"}, {}, "backlog", "warning", "somaxconn=2048"),
        ({"sys/net/core/somaxconn": "4096\n"}, {}, "backlog", "ok", "4096 connections"),
        (
            {"self/cgroup": "0::/\n"},
            {"cpu.max": "50000 100000\n"},
            "cpus",
            "warning",
            "time of 0.5",
        ),
        ({"self/cgroup": "0::/\n"}, {"cpu.max": "max 100000\n"}, "cpus", "ok", "CPUs: "),
        (
            {"self/cgroup": "0::/a\n", "meminfo": "MemTotal: 16777216 kB\n"},
            {"a/memory.max": "max\n", "memory.max": f"{128 << 20}\n"},
            "memory",
            "note",
            "memory: 16 GiB, of which the control group allows 128 MiB",
        ),
        (
            {"self/cgroup": "4:memory:/\n", "meminfo": "MemTotal: 16777216 kB\n"},
            {"memory/memory.limit_in_bytes": "9223372036854771712\n"},
            "memory",
            "ok",
            "no limit of a control group",
        ),
        (
            {"self/cgroup": "4:memory:/a\n", "meminfo": "MemTotal: 16777216 kB\n"},
            {"memory/a/memory.limit_in_bytes": f"{1 << 30}\n"},
            "memory",
            "ok",
            "allows 1 GiB",
        ),
        ({"self/cgroup": "0::/\n"}, {"pids.max": "20\n"}, "threads", "warning", "pids.max of the"),
    ],
)
def test_what_a_machine_limits_is_named(
    tmp_path: Path,
    files: dict[str, str],
    groups: dict[str, str],
    key: str,
    status: str,
    expected: str,
) -> None:
    """Each file of the kernel's that limits something has a finding, with cause and remedy if it does."""
    finding = _examine(tmp_path, files, groups)[key]
    assert status == finding.status
    assert expected in f"{finding.fact} {finding.cause} {finding.remedy}"


def test_whatever_is_not_ok_has_a_cause_and_a_remedy(tmp_path: Path) -> None:
    """Also on a machine that says nothing at all."""
    findings = [*_examine(tmp_path, {}, {}).values(), *examine_interpreter()]
    assert all(it.fact for it in findings)
    assert all(it.cause and it.remedy for it in findings if it.status != "ok")


def test_report_of_this_machine(command: RunCommand) -> None:
    """Each line has a status; the engine is the one that the library says it uses."""
    done = command("doctor")
    assert (0, "") == (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert "This machine" == lines[0]
    assert {"This interpreter", "What threadlets does here"} <= set(lines)
    assert [it for it in lines if f"  engine: {threadlets.engine().kind}, " in it]
    assert "\x1b" not in done.stdout


_KEYS = {
    *("kernel", "io_uring", "seccomp", "descriptors", "locked_memory", "threads", "cpus", "memory"),
    *("backlog", "interpreter", "tls", "core"),
    *("engine", "calls", "serve_descriptors", "workers"),
}


def test_json_has_the_documented_keys(command: RunCommand) -> None:
    """The document, each finding, and the keys that are there on every machine."""
    done = command("doctor", "--json")
    assert 0 == done.returncode
    document = json.loads(done.stdout)
    assert {"version", "threadlets", "status", "findings"} == set(document)
    assert (1, threadlets.__version__) == (document["version"], document["threadlets"])
    for finding in document["findings"]:
        keys = {"section", "key", "status", "fact", "cause", "remedy", "data", "detail"}
        assert keys == set(finding)
    found = {it["key"]: it for it in document["findings"]}
    assert set() == _KEYS - set(found)
    assert threadlets.engine().kind == found["engine"]["data"]["kind"]


def test_docs_list_every_key() -> None:
    """docs/doctor.md names each key of the JSON, those of `doctor app`, too."""
    root = Path(__file__).parents[2]
    page = (root / "docs/doctor.md").read_text()
    sources = [it.read_text() for it in (root / "python/threadlets/cli").glob("_doctor*.py")]
    keys = {
        key for source in sources for key in re.findall(r"\bFinding\(\s*\"([a-z_.]+)\"", source)
    }
    assert len(keys) > len(_KEYS)
    assert set() == {it for it in keys if f"`{it}`" not in page}


@pytest.mark.parametrize(
    ("engine", "status", "expected"),
    [("workers", 0, "note     engine: workers"), ("steam", 1, "problem  engine: none")],
)
def test_engine_of_the_environment(
    command: RunCommand, engine: str, status: int, expected: str
) -> None:
    """One that was asked for is a note, and one that does not exist is a problem."""
    done = command("doctor", env={**os.environ, "THREADLETS_ENGINE": engine})
    assert status == done.returncode
    assert expected in done.stdout


def test_too_few_descriptors_are_a_problem(command: RunCommand) -> None:
    """As they are for `threadlets serve`, in the same words; fewer than it wants are a warning."""
    done = command("doctor", preexec_fn=limit_descriptors((100, 100)))
    assert 1 == done.returncode
    assert "problem  only 100 file descriptors are allowed" in done.stdout
    done = command("doctor", preexec_fn=limit_descriptors((1000, 1000)))
    assert 0 == done.returncode
    assert "warning  threadlets serve: about 1000 connections" in done.stdout


def test_descriptor_limit_that_can_be_raised_is_ok(command: RunCommand) -> None:
    """A low soft limit is no warning if the hard one is high enough."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 8192:
        pytest.skip("the hard limit of this machine is too low")
    done = command("doctor", preexec_fn=limit_descriptors((1000, 8192)))
    assert 0 == done.returncode
    assert "ok       threadlets serve: raises the limit to 8192" in done.stdout


def _forbid(call: int, action: int) -> Callable[[], None]:
    """Return a preexec function whose process gets `action` for a system call, by a seccomp filter."""
    instructions = struct.pack(
        "HBBI" * 4,
        *(0x20, 0, 0, 0),  # load the number of the call
        *(0x15, 0, 1, call),
        *(0x06, 0, 0, action),
        *(0x06, 0, 0, 0x7FFF0000),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(instructions)

    def forbid() -> None:
        program = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        if libc.prctl(22, 2, program, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
            raise OSError(ctypes.get_errno(), "the filter was refused")

    return forbid


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86-64")
@pytest.mark.parametrize(
    ("action", "status", "expected"),
    [
        (_ANSWER_EPERM, 0, ["warning  engine: workers", "cause: io_uring cannot be used"]),
        (
            _KILL_PROCESS,
            1,
            ["problem  engine: threadlets cannot choose", "cause: SIGSYS has ended"],
        ),
    ],
)
def test_seccomp_filter_that_forbids_io_uring(
    command: RunCommand, action: int, status: int, expected: list[str]
) -> None:
    """One that answers with an error leaves the workers; one that kills does not kill the command."""
    environment = {it: value for it, value in os.environ.items() if it != "THREADLETS_ENGINE"}
    done = command("doctor", env=environment, preexec_fn=_forbid(_IO_URING_SETUP, action))
    assert status == done.returncode, done.stderr
    assert "note     seccomp: a filter" in done.stdout
    for text in expected:
        assert text in done.stdout


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "expected"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]
)
def test_colours_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, Any], expected: bool
) -> None:
    """And only unless NO_COLOR says otherwise; https://no-color.org ignores an empty one."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    terminal, file = _Terminal(), io.StringIO()
    report = Report({"A section": [Finding("key", "problem", "a fact", "a cause", "a remedy")]})
    report.print(terminal)
    report.print(file)
    assert expected == ("\x1b[1;31mproblem\x1b[0m" in terminal.getvalue())
    assert "\x1b" not in file.getvalue()
    assert (1, "problem") == (report.exit_status, report.status)
