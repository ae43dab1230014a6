"""The ``threadlets`` command.

Exit statuses: 0 when all went well, 1 when the environment stood in the way (a taken port, too few
descriptors, an application that fails to start), 2 when the command line was wrong, 130 after a
forced stop by Ctrl-C. ``threadlets run`` passes the script's own status through.

Knows nothing of single commands: `_app` collects them, so a new command is one file and one line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from threadlets._user_error import UserError, print_error

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status.

    This is the one place where a `UserError` becomes text on standard error and an exit status.
    """
    try:
        _run_command(sys.argv[1:] if arguments is None else list(arguments))
    except UserError as error:
        print_error(error)
        sys.exit(error.status)


def _run_command(arguments: list[str]) -> None:
    # Imported here, so that without the `cli` extra there is a message instead of a traceback.
    try:
        from threadlets.cli._app import build_command
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        raise UserError(
            fact="the threadlets command cannot start",
            cause=f"the package '{error.name}' is not installed",
            remedy="pip install 'threadlets[cli]'",
            status=2,
            is_one_line=True,
        ) from None
    build_command().main(args=arguments, prog_name="threadlets")
