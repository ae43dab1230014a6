//! Calls beside the dispatcher: they run on another worker from the start, while the role stays where it is.
//!
//! The history of a function decides where its calls start (`starts.rs`), and `takeover::Beside` decides which
//! worker takes them. A function cannot tell where it runs: it is called in its awaiter's context, the loop
//! counts as running in its thread, and the await gives what it returns or raises.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use threadlets_core::takeover::{SLOW_NS, Summons, ThreadUsage, WakeReason, WorkerId};
use threadlets_core::{Poller, clock, fp};

use super::job::{Job, Ran};
use super::pool::Pool;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::worker::Worker;
use crate::dispatcher::workers::Workers;
use crate::workers::shutdown;

/// When a worker is woken for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    /// When the dispatcher gives up the GIL to wait for events: before that the worker could do nothing.
    GilIsFree,
}

/// How a worker stopped taking jobs.
#[derive(Debug)]
pub(crate) struct Worked {
    /// No job is left; `false`: enough other functions compute, so the worker has to wait.
    pub(crate) is_done: bool,
    /// The poller at which the dispatcher sleeps, to be woken once the GIL is free.
    pub(crate) sleeps_at: Option<Arc<Poller>>,
}

/// Queue a call, a `CallBeside` or a `QueuedCall`, and summon a worker for it.
pub(crate) fn submit(slf: &Bound<'_, Dispatcher>, call: &Bound<'_, PyAny>) {
    let priority = Job::of(call).priority(slf.py());
    let call = call.clone().unbind();
    slf.get().workers.beside.with(slf.py(), |beside| beside.submit(priority, call));
    summon_when(slf, When::GilIsFree);
}

/// Summon a worker for the calls that wait, unless one is on its way.
pub(crate) fn summon(slf: &Bound<'_, Dispatcher>) {
    summon_when(slf, When::Now);
}

fn summon_when(slf: &Bound<'_, Dispatcher>, when: When) {
    let py = slf.py();
    let workers = &slf.get().workers;
    let summons = workers
        .registry
        .with(py, |registry| workers.beside.with(py, |beside| beside.summon(registry)));
    match summons {
        Summons::NotNeeded => {}
        Summons::OnItsWay => {
            // The dispatcher was to wake it, which may be in a callback that takes long.
            if when == When::Now
                && let Some(called) = workers.called.take(py)
            {
                workers.role.slot(called).parker.unpark(WakeReason::WORK);
            }
        }
        Summons::Unpark(id) if when == When::GilIsFree => {
            // None was to be woken before: it would still be on its way.
            workers.called.set(py, Some(id));
        }
        Summons::Unpark(id) => workers.role.slot(id).parker.unpark(WakeReason::WORK),
        Summons::Spawn(id) => {
            if !(workers.spawn)(slf, id, WakeReason::WORK) {
                workers.registry.with(py, |registry| registry.ended(id));
                workers.beside.with(py, |beside| beside.arrived(id));
                not_spawned(slf);
            }
        }
        Summons::Full => summon_monitor(workers, py),
    }
}

/// The worker that is to be unparked for jobs once the GIL is free, unless no job is left for it.
pub(crate) fn take_called(this: &Dispatcher, py: Python<'_>) -> Option<WorkerId> {
    let workers = &this.workers;
    let called = workers.called.take(py)?;
    // Calls that are held wait for a worker to become idle, which lets them go when it has come.
    if this.queues.with(py, |queues| queues.calls_are_held) {
        return Some(called);
    }
    let is_off = workers
        .registry
        .with(py, |registry| workers.beside.with(py, |beside| beside.call_off(registry, called)));
    (!is_off).then_some(called)
}

/// Have the monitor, if there is one, take the calls: it has nothing to watch now, or soon.
fn summon_monitor(workers: &Workers, py: Python<'_>) {
    if let Some(monitor) = workers.role.monitor() {
        workers.beside.with(py, |beside| beside.summon_monitor(monitor));
        workers.role.slot(monitor).parker.unpark(WakeReason::WORK);
    }
}

/// Handle a failure to start a worker: if there is no other, the calls that wait fail.
#[cold]
fn not_spawned(slf: &Bound<'_, Dispatcher>) {
    let py = slf.py();
    let workers = &slf.get().workers;
    workers.count_refused();
    while let Err(error) = workers.check_threads(py) {
        let Some(job) = workers.beside.with(py, |beside| beside.take()) else { return };
        if let Err(error) = Job::of(job.bind(py)).fail(slf, error) {
            error.write_unraisable(py, Some(slf));
        }
    }
    // The monitor may be the only worker.
    summon_monitor(workers, py);
}

/// Run the calls that wait, one after the other.
pub(crate) fn work(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> Worked {
    let py = slf.py();
    let this = slf.get();
    let workers = &this.workers;
    let cpu_ns = |id: WorkerId| workers.role.slot(id).traces.cpu_ns();
    let mut sleeps_at: Option<Arc<Poller>> = None;
    loop {
        if workers.is_stopped.load(Relaxed) {
            return Worked { is_done: true, sleeps_at };
        }
        if workers.beside.with(py, |beside| !beside.is_empty())
            && let Some(poller) = sleeps_at.take()
        {
            // Results of earlier calls must not wait for the next call. From here to that call the GIL is
            // not given up, so that calls start in the order in which they came.
            let _ = py.detach(|| poller.wake());
        }
        let now_ns = clock::now_ns();
        if !workers.beside.with(py, |beside| beside.may_begin(now_ns, cpu_ns)) {
            workers.beside.with(py, |beside| beside.waits(worker.id));
            return Worked { is_done: false, sleeps_at };
        }
        let job = workers.beside.with(py, |beside| {
            beside.arrived(worker.id);
            beside.take()
        });
        let Some(job) = job else { return Worked { is_done: true, sleeps_at } };
        summon(slf);
        // A function starts in the default state, whatever ran on this thread before.
        if fp::State::read() != fp::State::DEFAULT {
            fp::State::DEFAULT.restore();
        }
        let before = ThreadUsage::of_this_thread();
        let began_ns = clock::now_ns();
        workers.beside.with(py, |beside| beside.begins(worker.id, began_ns, before.cpu_ns));
        let ran = Job::of(job.bind(py)).run(slf, worker);
        workers.beside.with(py, |beside| beside.ends(worker.id));
        let has_waited = ThreadUsage::of_this_thread().n_waits > before.n_waits;
        let is_slow = clock::now_ns() - began_ns >= SLOW_NS;
        let ran = ran.unwrap_or_else(|error| {
            if let Err(error) = Dispatcher::outlive(slf, Err(error)) {
                workers.set_pending(py, error);
            }
            Ran { function: None, wakes: true }
        });
        if let Some(function) = ran.function {
            this.histories.with(py, |histories| {
                histories.get_mut(function).map(|it| it.returned(has_waited || is_slow))
            });
        }
        if ran.wakes {
            sleeps_at = this.poller(py).ok();
        }
        // The function may have forked: this process may be the child.
        if let Err(error) = shutdown::end_if_over(slf) {
            error.write_unraisable(py, Some(slf));
        }
    }
}

/// Sort the calls that wait: the priority of a pool has changed.
pub(crate) fn sort(workers: &Workers, py: Python<'_>) {
    workers.beside.with(py, |beside| beside.requeue(|job| Job::of(job.bind(py)).priority(py)));
}

/// Give up the calls that wait: the loop is closed.
pub(crate) fn abandon_all(workers: &Workers, py: Python<'_>) {
    for job in workers.beside.with(py, |beside| beside.take_all()) {
        // See `Dispatcher::_release`.
        if let Err(error) = Job::of(job.bind(py)).abandon(py)
            && !error.is_instance_of::<PyRuntimeError>(py)
        {
            error.write_unraisable(py, None);
        }
    }
}

/// Cancel the calls of this pool that have not begun beside the dispatcher; returns how many.
pub(crate) fn cancel(
    workers: &Workers,
    pool: &Bound<'_, Pool>,
    message: &Bound<'_, PyAny>,
) -> PyResult<usize> {
    let py = pool.py();
    let waiting: Vec<_> = workers.beside.with(py, |beside| {
        let jobs = beside.jobs().map(|it| Job::of(it.bind(py)));
        jobs.filter(|it| it.pool().is_some_and(|it| it.is(pool))).collect()
    });
    let mut n_cancelled = 0;
    for job in waiting {
        n_cancelled += usize::from(job.cancel(py, message)?);
    }
    Ok(n_cancelled)
}
