//! Which task runs: what `asyncio.current_task` reads.
//!
//! From one step to the next it is replaced rather than removed and set. Whatever else runs clears it first, and
//! so does the end of a tick.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

#[cfg(not(Py_3_14))]
use super::current_by_loop as place;
#[cfg(Py_3_14)]
use super::current_by_thread as place;
use super::task::Task;
use crate::dispatcher::Dispatcher;
pub(crate) use place::{get, leave, load, named, park, unpark};

/// Say that the loop runs in this thread too. Where it does not, asyncio has no current task, since CPython 3.14.
pub(crate) fn begin_thread(slf: &Bound<'_, Dispatcher>) -> PyResult<()> {
    static SET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    SET.import(slf.py(), "asyncio.events", "_set_running_loop")?.call1((slf,)).map(drop)
}

/// Say that a task's step begins.
#[inline]
pub(crate) fn enter(slf: &Bound<'_, Dispatcher>, task: &Bound<'_, Task>) -> PyResult<()> {
    if !slf.get().names_task.load(Relaxed) {
        check_nobody_runs(slf, task)?;
    }
    place::set(slf, Some(task.as_any()))?;
    slf.get().names_task.store(true, Relaxed);
    Ok(())
}

#[cold]
fn check_nobody_runs(slf: &Bound<'_, Dispatcher>, task: &Bound<'_, Task>) -> PyResult<()> {
    let Some(running) = get(slf)? else { return Ok(()) };
    Err(PyRuntimeError::new_err(format!(
        "Cannot enter into task {} while another task {} is being executed.",
        task.repr()?,
        running.repr()?
    )))
}

/// Nothing that is a task's runs from now on.
#[inline]
pub(crate) fn clear(slf: &Bound<'_, Dispatcher>) {
    if slf.get().names_task.load(Relaxed) {
        forget(slf);
    }
}

fn forget(slf: &Bound<'_, Dispatcher>) {
    slf.get().names_task.store(false, Relaxed);
    if let Err(error) = place::set(slf, None) {
        error.write_unraisable(slf.py(), Some(slf));
    }
}

/// Run something in the middle of a task's step, or outside of any: the same task is the current one then.
pub(crate) fn kept<R>(slf: &Bound<'_, Dispatcher>, run: impl FnOnce() -> R) -> R {
    let named = slf.get().names_task.load(Relaxed);
    let before = get(slf);
    let result = run();
    let restored = before.and_then(|before| place::set(slf, before.as_ref()));
    slf.get().names_task.store(named, Relaxed);
    if let Err(error) = restored {
        error.write_unraisable(slf.py(), Some(slf));
    }
    result
}

/// Run the first step of a task in the middle of another's.
pub(super) fn replaced<R>(
    slf: &Bound<'_, Dispatcher>,
    task: &Bound<'_, Task>,
    run: impl FnOnce() -> R,
) -> PyResult<R> {
    kept(slf, || {
        place::set(slf, Some(task.as_any()))?;
        Ok(run())
    })
}

/// The task that runs in this thread, or that awaits the function which does; with a loop that does not run in
/// this thread, the task whose step that loop takes.
#[pyfunction]
#[pyo3(signature = (r#loop=None))]
pub(crate) fn current_task(
    py: Python<'_>,
    r#loop: Option<Bound<'_, PyAny>>,
) -> PyResult<Option<Py<PyAny>>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let its_loop = match r#loop.filter(|it| !it.is_none()) {
        Some(given) => given,
        None => GET.import(py, "asyncio", "get_running_loop")?.call0()?,
    };
    Ok(place::of_loop(&its_loop)?.map(Bound::unbind))
}
