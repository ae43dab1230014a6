"""`Config`: its defaults, what each field refuses and why."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from threadlets.http import Config, ConfigError


def test_defaults_are_valid_and_survive_json() -> None:
    """A configuration goes to a worker as JSON, and is the same there."""
    for config in (Config(), Config(headers=(("x-a", "1"),), ws_ping_timeout=0, fd=3, port=0)):
        assert config == Config(**json.loads(json.dumps(config.as_json())))


def test_each_field_is_checked() -> None:
    """No field takes just anything."""
    for field in dataclasses.fields(Config):
        with pytest.raises(ConfigError) as caught:
            Config(**{field.name: object()})
        assert field.name == caught.value.field


@pytest.mark.parametrize(
    ("field", "value", "cause"),
    [
        ("interface", "rsgi", "one of auto, asgi, wsgi, static"),
        ("lifespan", "yes", "one of auto, on, off"),
        ("port", -1, "between 0 and 65535"),
        ("port", 65536, "between 0 and 65535"),
        ("port", True, "between 0 and 65535"),
        ("port", "80", "between 0 and 65535"),
        ("uds", "", "it is empty"),
        ("fd", -1, "descriptors lie between"),
        ("backlog", 0, "backlogs lie between"),
        ("root_path", "api", "begins with a slash"),
        ("root_path", "/api/", "ends without one"),
        ("forwarded_allow_ips", "10.0.0.0/33", "neither an address nor a network"),
        ("forwarded_allow_ips", "10.0.0.1/8", "host bits set"),
        ("forwarded_allow_ips", "proxy", "'proxy' is neither"),
        ("headers", (("a b", "c"),), "'a b' is no name of a header"),
        ("headers", (("a", "b\r\nc: d"),), "the value of a has characters"),
        ("headers", (("a", "b\0"),), "the value of a has characters"),
        ("headers", (("a", "é"),), "not ASCII"),
        ("headers", ("a",), "pairs of a name and a value"),
        ("cache_control", "no\ncache", "the value of cache-control has characters"),
        ("access_log", "xml", "one of plain, json, None"),
        ("log_level", "loud", "one of debug, info, warning, error"),
        ("metrics", "metrics", "begins with a slash"),
        ("metrics", "/a b", "begins with a slash"),
        ("metrics", ":0", "between 1 and 65535"),
        ("metrics", ":http", "between 1 and 65535"),
        ("limit_concurrency", 0, "numbers lie between"),
        ("limit_concurrency", 1.5, "whole numbers"),
        ("limit_request_body", -1, "bytes lie between"),
        ("limit_request_line", 70_000, "a part of the head"),
        ("timeout_keep_alive", -1, "0 or more"),
        ("timeout_keep_alive", float("nan"), "0 or more"),
        ("timeout_keep_alive", float("inf"), "0 or more"),
        ("timeout_request_head", 0, "nothing would arrive in time"),
        ("spa", "../index.html", "in the folder that is served"),
        ("spa", "/etc/passwd", "in the folder that is served"),
        ("ssl_keyfile", "key.pem", "there is none"),
        ("ssl_keyfile_password", "secret", "there is none"),
        ("ssl_ca_certs", "ca.pem", "TLS only"),
        ("ssl_cert_reqs", 3, "0 (none), 1 (optional) or 2 (required)"),
        ("ssl_cert_reqs", 1, "there are none"),
        ("worker_threads", "gevent", "one of threadlets, anyio"),
    ],
)
def test_wrong_values_are_refused_by_name(field: str, value: Any, cause: str) -> None:
    """The message has the field, the value, why it cannot be, and what can."""
    with pytest.raises(ConfigError) as caught:
        Config(**{field: value})
    error = caught.value
    assert field == error.field
    assert cause in error.cause
    assert error.remedy
    assert str(error).startswith(f"{field} cannot be ")


def test_fd_and_uds_exclude_each_other() -> None:
    """A server listens on one of them."""
    with pytest.raises(ConfigError, match="one of fd and uds"):
        Config(fd=3, uds="/tmp/socket")
