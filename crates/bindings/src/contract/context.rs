//! Runs code in a context, with what the context carries.

use pyo3::ffi;
use pyo3::prelude::*;

use super::carry;

/// Run `body` inside `context`.
pub(crate) fn in_context<R>(
    py: Python<'_>,
    context: &Py<PyAny>,
    body: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    // SAFETY: `context` is alive; an object that is no context is refused with a TypeError.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(py));
    }
    let carried = carry::enter(py);
    let result = body();
    carry::leave(py, carried);
    // SAFETY: this is the context entered above, and `body` has left what it entered.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } != 0 {
        return result.and(Err(PyErr::fetch(py)));
    }
    result
}
