//! Tasks that tools see from outside of the process: `python -m asyncio ps`, `profiling.sampling`.
//!
//! These tools read another process's memory, and take each task for one of asyncio's own: its name, its
//! coroutine and its awaiters are at fixed offsets, and each thread has a list of its tasks. A task of that
//! layout takes half as much memory again, so loops make such tasks in debug mode only.

use std::cell::UnsafeCell;

use pyo3::PyTraverseError;
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::slots::{NativeClass, NativeFuture};
use super::task::Task;
use crate::py::asyncio_state::{self, Link, at};
use crate::py::gil_cell::GilSlot;

/// A task with the layout of asyncio's own from the end of `Task` on.
#[pyclass(frozen, extends = Task, name = "Task", module = "threadlets._core")]
#[repr(C)]
pub(crate) struct VisibleTask {
    /// The coroutine, once more; the task owns the reference.
    coroutine: GilSlot<*mut ffi::PyObject>,
    name: GilSlot<Option<Py<PyAny>>>,
    _unused: usize,
    link: UnsafeCell<Link>,
}

// SAFETY: all of it is accessed with the GIL held only.
unsafe impl Send for VisibleTask {}
// SAFETY: as above.
unsafe impl Sync for VisibleTask {}

impl VisibleTask {
    /// A task that has not begun.
    pub(super) fn prepare<'py>(
        py: Python<'py>,
        task: PyClassInitializer<Task>,
    ) -> PyResult<Bound<'py, Task>> {
        let visible = Self {
            coroutine: GilSlot::new(std::ptr::null_mut()),
            name: GilSlot::new(None),
            _unused: 0,
            link: UnsafeCell::new(Link::UNLINKED),
        };
        let visible = Bound::new(py, task.add_subclass(visible))?;
        let into = |field: *const u8| field as usize - visible.as_ptr() as usize;
        assert_eq!(at::COROUTINE, into((&raw const visible.get().coroutine).cast()));
        assert_eq!(at::NAME, into((&raw const visible.get().name).cast()));
        assert_eq!(at::LINK, into((&raw const visible.get().link).cast()));
        Ok(visible.into_super())
    }

    /// Enter a task that begins in the list of this thread.
    pub(super) fn enter(task: &Bound<'_, Task>) {
        let Ok(visible) = task.cast_exact::<Self>() else { return };
        Self::show(task);
        // SAFETY: the GIL is held. The link does not move, since its object does not, and is taken out
        // before that is freed.
        unsafe { Link::enter(visible.get().link.get()) }
    }

    /// Take a task that has ended, or is being freed, out of its list.
    fn leave(slf: &Bound<'_, Self>) {
        // SAFETY: the GIL is held; the link is in a list or in none.
        unsafe { Link::leave(slf.get().link.get()) }
    }

    /// Show the name and the coroutine that a task has now.
    pub(super) fn show(task: &Bound<'_, Task>) {
        let py = task.py();
        let Ok(visible) = task.cast_exact::<Self>() else { return };
        let look =
            |it: &mut Option<Py<PyAny>>| it.as_ref().map_or(std::ptr::null_mut(), Py::as_ptr);
        let coroutine = task.get().coroutine.with(py, look);
        visible.get().coroutine.set(py, coroutine);
        let name = Task::get_name(task).unbind();
        drop(visible.get().name.replace(py, Some(name)));
    }
}

impl NativeFuture for VisibleTask {
    const CLASS: NativeClass = NativeClass::VisibleTask;
    const WITHDRAW: Option<fn(&Bound<'_, Self>)> = Some(Self::leave);

    fn is_missed(slf: &Bound<'_, Self>) -> bool {
        Task::is_missed(slf.as_super())
    }
}

/// Whether a loop in debug mode can make such tasks.
pub(super) fn is_possible(py: Python<'_>) -> bool {
    asyncio_state::layout_is_known(py)
}

#[pymethods]
impl VisibleTask {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.name.traverse(&visit, |it| visit.call(it))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.coroutine.set(py, std::ptr::null_mut());
        drop(self.name.take(py));
    }
}
