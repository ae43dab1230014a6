"""`NativeThread`: the `threading.Thread` object of a thread that the core has started."""

from __future__ import annotations

import _thread
import sys
import threading

#: The attribute in which a `threading.Thread` keeps the handle of its system thread.
_HANDLE = "_handle" if sys.version_info < (3, 14) else "_os_thread_handle"


class NativeThread(threading.Thread):
    """A running thread that `threading` has not started.

    Without it, `threading.current_thread()` makes a dummy, which cannot be joined, is not traced, and
    breaks the child of a fork that this thread makes. `begin` and `unregister` do what
    `Thread._bootstrap_inner` does.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)

    @classmethod
    def begin(cls) -> None:
        """Have the calling thread, whose object the core has entered, found, traced and profiled."""
        self = threading.current_thread()
        assert isinstance(self, cls), "the core enters its threads before they run Python code"
        self._set_ident()
        self._set_native_id()
        if sys.version_info >= (3, 13):
            setattr(self, _HANDLE, _thread._make_thread_handle(self.ident))
        else:
            self._set_tstate_lock()
        self._started.set()
        if trace := threading.gettrace():
            sys.settrace(trace)
        if profile := threading.getprofile():
            sys.setprofile(profile)

    @staticmethod
    def unregister() -> None:
        """Remove the calling thread, which ends, from the threads that `threading` knows."""
        with threading._active_limbo_lock:
            self = threading._active.pop(threading.get_ident(), None)
        has_begun = isinstance(self, NativeThread) and self._started.is_set()
        if sys.version_info >= (3, 13) and has_begun:
            getattr(self, _HANDLE)._set_done()
