//! Debug mode's ear at `threading.local`: who reads, sets and deletes values while a request runs.
//!
//! Python has no hook there: the type cannot be changed, and neither can its objects. What the
//! interpreter calls to get and to set an attribute of one is replaced, in the type and in those that
//! inherit from it: once in the life of the process, when debug mode first runs a request. It does what
//! it did, and tells the loop whose request runs on the thread.

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::OnceLock;

use pyo3::exceptions::PyTypeError;
use pyo3::types::PyType;
use pyo3::{ffi, intern, prelude::*};

use crate::dispatcher::Dispatcher;
use crate::interpreter;

/// What the slots of `threading.local` were.
struct Original {
    get: ffi::getattrofunc,
    set: ffi::setattrofunc,
}

static ORIGINAL: OnceLock<Original> = OnceLock::new();

thread_local! {
    /// Whose request runs on this thread, in debug mode; while it is told, nobody's.
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
    // SAFETY: a type is alive, and what it holds in its slots is fixed while the GIL is held.
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
        // SAFETY: as above. Both functions do what the original does for whatever inherits it, and a
        // type that does something else keeps it.
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
    // SAFETY: the interpreter calls this with the GIL, as it would the original; which is known, since
    // only then was it replaced.
    unsafe {
        if !tell("read", object, name) {
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
    // SAFETY: as in `threadlets_local_get`.
    unsafe {
        let original = ORIGINAL.get().expect("it was replaced");
        let status = interpreter::threadlets_set_attribute(original.set, object, name, value);
        let how = if value.is_null() { "deleted" } else { "set" };
        if status == 0 && !tell(how, object, name) { -1 } else { status }
    }
}

/// Tell the loop whose request runs here, if one does; `false`: an exception is set, such as a warning
/// that the user has made one.
///
/// # Safety
/// The GIL is held, no exception is set, and both objects are alive.
#[inline]
unsafe fn tell(how: &str, object: *mut ffi::PyObject, name: *mut ffi::PyObject) -> bool {
    let listener = LISTENER.get();
    if listener.is_null() {
        return true;
    }
    // SAFETY: the caller holds the GIL and the objects; the listener lives as long as its request runs.
    let (py, listener, object, name) = unsafe {
        let py = Python::assume_attached();
        let borrowed = |it| Bound::from_borrowed_ptr(py, it);
        (py, borrowed(listener), borrowed(object), borrowed(name))
    };
    let told = with_listener(null_mut(), || {
        listener.call_method1(intern!(py, "_local_used"), (how, object, name))
    });
    told.map_err(|error| error.restore(py)).is_ok()
}
