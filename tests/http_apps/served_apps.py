"""The applications of `apps`, and the real command `threadlets serve`, whose output is read."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from waiting import wait_until

_STOP_S = 20.0
_SERVING = re.compile(r"Serving \S+ on http://[\d.]+:(\d+)")


APPS = Path(__file__).parent / "apps"


@dataclass(frozen=True)
class Application:
    """One of the applications of `apps`: its target, and what it needs."""

    name: str
    target: str
    packages: tuple[str, ...]
    has_websockets: bool = False

    @property
    def is_wsgi(self) -> bool:
        """Whether it is an application of WSGI."""
        return self.name.endswith("wsgi")


APPLICATIONS = (
    Application("starlette", "app_starlette:app", ("starlette", "aiosqlite", "multipart"), True),
    Application("fastapi", "app_fastapi:app", ("fastapi", "sqlalchemy", "multipart"), True),
    Application("litestar", "app_litestar:app", ("litestar",), True),
    Application("django-asgi", "app_django:app", ("django",)),
    Application("django-wsgi", "app_django:wsgi", ("django",)),
    Application("flask-wsgi", "app_flask:app", ("flask",)),
)


class Served:
    """A server that runs in a process of its own."""

    def __init__(
        self, target: str, *arguments: str, folder: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # `stop` closes it.
        command = [sys.executable, "-X", "dev", "-W", "ignore", "-m", "threadlets"]
        self.process = subprocess.Popen(
            [*command, "serve", target, "--port", "0", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(variables or {}),
        )
        wait_until(self._is_up)
        found = _SERVING.search(self.output())
        assert found is not None, f"the server did not start:\n{self.output()}"
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def _is_up(self) -> bool:
        return self.process.poll() is not None or _SERVING.search(self.output()) is not None

    def output(self) -> str:
        """Return what it has printed so far."""
        descriptor = self._output.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def stop(self) -> int:
        """Stop it as an administrator does; return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self._output.close()
