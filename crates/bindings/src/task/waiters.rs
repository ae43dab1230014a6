//! Who is told that a future is done, in order.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::future::Future;
use super::task::Task;
use crate::callback::Callback;
use crate::dispatcher::Dispatcher;
use crate::request::Request;

/// One that waits for a future.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A task that awaits it: resumed from the burst.
    Task(Py<Task>),
    /// A callback of `add_done_callback`, with its context.
    Callback(Box<(Py<PyAny>, Py<PyAny>)>),
}

impl Waiter {
    /// Queue what the waiter does when `future` is done.
    pub(super) fn wake(self, dispatcher: &Dispatcher, future: &Bound<'_, Future>) -> PyResult<()> {
        let py = future.py();
        let request = match self {
            Self::Task(task) => Request::Step(task),
            Self::Callback(callback) => {
                let (callable, context) = *callback;
                let args = PyTuple::new(py, [future])?.unbind();
                Request::Plain(Box::new(Callback { callable, args, context }))
            }
        };
        dispatcher.submit(py, request)
    }

    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Task(task) => Self::Task(task.clone_ref(py)),
            Self::Callback(it) => {
                Self::Callback(Box::new((it.0.clone_ref(py), it.1.clone_ref(py))))
            }
        }
    }

    pub(super) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Task(task) => visit.call(task),
            Self::Callback(callback) => {
                visit.call(&callback.0)?;
                visit.call(&callback.1)
            }
        }
    }
}
