"""Checks of arguments as `io` makes them: with its exceptions, and before anything else is checked.

Knows nothing of files.
"""

from __future__ import annotations

import operator
import pickle
import sys
from typing import Any

_INT_MAX = 2**31 - 1
_BYTES_MAX = sys.maxsize - 33
"""The largest size of a bytes object."""


def size_of(value: Any, *, error: type[Exception] = OverflowError) -> int:
    """Return a size, in bytes or characters, or a position.

    Raises:
        TypeError: it is no integer.
        OverflowError: it does not fit into a machine word; `error`, if given, replaces this class.
    """
    if type(value) is not int:
        value = operator.index(value)
    if not -sys.maxsize <= value + 1 <= sys.maxsize + 1:
        raise error(f"cannot fit {type(value).__name__!r} into an index-sized integer")
    number: int = value
    return number


def size_or_all(value: Any) -> int:
    """Return a size like `size_of`; None gives -1, which means all.

    Raises:
        TypeError: it is neither an integer nor None.
    """
    if value is None:
        return -1
    if not hasattr(type(value), "__index__"):
        raise TypeError(f"argument should be integer or None, not {type(value).__name__!r}")
    return size_of(value)


def check_room(n_bytes: int) -> None:
    """Refuse a size that no bytes object can have.

    Raises:
        OverflowError: `n_bytes` is larger.
    """
    if n_bytes > _BYTES_MAX:
        raise OverflowError("byte string is too large")


def int_of(value: Any) -> int:
    """Return a number that the kernel takes as an int: a mode, or the `whence` of a seek.

    Raises:
        TypeError: it is no integer.
        OverflowError: it does not fit into a C int.
    """
    number = operator.index(value)
    if not -_INT_MAX - 1 <= number <= _INT_MAX:
        raise OverflowError("Python int too large to convert to C int")
    return number


def bytes_of(data: Any) -> memoryview:
    """Return the memory of bytes, or of any object with contiguous memory, as a view of bytes.

    Raises:
        TypeError: `data` has no buffer.
        BufferError: its memory is not contiguous.
    """
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not {type(data).__name__!r}") from None
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    # PickleBuffer also takes formats of structures, which memoryview.cast refuses.
    return view if view.format == "B" and view.ndim == 1 else pickle.PickleBuffer(view).raw()


def writable_bytes_of(buffer: Any) -> memoryview:
    """Return memory to write to, as a view of bytes.

    Raises:
        TypeError: `buffer` has no buffer, or a read-only one.
    """
    try:
        view = bytes_of(buffer)
    except (TypeError, ValueError, BufferError):
        view = memoryview(b"")
    if view.readonly:
        raise TypeError(
            f"argument must be read-write bytes-like object, not {type(buffer).__name__}"
        )
    return view
