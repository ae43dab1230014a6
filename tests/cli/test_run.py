"""`threadlets run` changes nothing about a program but its loop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import COMMAND, RunCommand

WriteScript = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> WriteScript:
    """Write `script.py` into the folder in which the command runs."""

    def write_script(source: str) -> str:
        (tmp_path / "script.py").write_text(source)
        return "script.py"

    return write_script


_WAYS_TO_A_LOOP = {
    "asyncio.run": "asyncio.run(main())",
    "Runner": "with asyncio.Runner() as runner: runner.run(main())",
    "new_event_loop": "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
    "get_event_loop": "loop = asyncio.get_event_loop(); loop.run_until_complete(main()); loop.close()",
}


if sys.version_info >= (3, 14):
    # Since CPython 3.14 it makes no loop.
    del _WAYS_TO_A_LOOP["get_event_loop"]


@pytest.mark.parametrize("way", _WAYS_TO_A_LOOP)
def test_every_way_to_a_loop_gives_ours(command: RunCommand, write: WriteScript, way: str) -> None:
    """A script that knows nothing of threadlets runs on a `threadlets.Loop`."""
    script = write(
        "import asyncio, threadlets\n"
        "async def main(): print(isinstance(asyncio.get_running_loop(), threadlets.Loop))\n"
        f"{_WAYS_TO_A_LOOP[way]}\n"
    )
    done = command("run", script, env=os.environ | {"PYTHONWARNINGS": "error"})
    assert (0, "True\n", "") == (done.returncode, done.stdout, done.stderr)


# What is left of asyncio without policies: each thread has a loop, or none.
_WITHOUT_POLICIES = """
import asyncio, threading
from asyncio import events, unix_events

for module in (asyncio, events, unix_events):
    for name in [name for name in vars(module) if "policy" in name.lower()]:
        delattr(module, name)
asyncio.__getattr__ = None

local = threading.local()
def set_event_loop(loop): local.loop = loop
def get_event_loop(): return events._get_running_loop() or local.loop
def new_event_loop(): return asyncio.EventLoop()
for function in (set_event_loop, get_event_loop, new_event_loop):
    for module in (asyncio, events):
        setattr(module, function.__name__, function)
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="policies are deprecated since CPython 3.14")
@pytest.mark.parametrize("way", _WAYS_TO_A_LOOP)
def test_asyncio_without_policies_gives_ours(
    command: RunCommand, write: WriteScript, tmp_path: Path, way: str
) -> None:
    """A script runs on a `threadlets.Loop` without policies, too, as in CPython 3.16."""
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT_POLICIES)
    script = write(
        "import asyncio, threadlets\n"
        "async def main(): print(isinstance(asyncio.get_running_loop(), threadlets.Loop))\n"
        "assert not hasattr(asyncio.events, '_event_loop_policy')\n"
        f"{_WAYS_TO_A_LOOP[way]}\n"
    )
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "error"}
    done = command("run", script, env=os.environ | environment)
    assert (0, "True\n", "") == (done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("way", ["a factory", "a policy"])
def test_loop_that_the_program_names_is_its_loop(
    command: RunCommand, write: WriteScript, way: str
) -> None:
    """A `loop_factory=` or a policy of the program's own decides."""
    named = {
        "a factory": "with asyncio.Runner(loop_factory=Named) as runner: runner.run(main())",
        "a policy": "asyncio.set_event_loop_policy(Policy()); asyncio.run(main())",
    }
    script = write(
        "import asyncio, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "class Named(asyncio.SelectorEventLoop): pass\n"
        "class Policy(asyncio.DefaultEventLoopPolicy): _loop_factory = Named\n"
        "async def main(): print(type(asyncio.get_running_loop()).__name__)\n"
        f"{named[way]}\n"
    )
    done = command("run", script)
    assert (0, "Named\n") == (done.returncode, done.stdout), done.stderr


def test_script_sees_what_python_shows_it(
    command: RunCommand, write: WriteScript, tmp_path: Path
) -> None:
    """sys.argv, sys.path[0], __name__ and __file__ are those of `python script.py`."""
    script = write(
        "import json, sys\n"
        "import __main__\n"
        "print(json.dumps([sys.argv, sys.path[0], __name__, __file__, __main__.__file__]))\n"
    )
    done = command("run", script, "--debug", "-x", "--", "--help")
    expected = [
        [script, "--debug", "-x", "--", "--help"],
        str(tmp_path.resolve()),
        *("__main__", script, script),
    ]
    assert expected == json.loads(done.stdout), done.stderr


def test_module_gets_every_argument_behind_it(command: RunCommand, write: WriteScript) -> None:
    """After -m MODULE even `--help` and `--debug` belong to the module."""
    write("import sys; print(sys.argv[1:], __name__)")
    done = command("run", "-m", "script", "--help", "value", "--debug")
    assert "['--help', 'value', '--debug'] __main__\n" == done.stdout, done.stderr


def test_debug_switches_on_debug_mode(command: RunCommand, write: WriteScript) -> None:
    """--debug before the script reaches the loop that the script makes."""
    script = write(
        "import asyncio\n"
        "async def main(): print(asyncio.get_running_loop().get_debug())\n"
        "asyncio.run(main())\n"
    )
    assert "True\n" == command("run", "--debug", script).stdout
    assert "False\n" == command("run", script).stdout


@pytest.mark.parametrize(
    ("statement", "status"),
    [("pass", 0), ("sys.exit(7)", 7), ("sys.exit()", 0), ("sys.exit('no')", 1)],
)
def test_exit_status_is_the_scripts(
    command: RunCommand, write: WriteScript, statement: str, status: int
) -> None:
    """The exit status is the one that the script gives to sys.exit."""
    assert status == command("run", write(f"import sys\n{statement}\n")).returncode


def test_uncaught_exception_shows_only_the_scripts_frames(
    command: RunCommand, write: WriteScript
) -> None:
    """The traceback begins in the script, as it does under `python script.py`."""
    done = command("run", write("def fail():\n    raise KeyError('lost')\nfail()\n"))
    assert 1 == done.returncode
    assert "KeyError: 'lost'" in done.stderr
    assert "runpy" not in done.stderr
    assert "/cli/" not in done.stderr


def test_syntax_error_is_shown_without_our_frames(command: RunCommand, write: WriteScript) -> None:
    """A script that does not parse gets Python's own message."""
    done = command("run", write("def :\n"))
    assert 1 == done.returncode
    assert "SyntaxError" in done.stderr
    assert "/cli/" not in done.stderr


def test_scripts_own_excepthook_is_used(command: RunCommand, write: WriteScript) -> None:
    """A hook that the script installs sees its uncaught exception."""
    done = command(
        "run",
        write("import sys\nsys.excepthook = lambda *e: print('hook', e[0].__name__)\n1 / 0\n"),
    )
    assert (1, "hook ZeroDivisionError\n") == (done.returncode, done.stdout)


def test_interrupt_ends_with_130(write: WriteScript, tmp_path: Path) -> None:
    """Ctrl-C cancels the main task, as under asyncio.run, and the exit status is 130."""
    script = write(
        "import asyncio\n"
        "async def main():\n"
        "    print('ready', flush=True)\n"
        "    try: await asyncio.Event().wait()\n"
        "    finally: print('cleaned up', flush=True)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [*COMMAND, "run", script],
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert "ready\n" == process.stdout.readline()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert (130, "cleaned up\n") == (process.returncode, output)


@pytest.mark.parametrize(
    ("arguments", "fact", "remedy"),
    [
        (("missing.py",), "cannot run 'missing.py'", "check the path"),
        (("-m", "missing_module"), "cannot run the module", "check the name"),
        (("-m", "email"), "cannot run the module", "check the name"),
        ((".",), "folder without a __main__.py", "add a __main__.py"),
        ((), "nothing to run", "threadlets run script.py"),
    ],
)
def test_nothing_to_run_names_the_remedy(
    command: RunCommand, arguments: tuple[str, ...], fact: str, remedy: str
) -> None:
    """A program that does not exist is a usage error with a remedy."""
    done = command("run", *arguments)
    assert 2 == done.returncode
    assert fact in done.stderr
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_import_inside_a_module_is_its_own_error(
    command: RunCommand, write: WriteScript
) -> None:
    """A module whose own import fails is shown with that error."""
    write("import not_there\n")
    done = command("run", "-m", "script")
    assert 1 == done.returncode
    assert "No module named 'not_there'" in done.stderr
    assert "/cli/" not in done.stderr
