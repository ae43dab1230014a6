//! asyncio's part of a thread state, from CPython 3.14 on: the thread's running loop, that loop's current
//! task, and a list of the tasks that were made in the thread.
//!
//! None of this is a public interface. The offsets are found when the module is loaded: asyncio is told of a
//! loop and a task, and the thread state is searched for them.

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

/// Find the offsets; an `ImportError` if asyncio's current task is not found.
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
    // SAFETY: the GIL is held. The words up to the one that is searched for belong to the thread state.
    let is_found = unsafe { threadlets_find_running(its_loop.as_ptr(), task.as_ptr()) != 0 };
    asyncio.call_method1("_leave_task", (&its_loop, &task))?;
    asyncio.call_method1("_set_running_loop", (&before,))?;
    if let Some(task) = task_before {
        asyncio.call_method1("_swap_current_task", (&before, task))?;
    }
    if !is_found {
        return Err(PyImportError::new_err(format!(
            "asyncio's current task was not found in a thread state of this CPython ({}); use a release of \
             CPython that threadlets supports, or report this one",
            Python::version_str()
        )));
    }
    let _ = LAYOUT.set(py, Layout::find(&asyncio)?);
    Ok(())
}

/// Whether asyncio has this loop as the running loop of this thread.
pub(crate) fn is_running(its_loop: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the GIL is held, and the state is this thread's.
    unsafe { !threadlets_running_task(null_mut(), its_loop.as_ptr()).is_null() }
}

/// The current task of a loop in this thread.
#[inline]
pub(crate) fn task<'py>(its_loop: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the GIL is held, and the state is this thread's.
    unsafe { borrow(its_loop, null_mut()) }
}

/// The current task of a loop in the thread with this thread state.
///
/// # Safety
/// The thread state is alive.
pub(crate) unsafe fn task_of<'py>(
    its_loop: &Bound<'py, PyAny>,
    state: NonNull<c_void>,
) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the caller keeps the thread state alive.
    unsafe { borrow(its_loop, state.as_ptr().cast()) }
}

/// # Safety
/// The thread state is alive, or null for this thread's.
unsafe fn borrow<'py>(
    its_loop: &Bound<'py, PyAny>,
    state: *mut ffi::PyThreadState,
) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the caller keeps the state alive; the field holds a reference or null, and changes only with
    // the GIL.
    unsafe {
        let field = NonNull::new(threadlets_running_task(state, its_loop.as_ptr()))?;
        Bound::from_borrowed_ptr_or_opt(its_loop.py(), field.read())
    }
}

/// Set the current task of a loop in this thread; `false` if the loop does not run here.
#[inline]
pub(crate) fn set_task(its_loop: &Bound<'_, PyAny>, task: Option<&Bound<'_, PyAny>>) -> bool {
    // SAFETY: as in `task`. The field owns a reference; the old one is released last, which may run code.
    unsafe {
        let field = threadlets_running_task(null_mut(), its_loop.as_ptr());
        let Some(field) = NonNull::new(field) else { return false };
        let task = task.map_or(null_mut(), |it| it.clone().into_ptr());
        ffi::Py_XDECREF(field.replace(task));
    }
    true
}

/// Offsets of the fields of asyncio's own future and task, in bytes. Tools that inspect a process from
/// outside read them there.
pub(crate) mod at {
    pub(crate) const AWAITED_BY: usize = 96;
    /// An `int`; zero means pending.
    pub(crate) const STATE: usize = 104;
    pub(crate) const IS_TASK: usize = 108;
    pub(crate) const AWAITED_BY_IS_SET: usize = 109;
    pub(crate) const COROUTINE: usize = 128;
    pub(crate) const NAME: usize = 136;
    pub(crate) const LINK: usize = 152;
}

/// The layout of asyncio's own classes, as found when the module is loaded.
struct Layout {
    future: Py<PyType>,
    /// The fields are at the offsets in `at`.
    is_known: bool,
}

static LAYOUT: PyOnceLock<Layout> = PyOnceLock::new();

impl Layout {
    /// Have asyncio change a task of its own, and check that the changes appear at the offsets in `at`.
    fn find(asyncio: &Bound<'_, PyModule>) -> PyResult<Self> {
        let py = asyncio.py();
        let class = asyncio.getattr("Task")?.cast_into::<PyType>()?;
        let future = asyncio.getattr("Future")?.cast_into::<PyType>()?;
        let size: usize = class.getattr("__basicsize__")?.extract()?;
        let new = || class.call_method1("__new__", (&class,));
        let (task, other) = (new()?, new()?);
        // SAFETY: the offsets are checked to lie within the object, and its fields are words or bytes.
        let word = |at: usize| unsafe { task.as_ptr().byte_add(at).cast::<usize>().read() };
        asyncio.call_method1("_register_task", (&other,))?;
        asyncio.call_method1("_register_task", (&task,))?;
        // SAFETY: the GIL is held; the list is in the thread state, a few words further on.
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

/// Whether native tasks can have the layout of asyncio's own.
pub(crate) fn layout_is_known(py: Python<'_>) -> bool {
    LAYOUT.get(py).is_some_and(|it| it.is_known)
}

/// Whether an object is a future or task of asyncio's own, with the expected layout.
pub(crate) fn is_stock_future(object: &Bound<'_, PyAny>) -> bool {
    let Some(layout) = LAYOUT.get(object.py()).filter(|it| it.is_known) else { return false };
    let future = layout.future.as_ptr().cast();
    // SAFETY: both are alive. `isinstance` would trust the object's `__class__`, which may say anything.
    unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), future) != 0 }
}

/// A task's link in the list of a thread's tasks, which owns no references. All zero: in no list.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Link {
    next: *mut Link,
    previous: *mut Link,
}

impl Link {
    pub(crate) const UNLINKED: Self = Self { next: null_mut(), previous: null_mut() };

    /// Enter a task in this thread's list.
    ///
    /// # Safety
    /// The GIL is held. The link is in no list, and is taken out before it moves or is freed.
    pub(crate) unsafe fn enter(slf: *mut Self) {
        // SAFETY: as the caller promises; the thread's list is a circle in which no pointer is null.
        unsafe {
            let head = threadlets_tasks();
            let last = (*head).previous;
            *slf = Self { next: head, previous: last };
            (*last).next = slf;
            (*head).previous = slf;
        }
    }

    /// Take a task out of its list: some thread's, or the interpreter's if that thread has ended.
    ///
    /// # Safety
    /// The GIL is held; the link is in a list, or in none.
    pub(crate) unsafe fn leave(slf: *mut Self) {
        // SAFETY: as the caller promises.
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
