//! `CallObject`: a call with its function and its arguments, as it lies in memory.

use std::cell::Cell;
use std::ptr::NonNull;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use super::pool::Pool;
use crate::contract::{self, Environment};
use crate::dispatcher::Dispatcher;
use crate::py::error::not_stop_iteration;

/// The state of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CallState {
    /// It was not awaited yet.
    Fresh,
    /// It was not awaited yet; cancelling does not wait for the function.
    FreshAbandonable,
    /// It was not awaited yet; the function is called inline only if it is known to be quick, and queued otherwise.
    FreshQueueable,
    /// It has let other requests run, and calls or queues the function next.
    HasYieldedQueueable,
    /// It has let other requests run, and calls the function next.
    HasYielded,
    /// The delegate is the future of the permit to start: it is done when the pool has admitted the call.
    AwaitsPermit,
    /// The delegate is the future of the result of a call that may be abandoned.
    AwaitsResult,
    /// The function is called beside the dispatcher; the delegate is the future of its result.
    AwaitsBeside,
    /// The function has returned, but its task was cancelled meanwhile: the cancellation is thrown in next.
    AwaitsCancellation,
    Done,
}

#[repr(C)]
pub(crate) struct CallObject {
    pub(crate) head: ffi::PyVarObject,
    /// The names of the named arguments, which are the last: a tuple, or null.
    pub(crate) names: *mut ffi::PyObject,
    /// The pool, or null.
    pub(crate) pool: *mut ffi::PyObject,
    /// The environment that the function computes in; null for the pool's, or else the awaiter's.
    pub(crate) environment: *mut ffi::PyObject,
    /// The future that is awaited instead, or null.
    pub(crate) delegate: Cell<*mut ffi::PyObject>,
    /// The result, kept in case no cancellation is thrown in after all; or null.
    pub(crate) held: Cell<*mut ffi::PyObject>,
    pub(crate) state: Cell<CallState>,
    /// The function, its positional arguments, the values of its named arguments: they follow the struct in
    /// the same memory. A pointer, since a reference to the struct covers its fields only, and since the
    /// callee may write to the item before the arguments.
    pub(crate) items: *mut *mut ffi::PyObject,
}

impl CallObject {
    pub(crate) fn n_items(&self) -> usize {
        self.head.ob_size as usize
    }

    pub(crate) fn callable(&self) -> *mut ffi::PyObject {
        // SAFETY: there is one item at least.
        unsafe { *self.items }
    }

    pub(super) fn n_positional(&self) -> usize {
        if self.names.is_null() {
            return self.n_items() - 1;
        }
        // SAFETY: the names are a tuple.
        let n_ids = unsafe { ffi::PyTuple_GET_SIZE(self.names) };
        self.n_items() - 1 - n_ids as usize
    }

    pub(super) fn pool<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Pool>> {
        // SAFETY: the pool is an instance of `Pool`, or null.
        unsafe {
            let pool = NonNull::new(self.pool)?;
            Some(Bound::from_borrowed_ptr(py, pool.as_ptr()).cast_into_unchecked())
        }
    }

    pub(super) fn environment<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Environment>> {
        // SAFETY: the environment is an instance of `Environment`, or null.
        let own = NonNull::new(self.environment)
            .map(|it| unsafe { Bound::from_borrowed_ptr(py, it.as_ptr()).cast_into_unchecked() });
        own.or_else(|| self.pool(py)?.get().environment(py))
    }

    /// The call as a Python object.
    pub(super) fn as_object(&self, py: Python<'_>) -> Py<PyAny> {
        // SAFETY: every call is an object, which is alive while a method of it runs.
        unsafe {
            let object = (&raw const *self).cast_mut().cast::<ffi::PyObject>();
            Bound::from_borrowed_ptr(py, object).unbind()
        }
    }

    /// Call the function on this thread, which is beside the dispatcher.
    pub(crate) fn call_function(&self, slf: &Bound<'_, Dispatcher>) -> PyResult<Py<PyAny>> {
        returned(slf.py(), self.call_as_threadlet(slf, self.environment(slf.py())))
    }

    #[inline]
    pub(super) fn call_as_threadlet(
        &self,
        slf: &Bound<'_, Dispatcher>,
        environment: Option<Bound<'_, Environment>>,
    ) -> *mut ffi::PyObject {
        let callable = self.callable();
        let nargsf = self.n_positional() | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
        contract::call_threadlet(slf, callable, environment.as_ref(), || {
            // SAFETY: the arguments live in this object, which its awaiter or its thread keeps alive. The
            // word before them holds the callable, and the callee may use it meanwhile.
            unsafe { ffi::PyObject_Vectorcall(callable, self.items.add(1), nargsf, self.names) }
        })
    }
}

/// The result of a call; a `TypeError` for a coroutine, which nothing would await.
pub(super) fn returned(py: Python<'_>, result: *mut ffi::PyObject) -> PyResult<Py<PyAny>> {
    // SAFETY: a new reference, or null with an exception set.
    let result = unsafe { Bound::from_owned_ptr_or_err(py, result) };
    let result = result.map_err(|error| not_stop_iteration(py, error))?;
    // SAFETY: this only looks at the type.
    if unsafe { ffi::PyCoro_CheckExact(result.as_ptr()) } != 0 {
        result.call_method0(intern!(py, "close"))?;
        let name = result.getattr(intern!(py, "__qualname__"))?;
        return Err(PyTypeError::new_err(format!(
            "{name}() is a coroutine function: it does not block, so it needs no threadlet; await \
             it directly"
        )));
    }
    Ok(result.unbind())
}
