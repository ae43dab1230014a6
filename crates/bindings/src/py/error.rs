//! Converts errors of the core to Python exceptions; no other module does.

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::prelude::*;

/// Converts an error to the `OSError` subclass of its errno, with the system's message.
pub(crate) fn to_python(error: threadlets_core::Error) -> PyErr {
    let code = error.errno.raw_os_error();
    Python::attach(|py| {
        let message = py.import("os").and_then(|os| os.call_method1("strerror", (code,)));
        match message {
            Ok(message) => PyOSError::new_err((code, message.unbind())),
            Err(error) => error,
        }
    })
}

/// Whether an exception ends the loop rather than being reported by it.
pub(crate) fn ends_the_loop(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<pyo3::exceptions::PySystemExit>(py)
        || error.is_instance_of::<pyo3::exceptions::PyKeyboardInterrupt>(py)
}

/// The error for an argument of the wrong type, in the words of `threadlets/_arguments.py`: `meaning` goes on after
/// "it is".
#[cold]
pub(crate) fn wrong_type(name: &str, value: &Bound<'_, PyAny>, meaning: &str) -> PyErr {
    let shown = value.repr().map_or_else(|_| "an object".to_owned(), |it| it.to_string());
    let kind = value.get_type().name().map_or_else(|_| "?".to_owned(), |it| it.to_string());
    PyTypeError::new_err(format!("{name} is {shown}, of type {kind}; it is {meaning}"))
}

/// Replace a `StopIteration`, which would be taken for a return if it left an await or a future.
pub(crate) fn not_stop_iteration(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) {
        return error;
    }
    let renamed = PyRuntimeError::new_err("threadlet raised StopIteration");
    renamed.set_cause(py, Some(error));
    renamed
}
