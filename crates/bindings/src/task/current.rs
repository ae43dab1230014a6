//! The current task: what `asyncio.current_task` reads.
//!
//! A step that follows another replaces the current task rather than clear and set it. Any other request
//! clears it first, and so does the end of a tick.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

#[cfg(not(Py_3_14))]
use super::current_by_loop as place;
#[cfg(Py_3_14)]
use super::current_by_thread as place;
use crate::dispatcher::Dispatcher;
pub(crate) use place::{get, hidden, leave, load, named, park, unpark};

/// Set the loop as the running one in this thread, too. Without that, asyncio has no current task there,
/// since CPython 3.14.
pub(crate) fn begin_thread(slf: &Bound<'_, Dispatcher>) -> PyResult<()> {
    static SET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    SET.import(slf.py(), "asyncio.events", "_set_running_loop")?.call1((slf,)).map(drop)
}

/// Make a task the current one: its step begins.
#[inline]
pub(crate) fn enter(slf: &Bound<'_, Dispatcher>, task: &Bound<'_, PyAny>) -> PyResult<()> {
    if !slf.get().names_task.load(Relaxed) {
        check_nobody_runs(slf, task)?;
    }
    place::set(slf, Some(task))?;
    slf.get().names_task.store(true, Relaxed);
    Ok(())
}

#[cold]
fn check_nobody_runs(slf: &Bound<'_, Dispatcher>, task: &Bound<'_, PyAny>) -> PyResult<()> {
    let Some(running) = get(slf)? else { return Ok(()) };
    Err(PyRuntimeError::new_err(format!(
        "Cannot enter into task {} while another task {} is being executed.",
        task.repr()?,
        running.repr()?
    )))
}

/// Clear the current task: what runs from now on is not a task's.
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

/// Run something inside of a task's step, or outside of any, and restore the current task afterwards.
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

/// Run the first step of a task in the middle of another task's step.
pub(super) fn replaced<R>(
    slf: &Bound<'_, Dispatcher>,
    task: &Bound<'_, PyAny>,
    run: impl FnOnce() -> R,
) -> PyResult<R> {
    kept(slf, || {
        place::set(slf, Some(task))?;
        Ok(run())
    })
}

/// Whether the task that awaits a call was cancelled while the function was blocked.
pub(crate) fn is_cancelled(slf: &Bound<'_, Dispatcher>) -> PyResult<bool> {
    let py = slf.py();
    let Some(task) = get(slf)? else { return Ok(false) };
    // A task of a user's own class need not have the attribute.
    match task.getattr_opt(intern!(py, "_must_cancel"))? {
        Some(must_cancel) => must_cancel.is_truthy(),
        None => Ok(false),
    }
}

/// Return the task that runs in this thread, or that awaits the function that runs here. For a loop that
/// does not run in this thread, return the task whose step that loop takes.
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
