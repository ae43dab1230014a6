//! Tasks that are seen from outside the process: by `python -m asyncio ps`, by `profiling.sampling`.
//!
//! Those read another process's memory, where they take each task for one of asyncio's own: its name, its coroutine,
//! and who awaits it are at fixed places, and lists of each thread lead to all of them. A task that is laid out so
//! takes half as much memory again, so loops make such tasks in debug mode only.

use std::cell::UnsafeCell;

use pyo3::PyTraverseError;
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::task::Task;
use crate::asyncio_state::{self, Link, at};
use crate::gil_cell::GilSlot;

/// A task that is laid out as asyncio's own from where `Task` ends.
#[pyclass(frozen, extends = Task, name = "Task", module = "threadlets._core")]
#[repr(C)]
pub(crate) struct VisibleTask {
    /// The coroutine, once more; the task has the reference.
    coroutine: GilSlot<*mut ffi::PyObject>,
    name: GilSlot<Option<Py<PyAny>>>,
    _unused: usize,
    link: UnsafeCell<Link>,
}

// SAFETY: all of it is looked at with the GIL held only.
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

    /// A task is on its way: enter it in the list of this thread.
    pub(super) fn enter(task: &Bound<'_, Task>) {
        let Ok(visible) = task.cast_exact::<Self>() else { return };
        Self::show(task);
        // SAFETY: the GIL is held. The link does not move with its object, and is taken out before that goes.
        unsafe { Link::enter(visible.get().link.get()) }
    }

    /// A task has ended, or goes.
    pub(super) fn leave(future: &Bound<'_, PyAny>) {
        if let Ok(visible) = future.cast_exact::<Self>() {
            // SAFETY: the GIL is held; the link is in a list or in none.
            unsafe { Link::leave(visible.get().link.get()) }
        }
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
