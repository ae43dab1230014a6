//! How a loop makes tasks and futures.

use std::sync::atomic::Ordering::Relaxed;

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
use crate::scope::members::counts_by_name;

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

#[cfg(Py_3_14)]
#[pymethods]
impl Dispatcher {
    /// Make a task of a coroutine. The arguments are those of `Task`; a task factory gets the given ones.
    #[pyo3(signature = (coro, **kwargs))]
    fn create_task<'py>(
        slf: &Bound<'py, Self>,
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
}

#[cfg(not(Py_3_14))]
#[pymethods]
impl Dispatcher {
    /// Make a task of a coroutine.
    #[pyo3(signature = (coro, *, name=None, context=None, eager_start=None))]
    fn create_task<'py>(
        slf: &Bound<'py, Self>,
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
}

#[pymethods]
impl Dispatcher {
    /// Make a future of this loop.
    fn create_future<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if slf.get().uses_asyncio_tasks.load(Relaxed) {
            return as_asyncio(slf, "create_future", &[], &PyDict::new(py));
        }
        let future = Future::new(slf.clone().unbind());
        future.remember_source(py)?;
        Ok(Bound::new(py, future)?.into_any())
    }

    /// Have `factory(loop, coro, **kwargs)` make the loop's tasks; None: the loop makes them itself.
    #[pyo3(signature = (factory))]
    fn set_task_factory(&self, factory: Option<Bound<'_, PyAny>>, py: Python<'_>) -> PyResult<()> {
        if let Some(factory) = &factory
            && !factory.is_callable()
        {
            return Err(PyTypeError::new_err("task factory must be a callable or None"));
        }
        drop(self.task_factory.replace(py, factory.map(Bound::unbind)));
        Ok(())
    }

    /// Return what makes the loop's tasks; None if the loop makes them itself.
    fn get_task_factory(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.task_factory.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)))
    }

    /// asyncio's name for the task factory.
    #[getter]
    fn _task_factory(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_task_factory(py)
    }

    #[setter(_task_factory)]
    fn put_task_factory(&self, py: Python<'_>, factory: Option<Py<PyAny>>) {
        drop(self.task_factory.replace(py, factory));
    }

    /// Whether tasks and futures are asyncio's own classes.
    #[getter]
    fn _uses_asyncio_tasks(&self) -> bool {
        self.uses_asyncio_tasks.load(Relaxed)
    }

    #[setter(_uses_asyncio_tasks)]
    fn set_uses_asyncio_tasks(&self, enabled: bool) {
        self.uses_asyncio_tasks.store(enabled, Relaxed);
    }

    /// The requests of this loop that have not ended: tasks, and what else belongs to scopes.
    fn _requests<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, Future>> {
        self.requests.with(py, |it| it.requests(py, None))
    }

    /// The scope that a task was started in; None if there was none.
    fn _scope_of(&self, task: &Bound<'_, PyAny>) -> Option<Py<PyAny>> {
        let py = task.py();
        let task = task.cast::<Task>().ok()?;
        let owner = self.requests.with(py, |it| it.owner_of(py, task.as_super().get()))?;
        owner.get().scope(py)
    }

    /// Counts of what the loop has outstanding: requests by kind, callbacks that are ready, timers, runs in
    /// flight in an engine, descriptors that are waited for, blocked functions, threads that are not idle.
    fn _outstanding<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = counts_by_name(py, self.requests.with(py, |it| it.n_requests(None)))?;
        let (n_ready, n_timers) = self.queues.with(py, |it| (it.n_ready(), it.n_timers()));
        counts.set_item("ready", n_ready)?;
        counts.set_item("timers", n_timers)?;
        counts.set_item("runs", self.awaited.with(py, |it| it.len()))?;
        let n_unused = self.descriptors.with(py, |it| it.n_unused());
        counts.set_item("descriptors", self.sources.with(py, |it| it.len()) - n_unused)?;
        counts.set_item("blocked", self.workers.n_parked.load(Relaxed))?;
        let n_threads = self.workers.registry.with(py, |it| it.n_threads() - it.n_idle());
        counts.set_item("threads", n_threads)?;
        Ok(counts)
    }
}
