//! A user's pool: threadlets that are limited, prioritised and cancelled together.
//!
//! The queue of its calls is the dispatcher's (`threadlets_core::Pools`); this is the user's object.

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use threadlets_core::{EntryPoint, PoolKey, Priority, Start};

use crate::contract::Environment;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::request::Request;
use crate::py::gil_cell::GilCell;

#[derive(Debug)]
pub(super) struct PoolState {
    pub(super) limit: Option<usize>,
    pub(super) priority: Priority,
    /// The dispatcher (by number) in which calls of the pool run or wait, or ran last.
    pub(super) home: Option<(u64, PoolKey)>,
    pub(super) n_in_use: usize,
    pub(super) n_calls: u64,
    pub(super) n_cancelled: u64,
}

/// The native half of `threadlets.Pool`.
#[pyclass(subclass, frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct Pool {
    pub(super) state: GilCell<PoolState>,
    /// The floating-point environment of the pool's calls.
    pub(super) environment: Option<Py<Environment>>,
    /// Where its calls start, regardless of their functions' histories; None: the histories decide.
    pub(super) start: Option<Start>,
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
    pub(super) fn tell_home(
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

pub(super) fn parse_limit(limit: Option<&Bound<'_, PyAny>>) -> PyResult<Option<usize>> {
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

pub(super) fn parse_priority(priority: u8) -> PyResult<Priority> {
    match priority {
        0 => Ok(Priority::Interactive),
        1 => Ok(Priority::Normal),
        2 => Ok(Priority::Batch),
        _ => Err(PyValueError::new_err("a priority is INTERACTIVE, NORMAL or BATCH")),
    }
}
