//! From CPython 3.14 on, asyncio keeps one current task for each thread, in the thread's state.
//!
//! A function that is blocked, or runs beside the dispatcher, keeps its task in its own thread's state.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use threadlets_core::takeover::WorkerId;

use crate::dispatcher::Dispatcher;
use crate::py::asyncio_state;
pub(crate) use crate::py::asyncio_state::load;

/// The task whose step the loop takes in this thread.
pub(crate) fn get<'py>(slf: &Bound<'py, Dispatcher>) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(asyncio_state::task(slf))
}

#[inline]
pub(super) fn set(slf: &Bound<'_, Dispatcher>, task: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    // Fails in a thread where asyncio does not take this loop to be running: in the child of a fork, and
    // where code has set another running loop, or none. No task can be the current one there.
    asyncio_state::set_task(slf, task);
    Ok(())
}

/// After the role was taken from a function that is blocked on another thread: the task that awaits it.
pub(crate) fn park(slf: &Bound<'_, Dispatcher>, victim: WorkerId) -> PyResult<Option<Py<PyAny>>> {
    let traces = &slf.get().workers.role.slot(victim).traces;
    // SAFETY: a thread that leaves traces has a thread state.
    let task = traces.with_host(|state| unsafe { asyncio_state::task_of(slf, state) });
    Ok(task.flatten().map(Bound::unbind))
}

/// After the function has returned, and its thread has the role again: its task is the current one still.
pub(crate) fn unpark(_slf: &Bound<'_, Dispatcher>, _task: &Py<PyAny>) -> PyResult<()> {
    Ok(())
}

/// After this thread has lost the role: clear its current task.
pub(crate) fn leave(slf: &Bound<'_, Dispatcher>) {
    asyncio_state::set_task(slf, None);
}

/// Call a function on this thread, without the role, for the task that awaits it.
pub(crate) fn named<R>(
    slf: &Bound<'_, Dispatcher>,
    task: Option<&Py<PyAny>>,
    call: impl FnOnce() -> R,
) -> R {
    asyncio_state::set_task(slf, task.map(|it| it.bind(slf.py())));
    let result = call();
    asyncio_state::set_task(slf, None);
    result
}

/// Call a function as in a thread without a task: a loop that the function runs would refuse to run its own tasks inside
/// of another's step.
pub(crate) fn hidden<R>(slf: &Bound<'_, Dispatcher>, call: impl FnOnce() -> R) -> R {
    let task = asyncio_state::task(slf);
    asyncio_state::set_task(slf, None);
    let result = call();
    asyncio_state::set_task(slf, task.as_ref());
    result
}

pub(super) fn of_loop<'py>(its_loop: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = its_loop.py();
    match its_loop.cast::<Dispatcher>() {
        // asyncio takes this loop to run in several threads; the one that has the role is meant.
        Ok(slf) if !asyncio_state::is_running(slf) => {
            let Some(owner) = slf.get().workers.role.owner() else { return Ok(None) };
            Ok(park(slf, owner)?.map(|it| it.into_bound(py)))
        }
        Ok(slf) => get(slf),
        Err(_) => {
            let task = GET.import(py, "_asyncio", "current_task")?.call1((its_loop,))?;
            Ok(Some(task).filter(|it| !it.is_none()))
        }
    }
}
