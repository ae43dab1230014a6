"""An HTTP server for ASGI and WSGI applications, and for folders.

`threadlets serve` is its command; `await threadlets.http.serve(app)` is the same in a program.
"""

from threadlets.exceptions import ConfigError
from threadlets.http._config import Config
from threadlets.http._server import serve

__all__ = ["Config", "ConfigError", "serve"]
