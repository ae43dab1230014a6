"""``threadlets run``: an asyncio program, unedited, on our loop.

The program sees sys.argv, sys.path[0] and __main__ as ``python script.py`` sets them.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
import typer.core

import threadlets
from threadlets._user_error import STATUS_INTERRUPTED, STATUS_USAGE, UserError
from threadlets._user_traceback import without_our_frames
from threadlets.cli._default_loop import set_loop_factory


class RunCommand(typer.core.TyperCommand):
    """Leave everything after the script, or after ``-m MODULE``, to the script."""

    settings: ClassVar[dict[str, Any]] = {
        "allow_extra_args": True,
        "allow_interspersed_args": False,
    }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, _end_options_after_module(args))


def run(
    context: typer.Context,
    script: Annotated[
        str | None,
        typer.Argument(
            metavar="SCRIPT [ARGS]...",
            help="The program, then its own arguments, which are passed on untouched.",
            show_default=False,
        ),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option("-m", metavar="MODULE", help="Run a module, as `python -m MODULE` does."),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Switch on asyncio's debug mode in every loop.")
    ] = False,
) -> None:
    """Run an asyncio program, unedited, on the threadlets event loop.

    asyncio.run, asyncio.Runner and asyncio.new_event_loop all give the threadlets loop, and before
    CPython 3.14 so does asyncio.get_event_loop. The exit status is the program's own: 1 after an
    uncaught exception, 130 after Ctrl-C.
    """
    if module is not None:
        # With -m the first positional argument is no script: it belongs to the module.
        arguments = [*([] if script is None else [script]), *context.args]
        execute = _module_runner(module)
        sys.argv = [module, *arguments]
        _set_first_path(os.getcwd())
    elif script is not None:
        execute = _script_runner(script)
        sys.argv = [script, *context.args]
        # For a folder or a zip file with a __main__.py, runpy puts that in front of this.
        _set_first_path(str(Path(script).resolve().parent))
    else:
        raise UserError(
            fact="there is nothing to run",
            cause="neither a SCRIPT nor -m MODULE was given",
            remedy="threadlets run script.py, or threadlets run -m package.module",
            status=STATUS_USAGE,
        )
    set_loop_factory(functools.partial(_new_event_loop, debug=debug))
    raise SystemExit(_status_of(execute))


def _new_event_loop(*, debug: bool) -> threadlets.Loop:
    loop = threadlets.new_event_loop()
    if debug:
        loop.set_debug(True)
    return loop


def _end_options_after_module(args: list[str]) -> list[str]:
    """Insert ``--`` after ``-m MODULE``: all that follows belongs to the module, as with Python."""
    for position, argument in enumerate(args):
        if argument == "-m":
            end = position + 2
        elif argument.startswith("-m") and not argument.startswith("--"):
            end = position + 1
        elif argument.startswith("-") and argument != "--":
            continue
        else:
            return args
        return [*args[:end], "--", *args[end:]]
    return args


def _script_runner(script: str) -> Callable[[], object]:
    path = Path(script)
    if not path.exists():
        raise UserError(
            fact=f"cannot run '{script}'",
            cause=f"there is no such file in {Path.cwd()}",
            remedy="check the path; use -m for a module name",
            status=STATUS_USAGE,
        )
    if not os.access(path, os.R_OK):
        raise UserError(
            fact=f"cannot run '{script}'",
            cause="the file may not be read by this user",
            remedy=f"chmod u+r {script}, or run as its owner",
            status=STATUS_USAGE,
        )
    if path.is_dir() and not (path / "__main__.py").exists():
        raise UserError(
            fact=f"cannot run '{script}'",
            cause="it is a folder without a __main__.py",
            remedy="name the script inside it, or add a __main__.py",
            status=STATUS_USAGE,
        )
    return lambda: runpy.run_path(script, run_name="__main__")


def _module_runner(module: str) -> Callable[[], object]:
    def execute() -> object:
        # Finding a module imports its parent packages, so it is part of running the program.
        if not _can_run_module(module):
            raise UserError(
                fact=f"cannot run the module '{module}'",
                cause="no module of that name, or a package without a __main__, is on sys.path",
                remedy="check the name, run from the folder that holds it, or set PYTHONPATH",
                status=STATUS_USAGE,
            )
        return runpy.run_module(module, run_name="__main__", alter_sys=True)

    return execute


def _can_run_module(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{module}.__main__")
    except ModuleNotFoundError as error:
        # A missing parent is a mistake in the command line; a missing import inside a parent is a bug
        # in the program, and shown as such.
        if error.name is not None and f"{module}.__main__.".startswith(f"{error.name}."):
            return False
        raise
    except ValueError:
        return False
    return spec is not None


def _set_first_path(folder: str) -> None:
    """Set sys.path[0] as the interpreter would; with -P it adds no folder."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _status_of(execute: Callable[[], object]) -> int:
    """Run the program; show an uncaught exception as the interpreter would, minus our frames."""
    try:
        execute()
    except (UserError, SystemExit):
        raise
    except BaseException as error:
        # By way of the hook, since the program may have installed its own. Python's hook shows the
        # traceback of the exception, whatever its third argument is.
        shown = without_our_frames(error.__traceback__)
        sys.excepthook(type(error), error.with_traceback(shown), shown)
        return STATUS_INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
    return 0
