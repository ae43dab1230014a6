//! The home thread: the one that runs the loop.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use threadlets_core::fp;
use threadlets_core::takeover::WorkerId;

use super::greenlets;
use super::traces::PublishedTraces;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::worker::Worker;

/// Run `work` while this thread holds the role, as the loop's home.
pub(crate) fn at_home(
    slf: &Bound<'_, Dispatcher>,
    work: impl FnOnce(&Worker) -> PyResult<()>,
) -> PyResult<()> {
    let py = slf.py();
    let workers = &slf.get().workers;
    if workers.role.owner().is_some() {
        // A tick that is run by hand, from inside a request of the loop itself, is allowed.
        return Worker::with_current(|worker| match worker {
            Some(worker) if worker.dispatcher(py).is(slf) => work(worker),
            _ => Err(PyRuntimeError::new_err("This event loop is already running")),
        });
    }
    let worker = Worker::new(slf, WorkerId::HOME);
    let presence = PublishedTraces::begin(py, &workers.role, worker.id)?;
    let taken = workers.registry.with(py, |registry| workers.role.take(registry, worker.id));
    assert!(taken.is_some(), "home can take a vacant role");
    // The loop's caller gets its floating-point state back.
    let before = fp::State::read();
    fp::State::DEFAULT.restore();
    greenlets::look(slf, &worker);
    let outcome = worker.as_current(|| work(&worker));
    greenlets::end_trace(py, &worker);
    before.restore();
    workers.registry.with(py, |registry| workers.role.vacate(registry));
    presence.end(py);
    outcome
}
