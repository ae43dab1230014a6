//! Tasks that belong to a thread: those with live greenlets, and those that called `threadlets.stay()`.
//!
//! The dispatcher's role passes from thread to thread, but such a task takes its steps on one of them
//! (`takeover::Bound`). While something is bound to a thread, no function is called inline there, so that the
//! role is not taken from it.

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use threadlets_core::takeover::WorkerId;

use super::greenlets;
use crate::dispatcher::worker::Worker;
use crate::dispatcher::workers::Workers;
use crate::py::gil_cell::GilSlot;
use crate::task::current;
use crate::task::task::Task;

/// Whether a function may block this thread, so that the role moves.
#[inline]
pub(crate) fn may_block(workers: &Workers, py: Python<'_>, worker: WorkerId) -> bool {
    if !workers.has_bindings(py, worker) {
        return true;
    }
    greenlets::reap(py);
    !workers.has_bindings(py, worker)
}

/// What `threadlets.stay()` returns: until it ends, the task that called it takes its steps in one thread.
#[pyclass(frozen, module = "threadlets")]
pub(crate) struct Stay {
    /// `None` once the stay has ended.
    task: GilSlot<Option<Py<Task>>>,
    worker: WorkerId,
}

impl Stay {
    fn end(&self, py: Python<'_>) {
        if let Some(task) = self.task.take(py) {
            let workers = &task.bind(py).as_super().get().dispatcher.get().workers;
            if task.get().leaves(py) {
                task.get().remove_binding(py);
                workers.remove_binding(py, self.worker);
            }
        }
    }
}

#[pymethods]
impl Stay {
    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    #[pyo3(signature = (*_exc_info))]
    fn __exit__(&self, py: Python<'_>, _exc_info: &Bound<'_, pyo3::types::PyTuple>) {
        self.end(py);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.task.traverse(&visit, |task| visit.call(task))
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.task.take(py));
    }
}

/// Keep the current task in this thread, until it ends or the with-block of the returned object does.
#[pyfunction]
pub(crate) fn stay(py: Python<'_>) -> PyResult<Stay> {
    Worker::with_current(|worker| {
        let worker = worker.ok_or_else(|| {
            PyRuntimeError::new_err(
                "threadlets.stay() was called where no threadlets loop runs; call it in a task, \
                 within threadlets.run(main())",
            )
        })?;
        let slf = worker.dispatcher(py);
        let is_dispatcher = slf.get().workers.role.is_held_by(worker.id);
        let current = current::get(slf)?.filter(|_| is_dispatcher);
        let Some(task) = current else {
            return Err(PyRuntimeError::new_err(
                "threadlets.stay() was called outside of a task: only tasks go on after an await; \
                 call it in a coroutine of the task",
            ));
        };
        let task = task.cast_into::<Task>().map_err(|_| {
            PyRuntimeError::new_err(
                "threadlets.stay() was called in a task that is not the loop's own; make the loop with \
                 tasks=\"native\", and tasks with loop.create_task()",
            )
        })?;
        task.get().stays(py)?;
        slf.get().workers.add_binding(py, worker.id);
        task.get().add_binding(py, worker.id);
        Ok(Stay { task: GilSlot::new(Some(task.unbind())), worker: worker.id })
    })
}
