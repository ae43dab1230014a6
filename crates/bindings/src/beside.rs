//! Calls beside the dispatcher: on another thread of its workers from the start, while the role stays where it is.
//!
//! Where a call starts, the history of its function says (`threadlets_core::history`); who comes for it, the core
//! says too (`takeover::Beside`). A call does not notice where it runs: it is called in its awaiter's context, the
//! loop runs in its thread, and what it returns or raises is what the await gives.

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

/// When a thread is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Now,
    /// When the dispatcher gives the GIL up to wait for events: before that the thread could do nothing.
    GilIsFree,
}

/// What a piece of work came to.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// The function that was called, if it was.
    pub(crate) function: Option<EntryPoint>,
    /// The dispatcher waits, and is to be woken.
    pub(crate) wakes: bool,
}

/// How a thread has done its work.
#[derive(Debug)]
pub(crate) struct Worked {
    /// No work is left; `false`: enough other functions compute, and it has to wait.
    pub(crate) is_done: bool,
    /// Where the dispatcher sleeps, which is to be woken once the GIL is free.
    pub(crate) sleeps_at: Option<Arc<Poller>>,
}

/// Work for a thread beside the dispatcher.
#[derive(Debug)]
pub(crate) enum Job {
    /// A call that a coroutine awaits.
    Awaited(Py<CallBeside>),
    /// A call that was queued.
    Queued(Py<QueuedCall>),
}

impl Job {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Awaited(call) => Self::Awaited(call.clone_ref(py)),
            Self::Queued(call) => Self::Queued(call.clone_ref(py)),
        }
    }

    /// The user's pool that it is in.
    fn pool(&self) -> Option<&Py<Pool>> {
        match self {
            Self::Awaited(call) => call.get().pool.as_ref(),
            Self::Queued(call) => call.get().pool(),
        }
    }

    fn priority(&self, py: Python<'_>) -> Priority {
        self.pool().map_or(Priority::Normal, |it| it.get().its_priority(py))
    }

    /// Cancel what awaits it, which has not begun; whether that was possible.
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

    /// Do it, on this thread. An error is a fault of ours.
    fn run(self, slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<Ran> {
        match self {
            Self::Awaited(call) => CallBeside::run(call.bind(slf.py()), slf, worker),
            Self::Queued(call) => call.get().run_beside(slf, &call, worker),
        }
    }

    /// Give up what has not begun: the loop is closed.
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

    /// It cannot begin.
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

/// A call beside the dispatcher: the future that its awaiter waits for.
///
/// Cancelling it withdraws the call if it has not begun, and does nothing if it has: a function cannot be
/// stopped. The awaiter is told of its cancellation when the function has returned.
#[pyclass(frozen, extends = Future, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct CallBeside {
    /// A `CallObject`, until it begins or is withdrawn.
    call: GilSlot<Option<Py<PyAny>>>,
    /// The context in which it is awaited, if there is one.
    context: Option<Py<PyAny>>,
    /// The task that awaits it.
    task: Option<Py<PyAny>>,
    pool: Option<Py<Pool>>,
    function: EntryPoint,
}

impl CallBeside {
    /// Have a thread call a function; the future of what it returns.
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

    /// Take the call back; whether it had not begun.
    fn withdraw(slf: &Bound<'_, Self>, message: Option<Py<PyAny>>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        if this.call.take(py).is_none() {
            return Ok(false);
        }
        this.leave_pool(slf.as_super().get().dispatcher.bind(py));
        Future::cancel_with(slf.as_super(), message)
    }

    /// Cancel the task that awaits the call once more: its cancellation gave way to the function's error.
    pub(crate) fn cancel_awaiter_anew(slf: &Bound<'_, Self>) -> PyResult<()> {
        let Some(task) = &slf.get().task else { return Ok(()) };
        let task = task.bind(slf.py());
        match task.cast::<Task>() {
            Ok(native) => native.get().must_cancel.set(slf.py(), true),
            // asyncio's own task, which is running: it is cancelled as often as before.
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

    /// Call the function, on this thread. An error is a fault of ours.
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
            // Something else runs in it at this moment.
            drop(this.call.replace(py, Some(call)));
            slf.get().submit(py, Request::Beside(beside.clone().unbind()))?;
            return Ok(Ran::default());
        }
        // SAFETY: it was made from a call, which `call` keeps alive.
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
            // Nothing waits for it any more.
            return Ok(Ran::default());
        }
        // Not before: what was dropped may have run code that waits for the loop.
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
    /// Withdraw the call; `false` if it has begun, because it is not cancelled before it has returned.
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
    /// Queue work for a thread beside the dispatcher, and see to it that one comes.
    pub(crate) fn submit_beside(slf: &Bound<'_, Dispatcher>, job: Job) {
        let py = slf.py();
        let priority = job.priority(py);
        slf.get().workers.beside.with(py, |beside| beside.submit(priority, job));
        Self::summon_when(slf, When::GilIsFree);
    }

    /// See to it that a thread comes for the work that waits.
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
            Summons::Nobody => {}
            Summons::Unpark(id) if when == When::GilIsFree => {
                // Another thread may have come for the work for which one is to be called: that one is called, too.
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
            Summons::Full => workers.summon_from_watch(py),
        }
    }

    /// Have the thread on watch, if there is one, come for the work: it has nothing to watch now, or soon.
    fn summon_from_watch(&self, py: Python<'_>) {
        if let Some(monitor) = self.role.monitor() {
            self.beside.with(py, |beside| beside.summon_from_watch());
            self.role.slot(monitor).parker.unpark(WakeReason::WORK);
        }
    }

    /// No thread could be started: without any other, what waits cannot be done.
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
        // The watch may be all that there is.
        workers.summon_from_watch(py);
    }

    /// Do what waits, one after the other.
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
                // What was done before is not to wait for what comes now. From here to the call the GIL stays here,
                // so that calls start in the order in which they came.
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
            // A function starts from a known state, whatever ran here before.
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
            // This process may be a child that the function has made.
            if let Err(error) = Self::end_if_over(slf) {
                error.write_unraisable(py, Some(slf));
            }
        }
    }

    /// The priority of a pool has changed, and with it that of the work that waits.
    pub(crate) fn sort_beside(&self, py: Python<'_>) {
        self.beside.with(py, |beside| beside.sort_anew(|job| job.priority(py)));
    }

    /// Give up the work that waits: the loop is closed.
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

    /// Cancel the calls of this pool that have not begun beside the dispatcher; how many.
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

    /// Visit the work that waits, for the cycle collector.
    pub(crate) fn visit_beside(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.beside.traverse(visit, |beside| beside.jobs().try_for_each(|job| job.visit(visit)))
    }
}

impl Dispatcher {
    /// Where a call is to start; `name` names its function, should that not be known yet.
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

    /// A call that was inline has blocked, or kept others waiting for long.
    #[cold]
    pub(crate) fn was_mistaken(&self, py: Python<'_>, function: EntryPoint) {
        self.histories.with(py, |histories| histories.of(function).map(|it| it.was_mistaken()));
    }

    /// Add what is known of calls to the statistics.
    pub(crate) fn add_calls(&self, stats: &Bound<'_, PyDict>) -> PyResult<()> {
        let py = stats.py();
        let totals = self.histories.with(py, |histories| histories.totals());
        stats.set_item("calls_inline", totals.n_inline)?;
        stats.set_item("calls_beside", totals.n_beside)?;
        stats.set_item("mistakes", totals.n_mistakes)?;
        stats.set_item("functions", self.functions(py, None)?)
    }

    /// A call that was to be inline waits for a thread that could take over.
    #[cold]
    pub(crate) fn did_not_start(&self, py: Python<'_>, function: EntryPoint) {
        self.histories.with(py, |histories| histories.of(function).map(|it| it.did_not_start()));
    }

    /// What is known of the functions that were called, in this pool or in any.
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

/// Parse where calls are to start: `None` leaves it to what is known of each function.
pub(crate) fn parse_start(start: &str) -> PyResult<Option<Start>> {
    match start {
        "auto" => Ok(None),
        "inline" => Ok(Some(Start::Inline)),
        "beside" => Ok(Some(Start::Beside)),
        other => Err(PyValueError::new_err(format!(
            "start is {other:?}; it is 'auto', 'inline' or 'beside'"
        ))),
    }
}

#[pymethods]
impl Dispatcher {
    /// Where calls start that are in no pool which says so: "auto", "inline" or "beside".
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
