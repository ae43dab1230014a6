//! Attributes of a future: those that asyncio's own Python code and debuggers read, and those that users set.

use std::ptr::null_mut;

use pyo3::exceptions::{PyAttributeError, PyBaseException, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use super::future::{Future, FutureState};
use super::waiters::Waiter;
use crate::dispatcher::Dispatcher;
use crate::py::names;

#[pymethods]
impl Future {
    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        named_after_type(slf, names::future_repr(slf.py())?)
    }

    /// The attributes that other code has set. Few futures have any, so the dictionary is made when it is
    /// first asked for.
    #[getter]
    fn __dict__<'py>(&self, py: Python<'py>) -> Bound<'py, PyDict> {
        let made = PyDict::new(py);
        self.with_extras(py, |it| {
            it.attributes.get_or_insert_with(|| made.unbind()).clone_ref(py).into_bound(py)
        })
    }

    /// An attribute that the class does not have.
    fn __getattr__<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyString>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let attributes =
            slf.get().peek_extras(py, |it| it.attributes.as_ref().map(|it| it.clone_ref(py)));
        let found = match attributes {
            Some(attributes) => attributes.bind(py).get_item(name)?,
            None => None,
        };
        found.ok_or_else(|| {
            let kind = slf.get_type();
            let kind = kind.name().map_or_else(|_| "?".to_owned(), |it| it.to_string());
            PyAttributeError::new_err(format!("'{kind}' object has no attribute '{name}'"))
        })
    }

    fn __setattr__(
        slf: &Bound<'_, Self>,
        name: Bound<'_, PyString>,
        value: Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if slf.get_type().hasattr(&name)? {
            return generic_set(slf, &name, value.as_ptr());
        }
        slf.get().__dict__(slf.py()).set_item(name, value)
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: Bound<'_, PyString>) -> PyResult<()> {
        let attributes = slf.get().__dict__(slf.py());
        if attributes.contains(&name)? {
            return attributes.del_item(name);
        }
        generic_set(slf, &name, null_mut())
    }

    #[getter]
    fn _asyncio_future_blocking(&self, py: Python<'_>) -> bool {
        self.is_blocking.get(py)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_asyncio_future_blocking(&self, blocking: &Bound<'_, PyAny>) -> PyResult<()> {
        self.is_blocking.set(blocking.py(), blocking.is_truthy()?);
        Ok(())
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<Dispatcher> {
        self.dispatcher.clone_ref(py)
    }

    #[getter]
    fn _state<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        PyString::intern(py, self.state_name(py))
    }

    #[getter]
    fn _result(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| match state {
            FutureState::Result(result) => Some(result.clone_ref(py)),
            _ => None,
        })
    }

    #[getter]
    fn _exception(&self, py: Python<'_>) -> Option<Py<PyBaseException>> {
        self.state.with(py, |state| match state {
            FutureState::Error(error) => Some(error.clone_ref(py)),
            _ => None,
        })
    }

    /// The callbacks, each with its context; an awaiting task is listed as its `_wakeup`.
    #[getter]
    fn _callbacks<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        let waiters = self.waiters(py);
        if waiters.is_empty() {
            return Ok(None);
        }
        let callbacks = PyList::empty(py);
        for waiter in waiters {
            match waiter {
                Waiter::Callback(it) => callbacks.append(*it)?,
                Waiter::Task(task) => {
                    let wakeup = task.bind(py).getattr(intern!(py, "_wakeup"))?;
                    let context = task.bind(py).call_method0(intern!(py, "get_context"))?;
                    callbacks.append((wakeup, context))?;
                }
            }
        }
        Ok(Some(callbacks))
    }

    #[getter]
    fn _cancel_message(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.peek_extras(py, |it| it.cancel_message.as_ref().map(|it| it.clone_ref(py)))
    }

    #[setter(_cancel_message)]
    fn set_cancel_message(&self, py: Python<'_>, message: Option<Py<PyAny>>) {
        drop(self.with_extras(py, |it| std::mem::replace(&mut it.cancel_message, message)));
    }

    #[getter]
    fn _source_traceback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.peek_extras(py, |it| it.source_traceback.as_ref().map(|it| it.clone_ref(py)))
    }

    #[getter]
    fn _log_traceback(&self, py: Python<'_>) -> bool {
        self.log_traceback.get(py)
    }

    #[setter(_log_traceback)]
    fn set_log_traceback(&self, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        if enabled.is_truthy()? {
            return Err(PyValueError::new_err("_log_traceback can only be set to False"));
        }
        self.log_traceback.set(enabled.py(), false);
        Ok(())
    }

    fn _make_cancelled_error<'py>(&self, py: Python<'py>) -> Bound<'py, PyBaseException> {
        self.cancelled_error(py).into_value(py).into_bound(py)
    }
}

/// The repr that asyncio's function makes, with the name of the object's own type.
pub(super) fn named_after_type<'py>(
    object: &Bound<'py, PyAny>,
    repr: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = object.py();
    let shown = repr.call1((object,))?;
    // asyncio's function uses the name of `__class__`, which is a class of asyncio's.
    let (kind, taken_for) = (object.get_type().name()?, object.getattr("__class__")?);
    let taken_for = taken_for.getattr("__name__")?;
    if kind.as_any().eq(&taken_for)? {
        return Ok(shown);
    }
    let shown = shown.extract::<String>()?;
    let rest = shown.strip_prefix(&format!("<{taken_for}")).map(|it| format!("<{kind}{it}"));
    Ok(PyString::new(py, &rest.unwrap_or(shown)).into_any())
}

/// Set an attribute that the class has, or delete it if `value` is null, as `object` does.
fn generic_set(
    slf: &Bound<'_, Future>,
    name: &Bound<'_, PyString>,
    value: *mut ffi::PyObject,
) -> PyResult<()> {
    // SAFETY: the object and the name are alive, and so is the value, unless it is null.
    match unsafe { ffi::PyObject_GenericSetAttr(slf.as_ptr(), name.as_ptr(), value) } {
        0 => Ok(()),
        _ => Err(PyErr::fetch(slf.py())),
    }
}
