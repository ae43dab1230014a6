//! The exceptions of the members of a scope that have failed.

use std::collections::HashMap;

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyBaseException, PyKeyboardInterrupt, PySystemExit};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::members::Members;

/// The failures of one scope, in order.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    errors: Vec<Py<PyBaseException>>,
    /// The requests that have failed, by their addresses. A failed future that is started again is the same
    /// request: its failure counts once.
    requests: HashMap<usize, Py<PyAny>>,
    /// The first exception of the members and the block that ends the loop.
    interrupt: Option<Py<PyBaseException>>,
}

impl Failures {
    /// Add the exception of a request; `false`: it was added before.
    pub(super) fn add(&mut self, request: &Bound<'_, PyAny>, error: &Py<PyBaseException>) -> bool {
        let py = request.py();
        let address = request.as_ptr() as usize;
        if self.requests.contains_key(&address) {
            return false;
        }
        self.requests.insert(address, request.clone().unbind());
        self.errors.push(error.clone_ref(py));
        self.note_interrupt(error.bind(py));
        true
    }

    fn note_interrupt(&mut self, error: &Bound<'_, PyBaseException>) {
        let is_interrupt =
            error.is_instance_of::<PySystemExit>() || error.is_instance_of::<PyKeyboardInterrupt>();
        if is_interrupt && self.interrupt.is_none() {
            self.interrupt = Some(error.clone().unbind());
        }
    }

    pub(super) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.errors.iter().try_for_each(|it| visit.call(it))?;
        self.requests.values().try_for_each(|it| visit.call(it))?;
        visit.call(&self.interrupt)
    }
}

#[pymethods]
impl Members {
    /// Note that the block of the scope ends, with an exception or without: its task is not cancelled by the
    /// scope any more. Returns how often it was.
    fn leave(&self, py: Python<'_>, error: Option<Bound<'_, PyBaseException>>) -> u32 {
        if let Some(error) = error {
            self.failures.with(py, |it| it.note_interrupt(&error));
        }
        self.node.leave(py)
    }

    /// The exceptions of the members that have failed; and the first of theirs and the block's that ends the
    /// loop, or None.
    fn failures(&self, py: Python<'_>) -> (Vec<Py<PyBaseException>>, Option<Py<PyBaseException>>) {
        self.failures.with(py, |it| {
            let errors = it.errors.iter().map(|it| it.clone_ref(py)).collect();
            (errors, it.interrupt.as_ref().map(|it| it.clone_ref(py)))
        })
    }
}
