//! `Sweep`: one program over many inputs, at a bounded depth.
//!
//! A chunk of inputs is tried on the consumer's thread, without the GIL; runs that would block go to the
//! engine, and ended runs come back in batches. All of this happens when the consumer asks for results: no
//! more runs than the depth are ahead of it.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pyo3::PyTraverseError;
use pyo3::exceptions::PyValueError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList, PyTuple};
use slab::Slab;
use threadlets_core::buffers::BufferPool;
use threadlets_core::clock;
use threadlets_core::engine::Engine;
use threadlets_core::syslet::{CompletionSink, Run};
use threadlets_core::time_slice::SLICE_NS;

use super::channel::Channel;
use super::engine::{self, PyBufferPool};
use super::program::{Started, SysletProgram, pool_or_default};
use super::result::SysletResult;
use super::{argument, pending};
use crate::dispatcher::Dispatcher;
use crate::py::gil_cell::GilCell;
use crate::py::memory;
use crate::task::any_future;

/// How many inputs are taken at once.
const CHUNK: usize = 128;

/// How long to wait for several results rather than one, in nanoseconds.
const MOMENT_NS: u64 = 1_000_000;

/// The deadline of a caller that holds up no other task.
const FOREVER: u64 = u64::MAX;

/// Counter for groups of runs.
static N_GROUPS: AtomicU64 = AtomicU64::new(1);

/// A new group of runs.
pub(crate) fn new_group() -> u64 {
    N_GROUPS.fetch_add(1, Relaxed)
}

struct SweepState {
    /// None once it is exhausted, or the sweep closed.
    inputs: Option<Py<PyIterator>>,
    n_taken: u64,
    n_given: u64,
    n_in_flight: usize,
    /// The inputs of runs in flight, and their numbers, by the runs' tokens.
    outstanding: Slab<(u64, Py<PyAny>)>,
    /// Runs that have ended, to be used again.
    spare: Vec<Box<Run>>,
    /// Results that are to be returned, in order.
    ready: VecDeque<Py<SysletResult>>,
    /// Results that wait for an earlier one.
    early: HashMap<u64, Py<SysletResult>>,
    /// The exception that the inputs have raised; raised once the results before it were returned.
    failure: Option<PyErr>,
    /// The last `advance` stopped early, because its time was over.
    is_cut_short: bool,
    is_closed: bool,
}

/// Results of a program over many inputs.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct Sweep {
    program: Py<SysletProgram>,
    engine: Arc<Engine>,
    pool: Arc<BufferPool>,
    channel: Arc<Channel>,
    group: u64,
    depth: usize,
    is_ordered: bool,
    timeout_ns: u64,
    state: GilCell<SweepState>,
}

impl Sweep {
    /// Keep as many runs under way as the depth allows, and take ended ones; stop early after `until_ns`.
    fn advance(&self, py: Python<'_>, until_ns: u64) -> PyResult<()> {
        let is_over = || until_ns != FOREVER && clock::now_ns() >= until_ns;
        self.state.with(py, |state| state.is_cut_short = false);
        while self.collect(py)? {
            if is_over() {
                self.state.with(py, |state| state.is_cut_short = true);
                return Ok(());
            }
        }
        loop {
            if is_over() {
                self.state.with(py, |state| state.is_cut_short = true);
                return Ok(());
            }
            let chunk = self.take_inputs(py)?;
            if chunk.is_empty() {
                return Ok(());
            }
            if self.engine.tries_in_bulk() {
                self.submit(py, chunk)?;
                continue;
            }
            let (ended, blocked) = py.detach(|| try_all(chunk, is_over));
            self.submit(py, blocked)?;
            for run in ended {
                self.note_ended(py, run)?;
            }
            if self.state.with(py, |it| !it.ready.is_empty()) {
                return Ok(());
            }
        }
    }

    /// How many inputs may be taken now.
    fn room(&self, state: &SweepState) -> usize {
        // Results that wait for an earlier one take memory, too: they are bounded like the depth.
        let n_early_max = self.depth.max(CHUNK).saturating_mul(4);
        if state.early.len() >= n_early_max {
            return 0;
        }
        // Inputs are taken several at a time, unless nothing is under way.
        let room = self.depth.saturating_sub(state.n_in_flight).min(CHUNK);
        let is_worth_while = state.n_in_flight == 0 || room >= (self.depth / 4).clamp(1, CHUNK / 2);
        if is_worth_while { room } else { 0 }
    }

    /// Take as many inputs as there is room for, as runs.
    fn take_inputs(&self, py: Python<'_>) -> PyResult<Vec<Box<Run>>> {
        let (room, inputs, mut spare) = self.state.with(py, |state| {
            let room = self.room(state);
            let inputs = state.inputs.as_ref().filter(|_| room > 0).map(|it| it.clone_ref(py));
            (room, inputs, std::mem::take(&mut state.spare))
        });
        let mut runs = Vec::with_capacity(room);
        let mut taken = Vec::with_capacity(room);
        let mut failure = None;
        let mut ends = false;
        if let Some(inputs) = inputs {
            let mut inputs = inputs.into_bound(py);
            let program = self.program.get();
            while runs.len() < room && !ends {
                let Some(input) = inputs.next() else {
                    ends = true;
                    break;
                };
                let mut run = spare.pop().unwrap_or_else(|| program.new_run(&self.pool));
                match input.and_then(|it| fill(program, &mut run, &it).map(|()| it)) {
                    Ok(input) => {
                        run.group = self.group;
                        run.timeout_ns = self.timeout_ns;
                        runs.push(run);
                        taken.push(input.unbind());
                    }
                    Err(error) => {
                        failure = Some(error);
                        ends = true;
                    }
                }
            }
        }
        let finished = self.state.with(py, |state| {
            for (run, input) in runs.iter_mut().zip(taken) {
                run.token = state.outstanding.insert((state.n_taken, input)) as u64;
                state.n_taken += 1;
            }
            state.n_in_flight += runs.len();
            state.spare = spare;
            state.failure = failure.or(state.failure.take());
            if ends { state.inputs.take() } else { None }
        });
        drop(finished);
        Ok(runs)
    }

    fn submit(&self, py: Python<'_>, mut blocked: Vec<Box<Run>>) -> PyResult<()> {
        if blocked.is_empty() {
            return Ok(());
        }
        for run in &mut blocked {
            run.sink = Some(Arc::clone(&self.channel) as Arc<dyn CompletionSink>);
        }
        engine::submit_many(&self.engine, blocked).map_err(|(error, n_left)| {
            // Saturating: if the sweep was closed meanwhile, none of them counts as in flight.
            self.state.with(py, |it| it.n_in_flight = it.n_in_flight.saturating_sub(n_left));
            error
        })
    }

    /// Wait until runs have ended: several, if that takes no longer than `MOMENT_NS`, since a wake-up costs
    /// as much as several runs; else one.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        let n_in_flight = self.state.with(py, |it| it.n_in_flight);
        if n_in_flight == 0 {
            return Ok(());
        }
        let n_wanted = n_in_flight.min(self.depth / 8).max(1);
        let moment_ns = clock::now_ns() + MOMENT_NS;
        if !self.channel.wait(py, n_wanted, Some(moment_ns))? {
            self.channel.wait(py, 1, None)?;
        }
        Ok(())
    }

    /// Take some of the runs that the engine has finished; whether there were any.
    fn collect(&self, py: Python<'_>) -> PyResult<bool> {
        argument::release_dropped_buffers(py);
        let ended = self.channel.take(CHUNK);
        let is_any = !ended.is_empty();
        for run in ended {
            self.note_ended(py, run)?;
        }
        Ok(is_any)
    }

    fn note_ended(&self, py: Python<'_>, mut run: Box<Run>) -> PyResult<()> {
        let outstanding = self.state.with(py, |state| {
            let outstanding = state.outstanding.try_remove(run.token as usize);
            state.n_in_flight -= usize::from(outstanding.is_some());
            outstanding
        });
        // The sweep was closed meanwhile, in another thread.
        let Some((number, input)) = outstanding else { return Ok(()) };
        let result = self.program.get().result(py, &mut run, Some(input));
        run.begin_again();
        let result = match result {
            Ok(result) => Py::new(py, result)?,
            Err(error) => {
                self.state.with(py, |state| state.spare.push(run));
                return Err(error);
            }
        };
        self.state.with(py, |state| {
            state.spare.push(run);
            if !self.is_ordered {
                state.n_given += 1;
                state.ready.push_back(result);
            } else if state.n_given == number {
                state.n_given += 1;
                state.ready.push_back(result);
                while let Some(result) = state.early.remove(&state.n_given) {
                    state.n_given += 1;
                    state.ready.push_back(result);
                }
            } else {
                state.early.insert(number, result);
            }
        });
        Ok(())
    }

    /// Take the results that are ready; None when all were returned.
    fn take_ready<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        enum SweepResults {
            Ready(VecDeque<Py<SysletResult>>),
            Failed(PyErr),
            Over,
        }
        let taken = self.state.with(py, |state| {
            if state.is_closed {
                return SweepResults::Over;
            }
            if !state.ready.is_empty() || state.n_in_flight > 0 {
                return SweepResults::Ready(std::mem::take(&mut state.ready));
            }
            match state.failure.take() {
                Some(error) => SweepResults::Failed(error),
                None if state.inputs.is_none() => SweepResults::Over,
                None => SweepResults::Ready(VecDeque::new()),
            }
        });
        match taken {
            SweepResults::Ready(ready) => memory::list(py, ready).map(Some),
            SweepResults::Failed(error) => Err(error),
            SweepResults::Over => Ok(None),
        }
    }
}

#[pymethods]
impl Sweep {
    #[new]
    #[pyo3(signature = (program, inputs, depth, ordered, timeout=None, pool=None))]
    fn new(
        program: Bound<'_, SysletProgram>,
        inputs: &Bound<'_, PyAny>,
        depth: NonZeroUsize,
        ordered: bool,
        timeout: Option<f64>,
        pool: Option<&PyBufferPool>,
    ) -> PyResult<Self> {
        let state = SweepState {
            inputs: Some(inputs.try_iter()?.unbind()),
            n_taken: 0,
            n_given: 0,
            n_in_flight: 0,
            outstanding: Slab::new(),
            spare: Vec::new(),
            ready: VecDeque::new(),
            early: HashMap::new(),
            failure: None,
            is_cut_short: false,
            is_closed: false,
        };
        Ok(Self {
            program: program.unbind(),
            engine: engine::current()?,
            pool: pool_or_default(pool),
            channel: Arc::default(),
            group: new_group(),
            depth: depth.get(),
            is_ordered: ordered,
            timeout_ns: timeout_ns(timeout)?,
            state: GilCell::new(state),
        })
    }

    /// Wait for results, without the GIL, and return them; None when there are no more.
    fn next_batch<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        loop {
            self.advance(py, FOREVER)?;
            match self.take_ready(py)? {
                Some(batch) if batch.is_empty() => {
                    self.wait(py)?;
                }
                batch => return Ok(batch),
            }
        }
    }

    /// Return results that are ready, perhaps none, within a time slice; None when there are no more.
    fn next_batch_nowait<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyList>>> {
        self.advance(py, clock::now_ns() + SLICE_NS)?;
        self.take_ready(py)
    }

    /// Return a future of the loop that is done when there is something to take.
    fn readiness<'py>(
        &self,
        py: Python<'py>,
        dispatcher: &Bound<'py, Dispatcher>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // An `advance` that was cut short goes on at once.
        let n_wanted = usize::from(!self.state.with(py, |state| state.is_cut_short));
        readiness(py, dispatcher, &self.channel, n_wanted)
    }

    /// Take no more inputs, and cancel the runs that are under way; their results are dropped.
    fn close(&self, py: Python<'_>) {
        let (n_in_flight, dropped) = self.state.with(py, |state| {
            state.is_closed = true;
            let dropped = (
                state.inputs.take(),
                std::mem::take(&mut state.outstanding),
                std::mem::take(&mut state.ready),
                std::mem::take(&mut state.early),
                state.failure.take(),
            );
            (std::mem::take(&mut state.n_in_flight), dropped)
        });
        drop((self.channel.close(), dropped));
        if n_in_flight > 0 {
            self.engine.cancel_group(self.group);
        }
    }

    /// How many inputs were taken, how many results were returned, how many runs are under way.
    fn counts(&self, py: Python<'_>) -> (u64, u64, usize) {
        self.state.with(py, |it| (it.n_taken, it.n_given, it.n_in_flight))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.program)?;
        self.state.traverse(&visit, |state| {
            visit.call(&state.inputs)?;
            state.outstanding.iter().try_for_each(|(_, (_, it))| visit.call(it))?;
            state.ready.iter().try_for_each(|it| visit.call(it))?;
            state.early.values().try_for_each(|it| visit.call(it))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        self.close(py);
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        // A sweep that is given up in the middle does not need the rest.
        self.engine.cancel_group(self.group);
    }
}

/// Set a run's arguments from an input: the program's argument, or its arguments.
fn fill(program: &SysletProgram, run: &mut Run, input: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = input.py();
    if program.n_parameters() == 1 {
        return program.fill(py, run, std::slice::from_ref(input));
    }
    let args: Vec<_> = match input.cast::<PyTuple>() {
        Ok(tuple) => tuple.iter().collect(),
        Err(_) if program.n_parameters() == 0 => Vec::new(),
        Err(_) => vec![input.clone()],
    };
    program.fill(py, run, &args)
}

/// Run each until it would block, until the time is over; returns ended runs, and those for the engine.
fn try_all(runs: Vec<Box<Run>>, is_over: impl Fn() -> bool) -> (Vec<Box<Run>>, Vec<Box<Run>>) {
    let mut ended = Vec::with_capacity(runs.len());
    let mut blocked = Vec::new();
    for run in runs {
        match SysletProgram::start(run, !is_over()) {
            Started::Ended(run) => ended.push(run),
            Started::Blocked(run) => blocked.push(run),
        }
    }
    (ended, blocked)
}

/// A time-out in nanoseconds; zero for none.
pub(crate) fn timeout_ns(seconds: Option<f64>) -> PyResult<u64> {
    match seconds {
        None => Ok(0),
        Some(seconds) if seconds > 0.0 => Ok(clock::deadline_ns(seconds)),
        Some(seconds) => Err(PyValueError::new_err(format!(
            "timeout is {seconds}; it is a number of seconds above zero, or None"
        ))),
    }
}

/// A future of the loop that is done when a channel has `n_wanted` runs.
pub(crate) fn readiness<'py>(
    py: Python<'py>,
    dispatcher: &Bound<'py, Dispatcher>,
    channel: &Channel,
    n_wanted: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let this = dispatcher.get();
    this.check_closed()?;
    let future = any_future::make(dispatcher)?;
    let token = pending::await_channel(this, py, future.clone().unbind());
    let waits = channel.notify_when(&this.completions, token, n_wanted);
    if !matches!(waits, Ok(true)) {
        pending::forget_channel(this, py, token);
        any_future::settle(&future, waits.map(|_| py.None()))?;
    }
    Ok(future)
}
