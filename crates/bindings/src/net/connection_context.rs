//! The context in which a connection's protocol is called.
//!
//! It is copied when it is first entered: a connection that has received nothing yet has no context of
//! its own, so that many connections at once do not cost as many contexts.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::py::context::{copy_context, current_context};
use crate::py::gil_cell::GilCell;

#[derive(Debug)]
enum Context {
    Own(Py<PyAny>),
    /// Given with the connection; asyncio runs all callbacks of the connection in it, since CPython 3.15.
    Given(Py<PyAny>),
    /// To be copied when it is first entered: other connections begin with the same context.
    Shared(Py<PyAny>),
}

/// The context of one connection, copied when it is first entered.
#[derive(Debug)]
pub(crate) struct ConnectionContext(GilCell<Context>);

impl ConnectionContext {
    /// A copy of the current context, made at once: that context may change.
    pub(crate) fn present(py: Python<'_>) -> PyResult<Self> {
        Ok(Self(GilCell::new(Context::Own(current_context(py)?.unbind()))))
    }

    /// A copy of a context that does not change, made when it is first entered.
    pub(crate) fn copy_of(context: Py<PyAny>) -> Self {
        Self(GilCell::new(Context::Shared(context)))
    }

    /// The given context itself, which no other connection enters.
    pub(crate) fn given(context: Py<PyAny>) -> Self {
        Self(GilCell::new(Context::Given(context)))
    }

    /// The context that was given, if one was.
    pub(crate) fn as_given(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.0.with(py, |context| match context {
            Context::Given(given) => Some(given.clone_ref(py)),
            Context::Own(_) | Context::Shared(_) => None,
        })
    }

    /// The context of this connection alone, copied if that has not been done.
    pub(crate) fn own(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let own = self.0.with(py, |context| match context {
            Context::Own(own) | Context::Given(own) => Ok(own.clone_ref(py)),
            Context::Shared(shared) => Err(shared.clone_ref(py)),
        });
        let shared = match own {
            Ok(own) => return Ok(own),
            Err(shared) => shared,
        };
        let own = copy_context(py, &shared)?;
        let context = Context::Own(own.clone_ref(py));
        drop(self.0.with(py, |it| std::mem::replace(it, context)));
        Ok(own)
    }

    /// Visit what this refers to, for the cycle collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(visit, |context| match context {
            Context::Own(context) | Context::Given(context) | Context::Shared(context) => {
                visit.call(context)
            }
        })
    }
}
