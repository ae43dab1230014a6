//! A callback: a callable with its arguments and its context.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::contract::in_context;
use crate::py::context::current_context;
use crate::py::names;

/// A callable, its arguments, and the context to call it in.
#[derive(Debug)]
pub(crate) struct Callback {
    pub(crate) callable: Py<PyAny>,
    pub(crate) args: Py<PyTuple>,
    pub(crate) context: Py<PyAny>,
}

impl Callback {
    /// A callback that runs in `context`, or in a copy of the current one.
    pub(crate) fn new(
        callable: Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let context = match context {
            Some(context) => context,
            None => current_context(callable.py())?,
        };
        Ok(Self { callable: callable.unbind(), args: args.unbind(), context: context.unbind() })
    }

    /// Run the callback in its context.
    pub(crate) fn run(&self, py: Python<'_>) -> PyResult<()> {
        in_context(py, &self.context, || self.callable.bind(py).call1(self.args.bind(py)).map(drop))
    }

    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            callable: self.callable.clone_ref(py),
            args: self.args.clone_ref(py),
            context: self.context.clone_ref(py),
        }
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.callable)?;
        visit.call(&self.args)?;
        visit.call(&self.context)
    }

    pub(crate) fn describe(&self, py: Python<'_>) -> PyResult<String> {
        names::callback_source(py)?.call1((&self.callable, &self.args))?.extract()
    }
}
