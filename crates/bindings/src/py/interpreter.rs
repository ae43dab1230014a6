//! What the bindings need of the interpreter beyond PyO3: native threads that take the GIL, whether a
//! thread holds it, contexts, and the end of the interpreter.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;
#[cfg(Py_3_14)]
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

unsafe extern "C" {
    fn threadlets_holds_gil(state: *mut ffi::PyThreadState) -> c_int;
    fn PyThread_get_stacksize() -> usize;
    safe fn threadlets_has_ended() -> c_int;
    fn threadlets_context() -> *mut ffi::PyObject;
    safe fn threadlets_is_finalizing() -> c_int;
    /// `get(object, name)`, guarded as all calls into the interpreter are.
    pub(crate) fn threadlets_get_attribute(
        get: ffi::getattrofunc,
        object: *mut ffi::PyObject,
        name: *mut ffi::PyObject,
    ) -> *mut ffi::PyObject;
    /// `set(object, name, value)`, guarded likewise.
    pub(crate) fn threadlets_set_attribute(
        set: ffi::setattrofunc,
        object: *mut ffi::PyObject,
        name: *mut ffi::PyObject,
        value: *mut ffi::PyObject,
    ) -> c_int;
}

/// Whether the thread with this thread state holds the GIL.
///
/// # Safety
/// The thread state is alive. Any thread may call this, with or without the GIL.
pub(crate) unsafe fn holds_gil(state: NonNull<c_void>) -> bool {
    // SAFETY: the caller keeps the thread state alive; it is only read.
    unsafe { threadlets_holds_gil(state.as_ptr().cast()) != 0 }
}

/// The thread state of this thread.
pub(crate) fn thread_state(_py: Python<'_>) -> NonNull<c_void> {
    // SAFETY: the GIL is held, so there is a thread state, and the call aborts rather than give null.
    unsafe { NonNull::new_unchecked(ffi::PyThreadState_Get().cast()) }
}

/// The number of this thread, as `threading.get_ident()` gives it.
pub(crate) fn this_thread() -> u64 {
    // SAFETY: returns a number; any thread may call it.
    unsafe { ffi::PyThread_get_thread_ident() as u64 }
}

/// The stack size, in bytes, of a thread that runs Python code: that of `threading.stack_size()`, or what
/// the interpreter's own recursion limits count on.
pub(crate) fn stack_size_bytes() -> usize {
    const DEFAULT: usize = 8 * 1024 * 1024;
    // SAFETY: reads a number of the interpreter; callers hold the GIL.
    match unsafe { PyThread_get_stacksize() } {
        0 => DEFAULT,
        set => set,
    }
}

/// Whether this is the last reference to an object.
pub(crate) fn is_last_reference(object: &Py<PyAny>) -> bool {
    // SAFETY: the object is alive.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) == 1 }
}

/// The version of an object's class: a number that changes whenever the class or one of its bases is
/// changed, or the object gets another class; zero if no attribute was looked up since.
pub(crate) fn class_version(object: &Bound<'_, PyAny>) -> u32 {
    // SAFETY: the object is alive, and with it its class; the GIL is held.
    unsafe { (*ffi::Py_TYPE(object.as_ptr())).tp_version_tag }
}

/// The dictionary of this thread's state, in which extensions keep thread-specific objects.
pub(crate) fn thread_dict(py: Python<'_>) -> Option<Bound<'_, PyDict>> {
    // SAFETY: a borrowed reference to a dictionary, or null when the thread has none.
    unsafe {
        Bound::from_borrowed_ptr_or_opt(py, ffi::PyThreadState_GetDict())
            .map(|it| it.cast_into_unchecked())
    }
}

/// A number that identifies the current context as long as it lives; zero if there is none.
pub(crate) fn context_number(_py: Python<'_>) -> usize {
    // SAFETY: the GIL is held; the reference is borrowed, and only its address is used.
    unsafe { threadlets_context() as usize }
}

/// The current context, if there is one.
pub(crate) fn context(py: Python<'_>) -> Option<Py<PyAny>> {
    // SAFETY: the GIL is held; the reference is borrowed, or null.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, threadlets_context()).map(Bound::unbind) }
}

/// The value of a context variable in the current context, if it has one.
pub(crate) fn context_variable<'py>(
    variable: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut value = std::ptr::null_mut();
    // SAFETY: the variable is alive; an object that is not a context variable is refused. The value is a
    // new reference, or null.
    unsafe {
        if ffi::PyContextVar_Get(variable.as_ptr(), std::ptr::null_mut(), &raw mut value) != 0 {
            return Err(PyErr::fetch(variable.py()));
        }
        Ok(Bound::from_owned_ptr_or_opt(variable.py(), value))
    }
}

/// Set a context variable in the current context; `None` sets it to Python's None.
pub(crate) fn set_context_variable(
    variable: &Bound<'_, PyAny>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = variable.py();
    let none = py.None();
    let value = value.map_or(none.as_ptr(), |it| it.as_ptr());
    // SAFETY: both are alive; the token is a new reference, or null with an exception set.
    unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyContextVar_Set(variable.as_ptr(), value)).map(drop)
    }
}

/// Whether the interpreter is ending, so that no other thread gets the GIL any more.
pub(crate) fn is_finalizing(_py: Python<'_>) -> bool {
    threadlets_is_finalizing() != 0
}

/// Whether another process may have this one run a script (PEP 768). It asks by writing to this process's
/// memory, which wakes no thread.
#[cfg(Py_3_14)]
pub(crate) fn obeys_debuggers(py: Python<'_>) -> bool {
    static OBEYS: PyOnceLock<bool> = PyOnceLock::new();
    let ask = || py.import("sys")?.call_method0("is_remote_debug_enabled")?.extract();
    OBEYS.get_or_try_init(py, ask).is_ok_and(|&obeys: &bool| obeys)
}

#[cfg(not(Py_3_14))]
pub(crate) fn obeys_debuggers(_py: Python<'_>) -> bool {
    false
}

/// The interpreter that new threads attach to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Interpreter(NonNull<ffi::PyInterpreterState>);

// SAFETY: an interpreter belongs to no thread, and lives until our last thread has ended or hangs.
unsafe impl Send for Interpreter {}

impl Interpreter {
    pub(crate) fn current(_py: Python<'_>) -> Self {
        // SAFETY: the GIL is held, so there is an interpreter.
        Self(unsafe { NonNull::new_unchecked(ffi::PyInterpreterState_Get()) })
    }
}

/// A native thread that can take the GIL.
#[derive(Debug)]
pub(crate) struct NativeThread {
    state: NonNull<ffi::PyThreadState>,
}

impl NativeThread {
    /// Register this thread with the interpreter, without taking the GIL; `None`: out of memory.
    pub(crate) fn new(interpreter: Interpreter) -> Option<Self> {
        // SAFETY: the interpreter is alive. The call needs no GIL, and binds the thread state to the
        // thread that makes it, which is this one.
        let state = unsafe { ffi::PyThreadState_New(interpreter.0.as_ptr()) };
        NonNull::new(state).map(|state| Self { state })
    }

    /// Run `work` with the GIL.
    pub(crate) fn with_gil<R>(&mut self, work: impl FnOnce(Python<'_>) -> R) -> R {
        // SAFETY: the thread state is this thread's, and not in use: `&mut` keeps `work` from calling this.
        unsafe { take_gil(self.state) };
        let result = Python::attach(work);
        // SAFETY: the GIL is held, by the thread state restored above.
        unsafe { ffi::PyEval_SaveThread() };
        result
    }

    /// Run `work` with the GIL, and unregister the thread.
    pub(crate) fn end(self, work: impl FnOnce(Python<'_>)) {
        // SAFETY: as in `with_gil`. Clearing may run Python code and needs the GIL; deleting
        // releases it.
        unsafe {
            take_gil(self.state);
            Python::attach(work);
            ffi::PyThreadState_Clear(self.state.as_ptr());
            ffi::PyThreadState_DeleteCurrent();
        }
    }
}

/// Take the GIL; hang if the interpreter is ending or has ended.
///
/// CPython does this itself, but since 3.14 only for threads whose states existed when it began to end.
///
/// # Safety
/// The thread state is this thread's, and not in use.
unsafe fn take_gil(state: NonNull<ffi::PyThreadState>) {
    // SAFETY: the caller guarantees both; after `PyEval_SaveThread` the state is not in use again.
    unsafe {
        ffi::PyEval_RestoreThread(state.as_ptr());
        if threadlets_has_ended() != 0 {
            ffi::PyEval_SaveThread();
            loop {
                std::thread::park();
            }
        }
    }
}
