//! `errno` as ctypes keeps it: a number per thread, beside C's own.
//!
//! `py::ctypes_errno` finds it; a request that does not leave zero there takes its number along in its context.

use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use pyo3::intern;
use pyo3::prelude::*;

use super::carry::Counted;
use crate::dispatcher::worker::Worker;
use crate::py::interpreter;

/// Take this thread's number, so that the next request finds zero; `None`: it was zero.
#[inline]
pub(super) fn take() -> Option<i32> {
    Worker::with_current(|worker| {
        let number = worker?.ctypes_errno.find();
        if number.is_null() {
            return None;
        }
        // SAFETY: see `find`; only this thread uses it.
        let value = unsafe { number.replace(0) };
        (value != 0).then_some(value)
    })
}

/// The `errno` that a context carries.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct CarriedErrno {
    context: usize,
    value: AtomicI32,
    _counted: Counted,
}

/// Give a request its number back, on this thread.
pub(super) fn bring(carried: &Bound<'_, PyAny>, context: usize) -> PyResult<()> {
    let py = carried.py();
    let carried = carried.cast::<CarriedErrno>()?.get();
    let value = carried.value.load(Relaxed);
    if carried.context != context || value == 0 {
        return Ok(());
    }
    let number = Worker::with_current(|it| it.map_or(null_mut(), |it| it.ctypes_errno.find()));
    if number.is_null() {
        // This thread has none yet.
        py.import(intern!(py, "ctypes"))?.call_method1(intern!(py, "set_errno"), (value,))?;
    } else {
        // SAFETY: see `find`; only this thread uses it.
        unsafe { number.write(value) };
    }
    Ok(())
}

/// Save a request's number in its context.
pub(super) fn put_away<'py>(
    variable: &Bound<'py, PyAny>,
    context: Option<&Bound<'py, PyAny>>,
    carried: Option<Bound<'py, PyAny>>,
    number: usize,
    value: Option<i32>,
) -> PyResult<()> {
    let py = variable.py();
    let value = value.unwrap_or(0);
    if let Some(carried) = carried {
        let carried = carried.cast::<CarriedErrno>()?.get();
        if carried.context == number {
            carried.value.store(value, Relaxed);
            return Ok(());
        }
    }
    if value == 0 {
        return Ok(());
    }
    let carried =
        CarriedErrno { context: number, value: AtomicI32::new(value), _counted: Counted::new() };
    let carried = Bound::new(py, carried)?.into_any();
    match context {
        None => interpreter::set_context_variable(variable, Some(&carried)),
        Some(context) => {
            let set = variable.getattr(intern!(py, "set"))?;
            context.call_method1(intern!(py, "run"), (set, carried)).map(drop)
        }
    }
}
