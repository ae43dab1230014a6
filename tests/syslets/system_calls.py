"""System calls as atoms make them: blocking, and with a negative errno for a failure."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_OPENAT2 = 437
_STATX = struct.Struct("<IIQIIIHxxQQQQ" + "qIi" * 4 + "IIIIQ")


def call(name: str, *args: Any) -> int:
    """Call a function of the C library and return its value, or the negative errno."""
    ctypes.set_errno(0)
    converted = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    value = getattr(_libc, name)(*converted)
    return -ctypes.get_errno() if value < 0 else int(value)


def openat2(dir_fd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    """Open a file; see openat2(2), for which the C library has no function."""
    how = struct.pack("<qqq", flags, mode, resolve)
    return call("syscall", _SYS_OPENAT2, dir_fd, path, how, len(how))


def statx(dir_fd: int, path: bytes, flags: int, mask: int) -> tuple[int, list[int]]:
    """Return 0 and the fields in the order of the table, or the negative errno and no fields."""
    raw = ctypes.create_string_buffer(256)
    value = call("statx", dir_fd, path, flags, mask, raw)
    if value < 0:
        return value, []
    status = _STATX.unpack_from(raw)
    _, blksize, attributes, nlink, uid, gid, mode, ino, size, blocks, _ = status[:11]
    seconds, nanoseconds = status[11:23:3], status[12:23:3]
    atime, btime, ctime, mtime = (
        s * 10**9 + ns for s, ns in zip(seconds, nanoseconds, strict=True)
    )
    rdev, dev = os.makedev(*status[23:25]), os.makedev(*status[25:27])
    own = [mode, nlink, uid, gid, ino, size, blocks, blksize]
    return 0, [*own, atime, mtime, ctime, btime, dev, rdev, attributes, status[27]]
