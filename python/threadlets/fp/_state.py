"""The floating-point state of this thread, and environments that change it for a while."""

import dataclasses
from typing import Literal, get_args

from threadlets import _core
from threadlets._arguments import check_choice, wrong_type
from threadlets._public import set_module

Rounding = Literal["nearest", "upward", "downward", "toward-zero"]


@set_module("threadlets.fp")
@dataclasses.dataclass(frozen=True)
class State:
    """What the floating-point control registers of a thread say."""

    rounding: Rounding
    flush_to_zero: bool
    denormals_are_zero: bool
    #: The differences from the ABI's default, in words: "rounding upward, flush-to-zero"; empty if
    #: there are none.
    changes: str


@set_module("threadlets.fp")
def state() -> State:
    """Read the floating-point state of this thread."""
    rounding, flush_to_zero, denormals_are_zero, changes = _core.fp_state()
    return State(rounding, flush_to_zero, denormals_are_zero, changes)


@set_module("threadlets.fp")
def environment(
    *,
    rounding: Rounding | None = None,
    flush_to_zero: bool | None = None,
    denormals_are_zero: bool | None = None,
) -> _core.Environment:
    """Make an environment to compute in: `with environment(rounding="upward"): …`.

    The state is set for the block, removed whenever its coroutine suspends, and set again where the
    coroutine goes on, on whichever thread. Arguments that are None leave what the surrounding
    environment, or else the ABI, says. Tasks and callbacks that copy the context within the block
    compute in the environment, too, as long as they live. An environment can be entered any number
    of times; it is also an argument of `threadlets.call` and `threadlets.Pool`.

    On aarch64 one bit makes denormals zero in results and operands alike: the last of
    `flush_to_zero` and `denormals_are_zero` that is not None decides.

    Raises:
        ValueError: `rounding` is not one of the four.
    """
    if rounding is not None:
        roundings = get_args(Rounding)
        remedy = "it is 'nearest', 'upward', 'downward' or 'toward-zero'"
        check_choice("rounding", rounding, roundings, remedy)
    for name, value in (
        ("flush_to_zero", flush_to_zero),
        ("denormals_are_zero", denormals_are_zero),
    ):
        if value is not None and not isinstance(value, bool):
            raise wrong_type(name, value, "on or off", "pass True, False or None")
    return _core.Environment(
        rounding=rounding, flush_to_zero=flush_to_zero, denormals_are_zero=denormals_are_zero
    )


@set_module("threadlets.fp")
def flags() -> _core.Flags:
    """Record floating-point exceptions: `with flags() as seen: …; seen.overflow`.

    `seen` tells which exceptions this request raised in the block, across its suspensions, without
    those of other requests or of tasks that it starts. Its attributes are `inexact`, `underflow`,
    `overflow`, `divide_by_zero`, `invalid`, and `raised`, the set of their names. Within the block
    only the request itself can read them; after it, any code can.
    """
    return _core.Flags()
