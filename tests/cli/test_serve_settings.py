"""Options of `threadlets serve`: their order, and what is refused wherever it is from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from threadlets.cli import _serving
from threadlets.cli._app import build_command

from .conftest import Completed, RunCommand
from .test_serve import Serve, _answer, _asked


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what a command line, variables and a table make: the parsed launch and the options."""

    def parse(
        *arguments: str, table: str = "", environment: dict[str, str] | None = None
    ) -> dict[str, Any]:
        parsed: dict[str, Any] = {}

        def keep_launch(launch: Any, *more: Any) -> int:
            parsed.update(vars(launch.config))
            parsed.update(target=launch.target, factory=launch.factory, more=more)
            return 0

        (tmp_path / "pyproject.toml").write_text(f"[tool.threadlets.serve]\n{table}")
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for name, value in (environment or {}).items():
                patch.setenv(name, value)
            patch.setattr(_serving, "_serve_in_this_process", keep_launch)
            patch.setattr(_serving, "_supervise", keep_launch)
            with pytest.raises(SystemExit) as ended:
                build_command().main(args=["serve", *arguments], prog_name="threadlets")
        assert not ended.value.code
        return parsed

    return parse


def test_the_command_line_comes_first_then_variables_then_the_table(parse: Any) -> None:
    """Each of them overrides those that follow; the default is the last."""
    table = "port = 1001"
    environment = {"THREADLETS_PORT": "1002"}
    typed = ("app:app", "--port", "1003")
    assert 8000 == parse("app:app")["port"]
    assert 1001 == parse("app:app", table=table)["port"]
    assert 1002 == parse("app:app", table=table, environment=environment)["port"]
    assert 1003 == parse(*typed, table=table, environment=environment)["port"]


def test_everything_can_be_in_the_table(parse: Any) -> None:
    """Numbers, texts, flags and lists; keys with hyphens or underscores; the target, too."""
    parsed = parse(
        table="""
target = "package.module:make"
factory = true
timeout-keep-alive = 1.5
ws_ping_interval = 7
proxy-headers = true
access-log = false
header = ["x-a: 1, 2", "x-b:3"]
workers = 3
log-level = "debug"
"""
    )
    expected = {
        "target": "package.module:make",
        "factory": True,
        "timeout_keep_alive": 1.5,
        "ws_ping_interval": 7.0,
        "proxy_headers": True,
        "access_log": None,
        "headers": (("x-a", "1, 2"), ("x-b", "3")),
        "more": (3, None),
        "log_level": "debug",
    }
    assert expected == {name: parsed[name] for name in expected}


def test_everything_can_be_a_variable(parse: Any) -> None:
    """Flags are true or false; of what can be given many times, each stands on a line."""
    parsed = parse(
        environment={
            "THREADLETS_TARGET": "package.module:app",
            "THREADLETS_ACCESS_LOG_FORMAT": "json",
            "THREADLETS_SERVER_HEADER": "false",
            "THREADLETS_HEADER": "x-a: 1 2\nx-b:3",
            "THREADLETS_WORKERS": "auto",
            "THREADLETS_HOST": "",
        }
    )
    expected = {
        "target": "package.module:app",
        "access_log": "json",
        "server_header": False,
        "headers": (("x-a", "1 2"), ("x-b", "3")),
        # A variable that is empty is one that is not set.
        "host": "127.0.0.1",
    }
    assert expected == {name: parsed[name] for name in expected}
    assert parsed["more"][0] >= 1


def test_a_flag_of_the_table_can_be_taken_back(parse: Any) -> None:
    """Each flag has an opposite."""
    assert parse("app:app", table="proxy-headers = true")["proxy_headers"] is True
    assert (
        parse("app:app", "--no-proxy-headers", table="proxy-headers = true")["proxy_headers"]
        is False
    )


def _refused(done: Completed, *words: str) -> None:
    assert 2 == done.returncode, done.stderr
    lines = done.stderr.splitlines()
    assert ["error", "cause", "remedy"] == [line.partition(":")[0] for line in lines]
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("timeout_keepalive = 3", ("unknown key 'timeout_keepalive'", "use 'timeout-keep-alive'")),
        ("frobnicate = 3", ("unknown key 'frobnicate'", "--help")),
        ("port = 99999", ("'port' in [tool.threadlets.serve]", "65535")),
        ('port = "http"', ("'port' in [tool.threadlets.serve]", "'http'")),
        ('access-log = "json"', ("'access-log' in", "true or false")),
        ('header = "a:b"', ("'header' in", "a list of strings")),
        ("host = [1]", ("'host' in", "a string or a number")),
        ('log-level = "loud"', ("'log-level' in", "debug, info")),
        ("port = ", ("cannot read pyproject.toml", "line 2")),
    ],
)
def test_mistakes_in_the_table_are_refused(
    command: RunCommand, tmp_path: Path, table: str, words: tuple[str, ...]
) -> None:
    """An unknown key, or a value that cannot be: with the key and where it stands."""
    (tmp_path / "pyproject.toml").write_text(f"[tool.threadlets.serve]\n{table}\n")
    _refused(command("serve", "app:app"), *words)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("THREADLETS_PORT", "http", ("THREADLETS_PORT cannot be 'http'",)),
        ("THREADLETS_PORT", "99999", ("THREADLETS_PORT cannot be 99999", "65535")),
        ("THREADLETS_FACTORY", "perhaps", ("THREADLETS_FACTORY cannot be 'perhaps'",)),
        ("THREADLETS_HEADER", "a", ("THREADLETS_HEADER cannot be 'a'", "NAME:VALUE")),
    ],
)
def test_mistakes_in_variables_are_refused(
    command: RunCommand, name: str, value: str, words: tuple[str, ...]
) -> None:
    """With the name of the variable."""
    _refused(command("serve", "app:app", env=os.environ | {name: value}), *words)


def test_a_slip_in_a_variable_is_reported(command: RunCommand) -> None:
    """It is no error: others may use the prefix."""
    environment = os.environ | {"THREADLETS_TIMEOUT_KEEPALIVE": "3", "THREADLETS_MINE": "3"}
    done = command("serve", env=environment)
    first, *rest = done.stderr.splitlines()
    assert (
        "warning: THREADLETS_TIMEOUT_KEEPALIVE is no option; THREADLETS_TIMEOUT_KEEP_ALIVE is"
        == first
    )
    assert "error: there is nothing to serve" == rest[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("nothing to serve", "threadlets serve FOLDER")),
        (("--header", "a"), ("--header cannot be 'a'", "colon", "NAME:VALUE")),
        (("--header", "a b:c"), ("--header cannot be 'a b: c'", "no name of a header")),
        (("--workers", "0"), ("--workers cannot be '0'", "auto")),
        (("--workers", "many"), ("--workers cannot be 'many'", "auto")),
        (("--reload", "--workers", "2"), ("cannot be used together", "SIGHUP")),
        (("--reload", "--reload-dir", "nowhere"), ("cannot watch 'nowhere'", "--reload-dir")),
        (("--uds", "a", "--fd", "3"), ("--fd cannot be 3", "one of fd and uds")),
        (("--ssl-keyfile", "key.pem"), ("--ssl-keyfile cannot be", "give --ssl-certfile")),
        (("--timeout-keep-alive", "-1"), ("--timeout-keep-alive cannot be -1.0", "0 or more")),
        (("--limit-request-line", "70000"), ("--limit-request-head or less",)),
        (("--interface", "rsgi"), ("--interface cannot be 'rsgi'", "asgi, wsgi, static")),
        (("--access-log-format", "xml"), ("--access-log-format cannot be 'xml'", "plain, json")),
        (("--no-access-log", "--access-log-format", "xml"), ("--access-log-format cannot",)),
        (("--forwarded-allow-ips", "proxy"), ("--forwarded-allow-ips cannot be 'proxy'", "*")),
        (("--ssl-cert-reqs", "2"), ("--ssl-cert-reqs cannot be 2", "give --ssl-ca-certs")),
        (("--metrics", "metrics"), ("--metrics cannot be 'metrics'", ":9100")),
    ],
)
def test_mistakes_on_the_command_line_are_refused(
    command: RunCommand, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """With the option's name, why it cannot be, and what can."""
    target = ("app:app",) if arguments else ()
    _refused(command("serve", *target, *arguments), *words)


@pytest.mark.parametrize("option", ["--keep-alive", "--graceful-timeout"])
def test_options_of_earlier_versions_are_unknown(command: RunCommand, option: str) -> None:
    """They have uvicorn's names now, which the parser suggests or lists."""
    done = command("serve", "app:app", option, "3")
    assert 2 == done.returncode
    assert option in done.stderr


def test_help_groups_the_options(command: RunCommand) -> None:
    """By what they are about, and says where else they can be."""
    done = command("serve", "--help")
    assert 0 == done.returncode
    for group in ("Application", "Listening", "Processes", "TLS", "Limits", "Static files"):
        assert f" {group}" in done.stdout
    assert "[tool.threadlets.serve]" in done.stdout


def test_options_reach_the_server(serve: Serve) -> None:
    """Headers, and the form of the access log."""
    server = serve(
        *("service:app", "--port", "0", "--no-server-header", "--header", "x-served-by: a b"),
        *("--access-log-format", "json"),
    )
    with _asked(server.port(), "/?x=1") as client:
        answer = _answer(client)
    assert "x-served-by: a b" in answer
    assert "server: " not in answer
    server.wait_for(r'"path":"/","query":"x=1","http_version":"1.1","status":200')


def test_folders_are_served(serve: Serve, tmp_path: Path) -> None:
    """Their files are the answers."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("Loop")
    server = serve("files", "--port", "0")
    with _asked(server.port(), "/a.txt") as client:
        assert _answer(client).endswith("\r\n\r\nLoop")


def test_wsgi_applications_are_served(serve: Serve, tmp_path: Path) -> None:
    """They are known by their arguments."""
    pytest.importorskip("a2wsgi")
    (tmp_path / "gateway.py").write_text(
        "def app(environ, start_response):\n"
        "    start_response('200 OK', [])\n"
        "    return [b'Loop']\n"
    )
    server = serve("gateway:app", "--port", "0")
    with _asked(server.port(), "/") as client:
        assert _answer(client).endswith("Loop")
