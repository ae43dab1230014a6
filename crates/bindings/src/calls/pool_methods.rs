//! The methods of `Pool`.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use threadlets_core::PoolKey;

use super::pool::{Pool, PoolState, parse_limit, parse_priority};
use super::queued_call::QueuedCall;
use super::{beside, call_type, starts};
use crate::contract::Environment;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::workers::Workers;
use crate::py::gil_cell::GilCell;
use crate::py::memory;

/// Cancel the tasks and futures that wait for blocked functions of this pool; how many.
fn cancel_blocked(
    workers: &Workers,
    py: Python<'_>,
    pool: PoolKey,
    message: &Bound<'_, PyAny>,
) -> PyResult<usize> {
    let tasks: Vec<_> = workers.parked.with(py, |parked| {
        let of_pool = parked.values().filter(|it| it.pool == Some(pool));
        let waiting = of_pool.filter_map(|it| it.task.as_ref().or(it.future.as_ref()));
        waiting.map(|it| it.clone_ref(py)).collect()
    });
    let mut n_cancelled = 0;
    for task in tasks {
        let cancelled = task.bind(py).call_method1(intern!(py, "cancel"), (message,))?;
        n_cancelled += usize::from(cancelled.is_truthy()?);
    }
    Ok(n_cancelled)
}

#[pymethods]
impl Pool {
    #[new]
    #[pyo3(signature = (limit, priority, environment=None, start="auto"))]
    fn new(
        limit: Option<&Bound<'_, PyAny>>,
        priority: u8,
        environment: Option<Py<Environment>>,
        start: &str,
    ) -> PyResult<Self> {
        let state = PoolState {
            limit: parse_limit(limit)?,
            priority: parse_priority(priority)?,
            home: None,
            n_in_use: 0,
            n_calls: 0,
            n_cancelled: 0,
        };
        Ok(Self { state: GilCell::new(state), environment, start: starts::parse(start)? })
    }

    /// Call a plain function in this pool where it is awaited.
    #[pyo3(signature = (callable, /, *args, **kwargs))]
    fn call<'py>(
        slf: &Bound<'py, Self>,
        callable: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if !callable.is_callable() {
            return Err(PyTypeError::new_err(
                "Pool.call() takes a function and its arguments; the first argument is not callable: \
                 pass the function itself, as in call(f, x)",
            ));
        }
        let mut items = memory::room(1 + args.len() + kwargs.map_or(0, PyDictMethods::len))?;
        items.push(callable.as_ptr());
        items.extend(args.iter_borrowed().map(|it| it.as_ptr()));
        let values: Vec<_> = kwargs.into_iter().flatten().collect();
        items.extend(values.iter().map(|(_, value)| value.as_ptr()));
        let names = PyTuple::new(py, values.iter().map(|(name, _)| name))?;
        call_type::with_options(&items, &names, Some(slf))
    }

    #[getter]
    fn limit(&self, py: Python<'_>) -> Option<usize> {
        self.state.with(py, |state| state.limit)
    }

    #[getter(_priority)]
    fn priority(&self, py: Python<'_>) -> u8 {
        self.state.with(py, |state| state.priority as u8)
    }

    /// Change the limit, here and in the dispatcher.
    #[pyo3(signature = (dispatcher, limit))]
    fn _set_limit(
        &self,
        py: Python<'_>,
        dispatcher: Option<&Bound<'_, Dispatcher>>,
        limit: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let limit = parse_limit(limit)?;
        self.tell_home(dispatcher, py, |pools, key| pools.set_limit(key, limit))?;
        self.state.with(py, |state| state.limit = limit);
        Ok(())
    }

    /// Change the priority, here and in the dispatcher.
    fn _set_priority(
        &self,
        py: Python<'_>,
        dispatcher: Option<&Bound<'_, Dispatcher>>,
        priority: u8,
    ) -> PyResult<()> {
        let priority = parse_priority(priority)?;
        self.tell_home(dispatcher, py, |pools, key| pools.set_priority(key, priority))?;
        self.state.with(py, |state| state.priority = priority);
        if let Some(slf) = dispatcher {
            beside::sort(&slf.get().workers, py);
        }
        Ok(())
    }

    /// Cancel the calls that wait in the pool, and the tasks whose functions are blocked; return how many.
    fn _cancel(
        slf: &Bound<'_, Self>,
        dispatcher: &Bound<'_, Dispatcher>,
        message: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let py = dispatcher.py();
        let this = slf.get();
        let mut waiting = Vec::new();
        this.tell_home(Some(dispatcher), py, |pools, key| {
            waiting = pools.withdraw(key, |_| true);
        })?;
        let mut n_cancelled = waiting.len();
        for request in waiting {
            QueuedCall::abandon_request(py, &request)?;
        }
        if let Some(key) = this.key(py) {
            let workers = &dispatcher.get().workers;
            let n_called =
                beside::cancel(workers, slf, message)? + cancel_blocked(workers, py, key, message)?;
            this.state.with(py, |state| state.n_cancelled += n_called as u64);
            n_cancelled += n_called;
        }
        Ok(n_cancelled)
    }

    /// How many calls run, wait (in this dispatcher), were ever made, and were cancelled.
    fn _counts(
        &self,
        py: Python<'_>,
        dispatcher: Option<&Bound<'_, Dispatcher>>,
    ) -> (usize, usize, u64, u64) {
        let (home, n_in_use, n_calls, n_cancelled) = self
            .state
            .with(py, |state| (state.home, state.n_in_use, state.n_calls, state.n_cancelled));
        let n_queued = match (home, dispatcher) {
            (Some((number, key)), Some(slf)) if slf.get().number() == number => {
                slf.get().queues.with(py, |queues| queues.pools.n_queued_in(key))
            }
            _ => 0,
        };
        (n_in_use - n_queued, n_queued, n_calls, n_cancelled)
    }

    /// The histories of the functions that this dispatcher has called in this pool.
    fn _functions<'py>(
        slf: &Bound<'py, Self>,
        dispatcher: Option<&Bound<'py, Dispatcher>>,
    ) -> PyResult<Bound<'py, PyList>> {
        match dispatcher {
            Some(dispatcher) => {
                starts::functions(dispatcher.get(), slf.py(), Some(slf.as_ptr() as usize))
            }
            None => Ok(PyList::empty(slf.py())),
        }
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let name = slf.getattr_opt(intern!(py, "name"))?;
        let name = name.map_or_else(String::new, |it| format!(" {it}"));
        let (limit, priority) = slf.get().state.with(py, |it| (it.limit, it.priority));
        let limit = limit.map_or_else(|| "None".to_owned(), |it| it.to_string());
        Ok(format!(
            "<Pool{name} limit={limit} priority={}>",
            format!("{priority:?}").to_uppercase()
        ))
    }
}
