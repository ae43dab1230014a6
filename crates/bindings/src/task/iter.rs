//! `FutureIter`: a future's await as an object of its own, for code that drives it by hand and for classes
//! derived from ours.

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyBaseException, PyDeprecationWarning, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::future::Future;
use super::slots;
use crate::py::gil_cell::GilSlot;

/// The future that is awaited, until the await has ended.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct FutureIter(GilSlot<Option<Py<Future>>>);

impl FutureIter {
    pub(super) fn new(future: Py<Future>) -> Self {
        Self(GilSlot::new(Some(future)))
    }
}

#[pymethods]
impl FutureIter {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    /// Return the future itself while it is not done; then raise StopIteration with its result.
    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let Some(future) = self.0.take(py) else { return Err(PyStopIteration::new_err(())) };
        let (sent, object) = slots::step(py, future.bind(py).as_any())?;
        if sent == ffi::PySendResult::PYGEN_NEXT {
            drop(self.0.replace(py, Some(future)));
            return Ok(object);
        }
        Err(PyStopIteration::new_err((object,)))
    }

    fn send(&self, py: Python<'_>, _value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.__next__(py)
    }

    /// End the await with an exception: an instance, or a class with its value and traceback.
    #[pyo3(signature = (r#type, val=None, tb=None, /))]
    fn throw<'py>(
        &self,
        r#type: Bound<'py, PyAny>,
        val: Option<Bound<'py, PyAny>>,
        tb: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = r#type.py();
        if (val.is_some() || tb.is_some()) && py.version_info() >= (3, 12) {
            let category = py.get_type::<PyDeprecationWarning>();
            let what =
                c"the (type, exc, tb) signature of throw() is deprecated, use the single-arg \
                         signature instead.";
            PyErr::warn(py, &category, what, 1)?;
        }
        let error = exception(r#type, val)?;
        if let Some(tb) = tb {
            error.setattr("__traceback__", tb)?;
        }
        drop(self.0.take(py));
        Err(PyErr::from_value(error))
    }

    fn close(&self, py: Python<'_>) {
        drop(self.0.take(py));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.traverse(&visit, |future| visit.call(future))
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.0.take(py));
    }
}

#[pymethods]
impl Future {
    /// Raise an exception in the awaiting coroutine. The interpreter does the same without this method, but
    /// only after it has looked for it in vain.
    #[pyo3(signature = (kind, value=None, traceback=None))]
    fn throw(
        &self,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let error = exception(kind, value)?;
        if let Some(traceback) = traceback {
            error.setattr("__traceback__", traceback)?;
        }
        Err(PyErr::from_value(error))
    }

    /// End the await; there is nothing to do.
    fn close(&self) {}
}

/// The exception that `throw` was given, as generators take it.
fn exception<'py>(
    thrown: Bound<'py, PyAny>,
    value: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    if thrown.is_instance_of::<PyBaseException>() {
        return match value {
            None => Ok(thrown),
            Some(_) => {
                Err(PyTypeError::new_err("instance exception may not have a separate value"))
            }
        };
    }
    let class = match thrown.cast::<PyType>() {
        Ok(class) if class.is_subclass_of::<PyBaseException>()? => class,
        _ => {
            let kind = thrown.get_type().name()?;
            return Err(PyTypeError::new_err(format!(
                "exceptions must be classes or instances deriving from BaseException, not {kind}"
            )));
        }
    };
    match value {
        None => thrown.call0(),
        Some(value) if value.is_instance(class)? => Ok(value),
        Some(value) => match value.cast::<PyTuple>() {
            Ok(args) => thrown.call1(args),
            Err(_) => thrown.call1((value,)),
        },
    }
}
