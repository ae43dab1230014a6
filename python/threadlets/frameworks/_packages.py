"""Optional packages that the adapters need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from threadlets.exceptions import MissingPackage


@contextlib.contextmanager
def require(package: str, for_what: str) -> Iterator[None]:
    """Raise `MissingPackage`, which says what to install, when an import in the block fails."""
    try:
        yield
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            cause, remedy = "is not installed", f"pip install {package}"
        else:
            cause = f"is of a version that is not supported ({error})"
            remedy = f"pip install -U {package} threadlets"
        raise MissingPackage(
            f"cannot {for_what}: the package {package!r} {cause}; {remedy}", name=package
        ) from error
