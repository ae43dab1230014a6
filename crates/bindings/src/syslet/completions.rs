//! `Completions`: the native half of `threadlets.CompletionRing`.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use threadlets_core::clock;
use threadlets_core::engine::Engine;
use threadlets_core::syslet::{AtomFlags, CompletionSink, Run};

use super::argument;
use super::channel::Channel;
use super::engine::{self, PyBufferPool};
use super::program::{Started, SysletProgram, pool_or_default};
use super::result::SysletResult;
use super::sweep::{new_group, readiness, timeout_ns};
use crate::dispatcher::Dispatcher;
use crate::py::gil_cell::GilCell;

/// A run that is under way.
#[derive(Debug)]
struct Submitted {
    program: Py<SysletProgram>,
    tag: Py<PyAny>,
    is_silent: bool,
}

#[derive(Default)]
struct CompletionsState {
    submitted: HashMap<u64, Submitted>,
    n_submitted: u64,
}

/// Submitted runs that did not end at once; they come back in the order in which they end.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct Completions {
    engine: Arc<Engine>,
    channel: Arc<Channel>,
    group: u64,
    state: GilCell<CompletionsState>,
}

impl Completions {
    /// Take up to `n_max` entries: pairs of tag and result.
    fn take<'py>(&self, py: Python<'py>, n_max: usize) -> PyResult<Bound<'py, PyList>> {
        argument::release_dropped_buffers(py);
        let entries = PyList::empty(py);
        while entries.len() < n_max {
            let runs = self.channel.take(n_max - entries.len());
            if runs.is_empty() {
                break;
            }
            for run in runs {
                if let Some(entry) = self.entry(py, run)? {
                    entries.append(entry)?;
                }
            }
        }
        Ok(entries)
    }

    /// The entry that a run makes, if it makes one.
    fn entry<'py>(
        &self,
        py: Python<'py>,
        mut run: Box<Run>,
    ) -> PyResult<Option<(Py<PyAny>, Py<SysletResult>)>> {
        let submitted = self.state.with(py, |state| state.submitted.remove(&run.token));
        let Some(submitted) = submitted else { return Ok(None) };
        if submitted.is_silent || ends_silently(&run) {
            return Ok(None);
        }
        let result = submitted.program.get().result(py, &mut run, None)?;
        Ok(Some((submitted.tag, Py::new(py, result)?)))
    }
}

/// Whether the run has ended at an atom that is flagged to make no entry.
fn ends_silently(run: &Run) -> bool {
    run.end().is_some_and(|end| {
        let atom = &run.program().atoms()[usize::from(end.atom)];
        atom.flags.has(AtomFlags::NO_COMPLETE)
    })
}

#[pymethods]
impl Completions {
    #[new]
    fn new(entries_max: usize) -> PyResult<Self> {
        Ok(Self {
            engine: engine::current()?,
            channel: Arc::new(Channel::with_room(entries_max)),
            group: new_group(),
            state: GilCell::default(),
        })
    }

    /// Start a program; return its result if it ends without blocking, else None, and an entry follows.
    #[pyo3(signature = (program, args, kwargs, tag, flags, timeout=None, pool=None))]
    #[allow(clippy::too_many_arguments)]
    fn _submit(
        &self,
        py: Python<'_>,
        program: &Bound<'_, SysletProgram>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        tag: Py<PyAny>,
        flags: u8,
        timeout: Option<f64>,
        pool: Option<&PyBufferPool>,
    ) -> PyResult<Option<SysletResult>> {
        let flags = AtomFlags::from_bits(flags);
        let timeout_ns = timeout_ns(timeout)?;
        let args: Vec<_> = args.iter().collect();
        let run = program.get().run_with(py, &args, kwargs, pool_or_default(pool))?;
        let mut run = if flags.has(AtomFlags::SYNC) {
            return program.get().perform(py, run).map(Some);
        } else {
            let tries_first = self.engine.tries_first() && !flags.has(AtomFlags::ASYNC);
            match SysletProgram::start_here(py, run, tries_first)? {
                Started::Ended(mut run) => {
                    return program.get().result(py, &mut run, None).map(Some);
                }
                Started::Blocked(run) => run,
            }
        };
        let token = self.state.with(py, |state| {
            state.n_submitted += 1;
            let submitted = Submitted {
                program: program.clone().unbind(),
                tag,
                is_silent: flags.has(AtomFlags::NO_COMPLETE),
            };
            state.submitted.insert(state.n_submitted, submitted);
            state.n_submitted
        });
        run.token = token;
        run.group = self.group;
        run.timeout_ns = timeout_ns;
        run.sink = Some(Arc::clone(&self.channel) as Arc<dyn CompletionSink>);
        match engine::submit(&self.engine, run) {
            Ok(_) => Ok(None),
            Err((error, _)) => {
                drop(self.state.with(py, |state| state.submitted.remove(&token)));
                Err(error)
            }
        }
    }

    /// Wait, without the GIL, until `n_wanted` runs have ended; return False if the time is up.
    #[pyo3(signature = (n_wanted, timeout=None))]
    fn _wait(&self, py: Python<'_>, n_wanted: usize, timeout: Option<f64>) -> PyResult<bool> {
        let deadline_ns = timeout.map(|it| clock::now_ns().saturating_add(clock::deadline_ns(it)));
        self.channel.wait(py, n_wanted, deadline_ns)
    }

    /// Take up to `n_max` entries that are there, perhaps none.
    fn _take<'py>(&self, py: Python<'py>, n_max: usize) -> PyResult<Bound<'py, PyList>> {
        self.take(py, n_max)
    }

    /// Return a future of the loop that is done when `n_wanted` runs have ended.
    fn _readiness<'py>(
        &self,
        py: Python<'py>,
        dispatcher: &Bound<'py, Dispatcher>,
        n_wanted: usize,
    ) -> PyResult<Bound<'py, PyAny>> {
        readiness(py, dispatcher, &self.channel, n_wanted)
    }

    /// Cancel the runs that are under way; each makes its entry as usual.
    fn _cancel(&self) {
        self.engine.cancel_group(self.group);
    }

    /// How many runs are under way or not taken yet, and how many entries did not fit when they came.
    fn _counts(&self, py: Python<'_>) -> (usize, u64) {
        (self.state.with(py, |state| state.submitted.len()), self.channel.n_overflowed())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.traverse(&visit, |state| {
            state.submitted.values().try_for_each(|it| {
                visit.call(&it.program)?;
                visit.call(&it.tag)
            })
        })
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        self.engine.cancel_group(self.group);
    }
}
