//! Who awaits a future: what `asyncio.capture_call_graph` shows, from CPython 3.14 on.
//!
//! Whoever awaits a future of ours is among its waiters. Others have to be told of: a task group awaits its tasks by
//! a callback. And asyncio's own futures have to be told of tasks of ours.

use std::ptr::null_mut;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyFrozenSet, PySet};

use super::future::Future;
use super::task::Task;
use super::visible::VisibleTask;
use super::waiters::Waiter;
use crate::asyncio_state::{at, is_stock_future};

/// The field of a task of ours, or of any future of asyncio's own: one that awaits it, or a set of several.
struct AwaitedBy<'a, 'py>(&'a Bound<'py, PyAny>);

impl<'a, 'py> AwaitedBy<'a, 'py> {
    fn of(future: &'a Bound<'py, PyAny>) -> Option<Self> {
        (future.is_instance_of::<Task>() || is_stock_future(future)).then_some(Self(future))
    }

    fn field(&self) -> *mut *mut ffi::PyObject {
        // SAFETY: both kinds of objects are longer.
        unsafe { self.0.as_ptr().byte_add(at::AWAITED_BY).cast() }
    }

    fn get(&self) -> Option<Bound<'py, PyAny>> {
        // SAFETY: the field holds a reference or null.
        unsafe { Bound::from_borrowed_ptr_or_opt(self.0.py(), self.field().read()) }
    }

    fn is_set(&self) -> bool {
        // SAFETY: both kinds of objects have a byte there, which is changed below only, and by asyncio.
        unsafe { self.0.as_ptr().byte_add(at::AWAITED_BY_IS_SET).cast::<u8>().read() != 0 }
    }

    fn put(&self, awaiter: Option<Bound<'py, PyAny>>, is_set: bool) {
        // SAFETY: as in `get` and `is_set`. The reference that was there goes last: that may run code.
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

/// A task of ours awaits something that does not tell by itself.
pub(super) fn begins(awaited: &Bound<'_, PyAny>, task: &Bound<'_, Task>) -> PyResult<()> {
    match AwaitedBy::of(awaited) {
        Some(field) => field.add(task.as_any()),
        None => Ok(()),
    }
}

/// It does no more.
pub(super) fn ends(awaited: &Bound<'_, PyAny>, task: &Bound<'_, Task>) -> PyResult<()> {
    match AwaitedBy::of(awaited) {
        Some(field) => field.discard(task.as_any()),
        None => Ok(()),
    }
}

/// Whether programs outside look at the field of what a task awaits.
pub(super) fn is_visible(awaited: &Bound<'_, PyAny>) -> bool {
    awaited.is_exact_instance_of::<VisibleTask>()
}

/// Those that await a future of ours.
pub(super) fn of<'py>(future: &Bound<'py, Future>) -> PyResult<Option<Bound<'py, PyFrozenSet>>> {
    let py = future.py();
    let waiters = future.get().waiters(py).into_iter();
    let mut all: Vec<_> = waiters
        .filter_map(|it| match it {
            Waiter::Task(task) => Some(task.into_bound(py).into_any()),
            Waiter::Callback(_) => None,
        })
        .collect();
    match AwaitedBy::of(future) {
        Some(field) => all.extend(field.all()?),
        None => all.extend(told_of(future)?.iter().flat_map(|it| it.iter())),
    }
    if all.is_empty() { Ok(None) } else { PyFrozenSet::new(py, all).map(Some) }
}

/// Those of which a future was told that is no task.
fn told_of<'py>(future: &Bound<'py, Future>) -> PyResult<Option<Bound<'py, PySet>>> {
    let py = future.py();
    let told = |it: &mut super::future::Extras| it.awaited_by.as_ref().map(|it| it.clone_ref(py));
    Ok(future.get().peek_extras(py, told).map(|it| it.into_bound(py)))
}

fn is_future(object: &Bound<'_, PyAny>) -> bool {
    object.is_instance_of::<Future>() || is_stock_future(object)
}

/// Record that a future is awaited by another, in asyncio's words; other objects are not futures of asyncio's making.
#[pyfunction]
#[pyo3(signature = (fut, waiter, /))]
pub(crate) fn future_add_to_awaited_by(
    fut: &Bound<'_, PyAny>,
    waiter: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if !is_future(fut) || !is_future(waiter) {
        static STOCK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let stock = STOCK.import(fut.py(), "_asyncio", "future_add_to_awaited_by")?;
        return stock.call1((fut, waiter)).map(drop);
    }
    if let Some(field) = AwaitedBy::of(fut) {
        return field.add(waiter);
    }
    let future = fut.cast::<Future>()?;
    let set = match told_of(future)? {
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

/// Record that a future is awaited by another no more.
#[pyfunction]
#[pyo3(signature = (fut, waiter, /))]
pub(crate) fn future_discard_from_awaited_by(
    fut: &Bound<'_, PyAny>,
    waiter: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if let Some(field) = AwaitedBy::of(fut) {
        return field.discard(waiter);
    }
    match fut.cast::<Future>() {
        Ok(future) => match told_of(future)? {
            Some(set) => set.discard(waiter).map(drop),
            None => Ok(()),
        },
        Err(_) => Ok(()),
    }
}
