"""TLS as the configuration asks for it: the options that the native server takes."""

from __future__ import annotations

from typing import Any

from threadlets import _core
from threadlets._user_error import UserError
from threadlets.http._config import Config


def tls_options(config: Config) -> dict[str, Any] | None:
    """Return the options of TLS, if it is asked for; they can be used.

    Raises:
        UserError: a file cannot be read, or what is in it cannot be used.
    """
    if config.ssl_certfile is None:
        return None
    authorities = None if config.ssl_cert_reqs == 0 else config.ssl_ca_certs
    options = {
        "certificates": config.ssl_certfile,
        "key": config.ssl_keyfile,
        "key_password": config.ssl_keyfile_password,
        "client_authorities": authorities,
        "requires_client_certificate": authorities is not None and config.ssl_cert_reqs != 1,
    }
    try:
        _core.HttpServer.check_tls(options)
    except OSError as error:
        raise UserError(
            fact="TLS cannot be set up",
            cause=f"'{error.filename}' cannot be read: {error.strerror}",
            remedy="check --ssl-certfile, --ssl-keyfile and --ssl-ca-certs",
        ) from None
    except ValueError as error:
        cause, _, remedy = str(error).rpartition("; ")
        raise UserError(fact="TLS cannot be set up", cause=cause, remedy=remedy) from None
    return options
