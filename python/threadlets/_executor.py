"""`ThreadletExecutor`: calls quick functions on one thread, and blocking functions on others."""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from threadlets._arguments import check_integer
from threadlets._calls import Pool
from threadlets._public import set_module
from threadlets._workers.dispatchers import ThreadedDispatcher

P = ParamSpec("P")
T = TypeVar("T")


@set_module("threadlets")
class ThreadletExecutor(concurrent.futures.Executor):
    """An executor for code without an event loop, used like `ThreadPoolExecutor`.

    One thread calls the functions that are known to be quick, without a hand-over between threads.
    Functions that block, or are not known yet, are called on other threads; as many of those are
    started as are needed.

    `max_workers` is the number of functions that may run at once (None: no limit); `threads_max` is
    the maximum number of threads (see `threadlets.new_event_loop`).

    Raises:
        ValueError: `max_workers` or `threads_max` is less than 1.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "threadlet-executor",
        *,
        threads_max: int | None = None,
    ) -> None:
        if max_workers is not None:
            meaning = "how many functions may run at once, or None for any number"
            check_integer("max_workers", max_workers, meaning)
        if threads_max is not None:
            meaning = "the maximum number of threads, or None for 4096"
            check_integer("threads_max", threads_max, meaning)
        self._pool = Pool(limit=max_workers)
        self._threads = _ExecutorThreads(thread_name_prefix, threads_max)
        # The threads do not refer to the executor, so a dropped executor is finalized.
        self._finalizer = weakref.finalize(self, self._threads.close)
        self._finalizer.atexit = False

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[T]:
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._threads.submit(future, self._pool, fn, args, kwargs)
        return future

    submit.__doc__ = concurrent.futures.Executor.submit.__doc__

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more functions, and end the threads once the running functions have returned.

        `wait` waits until the threads have ended; `cancel_futures` cancels functions that have not
        started.
        """
        self._threads.close()
        if cancel_futures:
            self._pool._cancel(self._threads.dispatcher, None)
        if wait:
            self._threads.join()

    def stats(self) -> dict[str, Any]:
        """Return counts of calls and threads, as `threadlets.stats()` does for a loop."""
        return self._threads.dispatcher._worker_stats()


class _ExecutorThreads:
    """What the threads of an executor share; ends when it is closed and nothing is outstanding."""

    def __init__(self, name: str, threads_max: int | None) -> None:
        self.dispatcher = ThreadedDispatcher(threads_max=threads_max)
        self._name = name
        self._home: threading.Thread | None = None
        self._lock = threading.Lock()
        self._n_outstanding = 0
        self._is_closed = False
        _all_threads.add(self)

    def submit(
        self,
        future: concurrent.futures.Future[Any],
        pool: Pool,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if _is_exiting:
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            if self._home is None:
                self._home = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._home.start()
            self._n_outstanding += 1
        future.add_done_callback(self._ended)
        self.dispatcher._submit_call(future, True, pool, fn, args, kwargs or None)

    def close(self) -> None:
        """Accept no more functions; stop now, or when the last outstanding function has ended."""
        with self._lock:
            self._is_closed = True
        self._stop_if_over()

    def join(self) -> None:
        """Wait until the threads have ended."""
        if self._home is not None:
            self._home.join()

    def _ended(self, _future: concurrent.futures.Future[Any]) -> None:
        with self._lock:
            self._n_outstanding -= 1
        self._stop_if_over()

    def _stop_if_over(self) -> None:
        if self._is_over():
            self.dispatcher._stopping = True

    def _is_over(self) -> bool:
        with self._lock:
            return self._is_closed and self._n_outstanding == 0

    def _run(self) -> None:
        """Run the home thread: dispatch until the executor is closed and nothing is outstanding."""
        while not self._is_over():
            try:
                self.dispatcher._run_ticks()
            except BaseException as exc:
                # Even SystemExit, from a future's callback for instance, must not end this thread.
                self.dispatcher._request_failed(exc)
        self.dispatcher._stop_workers()
        self.dispatcher._release()


_all_threads: weakref.WeakSet[_ExecutorThreads] = weakref.WeakSet()
_is_exiting = False


def _finish_at_exit() -> None:
    """Wait for all submitted functions, as `ThreadPoolExecutor` does."""
    global _is_exiting
    _is_exiting = True
    for threads in list(_all_threads):
        threads.close()
        threads.join()


# Called before the interpreter joins its non-daemon threads, which may wait for ours.
threading._register_atexit(_finish_at_exit)  # type: ignore[attr-defined]
