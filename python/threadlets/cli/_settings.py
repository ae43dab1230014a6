"""Options that are not on the command line: from the environment, or from pyproject.toml.

The command line comes first, then `THREADLETS_<OPTION>`, then the table `[tool.threadlets.serve]` of the
pyproject.toml in the working directory, then the default.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from threadlets._user_error import STATUS_USAGE, UserError

_PREFIX = "THREADLETS_"
_FILE = "pyproject.toml"
_TABLE = "[tool.threadlets.serve]"
#: How alike a variable must be to an option to be reported as a slip.
_SIMILARITY = 0.85


@dataclass(frozen=True)
class Setting:
    """A value that is not from the command line; `source` says where it is from."""

    value: Any
    source: str


@dataclass(frozen=True)
class Parameter:
    """What the command takes: whether it may be given many times, and whether it is on or off."""

    is_many: bool = False
    is_flag: bool = False


def find_settings(parameters: Mapping[str, Parameter]) -> dict[str, Setting]:
    """Return the settings for these parameters, by name, from the environment or else the table."""
    return _from_table(parameters) | _from_environment(parameters)


def _from_environment(parameters: Mapping[str, Parameter]) -> dict[str, Setting]:
    settings = {}
    for variable, text in os.environ.items():
        if not variable.startswith(_PREFIX):
            continue
        name = variable.removeprefix(_PREFIX).lower()
        if (parameter := parameters.get(name)) is None:
            # Others have variables with this prefix, too, so that an unknown one is no error.
            if similar := _similar(name, parameters, _SIMILARITY):
                meant = f"{_PREFIX}{similar.upper()}"
                print(f"warning: {variable} is no option; {meant} is", file=sys.stderr)
        elif text:
            # Values may have spaces and commas in them, so that many stand on a line each.
            value = text.splitlines() if parameter.is_many else text
            settings[name] = Setting(value, variable)
    return settings


def _from_table(parameters: Mapping[str, Parameter]) -> dict[str, Setting]:
    settings = {}
    for key, value in _read_table().items():
        name = key.replace("-", "_").lower()
        source = f"{key!r} in {_TABLE} of {_FILE}"
        if (parameter := parameters.get(name)) is None:
            similar = _similar(name, parameters)
            hint = f"use {similar.replace('_', '-')!r}, or " if similar else ""
            raise UserError(
                fact=f"unknown key {key!r} in {_TABLE} of {_FILE}",
                cause="the keys are the long options of `threadlets serve`, without their hyphens "
                "in front",
                remedy=f"{hint}see `threadlets serve --help`",
                status=STATUS_USAGE,
            )
        if (kind := _expected(value, parameter)) is not None:
            raise UserError(
                fact=f"{source} cannot be {value!r}",
                cause=f"it must be {kind}",
                remedy="see `threadlets serve --help`",
                status=STATUS_USAGE,
            )
        settings[name] = Setting(value, source)
    return settings


def _expected(value: Any, parameter: Parameter) -> str | None:
    """Return what a TOML value should be, if it is something else."""
    if parameter.is_flag:
        return None if isinstance(value, bool) else "true or false"
    if parameter.is_many:
        is_list = isinstance(value, list) and all(isinstance(it, str) for it in value)
        return None if is_list else "a list of strings"
    is_single = isinstance(value, str | int | float) and not isinstance(value, bool)
    return None if is_single else "a string or a number"


def _read_table() -> Mapping[str, Any]:
    try:
        with open(_FILE, "rb") as file:
            document = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            fact=f"cannot read {_FILE} in {os.getcwd()}",
            cause=str(error),
            remedy="correct it, or run in another folder",
            status=STATUS_USAGE,
        ) from None
    table: Any = document
    for name in ("tool", "threadlets", "serve"):
        table = table.get(name, {}) if isinstance(table, dict) else {}
    return table if isinstance(table, dict) else {}


def _similar(name: str, names: Collection[str], cutoff: float = 0.6) -> str | None:
    found = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    return found[0] if found else None
