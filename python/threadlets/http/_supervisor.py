"""Runs workers, and keeps them running: restarts those that end, reloads on SIGHUP, drains on SIGTERM.

The supervisor keeps the listening sockets of each of its slots. A worker inherits those of its slot, so
that connections which nobody has accepted yet outlive it: its successor accepts them. On a reload a
worker is told to drain when its successor says that it is ready. The supervisor does not import the
application, so that each worker has the code as it is then.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from threadlets import _core
from threadlets._user_error import STATUS_ENVIRONMENT, STATUS_INTERRUPTED, STATUS_USAGE
from threadlets.http._launch import Launch
from threadlets.http._reload import Watcher
from threadlets.http._systemd import Notifier
from threadlets.http._team import Team
from threadlets.http._worker_process import WorkerProcess, describe_end

logger = logging.getLogger("threadlets.http")

#: A worker that ends within this time of its start waits before it is restarted.
_QUICK_S = 5.0
_BACK_OFF_FIRST_S = 0.1
_BACK_OFF_MAX_S = 5.0
#: What a worker has for its shutdown, after the time for requests in flight, until it is killed.
_SHUTDOWN_S = 10.0
#: What requests in flight have when files have changed.
_RELOAD_GRACE_S = 0.5
#: At a terminal, Ctrl-C reaches a worker that is reloaded, too: it stops without being told.
_BEFORE_TELLING_S = 1.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)


class Slot:
    """A place for one worker, with its listening sockets."""

    def __init__(self, number: int, listeners: list[socket.socket]) -> None:
        self.number = number
        self.listeners = listeners
        #: The worker that accepts connections.
        self.serving: WorkerProcess | None = None
        #: The one that has been started, and will.
        self.coming: WorkerProcess | None = None
        self.n_quick_ends = 0
        self.restart_at_s: float | None = None

    def workers(self) -> Iterator[WorkerProcess]:
        return (it for it in (self.serving, self.coming) if it is not None)

    def back_off_s(self, worker: WorkerProcess) -> float:
        """Return how long to wait after the end of a worker: nothing, if it had lived for a while."""
        if time.monotonic() - worker.started_s >= _QUICK_S:
            self.n_quick_ends = 0
            return 0.0
        self.n_quick_ends += 1
        return float(min(_BACK_OFF_FIRST_S * 2 ** (self.n_quick_ends - 1), _BACK_OFF_MAX_S))


class Supervisor:
    """Runs one worker for each group of listening sockets.

    With a `watcher`, workers end and start again whenever files have changed. `on_ready` is called
    once all workers serve for the first time.
    """

    def __init__(
        self,
        launch: Launch,
        groups: Iterable[list[socket.socket]],
        *,
        on_ready: Callable[[], object],
        notifier: Notifier,
        watcher: Watcher | None = None,
        metrics_listeners: Sequence[socket.socket] = (),
    ) -> None:
        if watcher is not None:
            grace_s = min(launch.config.timeout_graceful_shutdown, _RELOAD_GRACE_S)
            launch = launch.with_config(timeout_graceful_shutdown=grace_s)
        self._launch = launch
        self._slots = [Slot(number, listeners) for number, listeners in enumerate(groups)]
        self._on_ready = on_ready
        self._notifier = notifier
        self._watcher = watcher
        self._counts = _core.HttpCounts()
        self._metrics_listeners = metrics_listeners
        self._patience_s = launch.config.timeout_graceful_shutdown + _SHUTDOWN_S
        self._draining: list[WorkerProcess] = []
        #: Slots that get new workers: None if none do.
        self._renewed: list[Slot] | None = None
        self._was_ready = False
        self._reload_wanted = False
        self._n_interrupts = 0
        self._is_stopping = False
        self._told_at_s: float | None = None
        self._status = 0
        self._signals: list[int] = []
        self._had_terminal = _has_terminal()
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._wakes = socket.socketpair()
        for end in (self._wakeup, self._wakes):
            end.setblocking(False)
        #: Workers hold its other end, which ends when this process does, however that happens.
        self._life_fd, self._own_life_fd = os.pipe()

    def run(self) -> int:
        """Run the workers until SIGINT or SIGTERM, or until none can start; return the exit status.

        That is 0, or 130 after a second SIGINT, or the status of a worker that could not start or
        failed to shut down.
        """
        with self._handling_signals():
            self._selector.register(self._wakeup, selectors.EVENT_READ)
            if self._watcher is not None:
                self._selector.register(self._watcher.fd, selectors.EVENT_READ)
            self._renew(self._slots)
            try:
                while not (self._is_stopping and self._is_empty()):
                    self._step()
            except BaseException:
                self._kill_all()
                raise
        return STATUS_INTERRUPTED if self._n_interrupts > 1 else self._status

    # -- what happens --

    def _step(self) -> None:
        """Wait until something happens, and deal with it."""
        events = {key.fd for key, _ in self._selector.select(self._timeout_s())}
        # Emptied before the list is taken: a signal that comes in between wakes the next wait.
        with suppress(BlockingIOError):
            self._wakeup.recv(4096)
        signals, self._signals = self._signals, []
        for number in signals:
            self._on_signal(number)
        if self._watcher is not None and self._watcher.fd in events:
            self._on_change(self._watcher.take_changed())
        for slot in self._slots:
            if slot.coming is not None and slot.coming.ready_fd in events:
                self._selector.unregister(slot.coming.ready_fd)
                if slot.coming.take_ready():
                    self._on_worker_ready(slot, slot.coming)
        self._reap()
        self._act_on_time()

    def _timeout_s(self) -> float | None:
        times = [it.restart_at_s for it in self._slots] + [self._told_at_s]
        times += [it.killed_at_s for it in self._all_workers()]
        known = [it for it in times if it is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def _on_signal(self, number: int) -> None:
        has_hung_up = number == signal.SIGHUP and self._had_terminal and not _has_terminal()
        if number == signal.SIGHUP and not has_hung_up:
            self._reload()
        elif number != signal.SIGCHLD:
            self._n_interrupts += number == signal.SIGINT
            if not self._is_stopping:
                logger.info("Stopping on %s: requests in flight may finish", _name(number))
                is_shared = number == signal.SIGINT and self._watcher is not None
                self._stop(0, tell_after_s=_BEFORE_TELLING_S if is_shared else 0.0)
            elif self._n_interrupts == 2 and number == signal.SIGINT:
                logger.warning("Stopping at once: connections are dropped")
                self._kill_all()

    def _on_change(self, paths: list[str]) -> None:
        if self._is_stopping or not paths:
            return
        logger.info("Reloading: %s has changed", ", ".join(map(os.path.relpath, paths[:3])))
        for slot in self._slots:
            for worker in list(slot.workers()):
                self._drain(slot, worker, is_replaced=True)
            # When those that drain have ended: two versions never answer at the same time.
            slot.restart_at_s = None
        self._reload_wanted = True

    def _on_worker_ready(self, slot: Slot, worker: WorkerProcess) -> None:
        logger.debug("Worker %d (%d) is ready", slot.number + 1, worker.pid)
        if slot.serving is not None:
            self._drain(slot, slot.serving, is_replaced=True)
        slot.serving, slot.coming = worker, None
        if self._renewed is None or slot not in self._renewed:
            return
        self._renewed.remove(slot)
        for other in self._renewed:
            self._start(other)
        if self._renewed:
            return
        self._renewed = None
        if self._was_ready:
            logger.info("Reloaded")
        else:
            self._was_ready = True
            self._on_ready()
        self._notifier.ready()
        if self._reload_wanted and self._watcher is None:
            self._reload()

    def _reap(self) -> None:
        for worker in list(self._draining):
            if (status := worker.poll()) is not None:
                self._draining.remove(worker)
                self._forget(worker)
                if worker.is_ready and status != 0:
                    logger.warning("A worker (%d) %s", worker.pid, describe_end(status))
                    if self._is_stopping:
                        self._status = self._status or _exit_status(status)
        for slot in self._slots:
            for worker in list(slot.workers()):
                if (status := worker.poll()) is not None:
                    self._forget(worker)
                    self._on_worker_end(slot, worker, status)

    def _on_worker_end(self, slot: Slot, worker: WorkerProcess, status: int) -> None:
        """Deal with a worker that has ended without being told to."""
        how = describe_end(status)
        if worker is slot.serving:
            slot.serving = None
            logger.error("Worker %d (%d) %s", slot.number + 1, worker.pid, how)
            if slot.coming is None:
                slot.restart_at_s = time.monotonic() + slot.back_off_s(worker)
            return
        slot.coming = None
        if self._watcher is not None:
            logger.error("The application did not start: waiting for a change of its files")
            self._renewed = None
        elif not any(it.serving for it in self._slots):
            # Nothing is left: a loop of restarts would only hide what the worker has said.
            if status not in (STATUS_ENVIRONMENT, STATUS_USAGE):
                logger.error("The first worker %s before it was ready", how)
            self._stop(_exit_status(status))
        elif self._was_ready and self._renewed == self._slots and slot.serving is not None:
            logger.error("Not reloaded: the first new worker %s; the previous ones go on", how)
            self._renewed = None
            self._notifier.ready()
            if self._reload_wanted:
                self._reload()
        else:
            logger.error("Worker %d %s before it was ready", slot.number + 1, how)
            slot.restart_at_s = time.monotonic() + slot.back_off_s(worker)

    def _act_on_time(self) -> None:
        now_s = time.monotonic()
        if self._told_at_s is not None and self._told_at_s <= now_s:
            self._told_at_s = None
            self._tell_all()
        for worker in self._all_workers():
            if worker.killed_at_s is not None and worker.killed_at_s <= now_s:
                logger.error("Worker %d does not end: it is killed", worker.pid)
                worker.killed_at_s = None
                worker.kill()
        if self._is_stopping:
            return
        for slot in self._slots:
            if slot.restart_at_s is not None and slot.restart_at_s <= now_s:
                slot.restart_at_s = None
                self._start(slot)
        if self._watcher is not None and self._reload_wanted and not self._draining:
            self._reload_wanted = False
            self._renew(self._slots)

    # -- what is done --

    def _reload(self) -> None:
        if self._is_stopping:
            return
        if self._renewed is not None:
            # Those that are starting may have read the old code: all start again afterwards.
            self._reload_wanted = True
            return
        self._reload_wanted = False
        logger.info("Reloading")
        self._notifier.reloading()
        self._renew(self._slots)

    def _renew(self, slots: Iterable[Slot]) -> None:
        """Start a new worker in each slot, the first one alone: it finds out whether that works."""
        self._renewed = list(slots)
        self._start(self._renewed[0])

    def _start(self, slot: Slot) -> None:
        if slot.coming is not None:
            return
        slot.restart_at_s = None
        try:
            # At a terminal, Ctrl-C is for the supervisor alone; but a debugger needs the terminal.
            slot.coming = WorkerProcess(
                self._launch,
                slot.listeners,
                self._make_team(),
                self._life_fd,
                own_group=self._watcher is None,
            )
        except OSError as error:
            if not self._was_ready:
                raise
            logger.error("Worker %d cannot be started: %s", slot.number + 1, error)
            slot.restart_at_s = time.monotonic() + _BACK_OFF_MAX_S
            return
        self._selector.register(slot.coming.ready_fd, selectors.EVENT_READ)

    def _drain(self, slot: Slot, worker: WorkerProcess, *, is_replaced: bool = False) -> None:
        worker.terminate(self._patience_s, is_replaced=is_replaced)
        self._close(worker)
        self._draining.append(worker)
        if worker is slot.serving:
            slot.serving = None
        else:
            slot.coming = None

    def _stop(self, status: int, *, tell_after_s: float = 0.0) -> None:
        self._is_stopping = True
        self._status = status
        self._notifier.stopping()
        if tell_after_s:
            self._told_at_s = time.monotonic() + tell_after_s
        for slot in self._slots:
            slot.restart_at_s = None
            for worker in list(slot.workers()):
                if tell_after_s:
                    self._close(worker)
                    self._draining.append(worker)
                else:
                    self._drain(slot, worker)
            slot.serving = slot.coming = None

    def _tell_all(self) -> None:
        for worker in self._draining:
            worker.terminate(self._patience_s)

    def _kill_all(self) -> None:
        for worker in self._all_workers():
            worker.kill()

    # -- what there is --

    def _make_team(self) -> Team:
        """Return what a new worker shares; it counts where a worker has counted that has ended."""
        taken = {it.team.slot for it in self._all_workers()}
        slot = next(it for it in range(len(taken) + 1) if it not in taken)
        self._counts.reserve(slot + 1)
        return Team(
            n_workers=len(self._slots),
            counts=self._counts,
            slot=slot,
            metrics_listeners=self._metrics_listeners,
        )

    def _all_workers(self) -> list[WorkerProcess]:
        return [*self._draining, *(it for slot in self._slots for it in slot.workers())]

    def _is_empty(self) -> bool:
        return not self._all_workers()

    def _forget(self, worker: WorkerProcess) -> None:
        """Note that a worker has ended, and its connections with it."""
        self._close(worker)
        self._counts.settle(worker.team.slot)

    def _close(self, worker: WorkerProcess) -> None:
        """Forget the pipe of a worker that has ended, or is not waited for any more."""
        if worker.ready_fd >= 0:
            if worker.ready_fd in self._selector.get_map():
                self._selector.unregister(worker.ready_fd)
            worker.close()

    @contextmanager
    def _handling_signals(self) -> Iterator[None]:
        """Let signals wake the selector, and note them."""

        def note(number: int, _frame: FrameType | None) -> None:
            self._signals.append(number)

        previous = {number: signal.signal(number, note) for number in _SIGNALS}
        wakeup_fd = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup_fd)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._selector.close()
            self._wakeup.close()
            self._wakes.close()
            os.close(self._life_fd)
            os.close(self._own_life_fd)


def _name(number: int) -> str:
    return signal.Signals(number).name


def _exit_status(status: int) -> int:
    return status if status > 0 else STATUS_ENVIRONMENT


def _has_terminal() -> bool:
    """Return whether there is a controlling terminal: when it is closed, SIGHUP is no reload."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
