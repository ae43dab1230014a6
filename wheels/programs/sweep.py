"""Files: a syslet over many of them, on the engine of this machine and on worker threads."""

import contextlib
import tempfile
from pathlib import Path

import threadlets
from threadlets.atoms import close, openat, read
from threadlets.testing import use_engine


@threadlets.syslet
def _head(path):
    fd = yield openat(path)
    data = yield read(fd, 4096)
    yield close(fd)
    return data


with tempfile.TemporaryDirectory() as folder:
    paths = [Path(folder) / str(n) for n in range(500)]
    for path in paths:
        path.write_text(path.name)
    for engine in (contextlib.nullcontext(), use_engine("workers")):
        with engine, threadlets.sweep(_head, map(str, paths), depth=64) as results:
            assert [path.name.encode() for path in paths] == [result.value for result in results]
    assert paths[0].read_bytes() == threadlets.run(threadlets.read_file(paths[0]))
