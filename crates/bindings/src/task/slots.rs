//! The slots of the native futures' types that PyO3 does not fill: awaiting without an iterator or an
//! exception, and the report when a future is freed. Classes derived from ours have the methods instead.

use std::ptr::null_mut;
use std::sync::OnceLock;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use super::future::{Future, Outcome};
use super::task::Task;
use crate::beside::CallBeside;
use crate::scope::sleep::Sleep;
use crate::syslet::pending::Pending;

/// The types of native futures: each with the deallocator that PyO3 has given it, and with ours.
macro_rules! native_futures {
    ($($(#[$cfg:meta])* $class:ty, $free:ident, $dealloc:ident;)*) => {
        $(
            $(#[$cfg])*
            static $free: OnceLock<ffi::destructor> = OnceLock::new();

            $(#[$cfg])*
            unsafe extern "C" fn $dealloc(slf: *mut ffi::PyObject) {
                // SAFETY: the interpreter calls this when the last reference is gone.
                unsafe { dealloc(slf, &$free) }
            }
        )*

        fn fill_types(py: Python<'_>) {
            $($(#[$cfg])* fill_type(&py.get_type::<$class>(), &$free, $dealloc);)*
        }

        /// The object as a native future; `None` for a derived class, which may override the methods.
        #[inline]
        pub(super) fn as_native<'a, 'py>(
            object: &'a Bound<'py, PyAny>,
        ) -> Option<&'a Bound<'py, Future>> {
            $(
                $(#[$cfg])*
                if object.is_exact_instance_of::<$class>() {
                    // SAFETY: all of these classes derive from `Future`.
                    return Some(unsafe { object.cast_unchecked() });
                }
            )*
            None
        }
    };
}

// The most frequent ones first.
native_futures! {
    Future, FREE_FUTURE, dealloc_future;
    Task, FREE_TASK, dealloc_task;
    #[cfg(Py_3_14)]
    super::visible::VisibleTask, FREE_VISIBLE, dealloc_visible;
    Sleep, FREE_SLEEP, dealloc_sleep;
    Pending, FREE_PENDING, dealloc_pending;
    CallBeside, FREE_CALL_BESIDE, dealloc_call_beside;
}

/// Fill the slots, before the first future is made.
pub(crate) fn fill(py: Python<'_>) {
    #[cfg(Py_3_14)]
    {
        let future = py.get_type::<Future>().as_ptr().cast::<ffi::PyTypeObject>();
        // SAFETY: a type that is alive.
        let size = unsafe { (*future).tp_basicsize };
        assert_eq!(
            super::awaited_by::FIELDS_AT as isize,
            size,
            "a task's fields follow those of a future"
        );
    }
    fill_types(py);
}

fn fill_type(
    its_type: &Bound<'_, PyType>,
    free: &OnceLock<ffi::destructor>,
    dealloc: ffi::destructor,
) {
    // SAFETY: the type is a heap type of ours, it was not used yet, and it has a table for the slots of
    // awaitables, since it has `__await__`.
    unsafe {
        let raw = its_type.as_ptr().cast::<ffi::PyTypeObject>();
        let heap = raw.cast::<ffi::PyHeapTypeObject>();
        if let Some(original) = (*raw).tp_dealloc {
            free.get_or_init(|| original);
        }
        (*raw).tp_dealloc = Some(dealloc);
        (*raw).tp_finalize = Some(finalize);
        // Not `__next__`: a future is not a `collections.abc.Iterator`.
        (*raw).tp_iternext = Some(next);
        (*raw).tp_as_async = &raw mut (*heap).as_async;
        // For the interpreter's `await`; the method `__await__` makes a `FutureIter`.
        (*heap).as_async.am_await = Some(itself);
        (*heap).as_async.am_send = Some(send);
        ffi::PyType_Modified(raw);
    }
}

unsafe extern "C" fn itself(slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter passes an object that is alive.
    unsafe { ffi::Py_NewRef(slf) }
}

/// The next step of an await: the future itself while it is not done, then its outcome.
pub(super) fn step(
    py: Python<'_>,
    slf: &Bound<'_, PyAny>,
) -> PyResult<(ffi::PySendResult, Py<PyAny>)> {
    // SAFETY: the slots are those of `Future` and `Task`, which is a `Future`.
    let future = unsafe { slf.cast_unchecked::<Future>() }.get();
    match future.outcome(py) {
        Some(Outcome::Result(result)) => Ok((ffi::PySendResult::PYGEN_RETURN, result)),
        Some(Outcome::Error(error)) => Err(error),
        None if future.is_blocking.get(py) => {
            Err(PyRuntimeError::new_err("await wasn't used with future"))
        }
        None => {
            future.is_blocking.set(py, true);
            Ok((ffi::PySendResult::PYGEN_NEXT, slf.clone().unbind()))
        }
    }
}

unsafe extern "C" fn send(
    slf: *mut ffi::PyObject,
    _value: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: the interpreter calls this with the GIL, an object of our type, and a place for the result.
    unsafe {
        let py = Python::assume_attached();
        match step(py, &Bound::from_borrowed_ptr(py, slf)) {
            Ok((sent, object)) => {
                *result = object.into_ptr();
                sent
            }
            Err(error) => {
                error.restore(py);
                *result = null_mut();
                ffi::PySendResult::PYGEN_ERROR
            }
        }
    }
}

unsafe extern "C" fn next(slf: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as in `send`. A return is an exception that carries the result.
    unsafe {
        let py = Python::assume_attached();
        match step(py, &Bound::from_borrowed_ptr(py, slf)) {
            Ok((ffi::PySendResult::PYGEN_NEXT, object)) => object.into_ptr(),
            Ok((_, object)) => {
                // Instantiated here: a tuple or an exception would be taken for the arguments of
                // `StopIteration`.
                match ffi::PyObject_CallOneArg(ffi::PyExc_StopIteration, object.as_ptr()) {
                    stop if stop.is_null() => {}
                    stop => {
                        ffi::PyErr_SetObject(ffi::PyExc_StopIteration, stop);
                        ffi::Py_DECREF(stop);
                    }
                }
                null_mut()
            }
            Err(error) => {
                error.restore(py);
                null_mut()
            }
        }
    }
}

/// # Safety
/// The last reference is gone; the object is of the type that `free` is for.
unsafe fn dealloc(slf: *mut ffi::PyObject, free: &OnceLock<ffi::destructor>) {
    // SAFETY: the caller guarantees both. The finalizer may have made a reference: then the object stays.
    unsafe {
        if ffi::PyObject_CallFinalizerFromDealloc(slf) < 0 {
            return;
        }
        // Borrowed: dropping a reference of our own would free the object once more.
        let object = Borrowed::from_ptr(Python::assume_attached(), slf);
        forget_request(&object);
        free_nested(&object);
        if let Some(free) = free.get() {
            free(slf);
        }
    }
}

unsafe extern "C" fn finalize(slf: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this with the GIL held and an object of our type, which is alive.
    unsafe { report_unfinished(&Bound::from_borrowed_ptr(Python::assume_attached(), slf)) }
}

/// Report a future whose last reference is gone, if it has not ended or its exception was never retrieved.
pub(super) fn report_unfinished(object: &Bound<'_, PyAny>) {
    let py = object.py();
    let raised = PyErr::take(py);
    forget_request(object);
    if let Err(error) = report(object) {
        error.write_unraisable(py, Some(object));
    }
    if let Some(raised) = raised {
        raised.restore(py);
    }
}

/// Remove an object from the loop's list of requests, which must not lead to freed memory. Tasks are in it,
/// and waits whose scope was dropped.
fn forget_request(object: &Bound<'_, PyAny>) {
    let py = object.py();
    #[cfg(Py_3_14)]
    super::visible::VisibleTask::leave(object);
    // SAFETY: as in `step`.
    let future = unsafe { object.cast_unchecked::<Future>() }.get();
    drop(future.dispatcher.get().requests.with(py, |it| it.leave(py, future)));
}

/// Free a result that is a future, and that one's result, and so on, one after the other: nested calls
/// would need a stack as deep as the chain is long.
fn free_nested(object: &Bound<'_, PyAny>) {
    let py = object.py();
    // SAFETY: as in `step`.
    let future = unsafe { object.cast_unchecked::<Future>() }.get();
    let mut next = future.state.with(py, |it| it.take_nested(py));
    while let Some(future) = next {
        next = future.get().state.with(py, |it| it.take_nested(py));
    }
}

/// Call the loop's exception handler for a task that has not ended, or an exception never retrieved.
fn report(object: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = object.py();
    let task = object.cast::<Task>().ok();
    // SAFETY: as in `step`.
    let future = unsafe { object.cast_unchecked::<Future>() }.get();
    let context = PyDict::new(py);
    if let Some(task) = task
        && Task::is_missed(task)
    {
        context.set_item(intern!(py, "task"), task)?;
        context.set_item(intern!(py, "message"), "Task was destroyed but it is pending!")?;
    } else if let Some(error) = future.unseen_error(py) {
        let kind = object.get_type().name()?;
        context
            .set_item(intern!(py, "message"), format!("{kind} exception was never retrieved"))?;
        context.set_item(intern!(py, "exception"), error)?;
        context.set_item(intern!(py, "future"), object)?;
    } else {
        return Ok(());
    }
    if let Some(source) =
        future.peek_extras(py, |it| it.source_traceback.as_ref().map(|it| it.clone_ref(py)))
    {
        context.set_item(intern!(py, "source_traceback"), source)?;
    }
    let dispatcher = future.dispatcher.bind(py);
    dispatcher.call_method1(intern!(py, "call_exception_handler"), (context,)).map(drop)
}
