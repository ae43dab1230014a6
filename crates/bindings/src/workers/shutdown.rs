//! Shutdown of a dispatcher's workers: closing, and forks. Nothing is done when the interpreter ends: see
//! `interpreter.c`.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::prelude::*;
use threadlets_core::clock;
use threadlets_core::takeover::{WakeReason, WorkerId};

use super::role;
use crate::dispatcher::worker::Worker;
use crate::dispatcher::workers::Workers;
use crate::dispatcher::{Dispatcher, hooks};
use crate::py::interpreter;

/// How long closing waits for idle threads, and for runs that were cancelled.
pub(crate) const EXIT_WAIT: Duration = Duration::from_secs(5);

/// How long closing waits for blocked functions, so that one whose wait has just been ended can return.
const MOMENT: Duration = Duration::from_millis(100);

/// End the idle threads, and wait for them. Returns how many threads are left, blocked in functions;
/// each ends when its function returns.
pub(crate) fn stop(workers: &Workers, py: Python<'_>) -> usize {
    workers.is_stopped.store(true, Relaxed);
    workers.role.stop_all();
    let n_left = || workers.registry.with(py, |registry| registry.n_threads());
    let began_ns = clock::now_ns();
    let is_within = |time: Duration| clock::now_ns() - began_ns < time.as_nanos() as u64;
    // A thread needs the GIL to report its end, and does not get it once the interpreter is ending.
    while n_left() > 0
        && (is_within(MOMENT) || n_left() > n_busy(workers, py) && is_within(EXIT_WAIT))
        && !interpreter::is_finalizing(py)
    {
        py.detach(|| workers.exits.park(WakeReason::WAKE, Some(Duration::from_millis(20))));
    }
    // Once the interpreter is ending, idle threads count as ended: they only cannot report it.
    if interpreter::is_finalizing(py) { n_busy(workers, py) } else { n_left() }
}

/// How many worker threads cannot end now, because they are in functions or hold the role.
fn n_busy(workers: &Workers, py: Python<'_>) -> usize {
    let home = WorkerId::HOME.index();
    let n_in_functions = workers.parked.with(py, |parked| {
        parked.iter().filter(|(idx, it)| **idx != home && !it.is_returning).count()
    });
    let is_dispatcher = workers.role.owner().is_some_and(|it| it != WorkerId::HOME);
    n_in_functions + usize::from(is_dispatcher)
}

/// End this process after a request if it is a fork's child without a home thread.
#[inline]
pub(crate) fn end_if_over(slf: &Bound<'_, Dispatcher>) -> PyResult<()> {
    let workers = &slf.get().workers;
    if workers.is_orphaned.load(Relaxed) {
        hooks::orphaned(slf)?;
    }
    Ok(())
}

/// In the child of a fork: forget all threads but this one, which holds the role if it is a worker.
pub(crate) fn reset(slf: &Bound<'_, Dispatcher>, worker: Option<&Worker>) {
    let py = slf.py();
    let workers = &slf.get().workers;
    let id = worker.map(|it| it.id);
    workers.registry.with(py, |registry| workers.role.reset(registry, id));
    workers.monitor.reset();
    slf.get().drop_inherited_poller(py);
    if let Some(worker) = worker {
        role::gained(slf, worker, None);
        workers.is_orphaned.store(!worker.is_home(), Relaxed);
    }
    let parked = workers.parked.with(py, std::mem::take);
    workers.n_parked.store(0, Relaxed);
    drop(parked);
    drop(workers.beside.with(py, |beside| beside.reset()));
    workers.release_bound(py);
}
