//! From CPython 3.14 on, asyncio keeps one current task for each thread, in the thread's state.
//!
//! A function that is blocked, or was begun beside the dispatcher, keeps its task in its own thread.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyImportError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use threadlets_core::takeover::RunnerId;

use crate::dispatcher::Dispatcher;
use crate::interpreter::running;

/// Find out where it is kept: asyncio puts it there, and we look.
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
    let is_found = running::find(&its_loop, &task);
    asyncio.call_method1("_leave_task", (&its_loop, &task))?;
    asyncio.call_method1("_set_running_loop", (&before,))?;
    if let Some(task) = task_before {
        asyncio.call_method1("_swap_current_task", (&before, task))?;
    }
    if is_found {
        return Ok(());
    }
    Err(PyImportError::new_err(format!(
        "the state of a thread of this CPython ({}) does not hold asyncio's current task where it is looked for; \
         use a release of CPython that threadlets supports, or report this one",
        Python::version_str()
    )))
}

/// The task whose step the loop takes in this thread.
pub(crate) fn get<'py>(slf: &Bound<'py, Dispatcher>) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(running::task(slf))
}

#[inline]
pub(super) fn set(slf: &Bound<'_, Dispatcher>, task: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    if running::set_task(slf, task) || task.is_none() {
        return Ok(());
    }
    if slf.get().crew.is_forked.load(Relaxed) {
        // As before CPython 3.14, the child takes steps until one asks for the running loop.
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!("loop {} is not the running loop", slf.repr()?)))
}

/// The role was taken from a function that is blocked on another thread: the task that awaits it.
pub(crate) fn park(slf: &Bound<'_, Dispatcher>, victim: RunnerId) -> PyResult<Option<Py<PyAny>>> {
    let traces = &slf.get().crew.role.record(victim).traces;
    // SAFETY: a thread that leaves traces has a thread state.
    let task = traces.with_host(|state| unsafe { running::task_of(slf, state) });
    Ok(task.flatten().map(Bound::unbind))
}

/// The function has returned, and its thread has the role again.
pub(crate) fn unpark(_slf: &Bound<'_, Dispatcher>, _task: &Py<PyAny>) -> PyResult<()> {
    Ok(())
}

/// This thread has lost the role, and with it the current task.
pub(crate) fn leave(slf: &Bound<'_, Dispatcher>) {
    running::set_task(slf, None);
}

/// Call a function on this thread, without the role, for the task that awaits it.
pub(crate) fn named<R>(
    slf: &Bound<'_, Dispatcher>,
    task: Option<&Py<PyAny>>,
    call: impl FnOnce() -> R,
) -> R {
    running::set_task(slf, task.map(|it| it.bind(slf.py())));
    let result = call();
    running::set_task(slf, None);
    result
}

pub(super) fn of_loop<'py>(its_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = its_loop.py();
    match its_loop.cast::<Dispatcher>() {
        // Several threads run this loop, in asyncio's eyes. The one that is asked for has the role.
        Ok(slf) if !running::is_here(slf) => {
            let Some(owner) = slf.get().crew.role.owner() else { return Ok(None) };
            Ok(park(slf, owner)?.map(|it| it.into_bound(py)))
        }
        Ok(slf) => get(slf),
        Err(_) => {
            let task = GET.import(py, "_asyncio", "current_task")?.call1((its_loop,))?;
            Ok(Some(task).filter(|it| !it.is_none()))
        }
    }
}
