//! Converts errors of the core to Python exceptions; no other module does.

use pyo3::exceptions::PyOSError;
use pyo3::types::PyAnyMethods;
use pyo3::{PyErr, Python};

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
