//! Futures of any class: native ones are settled directly, others by their methods.

use pyo3::intern;
use pyo3::prelude::*;

use super::future::{Future, FutureState};
use crate::dispatcher::Dispatcher;

/// A new future of a loop, of the class that the loop uses.
pub(crate) fn make<'py>(slf: &Bound<'py, Dispatcher>) -> PyResult<Bound<'py, PyAny>> {
    slf.call_method0(intern!(slf.py(), "create_future"))
}

/// Whether a future is done.
pub(crate) fn is_done(future: &Bound<'_, PyAny>) -> PyResult<bool> {
    match future.cast_exact::<Future>() {
        Ok(native) => Ok(native.get().is_done(future.py())),
        Err(_) => future.call_method0(intern!(future.py(), "done"))?.is_truthy(),
    }
}

/// Whether a future was cancelled.
pub(crate) fn is_cancelled(future: &Bound<'_, PyAny>) -> PyResult<bool> {
    match future.cast_exact::<Future>() {
        Ok(native) => Ok(native.get().is_cancelled(future.py())),
        Err(_) => future.call_method0(intern!(future.py(), "cancelled"))?.is_truthy(),
    }
}

/// Settle a future, unless it is done.
pub(crate) fn settle(future: &Bound<'_, PyAny>, outcome: PyResult<Py<PyAny>>) -> PyResult<()> {
    if is_done(future)? { Ok(()) } else { put(future, outcome) }
}

/// Settle a future that must not be done; if it is, one of another class raises.
pub(crate) fn put(future: &Bound<'_, PyAny>, outcome: PyResult<Py<PyAny>>) -> PyResult<()> {
    let py = future.py();
    match (outcome, future.cast_exact::<Future>()) {
        (Ok(result), Ok(native)) => Future::settle(native, FutureState::Result(result)),
        (Err(error), Ok(native)) => Future::fail(native, error.into_value(py).into_bound(py)),
        (Ok(result), _) => future.call_method1(intern!(py, "set_result"), (result,)).map(drop),
        (Err(error), _) => future.call_method1(intern!(py, "set_exception"), (error,)).map(drop),
    }
}
