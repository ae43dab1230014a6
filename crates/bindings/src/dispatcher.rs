//! The dispatcher as Python sees it: the native base class of `threadlets.Loop`.
//!
//! It holds the ready queue, the timers and the poller. All state is guarded by the GIL, and none but
//! `_thread_id` names a thread, so that the role can pass from thread to thread between two requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};
use slab::Slab;
use threadlets_core::{
    Histories, Interest, Poller, PoolKey, Priority, SourceKey, Sources, Start, TimeSlice, TimerKey,
    buffers, clock, fp,
};

use crate::callback::{Callback, Due, Handle, TimerHandle};
use crate::contract::Contract;
use crate::descriptors::Descriptors;
use crate::error::to_python;
use crate::gil_cell::{GilCell, GilSlot};
use crate::internals::{self, Internals};
use crate::memory;
use crate::request::Request;
use crate::scope::requests::Requests;
use crate::shutdown::EXIT_WAIT;
use crate::stream::Stream;
use crate::syslet::completion_queue::CompletionQueue;
use crate::syslet::pending::Awaited;
use crate::workers::Workers;

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
    Stream(Py<Stream>),
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
    /// The futures that ended runs settle, by the tokens of the runs.
    pub(crate) awaited: GilCell<Slab<Awaited>>,
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
    pub(crate) contract: Contract,
    /// The dispatcher's own pools, of calls that are in no user's pool, by the code that they run.
    entry_points: GilCell<HashMap<usize, PoolKey>>,
    /// A number that no other dispatcher of the process has.
    number: u64,
    /// The histories of the functions that are called, and their names.
    pub(crate) histories: GilCell<Histories<Option<Py<PyString>>>>,
    /// Where calls start unless their pool says so; `None` leaves it to their histories.
    pub(crate) start: GilSlot<Option<Start>>,
    /// The parts of the loop that a program has replaced.
    pub(crate) internals: Internals,
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

    /// Register a descriptor of a stream, for reading.
    pub(crate) fn add_source(
        &self,
        py: Python<'_>,
        fd: i32,
        source: Source,
    ) -> PyResult<SourceKey> {
        let poller = self.poller(py)?;
        Descriptors::evict(self, py, fd)?;
        let key = self.sources.with(py, |sources| sources.insert(source));
        match poller.register(fd, key, Interest::READABLE_OR_URGENT) {
            Ok(()) => Ok(key),
            Err(error) => {
                drop(self.sources.with(py, |sources| sources.remove(key)));
                Err(to_python(error))
            }
        }
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
            slf.call_method0(intern!(slf.py(), "_check_thread"))?;
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

    /// Make a handle in debug mode: its callback is checked, and the place of the call is recorded.
    #[cold]
    fn debug_handle<'py>(
        slf: &Bound<'py, Self>,
        when: Option<f64>,
        callback: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        context: Option<&Bound<'py, PyAny>>,
        method: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let arguments = (when, callback, args, context, method);
        // See `Future::remember_source`.
        fp::FlagBits::unseen(|| slf.call_method1(intern!(py, "_make_debug_handle"), arguments))
    }

    fn submit_callback<'py>(
        slf: &Bound<'py, Self>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
        method: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.check_closed()?;
        let (handle, request) = if this.is_debug() {
            let handle = Self::debug_handle(slf, None, &callback, &args, context.as_ref(), method)?;
            let request = Request::Foreign(handle.clone().unbind());
            (handle, request)
        } else {
            let callback = Callback::new(callback, args, context)?;
            let is_shared = cfg!(Py_3_14) && method == "call_soon_threadsafe";
            let handle = Bound::new(py, Handle::new(callback, is_shared))?;
            let request = Request::Callback(handle.clone().unbind());
            (handle.into_any(), request)
        };
        this.queues.with(py, |queues| queues.submit(request));
        this.wake_if_sleeping_detached(py)?;
        Ok(handle)
    }

    fn submit_callback_at<'py>(
        slf: &Bound<'py, Self>,
        when: f64,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
        method: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.check_closed()?;
        let deadline_ns = clock::deadline_ns(when);
        if this.is_debug() {
            let handle =
                Self::debug_handle(slf, Some(when), &callback, &args, context.as_ref(), method)?;
            let request = Request::Foreign(handle.clone().unbind());
            let key = this.queues.with(py, |queues| queues.submit_at(deadline_ns, request));
            handle.setattr(intern!(py, "_key"), key.to_bits())?;
            this.wake_if_sleeping_detached(py)?;
            return Ok(handle);
        }
        let due = Due::new(callback, args, context)?;
        let handle = Bound::new(py, TimerHandle::new(when, due, slf.clone().unbind()))?;
        let request = Request::Timer(handle.clone().unbind());
        let key = this.queues.with(py, |queues| queues.submit_at(deadline_ns, request));
        handle.get().set_key(py, key);
        this.wake_if_sleeping_detached(py)?;
        Ok(handle.into_any())
    }
}

#[pymethods]
impl Dispatcher {
    /// Make a dispatcher; subclasses may take arguments of their own.
    #[new]
    #[pyo3(signature = (*_args, threads_max=None, **_kwargs))]
    fn new(
        _args: &Bound<'_, PyTuple>,
        threads_max: Option<usize>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
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
            workers: Workers::new(n_threads_max),
            contract: Contract::default(),
            entry_points: GilCell::default(),
            histories: GilCell::default(),
            start: GilSlot::default(),
            number: N_MADE.fetch_add(1, Relaxed),
            internals: Internals::default(),
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

    /// Return the loop's time in seconds, which is that of `time.monotonic()`.
    fn time(&self) -> f64 {
        clock::to_seconds(clock::now_ns())
    }

    /// Call `callback(*args)` in the next tick.
    #[pyo3(signature = (callback, *args, context=None))]
    fn call_soon<'py>(
        slf: &Bound<'py, Self>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::submit_callback(slf, callback, args, context, "call_soon")
    }

    /// Call `callback(*args)` in the next tick; any thread may ask for it.
    #[pyo3(signature = (callback, *args, context=None))]
    fn call_soon_threadsafe<'py>(
        slf: &Bound<'py, Self>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::submit_callback(slf, callback, args, context, "call_soon_threadsafe")
    }

    /// Call `callback(*args)` when the loop's time reaches `when`, in seconds.
    #[pyo3(signature = (when, callback, *args, context=None))]
    fn call_at<'py>(
        slf: &Bound<'py, Self>,
        when: Option<f64>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let when = when.ok_or_else(|| PyTypeError::new_err("when cannot be None"))?;
        Self::submit_callback_at(slf, when, callback, args, context, "call_at")
    }

    /// Call `callback(*args)` after `delay` seconds.
    #[pyo3(signature = (delay, callback, *args, context=None))]
    fn call_later<'py>(
        slf: &Bound<'py, Self>,
        delay: Option<f64>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let delay = delay.ok_or_else(|| PyTypeError::new_err("delay must not be None"))?;
        if slf.get().internals.replaces_timers() {
            return internals::call_later(slf, delay, &callback, &args, context);
        }
        let when = slf.get().time() + delay;
        Self::submit_callback_at(slf, when, callback, args, context, "call_later")
    }

    /// Queue an `asyncio.Handle`.
    fn _add_callback(&self, handle: Bound<'_, PyAny>) -> PyResult<()> {
        let py = handle.py();
        self.submit(py, Request::Foreign(handle.unbind()))
    }

    /// Queue an `asyncio.Handle` from a signal handler or another thread.
    fn _add_callback_signalsafe(&self, handle: Bound<'_, PyAny>) -> PyResult<()> {
        self._add_callback(handle)
    }

    /// Remove the timer of a cancelled `asyncio.TimerHandle`, if it is one of debug mode, which has the key.
    fn _timer_handle_cancelled(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = handle.py();
        if let Some(key) = handle.getattr_opt(intern!(py, "_key"))? {
            self.forget_timer(py, TimerKey::from_bits(key.extract()?));
        }
        Ok(())
    }

    /// Wake the dispatcher from any thread.
    fn _write_to_self(&self, py: Python<'_>) -> PyResult<()> {
        self.wake_poller(py)
    }

    /// Cancel the runs that are under way, and wait until all have ended, for a few seconds at most.
    /// Runs that persist are not cancelled.
    fn _end_runs(&self, py: Python<'_>) {
        self.awaited.with(py, |awaited| awaited.iter().for_each(|(_, it)| it.give_up(py)));
        py.detach(|| self.completions.wait_until_quiet(EXIT_WAIT));
    }

    /// Drop everything that is queued or registered, and the poller: the loop is closed.
    fn _release(&self, py: Python<'_>) {
        self.closed.store(true, Relaxed);
        let requests = self.queues.with(py, threadlets_core::Scheduler::take_all);
        for request in requests {
            // Cancelling queues callbacks, which the closed loop refuses with a RuntimeError.
            if let Err(error) = request.abandon(py)
                && !error.is_instance_of::<PyRuntimeError>(py)
            {
                error.write_unraisable(py, None);
            }
        }
        self.workers.abandon_beside(py);
        self.workers.release_bound(py);
        self.workers.release(py);
        drop(self.task_factory.take(py));
        let sources = self.sources.with(py, std::mem::take);
        let descriptors = self.descriptors.with(py, std::mem::take);
        descriptors.refuse_connections(py);
        drop(self.completions.close());
        let awaited = self.awaited.with(py, std::mem::take);
        awaited.iter().for_each(|(_, it)| it.give_up(py));
        let poller = self.poller.with(py, Option::take);
        drop((sources, descriptors, poller, awaited));
    }

    #[getter(_debug)]
    fn debug(&self) -> bool {
        self.is_debug()
    }

    #[setter(_debug)]
    fn set_debug_flag(&self, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        self.debug.store(enabled.is_truthy()?, Relaxed);
        Ok(())
    }

    #[getter(_stopping)]
    fn stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    #[setter(_stopping)]
    fn set_stopping(&self, py: Python<'_>, stopping: bool) -> PyResult<()> {
        self.stopping.store(stopping, Relaxed);
        self.wake_if_sleeping(py)
    }

    #[getter(_closed)]
    fn closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    #[setter(_closed)]
    fn set_closed(&self, closed: bool) {
        self.closed.store(closed, Relaxed);
    }

    #[getter(_thread_id)]
    fn thread_id(&self) -> Option<u64> {
        self.thread()
    }

    #[setter(_thread_id)]
    fn set_thread_id(&self, thread_id: Option<u64>) {
        self.set_thread(thread_id.unwrap_or(0));
    }

    /// Raise a `RuntimeError` if the loop is closed.
    fn _check_closed(&self) -> PyResult<()> {
        self.check_closed()
    }

    /// Return how many requests are ready, how many timers wait and how many descriptors are registered.
    fn _counts(&self, py: Python<'_>) -> (usize, usize, usize) {
        let (n_ready, n_timers) = self.queues.with(py, |it| (it.n_ready(), it.n_timers()));
        (n_ready, n_timers, self.sources.with(py, |sources| sources.len()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.queues.traverse(&visit, |queues| {
            queues.requests().try_for_each(|request| request.traverse(&visit))
        })?;
        self.sources.traverse(&visit, |sources| {
            sources.owners().try_for_each(|source| match source {
                Source::Stream(stream) => visit.call(stream),
                Source::Descriptor(_) => Ok(()),
            })
        })?;
        self.descriptors.traverse(&visit, |descriptors| descriptors.traverse(&visit))?;
        self.awaited
            .traverse(&visit, |awaited| awaited.iter().try_for_each(|(_, it)| it.visit(&visit)))?;
        self.requests.traverse(&visit, |requests| requests.traverse(&visit))?;
        self.task_factory.traverse(&visit, |factory| visit.call(factory))?;
        self.workers.traverse(&visit)
    }

    fn __clear__(&self, py: Python<'_>) {
        self._release(py);
    }
}
