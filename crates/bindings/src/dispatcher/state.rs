//! The state of a dispatcher: ready queue, timers, poller, and what is registered with them.
//!
//! All of it is guarded by the GIL, and nothing but `thread_id` names a thread, so that the role can pass from thread to thread between two requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use slab::Slab;
use threadlets_core::{
    Histories, Poller, PoolKey, Priority, Sources, Start, TimeSlice, TimerKey, buffers,
};

use super::completion_queue::CompletionQueue;
use super::descriptor_table::Descriptors;
use super::fp_policy::FpPolicy;
use super::hooks;
use super::outstanding::{Requests, counts_by_name};
use super::replaced::Replaced;
use super::request::Request;
use super::workers::{Spawn, Workers};
use crate::py::error::{ends_the_loop, to_python};
use crate::py::gil_cell::{GilCell, GilSlot};
use crate::py::memory;

/// The most that one receive takes, in bytes.
const RECEIVE_MAX_BYTES: usize = 256 * 1024;

/// How many workers a dispatcher may start unless the loop says otherwise.
const THREADS_MAX: usize = 4096;

/// How many threads there can be at all (the kernel's PID_MAX_LIMIT).
const THREADS_LIMIT: usize = 4 * 1024 * 1024;

static N_MADE: AtomicU64 = AtomicU64::new(1);

/// The message for every use of a closed loop.
const CLOSED: &str = "Event loop is closed: its close() was called, or the run() that made it has \
                      ended; make another with threadlets.new_event_loop()";

/// The owner of a descriptor, to which its readiness is reported.
#[derive(Debug)]
pub(crate) enum Source {
    /// A `Stream`.
    Stream(Py<PyAny>),
    /// An `HttpServer`, and the number of one of its descriptors.
    Http(Py<PyAny>, u32),
    Descriptor(i32),
}

/// The native half of an event loop: queues, timers and poller, and the ticks that run ready requests.
///
/// `threadlets.Loop` adds what asyncio expects of a loop.
#[pyclass(subclass, frozen, module = "threadlets._core")]
pub struct Dispatcher {
    pub(crate) queues: GilCell<threadlets_core::Scheduler<Request>>,
    pub(crate) sources: GilCell<Sources<Source>>,
    pub(crate) descriptors: GilCell<Descriptors>,
    /// Where engines put runs that have ended.
    pub(crate) completions: Arc<CompletionQueue>,
    /// The futures that messages settle, by their tokens: the `Pending` of a run, or a future that waits until
    /// a channel has enough runs.
    pub(crate) awaited: GilCell<Slab<Py<PyAny>>>,
    /// `None` once the loop is closed: its descriptors are closed then, not with the last reference.
    /// The child of a fork makes its own poller when it first needs one.
    poller: GilCell<Option<Arc<Poller>>>,
    /// The buffer of all receives; borrowed for one system call and a copy.
    receive_buffer: GilCell<Option<Box<[u8]>>>,
    /// The outstanding requests that belong to scopes: tasks and others.
    pub(crate) requests: GilCell<Requests>,
    /// asyncio's current task may be a native one of this loop.
    pub(crate) names_task: AtomicBool,
    /// The user's task factory, if there is one.
    pub(crate) task_factory: GilSlot<Option<Py<PyAny>>>,
    /// Tasks and futures are asyncio's own.
    pub(crate) uses_asyncio_tasks: AtomicBool,
    /// The threads that can hold the role, and which one does.
    pub(crate) workers: Workers,
    /// The policy for requests that leave a changed floating-point state behind.
    pub(crate) fp_policy: FpPolicy,
    /// The dispatcher's own pools, of calls that are in no user's pool, by the code that they run.
    entry_points: GilCell<HashMap<usize, PoolKey>>,
    /// A number that no other dispatcher of the process has.
    number: u64,
    /// The histories of the functions that are called, and their names.
    pub(crate) histories: GilCell<Histories<Option<Py<PyString>>>>,
    /// Where calls start unless their pool says so; `None` leaves it to their histories.
    pub(crate) start: GilSlot<Option<Start>>,
    /// The parts of the loop that a program has replaced.
    pub(crate) replaced: Replaced,
    /// How many requests have run.
    pub(crate) n_requests: AtomicU64,
    /// How long the current step may begin awaits that are done at once.
    pub(crate) slice: GilSlot<TimeSlice>,
    /// The thread that holds the dispatcher role; zero when the loop does not run.
    thread_id: AtomicU64,
    /// The dispatcher waits in the poller: new work must wake it.
    pub(crate) sleeping: AtomicBool,
    /// A thread without the GIL is about to end this wait, or has done so.
    pub(crate) is_being_woken: AtomicBool,
    pub(crate) stopping: AtomicBool,
    closed: AtomicBool,
    debug: AtomicBool,
}

impl Dispatcher {
    /// Make a dispatcher that starts `threads_max` threads at most; `spawn` starts them.
    pub(crate) fn make(threads_max: Option<usize>, spawn: Spawn) -> PyResult<Self> {
        let n_threads_max = threads_max.unwrap_or(THREADS_MAX);
        if !(1..=THREADS_LIMIT).contains(&n_threads_max) {
            return Err(PyValueError::new_err(format!(
                "threads_max is {n_threads_max}; it must be at least 1, for a thread that takes over \
                 from a blocked one, and at most {THREADS_LIMIT}, which is the kernel's limit"
            )));
        }
        let poller = Arc::new(Poller::new().map_err(to_python)?);
        Ok(Self {
            queues: GilCell::new(threadlets_core::Scheduler::default()),
            sources: GilCell::new(Sources::default()),
            descriptors: GilCell::new(Descriptors::default()),
            completions: Arc::new(CompletionQueue::new(Arc::clone(&poller))),
            awaited: GilCell::default(),
            poller: GilCell::new(Some(poller)),
            receive_buffer: GilCell::new(None),
            requests: GilCell::default(),
            names_task: AtomicBool::new(false),
            task_factory: GilSlot::default(),
            uses_asyncio_tasks: AtomicBool::new(false),
            workers: Workers::new(n_threads_max, spawn),
            fp_policy: FpPolicy::default(),
            entry_points: GilCell::default(),
            histories: GilCell::default(),
            start: GilSlot::default(),
            number: N_MADE.fetch_add(1, Relaxed),
            replaced: Replaced::default(),
            n_requests: AtomicU64::new(0),
            slice: GilSlot::default(),
            thread_id: AtomicU64::new(0),
            sleeping: AtomicBool::new(false),
            is_being_woken: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            debug: AtomicBool::new(false),
        })
    }

    /// Queue a request, and wake the dispatcher if it waits for events.
    ///
    /// It can only be waiting while another thread holds the GIL, so this costs the dispatcher's own
    /// requests one load.
    pub(crate) fn submit(&self, py: Python<'_>, request: Request) -> PyResult<()> {
        self.queues.with(py, |queues| queues.submit(request));
        self.wake_if_sleeping(py)
    }

    /// Remove a timer that was cancelled.
    pub(crate) fn forget_timer(&self, py: Python<'_>, key: TimerKey) {
        drop(self.queues.with(py, |queues| queues.cancel_timer(key)));
    }

    /// The poller, unless the loop is closed.
    pub(crate) fn poller(&self, py: Python<'_>) -> PyResult<Arc<Poller>> {
        if let Some(poller) = self.poller.with(py, |poller| poller.clone()) {
            return Ok(poller);
        }
        self.check_closed()?;
        let poller = Arc::new(Poller::new().map_err(to_python)?);
        self.completions.wake_by(&poller);
        self.poller.with(py, |it| *it = Some(Arc::clone(&poller)));
        Ok(poller)
    }

    /// Lend the receive buffer to `use_buffer`, which may run no Python code.
    pub(crate) fn with_receive_buffer<R>(
        &self,
        py: Python<'_>,
        use_buffer: impl FnOnce(&mut [u8]) -> R,
    ) -> PyResult<R> {
        self.receive_buffer.with(py, |buffer| {
            if buffer.is_none() {
                *buffer = buffers::zeroed(RECEIVE_MAX_BYTES);
            }
            buffer.as_deref_mut().map(use_buffer).ok_or_else(memory::no_memory)
        })
    }

    pub(crate) fn check_closed(&self) -> PyResult<()> {
        if self.closed.load(Relaxed) {
            return Err(PyRuntimeError::new_err(CLOSED));
        }
        Ok(())
    }

    pub(crate) fn is_debug(&self) -> bool {
        self.debug.load(Relaxed)
    }

    /// In debug mode, refuse a call from a thread that does not run the loop.
    pub(crate) fn check_thread(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().is_debug() {
            hooks::check_thread(slf)?;
        }
        Ok(())
    }

    /// A number that no other dispatcher of the process has had.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// How many requests have run.
    pub(crate) fn n_requests(&self) -> u64 {
        self.n_requests.load(Relaxed)
    }

    /// The thread that runs the loop.
    pub(crate) fn thread(&self) -> Option<u64> {
        Some(self.thread_id.load(Relaxed)).filter(|&id| id != 0)
    }

    /// Set the thread that runs the loop from now on; zero for none.
    pub(crate) fn set_thread(&self, thread_id: u64) {
        self.thread_id.store(thread_id, Relaxed);
    }

    /// In the child of a fork, drop the poller: it is the parent's, and so is the thread that may wait in
    /// it. The child does not serve what the parent has registered.
    pub(crate) fn drop_inherited_poller(&self, py: Python<'_>) {
        if self.closed.load(Relaxed) {
            return;
        }
        drop(self.poller.with(py, Option::take));
        self.sleeping.store(false, Relaxed);
    }

    /// Hold calls back while no thread could take over from them, or let them start again.
    pub(crate) fn hold_calls(&self, py: Python<'_>, are_held: bool) {
        let were_held =
            self.queues.with(py, |queues| std::mem::replace(&mut queues.calls_are_held, are_held));
        if were_held && !are_held {
            let _ = self.wake_if_sleeping(py);
        }
    }

    /// The dispatcher's own pool of the calls that run the code with this number.
    pub(crate) fn pool_of(&self, py: Python<'_>, entry_point: usize) -> PoolKey {
        self.entry_points.with(py, |entry_points| {
            *entry_points.entry(entry_point).or_insert_with(|| {
                self.queues.with(py, |queues| queues.pools.open(Priority::Normal, None))
            })
        })
    }

    /// End a call that is in no user's pool.
    pub(crate) fn finish_entry_point(&self, py: Python<'_>, entry_point: usize, key: PoolKey) {
        self.finish_call(py, key);
        self.entry_points.with(py, |entry_points| {
            if self.queues.with(py, |queues| queues.pools.close_idle(key)) {
                entry_points.remove(&entry_point);
            }
        });
    }

    /// End a call of a pool; another one may start.
    #[inline]
    pub(crate) fn finish_call(&self, py: Python<'_>, key: PoolKey) {
        let is_ready = self.queues.with(py, |queues| {
            queues.pools.finish(key);
            queues.pools.has_startable()
        });
        if is_ready {
            let _ = self.wake_if_sleeping(py);
        }
    }

    /// Report the error of a request, unless it ends the loop.
    pub(crate) fn outlive(slf: &Bound<'_, Self>, outcome: PyResult<()>) -> PyResult<()> {
        match outcome {
            Err(error) if !ends_the_loop(slf.py(), &error) => {
                hooks::request_failed(slf, error).map(drop)
            }
            outcome => outcome,
        }
    }

    /// Whether tasks are native and no factory makes them.
    pub(crate) fn makes_native_tasks(&self, py: Python<'_>) -> bool {
        !self.uses_asyncio_tasks.load(Relaxed) && self.task_factory.with(py, |it| it.is_none())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    pub(crate) fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Relaxed);
    }

    pub(crate) fn set_debug(&self, enabled: bool) {
        self.debug.store(enabled, Relaxed);
    }

    /// Take the poller away: the loop is closed.
    pub(crate) fn take_poller(&self, py: Python<'_>) -> Option<Arc<Poller>> {
        self.poller.with(py, Option::take)
    }

    /// Counts of what the loop has outstanding: requests by kind, callbacks that are ready, timers, runs in
    /// flight in an engine, descriptors that are waited for, blocked functions, threads that are not idle.
    pub(crate) fn outstanding<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
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

    /// Visit what the dispatcher refers to, for the cycle collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.queues.traverse(visit, |queues| {
            queues.requests().try_for_each(|request| request.traverse(visit))
        })?;
        self.sources.traverse(visit, |sources| {
            sources.owners().try_for_each(|source| match source {
                Source::Stream(object) | Source::Http(object, _) => visit.call(object),
                Source::Descriptor(_) => Ok(()),
            })
        })?;
        self.descriptors.traverse(visit, |descriptors| descriptors.traverse(visit))?;
        self.awaited
            .traverse(visit, |awaited| awaited.iter().try_for_each(|(_, it)| visit.call(it)))?;
        self.requests.traverse(visit, |requests| requests.traverse(visit))?;
        self.task_factory.traverse(visit, |factory| visit.call(factory))?;
        self.workers.traverse(visit)
    }
}
