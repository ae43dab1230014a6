//! The calls that run beside the dispatcher: those that a coroutine awaits, and those of a pool's queue.

use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::{EntryPoint, Priority};

use super::call_beside::CallBeside;
use super::pool::Pool;
use super::queued_call::QueuedCall;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::worker::Worker;
use crate::py::cast::known;
use crate::task::future::Future;

/// The outcome of a job.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// The function, if it was called.
    pub(crate) function: Option<EntryPoint>,
    /// The dispatcher waits for events and is to be woken.
    pub(crate) wakes: bool,
}

/// A call for a worker beside the dispatcher.
#[derive(Debug)]
pub(crate) enum Job {
    /// A call that a coroutine awaits.
    Awaited(Py<CallBeside>),
    /// A call of a pool's queue.
    Queued(Py<QueuedCall>),
}

impl Job {
    /// The job that a queued object stands for.
    pub(super) fn of(object: &Bound<'_, PyAny>) -> Self {
        match object.cast::<CallBeside>() {
            Ok(call) => Self::Awaited(call.clone().unbind()),
            Err(_) => Self::Queued(known::<QueuedCall>(object).clone().unbind()),
        }
    }

    /// The user's pool that the call is in.
    pub(super) fn pool(&self) -> Option<&Py<Pool>> {
        match self {
            Self::Awaited(call) => call.get().pool.as_ref(),
            Self::Queued(call) => call.get().pool(),
        }
    }

    /// The priority of the call: its pool's.
    pub(super) fn priority(&self, py: Python<'_>) -> Priority {
        self.pool().map_or(Priority::Normal, |it| it.get().its_priority(py))
    }

    /// Cancel the awaiter of a call that has not begun; returns whether that was possible.
    pub(super) fn cancel(&self, py: Python<'_>, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        match self {
            Self::Awaited(call) => {
                let awaiter = match &call.get().task {
                    Some(task) => task.bind(py),
                    None => call.bind(py).as_any(),
                };
                awaiter.call_method1(intern!(py, "cancel"), (message,))?.is_truthy()
            }
            Self::Queued(call) => call.get().cancel_waiting(py),
        }
    }

    /// Run the call on this thread. An `Err` is a fault of this library, not of the function.
    pub(super) fn run(self, slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<Ran> {
        match self {
            Self::Awaited(call) => CallBeside::run(call.bind(slf.py()), slf, worker),
            Self::Queued(call) => QueuedCall::run_beside(call.bind(slf.py()), slf, worker),
        }
    }

    /// Give up a call that has not begun: the loop is closed.
    pub(super) fn abandon(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Awaited(call) => {
                let call = call.get();
                if let (Some(_), Some(pool)) = (call.call.take(py), &call.pool) {
                    pool.get().withdrew(py, 1);
                }
                Ok(())
            }
            Self::Queued(call) => call.get().abandon(py),
        }
    }

    /// Fail a call that cannot begin.
    pub(super) fn fail(self, slf: &Bound<'_, Dispatcher>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        match self {
            Self::Awaited(call) => {
                drop(call.get().call.take(py));
                let call = call.bind(py);
                call.get().leave_pool(slf);
                Future::fail(call.as_super(), error.into_value(py).into_bound(py))
            }
            Self::Queued(call) => QueuedCall::finish_beside(call.bind(py), slf, Err(error)),
        }
    }
}
