//! The slots of the native futures' types that PyO3 does not fill: awaiting without an iterator or an
//! exception, and the report when a future is freed. Classes derived from ours have the methods instead.

use std::mem;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

use pyo3::PyTypeInfo;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::future::{Future, FutureState, Outcome};
use crate::py::interpreter;

/// The classes of native futures, the most frequent ones first.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NativeClass {
    Future,
    Task,
    /// Registered from CPython 3.14 on.
    #[cfg_attr(not(Py_3_14), expect(dead_code))]
    VisibleTask,
    Sleep,
    Pending,
    CallBeside,
}

/// A class of native futures; derives from `Future`, or is it.
pub(crate) trait NativeFuture: PyTypeInfo {
    const CLASS: NativeClass;

    /// Whether to report that the last reference to one that is not done has gone.
    fn is_missed(_slf: &Bound<'_, Self>) -> bool {
        false
    }

    /// Withdraws a future that is done, or is being freed, from where it is registered for its class's sake.
    const WITHDRAW: Option<fn(&Bound<'_, Self>)> = None;
}

impl NativeFuture for Future {
    const CLASS: NativeClass = NativeClass::Future;
}

/// What is known of a registered class.
struct Registered {
    class: AtomicPtr<ffi::PyTypeObject>,
    /// The deallocator that PyO3 has given it.
    free: OnceLock<ffi::destructor>,
    withdraw: OnceLock<fn(&Bound<'_, PyAny>)>,
}

static CLASSES: [Registered; NativeClass::CallBeside as usize + 1] = [const {
    Registered {
        class: AtomicPtr::new(null_mut()),
        free: OnceLock::new(),
        withdraw: OnceLock::new(),
    }
};
    NativeClass::CallBeside as usize + 1];

impl Registered {
    /// The class of an object; none for a class of no native futures, and for a derived one, which may
    /// override the methods.
    #[inline]
    fn of(object: &Bound<'_, PyAny>) -> Option<&'static Self> {
        let its_type = object.get_type_ptr();
        CLASSES.iter().find(|it| it.class.load(Relaxed) == its_type)
    }
}

/// Register a class, and fill its slots, before its first object is made.
pub(crate) fn register<T: NativeFuture>(py: Python<'_>) {
    let registered = &CLASSES[T::CLASS as usize];
    let class = py.get_type::<T>().as_ptr().cast::<ffi::PyTypeObject>();
    registered.class.store(class, Relaxed);
    if T::WITHDRAW.is_some() {
        registered.withdraw.get_or_init(|| withdraw_exact::<T>);
    }
    // SAFETY: the type is a heap type of ours, it was not used yet, and it has a table for the slots of
    // awaitables, since it has `__await__`.
    unsafe {
        let heap = class.cast::<ffi::PyHeapTypeObject>();
        if let Some(original) = (*class).tp_dealloc {
            registered.free.get_or_init(|| original);
        }
        (*class).tp_dealloc = Some(dealloc::<T>);
        (*class).tp_finalize = Some(finalize::<T>);
        // Not `__next__`: a future is not a `collections.abc.Iterator`.
        (*class).tp_iternext = Some(next);
        (*class).tp_as_async = &raw mut (*heap).as_async;
        // For the interpreter's `await`; the method `__await__` makes a `FutureIter`.
        (*heap).as_async.am_await = Some(itself);
        (*heap).as_async.am_send = Some(send);
        ffi::PyType_Modified(class);
    }
}

/// The object as a native future; `None` for a derived class, which may override the methods.
#[inline]
pub(super) fn as_native<'a, 'py>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, Future>> {
    // SAFETY: all registered classes derive from `Future`.
    Registered::of(object).map(|_| unsafe { object.cast_unchecked() })
}

/// The object as a future of ours, of whatever class; fails for any other object.
#[inline]
pub(crate) fn as_future<'a, 'py>(
    object: &'a Bound<'py, PyAny>,
) -> PyResult<&'a Bound<'py, Future>> {
    match as_native(object) {
        Some(future) => Ok(future),
        None => Ok(object.cast()?),
    }
}

/// Withdraw a future of exactly this class.
fn withdraw_exact<T: NativeFuture>(future: &Bound<'_, PyAny>) {
    if let Some(withdraw) = T::WITHDRAW {
        // SAFETY: `Registered::of` has compared the class.
        withdraw(unsafe { future.cast_unchecked() });
    }
}

/// Withdraw a future that is done, or is being freed, from where it is registered for its class's sake.
#[inline]
pub(super) fn withdraw(future: &Bound<'_, PyAny>) {
    if let Some(withdraw) = Registered::of(future).and_then(|it| it.withdraw.get()) {
        withdraw(future);
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

unsafe extern "C" fn dealloc<T: NativeFuture>(slf: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this when the last reference is gone. The finalizer may have made a
    // reference: then the object stays.
    unsafe {
        if ffi::PyObject_CallFinalizerFromDealloc(slf) < 0 {
            return;
        }
        // Borrowed: dropping a reference of our own would free the object once more.
        let object = Borrowed::from_ptr(Python::assume_attached(), slf);
        let future = object.cast_unchecked::<Future>();
        forget_request(&future);
        free_nested(&future);
        if let Some(free) = CLASSES[T::CLASS as usize].free.get() {
            free(slf);
        }
    }
}

unsafe extern "C" fn finalize<T: NativeFuture>(slf: *mut ffi::PyObject) {
    // SAFETY: the interpreter calls this with the GIL held and an object of our class, which is alive.
    unsafe {
        let object = Bound::from_borrowed_ptr(Python::assume_attached(), slf);
        report_unfinished(object.cast_unchecked(), T::is_missed(object.cast_unchecked()));
    }
}

/// Report a future whose last reference is gone, if it is missed or its exception was never retrieved.
pub(super) fn report_unfinished(future: &Bound<'_, Future>, is_missed: bool) {
    let py = future.py();
    let raised = PyErr::take(py);
    forget_request(future);
    if let Err(error) = report(future, is_missed) {
        error.write_unraisable(py, Some(future));
    }
    if let Some(raised) = raised {
        raised.restore(py);
    }
}

/// Remove a future from the loop's list of requests, which must not lead to freed memory. Tasks are in it,
/// and waits whose scope was dropped.
fn forget_request(future: &Bound<'_, Future>) {
    let py = future.py();
    let this = future.get();
    if !this.is_done(py) {
        withdraw(future);
    }
    drop(this.dispatcher.get().requests.with(py, |it| it.leave(py, &this.membership, false)));
}

/// Free a result that is a future, and that one's result, and so on, one after the other: nested calls
/// would need a stack as deep as the chain is long.
fn free_nested(future: &Bound<'_, Future>) {
    let py = future.py();
    let mut next = future.get().state.with(py, |it| take_nested(py, it));
    while let Some(future) = next {
        next = future.get().state.with(py, |it| take_nested(py, it));
    }
}

/// Take out a result that is a future and would be freed with this one.
fn take_nested(py: Python<'_>, state: &mut FutureState) -> Option<Py<Future>> {
    let FutureState::Result(result) = state else { return None };
    if !interpreter::is_last_reference(result) || !result.bind(py).is_instance_of::<Future>() {
        return None;
    }
    mem::replace(result, py.None()).into_bound(py).cast_into().ok().map(Bound::unbind)
}

/// Call the loop's exception handler for a future that is missed, or an exception never retrieved.
fn report(object: &Bound<'_, Future>, is_missed: bool) -> PyResult<()> {
    let py = object.py();
    let future = object.get();
    let context = PyDict::new(py);
    if is_missed {
        context.set_item(intern!(py, "task"), object)?;
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
