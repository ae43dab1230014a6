"""Files that tasks open, read, write, copy and walk without blocking the loop.

I/O is done by syslets (`threadlets.syslets`); calls for which there is no atom are threadlets.
"""

from threadlets.files.copying import copy_file
from threadlets.files.file import AsyncFile
from threadlets.files.opening import open  # noqa: A004 - it is what the builtin is
from threadlets.files.path import Path
from threadlets.files.walking import walk
from threadlets.files.whole import read_file, write_file

__all__ = ["AsyncFile", "Path", "copy_file", "open", "read_file", "walk", "write_file"]
