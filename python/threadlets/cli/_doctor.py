"""``threadlets doctor``: what this machine offers, what threadlets makes of it, and what to change."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from threadlets.cli._doctor_app import examine_application
from threadlets.cli._doctor_fp import check_floating_point
from threadlets.cli._doctor_machine import examine_interpreter, examine_machine
from threadlets.cli._doctor_runtime import examine_runtime
from threadlets.cli._findings import Report

_EPILOG = "Exit status: 0, or 1 if something is a problem. Warnings and notes change nothing."

doctor = typer.Typer(
    help="Say what this machine offers, what threadlets makes of it, and what to change.",
    epilog=_EPILOG,
    invoke_without_command=True,
)
doctor.command(name="fp")(check_floating_point)

_Json = Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")]


@doctor.callback()
def _examine_machine(context: typer.Context, json: _Json = False) -> None:
    """Say what this machine offers, what threadlets makes of it, and what to change."""
    if context.invoked_subcommand is None:
        _conclude(
            Report(
                {
                    "This machine": examine_machine(),
                    "This interpreter": examine_interpreter(),
                    "What threadlets does here": examine_runtime(),
                }
            ),
            is_json=json,
        )


@doctor.command(name="app", epilog=_EPILOG)
def _examine_application(
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help="MODULE:ATTRIBUTE, as for `threadlets serve`."),
    ],
    app_dir: Annotated[
        str, typer.Option("--app-dir", metavar="FOLDER", help="The folder to import it from.")
    ] = ".",
    factory: Annotated[
        bool, typer.Option("--factory", help="TARGET is a function that returns the application.")
    ] = False,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            min=0.1,
            metavar="SECONDS",
            help="How long import, start-up and shutdown may take, each.",
        ),
    ] = 20.0,
    json: _Json = False,
) -> None:
    """Import an application and run its start-up, and name what will hurt it on a threadlets loop.

    It is imported in a process of its own, which ends before the command does, together with
    whatever it has started. What the application prints goes to standard error.
    """
    findings = examine_application(target, app_dir=app_dir, factory=factory, limit_s=timeout)
    _conclude(Report({f"The application {target}": findings}), is_json=json)


def _conclude(report: Report, *, is_json: bool) -> None:
    """Print the report, and exit with its status."""
    if is_json:
        print(report.to_json())
    else:
        report.print(sys.stdout)
    raise typer.Exit(report.exit_status)
