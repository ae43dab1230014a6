"""A function that is no syslet is refused where it is made, and the message names the line."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from threadlets import atoms
from threadlets._syslets.program import Syslet, syslet
from threadlets.atoms import Flow, add, buffer, counter, nop, openat, read
from threadlets.exceptions import SysletError, SysletTypeError

Refusal = Callable[[str], SysletError]

_REFUSED = {
    "a value of a way not taken": (
        """
        def f(fd, n):
            with when(n == 0):
                got = yield nop()
            yield nop()
            yield read(fd, buffer(got))  # here
        """,
        "uses got, which has no value on one of the paths",
    ),
    "a returned value of a way not taken": (
        """
        def f(fd, n):
            yield nop()
            with loop():
                yield poll(fd, 1)
                break_if(n == 0)
                got = yield poll(fd, 1)
            return got  # here
        """,
        "is returned, but has no value on one of the paths",
    ),
    "a path for a descriptor": (
        """
        def f():
            yield read("/etc/hosts", buffer(1))  # here
        """,
        "fd of read is '/etc/hosts', which is no descriptor",
    ),
    "a count for a descriptor": (
        """
        def f(fd):
            chunk = buffer(9)
            n = yield read(fd, chunk)
            yield read(n, chunk)  # here
        """,
        "n (an integer), which is no descriptor",
    ),
    "a descriptor for a number": (
        """
        def f(path):
            fd = yield openat(path)
            yield add(fd, 1)  # here
        """,
        "fd (a descriptor), which is no integer",
    ),
    "a number for a path": (
        """
        def f():
            yield openat(3)  # here
        """,
        "path of openat is 3, which is no path",
    ),
    "a path with a zero byte": (
        """
        def f():
            yield openat("a\\0b")  # here
        """,
        "no path has a zero byte",
    ),
    "reading into a constant": (
        """
        def f(fd):
            yield read(fd, b"1234")  # here
        """,
        "which nothing can be read into",
    ),
    "reading into a part of growing memory": (
        """
        def f(fd):
            yield read(fd, growing(9)[:3])  # here
        """,
        "to which reads append",
    ),
    "a parameter used in two ways": (
        """
        def f(path):
            yield openat(path)
            yield close(path)  # here
        """,
        "the parameter path is used as fd here, but as path at",
    ),
    "a default of another type": (
        """
        def f(path=3):  # here
            yield openat(path)
        """,
        "the default of path is 3, but it is used as path",
    ),
    "an unused parameter": (
        """
        def f(fd, path):  # here
            yield close(fd)
        """,
        "the parameter path is not used",
    ),
    "parameters that are not plain": (
        """
        def f(*fds):  # here
            yield nop()
        """,
        "a syslet has plain ones only",
    ),
    "a loop without I/O": (
        """
        def f(limit):
            n = counter()
            with loop():
                yield add(n, 1)  # here
                break_if(n > limit)
        """,
        "does no I/O",
    ),
    "an empty loop": (
        """
        def f():
            yield nop()
            with loop():  # here
                pass
        """,
        "yields no atom and never ends",
    ),
    "a loop that nothing ends": (
        """
        def f(fd):
            with loop():
                yield poll(fd, 1).unchecked()  # here
        """,
        "nothing can end the loop",
    ),
    "atoms after a loop that is never left": (
        """
        def f(fd):
            with loop():
                yield poll(fd, 1)
            yield close(fd)  # here
        """,
        "close is never reached",
    ),
    "something that is no atom": (
        """
        def f(fd):
            yield close(fd)
            yield fd  # here
        """,
        "which is no atom",
    ),
    "a function without yield": (
        """
        def f(fd):  # here
            close(fd)
        """,
        "yields nothing",
    ),
    "a generator that yields nothing": (
        """
        def f():  # here
            if False:
                yield nop()
        """,
        "yields nothing",
    ),
    "return inside a block": (
        """
        def f(fd):
            with loop():
                n = yield poll(fd, 1)
                return n  # here
        """,
        "`return` inside a traced block",
    ),
    "break inside a block": (
        """
        def f(fd):
            for _ in range(3):
                with when(fd == 0):
                    yield close(fd)
                    break  # here
        """,
        "`break` inside a traced block",
    ),
    "if with a comparison": (
        """
        def f(fd):
            n = yield poll(fd, 1)
            if n == 0:  # here
                yield close(fd)
        """,
        "with when(n == 0)",
    ),
    "if with a symbol": (
        """
        def f(fd):
            n = yield poll(fd, 1)
            while n:  # here
                yield close(fd)
        """,
        "n (an integer) has no truth value yet",
    ),
    "a chained comparison": (
        """
        def f(fd):
            n = yield poll(fd, 1)
            stop_if(0 < n < 4)  # here
        """,
        "0 < n < 10",
    ),
    "a comparison with text": (
        """
        def f(fd):
            n = yield poll(fd, 1)
            stop_if(n == "1")  # here
        """,
        "what is compared is '1', which is no integer",
    ),
    "a condition that is none": (
        """
        def f(fd):
            yield nop()
            stop_if(True)  # here
        """,
        "True is no condition",
    ),
    "break_if outside a loop": (
        """
        def f(fd):
            n = yield poll(fd, 1)
            break_if(n == 0)  # here
        """,
        "no enclosing loop",
    ),
    "otherwise without when": (
        """
        def f(fd):
            n = yield poll(fd, 1)
            with otherwise():  # here
                yield nop()
        """,
        "directly after the body of a when",
    ),
    "a successor in a traced syslet": (
        """
        def f():
            yield nop().then(0)  # here
        """,
        "has a successor or a condition of its own",
    ),
    "an integer of more than 64 bits": (
        """
        def f(fd):
            n = yield poll(fd, 1 << 64)  # here
        """,
        "does not fit into 64 bits",
    ),
    "a slice from the end": (
        """
        def f(fd):
            yield read(fd, buffer(9)[-1:])  # here
        """,
        "counts from the end",
    ),
    "an index": (
        """
        def f(fd):
            yield read(fd, buffer(9)[0])  # here
        """,
        "take a slice without a step",
    ),
    "flags that are no constant": (
        """
        def f(path, flags):
            yield openat(path, flags)  # here
        """,
        "must be a constant",
    ),
    "a wait that is computed": (
        """
        def f(fd):
            n = yield poll(fd, 1)
            yield timeout(n)  # here
        """,
        "take a number of seconds or a parameter",
    ),
    "returning a list": (
        """
        def f(fd):
            n = yield poll(fd, 1)
            return [n]  # here
        """,
        "cannot be returned",
    ),
    "a negative size": (
        """
        def f(fd):
            yield read(fd, -1)  # here
        """,
        "buffer of read is -1, and no read has a negative size",
    ),
    "a truth value for a size": (
        """
        def f(fd):
            yield recv(fd, True)  # here
        """,
        "buffer of recv is True, which is neither a size nor memory",
    ),
    "a float for a size": (
        """
        def f(fd):
            yield pread(fd, 4096.0, 0)  # here
        """,
        "buffer of pread is 4096.0, which is neither a size nor memory",
    ),
    "a text for a size": (
        """
        def f(fd):
            yield read(fd, "4096")  # here
        """,
        "buffer of read is '4096', which is neither a size nor memory",
    ),
    "a size of more than a read gives": (
        """
        def f(fd):
            yield read(fd, 1 << 31)  # here
        """,
        "is 2147483648, but one read gives 2147479552 bytes at most",
    ),
    "a size of more than 64 bits": (
        """
        def f(fd):
            yield read(fd, 1 << 64)  # here
        """,
        "does not fit into 64 bits",
    ),
    "a size to write": (
        """
        def f(fd):
            yield write(fd, 4096)  # here
        """,
        "data of write is 4096, a number, which has no bytes",
    ),
    "a size for several buffers": (
        """
        def f(fd):
            yield readv(fd, 4096)  # here
        """,
        "buffers of readv is 4096, and sizes are for read, pread, recv and getdents",
    ),
    "a size among buffers": (
        """
        def f(fd):
            yield recvmsg(fd, [buffer(9), 4096])  # here
        """,
        "buffers of recvmsg is 4096, and sizes are for",
    ),
    "bytes that are compared with a number": (
        """
        def f(fd):
            data = yield read(fd, 9)
            break_if(data == 0)  # here
        """,
        "compare `data.length`",
    ),
    "bytes that are compared with others": (
        """
        def f(fd):
            data = yield read(fd, 9)
            stop_if(data == b"GET")  # here
        """,
        "knows only whether bytes are empty: return it",
    ),
    "bytes as more than a number": (
        """
        def f(fd):
            data = yield read(fd, 9)
            stop_if(data > 3)  # here
        """,
        "compare their number, `data.length`",
    ),
    "bytes for a truth value": (
        """
        def f(fd):
            data = yield read(fd, 9)
            stop_if(not data)  # here
        """,
        'Compare it with `b""` in when',
    ),
    "bytes for an end of a slice": (
        """
        def f(fd):
            data = yield read(fd, 9)
            yield write(fd, buffer(9)[:data])  # here
        """,
        "data (bytes that are read), which is no integer: `length` is their number",
    ),
    "bytes that are joined": (
        """
        def f(fd):
            data = yield read(fd, 9)
            yield write(fd, data + b"x")  # here
        """,
        "a program does not join bytes",
    ),
    "bytes that are read into": (
        """
        def f(fd):
            data = yield read(fd, 9)
            yield read(fd, data)  # here
        """,
        "what was read never changes",
    ),
    "bytes for a path": (
        """
        def f(fd):
            data = yield read(fd, 9)
            yield openat(data)  # here
        """,
        "data (bytes that are read), which is no path",
    ),
    "the Python length of bytes": (
        """
        def f(fd):
            data = yield read(fd, 9)
            stop_if(len(data) == 0)  # here
        """,
        "`data.length` stands for the number",
    ),
    "bytes of a way not taken": (
        """
        def f(fd, n):
            with when(n == 0):
                data = yield read(fd, 9)
                yield write(fd, data)
            yield write(fd, data)  # here
        """,
        "write uses data.length, which has no value on one of the paths",
    ),
    "a variable for bytes": (
        """
        def f(fd):
            n = counter()
            yield read(fd, 9).into(n)  # here
        """,
        "the value of this read is bytes, and a variable is an integer",
    ),
    "a number to write": (
        """
        def f(fd, n: int):
            yield write(fd, n)  # here
        """,
        "data of write is n (a parameter), a number",
    ),
}


@pytest.fixture
def refusal(tmp_path: Path) -> Refusal:
    """Return a function that decorates `f` of a source; it must be refused at the line `# here`."""

    def refusal(source: str) -> SysletError:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(source))
        namespace: dict[str, Any] = {name: getattr(atoms, name) for name in atoms.__all__}
        exec(compile(path.read_text(), path, "exec"), namespace)
        with pytest.raises(SysletError) as refused:
            syslet(namespace["f"])
        lines = path.read_text().splitlines()
        (expected,) = (number for number, line in enumerate(lines, 1) if "# here" in line)
        assert (str(path), expected) == (refused.value.filename, refused.value.line)
        assert str(refused.value).startswith(f"{path}:{expected}: ")
        return refused.value

    return refusal


@pytest.mark.parametrize(("source", "fact"), _REFUSED.values(), ids=_REFUSED)
def test_what_is_no_program_is_refused(refusal: Refusal, source: str, fact: str) -> None:
    """The message states the fact, after the place in the user's file."""
    assert fact in str(refusal(source))


def test_symbols_of_another_syslet_are_refused() -> None:
    """A symbol has no value in another syslet."""
    leaked = []

    @syslet
    def first(fd):
        leaked.append(fd)
        yield read(fd, buffer(1))

    with pytest.raises(SysletError, match=r"fd \(a parameter\) was made at .*test_refusals"):

        @syslet
        def second():
            yield read(leaked[0], buffer(1))


def test_wrong_types_are_type_errors() -> None:
    """A wrong type raises TypeError, and a wrong value ValueError."""
    with pytest.raises(TypeError) as refused:
        read("path", buffer(1))  # type: ignore[arg-type]
    assert isinstance(refused.value, SysletTypeError)
    with pytest.raises(ValueError, match="64 bits"):
        add(1 << 64, 1)


def test_flow_outside_of_a_syslet_is_refused() -> None:
    """Outside of a syslet there is no flow to which a condition or a sum could belong."""
    n = counter()
    with pytest.raises(SysletError, match="belongs in the function of a syslet"):
        atoms.stop_if(n == 0)
    with pytest.raises(SysletError, match="belongs in the function of a syslet"):
        n + 1


def test_a_list_of_atoms_is_checked_too() -> None:
    """Successors must exist, and loops must end and do I/O."""
    line = inspect.currentframe().f_lineno  # type: ignore[union-attr]
    with pytest.raises(SysletError, match=f"{__name__.rpartition('.')[2]}.py:{line + 2}:"):
        Syslet.from_atoms([nop().then(3)])
    with pytest.raises(SysletError, match="there are no atoms"):
        Syslet.from_atoms([])
    with pytest.raises(SysletError, match="does no I/O"):
        Syslet.from_atoms([nop().then(1), nop().then(0)])
    endless = openat("/").with_flags(Flow(0)).then(0)
    with pytest.raises(SysletError, match="nothing can end the loop"):
        Syslet.from_atoms([endless])


def test_messages_do_not_name_our_files() -> None:
    """The message names the line of the user's code, however deep the error was found."""
    with pytest.raises(SysletError) as refused:
        buffer("9")  # type: ignore[arg-type]
    assert re.match(re.escape(__file__), str(refused.value))
