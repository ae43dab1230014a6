"""``threadlets doctor``: what this machine offers, what threadlets makes of it, and what to change."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

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


def _conclude(report: Report, *, is_json: bool) -> None:
    """Print the report, and exit with its status."""
    if is_json:
        print(report.to_json())
    else:
        report.print(sys.stdout)
    raise typer.Exit(report.exit_status)
