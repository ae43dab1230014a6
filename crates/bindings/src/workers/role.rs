//! How the role moves between workers: what the worker that gets it does, and how a call that returns gets it
//! back.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use threadlets_core::PoolKey;
use threadlets_core::takeover::{Taken, WakeReason, WorkerId};

use super::{greenlets, signals};
use crate::dispatcher::worker::Worker;
use crate::dispatcher::workers::{Parked, Workers};
use crate::dispatcher::{Dispatcher, hooks};
use crate::task::current;

/// How often a returning call that waits for the role checks whether the dispatcher is still in the same
/// request, which it then reports as a stall; and the same in debug mode.
const STALL: Duration = Duration::from_secs(5);
const STALL_IN_DEBUG_MODE: Duration = Duration::from_millis(500);

/// Note that a worker has got the role: which thread runs the loop, and its own current task.
///
/// Runs no Python code before the blocked function is parked: the function could return meanwhile.
pub(crate) fn gained(slf: &Bound<'_, Dispatcher>, worker: &Worker, taken: Option<Taken>) {
    let py = slf.py();
    let this = slf.get();
    match taken {
        Some(Taken::FromThreadlet(victim)) => park(slf, victim),
        Some(Taken::FromPoll) => this.end_poll_of_victim(py),
        Some(Taken::Vacant) | None => {}
    }
    this.set_thread(worker.thread_id);
    resume(slf, worker);
    greenlets::look(slf, worker);
}

/// Make the task whose function has returned the current one again.
fn resume(slf: &Bound<'_, Dispatcher>, worker: &Worker) {
    let py = slf.py();
    let parked = Workers::unpark(slf, worker);
    // A native step does not clear the current task itself: with this set, the next request does.
    slf.get().names_task.store(true, Relaxed);
    if let Some(task) = parked.as_ref().and_then(|it| it.task.as_ref())
        && let Err(error) = current::unpark(slf, task)
    {
        error.write_unraisable(py, Some(slf));
    }
}

/// In debug mode, look for objects that stay behind on a thread that is blocked.
pub(crate) fn report_move(slf: &Bound<'_, Dispatcher>, worker: &Worker, taken: Taken) {
    let py = slf.py();
    let Taken::FromThreadlet(victim) = taken else { return };
    if !slf.get().is_debug() {
        return;
    }
    let parked = &slf.get().workers.parked;
    let blocked = parked.with(py, |it| it.get(&victim.index()).map(|it| it.thread_id));
    if let Some(blocked) = blocked
        && let Err(error) = hooks::role_moved(slf, blocked, worker.thread_id)
    {
        error.write_unraisable(py, Some(slf));
    }
}

/// Park a blocked function with its task, so that other tasks can run.
fn park(slf: &Bound<'_, Dispatcher>, victim: WorkerId) {
    let py = slf.py();
    let workers = &slf.get().workers;
    // SAFETY: the dispatcher is inside the call, on whose stack both are alive.
    let (callable, future) = unsafe {
        let callable = Bound::from_borrowed_ptr(py, workers.calling.load(Relaxed)).unbind();
        let future = Bound::from_borrowed_ptr_or_opt(py, workers.calling_future.load(Relaxed));
        (callable, future.map(Bound::unbind))
    };
    let pool = workers.calling_pool.load(Relaxed).checked_sub(1).map(PoolKey::from_index);
    let task = current::park(slf, victim).unwrap_or_else(|error| {
        error.write_unraisable(py, Some(slf));
        None
    });
    let thread_id = slf.get().thread().unwrap_or(0);
    workers.keep_parked(py, victim, Parked::new(callable, pool, task, future, thread_id));
}

/// Get the role back after a function has returned, and wait for it if need be.
///
/// Fails if a signal handler has raised (with the role here all the same), or if the loop was closed.
pub(crate) fn get_role_back(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<()> {
    let py = slf.py();
    let workers = &slf.get().workers;
    if let Some(taken) = workers.registry.with(py, |registry| workers.role.ask(registry, worker.id))
    {
        workers.counts.n_taken_on_return.fetch_add(1, Relaxed);
        gained(slf, worker, Some(taken));
        report_move(slf, worker, taken);
        return signals::settle(slf, worker);
    }
    workers.parked.with(py, |parked| {
        if let Some(parked) = parked.get_mut(&worker.id.index()) {
            parked.is_returning = true;
        }
    });
    let mut outcome = Ok(());
    let parker = &workers.role.slot(worker.id).parker;
    let patience = if slf.get().is_debug() { STALL_IN_DEBUG_MODE } else { STALL };
    let mut looked_at = None;
    let mut reported_at = None;
    loop {
        // A signal's byte does not end this wait: check for signals that came inside the function. If a
        // handler raises, its exception waits for the role.
        if let Err(error) = py.check_signals() {
            outcome = Err(error);
        }
        let reasons = py.detach(|| parker.park(WakeReason::GRANT, Some(patience)));
        if reasons.has(WakeReason::GRANT) {
            break;
        }
        if reasons.has(WakeReason::STOP) {
            resume(slf, worker);
            return Err(PyRuntimeError::new_err(
                "Event loop was closed while a threadlet was blocked; its result is lost",
            ));
        }
        let now = slf.get().thread().zip(Some(slf.get().n_requests()));
        if workers.role.owner().is_some() && now == looked_at && now != reported_at {
            report_stall(slf);
            reported_at = now;
        }
        looked_at = now;
    }
    workers.counts.n_granted.fetch_add(1, Relaxed);
    gained(slf, worker, None);
    outcome.and(signals::settle(slf, worker))
}

/// Report a dispatcher that does not come to a boundary, and the threads that wait for the role.
#[cold]
fn report_stall(slf: &Bound<'_, Dispatcher>) {
    let py = slf.py();
    let waiting: Vec<u64> = slf.get().workers.parked.with(py, |parked| {
        parked.values().filter(|it| it.is_returning).map(|it| it.thread_id).collect()
    });
    if let Err(error) = hooks::dispatcher_stalls(slf, slf.get().thread(), waiting) {
        error.write_unraisable(py, Some(slf));
    }
}
