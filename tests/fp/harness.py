"""Helpers that change the floating-point state behind the loop's back, compute in it, or block."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import threading

from threadlets import fp

libm = ctypes.CDLL(ctypes.util.find_library("m"))
libm.log.restype = libm.exp.restype = ctypes.c_double
libm.log.argtypes = libm.exp.argtypes = [ctypes.c_double]

# Rounding modes by name, with the numbers of this machine's <fenv.h>.
_X86 = {"nearest": 0x000, "downward": 0x400, "upward": 0x800, "toward-zero": 0xC00}


def set_rounding(rounding: str) -> None:
    """Set this thread's rounding mode, like a library that does not restore it."""
    assert 0 == libm.fesetround(_X86[rounding])


def third() -> float:
    """Return 1/3, divided at run time, as this thread rounds it."""
    one, three = float("1"), float("3")
    return one / three


NEAREST = DOWN = 0.3333333333333333
UP = 0.33333333333333337


def rounding() -> str:
    """Return this thread's rounding mode."""
    return fp.state().rounding


class Gate:
    """A function that blocks, without the GIL, until its gate is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> None:
        """Block until the gate is opened."""
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._opened.wait(20), "the gate was not opened"

    def open(self) -> None:
        """Let blocked calls return."""
        self._opened.set()
