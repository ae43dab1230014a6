//! How a loop makes tasks and futures.

use std::sync::atomic::Ordering::Relaxed;

#[cfg(Py_3_14)]
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
#[cfg(Py_3_14)]
use pyo3::types::PyString;

use super::future::Future;
use super::task::{FirstStep, Task};
use crate::dispatcher::Dispatcher;

/// Make a task or a future as asyncio's own loop does.
fn as_asyncio<'py>(
    slf: &Bound<'py, Dispatcher>,
    method: &str,
    args: &[&Bound<'py, PyAny>],
    kwargs: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyAny>> {
    static BASE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let base = BASE.import(slf.py(), "asyncio.base_events", "BaseEventLoop")?;
    let mut all = vec![slf.as_any()];
    all.extend(args);
    base.getattr(method)?.call(pyo3::types::PyTuple::new(slf.py(), all)?, Some(kwargs))
}

/// Whether a task factory is `asyncio.eager_task_factory`.
fn is_eager_factory(factory: &Bound<'_, PyAny>) -> PyResult<bool> {
    let asyncio = factory.py().import("asyncio")?;
    let eager = asyncio.getattr_opt(intern!(factory.py(), "eager_task_factory"))?;
    Ok(eager.is_some_and(|eager| eager.is(factory)))
}

/// Whether native tasks are eager by default; None: this loop's tasks are made by asyncio's method, which
/// calls the factory.
fn makes_eager_tasks(slf: &Bound<'_, Dispatcher>) -> PyResult<Option<bool>> {
    let py = slf.py();
    let this = slf.get();
    this.check_closed()?;
    Dispatcher::check_thread(slf)?;
    let factory = this.task_factory.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)));
    let starts_eagerly = match &factory {
        Some(factory) => is_eager_factory(factory.bind(py))?,
        None => false,
    };
    let is_ours = factory.is_none() || starts_eagerly;
    Ok((is_ours && !this.uses_asyncio_tasks.load(Relaxed)).then_some(starts_eagerly))
}

/// Make a task of a coroutine. The arguments are those of `Task`; a task factory gets the given ones.
#[cfg(Py_3_14)]
pub(crate) fn create_task<'py>(
    slf: &Bound<'py, Dispatcher>,
    coro: Bound<'py, PyAny>,
    kwargs: Option<Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let Some(mut is_eager) = makes_eager_tasks(slf)? else {
        let kwargs = kwargs.unwrap_or_else(|| PyDict::new(py));
        return as_asyncio(slf, "create_task", &[&coro], &kwargs);
    };
    let (mut name, mut context) = (None, None);
    for (key, value) in kwargs.iter().flatten() {
        let key = key.cast::<PyString>()?;
        match key.to_str()? {
            "name" => name = Some(value),
            "context" => context = Some(value).filter(|it| !it.is_none()),
            "eager_start" => is_eager = value.is_truthy()?,
            other => {
                let message = format!("Task() got an unexpected keyword argument '{other}'");
                return Err(PyTypeError::new_err(message));
            }
        }
    }
    Task::start(slf, coro, name, context, FirstStep::eager_if(is_eager)).map(Bound::into_any)
}

/// Make a task of a coroutine.
#[cfg(not(Py_3_14))]
pub(crate) fn create_task<'py>(
    slf: &Bound<'py, Dispatcher>,
    coro: Bound<'py, PyAny>,
    name: Option<Bound<'py, PyAny>>,
    context: Option<Bound<'py, PyAny>>,
    eager_start: Option<bool>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let Some(starts_eagerly) = makes_eager_tasks(slf)? else {
        let kwargs = PyDict::new(py);
        kwargs.set_item(intern!(py, "name"), name)?;
        kwargs.set_item(intern!(py, "context"), context)?;
        if let Some(eager_start) = eager_start {
            kwargs.set_item(intern!(py, "eager_start"), eager_start)?;
        }
        return as_asyncio(slf, "create_task", &[&coro], &kwargs);
    };
    let start = FirstStep::eager_if(eager_start.unwrap_or(starts_eagerly));
    Task::start(slf, coro, name, context, start).map(Bound::into_any)
}

/// Make a future of this loop.
pub(crate) fn create_future<'py>(slf: &Bound<'py, Dispatcher>) -> PyResult<Bound<'py, PyAny>> {
    if slf.get().uses_asyncio_tasks.load(Relaxed) {
        return as_asyncio(slf, "create_future", &[], &PyDict::new(slf.py()));
    }
    Future::make(slf).map(Bound::into_any)
}
