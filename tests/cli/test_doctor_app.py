"""`threadlets doctor app`: what will hurt an application, found by its import and its start-up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import RunCommand

_LIFESPAN = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        await start()
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await stop()
        await send({"type": "lifespan.shutdown.complete"})

async def stop():
    pass
"""
_QUIET = _LIFESPAN + "async def start(): pass\n"

Look = Callable[..., tuple[int, dict[str, list[dict[str, Any]]]]]


@pytest.fixture
def look(command: RunCommand, tmp_path: Path) -> Look:
    """Write an application's module, look at it, and return exit status and findings by key."""

    def look(
        source: str, *options: str, target: str = "service:app"
    ) -> tuple[int, dict[str, list[dict[str, Any]]]]:
        (tmp_path / "service.py").write_text(source)
        done = command("doctor", "app", target, "--json", *options)
        document = json.loads(done.stdout)
        found: dict[str, list[dict[str, Any]]] = {}
        for finding in document["findings"]:
            assert "ok" == finding["status"] or (finding["cause"] and finding["remedy"]), finding
            found.setdefault(finding["key"], []).append(finding)
        return done.returncode, found

    return look


def _line_of(source: str, text: str) -> int:
    (line,) = (number for number, it in enumerate(source.splitlines(), 1) if text in it)
    return line


def test_nothing_hurts_a_good_application(look: Look) -> None:
    """Its import, start-up and shutdown are ok, and nothing else is found."""
    status, found = look(_QUIET)
    assert 0 == status
    assert {"app", "app_import_time", "app_startup", "app_shutdown"} == set(found)
    assert {"ok"} == {it["status"] for findings in found.values() for it in findings}
    assert "asgi" == found["app"][0]["data"]["interface"]


def test_wsgi_application_has_no_startup(look: Look) -> None:
    """It is imported, and that is all."""
    status, found = look("def app(environ, start_response):\n    return []\n")
    assert 0 == status
    assert {"app", "app_import_time"} == set(found)
    assert "wsgi" == found["app"][0]["data"]["interface"]


def test_text_says_fact_cause_and_remedy(command: RunCommand, tmp_path: Path) -> None:
    """A line for each finding; what the application prints is not among them."""
    (tmp_path / "service.py").write_text("print('hello from the module')\n" + _QUIET)
    done = command("doctor", "app", "service:app")
    assert 0 == done.returncode
    lines = done.stdout.splitlines()
    assert ["The application service:app", "  ok       'service:app' is an ASGI application"] == (
        lines[:2]
    )
    assert "all is well" == lines[-1]
    assert "hello from the module" in done.stderr


# -- what will hurt --------------------------------------------------------------------------------


def test_wait_at_import_is_named_with_its_line(look: Look) -> None:
    """A function of the module that waits while the module is imported."""
    source = "import time\ndef connect():\n    time.sleep(0.3)\nconnect()\n" + _QUIET
    status, found = look(source)
    (finding,) = found["app_blocking_import"]
    assert (0, "warning") == (status, finding["status"])
    assert finding["data"]["where"].endswith("service.py:3")
    assert "time.sleep(0.3)" == finding["data"]["source"]
    assert 0.2 < finding["data"]["duration_s"]


def test_wait_in_the_startup_is_named_with_its_line(look: Look) -> None:
    """A blocking call in a coroutine; an await of the same length blocks nothing."""
    source = _LIFESPAN + (
        "import asyncio, time\n"
        "async def start():\n"
        "    await asyncio.sleep(0.3)\n"
        "    time.sleep(0.31)\n"
        "    await asyncio.to_thread(time.sleep, 0.32)\n"
    )
    status, found = look(source)
    (finding,) = found["app_blocking_startup"]
    assert (0, "warning") == (status, finding["status"])
    assert finding["data"]["where"].endswith(f"service.py:{_line_of(source, '0.31')}")
    assert "blocked the loop" in finding["fact"]


def test_call_that_keeps_the_gil_is_named_with_its_line(look: Look) -> None:
    """One that lets no thread look while it runs."""
    source = _LIFESPAN + "async def start():\n    sum(range(30_000_000))\n"
    _, found = look(source)
    assert [f"service.py:{_line_of(source, 'sum(')}"] == [
        Path(it["data"]["where"]).name for it in found["app_blocking_startup"]
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_policy_that_is_ignored_is_named(look: Look) -> None:
    """With the line that has set it; one that is taken back is no finding."""
    policy = (
        "import asyncio, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "class Mine(asyncio.DefaultEventLoopPolicy): pass\n"
        "asyncio.set_event_loop_policy(Mine())\n"
    )
    status, found = look(policy + _QUIET)
    (finding,) = found["app_loop_policy"]
    assert (0, "warning") == (status, finding["status"])
    assert "service.Mine" == finding["data"]["policy"]
    assert finding["data"]["where"].endswith("service.py:4")
    _, found = look(policy + "asyncio.set_event_loop_policy(None)\n" + _QUIET)
    assert "app_loop_policy" not in found


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="uvloop.install() is gone")
def test_uvloop_as_policy_is_named(look: Look) -> None:
    """By its name, with what to remove."""
    pytest.importorskip("uvloop")
    status, found = look(
        "import uvloop, warnings\nwarnings.simplefilter('ignore')\nuvloop.install()\n" + _QUIET
    )
    (finding,) = found["app_loop_policy"]
    assert 0 == status
    assert "remove uvloop.install()" == finding["remedy"]


@pytest.mark.parametrize(
    ("made", "status", "line"),
    [
        ("loop = asyncio.new_event_loop()", "warning", 2),
        ("loop = asyncio.SelectorEventLoop()", "warning", 2),
        ("async def main(): pass\nasyncio.run(main())", "note", 3),
    ],
)
def test_loop_made_at_import_is_named(look: Look, made: str, status: str, line: int) -> None:
    """A warning if it is left open, and a note if it was closed."""
    exit_status, found = look(f"import asyncio\n{made}\n{_QUIET}")
    (finding,) = found["app_loop_at_import"]
    assert (0, status) == (exit_status, finding["status"])
    assert finding["data"]["where"].endswith(f"service.py:{line}")


def test_threads_of_the_import_are_named(look: Look) -> None:
    """Pools and threads that still run; not those that have ended."""
    source = (
        "import concurrent.futures, threading, time\n"
        "pool = concurrent.futures.ThreadPoolExecutor()\n"
        "pool.submit(len, '')\n"
        "threading.Thread(target=time.sleep, args=(1000,), name='ticker').start()\n"
        "ended = threading.Thread(target=len, args=('',), name='ended')\n"
        "ended.start()\n"
        "ended.join()\n"
    )
    _, found = look(source + _QUIET)
    places = {it["data"]["name"]: Path(it["data"]["where"]).name for it in found["app_threads"]}
    assert {"ThreadPoolExecutor-0_0": "service.py:3", "ticker": "service.py:4"} == places


def test_nest_asyncio_is_named(look: Look) -> None:
    """It has patched asyncio for the whole process."""
    pytest.importorskip("nest_asyncio")
    source = "import warnings\nwarnings.simplefilter('ignore')\nimport nest_asyncio\n"
    _, found = look(source + "nest_asyncio.apply()\n" + _QUIET)
    assert ["warning"] == [it["status"] for it in found["app_nest_asyncio"]]


def test_version_of_anyio_that_the_server_refuses_is_a_problem(look: Look, tmp_path: Path) -> None:
    """It is the library that says so."""
    (tmp_path / "anyio").mkdir()
    (tmp_path / "anyio/__init__.py").write_text("__version__ = '0.1'\n")
    status, found = look("import anyio\n" + _QUIET)
    (finding,) = found["app_anyio"]
    assert (1, "problem") == (status, finding["status"])
    assert "anyio" in finding["cause"]


def test_version_of_greenlet_that_is_too_old_is_a_problem(look: Look, tmp_path: Path) -> None:
    """The fake one has metadata of its own."""
    (tmp_path / "greenlet.py").write_text("__version__ = '1.1.3'\n")
    information = tmp_path / "greenlet-1.1.3.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: greenlet\nVersion: 1.1.3\n")
    status, found = look("import greenlet\n" + _QUIET)
    (finding,) = found["app_greenlet"]
    assert (1, "problem") == (status, finding["status"])
    assert finding["fact"].startswith("greenlet 1.1.3")


# -- what fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("", "nowhere:app", "cannot import the module 'nowhere'"),
        ("", "service:app", "has no attribute 'app'"),
        ("def app(:\n", "service:app", "SyntaxError"),
        ("import missing_package\n", "service:app", "No module named 'missing_package'"),
        ("1 / 0\n", "service:app", "ZeroDivisionError"),
        ("raise SystemExit('no configuration')\n", "service:app", "SystemExit: no configuration"),
        ("app = 5\n", "service:app", "it is a int and cannot be called"),
        ("", "service", "the colon between the module and the attribute is missing"),
        ("", ".", "a folder has no code"),
        ("import os\nos._exit(3)\n", "service:app", "with status 3"),
        ("import os\nos.kill(os.getpid(), 9)\n", "service:app", "SIGKILL has ended"),
    ],
)
def test_what_cannot_be_imported_is_a_problem(
    look: Look, source: str, target: str, expected: str
) -> None:
    """Each with what is wrong, and status 1."""
    status, found = look(source, target=target)
    (finding,) = found["app"]
    assert (1, "problem") == (status, finding["status"])
    assert expected in f"{finding['fact']} {finding['cause']}"


def test_module_that_fails_is_shown_with_its_own_traceback(look: Look) -> None:
    """The user's frames, and none of ours."""
    _, found = look("def connect():\n    1 / 0\nconnect()\n")
    detail = found["app"][0]["detail"]
    assert 'service.py", line 2, in connect' in detail
    assert "threadlets/" not in detail


def test_import_that_never_ends_is_a_problem(look: Look) -> None:
    """With the line at which it stands."""
    status, found = look("import time\ntime.sleep(1000)\n" + _QUIET, "--timeout", "1")
    (finding,) = found["app"]
    assert (1, "problem") == (status, finding["status"])
    assert finding["data"]["where"].endswith("service.py:2")


@pytest.mark.parametrize(
    "endless",
    [
        "await asyncio.Event().wait()",
        "time.sleep(1000)",
        "[None async for _ in endless_generator()]",
    ],
)
def test_startup_that_never_ends_is_a_problem(look: Look, endless: str) -> None:
    """With the line at which it awaits something, or blocks."""
    source = _LIFESPAN + (
        "import asyncio, time\n"
        "async def endless_generator():\n"
        "    yield\n"
        "    await asyncio.get_running_loop().create_future()\n"
        f"async def start():\n    {endless}\n"
    )
    status, found = look(source, "--timeout", "1")
    (finding,) = found["app_startup"]
    assert (1, "problem") == (status, finding["status"])
    text = "create_future" if "generator" in endless else endless
    assert finding["data"]["where"].endswith(f"service.py:{_line_of(source, text)}")


def test_startup_that_clings_to_life_is_ended(look: Look) -> None:
    """One that does not let itself be cancelled."""
    source = _LIFESPAN + (
        "import asyncio\n"
        "async def start():\n"
        "    while True:\n"
        "        try:\n"
        "            await asyncio.sleep(1000)\n"
        "        except asyncio.CancelledError:\n"
        "            pass\n"
    )
    status, found = look(source, "--timeout", "1")
    assert 1 == status
    assert {"problem"} == {it["status"] for it in found["app_startup"]}


def test_startup_that_raises_is_a_problem(look: Look) -> None:
    """A server would go on without a start-up, and say nothing."""
    status, found = look(_LIFESPAN + "async def start():\n    raise OSError('no database')\n")
    (finding,) = found["app_startup"]
    assert (1, "problem") == (status, finding["status"])
    assert re.match(r"OSError: no database, raised at .*service\.py:\d+$", finding["cause"])
    assert "in start" in finding["detail"]


def test_startup_that_reports_its_failure_is_a_problem(look: Look) -> None:
    """With the message that it has sent."""
    source = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "the database is away"})
"""
    status, found = look(source)
    (finding,) = found["app_startup"]
    assert (1, "the database is away") == (status, finding["cause"])


def test_application_without_lifespan_is_ok(look: Look) -> None:
    """It raises before it receives anything, as ASGI tells it to."""
    status, found = look(
        "async def app(scope, receive, send):\n    assert 'http' == scope['type']\n"
    )
    assert (0, "ok") == (status, found["app_startup"][0]["status"])


def test_shutdown_that_fails_is_a_problem(look: Look) -> None:
    """The start-up is ok all the same."""
    source = _QUIET.replace("async def stop():\n    pass", "async def stop():\n    1 / 0")
    status, found = look(source)
    assert (1, "ok") == (status, found["app_startup"][0]["status"])
    assert "ZeroDivisionError" in found["app_shutdown"][0]["cause"]


def test_factory_and_folder(command: RunCommand, tmp_path: Path) -> None:
    """--factory and --app-dir are those of `threadlets serve`."""
    (tmp_path / "below").mkdir()
    (tmp_path / "below/made.py").write_text(_QUIET + "def make():\n    return app\n")
    done = command("doctor", "app", "made:make", "--factory", "--app-dir", "below")
    assert 0 == done.returncode, done.stdout
    assert "is an ASGI application" in done.stdout


def test_nothing_is_left_behind(look: Look, tmp_path: Path) -> None:
    """Neither a child, nor a child's child in a session of its own that outlives its parent."""
    mark = f"{tmp_path.name}-{os.getpid()}"
    source = (
        "import subprocess, sys, threading, time\n"
        f"code = 'import time; time.sleep(1000) # {mark}'\n"
        "subprocess.Popen([sys.executable, '-c', code])\n"
        "other = 'import subprocess, sys; subprocess.Popen([sys.executable, \"-c\", sys.argv[1]], '\n"
        "other += 'start_new_session=True)'\n"
        "subprocess.run([sys.executable, '-c', other, code])\n"
        "threading.Thread(target=time.sleep, args=(1000,)).start()\n"
    )
    status, found = look(source + _QUIET)
    assert 0 == status
    assert found["app_processes"]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert [] == [it for it in listed.stdout.splitlines() if mark in it]
