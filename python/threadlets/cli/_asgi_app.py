"""Loads an ASGI application from ``module:attribute``, with errors that say what is wrong with it.

Knows nothing of sockets and servers.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from types import ModuleType
from typing import Any

from threadlets.cli._errors import STATUS_ENVIRONMENT, STATUS_USAGE, UserError
from threadlets.cli._traceback import without_our_frames

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]


def load_app(target: str, *, app_dir: str, factory: bool) -> AsgiApp:
    """Import the application that `target` names, with `app_dir` first on sys.path.

    With `factory` the target names a function without parameters that returns the application.
    """
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
    return _check_app(app, target)


def _split(target: str) -> tuple[str, str]:
    module_name, colon, attribute_path = target.partition(":")
    is_dotted = all(part.isidentifier() for part in module_name.split("."))
    if module_name and colon and attribute_path and is_dotted:
        return module_name, attribute_path
    if target.endswith(".py") or "/" in target:
        cause = "it is a file name, where MODULE:ATTRIBUTE is needed"
    elif not colon:
        cause = "the colon between the module and the attribute is missing"
    else:
        cause = "it is not of the form MODULE:ATTRIBUTE"
    raise UserError(
        fact=f"cannot serve '{target}'",
        cause=cause,
        remedy="threadlets serve package.module:app",
        status=STATUS_USAGE,
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
    return _accepts_arguments(value, 3) and not _accepts_arguments(value, 0)


def _call_factory(make_app: object, target: str) -> object:
    if not callable(make_app) or not _accepts_arguments(make_app, 0):
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


def _check_app(app: object, target: str) -> AsgiApp:
    def not_asgi(cause: str, remedy: str) -> UserError:
        fact = f"'{target}' is not an ASGI application"
        return UserError(fact=fact, cause=cause, remedy=remedy, status=STATUS_USAGE)

    name_another = "name an ASGI application: async def app(scope, receive, send)"
    if not callable(app):
        raise not_asgi(f"it is a {type(app).__name__} and cannot be called", name_another)
    if isinstance(app, type) and not hasattr(app, "__await__"):
        raise not_asgi("it is a class, not an instance", "name an instance, or use --factory")
    if not _accepts_arguments(app, 3):
        if _accepts_arguments(app, 2):
            raise not_asgi(
                "it takes two arguments, as a WSGI application does (environ, start_response)",
                "wrap it with threadlets.frameworks.wsgi (it needs a2wsgi), or serve it with a WSGI "
                "server",
            )
        if _accepts_arguments(app, 0):
            raise not_asgi("it takes no arguments, as a factory does", "add --factory")
        if _accepts_arguments(app, 1):
            raise not_asgi(
                "it takes one argument, as ASGI 2 applications did",
                "wrap it with asgiref.compatibility.guarantee_single_callable",
            )
        raise not_asgi("it cannot be called with scope, receive and send", name_another)
    if inspect.isgeneratorfunction(app) or inspect.isasyncgenfunction(app):
        raise not_asgi("it is a generator function", name_another)
    return _with_argument_check(app) if _accepts_arguments(app, 0) else app


def _accepts_arguments(function: Callable[..., Any], n_arguments: int) -> bool:
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


def _with_argument_check(app: Callable[..., Any]) -> AsgiApp:
    # uvicorn calls an application without arguments to find factories. One declared with *args
    # would accept that, so wrap it in a function that does not.
    async def application(scope: Message, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return application
