//! Contexts of `contextvars`.

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;

/// A copy of the current context, as `contextvars.copy_context()` gives.
pub(crate) fn current_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the call returns a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of a context.
pub(crate) fn copy_context(py: Python<'_>, context: &Py<PyAny>) -> PyResult<Py<PyAny>> {
    // SAFETY: `context` is alive; the call returns a new reference, or null with an exception
    // set, as it does for an object that is no context.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_Copy(context.as_ptr())) }
        .map(Bound::unbind)
}

/// Whether a context can be entered now. True for an object that is no context: entering that raises.
pub(crate) fn can_enter(py: Python<'_>, context: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the context is alive; an object that is no context is refused with a TypeError.
    unsafe {
        if ffi::PyContext_Enter(context.as_ptr()) == 0 {
            ffi::PyContext_Exit(context.as_ptr());
            return true;
        }
    }
    !PyErr::fetch(py).is_instance_of::<PyRuntimeError>(py)
}
