"""Files: opened, read, written, copied and walked over in tasks, none of which keep a thread waiting.

Everything is programs of atoms (`threadlets.syslets`); what there is no atom for is called as a
threadlet.
"""

from threadlets.files.copying import copy_file
from threadlets.files.file import AsyncFile
from threadlets.files.opening import open  # noqa: A004 - it is what the builtin is
from threadlets.files.path import Path
from threadlets.files.walking import walk
from threadlets.files.whole import read_file, write_file

__all__ = ["AsyncFile", "Path", "copy_file", "open", "read_file", "walk", "write_file"]
