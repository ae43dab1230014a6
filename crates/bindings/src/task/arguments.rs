//! The arguments of `Task`, checked as asyncio checks them.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

pub(super) fn check_coroutine(object: &Bound<'_, PyAny>) -> PyResult<()> {
    if is_coroutine(object)? {
        return Ok(());
    }
    let object = object.repr()?;
    Err(PyTypeError::new_err(format!("a coroutine was expected, got {object}")))
}

pub(super) fn check_context(object: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the object is alive; only its type is read.
    if unsafe { ffi::PyContext_CheckExact(object.as_ptr()) } != 0 {
        return Ok(object);
    }
    let name = object.get_type().name()?;
    Err(PyTypeError::new_err(format!("a contextvars.Context was expected, got {name}")))
}

/// Whether an object can be run by a task, as asyncio decides it.
fn is_coroutine(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    static IS_COROUTINE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = object.py();
    // SAFETY: the object is alive; only its type is read.
    if unsafe { ffi::PyCoro_CheckExact(object.as_ptr()) } != 0 {
        return Ok(true);
    }
    let asks = IS_COROUTINE.import(py, "asyncio.coroutines", "iscoroutine")?;
    asks.call1((object,))?.is_truthy()
}
