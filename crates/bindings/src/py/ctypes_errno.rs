//! Finds the `errno` that ctypes keeps for a thread, beside C's own.
//!
//! ctypes makes a thread's number when code there first asks for it, and puts it into the dictionary of the
//! thread's state. It is looked for when the number of entries in that dictionary has changed: a request
//! pays two loads, and nothing else where the number is not used.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use pyo3::ffi;
use pyo3::prelude::*;

use super::interpreter;

/// Finds ctypes' `errno` of one thread.
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
    pub(crate) fn find(&self) -> *mut c_int {
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
