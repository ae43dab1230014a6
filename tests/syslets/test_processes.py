"""Whole processes: Ctrl-C, fork, the interpreter's end, choosing an engine, forbidden calls."""

from __future__ import annotations

import errno
import platform
import signal
from typing import Any

import pytest

from .harness import line, outcome

_SLEEP = """
@syslet
def sleep(seconds):
    yield timeout(seconds)

@syslet
def receive(fd):
    data = buffer(10)
    n = yield recv(fd, data)
    return data[:n]
"""

# A seccomp filter that refuses (EPERM) system calls by their numbers, or kills their caller.
_FORBID = """
import ctypes, struct

def forbid(*numbers, verdict=0x00050001):
    LD, JEQ, RET = 0x20, 0x15, 0x06
    program = [(LD, 0, 0, 0)]
    for i, number in enumerate(numbers):
        program.append((JEQ, len(numbers) - i, 0, number))
    program += [(RET, 0, 0, 0x7FFF0000), (RET, 0, 0, verdict)]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    memory = ctypes.create_string_buffer(code)
    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    filter = Filter(len(program), ctypes.addressof(memory))
    assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0, ctypes.get_errno()

KILL, RING = 0x80000000, (425, 426, 427)
"""

_ENGINES = ("uring", "workers")
_knows_numbers = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the system call numbers are those of x86-64"
)


@pytest.mark.parametrize("kind", _ENGINES)
@pytest.mark.parametrize(
    "wait",
    [
        "list(sweep(sleep, [1000] * 10))",
        "ring.wait(1)",
        "ring.wait(1, 1000)",
        "sleep.run(1000)",
        "receive.run(one)",
        "threadlets.run(sleep(1000))",
    ],
)
def test_ctrl_c_ends_every_wait(script: Any, kind: str, wait: str) -> None:
    """KeyboardInterrupt is raised at once, and the process ends by itself afterwards."""
    process = script(
        _SLEEP
        + f"""
one, other = socket.socketpair()
ring = CompletionRing()
ring.submit(sleep, 1000)
signal.setitimer(signal.ITIMER_REAL, 0.1)
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
try:
    {wait}
except KeyboardInterrupt:
    print("interrupted")
""",
        THREADLETS_ENGINE=kind,
    )
    assert (0, "interrupted\n", "") == outcome(process)


@pytest.mark.parametrize("kind", _ENGINES)
def test_child_of_a_fork_has_an_engine_of_its_own(script: Any, kind: str) -> None:
    """The parent's engine continues: its programs end in the parent, and only there."""
    process = script(
        _SLEEP
        + """
one, other = socket.socketpair()
ring = CompletionRing()
ring.submit(receive, one, tag="parent")
list(sweep(sleep, [0.001] * 10))
child = os.fork()
if child == 0:
    assert engine().in_flight == 0
    assert all(result.ok for result in sweep(sleep, [0.001] * 10))
    async def main():
        assert (await sleep(0.001)).ok
    threadlets.run(main())
    own = CompletionRing()
    own.submit(sleep, 0.001)
    assert len(own.wait(1, 10)) == 1
    print("child", flush=True)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
other.send(b"abc")
((tag, result),) = ring.wait(1, 10)
print(tag, result.value)
""",
        THREADLETS_ENGINE=kind,
    )
    assert (0, "child\nparent b'abc'\n", "") == outcome(process)


@pytest.mark.needs_uring
def test_a_failed_thread_ends_its_programs_and_no_others(script: Any) -> None:
    """Its programs end with EIO instead of waiting for ever; the engine reports it, and continues."""
    process = script(
        _SLEEP
        + """
one, other = socket.socketpair()
ring = CompletionRing()
ring.submit(receive, one, tag="before")
list(sweep(sleep, [0.001]))
nothing = os.open("/dev/null", os.O_RDWR)
for name in os.listdir("/proc/self/fd"):
    try:
        if "io_uring" in os.readlink(f"/proc/self/fd/{name}"):
            os.dup2(nothing, int(name))
    except FileNotFoundError:
        pass
ring.submit(sleep, 1000, tag="wakes it")
print(sorted((entry.tag, entry.result.error.errno) for entry in ring.wait(2, 10)))
print(all(result.ok for result in sweep(sleep, [0.001] * 10)), engine().in_flight)
print(engine().note)
""",
        THREADLETS_ENGINE="uring",
    )
    code, printed, said = outcome(process)
    assert (0, f"[('before', {errno.EIO}), ('wakes it', {errno.EIO})]") == (
        code,
        printed.splitlines()[0],
    )
    assert ["True 0", "threads that failed and were replaced: 1 (see standard error)"] == (
        printed.splitlines()[1:]
    )
    assert "its 2 programs end with EIO" in said


@pytest.mark.parametrize("kind", _ENGINES)
def test_the_child_of_a_fork_amid_deliveries_can_drop_what_it_inherits(
    script: Any, kind: str
) -> None:
    """A thread of the engine may be about to deliver a result, with a lock held that the child has."""
    process = script(
        _SLEEP
        + """
ring = CompletionRing()
for number in range(150):
    swept = sweep(sleep, [0, *[0.0001 * it for it in range(10)], 1000], ordered=False)
    next(swept)
    for _ in range(10):
        ring.submit(sleep, 0.0005)
    time.sleep(0.0001 * (number % 10))
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            ring.wait(1, 0)
        except RuntimeError:
            pass
        swept.close()
        del ring, swept
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    swept.close()
    ring.wait(10, 10)
print("done")
""",
        THREADLETS_ENGINE=kind,
    )
    assert (0, "done\n", "") == outcome(process)


@pytest.mark.parametrize("kind", _ENGINES)
def test_rings_of_the_parent_do_not_hang_in_the_child(script: Any, kind: str) -> None:
    """A program that the child submits to such a ring runs or raises; the ring can be dropped."""
    process = script(
        _SLEEP
        + """
ring = CompletionRing()
ring.submit(sleep, 1000, tag="parent")
swept = sweep(sleep, [0, 0.001, 1000, 1000], ordered=False)
next(swept)
child = os.fork()
if child == 0:
    signal.alarm(10)
    try:
        ring.submit(sleep, 0.001, tag="child")
        entries = ring.wait(1, 5)
        print([entry.tag for entry in entries if entry.tag == "child"])
    except RuntimeError:
        print(["child"])
    del ring, swept
    print("gone", flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
ring.cancel()
print(ring.wait(1, 5)[0].tag)
""",
        THREADLETS_ENGINE=kind,
    )
    assert (0, "['child']\ngone\nparent\n", "") == outcome(process)


@pytest.mark.parametrize("kind", _ENGINES)
@pytest.mark.parametrize(
    "begin",
    [
        "ring = CompletionRing(); ring.submit(sleep, 1000); ring.submit(receive, one)",
        "swept = sweep(sleep, [0, 1000, 1000], ordered=False); next(swept)",
        "loop = threadlets.new_event_loop(); coroutine = sleep(1000)\n"
        "loop.call_soon(lambda: (coroutine.send(None), loop.stop())); loop.run_forever()",
        "threading.Thread(target=lambda: sleep.run(1000), daemon=True).start()",
        "threading.Thread(target=lambda: list(sweep(sleep, [1000])), daemon=True).start()",
        "waiting = CompletionRing(); waiting.submit(receive, one)\n"
        "threading.Thread(target=waiting.wait, daemon=True).start()",
    ],
    ids=["ring", "sweep", "loop", "thread that runs", "thread that sweeps", "thread that waits"],
)
def test_interpreter_ends_with_programs_outstanding(script: Any, kind: str, begin: str) -> None:
    """The process ends at once, and silently."""
    process = script(
        _SLEEP
        + f"""
one, other = socket.socketpair()
{begin}
print("end")
""",
        THREADLETS_ENGINE=kind,
    )
    status, stdout, stderr = outcome(process)
    assert (0, "end\n") == (status, stdout)
    assert "" == stderr or "never awaited" in stderr or "ResourceWarning" in stderr


@pytest.mark.needs_uring
def test_the_environment_names_the_engine(script: Any) -> None:
    """THREADLETS_ENGINE may be `uring` or `workers`; empty is like unset."""
    for kind, expected in (("uring", "uring"), ("workers", "workers"), ("", "uring")):
        process = script("print(engine().kind)", THREADLETS_ENGINE=kind)
        assert (0, f"{expected}\n", "") == outcome(process)


@pytest.mark.parametrize("name", ["nonsense", "sim", "URING"])
def test_engine_that_does_not_exist_is_refused_at_its_first_use(script: Any, name: str) -> None:
    """The message lists the engines; importing does not use one, nor does `run`."""
    process = script(
        _SLEEP
        + """
assert sleep.run(0).ok
for use in (engine, CompletionRing, lambda: list(sweep(sleep, [0])), lambda: threadlets.run(sleep(0))):
    try:
        use()
    except ValueError as error:
        assert "uring or workers" in str(error)
        print("refused")
""",
        THREADLETS_ENGINE=name,
    )
    assert (0, "refused\n" * 4, "") == outcome(process)


@_knows_numbers
def test_where_rings_are_forbidden_workers_carry_on(script: Any) -> None:
    """The note says why, and what helps; asking for uring raises OSError."""
    source = (
        _FORBID
        + _SLEEP
        + """
forbid(*RING)
try:
    found = engine()
except OSError as error:
    print(error.errno, "seccomp" in str(error))
else:
    print(found.kind, "seccomp" in found.note, "THREADLETS_ENGINE" in found.note)
    print(len(list(sweep(sleep, [0.001] * 5))))
"""
    )
    assert (0, "workers True True\n5\n", "") == outcome(script(source))
    process = script(source, THREADLETS_ENGINE="uring")
    assert (0, f"{errno.EPERM} True\n", "") == outcome(process)


@_knows_numbers
@pytest.mark.parametrize("verdict", [errno.EPERM, errno.ENOSYS], ids=errno.errorcode.get)
def test_where_attempts_are_unknown_files_are_read_and_written(script: Any, verdict: int) -> None:
    """Old sandboxes and emulators know neither preadv2 nor pwritev2: workers do without them."""
    process = script(
        _FORBID
        + f"""
import tempfile
from threadlets.atoms import *

@syslet
def rewrite(path):
    fd = yield openat(path, os.O_RDWR)
    data, more = buffer(3), buffer(3)
    n = yield read(fd, data)
    yield readv(fd, [more])
    yield write(fd, b"ghi")
    yield writev(fd, [b"jkl", b"mno"])
    yield pwrite(fd, b"ABC", 0)
    yield close(fd)
    return n, data, more

forbid(*RING, 327, 328, verdict=0x00050000 | {verdict})
with tempfile.NamedTemporaryFile() as file:
    file.write(b"abcdef")
    file.flush()
    print(rewrite.run(file.name).value)
    print([bytes(it) for it in list(sweep(rewrite, [file.name]))[0].value[1:]])
    print(open(file.name, "rb").read())
""",
        THREADLETS_ENGINE="workers",
    )
    expected = """(3, b'abc', b'def')
[b'ABC', b'def']
b'ABCdefghijklmno'
"""
    assert (0, expected, "") == outcome(process)


@_knows_numbers
def test_where_rings_are_deadly_workers_are_asked_for(script: Any) -> None:
    """With THREADLETS_ENGINE=workers no ring is tried; without it the process is killed."""
    source = (
        _FORBID
        + _SLEEP
        + """
forbid(*RING, verdict=KILL)
one, other = socket.socketpair()
other.send(b"abc")
async def main():
    assert (await sleep(0.001)).ok
    print((await receive(one)).value, engine().kind)
threadlets.run(main())
print(len(list(sweep(sleep, [0.001] * 5))))
"""
    )
    process = script(source, THREADLETS_ENGINE="workers")
    assert (0, "b'abc' workers\n5\n", "") == outcome(process)
    assert -signal.SIGSYS == outcome(script(source))[0]


@_knows_numbers
@pytest.mark.parametrize("kind", _ENGINES)
def test_without_any_thread_programs_are_refused(script: Any, kind: str) -> None:
    """The message says what to do; `run`, which needs no thread, still works."""
    process = script(
        _FORBID
        + _SLEEP
        + """
forbid(435, 56)
ring = CompletionRing()
for use in (
    lambda: ring.submit(sleep, 0.001),
    lambda: list(sweep(sleep, [0.001])),
    lambda: threadlets.run(sleep(0.001)),
):
    try:
        use()
    except RuntimeError as error:
        print("ulimit" in str(error))
assert sleep.run(0.001).ok
print(ring.outstanding, engine().in_flight)
""",
        THREADLETS_ENGINE=kind,
    )
    assert (0, "True\n" * 3 + "0 0\n", "") == outcome(process)


@pytest.mark.parametrize("kind", _ENGINES)
@pytest.mark.parametrize("way", ["await", "submit"])
def test_synchronous_atoms_wait_without_the_interpreter(script: Any, kind: str, way: str) -> None:
    """While a synchronous atom waits, another thread can run, and write what it waits for."""
    process = script(
        """
@syslet
def reading(fd):
    data = buffer(10)
    n = yield read(fd, data).synchronous()
    return data[:n]

r, w = os.pipe()
signal.alarm(8)
threading.Timer(0.05, os.write, (w, b"abc")).start()

async def main():
    return await reading(r)

"""
        + {
            "await": "print(threadlets.run(main()).value)",
            "submit": "print(CompletionRing().submit(reading, r).value)",
        }[way],
        THREADLETS_ENGINE=kind,
    )
    assert (0, "b'abc'\n", "") == outcome(process)


@pytest.mark.parametrize("kind", _ENGINES)
def test_writer_of_a_named_pipe_finds_its_reader(script: Any, kind: str, tmp_path: Any) -> None:
    """Trying to open the pipe must not leave a writer that waits in open(2) without a reader."""
    process = script(
        f"""
import subprocess
path = {str(tmp_path / "pipe")!r}
os.mkfifo(path)

@syslet
def reading(path):
    fd = yield openat(path)
    data = buffer(100)
    n = yield read(fd, data)
    return data[:n]

source = (
    "import os; fd = os.open({str(tmp_path / "pipe")!r}, os.O_WRONLY); "
    "os.write(fd, b'hello')"
)

def blocked_in_open(pid):
    try:
        return "wait_for_partner" in open(f"/proc/{{pid}}/wchan").read()
    except OSError:
        return False

async def main():
    for _ in range(20):
        writer = subprocess.Popen([sys.executable, "-S", "-c", source], stderr=subprocess.PIPE)
        until = time.monotonic() + 0.3
        while not blocked_in_open(writer.pid) and time.monotonic() < until:
            time.sleep(0.001)
        async with asyncio.timeout(5):
            result = await reading(path)
        assert writer.wait(5) == 0, writer.stderr.read()
        assert result.value == b"hello", result
        writer.stderr.close()
    print("heard")

threadlets.run(main())
""",
        THREADLETS_ENGINE=kind,
    )
    assert (0, "heard\n", "") == outcome(process)


@pytest.mark.parametrize("kind", _ENGINES)
def test_connect_to_a_full_backlog_can_be_interrupted(script: Any, kind: str) -> None:
    """A signal handler interrupts `run`, on blocking and on non-blocking sockets."""
    process = script(
        """
@syslet
def connecting(fd, where):
    yield connect(fd, where)

name = b"\\0threadlets-backlog-%d" % os.getpid()
listener = socket.socket(socket.AF_UNIX)
listener.bind(name)
listener.listen(0)
first = socket.socket(socket.AF_UNIX)
first.connect(name)

class Alarm(Exception):
    pass

def on_alarm(*_):
    raise Alarm

signal.signal(signal.SIGALRM, on_alarm)
for blocking in (True, False):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(blocking)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            result = connecting.run(sock, name)
            assert not blocking and result.errno, result
        except Alarm:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
print("interrupted")
""",
        THREADLETS_ENGINE=kind,
    )
    assert (0, "interrupted\n", "") == outcome(process)


@pytest.mark.parametrize("kind", _ENGINES)
def test_engine_leaves_signals_to_the_main_thread(script: Any, kind: str) -> None:
    """A handler runs in the main thread while programs are in flight, however many signals come."""
    process = script(
        _SLEEP
        + """
n_heard = 0
def on_signal(*_):
    global n_heard
    assert threading.current_thread() is threading.main_thread()
    n_heard += 1
signal.signal(signal.SIGUSR1, on_signal)
ring = CompletionRing()
for _ in range(10):
    ring.submit(sleep, 1000)
for i in range(1, 101):
    os.kill(os.getpid(), signal.SIGUSR1)
    while n_heard < i:
        pass
print(n_heard)
""",
        THREADLETS_ENGINE=kind,
    )
    assert (0, "100\n", "") == outcome(process)


def test_ready_line_comes_before_the_wait(script: Any) -> None:
    """A process that waits in a sweep ends by SIGINT, too."""
    process = script(_SLEEP + 'print("ready")\nlist(sweep(sleep, [1000]))\n')
    assert "ready" == line(process)
    process.send_signal(signal.SIGINT)
    status, _, stderr = outcome(process)
    assert -signal.SIGINT == status
    assert "KeyboardInterrupt" in stderr
