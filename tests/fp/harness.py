"""Code that changes the state behind everybody's back, arithmetic that shows it, and blocking."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import threading

from threadlets import fp

libm = ctypes.CDLL(ctypes.util.find_library("m"))
libm.log.restype = libm.exp.restype = ctypes.c_double
libm.log.argtypes = libm.exp.argtypes = [ctypes.c_double]

# By the rounding's name, as <fenv.h> of this machine numbers them.
_X86 = {"nearest": 0x000, "downward": 0x400, "upward": 0x800, "toward-zero": 0xC00}


def set_rounding(rounding: str) -> None:
    """Set the rounding of this thread, as a library would that never puts it back."""
    assert 0 == libm.fesetround(_X86[rounding])


def third() -> float:
    """Divide at run time: 1/3 as this thread rounds it."""
    one, three = float("1"), float("3")
    return one / three


NEAREST = DOWN = 0.3333333333333333
UP = 0.33333333333333337


def rounding() -> str:
    """Say how this thread rounds."""
    return fp.state().rounding


class Gate:
    """A function to call that blocks, without the GIL, until the gate is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> None:
        """Block."""
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._opened.wait(20), "nobody opened the gate"

    def open(self) -> None:
        """Let everybody through who is blocked."""
        self._opened.set()
