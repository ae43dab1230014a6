//! The calls of `receive` that wait for a message.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::py::gil_cell::GilCell;
use crate::task::future::Future;

/// The futures of the calls that wait, in their order. Several tasks of one application may wait: each that listens
/// for the client's end does.
#[derive(Debug, Default)]
pub(super) struct Receivers(GilCell<Vec<Py<Future>>>);

impl Receivers {
    /// Whether any waits. Those that were cancelled are forgotten: no message is for them.
    pub(super) fn any(&self, py: Python<'_>) -> bool {
        let (any, forgotten) = self.0.with(py, |waiting| {
            let forgotten: Vec<_> = waiting.extract_if(.., |it| it.get().is_done(py)).collect();
            (!waiting.is_empty(), forgotten)
        });
        drop(forgotten);
        any
    }

    pub(super) fn add(&self, py: Python<'_>, future: Py<Future>) {
        self.0.with(py, |waiting| waiting.push(future));
    }

    /// Give a message to the one that has waited for longest.
    pub(super) fn give(&self, py: Python<'_>, message: Py<PyAny>) -> PyResult<()> {
        let first = self.0.with(py, |waiting| (!waiting.is_empty()).then(|| waiting.remove(0)));
        match first {
            Some(first) => Future::resolve(first.bind(py), message),
            None => Ok(()),
        }
    }

    pub(super) fn clear(&self, py: Python<'_>) {
        drop(self.0.with(py, std::mem::take));
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(visit, |it| it.iter().try_for_each(|it| visit.call(it)))
    }
}
