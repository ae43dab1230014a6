//! A step of a task: its coroutine runs until it awaits something again, or ends.

use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyStopIteration};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::ptr::null_mut;
use threadlets_core::fp;

#[cfg(Py_3_14)]
use super::awaited_by;
use super::current;
use super::future::{Future, FutureState, Outcome};
use super::slots::as_native;
use super::task::Task;
use super::waiters::Waiter;
use crate::contract::{self, in_context};
use crate::dispatcher::Dispatcher;
use crate::dispatcher::request::Request;
use crate::py::error::ends_the_loop;
use crate::py::names;

/// How a step has ended.
enum Reached<'py> {
    /// The coroutine awaits this.
    Wait(Bound<'py, PyAny>),
    End(Py<PyAny>),
    Error(PyErr),
}

/// Take a step, as a request of a tick.
#[inline]
pub(crate) fn take(slf: &Bound<'_, Dispatcher>, task: &Bound<'_, Task>) -> PyResult<()> {
    let py = slf.py();
    let this = task.get();
    if slf.get().workers.holds_context(this.context.bind(py)) {
        slf.get().workers.defer(py, Request::Step(task.clone().into_any().unbind()));
        return Ok(());
    }
    if is_elsewhere(slf, task) {
        return Ok(());
    }
    current::enter(slf, task.as_any())?;
    let reached = in_context(py, &this.context, || go_on(py, task))?;
    settle(task, reached)
}

/// Whether a task is bound to another thread; its step is handed over to that thread then.
#[inline]
fn is_elsewhere(slf: &Bound<'_, Dispatcher>, task: &Bound<'_, Task>) -> bool {
    let workers = &slf.get().workers;
    let elsewhere = task.get().bound_to(task.py()).filter(|&it| !workers.role.is_held_by(it));
    if let Some(worker) = elsewhere {
        workers.hand_over(task.as_any(), worker);
    }
    elsewhere.is_some()
}

/// Take a step in a callback whose context is the task's.
pub(super) fn take_in_context(task: &Bound<'_, Task>) -> PyResult<()> {
    let py = task.py();
    let slf = task.as_super().get().dispatcher.bind(py);
    if is_elsewhere(slf, task) {
        return Ok(());
    }
    current::enter(slf, task.as_any())?;
    let outcome = go_on(py, task).and_then(|reached| settle(task, reached));
    current::clear(slf);
    outcome
}

/// Take the first step in the stack of the code that makes the task.
pub(super) fn start_eagerly(slf: &Bound<'_, Dispatcher>, task: &Bound<'_, Task>) -> PyResult<()> {
    let py = slf.py();
    let (reached, checked) = current::replaced(slf, task.as_any(), || {
        let outside = fp::State::read();
        let reached = in_context(py, &task.get().context, || go_on(py, task));
        // Checked here: a change of the floating-point state is the new task's, not its maker's.
        (reached, contract::check_within(slf, outside, || Some(task.clone().into_any())))
    })?;
    let outcome = settle(task, reached?);
    if task.as_super().get().is_done(py) {
        let coroutine = task.get().coroutine.take(py);
        #[cfg(Py_3_14)]
        super::visible::VisibleTask::show(task);
        drop(coroutine);
    }
    outcome.and(checked)
}

/// Run the coroutine until it awaits something or ends.
#[inline]
fn go_on<'py>(py: Python<'py>, task: &Bound<'py, Task>) -> PyResult<Reached<'py>> {
    let this = task.get();
    let waited_for = Task::take_awaited(task)?;
    if task.as_super().get().is_done(py) {
        return Err(already_done(task));
    }
    let thrown = if this.must_cancel.get(py) {
        this.must_cancel.set(py, false);
        this.may_forget_cancel.set(py, false);
        Some(cancellation(task, waited_for))
    } else {
        waited_for.and_then(|it| failure(it.into_bound(py)))
    };
    let Some(coroutine) = this.coroutine.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)))
    else {
        let error = PyRuntimeError::new_err("the task has no coroutine any more");
        return Ok(Reached::Error(error));
    };
    Ok(match thrown {
        None => send(coroutine.bind(py)),
        Some(error) => throw(coroutine.bind(py), error),
    })
}

/// The error for a task that other code has settled.
#[cold]
fn already_done(task: &Bound<'_, Task>) -> PyErr {
    match task.repr() {
        Ok(task) => names::invalid_state(task.py(), &format!("step(): already done: {task}")),
        Err(error) => error,
    }
}

/// The exception for a task that was cancelled: that of the future it awaited, if that was cancelled.
#[cold]
fn cancellation(task: &Bound<'_, Task>, waited_for: Option<Py<PyAny>>) -> PyErr {
    let py = task.py();
    if let Some(error) = waited_for.and_then(|it| failure(it.into_bound(py))) {
        match names::is_cancelled_error(py, &error) {
            Ok(true) => return error,
            Ok(false) => {}
            Err(error) => return error,
        }
    }
    task.as_super().get().cancelled_error(py)
}

/// The exception of the awaited future, if it has failed.
#[inline]
fn failure(waited_for: Bound<'_, PyAny>) -> Option<PyErr> {
    let py = waited_for.py();
    let outcome = match as_native(&waited_for) {
        Some(future) if !future.get().is_failed(py) => return None,
        Some(future) => match future.get().outcome(py) {
            Some(Outcome::Error(error)) => Err(error),
            _ => return None,
        },
        None => waited_for.call_method0(intern!(py, "result")).map(drop),
    };
    outcome.err()
}

#[inline]
fn send<'py>(coroutine: &Bound<'py, PyAny>) -> Reached<'py> {
    let py = coroutine.py();
    let mut result = null_mut();
    // SAFETY: both are alive; the result is a new reference unless there is an error.
    let (sent, result) = unsafe {
        let sent = ffi::PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &raw mut result);
        (sent, Bound::from_owned_ptr_or_opt(py, result))
    };
    match (sent, result) {
        (ffi::PySendResult::PYGEN_NEXT, Some(awaited)) => Reached::Wait(awaited),
        (ffi::PySendResult::PYGEN_RETURN, Some(result)) => Reached::End(result.unbind()),
        _ => Reached::Error(PyErr::fetch(py)),
    }
}

fn throw<'py>(coroutine: &Bound<'py, PyAny>, error: PyErr) -> Reached<'py> {
    let py = coroutine.py();
    match coroutine.call_method1(intern!(py, "throw"), (error.into_value(py),)) {
        Ok(awaited) => Reached::Wait(awaited),
        Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
            match error.value(py).getattr(intern!(py, "value")) {
                Ok(result) => Reached::End(result.unbind()),
                Err(error) => Reached::Error(error),
            }
        }
        Err(error) => Reached::Error(error),
    }
}

/// Act on how a step has ended. Returns only errors that end the loop.
#[inline]
fn settle(task: &Bound<'_, Task>, reached: Reached<'_>) -> PyResult<()> {
    match reached {
        Reached::Wait(awaited) => wait(task, awaited),
        Reached::End(result) => end(task, result),
        Reached::Error(error) => fail(task, error),
    }
}

fn end(task: &Bound<'_, Task>, result: Py<PyAny>) -> PyResult<()> {
    let py = task.py();
    task.get().stays_no_more(py, task.as_super().get().dispatcher.get());
    if task.get().must_cancel.get(py) {
        // It was cancelled, but ended before `CancelledError` was thrown in.
        task.get().must_cancel.set(py, false);
        return Future::settle(task.as_super(), FutureState::Cancelled);
    }
    Future::settle(task.as_super(), FutureState::Result(result))
}

fn fail(task: &Bound<'_, Task>, error: PyErr) -> PyResult<()> {
    let py = task.py();
    let future = task.as_super();
    task.get().stays_no_more(py, future.get().dispatcher.get());
    if names::is_cancelled_error(py, &error)? {
        let error = error.into_value(py);
        drop(future.get().with_extras(py, |it| it.cancelled_error.replace(error)));
        return Future::settle(task.as_super(), FutureState::Cancelled);
    }
    let ends_the_loop = ends_the_loop(py, &error);
    let value: Bound<'_, PyBaseException> = error.clone_ref(py).into_value(py).into_bound(py);
    Future::fail(future, value)?;
    if ends_the_loop { Err(error) } else { Ok(()) }
}

/// Have the task resumed when what its coroutine has yielded is done.
#[inline]
fn wait(task: &Bound<'_, Task>, awaited: Bound<'_, PyAny>) -> PyResult<()> {
    let py = task.py();
    if awaited.is_none() {
        return resume_soon(task);
    }
    let Some(future) = as_native(&awaited) else { return wait_for_foreign(task, awaited) };
    let this = future.get();
    if !this.is_blocking.get(py) || !this.dispatcher.is(&task.as_super().get().dispatcher) {
        return refuse(task, &awaited);
    }
    if awaited.is(task) {
        return refuse(task, &awaited);
    }
    this.is_blocking.set(py, false);
    if this.await_by(py, Waiter::Task(task.clone().into_any().unbind())).is_some() {
        // It is done already.
        resume_soon(task)?;
    }
    #[cfg(Py_3_14)]
    if awaited_by::is_visible(&awaited) {
        awaited_by::begins(&awaited, task)?;
    }
    waits(task, awaited)
}

/// Record what the task awaits, and cancel that if the task is to be cancelled.
#[inline]
fn waits(task: &Bound<'_, Task>, awaited: Bound<'_, PyAny>) -> PyResult<()> {
    let py = task.py();
    let must_cancel = task.get().must_cancel.get(py);
    if !must_cancel {
        drop(task.get().waits_for.replace(py, Some(awaited.unbind())));
        return Ok(());
    }
    drop(task.get().waits_for.replace(py, Some(awaited.clone().unbind())));
    let message = task
        .as_super()
        .get()
        .peek_extras(py, |it| it.cancel_message.as_ref().map(|it| it.clone_ref(py)));
    if Task::cancel_awaited(&awaited, message)? {
        task.get().must_cancel.set(py, false);
    }
    Ok(())
}

/// Have a task take a step in the next tick.
pub(super) fn resume_soon(task: &Bound<'_, Task>) -> PyResult<()> {
    let dispatcher = task.as_super().get().dispatcher.get();
    dispatcher.submit(task.py(), Request::Step(task.clone().into_any().unbind()))
}

/// Await a future of another class, by asyncio's protocol.
#[cold]
fn wait_for_foreign(task: &Bound<'_, Task>, awaited: Bound<'_, PyAny>) -> PyResult<()> {
    let py = task.py();
    let blocking = awaited.getattr_opt(intern!(py, "_asyncio_future_blocking"))?;
    let Some(blocking) = blocking.filter(|it| !it.is_none()) else {
        return refuse(task, &awaited);
    };
    let its_loop = py.import("asyncio.futures")?.call_method1("_get_loop", (&awaited,))?;
    let is_ready = blocking.is_truthy()? && its_loop.is(&task.as_super().get().dispatcher);
    if !is_ready || awaited.is(task) {
        return refuse(task, &awaited);
    }
    awaited.setattr(intern!(py, "_asyncio_future_blocking"), false)?;
    let kwargs = PyDict::new(py);
    kwargs.set_item(intern!(py, "context"), &task.get().context)?;
    let wakeup = task.getattr(intern!(py, "_wakeup"))?;
    awaited.call_method(intern!(py, "add_done_callback"), (wakeup,), Some(&kwargs))?;
    #[cfg(Py_3_14)]
    awaited_by::begins(&awaited, task)?;
    waits(task, awaited)
}

/// Have an error thrown into a coroutine that has yielded something that cannot be awaited.
#[cold]
fn refuse(task: &Bound<'_, Task>, awaited: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = task.py();
    let (task_repr, awaited_repr) = (task.repr()?, awaited.repr()?);
    let blocking = awaited.getattr_opt(intern!(py, "_asyncio_future_blocking"))?;
    let what = match blocking.filter(|it| !it.is_none()) {
        Some(blocking) => {
            let its_loop = py.import("asyncio.futures")?.call_method1("_get_loop", (awaited,))?;
            if !its_loop.is(&task.as_super().get().dispatcher) {
                format!("Task {task_repr} got Future {awaited_repr} attached to a different loop")
            } else if !blocking.is_truthy()? {
                format!(
                    "yield was used instead of yield from in task {task_repr} with {awaited_repr}"
                )
            } else {
                format!("Task cannot await on itself: {task_repr}")
            }
        }
        None if py.import("inspect")?.call_method1("isgenerator", (awaited,))?.is_truthy()? => {
            format!(
                "yield was used instead of yield from for generator in task {task_repr} with \
                 {awaited_repr}"
            )
        }
        None => format!("Task got bad yield: {awaited_repr}"),
    };
    // Thrown as if the task had awaited a future that failed.
    let dispatcher = task.as_super().get().dispatcher.clone_ref(py);
    let failed = Bound::new(py, Future::new(dispatcher))?;
    Future::fail(&failed, PyRuntimeError::new_err(what).into_value(py).into_bound(py))?;
    failed.get().forget_traceback(py);
    drop(task.get().waits_for.replace(py, Some(failed.into_any().unbind())));
    resume_soon(task)
}
