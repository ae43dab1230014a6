"""The hooks: the methods of our classes that native code calls by name, and what each of them does.

`crates/bindings/src/dispatcher/hooks.rs` has the same methods, as functions. Both lists are compared when this
module is imported, and each class that has hooks is compared with its protocol when it is defined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from threadlets import _core

if TYPE_CHECKING:
    import asyncio
    import threading
    from contextvars import Context

_Class = TypeVar("_Class", bound=type)


class DispatcherHooks(Protocol):
    """What every dispatcher has: that of a loop, and that of a `ThreadletExecutor`."""

    def _worker_starts(self, number: int, /) -> tuple[threading.Thread, dict[int, Any]]:
        """Return the object of a new worker's thread, and the dict to enter it in by its ident."""

    def _worker_joined(self, number: int, /) -> None:
        """Set up the thread of a worker, before it first holds the role or calls a function."""

    def _worker_left(self) -> None:
        """Undo `_worker_joined`: the worker ends."""

    def _request_failed(self, exception: BaseException, /) -> None:
        """Report the failure of a request; the dispatcher goes on."""

    def _state_changed(
        self, subject: Any, changes: str, policy: str, is_threadlet: bool, /
    ) -> None:
        """Count and report that `subject` has left the floating-point state changed."""

    def _dispatcher_stalls(self, dispatcher: int | None, waiting: list[int], /) -> None:
        """Report a dispatcher that stays in one request while functions wait to return."""

    def _orphaned(self) -> None:
        """End this process: it is the child of a fork, and has no home thread."""


class LoopHooks(DispatcherHooks, Protocol):
    """What a loop has besides."""

    def _check_thread(self) -> None:
        """Refuse a call from a thread that does not run the loop; called in debug mode."""

    def _make_debug_handle(
        self,
        when: float | None,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        method: str,
        /,
    ) -> asyncio.Handle:
        """Return the handle of a callback in debug mode, which records where it was made."""

    def _callback_failed(
        self,
        exception: BaseException,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        /,
    ) -> None:
        """Report the exception of a callback."""

    def _protocol_failed(self, exception: BaseException, protocol: Any, /) -> None:
        """Report the exception of a protocol's method; the connection stays open."""

    def _descriptor_refused(self, fd: int, exception: OSError, /) -> None:
        """Report that the kernel refuses to watch a descriptor; the loop tries again."""

    def _ensure_fd_no_transport(self, fd: Any, /) -> None:
        """Raise if a transport uses the descriptor."""

    def _lost_write(self, n_writes_lost: int, /) -> None:
        """Warn of a protocol that keeps writing to a connection that is lost."""

    def _settle_signals(self) -> None:
        """Set the signal handlers that the kernel has already: home has the role again."""

    def _detect_replaced(self) -> None:
        """Tell the dispatcher which private parts of the loop the program has replaced."""

    def _sync_timers(self) -> None:
        """Apply to the timers what the program has done to the list of them."""

    def _process_events(self, event_list: Any, /) -> None:
        """Queue what a replaced `select` has returned."""

    def _request_begins(self, what: Any, /) -> Any:
        """Look at what requests share, before one runs in debug mode; return it."""

    def _request_ended(self, what: Any, before: Any, duration: float, /) -> None:
        """Compare that with now, after the request; warn if it took long (seconds)."""

    def _local_used(
        self,
        how: Literal["read", "set", "deleted"],
        found: Any,
        name: str,
        before: Any,
        after: Any,
        /,
    ) -> None:
        """Note that a request uses a value of a `threading.local`; called in debug mode."""

    def _role_moved(self, blocked: int, dispatcher: int, /) -> None:
        """Look for objects that stay behind on a blocked thread; called in debug mode."""


class HttpServerHooks(Protocol):
    """What the owner of a native HTTP server has."""

    def _application_failed(self, exception: BaseException, /) -> None:
        """Report the exception of an application."""

    def _accept_failed(self, which: int, exception: OSError, /) -> None:
        """Report that a listening socket cannot accept, and have it try again later."""

    def _log_requests(self, requests: list[Any], /) -> None:
        """Log requests that have ended: peer, method, target, version, status, bytes, seconds, headers."""


class TransportHooks(Protocol):
    """What the transport of a stream has."""

    def _received_end(self) -> None:
        """Handle the end of what the peer sends."""

    def _pause_protocol(self) -> None:
        """Have the protocol pause: too much is unsent."""

    def _resume_protocol(self) -> None:
        """Have the protocol go on writing."""

    def _drained(self) -> None:
        """Note that nothing is unsent any more."""

    def _fatal_error(self, exc: BaseException, message: str, /) -> None:
        """Abort the connection, and report why."""

    def _lose(self, exc: BaseException | None, /) -> None:
        """Report the loss of the connection, and close its descriptor."""


def hooks_of(protocol: type) -> dict[str, int]:
    """Return the numbers of arguments of the protocol's own methods, by name."""
    methods = {name: it for name, it in vars(protocol).items() if isinstance(it, FunctionType)}
    return {
        name: method.__code__.co_argcount - 1
        for name, method in methods.items()
        if not name.startswith("__")
    }


def compare(
    declared: Mapping[str, type], native: Iterable[tuple[str, str, int]], module: str
) -> None:
    """Compare the protocols with the hooks that a native module calls.

    Raises:
        ImportError: a hook is missing on one side, or takes another number of arguments there.
    """
    ours = {
        (owner, name, n_args)
        for owner, protocol in declared.items()
        for name, n_args in hooks_of(protocol).items()
    }
    if ours == (theirs := set(native)):
        return
    raise ImportError(
        f"the native module {module} belongs to another version of threadlets: it calls "
        f"{sorted(theirs - ours)}, and this version has {sorted(ours - theirs)}; install both anew, "
        "or build the sources anew"
    )


def implements(protocol: type) -> Callable[[_Class], _Class]:
    """Return a class decorator that checks that a class has the hooks of `protocol`.

    Raises:
        TypeError: one is missing, or takes another number of arguments.
    """
    expected = {
        name: n_args
        for base in reversed(protocol.__mro__)
        for name, n_args in hooks_of(base).items()
    }

    def check(implementer: _Class) -> _Class:
        for name, n_args in expected.items():
            method = getattr(implementer, name, None)
            if not callable(method):
                raise TypeError(f"{implementer!r} has no {name}(), which the native core calls")
            code = getattr(method, "__code__", None)
            if code is None:
                continue
            n_max = code.co_argcount - 1
            n_min = n_max - len(getattr(method, "__defaults__", None) or ())
            if not n_min <= n_args <= n_max:
                raise TypeError(
                    f"{implementer!r} has a {name}() of {n_max} arguments; the native core passes "
                    f"{n_args}"
                )
        return implementer

    return check


compare(
    {
        "Dispatcher": DispatcherHooks,
        "Loop": LoopHooks,
        "HttpServer": HttpServerHooks,
        "Transport": TransportHooks,
    },
    _core.hooks(),
    _core.__file__,
)
