"""What TARGET is: folders, ASGI and WSGI applications, told apart by how they can be called."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from threadlets._user_error import UserError
from threadlets.http._target import check_app, load_target


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...
def wsgi(environ: Any, start_response: Any) -> list[bytes]: ...
def wsgi_generator(environ: Any, start_response: Any) -> Any:
    yield b""


def returns_coroutine(scope: Any, receive: Any, send: Any) -> Any: ...
def wsgi_with_more(environ: Any, start_response: Any, more: Any = None) -> list[bytes]: ...
def asgi_with_default(scope: Any, receive: Any, send: Any = None) -> Any: ...
async def asgi_any(*arguments: Any) -> None: ...
def wsgi_any(*arguments: Any) -> list[bytes]: ...


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...
    async def method(self, scope: Any, receive: Any, send: Any) -> None: ...


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]: ...


class WsgiResponse:
    def __init__(self, environ: Any, start_response: Any) -> None: ...
    def __iter__(self) -> Any: ...


class Awaitable:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...
    def __await__(self) -> Any: ...


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (asgi, "asgi"),
        (returns_coroutine, "asgi"),
        (asgi_with_default, "asgi"),
        (asgi_any, "asgi"),
        (AsgiObject(), "asgi"),
        (AsgiObject().method, "asgi"),
        (Awaitable, "asgi"),
        (functools.partial(asgi), "asgi"),
        (wsgi, "wsgi"),
        (wsgi_generator, "wsgi"),
        (wsgi_with_more, "wsgi"),
        (WsgiObject(), "wsgi"),
        (WsgiResponse, "wsgi"),
        (functools.partial(wsgi), "wsgi"),
    ],
)
def test_an_application_is_known_by_its_arguments(app: Any, expected: str) -> None:
    """Three are ASGI's, two WSGI's; where both would do, coroutines and names decide."""
    assert (expected, app) == check_app(app, "app")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("starlette.applications:Starlette", "asgi"),
        ("fastapi:FastAPI", "asgi"),
        ("litestar:Litestar", "asgi"),
        ("flask:Flask", "wsgi"),
        ("django.core.handlers.asgi:ASGIHandler", "asgi"),
        ("django.core.handlers.wsgi:WSGIHandler", "wsgi"),
    ],
)
def test_frameworks_are_known(name: str, expected: str) -> None:
    """Their applications are what one names."""
    module, _, attribute = name.partition(":")
    make = getattr(pytest.importorskip(module), attribute)
    # Django's cannot be made without settings.
    app = (
        make.__new__(make) if module.startswith("django") else make(*["name"][: expected == "wsgi"])
    )
    assert expected == check_app(app, "app")[0]


@pytest.mark.parametrize(
    ("app", "interface", "cause"),
    [
        (asgi, "wsgi", "asynchronous, as an ASGI application is"),
        (wsgi, "asgi", "as a WSGI application does"),
        (asgi, "static", "it is a function"),
        (wsgi_any, "auto", "as a WSGI one (two)"),
        (WsgiObject, "wsgi", "a class, not an instance"),
        (returns_coroutine, "wsgi", "cannot be called with environ and start_response"),
        (3, "wsgi", "it is a int and cannot be called"),
    ],
)
def test_what_does_not_fit_the_interface_is_refused(app: Any, interface: Any, cause: str) -> None:
    """With the reason, and status 2."""
    with pytest.raises(UserError) as caught:
        check_app(app, "app", interface=interface)
    assert cause in caught.value.cause
    assert 2 == caught.value.status


@pytest.mark.parametrize(("app", "interface"), [(wsgi_any, "wsgi"), (wsgi_any, "asgi")])
def test_the_interface_can_be_said(app: Any, interface: Any) -> None:
    """Where it cannot be found out."""
    assert (interface, app) == check_app(app, "app", interface=interface)


def test_a_folder_is_served_by_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the working directory is later."""
    (tmp_path / "files").mkdir()
    monkeypatch.chdir(tmp_path)
    target = load_target("files")
    assert ("files", "static", str(tmp_path / "files")) == (
        target.title,
        target.interface,
        target.app,
    )
    assert ("static", str(tmp_path)) == check_app(tmp_path, "app")


def test_a_package_is_published_on_demand_only(tmp_path: Path) -> None:
    """Who forgets the colon does not publish the source code."""
    (tmp_path / "__init__.py").touch()
    with pytest.raises(UserError, match="source would be published"):
        load_target(str(tmp_path))
    assert str(tmp_path) == load_target(str(tmp_path), interface="static").app


@pytest.mark.parametrize(
    ("name", "options", "cause"),
    [
        ("nowhere", {"interface": "static"}, "there is no such folder"),
        ("file", {"interface": "static"}, "it is a file"),
        ("folder", {"factory": True}, "--factory is for applications"),
        ("folder", {"interface": "asgi"}, "it is a folder, where MODULE:ATTRIBUTE"),
        ("file", {}, "it is a file name, where MODULE:ATTRIBUTE"),
        ("nowhere/at/all", {}, "there is no such folder"),
    ],
)
def test_what_is_no_folder_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, Any],
    cause: str,
) -> None:
    """With the reason, and status 2."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        load_target(name, **options)
    assert cause in caught.value.cause
    assert 2 == caught.value.status
