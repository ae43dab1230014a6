"""Bad arguments of `threadlets serve`: each mistake gets fact, cause and remedy, and no traceback."""

from __future__ import annotations

import errno
import os
import resource
import socket
from pathlib import Path

import pytest
from threadlets._user_error import UserError
from threadlets.cli._limits import raise_descriptor_limit
from threadlets.http._listen import bind_tcp, explain_tcp_refusal, explain_uds_refusal

from .conftest import APP, Completed, RunCommand, limit_descriptors

_NOT_APPS = """
number = 3
async def two(environ, start_response): pass
def either(*arguments): pass
def factory(): pass
def old(scope): pass
def four(scope, receive, send, more): pass
async def generator(scope, receive, send): yield
class App:
    async def __call__(self, scope, receive, send): pass
def broken_factory(): raise ValueError("no settings")
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path) -> None:
    """Put importable modules into the folder in which the command runs."""
    (tmp_path / "service.py").write_text(APP)
    (tmp_path / "wrong.py").write_text(_NOT_APPS)
    (tmp_path / "broken.py").write_text("def load():\n    import not_there\nload()\n")
    (tmp_path / "failing.py").write_text("1 / 0\n")


def _assert_explained(done: Completed, status: int, *words: str) -> None:
    assert status == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert ["error", "cause", "remedy"] == [line.partition(":")[0] for line in lines]
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize(
    ("target", "cause", "remedy"),
    [
        ("service", "the colon", "threadlets serve package.module:app"),
        ("service.py", "a file name", "threadlets serve package.module:app"),
        ("service:", "MODULE:ATTRIBUTE", "threadlets serve package.module:app"),
        (":app", "MODULE:ATTRIBUTE", "threadlets serve package.module:app"),
        ("..service:app", "MODULE:ATTRIBUTE", "threadlets serve package.module:app"),
        ("missing:app", "there is no module 'missing'", "--app-dir"),
        ("service.missing:app", "there is no module 'service.missing'", "--app-dir"),
        ("service:application", "it does define app", "after the colon"),
        ("nowhere/at/all", "there is no such folder", "check the path"),
        ("wrong:number", "it is a int and cannot be called", "async def app"),
        ("wrong:two", "two arguments, where ASGI passes scope", "async def app"),
        ("wrong:either", "as a WSGI one (two)", "--interface asgi"),
        ("wrong:factory", "no arguments", "--factory"),
        ("wrong:old", "ASGI 2", "asgiref"),
        ("wrong:four", "scope, receive and send", "async def app"),
        ("wrong:generator", "generator function", "async def app"),
        ("wrong:App", "a class, not an instance", "--factory"),
    ],
)
def test_wrong_app_names_the_remedy(
    command: RunCommand, target: str, cause: str, remedy: str
) -> None:
    """Something that is no application is a usage error, and the cause says why it is none."""
    _assert_explained(command("serve", target), 2, target.partition(":")[0], cause, remedy)


@pytest.mark.parametrize(
    ("module", "own_error"),
    [("broken", "No module named 'not_there'"), ("failing", "ZeroDivisionError")],
)
def test_error_inside_the_users_module_is_shown(
    command: RunCommand, module: str, own_error: str
) -> None:
    """A module that fails to import is shown with its own traceback and none of our frames."""
    done = command("serve", f"{module}:app")
    assert 1 == done.returncode
    assert f"{module}.py" in done.stderr
    assert own_error in done.stderr
    assert "remedy: fix the module" in done.stderr
    assert "/threadlets/" not in done.stderr
    assert "importlib" not in done.stderr


def test_failing_factory_is_shown(command: RunCommand) -> None:
    """A factory that raises is shown with its own traceback."""
    done = command("serve", "wrong:broken_factory", "--factory")
    assert 1 == done.returncode
    assert "ValueError: no settings" in done.stderr
    assert "/threadlets/" not in done.stderr


def test_missing_app_dir_names_the_remedy(command: RunCommand) -> None:
    """An --app-dir that does not exist is a usage error."""
    _assert_explained(command("serve", "service:app", "--app-dir", "nowhere"), 2, "--app-dir")


def test_taken_port_names_the_remedy(command: RunCommand) -> None:
    """A port on which another process listens is named, with a way to find that process."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = command("serve", "service:app", "--port", port)
    _assert_explained(done, 1, f"127.0.0.1:{port}", "taken", "EADDRINUSE", "another --port")


@pytest.mark.parametrize("port", ["-1", "65536", "99999"])
def test_port_out_of_range_names_the_range(command: RunCommand, port: str) -> None:
    """A port out of range is a usage error that names the range."""
    _assert_explained(command("serve", "service:app", "--port", port), 2, port, "65535", "--port")


def test_port_that_is_no_number_is_a_usage_error(command: RunCommand) -> None:
    """A port that is no number is refused by the parser of the command line."""
    done = command("serve", "service:app", "--port", "http")
    assert 2 == done.returncode
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_host_names_the_remedy(command: RunCommand) -> None:
    """A host name that does not resolve is explained; .invalid never resolves (RFC 2606)."""
    done = command("serve", "service:app", "--host", "nobody.invalid", "--port", "0")
    _assert_explained(done, 1, "nobody.invalid", "not known", "--host 127.0.0.1")


def test_privileged_port_names_the_remedy() -> None:
    """EACCES from bind is explained as a privileged port."""
    error = explain_tcp_refusal(PermissionError(errno.EACCES, "denied"), "0.0.0.0", 80)
    assert (1, "cannot listen on 0.0.0.0:80") == (error.status, error.fact)
    assert "privileged" in error.cause
    assert "CAP_NET_BIND_SERVICE" in error.remedy


def test_foreign_address_names_the_remedy() -> None:
    """Listening on an address of another machine is refused with a remedy."""
    # 192.0.2.0/24 is reserved for documentation (RFC 5737): no machine has such an address.
    with pytest.raises(UserError) as caught:
        bind_tcp("192.0.2.1", 0)
    assert "no such address" in caught.value.cause
    assert "--host 0.0.0.0" in caught.value.remedy


@pytest.mark.parametrize(
    ("path", "cause", "remedy"),
    [
        ("nowhere/web.sock", "there is no folder", "mkdir -p"),
        ("service.py/web.sock", "is not a folder", "another --uds path"),
        ("service.py", "a file that is no socket", "remove the file"),
        ("x" * 200, "the system allows 107", "a shorter --uds path"),
    ],
)
def test_unusable_uds_path_names_the_remedy(
    command: RunCommand, path: str, cause: str, remedy: str
) -> None:
    """A path that cannot hold a Unix socket is explained."""
    _assert_explained(command("serve", "service:app", "--uds", path), 1, path, cause, remedy)


def test_unwritable_uds_folder_names_the_remedy() -> None:
    """EACCES from a Unix bind is explained as a folder that this user may not write to."""
    error = explain_uds_refusal(PermissionError(errno.EACCES, "denied"), "/srv/web.sock")
    assert "/srv may not be written to" in error.cause
    assert "--uds" in error.remedy


def test_taken_uds_path_names_the_remedy(command: RunCommand, tmp_path: Path) -> None:
    """A socket that another server answers on is left alone."""
    path = tmp_path / "web.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        done = command("serve", "service:app", "--uds", str(path))
    _assert_explained(done, 1, "another server listens there", "another --uds path")
    assert path.exists()


def test_too_few_descriptors_name_the_remedy(command: RunCommand) -> None:
    """Below 256 descriptors the server refuses to start and names ulimit."""
    limits = limit_descriptors((100, 100))
    done = command("serve", "service:app", "--port", "0", preexec_fn=limits)
    _assert_explained(done, 1, "only 100 file descriptors", "ulimit -n")


def test_limit_that_suffices_is_left_alone() -> None:
    """The soft limit is raised only if it is below the need."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = raise_descriptor_limit(n_needed=256)
    assert not limit.was_raised
    assert before == resource.getrlimit(resource.RLIMIT_NOFILE)


def test_failed_lifespan_is_an_environment_error(command: RunCommand, tmp_path: Path) -> None:
    """An application that refuses to start ends the server with its message and status 1."""
    (tmp_path / "refusing.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    done = command("serve", "refusing:app", "--port", "0")
    assert 1 == done.returncode
    assert "no database" in done.stderr
    assert "error: the application did not start" in done.stderr
    assert "remedy:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        (("--spa", "index.html"), "--spa"),
        (("--listing",), "--listing"),
        (("--dot-files",), "--dot-files"),
        (("--no-index",), "--no-index"),
        (("--no-precompressed",), "--no-precompressed"),
        (("--cache-control", "no-store"), "--cache-control"),
    ],
)
def test_options_of_folders_are_refused_for_applications(
    command: RunCommand, option: tuple[str, ...], shown: str
) -> None:
    """They would be ignored otherwise."""
    done = command("serve", "service:app", "--port", "0", *option)
    fact = f"{shown} cannot be used for 'service:app'"
    _assert_explained(done, 2, fact, "this is for folders", "serve a folder")


def test_workers_refuse_options_of_folders_once(command: RunCommand) -> None:
    """The supervisor does not know what is served; the first worker says it, and nothing is restarted."""
    done = command("serve", "service:app", "--port", "0", "--listing", "--workers", "2")
    assert 2 == done.returncode
    assert 1 == done.stderr.count("--listing cannot be used for 'service:app'")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may bind any port")
def test_privileged_port_is_refused_by_the_system(command: RunCommand) -> None:
    """The kernel's refusal of port 1 is explained, where this user is not privileged."""
    _assert_explained(command("serve", "service:app", "--port", "1"), 1, "privileged")
