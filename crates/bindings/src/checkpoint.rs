//! Awaits that are done at once let others run, too: each of them begins with a look at its step's time slice.
//!
//! An await that begins when the slice is used up first yields None, as `asyncio.sleep(0)` does: its task goes to
//! the end of the ready queue, and the poll, timers, signals and other tasks have their turn. It does its work
//! afterwards, so that a cancellation meanwhile loses nothing.

use pyo3::prelude::*;
use threadlets_core::clock;

use crate::worker::Worker;

/// Whether an await that begins here has to let others run first.
#[inline]
pub(crate) fn is_due(py: Python<'_>) -> bool {
    Worker::with_current(|worker| {
        let Some(worker) = worker else { return false };
        let this = worker.dispatcher(py).get();
        // Inside of a function nobody else could run, whatever is yielded there.
        if !this.workers.role.may_enter(worker.id) {
            return false;
        }
        let mut slice = this.slice.get(py);
        let is_used_up = slice.is_used_up(this.n_requests(), clock::now_ns());
        this.slice.set(py, slice);
        is_used_up
    })
}

/// What awaits begin with that are written in Python: `await checkpoint` is done at once unless the step has
/// used up its time slice. It has no state, so one is enough for all.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct Checkpoint;

#[pymethods]
impl Checkpoint {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// None, to be yielded, if others are to run first; else the await is done.
    fn __next__(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        is_due(py).then(|| py.None())
    }
}
