//! Which task runs: asyncio's own table, which `asyncio.current_task` reads.
//!
//! From one step to the next the entry is replaced rather than removed and set. Whatever else runs
//! clears it first, and so does the end of a burst.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use super::task::Task;
use crate::dispatcher::Dispatcher;
use crate::runner::Runner;

/// asyncio's own table of which task each loop runs.
pub(crate) fn current_tasks(py: Python<'_>) -> PyResult<&Bound<'_, PyDict>> {
    static CURRENT_TASKS: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let tasks = CURRENT_TASKS.get_or_try_init(py, || {
        let tasks = py.import("asyncio.tasks")?.getattr("_current_tasks")?;
        Ok::<_, PyErr>(tasks.cast_into::<PyDict>()?.unbind())
    })?;
    Ok(tasks.bind(py))
}

/// Say that a task's step begins.
#[inline]
pub(crate) fn enter(slf: &Bound<'_, Dispatcher>, task: &Bound<'_, Task>) -> PyResult<()> {
    let tasks = current_tasks(slf.py())?;
    if !slf.get().names_task.load(Relaxed) {
        check_nobody_runs(slf, tasks, task)?;
    }
    tasks.set_item(slf, task)?;
    slf.get().names_task.store(true, Relaxed);
    Ok(())
}

#[cold]
fn check_nobody_runs(
    slf: &Bound<'_, Dispatcher>,
    tasks: &Bound<'_, PyDict>,
    task: &Bound<'_, Task>,
) -> PyResult<()> {
    let Some(running) = tasks.get_item(slf)? else { return Ok(()) };
    if running.is_none() {
        return Ok(());
    }
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
    let forgotten = current_tasks(slf.py())
        .and_then(|tasks| if tasks.contains(slf)? { tasks.del_item(slf) } else { Ok(()) });
    if let Err(error) = forgotten {
        error.write_unraisable(slf.py(), Some(slf));
    }
}

/// Run something in the middle of a task's step, or outside of any: the table is as before then.
pub(crate) fn kept<R>(slf: &Bound<'_, Dispatcher>, run: impl FnOnce() -> R) -> R {
    let named = slf.get().names_task.load(Relaxed);
    let before = current_tasks(slf.py()).and_then(|tasks| tasks.get_item(slf));
    let result = run();
    clear(slf);
    let restored = before.and_then(|before| match before {
        Some(before) => current_tasks(slf.py())?.set_item(slf, before),
        None => Ok(()),
    });
    slf.get().names_task.store(named, Relaxed);
    if let Err(error) = restored {
        error.write_unraisable(slf.py(), Some(slf));
    }
    result
}

/// The task that runs in this thread, or that awaits the function which does: of `loop`, or of the running loop.
///
/// asyncio's own function reads one entry for the whole loop, which names the task whose step the dispatcher takes.
/// A function that is blocked, or that began on another thread, is no part of that.
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
    let awaiting = Runner::with_current(|runner| {
        let runner = runner.filter(|it| it.dispatcher(py).is(&its_loop))?;
        let crew = &runner.dispatcher(py).get().crew;
        (!crew.role.is_held_by(runner.id)).then(|| crew.awaiting_task(py, runner.id))
    });
    match awaiting {
        Some(task) => Ok(task),
        None => Ok(current_tasks(py)?.get_item(its_loop)?.map(Bound::unbind)),
    }
}
