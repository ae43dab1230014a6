"""`NativeThread`: a thread that the core has started, as `threading` knows threads."""

from __future__ import annotations

import _thread
import sys
import threading
from typing import Self


class NativeThread(threading.Thread):
    """A running thread that `threading` has not started.

    Without it `threading.current_thread()` makes a dummy, which cannot be joined, is not traced, and
    breaks the child of a fork that this thread makes. This does what `Thread._bootstrap_inner` does.
    """

    @classmethod
    def register(cls, name: str) -> Self:
        """Make the calling thread known under `name`, and let `threading`'s hooks trace and profile it."""
        self = cls(name=name, daemon=True)
        self._set_ident()
        self._set_native_id()
        if sys.version_info >= (3, 13):
            self._handle = _thread._make_thread_handle(self.ident)
        else:
            self._set_tstate_lock()
        self._started.set()
        with threading._active_limbo_lock:
            threading._active[self.ident] = self
        if trace := threading.gettrace():
            sys.settrace(trace)
        if profile := threading.getprofile():
            sys.setprofile(profile)
        return self

    @staticmethod
    def unregister() -> None:
        """Forget the calling thread: it ends."""
        with threading._active_limbo_lock:
            self = threading._active.pop(threading.get_ident(), None)
        if sys.version_info >= (3, 13) and isinstance(self, NativeThread):
            self._handle._set_done()
