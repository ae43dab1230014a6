//! Debug mode's hook on `threading.local`: reports values that a request reads, sets or deletes.
//!
//! Python has no hook there: neither the type nor its objects can be changed. So the slots are replaced
//! that the interpreter calls to get and to set an attribute, in the type and in its subclasses, once per
//! process, when debug mode first runs a request. The replacements call the originals, and tell the loop
//! whose request runs on the thread.

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::OnceLock;

use pyo3::exceptions::PyTypeError;
use pyo3::types::{PyTuple, PyType};
use pyo3::{ffi, intern, prelude::*};

use crate::dispatcher::{Dispatcher, hooks};
use crate::py::error::ends_the_loop;
use crate::py::interpreter;

/// The original slots of `threading.local`.
struct Original {
    get: ffi::getattrofunc,
    set: ffi::setattrofunc,
}

static ORIGINAL: OnceLock<Original> = OnceLock::new();

thread_local! {
    /// The loop whose request runs on this thread, in debug mode; null while that loop is being told.
    static LISTENER: Cell<*mut ffi::PyObject> = const { Cell::new(null_mut()) };
}

/// Run a request, and tell its loop of the values of `threading.local` that it uses.
pub(crate) fn listening<R>(
    slf: &Bound<'_, Dispatcher>,
    run: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    if ORIGINAL.get().is_none() {
        replace_slots(slf.py())?;
    }
    with_listener(slf.as_ptr(), run)
}

fn with_listener<R>(listener: *mut ffi::PyObject, run: impl FnOnce() -> R) -> R {
    struct Restore(*mut ffi::PyObject);
    impl Drop for Restore {
        fn drop(&mut self) {
            LISTENER.set(self.0);
        }
    }
    let _restore = Restore(LISTENER.replace(listener));
    run()
}

fn replace_slots(py: Python<'_>) -> PyResult<()> {
    let base = py.import(intern!(py, "_thread"))?.getattr(intern!(py, "_local"))?;
    let base = base.cast_into::<PyType>()?;
    // SAFETY: the type is alive, and its slots do not change while the GIL is held.
    let (get, set) = unsafe {
        let slots = &*base.as_type_ptr();
        (slots.tp_getattro, slots.tp_setattro)
    };
    let (Some(get), Some(set)) = (get, set) else {
        return Err(PyTypeError::new_err("threading.local has no attributes of its own"));
    };
    ORIGINAL.get_or_init(|| Original { get, set });
    let mut types = vec![base];
    while let Some(found) = types.pop() {
        // SAFETY: as above. Both functions do what the originals do, for each type that inherits those; a
        // type with slots of its own keeps them.
        unsafe {
            let slots = &mut *found.as_type_ptr();
            if slots.tp_getattro.is_some_and(|it| it as usize == get as usize) {
                slots.tp_getattro = Some(threadlets_local_get);
            }
            if slots.tp_setattro.is_some_and(|it| it as usize == set as usize) {
                slots.tp_setattro = Some(threadlets_local_set);
            }
            ffi::PyType_Modified(found.as_type_ptr());
        }
        for inherits in found.call_method0(intern!(py, "__subclasses__"))?.try_iter()? {
            types.push(inherits?.cast_into::<PyType>()?);
        }
    }
    Ok(())
}

unsafe extern "C" fn threadlets_local_get(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with the GIL, as it would call the original, which was stored
    // before it was replaced.
    unsafe {
        if !LISTENER.get().is_null() && !report_use("read", object, name, null_mut(), null_mut()) {
            return null_mut();
        }
        let original = ORIGINAL.get().expect("it was replaced");
        interpreter::threadlets_get_attribute(original.get, object, name)
    }
}

unsafe extern "C" fn threadlets_local_set(
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> std::ffi::c_int {
    // SAFETY: as in `threadlets_local_get`. `before` is a new reference, or null with an exception.
    unsafe {
        let original = ORIGINAL.get().expect("it was replaced");
        if LISTENER.get().is_null() {
            return interpreter::threadlets_set_attribute(original.set, object, name, value);
        }
        let before = interpreter::threadlets_get_attribute(original.get, object, name);
        if before.is_null() {
            ffi::PyErr_Clear();
        }
        let status = interpreter::threadlets_set_attribute(original.set, object, name, value);
        let how = if value.is_null() { "deleted" } else { "set" };
        let goes_on = status != 0 || report_use(how, object, name, before, value);
        ffi::Py_XDECREF(before);
        if goes_on { status } else { -1 }
    }
}

/// Report to the loop whose request runs here the values before and after, null for none. Errors are not the
/// request's, and are unraisable; `false`: an exception that ends the loop, such as Ctrl-C, is set.
///
/// # Safety
/// The GIL is held, no exception is set, `LISTENER` is set, and the objects are alive or null.
unsafe fn report_use(
    how: &str,
    object: *mut ffi::PyObject,
    name: *mut ffi::PyObject,
    before: *mut ffi::PyObject,
    after: *mut ffi::PyObject,
) -> bool {
    // SAFETY: the caller holds the GIL and the objects; the listener lives as long as its request runs.
    let (py, listener, object, name, values) = unsafe {
        let py = Python::assume_attached();
        let borrowed = |it| Bound::from_borrowed_ptr(py, it);
        let values = [before, after].map(|it| Bound::from_borrowed_ptr_or_opt(py, it));
        (py, borrowed(LISTENER.get()), borrowed(object), borrowed(name), values)
    };
    let reported = with_listener(null_mut(), || {
        let [before, after] = values.map(|it| PyTuple::new(py, it));
        hooks::local_used(&listener, how, object, name, before?, after?)
    });
    match reported {
        Err(error) if ends_the_loop(py, &error) => {
            error.restore(py);
            false
        }
        Err(error) => {
            error.write_unraisable(py, Some(&listener));
            true
        }
        Ok(_) => true,
    }
}
