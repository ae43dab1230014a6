//! What asyncio keeps in the state of a thread, from CPython 3.14 on: the loop that runs there, the task whose step
//! that takes, and a list of the tasks that were made there.
//!
//! None of it is part of an interface. Where it is, is found out when the module is loaded: asyncio is told of a loop
//! and a task, and the thread state is searched for them.

use std::ffi::{c_int, c_void};
use std::ptr::{NonNull, null_mut};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

unsafe extern "C" {
    fn threadlets_find_running(running: *mut ffi::PyObject, task: *mut ffi::PyObject) -> c_int;
    fn threadlets_running_task(
        state: *mut ffi::PyThreadState,
        running: *mut ffi::PyObject,
    ) -> *mut *mut ffi::PyObject;
    fn threadlets_find_tasks(task: *mut ffi::PyObject) -> isize;
    fn threadlets_tasks() -> *mut Link;
}

/// Find everything.
pub(crate) fn load(py: Python<'_>) -> PyResult<()> {
    let asyncio = py.import("_asyncio")?;
    let object = || py.import("builtins")?.getattr("object")?.call0();
    let (its_loop, task) = (object()?, object()?);
    let before = asyncio.call_method0("_get_running_loop")?;
    let task_before = if before.is_none() {
        None
    } else {
        Some(asyncio.call_method1("_swap_current_task", (&before, py.None()))?)
    };
    asyncio.call_method1("_set_running_loop", (&its_loop,))?;
    asyncio.call_method1("_enter_task", (&its_loop, &task))?;
    // SAFETY: the GIL is held. The words up to the one that is looked for are the thread state's.
    let is_found = unsafe { threadlets_find_running(its_loop.as_ptr(), task.as_ptr()) != 0 };
    asyncio.call_method1("_leave_task", (&its_loop, &task))?;
    asyncio.call_method1("_set_running_loop", (&before,))?;
    if let Some(task) = task_before {
        asyncio.call_method1("_swap_current_task", (&before, task))?;
    }
    if !is_found {
        return Err(PyImportError::new_err(format!(
            "the state of a thread of this CPython ({}) does not hold asyncio's current task where it is looked for; \
             use a release of CPython that threadlets supports, or report this one",
            Python::version_str()
        )));
    }
    let _ = LAYOUT.set(py, Layout::find(&asyncio)?);
    Ok(())
}

/// Whether a loop runs in this thread, in asyncio's eyes.
pub(crate) fn is_running(its_loop: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the GIL is held, and the state is this thread's.
    unsafe { !threadlets_running_task(null_mut(), its_loop.as_ptr()).is_null() }
}

/// The task whose step a loop takes in this thread.
#[inline]
pub(crate) fn task<'py>(its_loop: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the GIL is held, and the state is this thread's.
    unsafe { borrow(its_loop, null_mut()) }
}

/// The same in the thread with this thread state.
///
/// # Safety
/// The thread state is alive.
pub(crate) unsafe fn task_of<'py>(
    its_loop: &Bound<'py, PyAny>,
    state: NonNull<c_void>,
) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the caller's.
    unsafe { borrow(its_loop, state.as_ptr().cast()) }
}

/// # Safety
/// The thread state is alive, or null for this thread's.
unsafe fn borrow<'py>(
    its_loop: &Bound<'py, PyAny>,
    state: *mut ffi::PyThreadState,
) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the caller keeps the state alive; the field holds a reference or null, and changes only with the GIL.
    unsafe {
        let field = NonNull::new(threadlets_running_task(state, its_loop.as_ptr()))?;
        Bound::from_borrowed_ptr_or_opt(its_loop.py(), field.read())
    }
}

/// Name the task whose step a loop takes in this thread; `false`: the loop does not run here.
#[inline]
pub(crate) fn set_task(its_loop: &Bound<'_, PyAny>, task: Option<&Bound<'_, PyAny>>) -> bool {
    // SAFETY: as in `task`. The field owns what it refers to; what it referred to goes last, which may run code.
    unsafe {
        let field = threadlets_running_task(null_mut(), its_loop.as_ptr());
        let Some(field) = NonNull::new(field) else { return false };
        let task = task.map_or(null_mut(), |it| it.clone().into_ptr());
        ffi::Py_XDECREF(field.replace(task));
    }
    true
}

/// How far into asyncio's own future and task their fields are, in bytes. Programs that look at a process from
/// outside look there.
pub(crate) mod at {
    pub(crate) const AWAITED_BY: usize = 96;
    /// An `int`; zero: pending.
    pub(crate) const STATE: usize = 104;
    pub(crate) const IS_TASK: usize = 108;
    pub(crate) const AWAITED_BY_IS_SET: usize = 109;
    pub(crate) const COROUTINE: usize = 128;
    pub(crate) const NAME: usize = 136;
    pub(crate) const LINK: usize = 152;
}

/// What was found out about asyncio's own classes.
struct Layout {
    future: Py<PyType>,
    /// The fields are where they are expected.
    is_known: bool,
}

static LAYOUT: PyOnceLock<Layout> = PyOnceLock::new();

impl Layout {
    /// Have asyncio change a task of its own, and look whether that changes where it should.
    fn find(asyncio: &Bound<'_, PyModule>) -> PyResult<Self> {
        let py = asyncio.py();
        let class = asyncio.getattr("Task")?.cast_into::<PyType>()?;
        let future = asyncio.getattr("Future")?.cast_into::<PyType>()?;
        let size: usize = class.getattr("__basicsize__")?.extract()?;
        let new = || class.call_method1("__new__", (&class,));
        let (task, other) = (new()?, new()?);
        // SAFETY: the object is as large as is asked for, and its fields are words or bytes.
        let word = |at: usize| unsafe { task.as_ptr().byte_add(at).cast::<usize>().read() };
        asyncio.call_method1("_register_task", (&other,))?;
        asyncio.call_method1("_register_task", (&task,))?;
        // SAFETY: the GIL is held; what is looked for is in the thread state, a few words on.
        let link = unsafe { threadlets_find_tasks(task.as_ptr()) };
        asyncio.call_method1("_unregister_task", (&task,))?;
        asyncio.call_method1("_unregister_task", (&other,))?;
        let mut is_known = link == at::LINK as isize && size >= at::LINK + size_of::<Link>();
        if is_known {
            let name = pyo3::types::PyString::new(py, "a name");
            task.call_method1("set_name", (&name,))?;
            is_known &= word(at::NAME) == name.as_ptr() as usize;
            asyncio.call_method1("future_add_to_awaited_by", (&task, &other))?;
            is_known &= word(at::AWAITED_BY) == other.as_ptr() as usize;
            asyncio.call_method1("future_add_to_awaited_by", (&task, &task))?;
            let bytes = word(at::IS_TASK & !7).to_ne_bytes();
            is_known &= bytes[at::AWAITED_BY_IS_SET & 7] == 1;
            asyncio.call_method1("future_discard_from_awaited_by", (&task, &task))?;
            asyncio.call_method1("future_discard_from_awaited_by", (&task, &other))?;
        }
        Ok(Self { future: future.unbind(), is_known })
    }
}

/// Whether tasks can be laid out as asyncio's own are.
pub(crate) fn layout_is_known(py: Python<'_>) -> bool {
    LAYOUT.get(py).is_some_and(|it| it.is_known)
}

/// Whether an object is a future or task of asyncio's own, and laid out as expected.
pub(crate) fn is_stock_future(object: &Bound<'_, PyAny>) -> bool {
    let Some(layout) = LAYOUT.get(object.py()).filter(|it| it.is_known) else { return false };
    let future = layout.future.as_ptr().cast();
    // SAFETY: both are alive. Asking `isinstance` would ask the object for its `__class__`, which may say anything.
    unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), future) != 0 }
}

/// A place in the list of a thread's tasks; the list refers to no task. Zeros: in none.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Link {
    next: *mut Link,
    previous: *mut Link,
}

impl Link {
    pub(crate) const UNLINKED: Self = Self { next: null_mut(), previous: null_mut() };

    /// Enter a task in the list of this thread.
    ///
    /// # Safety
    /// The GIL is held. The link is in no list, and is taken out before it moves or goes.
    pub(crate) unsafe fn enter(slf: *mut Self) {
        // SAFETY: the caller's; the list is the thread's, a circle in which no pointer is null.
        unsafe {
            let head = threadlets_tasks();
            let last = (*head).previous;
            *slf = Self { next: head, previous: last };
            (*last).next = slf;
            (*head).previous = slf;
        }
    }

    /// Take a task out of the list that it is in, whichever thread's that is, or the interpreter's by now.
    ///
    /// # Safety
    /// The GIL is held; the link is in a list, or in none.
    pub(crate) unsafe fn leave(slf: *mut Self) {
        // SAFETY: the caller's.
        unsafe {
            if (*slf).next.is_null() {
                return;
            }
            (*(*slf).previous).next = (*slf).next;
            (*(*slf).next).previous = (*slf).previous;
            *slf = Self::UNLINKED;
        }
    }
}
