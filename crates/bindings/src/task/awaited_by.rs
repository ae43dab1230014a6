//! The awaiters of a future: what `asyncio.capture_call_graph` shows, from CPython 3.14 on.
//!
//! A task that awaits a future of ours is among its waiters. Other awaiters have to be registered: a task
//! group awaits its tasks by a callback. And with asyncio's own futures, tasks of ours have to be.

use std::mem::offset_of;
use std::ptr::null_mut;

use pyo3::PyTraverseError;
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyFrozenSet, PySet};

use super::future::Future;
use super::task::Task;
use super::visible::VisibleTask;
use super::waiters::Waiter;
use crate::py::asyncio_state::{at, is_stock_future};
use crate::py::gil_cell::GilSlot;

/// Where a task's own fields begin, in bytes; `load` checks it.
const FIELDS_AT: usize = 64;

const _: () = {
    let at = FIELDS_AT + offset_of!(Task, as_asyncio);
    assert!(at + offset_of!(AsAsyncio, awaited_by) == at::AWAITED_BY);
    assert!(at + offset_of!(AsAsyncio, state) == at::STATE);
    assert!(at + offset_of!(AsAsyncio, is_task) == at::IS_TASK);
    assert!(at + offset_of!(AsAsyncio, awaited_by_is_set) == at::AWAITED_BY_IS_SET);
    assert!(FIELDS_AT + size_of::<Task>() == at::COROUTINE);
};

/// Check that a task's fields follow those of a future, on whose size the offsets depend.
pub(crate) fn load(py: Python<'_>) {
    let future = py.get_type::<Future>().as_ptr().cast::<ffi::PyTypeObject>();
    // SAFETY: a type that is alive.
    let size = unsafe { (*future).tp_basicsize };
    assert_eq!(FIELDS_AT as isize, size, "a task's fields follow those of a future");
}

/// The fields of a task that are at the same offsets as in asyncio's own.
#[derive(Debug)]
#[repr(C)]
pub(super) struct AsAsyncio {
    awaited_by: GilSlot<Option<Py<PyAny>>>,
    /// Always zero: a task in asyncio's lists has not ended.
    state: u32,
    is_task: u8,
    awaited_by_is_set: GilSlot<u8>,
    /// Ours: the task is registered with what it awaits. No tool reads asyncio's own field at this offset.
    is_registered: GilSlot<bool>,
}

impl AsAsyncio {
    pub(super) fn new() -> Self {
        Self {
            awaited_by: GilSlot::default(),
            state: 0,
            is_task: 1,
            awaited_by_is_set: GilSlot::new(0),
            is_registered: GilSlot::new(false),
        }
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.awaited_by.traverse(visit, |it| visit.call(it))
    }

    pub(super) fn clear(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.awaited_by_is_set.set(py, 0);
        self.awaited_by.take(py)
    }
}

/// The field of a task of ours, or of asyncio's own futures, with one awaiter, or a set of several.
struct AwaitedBy<'a, 'py>(&'a Bound<'py, PyAny>);

impl<'a, 'py> AwaitedBy<'a, 'py> {
    fn of(future: &'a Bound<'py, PyAny>) -> Option<Self> {
        (future.is_instance_of::<Task>() || is_stock_future(future)).then_some(Self(future))
    }

    fn field(&self) -> *mut *mut ffi::PyObject {
        // SAFETY: objects of both kinds are longer than this offset.
        unsafe { self.0.as_ptr().byte_add(at::AWAITED_BY).cast() }
    }

    fn get(&self) -> Option<Bound<'py, PyAny>> {
        // SAFETY: the field holds a reference or null.
        unsafe { Bound::from_borrowed_ptr_or_opt(self.0.py(), self.field().read()) }
    }

    fn is_set(&self) -> bool {
        // SAFETY: objects of both kinds have a byte there, which only the code below and asyncio change.
        unsafe { self.0.as_ptr().byte_add(at::AWAITED_BY_IS_SET).cast::<u8>().read() != 0 }
    }

    fn put(&self, awaiter: Option<Bound<'py, PyAny>>, is_set: bool) {
        // SAFETY: as in `get` and `is_set`. The old reference is dropped last, since that may run code.
        unsafe {
            let flag = self.0.as_ptr().byte_add(at::AWAITED_BY_IS_SET).cast::<u8>();
            flag.write(u8::from(is_set));
            let before = self.field().replace(awaiter.map_or(null_mut(), Bound::into_ptr));
            ffi::Py_XDECREF(before);
        }
    }

    fn add(&self, awaiter: &Bound<'py, PyAny>) -> PyResult<()> {
        match self.get() {
            None => self.put(Some(awaiter.clone()), false),
            Some(set) if self.is_set() => set.cast::<PySet>()?.add(awaiter)?,
            Some(one) if one.is(awaiter) => {}
            Some(one) => {
                let both = PySet::new(self.0.py(), [&one, awaiter])?;
                self.put(Some(both.into_any()), true);
            }
        }
        Ok(())
    }

    fn discard(&self, awaiter: &Bound<'py, PyAny>) -> PyResult<()> {
        match self.get() {
            Some(set) if self.is_set() => set.cast::<PySet>()?.discard(awaiter).map(drop),
            Some(one) if one.is(awaiter) => {
                self.put(None, false);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn all(&self) -> PyResult<Vec<Bound<'py, PyAny>>> {
        match self.get() {
            Some(set) if self.is_set() => Ok(set.cast::<PySet>()?.iter().collect()),
            one => Ok(one.into_iter().collect()),
        }
    }
}

/// Register a task of ours with what it awaits, if that has the field.
pub(super) fn begins(awaited: &Bound<'_, PyAny>, task: &Bound<'_, Task>) -> PyResult<()> {
    let Some(field) = AwaitedBy::of(awaited) else { return Ok(()) };
    field.add(task.as_any())?;
    task.get().as_asyncio.is_registered.set(task.py(), true);
    Ok(())
}

/// Undo `begins`, if it had an effect: a task of ours does not await something any more.
#[inline]
pub(super) fn ends(awaited: Option<&Py<PyAny>>, task: &Bound<'_, Task>) -> PyResult<()> {
    if !task.get().as_asyncio.is_registered.replace(task.py(), false) {
        return Ok(());
    }
    let awaited = awaited.map(|it| it.bind(task.py()));
    match awaited.and_then(AwaitedBy::of) {
        Some(field) => field.discard(task.as_any()),
        None => Ok(()),
    }
}

/// Whether tools outside of the process read the field of what a task awaits.
pub(super) fn is_visible(awaited: &Bound<'_, PyAny>) -> bool {
    awaited.is_exact_instance_of::<VisibleTask>()
}

/// The awaiters of a future of ours; none if nothing awaits it.
fn of<'py>(future: &Bound<'py, Future>) -> PyResult<Option<Bound<'py, PyFrozenSet>>> {
    let py = future.py();
    let waiters = future.get().waiters(py).into_iter();
    let mut all: Vec<_> = waiters
        .filter_map(|it| match it {
            Waiter::Task(task) => Some(task.into_bound(py)),
            Waiter::Callback(_) => None,
        })
        .collect();
    match AwaitedBy::of(future) {
        Some(field) => all.extend(field.all()?),
        None => all.extend(registered_awaiters(future).iter().flat_map(|it| it.iter())),
    }
    if all.is_empty() { Ok(None) } else { PyFrozenSet::new(py, all).map(Some) }
}

/// The awaiters that were registered with a future that is not a task.
fn registered_awaiters<'py>(future: &Bound<'py, Future>) -> Option<Bound<'py, PySet>> {
    let py = future.py();
    let registered =
        |it: &mut super::future::Extras| it.awaited_by.as_ref().map(|it| it.clone_ref(py));
    future.get().peek_extras(py, registered).map(|it| it.into_bound(py))
}

fn is_future(object: &Bound<'_, PyAny>) -> bool {
    object.is_instance_of::<Future>() || is_stock_future(object)
}

/// Call asyncio's own function, with arguments that are not both futures of ours or of its own.
#[cold]
fn as_asyncio(name: &str, fut: &Bound<'_, PyAny>, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    fut.py().import("_asyncio")?.getattr(name)?.call1((fut, waiter)).map(drop)
}

#[pymethods]
impl Future {
    /// The known awaiters of the future; None if there are none.
    #[getter]
    fn _asyncio_awaited_by<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<Option<Bound<'py, PyFrozenSet>>> {
        of(slf)
    }
}

/// Record that a future is awaited by another, as asyncio's function of this name does.
#[pyfunction]
#[pyo3(signature = (fut, waiter, /))]
pub(crate) fn future_add_to_awaited_by(
    fut: &Bound<'_, PyAny>,
    waiter: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if !is_future(fut) || !is_future(waiter) {
        return as_asyncio("future_add_to_awaited_by", fut, waiter);
    }
    if let Some(field) = AwaitedBy::of(fut) {
        return field.add(waiter);
    }
    let future = fut.cast::<Future>()?;
    let set = match registered_awaiters(future) {
        Some(set) => set,
        None => {
            let set = PySet::empty(fut.py())?;
            let kept = set.clone().unbind();
            future.get().with_extras(fut.py(), |it| it.awaited_by = Some(kept));
            set
        }
    };
    set.add(waiter)
}

/// Record that a future is not awaited by another any more.
#[pyfunction]
#[pyo3(signature = (fut, waiter, /))]
pub(crate) fn future_discard_from_awaited_by(
    fut: &Bound<'_, PyAny>,
    waiter: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if !is_future(fut) || !is_future(waiter) {
        return as_asyncio("future_discard_from_awaited_by", fut, waiter);
    }
    if let Some(field) = AwaitedBy::of(fut) {
        return field.discard(waiter);
    }
    match registered_awaiters(fut.cast::<Future>()?) {
        Some(set) => set.discard(waiter).map(drop),
        None => Ok(()),
    }
}
