"""``python -m threadlets`` and ``threadlets repl``: a prompt at which code can be awaited, on our loop.

As ``python -m asyncio`` has it: the loop runs in the main thread, where the code runs, too; a second thread
reads the input, so that tasks go on meanwhile. Needs no other package.
"""

from __future__ import annotations

import ast
import asyncio
import code
import concurrent.futures
import contextlib
import contextvars
import importlib
import inspect
import os
import platform
import sys
import termios
import threading
import tokenize
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import threadlets
from threadlets._user_error import STATUS_INTERRUPTED
from threadlets._user_traceback import without_our_frames


def run_repl(*, debug: bool = False) -> int:
    """Read, run and print until the end of the input, and return the exit status.

    Tasks that are left are cancelled then. Ctrl-C cancels what is awaited, and nothing else.
    """
    with (
        _terminal_as_it_was(),
        asyncio.Runner(loop_factory=threadlets.new_event_loop, debug=debug or None) as runner,
    ):
        loop = runner.get_loop()
        asyncio.set_event_loop(loop)
        try:
            return _Repl(loop).run()
        finally:
            asyncio.set_event_loop(None)


class _Repl:
    """The prompt: its console, and the thread that reads the input."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._console = _Console(loop)
        self._status: Any = 0
        self._thread = threading.Thread(target=self._read, name="threadlets REPL", daemon=True)

    def run(self) -> int:
        """Run the loop in this thread until the input ends."""
        # Otherwise CPython 3.13 and newer would write the history of their own editor at exit, which is empty.
        os.environ["PYTHON_BASIC_REPL"] = "1"
        _set_up_line_editing(self._console.locals)
        sys.audit("cpython.run_stdin")
        self._thread.start()
        while True:
            try:
                self._loop.run_forever()
            except KeyboardInterrupt:
                self._console.interrupt()
            except SystemExit as error:
                # Of a task: that of the statement itself ends the reading thread.
                self._status = error.code
                break
            else:
                break
        return _exit_status(self._status)

    def _read(self) -> None:
        """Read statements until the input ends; in the thread that reads."""
        console = self._console
        try:
            if not sys.flags.quiet:
                console.write(_banner())
            _run_startup_file(console)
            if not sys.flags.quiet:
                console.write(f"{getattr(sys, 'ps1', '>>> ')}import asyncio, threadlets\n")
            console.interact(banner="", exitmsg="")
        except SystemExit as error:
            self._status = error.code
        except BaseException:
            console.showtraceback()
            self._status = 1
        finally:
            with contextlib.suppress(RuntimeError):
                # It may have been stopped and closed meanwhile, by a task that has ended the program.
                self._loop.call_soon_threadsafe(self._loop.stop)


class _Console(code.InteractiveConsole):
    """Compiles statements in which `await` may stand, and has the loop run them, one at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        names: dict[str, Any] = dict.fromkeys(("__doc__", "__package__", "__spec__"))
        names["__name__"] = "__main__"
        names |= {"__builtins__": __builtins__, "asyncio": asyncio, "threadlets": threadlets}
        super().__init__(names, filename="<stdin>")
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._loop = loop
        # Variables that one statement sets are there in the next.
        self._context = contextvars.copy_context()
        self._task: asyncio.Task[Any] | None = None
        self._is_interrupted = False

    def runcode(self, code: types.CodeType) -> Any:
        """Run a statement in the loop's thread, and wait for it; called by the thread that reads."""
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._begin, code, done, context=self._context)
        # Waits; `result` would add frames of its own to the traceback.
        if (error := done.exception()) is None:
            return done.result()
        if isinstance(error, SystemExit):
            raise error
        if self._is_interrupted:
            self.write("\nKeyboardInterrupt\n")
        else:
            self._show(error)
        return None

    def _show(self, error: BaseException) -> None:
        """Show an exception as the interpreter does, from the frame of the statement on."""
        try:
            # That adds this frame, which `showtraceback` leaves out.
            raise error.with_traceback(without_our_frames(error.__traceback__))
        except BaseException:
            self.showtraceback()

    def interrupt(self) -> None:
        """Cancel the statement that awaits something, if there is one."""
        self._is_interrupted = True
        if self._task is not None:
            self._task.cancel()

    def _begin(self, code: types.CodeType, done: concurrent.futures.Future[Any]) -> None:
        self._task, self._is_interrupted = None, False
        try:
            result = types.FunctionType(code, self.locals)()
        except BaseException as error:
            self._is_interrupted = isinstance(error, KeyboardInterrupt)
            done.set_exception(error)
            return
        if not inspect.iscoroutine(result):
            done.set_result(result)
            return
        self._task = self._loop.create_task(result, context=self._context)
        self._task.add_done_callback(lambda task: self._end(task, done))

    def _end(self, task: asyncio.Task[Any], done: concurrent.futures.Future[Any]) -> None:
        self._task = None
        if task.cancelled():
            done.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._is_interrupted = self._is_interrupted or isinstance(error, KeyboardInterrupt)
            done.set_exception(error)
        else:
            done.set_result(task.result())


def _banner() -> str:
    return (
        f"threadlets {threadlets.__version__} on {platform.python_implementation()} "
        f"{platform.python_version()}, {sys.platform}\n"
        'Use "await" directly: tasks go on while this prompt waits.\n'
        'Type "help", "copyright", "credits" or "license" for more information.\n'
    )


def _run_startup_file(console: _Console) -> None:
    """Run the file that PYTHONSTARTUP names, as CPython's own prompt does."""
    path = None if sys.flags.ignore_environment else os.environ.get("PYTHONSTARTUP")
    if not path:
        return
    sys.audit("cpython.run_startup", path)
    try:
        with tokenize.open(path) as file:
            startup = compile(file.read(), path, "exec")
        exec(startup, console.locals)
    except SystemExit:
        raise
    except BaseException:
        console.showtraceback()


def _set_up_line_editing(names: Mapping[str, Any]) -> None:
    """Have readline edit lines, keep their history, and complete the names of this prompt."""
    if not sys.stdin.isatty():
        return
    hook = getattr(sys, "__interactivehook__", None)
    if hook is None:
        return
    sys.audit("cpython.run_interactivehook", hook)
    # It reads the history, and has it written at the end.
    hook()
    if hook.__module__ == "site":
        with contextlib.suppress(ImportError):
            completer = importlib.import_module("rlcompleter").Completer(names)
            importlib.import_module("readline").set_completer(completer.complete)


@contextlib.contextmanager
def _terminal_as_it_was() -> Iterator[None]:
    """Restore the terminal, which a thread may still be reading from when the program ends."""
    try:
        fd = sys.stdin.fileno()
        settings = termios.tcgetattr(fd)
    except (OSError, ValueError, AttributeError, termios.error):
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(fd, termios.TCSANOW, settings)


def _exit_status(code: Any) -> int:
    """Return the status for what was given to `exit()`."""
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1


def main() -> None:
    """Run the prompt, and exit with its status."""
    try:
        status = run_repl()
    except KeyboardInterrupt:
        # A task did not let itself be cancelled at the end.
        status = STATUS_INTERRUPTED
    # A coroutine of a statement that has been given up.
    warnings.filterwarnings("ignore", r"^coroutine .* was never awaited$", RuntimeWarning)
    sys.exit(status)
