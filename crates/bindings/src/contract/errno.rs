//! `errno` as ctypes keeps it: a number per thread, beside C's own.
//!
//! ctypes makes a thread's number when code there first asks for it, and puts it into the dictionary of the
//! thread's state. It is looked for when the number of entries in that dictionary has changed: a request
//! pays two loads, and nothing else where the number is not used.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use crate::contract::carry::Counted;
use crate::interpreter;
use crate::worker::Worker;

/// Finds ctypes' `errno` of one thread; a part of `Worker`.
#[derive(Debug)]
pub(crate) struct CtypesErrno {
    thread_dict: *mut ffi::PyObject,
    n_entries: Cell<isize>,
    number: Cell<*mut c_int>,
}

impl CtypesErrno {
    /// The finder for this thread.
    pub(crate) fn of_this_thread(py: Python<'_>) -> Self {
        let thread_dict = interpreter::thread_dict(py).map_or(null_mut(), |it| it.as_ptr());
        Self { thread_dict, n_entries: Cell::new(-1), number: Cell::new(null_mut()) }
    }

    /// The address of the number; null while there is none.
    #[inline]
    fn find(&self) -> *mut c_int {
        if !self.number.get().is_null() || self.thread_dict.is_null() {
            return self.number.get();
        }
        // SAFETY: the dictionary lives as long as the thread's state, and the worker no longer.
        let n_entries = unsafe { (*self.thread_dict.cast::<ffi::PyDictObject>()).ma_used };
        if n_entries != self.n_entries.get() {
            self.n_entries.set(n_entries);
            self.look_up();
        }
        self.number.get()
    }

    #[cold]
    fn look_up(&self) {
        // SAFETY: called by a thread that runs requests, which holds the GIL.
        let py = unsafe { Python::assume_attached() };
        let raised = PyErr::take(py);
        const KEY: &std::ffi::CStr = c"ctypes.error_object";
        const CAPSULE: &std::ffi::CStr = c"_ctypes pymem";
        // SAFETY: the capsule stays in the dictionary, and holds two numbers, `errno` first.
        unsafe {
            let capsule = ffi::PyDict_GetItemString(self.thread_dict, KEY.as_ptr());
            if !capsule.is_null() && ffi::PyCapsule_IsValid(capsule, CAPSULE.as_ptr()) != 0 {
                let found: *mut c_void = ffi::PyCapsule_GetPointer(capsule, CAPSULE.as_ptr());
                self.number.set(found.cast());
            }
        }
        if let Some(raised) = raised {
            raised.restore(py);
        }
    }
}

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
