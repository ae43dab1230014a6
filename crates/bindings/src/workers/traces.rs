//! What other threads see of a worker, published while the worker can be the dispatcher.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::exceptions::{PyKeyError, PyMemoryError};
use pyo3::prelude::*;
use threadlets_core::takeover::{Role, WorkerId};

use crate::py::interpreter;

/// The traces of a thread that can be the dispatcher. They point to its thread state. The ending interpreter
/// clears that, whatever the thread does meanwhile, and so drops the `Wiper`, which wipes the traces.
pub(crate) struct PublishedTraces(Py<Wiper>);

/// Wipes a worker's traces when it is dropped; kept in the thread state's dictionary, so that it goes with
/// the thread state.
#[pyclass(frozen, module = "threadlets._core")]
struct Wiper {
    role: Arc<Role>,
    id: WorkerId,
    /// The traces were wiped: another thread may have the worker's number by now.
    is_over: AtomicBool,
}

impl PublishedTraces {
    /// Leave the traces of this thread, which can be the dispatcher from now on.
    pub(crate) fn begin(py: Python<'_>, role: &Arc<Role>, id: WorkerId) -> PyResult<Self> {
        let wiper =
            Py::new(py, Wiper { role: Arc::clone(role), id, is_over: AtomicBool::new(false) })?;
        let kept = interpreter::thread_dict(py).ok_or_else(|| PyMemoryError::new_err(()))?;
        kept.set_item(&wiper, py.None())?;
        role.slot(id).traces.attach(interpreter::thread_state(py));
        Ok(Self(wiper))
    }

    /// Wipe the traces.
    pub(crate) fn end(self, py: Python<'_>) {
        self.0.get().wipe();
        // The entry is gone already if code has emptied the dictionary; then nothing is left to do.
        if let Some(Err(error)) = interpreter::thread_dict(py).map(|it| it.del_item(&self.0))
            && !error.is_instance_of::<PyKeyError>(py)
        {
            error.write_unraisable(py, None);
        }
    }
}

impl Wiper {
    fn wipe(&self) {
        if !self.is_over.swap(true, Relaxed) {
            self.role.slot(self.id).traces.detach();
        }
    }
}

impl Drop for Wiper {
    fn drop(&mut self) {
        self.wipe();
    }
}
