"""What TARGET is: a folder, an ASGI application or a WSGI application; errors say what is wrong with it.

Knows nothing of sockets and servers.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, TypeAlias

from threadlets._user_error import STATUS_ENVIRONMENT, STATUS_USAGE, UserError
from threadlets._user_traceback import without_our_frames
from threadlets.exceptions import ConfigError
from threadlets.http._config import FILES_FIELDS, Config, Interface

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
WsgiApp: TypeAlias = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
FoundInterface: TypeAlias = Literal["asgi", "wsgi", "static"]


@dataclass(frozen=True)
class Target:
    """What is served: an application, or the path of a folder; `title` is what the user typed."""

    title: str
    interface: FoundInterface
    app: AsgiApp | WsgiApp | str


def load_target(
    target: str, *, interface: Interface = "auto", app_dir: str = ".", factory: bool = False
) -> Target:
    """Find out what `target` names; an application is imported, with `app_dir` first on sys.path.

    With `factory` the target names a function without parameters that returns the application.
    """
    if interface == "static" or (interface == "auto" and os.path.isdir(target)):
        return Target(target, "static", _folder(target, interface, factory=factory))
    module_name, attribute_path = _split(target)
    if not os.path.isdir(app_dir):
        raise UserError(
            fact=f"cannot use '{app_dir}' as the application's folder",
            cause="there is no such folder",
            remedy="check --app-dir",
            status=STATUS_USAGE,
        )
    sys.path.insert(0, os.path.abspath(app_dir))
    app = _find_attribute(_import(module_name, app_dir), attribute_path, target)
    if factory:
        app = _call_factory(app, target)
    return Target(target, *check_app(app, target, interface=interface))


def check_app(
    app: Any, title: str, *, interface: Interface = "auto"
) -> tuple[FoundInterface, AsgiApp | WsgiApp | str]:
    """Return an application with its interface, found out by its signature unless given.

    A str or a path is a folder.
    """
    if isinstance(app, str | os.PathLike) and interface in ("auto", "static"):
        return "static", _folder(os.fspath(app), interface, factory=False)
    if interface == "asgi":
        _check_asgi(app, title)
        return "asgi", app
    if interface == "wsgi":
        _check_wsgi(app, title)
        return "wsgi", app
    if interface == "static":
        raise UserError(
            fact=f"cannot serve '{title}' as a folder",
            cause=f"it is a {type(app).__name__}",
            remedy="name a folder, or leave out --interface",
            status=STATUS_USAGE,
        )
    return _inspect(app, title), app


def check_files_options(config: Config, interface: str) -> None:
    """Refuse what only folders have a use for, if something else is served.

    Raises:
        ConfigError: a field has another value than its default.
    """
    if interface == "static":
        return
    for field in dataclasses.fields(Config):
        value = getattr(config, field.name)
        if field.name in FILES_FIELDS and value != field.default:
            raise ConfigError(
                field.name,
                value,
                f"an application is served ({interface.upper()}), and this is for folders",
                "leave it out, or serve a folder",
            )


# -- folders ---------------------------------------------------------------------------------------


def _folder(target: str, interface: Interface, *, factory: bool) -> str:
    def refused(cause: str, remedy: str, status: int = STATUS_USAGE) -> UserError:
        return UserError(
            fact=f"cannot serve the folder '{target}'", cause=cause, remedy=remedy, status=status
        )

    if factory:
        raise refused("--factory is for applications", "leave out --factory")
    if not os.path.exists(target):
        raise refused(f"there is no such folder in {os.getcwd()}", "check the path")
    if not os.path.isdir(target):
        raise refused("it is a file", "name the folder that it lies in")
    if interface == "auto" and os.path.exists(os.path.join(target, "__init__.py")):
        module = os.path.basename(os.path.abspath(target))
        raise refused(
            "it is a Python package: its source would be published",
            f"threadlets serve {module}:app for an application in it, or --interface static",
        )
    if not os.access(target, os.R_OK | os.X_OK):
        raise refused(
            "it may not be read by this user",
            f"chmod u+rx {target}, or run as its owner",
            STATUS_ENVIRONMENT,
        )
    return os.path.abspath(target)


# -- module:attribute ------------------------------------------------------------------------------


def _split(target: str) -> tuple[str, str]:
    module_name, colon, attribute_path = target.partition(":")
    is_dotted = all(part.isidentifier() for part in module_name.split("."))
    if module_name and colon and attribute_path and is_dotted:
        return module_name, attribute_path
    remedy = "threadlets serve package.module:app"
    if os.path.isdir(target):
        cause = "it is a folder, where MODULE:ATTRIBUTE is needed"
        remedy = "leave out --interface, or name an application"
    elif os.path.isfile(target) or target.endswith(".py"):
        cause = "it is a file name, where MODULE:ATTRIBUTE is needed"
    elif "/" in target:
        cause = (
            f"there is no such folder in {os.getcwd()}, and it is not of the form MODULE:ATTRIBUTE"
        )
        remedy = f"check the path, or {remedy}"
    elif not colon:
        cause = (
            "there is no folder of that name, and the colon between the module and the attribute "
            "is missing"
        )
    else:
        cause = "it is not of the form MODULE:ATTRIBUTE"
    raise UserError(
        fact=f"cannot serve '{target}'", cause=cause, remedy=remedy, status=STATUS_USAGE
    )


def _import(module_name: str, app_dir: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # Another module is missing, one that the user's module imports: that module is at fault.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _import_failure(module_name, error) from None
        raise UserError(
            fact=f"cannot import the module '{module_name}'",
            cause=f"there is no module '{error.name}' in {os.path.abspath(app_dir)} or on sys.path",
            remedy="check the name, or name the folder that holds it with --app-dir",
            status=STATUS_USAGE,
        ) from None
    except Exception as error:
        raise _import_failure(module_name, error) from None


def _import_failure(module_name: str, error: Exception) -> UserError:
    fact = f"the module '{module_name}' failed while it was being imported"
    return _failure_of("module", fact, error)


def _failure_of(part: str, fact: str, error: Exception) -> UserError:
    """Return the error for an exception in the user's own code; our frames are left out."""
    shown = error.with_traceback(without_our_frames(error.__traceback__))
    return UserError(
        fact=fact,
        cause=f"{type(error).__name__}: {error}",
        remedy=f"fix the {part}; its own traceback is above",
        status=STATUS_ENVIRONMENT,
        detail="".join(traceback.format_exception(shown)),
    )


def _find_attribute(module: ModuleType, attribute_path: str, target: str) -> object:
    found: object = module
    for name in attribute_path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            candidates = [key for key, value in vars(module).items() if _looks_like_app(key, value)]
            hint = f"; it does define {', '.join(candidates[:5])}" if candidates else ""
            raise UserError(
                fact=f"cannot serve '{target}'",
                cause=f"the module '{module.__name__}' has no attribute '{attribute_path}'{hint}",
                remedy="check the name after the colon",
                status=STATUS_USAGE,
            ) from None
    return found


def _looks_like_app(name: str, value: object) -> bool:
    if name.startswith("_") or isinstance(value, type) or not callable(value):
        return False
    return any(_accepts(value, n) for n in (2, 3)) and not _accepts(value, 0)


def _call_factory(make_app: object, target: str) -> object:
    if not callable(make_app) or not _accepts(make_app, 0):
        raise UserError(
            fact=f"'{target}' is not an application factory",
            cause="it cannot be called without arguments",
            remedy="leave out --factory, or name a function that takes no arguments",
            status=STATUS_USAGE,
        )
    try:
        return make_app()
    except Exception as error:
        fact = f"the application factory '{target}' failed"
        raise _failure_of("factory", fact, error) from None


# -- ASGI or WSGI ----------------------------------------------------------------------------------

_NAME_ASGI = "name an ASGI application: async def app(scope, receive, send)"
_NAME_WSGI = "name a WSGI application: def app(environ, start_response)"


def _inspect(app: Any, title: str) -> Literal["asgi", "wsgi"]:
    """Return the interface of an application, by what it can be called with."""
    takes_three, takes_two = _accepts(app, 3), _accepts(app, 2)
    if not takes_two:
        _check_asgi(app, title)
        return "asgi"
    # A coroutine function of two arguments is neither: the message says so.
    if not takes_three and not _is_asynchronous(app):
        _check_wsgi(app, title)
        return "wsgi"
    first = next(iter(inspect.signature(app).parameters), "")
    if _is_asynchronous(app) or first == "scope":
        _check_asgi(app, title)
        return "asgi"
    if first == "environ":
        _check_wsgi(app, title)
        return "wsgi"
    raise UserError(
        fact=f"cannot tell what '{title}' is",
        cause="it can be called as an ASGI application (three arguments) and as a WSGI one (two)",
        remedy="say which: --interface asgi, or --interface wsgi",
        status=STATUS_USAGE,
    )


def _check_asgi(app: Any, title: str) -> None:
    def not_asgi(cause: str, remedy: str = _NAME_ASGI) -> UserError:
        fact = f"'{title}' is not an ASGI application"
        return UserError(fact=fact, cause=cause, remedy=remedy, status=STATUS_USAGE)

    if not callable(app):
        raise not_asgi(f"it is a {type(app).__name__} and cannot be called", _callable_remedy(app))
    if isinstance(app, type) and not hasattr(app, "__await__"):
        raise not_asgi("it is a class, not an instance", "name an instance, or use --factory")
    if not _accepts(app, 3):
        if _accepts(app, 2):
            if _is_asynchronous(app):
                raise not_asgi("it takes two arguments, where ASGI passes scope, receive and send")
            raise not_asgi(
                "it takes two arguments, as a WSGI application does (environ, start_response)",
                "leave out --interface, or use --interface wsgi",
            )
        if _accepts(app, 0):
            raise not_asgi("it takes no arguments, as a factory does", "add --factory")
        if _accepts(app, 1):
            raise not_asgi(
                "it takes one argument, as ASGI 2 applications did",
                "wrap it with asgiref.compatibility.guarantee_single_callable",
            )
        raise not_asgi("it cannot be called with scope, receive and send")
    if inspect.isgeneratorfunction(app) or inspect.isasyncgenfunction(app):
        raise not_asgi("it is a generator function")


def _check_wsgi(app: Any, title: str) -> None:
    def not_wsgi(cause: str, remedy: str = _NAME_WSGI) -> UserError:
        fact = f"'{title}' is not a WSGI application"
        return UserError(fact=fact, cause=cause, remedy=remedy, status=STATUS_USAGE)

    if not callable(app):
        raise not_wsgi(f"it is a {type(app).__name__} and cannot be called", _callable_remedy(app))
    # PEP 3333 allows a class whose instances are the responses.
    if isinstance(app, type) and not hasattr(app, "__iter__"):
        raise not_wsgi("it is a class, not an instance", "name an instance, or use --factory")
    if _is_asynchronous(app):
        raise not_wsgi(
            "it is asynchronous, as an ASGI application is",
            "leave out --interface, or use --interface asgi",
        )
    if not _accepts(app, 2):
        if _accepts(app, 0):
            raise not_wsgi("it takes no arguments, as a factory does", "add --factory")
        raise not_wsgi("it cannot be called with environ and start_response")


def _callable_remedy(app: Any) -> str:
    if inspect.iscoroutine(app):
        app.close()
        return "make the factory a function without async"
    return "name an application: async def app(scope, receive, send), for ASGI"


def _is_asynchronous(app: Any) -> bool:
    """Return whether calling it makes a coroutine, or an asynchronous generator."""
    call = getattr(type(app), "__call__", None)  # noqa: B004 - the method itself is looked at
    return any(
        inspect.iscoroutinefunction(it) or inspect.isasyncgenfunction(it) for it in (app, call)
    )


def _accepts(function: Callable[..., Any], n_arguments: int) -> bool:
    """Return whether a callable accepts so many positional arguments; without a signature, three."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return n_arguments == 3
    try:
        signature.bind(*[None] * n_arguments)
    except TypeError:
        return False
    return True
