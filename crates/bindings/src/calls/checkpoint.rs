//! Checkpoints: an await that may be done at once first looks at its step's time slice, so that others run.
//!
//! If the slice is used up, the await first yields None, as `asyncio.sleep(0)` does: its task goes to the end
//! of the ready queue, and the poll, timers, signals and other tasks come first. The await does its work
//! afterwards, so that a cancellation meanwhile loses nothing.

use pyo3::prelude::*;
use threadlets_core::clock;

use crate::dispatcher::worker::Worker;

/// Whether an await that begins here has to let other requests run first.
#[inline]
pub(crate) fn is_due(py: Python<'_>) -> bool {
    Worker::with_current(|worker| {
        let Some(worker) = worker else { return false };
        let this = worker.dispatcher(py).get();
        // Inside an inline call nothing else could run, even if this yielded.
        if !this.workers.role.may_enter(worker.id) {
            return false;
        }
        let mut slice = this.slice.get(py);
        let is_used_up = slice.is_used_up(this.n_requests(), clock::now_ns());
        this.slice.set(py, slice);
        is_used_up
    })
}

/// The checkpoint of awaits that are written in Python: `await checkpoint` is done at once unless the step
/// has used up its time slice. It has no state, so one instance is enough for all.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct Checkpoint;

#[pymethods]
impl Checkpoint {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Yield None if other requests are to run first; otherwise the await is done.
    fn __next__(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        is_due(py).then(|| py.None())
    }
}
