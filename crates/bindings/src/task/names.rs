//! What the native classes take from asyncio: its exceptions and its own classes.

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

static CANCELLED: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static INVALID_STATE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static FUTURE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
static TASK: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// A fresh `asyncio.CancelledError`.
pub(crate) fn cancelled_error<'py>(
    py: Python<'py>,
    message: Option<&Py<PyAny>>,
) -> PyResult<Bound<'py, PyBaseException>> {
    let its_type = CANCELLED.import(py, "asyncio", "CancelledError")?;
    let error = match message {
        Some(message) => its_type.call1((message,)),
        None => its_type.call0(),
    };
    Ok(error?.cast_into::<PyBaseException>()?)
}

/// Whether an exception is an `asyncio.CancelledError`.
pub(crate) fn is_cancelled_error(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    Ok(error.is_instance(py, CANCELLED.import(py, "asyncio", "CancelledError")?))
}

/// An `asyncio.InvalidStateError`.
pub(crate) fn invalid_state(py: Python<'_>, what: &str) -> PyErr {
    match INVALID_STATE.import(py, "asyncio", "InvalidStateError") {
        Ok(its_type) => PyErr::from_type(its_type.clone(), what.to_owned()),
        Err(error) => error,
    }
}

/// `asyncio.Future`.
pub(crate) fn future_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    FUTURE.import(py, "asyncio", "Future").cloned()
}

/// `asyncio.Task`.
pub(crate) fn task_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    TASK.import(py, "asyncio", "Task").cloned()
}
