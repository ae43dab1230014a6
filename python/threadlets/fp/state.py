"""The floating-point state of this thread, and how to have another one for a while."""

from __future__ import annotations

import dataclasses
from typing import Literal

from threadlets import _core

Rounding = Literal["nearest", "upward", "downward", "toward-zero"]


@dataclasses.dataclass(frozen=True)
class State:
    """What the control registers of a thread say."""

    rounding: Rounding
    flush_to_zero: bool
    denormals_are_zero: bool
    #: What is different from the ABI's default, in words: "rounding upward, flush-to-zero"; empty if
    #: nothing is.
    changes: str


def state() -> State:
    """Read the floating-point state of this thread."""
    rounding, flush_to_zero, denormals_are_zero, changes = _core.fp_state()
    return State(rounding, flush_to_zero, denormals_are_zero, changes)


def environment(
    *,
    rounding: Rounding | None = None,
    flush_to_zero: bool | None = None,
    denormals_are_zero: bool | None = None,
) -> _core.Environment:
    """Make an environment to compute in: `with environment(rounding="upward"): …`.

    The state is set for the block, taken off whenever its coroutine suspends, and set again where it
    goes on, on whichever thread. What is None is as in the environment around it, or as the ABI has
    it. Whatever copies the context within the block (a task, a callback) computes in it too, as long
    as it lives. An environment can be entered any number of times; it is an argument of
    `threadlets.call` and `threadlets.Pool`, too.

    On aarch64 one bit says of results and operands alike that denormals are zero: the last of
    `flush_to_zero` and `denormals_are_zero` that is not None decides.

    Raises:
        ValueError: `rounding` is none of the four.
    """
    return _core.Environment(
        rounding=rounding, flush_to_zero=flush_to_zero, denormals_are_zero=denormals_are_zero
    )


def flags() -> _core.Flags:
    """Record floating-point exceptions: `with flags() as seen: …; seen.overflow`.

    `seen` tells which exceptions this request raised in the block, across its suspensions and nobody
    else's: not those of tasks it starts. Its attributes are `inexact`, `underflow`, `overflow`,
    `divide_by_zero`, `invalid`, and `raised`, the set of their names. They can be read in the block,
    by the request whose it is, and after it by anybody.
    """
    return _core.Flags()
