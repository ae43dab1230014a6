//! The waiters of a future: the tasks and callbacks that are woken, in order, when it is done.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::callback::Callback;
use crate::contract::in_context;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::request::{DoneCallback, Request};

/// One waiter of a future.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A task that awaits it: resumed from the tick.
    Task(Py<PyAny>),
    /// A callback of `add_done_callback`, with its context.
    Callback(Box<(Py<PyAny>, Py<PyAny>)>),
}

impl Waiter {
    /// Queue the waiter's request: `future` is done.
    pub(super) fn wake(self, dispatcher: &Dispatcher, future: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = future.py();
        let request = match self {
            Self::Task(task) => Request::Step(task),
            Self::Callback(callback) => {
                let (callable, context) = *callback;
                let future = future.clone().unbind();
                Request::Done(Box::new(DoneCallback { callable, future, context }))
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

impl DoneCallback {
    /// Run the callback in its context.
    pub(crate) fn run(&self, py: Python<'_>) -> PyResult<()> {
        in_context(py, &self.context, || self.callable.call1(py, (&self.future,)).map(drop))
    }

    /// Convert it to an ordinary callback, with a tuple of arguments.
    pub(crate) fn into_callback(self, py: Python<'_>) -> PyResult<Callback> {
        let args = (self.future,).into_pyobject(py)?.unbind();
        Ok(Callback { callable: self.callable, args, context: self.context })
    }
}
