//! The state of a future, in two words.

use pyo3::PyTraverseError;
use pyo3::exceptions::PyBaseException;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::waiters::Waiter;

/// The state of a future.
#[derive(Debug, Default)]
pub(crate) enum FutureState {
    /// Not done; without waiters.
    #[default]
    Pending,
    /// Not done; with one waiter.
    Awaited(Waiter),
    /// Not done; with several waiters.
    #[expect(clippy::box_collection, reason = "a state of two words, in every future")]
    AwaitedBy(Box<Vec<Waiter>>),
    Result(Py<PyAny>),
    Error(Py<PyBaseException>),
    Cancelled,
}

impl FutureState {
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
}
