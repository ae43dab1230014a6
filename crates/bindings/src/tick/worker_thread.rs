//! The threads of workers other than home: what each does from its start to its end.
//!
//! A worker is idle, acts as the monitor, takes over and runs ticks until it loses the role, or works beside the
//! dispatcher. It ends after some time without work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use threadlets_core::takeover::{
    self, Candidate, Monitor, Noticed, Parker, Role, ThreadTraits, WakeReason, WorkerId,
};
use threadlets_core::{Poller, fp};

use super::dispatch::dispatch;
use crate::calls::beside::{self, Worked};
use crate::dispatcher::worker::Worker;
use crate::dispatcher::{Dispatcher, hooks};
use crate::py::interpreter::{self, Interpreter, NativeThread};
use crate::task::current;
use crate::workers::traces::PublishedTraces;
use crate::workers::{greenlets, role};

/// How long a worker that cannot end the loop waits after a failed tick: the next may fail likewise.
const RETRY: Duration = Duration::from_millis(1);

/// How long a thread is idle before it ends.
const IDLE: Duration = Duration::from_secs(1);

/// Start a thread whose first wake reason is `call`; whether it could be started.
pub(crate) fn spawn(slf: &Bound<'_, Dispatcher>, id: WorkerId, call: WakeReason) -> bool {
    let py = slf.py();
    let this = slf.get();
    let thread_object = hooks::worker_starts(slf, id.index());
    let thread_object = thread_object.and_then(|it| it.extract()).map_err(|error| {
        error.write_unraisable(py, Some(slf));
    });
    let worker_thread = WorkerThread {
        dispatcher: slf.clone().unbind(),
        thread_object: thread_object.ok(),
        id,
        role: Arc::clone(&this.workers.role),
        monitor: Arc::clone(&this.workers.monitor),
        exits: Arc::clone(&this.workers.exits),
    };
    worker_thread.role.slot(id).parker.unpark(call);
    let interpreter = Interpreter::current(py);
    let thread = std::thread::Builder::new()
        .name(format!("threadlets-{}", id.index()))
        .stack_size(interpreter::stack_size_bytes());
    thread
        .spawn(move || {
            // Moved as a whole: if the thread cannot be started, it is dropped with the GIL held.
            let worker_thread = worker_thread;
            // A thread that panics may hold the role and the GIL, without which no thread can go on.
            let run = || worker_thread.run(NativeThread::new(interpreter).expect("out of memory"));
            if catch_unwind(AssertUnwindSafe(run)).is_err() {
                std::process::abort();
            }
        })
        .is_ok()
}

/// The state of a thread that has held the role or called a function.
struct ActiveWorker {
    /// None if there was no memory for it; then other threads cannot see what this one does.
    traces: Option<PublishedTraces>,
    worker: Worker,
    is_registered: bool,
}

impl ActiveWorker {
    /// Register the thread, unless that was done.
    ///
    /// `threading` comes first, before any Python code runs here: tracing tools ask for the current thread.
    fn register(&mut self, slf: &Bound<'_, Dispatcher>, worker_thread: &WorkerThread) {
        if std::mem::replace(&mut self.is_registered, true) {
            return;
        }
        let py = slf.py();
        if let Some((thread, table)) = &worker_thread.thread_object
            && let Err(error) = table.bind(py).set_item(self.worker.thread_id, thread)
        {
            error.write_unraisable(py, Some(slf));
        }
        let (id, traces) = (self.worker.id, &mut self.traces);
        let began = PublishedTraces::begin(py, &slf.get().workers.role, id).and_then(|it| {
            *traces = Some(it);
            current::begin_thread(slf)?;
            hooks::worker_joined(slf, id.index()).map(drop)
        });
        if let Err(error) = began {
            error.write_unraisable(py, Some(slf));
        }
    }
}

/// What a worker thread does next.
enum Next {
    /// Wait for a wake reason.
    Wait,
    /// Wait a little: its work may not begin yet, because enough other functions compute.
    LookAgain,
    End,
}

/// A worker thread other than home, from its start to its end.
struct WorkerThread {
    dispatcher: Py<Dispatcher>,
    /// The thread's object in `threading`, and the table in which `threading` looks it up by ident.
    thread_object: Option<(Py<PyAny>, Py<PyDict>)>,
    id: WorkerId,
    role: Arc<Role>,
    monitor: Arc<Monitor>,
    exits: Arc<Parker>,
}

impl WorkerThread {
    fn run(self, mut thread: NativeThread) {
        fp::begin_thread();
        ThreadTraits::give_way(true);
        let slot = self.role.slot(self.id);
        let mut active = None;
        let mut patience = IDLE;
        loop {
            let reasons = slot
                .parker
                .park(WakeReason::MONITOR | WakeReason::WORK | WakeReason::ASK, Some(patience));
            if reasons.has(WakeReason::STOP) {
                break;
            }
            // One reason at a time: the others are unparked again.
            let looks_again = patience != IDLE;
            let work = if looks_again { WakeReason::WORK } else { reasons & WakeReason::WORK };
            let next = if reasons.has(WakeReason::MONITOR) {
                slot.parker.unpark(work | (reasons & WakeReason::ASK));
                match self.monitor.watch(self.id, IDLE) {
                    Noticed::Found(candidate) => thread.with_gil(|py| {
                        self.take_over(py, candidate, &mut active);
                        Next::Wait
                    }),
                    Noticed::Work => thread.with_gil(|py| {
                        self.stop_monitoring(py);
                        Next::Wait
                    }),
                    Noticed::Nothing => thread.with_gil(|py| self.after_monitoring(py)),
                }
            } else if reasons.has(WakeReason::ASK) {
                slot.parker.unpark(work);
                thread.with_gil(|py| self.serve(py, &mut active))
            } else if reasons.has(WakeReason::WORK) || looks_again {
                let (next, sleeps_at) = thread.with_gil(|py| self.work(py, &mut active));
                // Only without the GIL: the dispatcher would wake to wait for it.
                if let Some(poller) = sleeps_at {
                    let _ = poller.wake();
                }
                next
            } else {
                thread.with_gil(|py| self.retires(py))
            };
            patience = match next {
                Next::Wait => IDLE,
                Next::LookAgain => Duration::from_nanos(takeover::RECOUNT_NS),
                Next::End => break,
            };
        }
        let Self { dispatcher, thread_object, id, role, exits, .. } = self;
        thread.end(|py| {
            drop(thread_object);
            let slf = dispatcher.bind(py);
            if let Some(ActiveWorker { traces, worker, .. }) = active {
                greenlets::end_trace(py, &worker);
                if let Some(traces) = traces {
                    traces.end(py);
                }
                if let Err(error) = hooks::worker_left(slf) {
                    error.write_unraisable(py, Some(slf));
                }
            }
            let workers = &slf.get().workers;
            workers.registry.with(py, |registry| {
                if role.monitor() == Some(id) {
                    role.clear_monitor();
                }
                registry.retire(id);
                registry.ended(id);
            });
            if !workers.is_stopped.load(Relaxed) {
                slf.get().hold_calls(py, false);
                if role.slot(id).parker.take(WakeReason::WORK).has(WakeReason::WORK) {
                    // It was called to work when it was about to end: another thread has to come.
                    workers.beside.with(py, |beside| beside.arrived(id));
                }
                beside::summon(slf);
            }
            drop(dispatcher);
        });
        exits.unpark(WakeReason::WAKE);
        ThreadTraits::outlive_children();
    }

    /// Take the role from a dispatcher that is blocked, run ticks until it is lost, and become idle.
    fn take_over(&self, py: Python<'_>, candidate: Candidate, active: &mut Option<ActiveWorker>) {
        let slf = self.dispatcher.bind(py);
        let this = slf.get();
        let workers = &this.workers;
        let seq = candidate.seq;
        let taken =
            workers.registry.with(py, |registry| self.role.take_over(registry, self.id, seq));
        let Some(taken) = taken else {
            // The function has returned meanwhile: go on as the monitor.
            self.role.slot(self.id).parker.unpark(WakeReason::MONITOR);
            return;
        };
        workers.count(candidate.cause);
        let active = Self::worker(slf, self.id, active);
        active.worker.as_current(|| role::gained(slf, &active.worker, Some(taken)));
        if self.role.slot(self.id).parker.take(WakeReason::WORK).has(WakeReason::WORK) {
            // It was called to work as the monitor, for which there is no time now: another has to come.
            workers.beside.with(py, |beside| beside.arrived(self.id));
            beside::summon(slf);
        }
        active.register(slf, self);
        role::report_move(slf, &active.worker, taken);
        self.dispatch(slf, &active.worker);
        self.add_idle(slf);
    }

    /// Run ticks until the role is lost.
    fn dispatch(&self, slf: &Bound<'_, Dispatcher>, worker: &Worker) {
        let py = slf.py();
        let workers = &slf.get().workers;
        ThreadTraits::give_way(false);
        worker.as_current(|| {
            while let Err(error) = dispatch(slf, worker) {
                // Only the home thread can end the loop, once it is back.
                workers.set_pending(py, error);
                // The poll may have failed, which comes before any boundary.
                if !workers.keeps_role(py, worker) {
                    break;
                }
                py.detach(|| std::thread::sleep(RETRY));
            }
        });
        ThreadTraits::give_way(true);
    }

    /// Take the steps of tasks that are bound to this thread; become idle if no task is bound any more.
    fn serve(&self, py: Python<'_>, active: &mut Option<ActiveWorker>) -> Next {
        let slf = self.dispatcher.bind(py);
        let workers = &slf.get().workers;
        if let Some(ActiveWorker { worker, .. }) = active
            && workers.has_steps(py, self.id)
        {
            let outcome = worker.as_current(|| role::get_role_back(slf, worker));
            match outcome {
                Ok(()) => self.dispatch(slf, worker),
                Err(error) if workers.role.is_held_by(self.id) => {
                    workers.set_pending(py, error);
                    self.dispatch(slf, worker);
                }
                // The loop was closed.
                Err(_) => return Next::Wait,
            }
        }
        self.add_idle(slf);
        Next::Wait
    }

    /// Do the work that waits beside the dispatcher, and become idle. The poller, if any, is to be woken
    /// without the GIL.
    fn work(
        &self,
        py: Python<'_>,
        active: &mut Option<ActiveWorker>,
    ) -> (Next, Option<Arc<Poller>>) {
        let slf = self.dispatcher.bind(py);
        if self.role.monitor() == Some(self.id) {
            // It was made the monitor as well, which comes first.
            self.role.slot(self.id).parker.unpark(WakeReason::WORK);
            return (Next::Wait, None);
        }
        let workers = &slf.get().workers;
        if workers.has_bindings(py, self.id) {
            // It was called while it was the monitor, and a task was bound to it since: another has to come.
            workers.beside.with(py, |beside| beside.arrived(self.id));
            beside::summon(slf);
            return (Next::Wait, None);
        }
        // If it was called while it was the monitor, it may be idle since: nothing else may call it now.
        workers.registry.with(py, |registry| registry.retire(self.id));
        let active = Self::worker(slf, self.id, active);
        active.register(slf, self);
        let Worked { is_done, sleeps_at } =
            active.worker.as_current(|| beside::work(slf, &active.worker));
        if !is_done {
            return (Next::LookAgain, sleeps_at);
        }
        self.add_idle(slf);
        (Next::Wait, sleeps_at)
    }

    /// Stop being the monitor, for the work that waits, unless a threadlet has begun.
    fn stop_monitoring(&self, py: Python<'_>) {
        let workers = &self.dispatcher.get().workers;
        let parker = &self.role.slot(self.id).parker;
        workers.registry.with(py, |_| {
            if self.role.inside().is_none() {
                self.role.clear_monitor();
            } else {
                parker.unpark(WakeReason::MONITOR);
            }
        });
        parker.unpark(WakeReason::WORK);
    }

    /// Become idle, and have a thread called for work that waits already. A thread to which tasks are bound
    /// does not: it is called for nothing else.
    fn add_idle(&self, slf: &Bound<'_, Dispatcher>) {
        let py = slf.py();
        let workers = &slf.get().workers;
        let is_monitor = self.role.monitor() == Some(self.id);
        if workers.has_steps(py, self.id) {
            // A step has failed, and the role went to another thread before the others were taken.
            self.role.slot(self.id).parker.unpark(WakeReason::ASK);
            return;
        }
        if is_monitor || workers.has_bindings(py, self.id) {
            return;
        }
        workers.registry.with(py, |registry| {
            if !registry.is_idle(self.id) {
                registry.add_idle(self.id);
            }
        });
        slf.get().hold_calls(py, false);
        beside::summon(slf);
    }

    /// This thread's state, made when it first holds the role or calls a function. Runs no Python code.
    fn worker<'a>(
        slf: &Bound<'_, Dispatcher>,
        id: WorkerId,
        active: &'a mut Option<ActiveWorker>,
    ) -> &'a mut ActiveWorker {
        let new =
            || ActiveWorker { traces: None, worker: Worker::new(slf, id), is_registered: false };
        active.get_or_insert_with(new)
    }

    /// Decide whether this thread ends after it has monitored without finding a candidate.
    fn after_monitoring(&self, py: Python<'_>) -> Next {
        let workers = &self.dispatcher.get().workers;
        workers.registry.with(py, |_| {
            let is_idle = self.role.inside().is_none();
            if is_idle || workers.is_stopped.load(Relaxed) {
                self.role.clear_monitor();
                return Next::End;
            }
            // A threadlet has just begun, and relies on this monitor.
            self.role.slot(self.id).parker.unpark(WakeReason::MONITOR);
            Next::Wait
        })
    }

    /// Decide whether this thread ends after it was idle for a while.
    fn retires(&self, py: Python<'_>) -> Next {
        let workers = &self.dispatcher.get().workers;
        let is_over = workers.registry.with(py, |registry| registry.retire(self.id));
        if is_over { Next::End } else { Next::Wait }
    }
}
