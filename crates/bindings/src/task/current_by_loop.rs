//! Before CPython 3.14, asyncio keeps one current task for each loop, in a table.
//!
//! In a function that is called on another thread, asyncio's table has the task whose step the loop takes,
//! not the one that awaits the function; that one is found in `Workers::parked`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use threadlets_core::takeover::WorkerId;

use crate::dispatcher::Dispatcher;
use crate::dispatcher::worker::Worker;

fn table(py: Python<'_>) -> PyResult<&Bound<'_, PyDict>> {
    static TABLE: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let tasks = TABLE.get_or_try_init(py, || {
        let tasks = py.import("asyncio.tasks")?.getattr("_current_tasks")?;
        Ok::<_, PyErr>(tasks.cast_into::<PyDict>()?.unbind())
    })?;
    Ok(tasks.bind(py))
}

/// Find the table.
pub(crate) fn load(py: Python<'_>) -> PyResult<()> {
    table(py).map(drop)
}

/// The task whose step the loop takes.
pub(crate) fn get<'py>(slf: &Bound<'py, Dispatcher>) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(table(slf.py())?.get_item(slf)?.filter(|it| !it.is_none()))
}

#[inline]
pub(super) fn set(slf: &Bound<'_, Dispatcher>, task: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let tasks = table(slf.py())?;
    match task {
        Some(task) => tasks.set_item(slf, task),
        None if tasks.contains(slf)? => tasks.del_item(slf),
        None => Ok(()),
    }
}

/// After the role was taken from a function that is blocked on another thread: clear the loop's current
/// task and return it. It awaits the function.
pub(crate) fn park(slf: &Bound<'_, Dispatcher>, _victim: WorkerId) -> PyResult<Option<Py<PyAny>>> {
    let task = get(slf)?.map(Bound::unbind);
    set(slf, None)?;
    Ok(task)
}

/// After the function has returned, and its thread has the role again: make its task the current one.
pub(crate) fn unpark(slf: &Bound<'_, Dispatcher>, task: &Py<PyAny>) -> PyResult<()> {
    set(slf, Some(task.bind(slf.py())))
}

/// After this thread has lost the role: the table is the loop's, so there is nothing to clear.
pub(crate) fn leave(_slf: &Bound<'_, Dispatcher>) {}

/// Call a function on this thread, without the role, for the task that awaits it.
pub(crate) fn named<R>(
    _slf: &Bound<'_, Dispatcher>,
    _task: Option<&Py<PyAny>>,
    call: impl FnOnce() -> R,
) -> R {
    call()
}

/// Call a function as in a thread without a task. The table has a task for each loop, so those of other loops are not
/// in the way of this one's.
pub(crate) fn hidden<R>(_slf: &Bound<'_, Dispatcher>, call: impl FnOnce() -> R) -> R {
    call()
}

pub(super) fn of_loop<'py>(its_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = its_loop.py();
    let awaiting = Worker::with_current(|worker| {
        let worker = worker.filter(|it| it.dispatcher(py).is(its_loop))?;
        let workers = &worker.dispatcher(py).get().workers;
        if workers.role.is_held_by(worker.id) {
            return None;
        }
        // The task that awaits the function in which this thread is.
        Some(workers.parked.with(py, |parked| {
            parked.get(&worker.id.index())?.task.as_ref().map(|it| it.clone_ref(py))
        }))
    });
    match awaiting {
        Some(task) => Ok(task.map(|it| it.into_bound(py))),
        None => table(py)?.get_item(its_loop),
    }
}
