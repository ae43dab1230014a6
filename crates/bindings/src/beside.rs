//! Calls beside the dispatcher: they run on another worker from the start, while the role stays where it is.
//!
//! The history of a function decides where its calls start (`threadlets_core::history`), and
//! `takeover::Beside` decides which worker takes them. A function cannot tell where it runs: it is called in
//! its awaiter's context, the loop counts as running in its thread, and the await gives what it returns or
//! raises.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use pyo3::{PyTraverseError, intern};
use threadlets_core::takeover::{SLOW_NS, Summons, ThreadUsage, WakeReason, WorkerId};
use threadlets_core::{EntryPoint, Poller, Priority, Start, clock, fp};

use crate::call::CallObject;
use crate::dispatcher::Dispatcher;
use crate::gil_cell::GilSlot;
use crate::pool::Pool;
use crate::queued_call::QueuedCall;
use crate::request::Request;
use crate::task::current;
use crate::task::future::Future;
use crate::task::task::Task;
use crate::worker::Worker;
use crate::workers::{Parked, Workers};

/// When a worker is woken for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    /// When the dispatcher gives up the GIL to wait for events: before that the worker could do nothing.
    GilIsFree,
}

/// The outcome of a job.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// The function, if it was called.
    pub(crate) function: Option<EntryPoint>,
    /// The dispatcher waits for events and is to be woken.
    pub(crate) wakes: bool,
}

/// How a worker stopped taking jobs.
#[derive(Debug)]
pub(crate) struct Worked {
    /// No job is left; `false`: enough other functions compute, so the worker has to wait.
    pub(crate) is_done: bool,
    /// The poller at which the dispatcher sleeps, to be woken once the GIL is free.
    pub(crate) sleeps_at: Option<Arc<Poller>>,
}

/// A call for a worker beside the dispatcher.
#[derive(Debug)]
pub(crate) enum Job {
    /// A call that a coroutine awaits.
    Awaited(Py<CallBeside>),
    /// A call of a pool's queue.
    Queued(Py<QueuedCall>),
}

impl Job {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Awaited(call) => Self::Awaited(call.clone_ref(py)),
            Self::Queued(call) => Self::Queued(call.clone_ref(py)),
        }
    }

    /// The user's pool that the call is in.
    fn pool(&self) -> Option<&Py<Pool>> {
        match self {
            Self::Awaited(call) => call.get().pool.as_ref(),
            Self::Queued(call) => call.get().pool(),
        }
    }

    fn priority(&self, py: Python<'_>) -> Priority {
        self.pool().map_or(Priority::Normal, |it| it.get().its_priority(py))
    }

    /// Cancel the awaiter of a call that has not begun; returns whether that was possible.
    fn cancel(&self, py: Python<'_>, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        match self {
            Self::Awaited(call) => {
                let awaiter = match &call.get().task {
                    Some(task) => task.bind(py),
                    None => call.bind(py).as_any(),
                };
                awaiter.call_method1(intern!(py, "cancel"), (message,))?.is_truthy()
            }
            Self::Queued(call) => call.get().cancel_waiting(py),
        }
    }

    /// Run the call on this thread. An `Err` is a fault of this library, not of the function.
    fn run(self, slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<Ran> {
        match self {
            Self::Awaited(call) => CallBeside::run(call.bind(slf.py()), slf, worker),
            Self::Queued(call) => call.get().run_beside(slf, &call, worker),
        }
    }

    /// Give up a call that has not begun: the loop is closed.
    fn abandon(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Awaited(call) => {
                let call = call.get();
                if let (Some(_), Some(pool)) = (call.call.take(py), &call.pool) {
                    pool.get().withdrew(py, 1);
                }
                Ok(())
            }
            Self::Queued(call) => call.get().abandon(py),
        }
    }

    /// Fail a call that cannot begin.
    fn fail(self, slf: &Bound<'_, Dispatcher>, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        match self {
            Self::Awaited(call) => {
                drop(call.get().call.take(py));
                let call = call.bind(py);
                call.get().leave_pool(slf);
                Future::fail(call.as_super(), error.into_value(py).into_bound(py))
            }
            Self::Queued(call) => call.get().finish_beside(slf, &call, Err(error)),
        }
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Awaited(call) => visit.call(call),
            Self::Queued(call) => visit.call(call),
        }
    }
}

/// A call beside the dispatcher, as the future that its awaiter waits for.
///
/// Cancelling the future withdraws the call if it has not begun, and does nothing if it has: a function
/// cannot be stopped. The awaiter gets its cancellation when the function has returned.
#[pyclass(frozen, extends = Future, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct CallBeside {
    /// The `CallObject`, until the call begins or is withdrawn.
    call: GilSlot<Option<Py<PyAny>>>,
    /// The context in which the call is awaited, if there is one.
    context: Option<Py<PyAny>>,
    /// The task that awaits the call.
    task: Option<Py<PyAny>>,
    pool: Option<Py<Pool>>,
    function: EntryPoint,
}

impl CallBeside {
    /// Queue a call for a worker; returns the future of its result.
    pub(crate) fn submit<'py>(
        slf: &Bound<'py, Dispatcher>,
        call: Py<PyAny>,
        pool: Option<Py<Pool>>,
        function: EntryPoint,
    ) -> PyResult<Bound<'py, Self>> {
        let py = slf.py();
        let this = slf.get();
        this.check_closed()?;
        let future = Future::new(slf.clone().unbind());
        future.remember_source(py)?;
        let beside = Self {
            call: GilSlot::new(Some(call)),
            context: crate::interpreter::context(py),
            task: current::get(slf)?.map(Bound::unbind),
            pool,
            function,
        };
        let beside = Bound::new(py, PyClassInitializer::from(future).add_subclass(beside))?;
        Workers::submit_beside(slf, Job::Awaited(beside.clone().unbind()));
        Ok(beside)
    }

    /// Withdraw the call and cancel its future; `false` if the call has begun.
    fn withdraw(slf: &Bound<'_, Self>, message: Option<Py<PyAny>>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        if this.call.take(py).is_none() {
            return Ok(false);
        }
        this.leave_pool(slf.as_super().get().dispatcher.bind(py));
        Future::cancel_with(slf.as_super(), message)
    }

    /// Cancel the awaiting task once more: the function's error was raised in the place of its cancellation.
    pub(crate) fn recancel_awaiter(slf: &Bound<'_, Self>) -> PyResult<()> {
        let Some(task) = &slf.get().task else { return Ok(()) };
        let task = task.bind(slf.py());
        match task.cast::<Task>() {
            Ok(native) => native.get().must_cancel.set(slf.py(), true),
            // asyncio's own task, which is running: `uncancel` keeps its count of cancellations as it was.
            Err(_) => {
                task.call_method0(intern!(slf.py(), "cancel"))?;
                task.call_method0(intern!(slf.py(), "uncancel"))?;
            }
        }
        Ok(())
    }

    fn leave_pool(&self, slf: &Bound<'_, Dispatcher>) {
        if let Some(pool) = &self.pool {
            pool.get().finish(slf.py(), slf, false);
        }
    }

    /// Call the function on this thread. An `Err` is a fault of this library, not of the function.
    fn run(
        beside: &Bound<'_, Self>,
        slf: &Bound<'_, Dispatcher>,
        worker: &Worker,
    ) -> PyResult<Ran> {
        let py = slf.py();
        let this = beside.get();
        let Some(call) = this.call.take(py) else { return Ok(Ran::default()) };
        if let Some(context) = &this.context
            && !crate::callback::can_enter(py, context.bind(py))
        {
            // Something else runs in the context at this moment: queue the call again.
            drop(this.call.replace(py, Some(call)));
            slf.get().submit(py, Request::Beside(beside.clone().unbind()))?;
            return Ok(Ran::default());
        }
        // SAFETY: `call` is a `CallObject`, and keeps it alive.
        let object = unsafe { &*call.as_ptr().cast::<CallObject>() };
        let callable = object.callable();
        let parked = Parked::new(
            // SAFETY: the call keeps its function alive.
            unsafe { Bound::from_borrowed_ptr(py, callable) }.unbind(),
            this.pool.as_ref().and_then(|it| it.get().key(py)),
            this.task.as_ref().map(|it| it.clone_ref(py)),
            None,
            worker.thread_id,
        );
        slf.get().workers.keep_parked(py, worker.id, parked);
        let outcome = current::named(slf, this.task.as_ref(), || match &this.context {
            Some(context) => crate::callback::in_context(py, context, || object.call_function(slf)),
            None => object.call_function(slf),
        });
        drop(Workers::unpark(slf, worker));
        this.leave_pool(slf);
        drop(call);
        if slf.get().check_closed().is_err() {
            // Nothing waits for the result any more.
            return Ok(Ran::default());
        }
        // Not claimed earlier: dropping the objects above may run code that waits for the dispatcher to wake.
        let wakes = slf.get().claim_wake();
        match outcome {
            Ok(result) => Future::resolve(beside.as_super(), result),
            Err(error) => Future::fail(beside.as_super(), error.into_value(py).into_bound(py)),
        }?;
        Ok(Ran { function: Some(this.function), wakes })
    }
}

#[pymethods]
impl CallBeside {
    /// Withdraw the call. Return False if it has begun: a function cannot be cancelled before it returns.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        Self::withdraw(slf, msg)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.call.traverse(&visit, |call| visit.call(call))?;
        visit.call(&self.context)?;
        visit.call(&self.task)?;
        visit.call(&self.pool)
    }
}

impl Workers {
    /// Queue a call beside the dispatcher, and summon a worker for it.
    pub(crate) fn submit_beside(slf: &Bound<'_, Dispatcher>, job: Job) {
        let py = slf.py();
        let priority = job.priority(py);
        slf.get().workers.beside.with(py, |beside| beside.submit(priority, job));
        Self::summon_when(slf, When::GilIsFree);
    }

    /// Summon a worker for the calls that wait, unless one is on its way.
    pub(crate) fn summon(slf: &Bound<'_, Dispatcher>) {
        Self::summon_when(slf, When::Now);
    }

    fn summon_when(slf: &Bound<'_, Dispatcher>, when: When) {
        let py = slf.py();
        let workers = &slf.get().workers;
        let summons = workers
            .registry
            .with(py, |registry| workers.beside.with(py, |beside| beside.summon(registry)));
        match summons {
            Summons::NotNeeded => {}
            Summons::Unpark(id) if when == When::GilIsFree => {
                // Another worker may have taken the job for which `earlier` was to be woken. `called` holds
                // one worker, so wake the earlier one now.
                if let Some(earlier) = workers.called.replace(py, Some(id)) {
                    workers.role.slot(earlier).parker.unpark(WakeReason::WORK);
                }
            }
            Summons::Unpark(id) => workers.role.slot(id).parker.unpark(WakeReason::WORK),
            Summons::Spawn(id) => {
                if !Worker::spawn(slf, id, WakeReason::WORK) {
                    workers.registry.with(py, |registry| registry.ended(id));
                    workers.beside.with(py, |beside| beside.arrived());
                    Self::not_spawned(slf);
                }
            }
            Summons::Full => workers.summon_monitor(py),
        }
    }

    /// Have the monitor, if there is one, take the calls: it has nothing to watch now, or soon.
    fn summon_monitor(&self, py: Python<'_>) {
        if let Some(monitor) = self.role.monitor() {
            self.beside.with(py, |beside| beside.summon_monitor());
            self.role.slot(monitor).parker.unpark(WakeReason::WORK);
        }
    }

    /// Handle a failure to start a worker: if there is no other, the calls that wait fail.
    #[cold]
    fn not_spawned(slf: &Bound<'_, Dispatcher>) {
        let py = slf.py();
        let workers = &slf.get().workers;
        workers.count_refused();
        while let Err(error) = workers.check_threads(py) {
            let Some(job) = workers.beside.with(py, |beside| beside.take()) else { return };
            if let Err(error) = job.fail(slf, error) {
                error.write_unraisable(py, Some(slf));
            }
        }
        // The monitor may be the only worker.
        workers.summon_monitor(py);
    }

    /// Run the calls that wait, one after the other.
    pub(crate) fn work(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> Worked {
        let py = slf.py();
        let this = slf.get();
        let workers = &this.workers;
        let cpu_ns = |id: WorkerId| workers.role.slot(id).traces.cpu_ns();
        let mut sleeps_at: Option<Arc<Poller>> = None;
        loop {
            if workers.is_stopped.load(Relaxed) {
                return Worked { is_done: true, sleeps_at };
            }
            if workers.beside.with(py, |beside| !beside.is_empty())
                && let Some(poller) = sleeps_at.take()
            {
                // Results of earlier calls must not wait for the next call. From here to that call the GIL is
                // not given up, so that calls start in the order in which they came.
                let _ = py.detach(|| poller.wake());
            }
            let now_ns = clock::now_ns();
            if !workers.beside.with(py, |beside| beside.may_begin(now_ns, cpu_ns)) {
                return Worked { is_done: false, sleeps_at };
            }
            let job = workers.beside.with(py, |beside| {
                beside.arrived();
                beside.take()
            });
            let Some(job) = job else { return Worked { is_done: true, sleeps_at } };
            Self::summon(slf);
            // A function starts in the default state, whatever ran on this thread before.
            if fp::State::read() != fp::State::DEFAULT {
                fp::State::DEFAULT.restore();
            }
            let before = ThreadUsage::of_this_thread();
            let began_ns = clock::now_ns();
            workers.beside.with(py, |beside| beside.begins(worker.id, began_ns, before.cpu_ns));
            let ran = job.run(slf, worker);
            workers.beside.with(py, |beside| beside.ends(worker.id));
            let has_waited = ThreadUsage::of_this_thread().n_waits > before.n_waits;
            let is_slow = clock::now_ns() - began_ns >= SLOW_NS;
            let ran = ran.unwrap_or_else(|error| {
                if let Err(error) = Dispatcher::outlive(slf, Err(error)) {
                    workers.set_pending(py, error);
                }
                Ran { function: None, wakes: true }
            });
            if let Some(function) = ran.function {
                this.histories.with(py, |histories| {
                    histories.of(function).map(|it| it.returned(has_waited || is_slow))
                });
            }
            if ran.wakes {
                sleeps_at = this.poller(py).ok();
            }
            // The function may have forked: this process may be the child.
            if let Err(error) = Self::end_if_over(slf) {
                error.write_unraisable(py, Some(slf));
            }
        }
    }

    /// Sort the calls that wait: the priority of a pool has changed.
    pub(crate) fn sort_beside(&self, py: Python<'_>) {
        self.beside.with(py, |beside| beside.resort(|job| job.priority(py)));
    }

    /// Give up the calls that wait: the loop is closed.
    pub(crate) fn abandon_beside(&self, py: Python<'_>) {
        for job in self.beside.with(py, |beside| beside.take_all()) {
            // See `Dispatcher::_release`.
            if let Err(error) = job.abandon(py)
                && !error.is_instance_of::<PyRuntimeError>(py)
            {
                error.write_unraisable(py, None);
            }
        }
    }

    /// Cancel the calls of this pool that have not begun beside the dispatcher; returns how many.
    pub(crate) fn cancel_beside(
        &self,
        pool: &Bound<'_, Pool>,
        message: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let py = pool.py();
        let waiting: Vec<_> = self.beside.with(py, |beside| {
            let of_pool = beside.jobs().filter(|it| it.pool().is_some_and(|it| it.is(pool)));
            of_pool.map(|job| job.clone_ref(py)).collect()
        });
        let mut n_cancelled = 0;
        for job in waiting {
            n_cancelled += usize::from(job.cancel(py, message)?);
        }
        Ok(n_cancelled)
    }

    /// Visit the calls that wait, for the cycle collector.
    pub(crate) fn visit_beside(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.beside.traverse(visit, |beside| beside.jobs().try_for_each(|job| job.visit(visit)))
    }
}

impl Dispatcher {
    /// Choose where a call starts; `name` gives the name of its function if that is not known yet.
    #[inline]
    pub(crate) fn choose_start(
        slf: &Bound<'_, Self>,
        worker: &Worker,
        function: EntryPoint,
        pool: Option<&Bound<'_, Pool>>,
        name: impl FnOnce() -> Option<Py<PyString>>,
    ) -> Start {
        let py = slf.py();
        let this = slf.get();
        let must = pool
            .and_then(|it| it.get().start())
            .or_else(|| this.start.get(py))
            .or_else(|| (!this.workers.may_block(py, worker.id)).then_some(Start::Beside));
        let start = this.histories.with(py, |histories| histories.start(function, must));
        start.unwrap_or_else(|| this.meet(py, function, must, name()))
    }

    #[cold]
    #[inline(never)]
    fn meet(
        &self,
        py: Python<'_>,
        function: EntryPoint,
        must: Option<Start>,
        name: Option<Py<PyString>>,
    ) -> Start {
        let forgotten = self.histories.with(py, |histories| histories.meet(function, name));
        drop(forgotten);
        let start = self.histories.with(py, |histories| histories.start(function, must));
        start.unwrap_or(Start::Beside)
    }

    /// Record that an inline call has blocked, or kept other requests waiting for long.
    #[cold]
    pub(crate) fn note_mistake(&self, py: Python<'_>, function: EntryPoint) {
        self.histories.with(py, |histories| histories.of(function).map(|it| it.note_mistake()));
    }

    /// Add the counts of calls to the statistics.
    pub(crate) fn add_calls(&self, stats: &Bound<'_, PyDict>) -> PyResult<()> {
        let py = stats.py();
        let totals = self.histories.with(py, |histories| histories.totals());
        stats.set_item("calls_inline", totals.n_inline)?;
        stats.set_item("calls_beside", totals.n_beside)?;
        stats.set_item("mistakes", totals.n_mistakes)?;
        stats.set_item("functions", self.functions(py, None)?)
    }

    /// Record that an inline call did not start: it waits for a worker that could take over from it.
    #[cold]
    pub(crate) fn note_not_started(&self, py: Python<'_>, function: EntryPoint) {
        self.histories.with(py, |histories| histories.of(function).map(|it| it.note_not_started()));
    }

    /// List the functions that were called, in this pool or in any, with their histories.
    pub(crate) fn functions<'py>(
        &self,
        py: Python<'py>,
        pool: Option<usize>,
    ) -> PyResult<Bound<'py, PyList>> {
        let known: Vec<_> = self.histories.with(py, |histories| {
            let all = histories.all().filter(|(it, ..)| pool.is_none_or(|pool| it.pool == pool));
            all.map(|(_, history, name)| (history, name.as_ref().map(|it| it.clone_ref(py))))
                .collect()
        });
        let rows = known.into_iter().map(|(history, name)| {
            let row = PyDict::new(py);
            let start = match history.next_start() {
                Start::Inline => "inline",
                Start::Beside => "beside",
            };
            row.set_item("function", name)?;
            row.set_item("start", start)?;
            row.set_item("inline", history.n_inline())?;
            row.set_item("beside", history.n_beside())?;
            row.set_item("mistakes", history.n_mistakes())?;
            Ok(row)
        });
        PyList::new(py, rows.collect::<PyResult<Vec<_>>>()?)
    }
}

/// Parse where calls start: `None` ("auto") leaves it to the history of each function.
pub(crate) fn parse_start(start: &str) -> PyResult<Option<Start>> {
    match start {
        "auto" => Ok(None),
        "inline" => Ok(Some(Start::Inline)),
        "beside" => Ok(Some(Start::Beside)),
        other => Err(PyValueError::new_err(format!(
            "start is {other:?}; it must be 'auto', 'inline' or 'beside'"
        ))),
    }
}

#[pymethods]
impl Dispatcher {
    /// Where calls start unless their pool says so: "auto", "inline" or "beside".
    #[getter(_start)]
    fn start(&self, py: Python<'_>) -> &'static str {
        match self.start.get(py) {
            None => "auto",
            Some(Start::Inline) => "inline",
            Some(Start::Beside) => "beside",
        }
    }

    #[setter(_start)]
    fn set_start(&self, py: Python<'_>, start: &str) -> PyResult<()> {
        self.start.set(py, parse_start(start)?);
        Ok(())
    }
}
