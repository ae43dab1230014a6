//! The tasks of a loop that have not ended. They are not kept alive by being here.

use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;

use super::task::Task;

/// Not in a registry.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Every task of one loop from its beginning to its end. A task knows its place.
#[derive(Debug, Default)]
pub(crate) struct Registry(Vec<NonNull<ffi::PyObject>>);

// SAFETY: the pointers are used with the GIL held, and only while their tasks are alive: a task
// leaves the registry before its memory goes.
unsafe impl Send for Registry {}

impl Registry {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Add a task that is in no registry.
    pub(crate) fn add(&mut self, task: &Bound<'_, Task>) {
        let place = u32::try_from(self.0.len()).expect("fewer tasks than memory has room for");
        // SAFETY: an object has an address.
        self.0.push(unsafe { NonNull::new_unchecked(task.as_ptr()) });
        task.get().place.set(task.py(), place);
    }

    /// Remove a task, unless it has left before.
    pub(crate) fn remove(&mut self, py: Python<'_>, task: &Task) {
        let place = task.place.get(py);
        if place == NOWHERE {
            return;
        }
        task.place.set(py, NOWHERE);
        self.0.swap_remove(place as usize);
        if let Some(&moved) = self.0.get(place as usize) {
            Self::task(py, moved).get().place.set(py, place);
        }
    }

    /// The tasks.
    pub(crate) fn tasks<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, Task>> {
        self.0.iter().map(|&it| Self::task(py, it)).collect()
    }

    fn task(py: Python<'_>, task: NonNull<ffi::PyObject>) -> Bound<'_, Task> {
        // SAFETY: what is in a registry is a task that is alive.
        unsafe { Bound::from_borrowed_ptr(py, task.as_ptr()).cast_into_unchecked() }
    }
}
