"""Servers that have no command line, or none for what is measured: ``… launch SERVER APPLICATION PORT``."""

from __future__ import annotations

import sys
from typing import Any

from benches.seed import applications

_HOST = "127.0.0.1"


def _gevent(application: Any, port: int, backlog: int) -> None:
    from gevent.pywsgi import WSGIServer

    WSGIServer((_HOST, port), application, backlog=backlog, log=None).serve_forever()


def _fastpysgi(application: Any, port: int, backlog: int) -> None:
    import fastpysgi

    fastpysgi.server.backlog = backlog
    fastpysgi.run(application, host=_HOST, port=port)


def main(server: str, application: str, port: str, backlog: str) -> None:
    """Serve until killed."""
    serve = {"gevent": _gevent, "fastpysgi": _fastpysgi}[server]
    serve(getattr(applications, application), int(port), int(backlog))


if __name__ == "__main__":
    main(*sys.argv[1:])
