"""`threadlets.Loop`: the native dispatcher with everything that asyncio expects of a loop.

Everything that each request passes through is native (`threadlets._core.Dispatcher`). What happens
once per loop, server or connection is here. asyncio's own classes still do TLS, subprocesses, pipes,
signals, happy eyeballs and executors.
"""

from __future__ import annotations

import asyncio
import asyncio.log
import sys
import threading
from asyncio import base_events, constants, events, format_helpers, sslproto
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from threadlets._aio.datagrams import DatagramTransport
from threadlets._aio.internals import InternalsMixin, Selector, remember_native_attributes
from threadlets._aio.leaks import LeakPolicy, describe_leaks, report, report_leak
from threadlets._aio.serving import Serving
from threadlets._aio.signals import SignalsMixin
from threadlets._aio.tasks import register_loop
from threadlets._aio.transports import SocketTransport
from threadlets._arguments import check_choice, check_integer, check_number
from threadlets._core import checkpoint
from threadlets._executor import ThreadletExecutor
from threadlets._hooks import LoopHooks, implements
from threadlets._introspection import thread_name
from threadlets._public import set_module
from threadlets._workers.dispatchers import LoopDispatcher

#: After how many milliseconds the loop is taken over from a function that computes: as many as the
#: interpreter's own switch interval. Less gains little, for more take-overs (docs/threadlets.md).
PREEMPT_MS = 5.0

#: What happens, besides counting, when a request leaves the floating-point state changed.
FpPolicy = Literal["restore", "warn", "raise", "off"]


@implements(LoopHooks)
@set_module("threadlets")
class Loop(LoopDispatcher, InternalsMixin, SignalsMixin, asyncio.SelectorEventLoop):
    """An asyncio event loop on the native dispatcher.

    It is a full `asyncio.AbstractEventLoop`; programs need not know that it is not the stock one.
    The arguments are those of `threadlets.new_event_loop`.
    """

    def __new__(cls, *args: Any, threads_max: int | None = None, **kwargs: Any) -> Self:
        """Make the native half; see the class."""
        if threads_max is not None:
            meaning = "the maximum number of threads, or None for 4096"
            threads_max = check_integer("threads_max", threads_max, meaning)
            # The native half refuses what is out of range, but takes machine words only.
            if not 0 <= threads_max <= sys.maxsize:
                raise ValueError(
                    f"threads_max is {threads_max}; it must be at least 1, and at most the kernel's "
                    "limit, 4194304"
                )
        self = super().__new__(cls, *args, threads_max=threads_max, **kwargs)
        # Until the base class opens it: a loop whose arguments are refused needs no closing.
        self._closed = True
        return self

    def __init__(
        self,
        *,
        executor: Literal["threads", "threadlets"] = "threads",
        threads_max: int | None = None,
        preempt_ms: float | None = PREEMPT_MS,
        tasks: Literal["native", "asyncio"] = "native",
        fp: FpPolicy = "restore",
        leaks: LeakPolicy = "warn",
    ) -> None:
        if executor not in ("threads", "threadlets"):
            raise ValueError(
                f"executor is {executor!r}; it is 'threads' for asyncio's own thread pool, or "
                "'threadlets'"
            )
        if tasks not in ("native", "asyncio"):
            raise ValueError(f"tasks is {tasks!r}; it is 'native', or 'asyncio' for asyncio's own")
        if leaks not in ("warn", "raise"):
            raise ValueError(f"leaks is {leaks!r}; it is 'warn', or 'raise' for a LeakError")
        check_choice("fp", fp, get_args(FpPolicy), "it is 'restore', 'warn', 'raise' or 'off'")
        if preempt_ms is not None and not (
            check_number("preempt_ms", preempt_ms, "a time in ms, or None for never") > 0
        ):
            raise ValueError(f"preempt_ms is {preempt_ms}; it is a time in ms, or None for never")
        self._home_id: int | None = None
        self._socket_transports: dict[int, SocketTransport] = {}
        # Outstanding calls of the default executor; None if that is asyncio's thread pool.
        self._executor_calls: set[asyncio.Future[Any]] | None = (
            set() if executor == "threadlets" else None
        )
        self._leak_policy: LeakPolicy = leaks
        # The native setter refuses unknown policies.
        self._fp_policy = fp
        super().__init__(Selector(self))  # type: ignore[arg-type]
        self._wants_asyncio_tasks = tasks == "asyncio"
        self._detect_replaced()
        register_loop(self)
        self._preempt_s = None if preempt_ms is None else preempt_ms / 1000

    # -- running -----------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Run ticks until `stop()` is called."""
        self._check_closed()
        self._check_running()
        self._set_coroutine_origin_tracking(self._debug)
        asyncgen_hooks = sys.get_asyncgen_hooks()
        self._thread_id = self._home_id = threading.get_ident()
        try:
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook,
                finalizer=self._asyncgen_finalizer_hook,
            )
            events._set_running_loop(self)
            with self._waking_on_signals():
                self._tick_until_stopped()
        finally:
            self._stopping = False
            self._thread_id = self._home_id = None
            events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*asyncgen_hooks)

    def close(self) -> None:
        """Close the loop and drop what is still queued. Closing it twice does nothing.

        Requests that have not ended, and connections that are open, are named in a
        `ResourceWarning`; where warnings are errors, the exception handler gets the message instead.

        Raises:
            LeakError: something was outstanding, and the loop was made with `leaks="raise"`. The
                loop is closed all the same.
            RuntimeError: the loop is running.
        """
        if self._closed or self.is_running():
            super().close()  # Does nothing if closed, raises if running.
            return
        left, blocked = describe_what_is_left(self), ""
        try:
            super().close()
        finally:
            # Also if an executor or a signal handler has raised: a closed loop holds no resources.
            if self._closed:
                blocked = self._describe_blocked(self._stop_workers())
                self._end_runs()
                self._release()
                self._socket_transports.clear()
        if blocked:
            report(self, blocked)
        if left:
            report_leak(self, left, self._leak_policy)

    # -- executors -------------------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Call `func(*args)` in an executor; None: in the default one that the loop was made with."""
        calls = self._executor_calls
        if executor is not None or calls is None or self._default_executor is not None:
            return super().run_in_executor(executor, func, *args)
        self._check_closed()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        self._check_default_executor()
        future = self.create_future()
        self._submit_call(future, False, None, func, args)
        calls.add(future)
        future.add_done_callback(calls.discard)
        return future

    def set_default_executor(self, executor: Any) -> None:
        """Use a `ThreadPoolExecutor` or `ThreadletExecutor` wherever no executor is named."""
        if isinstance(executor, ThreadletExecutor):
            self._default_executor = executor
        else:
            super().set_default_executor(executor)

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """Wait until the functions that the default executor runs have returned."""
        if self._executor_calls:
            await asyncio.wait(self._executor_calls)
        await super().shutdown_default_executor(*args, **kwargs)

    # -- debug mode and failures ---------------------------------------------------------------

    def _check_thread(self) -> None:
        """Refuse a call from a thread that does not run the loop; called in debug mode."""
        if self._thread_id in (None, threading.get_ident()):
            return
        if self._home_id == threading.get_ident():
            # A signal handler while a function blocks this thread: its requests wake the loop.
            return
        raise RuntimeError(
            "Non-thread-safe operation invoked on an event loop other than the current one: "
            f"called from thread {threading.current_thread().name!r}, but the loop runs in "
            f"thread {thread_name(self._thread_id)!r}; use loop.call_soon_threadsafe() or "
            "asyncio.run_coroutine_threadsafe()"
        )

    def _make_debug_handle(
        self,
        when: float | None,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
        method: str,
    ) -> asyncio.Handle:
        """Make the handle of a callback in debug mode, which records where it was made."""
        if method != "call_soon_threadsafe":
            self._check_thread()
        self._check_callback(callback, method)
        handle: asyncio.Handle
        # How many frames at the end of its traceback are not the caller's: this method's.
        n_ours = 1
        if method == "call_soon_threadsafe" and sys.version_info >= (3, 14):
            # Its `cancel` waits for a callback that runs in another thread.
            handle = events._ThreadSafeHandle(callback, args, self, context)
            n_ours = 2  # Also that of its `__init__`: `Handle` leaves out only its own.
        elif when is None:
            handle = asyncio.Handle(callback, args, self, context)
        else:
            handle = _DebugTimerHandle(when, callback, args, self, context)
        if handle._source_traceback:
            del handle._source_traceback[-n_ours:]
        return handle

    def _callback_failed(
        self,
        exception: BaseException,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> None:
        """Report the exception of a callback to the exception handler."""
        source = format_helpers._format_callback_source(callback, args)
        self.call_exception_handler(
            {
                "message": f"Exception in callback {source}",
                "exception": exception,
                "handle": asyncio.Handle(callback, args, self, context),
            }
        )

    def _request_failed(self, exception: BaseException) -> None:
        """Report the failure of a request of the loop's own, such as that of a ready connection."""
        self.call_exception_handler(
            {"message": "Exception in a request of the loop", "exception": exception}
        )

    def _descriptor_refused(self, fd: int, exception: OSError) -> None:
        """Report that the kernel refuses to watch a descriptor; the loop tries again."""
        self.call_exception_handler(
            {
                "message": f"The kernel refuses to watch descriptor {fd} again, so its callbacks wait "
                "until it accepts; it may be short of memory, or at fs.epoll.max_user_watches",
                "exception": exception,
            }
        )

    def _lost_write(self, n_writes_lost: int) -> None:
        """Warn of a protocol that keeps writing to a connection that is lost."""
        if n_writes_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            asyncio.log.logger.warning("socket.send() raised exception.")

    def _protocol_failed(self, exception: BaseException, protocol: asyncio.BaseProtocol) -> None:
        """Report the exception of a protocol's method; the connection stays open."""
        self.call_exception_handler(
            {
                "message": f"Exception in a method of {protocol!r}",
                "exception": exception,
                "protocol": protocol,
            }
        )

    # -- connections and servers ---------------------------------------------------------------

    def _make_socket_transport(
        self,
        sock: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: Context | None = None,
    ) -> SocketTransport:
        self._ensure_fd_no_transport(sock)
        return SocketTransport.connected(self, sock, protocol, waiter, extra, server, context)

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: Any = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: Any = constants.SSL_SHUTDOWN_TIMEOUT,
        context: Context | None = None,
    ) -> asyncio.Transport:
        self._ensure_fd_no_transport(rawsock)
        tls = sslproto.SSLProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        SocketTransport.connected(self, rawsock, tls, extra=extra, server=server, context=context)
        return tls._app_transport

    def _make_datagram_transport(
        self,
        sock: Any,
        protocol: asyncio.DatagramProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> DatagramTransport:
        self._ensure_fd_no_transport(sock)
        return DatagramTransport(self, sock, protocol, address, waiter, extra)  # type: ignore[call-arg, arg-type]

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = constants.SSL_SHUTDOWN_TIMEOUT,
        context: Context | None = None,
    ) -> None:
        timeouts = (ssl_handshake_timeout, ssl_shutdown_timeout)
        Serving(self, protocol_factory, sock, sslcontext, server, timeouts, context).start()

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        """Refuse a descriptor that belongs to a transport."""
        super()._ensure_fd_no_transport(fd)
        transport = self._socket_transports.get(fd if isinstance(fd, int) else fd.fileno())
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int) -> int:
        """Send a file through a socket transport, which lends its socket to the loop meanwhile."""
        fd = transp._sock_fd
        del self._socket_transports[fd]
        was_reading = transp.is_reading()
        transp.pause_reading()
        await transp._make_empty_waiter()
        try:
            n_sent: int = await self.sock_sendfile(
                transp._sock, file, offset, count, fallback=False
            )
            return n_sent
        finally:
            transp._reset_empty_waiter()
            if was_reading:
                transp.resume_reading()
            if transp._sock_fd == fd:  # Unless the connection was lost meanwhile.
                self._socket_transports[fd] = transp

    # -- operations on sockets -----------------------------------------------------------------

    async def sock_recv(self, sock: Any, n: int) -> bytes:
        """Receive up to `n` bytes; empty bytes mean that the peer has ended its half."""
        self._check_socket(sock)
        await checkpoint
        done, received = self._sock_recv(sock, n)
        data: bytes = received if done else await self._outcome(sock.fileno(), received)
        return data

    async def sock_recv_into(self, sock: Any, buf: Any) -> int:
        """Receive into a writable buffer; return the number of bytes."""
        self._check_socket(sock)
        await checkpoint
        done, received = self._sock_recv_into(sock, buf)
        n_bytes: int = received if done else await self._outcome(sock.fileno(), received)
        return n_bytes

    async def sock_sendall(self, sock: Any, data: Any) -> None:
        """Send all of `data`. After an error it is unknown how much of it was sent."""
        self._check_socket(sock)
        await checkpoint
        done, result = self._sock_sendall(sock, data)
        if not done:
            await self._outcome(sock.fileno(), result)

    async def sock_recvfrom(self, sock: Any, bufsize: int) -> tuple[bytes, Any]:
        """Receive a datagram of up to `bufsize` bytes; return it and its sender's address."""
        await checkpoint
        return await super().sock_recvfrom(sock, bufsize)

    async def sock_recvfrom_into(self, sock: Any, buf: Any, nbytes: int = 0) -> tuple[int, Any]:
        """Receive a datagram into a buffer; return its size in bytes and its sender's address."""
        await checkpoint
        return await super().sock_recvfrom_into(sock, buf, nbytes)

    async def sock_sendto(self, sock: Any, data: Any, address: Any) -> int:
        """Send a datagram; return its size in bytes."""
        await checkpoint
        return await super().sock_sendto(sock, data, address)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connect a socket."""
        await checkpoint
        await super().sock_connect(sock, address)

    async def sock_accept(self, sock: Any) -> tuple[Any, Any]:
        """Accept a connection; return its socket and the peer's address."""
        await checkpoint
        return await super().sock_accept(sock)

    def _check_socket(self, sock: Any) -> None:
        base_events._check_ssl_socket(sock)
        if self._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")

    async def _outcome(self, fd: int, future: asyncio.Future[Any]) -> Any:
        try:
            return await future
        except BaseException:
            # Release the buffer of an operation that was cancelled.
            self._sock_withdraw(fd, future)
            raise


def describe_what_is_left(loop: Loop) -> str:
    """Name what a loop has outstanding that has to end; empty if nothing."""
    transports = [*loop._socket_transports.values(), *loop._transports.values()]
    return describe_leaks(loop, [it for it in transports if not it.is_closing()])


class _DebugTimerHandle(asyncio.TimerHandle):
    """A timer's handle in debug mode."""

    __slots__ = ("_key",)

    #: The key of the native timer.
    _key: int


#: `repr()` of a handle shows the name of its class, which is asyncio's here.
_DebugTimerHandle.__name__ = "TimerHandle"


remember_native_attributes(Loop)


if TYPE_CHECKING:
    _hooks: type[LoopHooks] = Loop
