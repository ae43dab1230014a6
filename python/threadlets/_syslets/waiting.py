"""Atoms that wait, and atoms that only compute."""

from __future__ import annotations

from threadlets._syslets.atom import Atom
from threadlets._syslets.locations import user_location
from threadlets._syslets.operands import Fd, Number, make_atom
from threadlets._syslets.symbols import Parameter


def poll(fd: Fd, events: Number) -> Atom:
    """Wait until a descriptor has one of `events` (select.POLLIN …); see poll(2).

    The value is the set of events that it has.

    Errors: EBADF.
    """
    return make_atom("poll", fd, events)


def timeout(seconds: float | Parameter) -> Atom:
    """Wait for `seconds`, a number or a parameter; the value is 0 when they have passed.

    Raises:
        SysletTypeError: `seconds` is neither; a computed integer is refused, too.
        SysletError: `seconds` is negative, not finite, or 2**33 or more.
    """
    if isinstance(seconds, Parameter):
        return make_atom("timeout", seconds)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise user_location().type_error(
            f"seconds of timeout is {seconds!r}: take a number of seconds or a parameter"
        )
    if not 0 <= seconds < 2**33:
        raise user_location().error(f"seconds of timeout is {seconds}: take 0 or more, below 2**33")
    return make_atom("timeout", round(seconds * 1_000_000_000))


def waitid(idtype: Number, id: Number, options: Number) -> Atom:  # noqa: A002 - its name
    """Wait until a child process changes its state; the value is 0, and has fields; see waitid(2).

    `child.pid` is the process, `child.code` what happened (os.CLD_EXITED …), `child.status` its
    exit status or signal. `idtype` is os.P_PID, os.P_PIDFD ….

    Errors: ECHILD, EINVAL.
    """
    return make_atom("waitid", idtype, id, options)


def nop() -> Atom:
    """Do nothing; the value is 0."""
    return make_atom("nop")


def add(base: Number, amount: Number, factor: Number = 1) -> Atom:
    """Compute `base + amount * factor`, modulo 2**64; the value is the sum, which may be negative.

    If `base` is a variable, it is changed, and the value of the atom is the variable itself.
    """
    return make_atom("add", base, amount, factor)
