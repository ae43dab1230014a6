//! Where a future stands, in two words.

use std::mem;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyBaseException;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::future::Future;
use super::waiters::Waiter;
use crate::interpreter;

/// Where a future stands.
#[derive(Debug, Default)]
pub(crate) enum State {
    /// Not done; nobody waits.
    #[default]
    Pending,
    /// Not done; one waits.
    Awaited(Waiter),
    /// Not done; several wait.
    #[expect(clippy::box_collection, reason = "a state of two words, in every future")]
    AwaitedBy(Box<Vec<Waiter>>),
    Result(Py<PyAny>),
    Error(Py<PyBaseException>),
    Cancelled,
}

impl State {
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Result(_) | Self::Error(_) | Self::Cancelled)
    }

    pub(super) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Awaited(waiter) => waiter.visit(visit),
            Self::AwaitedBy(waiters) => waiters.iter().try_for_each(|it| it.visit(visit)),
            Self::Result(result) => visit.call(result),
            Self::Error(error) => visit.call(error),
            Self::Pending | Self::Cancelled => Ok(()),
        }
    }

    /// Free a result that nobody will ask for any more.
    ///
    /// Results that are futures, whose results are futures, are freed one after the other: one inside
    /// the other they would need a stack as deep as they are many.
    pub(super) fn free(&mut self) {
        let Self::Result(result) = self else { return };
        Python::attach(|py| {
            let mut next = mem::replace(result, py.None());
            while interpreter::is_last_reference(&next)
                && let Ok(future) = next.bind(py).cast::<Future>()
                && let Some(result) = future.get().state.with(py, |it| it.take_result(py))
            {
                next = result;
            }
        });
    }

    fn take_result(&mut self, py: Python<'_>) -> Option<Py<PyAny>> {
        match self {
            Self::Result(result) => Some(mem::replace(result, py.None())),
            _ => None,
        }
    }
}
