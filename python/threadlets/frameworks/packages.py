"""Packages that do the adapting, and may be missing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class MissingPackage(ImportError):
    """A package that does the adapting is not installed, or its version is not one that is known."""


@contextlib.contextmanager
def needed(package: str, for_what: str) -> Iterator[None]:
    """Say what to install when an import in the block fails."""
    try:
        yield
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            cause, remedy = "is not installed", f"pip install {package}"
        else:
            cause = f"is of a version that differs inside from those known ({error})"
            remedy = f"pip install -U {package} threadlets"
        raise MissingPackage(
            f"cannot {for_what}: the package {package!r} {cause}; {remedy}", name=package
        ) from error
