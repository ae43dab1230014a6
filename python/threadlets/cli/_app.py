"""The list of commands. A new command is a function in a file of its own and one line here."""

from __future__ import annotations

import platform
from typing import Annotated, Any

import typer

import threadlets
from threadlets.cli._doctor import doctor
from threadlets.cli._repl import run_repl
from threadlets.cli._run import RunCommand, run
from threadlets.cli._serve import ServeCommand, serve

_EPILOG = (
    "Exit status: 0 success, 1 the environment stands in the way, 2 wrong usage, "
    "130 forced stop by Ctrl-C."
)


def build_command() -> Any:
    """Assemble the command group; its `main` method parses arguments and exits."""
    app = typer.Typer(
        help="Run and serve asyncio programs on the threadlets event loop.",
        epilog=_EPILOG,
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    app.command(name="run", cls=RunCommand, context_settings=RunCommand.settings)(run)
    app.command(name="repl")(_repl_command)
    app.command(name="serve", cls=ServeCommand, epilog=_EPILOG)(serve)
    app.add_typer(doctor, name="doctor")
    # Not `app()`: that replaces sys.excepthook, which belongs to the script of `threadlets run`.
    return typer.main.get_command(app)


def _repl_command(
    debug: Annotated[
        bool, typer.Option("--debug", help="Switch on asyncio's debug mode in the loop.")
    ] = False,
) -> None:
    """Open a prompt at which code can be awaited, on a threadlets loop.

    `python -m threadlets` without arguments is the same. Tasks go on while the prompt waits; Ctrl-C
    cancels what is awaited; the tasks that are left at the end are cancelled.
    """
    raise SystemExit(run_repl(debug=debug))


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo("\n".join(_version_lines()))
        raise typer.Exit


def _global_options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            help="Show version, build and engine, and exit.",
            # Eager, so that it comes before the error for a missing command.
            callback=_show_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Declare the options that come before the command."""


def _version_lines() -> list[str]:
    """Return what a bug report needs: the version, the build, the platform and the engine."""
    return [
        f"threadlets {threadlets.__version__}",
        f"core: {threadlets.__build__}",
        f"runs on: {platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.release()} {platform.machine()}",
        f"engine: {_engine()}",
    ]


def _engine() -> str:
    try:
        engine = threadlets.engine()
    except (OSError, ValueError) as error:
        return f"none: {error}"
    details = [", ".join(engine.features), engine.note or ""]
    return ": ".join([engine.kind, "; ".join(filter(None, details)) or "no optional features"])
