//! A user's pool: threadlets that are limited, prioritised and cancelled together.
//!
//! The queue of its calls is the dispatcher's (`threadlets_core::Pools`); this is the user's object.

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use threadlets_core::{EntryPoint, PoolKey, Priority, Start};

use crate::beside;
use crate::contract::Environment;
use crate::dispatcher::Dispatcher;
use crate::gil_cell::GilCell;
use crate::memory;
use crate::request::Request;

#[derive(Debug)]
struct PoolState {
    limit: Option<usize>,
    priority: Priority,
    /// The dispatcher (by number) in which calls of the pool run or wait, or ran last.
    home: Option<(u64, PoolKey)>,
    n_in_use: usize,
    n_calls: u64,
    n_cancelled: u64,
}

/// The native half of `threadlets.Pool`.
#[pyclass(subclass, frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct Pool {
    state: GilCell<PoolState>,
    /// The floating-point environment of the pool's calls.
    environment: Option<Py<Environment>>,
    /// Where its calls start, regardless of their functions' histories; None: the histories decide.
    start: Option<Start>,
}

impl Pool {
    /// The pool's key in the dispatcher where it is in use.
    pub(crate) fn key(&self, py: Python<'_>) -> Option<PoolKey> {
        self.state.with(py, |state| state.home.map(|home| home.1))
    }

    /// The key of a function's history: the number of its code, and the pool that it is called in, if any.
    pub(crate) fn entry_point(pool: Option<&Bound<'_, Self>>, code: usize) -> EntryPoint {
        EntryPoint { code, pool: pool.map_or(0, |it| it.as_ptr() as usize) }
    }

    /// Where the pool's calls start, if the pool decides that.
    pub(crate) fn start(&self) -> Option<Start> {
        self.start
    }

    /// The priority of the pool's calls.
    pub(crate) fn its_priority(&self, py: Python<'_>) -> Priority {
        self.state.with(py, |state| state.priority)
    }

    /// The floating-point environment of the pool's calls that do not have their own.
    pub(crate) fn environment<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Environment>> {
        self.environment.as_ref().map(|it| it.bind(py).clone())
    }

    /// Admit one more call to the pool, in this dispatcher.
    pub(crate) fn enter(&self, slf: &Bound<'_, Dispatcher>) -> PyResult<PoolKey> {
        let py = slf.py();
        let number = slf.get().number();
        self.state.with(py, |state| {
            let key = match state.home {
                Some((home, key)) if home == number => key,
                Some(_) if state.n_in_use > 0 => {
                    return Err(PyRuntimeError::new_err(
                        "the pool is in use by another event loop: its calls run or wait there; \
                         make a pool for each loop, or wait until it is idle",
                    ));
                }
                _ => slf.get().queues.with(py, |it| it.pools.open(state.priority, state.limit)),
            };
            state.home = Some((number, key));
            state.n_in_use += 1;
            state.n_calls += 1;
            Ok(key)
        })
    }

    /// Start a call at once; `false`: it has to wait in the queue.
    #[inline]
    pub(crate) fn try_start(&self, slf: &Bound<'_, Dispatcher>) -> PyResult<bool> {
        let py = slf.py();
        let key = self.enter(slf)?;
        let starts = slf.get().queues.with(py, |queues| {
            let yields = queues.pools.priority(key) == Priority::Batch && queues.n_ready() > 0;
            !yields && queues.pools.try_start(key)
        });
        if !starts {
            self.leave(py, slf, true);
        }
        Ok(starts)
    }

    /// Give up a call's place at its end; `enters_again`: it could not begin, and is counted when it queues.
    #[inline]
    pub(crate) fn finish(&self, py: Python<'_>, slf: &Bound<'_, Dispatcher>, enters_again: bool) {
        if let Some(key) = self.key(py) {
            slf.get().finish_call(py, key);
        }
        self.leave(py, slf, enters_again);
    }

    /// Count one call less; the last one closes the pool in the dispatcher, and the next opens it again.
    fn leave(&self, py: Python<'_>, slf: &Bound<'_, Dispatcher>, enters_again: bool) {
        self.state.with(py, |state| {
            state.n_in_use -= 1;
            state.n_calls -= u64::from(enters_again);
            if state.n_in_use == 0
                && let Some((_, key)) = state.home.take()
            {
                slf.get().queues.with(py, |queues| queues.pools.close_idle(key));
            }
        });
    }

    /// Count calls that were cancelled in the queue.
    pub(crate) fn withdrew(&self, py: Python<'_>, n_calls: usize) {
        self.state.with(py, |state| {
            state.n_in_use -= n_calls;
            state.n_cancelled += n_calls as u64;
        });
    }

    /// Apply a change of the pool's settings to the dispatcher that uses it, if one does.
    fn tell_home(
        &self,
        dispatcher: Option<&Bound<'_, Dispatcher>>,
        py: Python<'_>,
        change: impl FnOnce(&mut threadlets_core::Pools<Request>, PoolKey),
    ) -> PyResult<()> {
        let (home, in_use) = self.state.with(py, |state| (state.home, state.n_in_use > 0));
        let Some((number, key)) = home else { return Ok(()) };
        match dispatcher.filter(|it| it.get().number() == number) {
            Some(slf) => {
                slf.get().queues.with(py, |queues| change(&mut queues.pools, key));
                slf.get().wake_if_sleeping(py)
            }
            None if in_use => Err(PyRuntimeError::new_err(
                "the pool is in use by an event loop that does not run in this thread; change it \
                 there, with loop.call_soon_threadsafe()",
            )),
            None => {
                // The next loop that uses it opens it anew.
                self.state.with(py, |state| state.home = None);
                Ok(())
            }
        }
    }
}

fn parse_limit(limit: Option<&Bound<'_, PyAny>>) -> PyResult<Option<usize>> {
    let Some(limit) = limit else { return Ok(None) };
    match limit.extract::<i64>() {
        Ok(it) if it > 0 => Ok(Some(it as usize)),
        Ok(it) => Err(PyValueError::new_err(format!(
            "a pool's limit is the number of calls that may run at once: at least 1, or None for \
             any number, not {it}"
        ))),
        Err(_) => Err(PyTypeError::new_err("a pool's limit is an integer or None")),
    }
}

fn parse_priority(priority: u8) -> PyResult<Priority> {
    match priority {
        0 => Ok(Priority::Interactive),
        1 => Ok(Priority::Normal),
        2 => Ok(Priority::Batch),
        _ => Err(PyValueError::new_err("a priority is INTERACTIVE, NORMAL or BATCH")),
    }
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
        Ok(Self { state: GilCell::new(state), environment, start: beside::parse_start(start)? })
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
                "Pool.call() takes a function and its arguments; the first argument is not callable",
            ));
        }
        let mut items = memory::room(1 + args.len() + kwargs.map_or(0, PyDictMethods::len))?;
        items.push(callable.as_ptr());
        items.extend(args.iter_borrowed().map(|it| it.as_ptr()));
        let values: Vec<_> = kwargs.into_iter().flatten().collect();
        items.extend(values.iter().map(|(_, value)| value.as_ptr()));
        let names = PyTuple::new(py, values.iter().map(|(name, _)| name))?;
        crate::call_type::with_options(&items, &names, Some(slf))
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
            slf.get().workers.sort_beside(py);
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
            request.abandon(py)?;
        }
        if let Some(key) = this.key(py) {
            let workers = &dispatcher.get().workers;
            let n_called =
                workers.cancel_beside(slf, message)? + workers.cancel_blocked(py, key, message)?;
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
            Some(dispatcher) => dispatcher.get().functions(slf.py(), Some(slf.as_ptr() as usize)),
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
