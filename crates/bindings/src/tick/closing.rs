//! Closes a dispatcher.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::request_handle;
use crate::calls::beside;
use crate::dispatcher::Dispatcher;
use crate::net::descriptors;
use crate::syslet::pending;
use crate::workers::shutdown::EXIT_WAIT;

/// Cancel the runs that are under way, and wait until all have ended, for a few seconds at most. Runs that
/// persist are not cancelled.
pub(crate) fn end_runs(dispatcher: &Dispatcher, py: Python<'_>) {
    dispatcher.awaited.with(py, |it| pending::cancel_all(py, it.iter().map(|(_, it)| it)));
    py.detach(|| dispatcher.completions.wait_until_quiet(EXIT_WAIT));
}

/// Drop everything that is queued or registered, and the poller.
pub(crate) fn release(dispatcher: &Dispatcher, py: Python<'_>) {
    dispatcher.set_closed(true);
    for request in dispatcher.queues.with(py, threadlets_core::Scheduler::take_all) {
        // Cancelling queues callbacks, which the closed loop refuses with a RuntimeError.
        if let Err(error) = request_handle::abandon(py, request)
            && !error.is_instance_of::<PyRuntimeError>(py)
        {
            error.write_unraisable(py, None);
        }
    }
    beside::abandon_all(&dispatcher.workers, py);
    dispatcher.workers.release_bound(py);
    dispatcher.workers.release(py);
    drop(dispatcher.task_factory.take(py));
    let sources = dispatcher.sources.with(py, std::mem::take);
    let descriptors = dispatcher.descriptors.with(py, std::mem::take);
    descriptors::refuse_connections(py, &descriptors);
    drop(dispatcher.completions.close());
    let awaited = dispatcher.awaited.with(py, std::mem::take);
    pending::cancel_all(py, awaited.iter().map(|(_, it)| it));
    let poller = dispatcher.take_poller(py);
    drop((sources, descriptors, poller, awaited));
}
