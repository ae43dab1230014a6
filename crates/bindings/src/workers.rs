//! The workers of one dispatcher: its role, the threads that can hold it, and what is parked while a
//! threadlet is blocked.

use std::collections::BTreeMap;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, ffi, intern};
use threadlets_core::takeover::{
    self, Beside, Boundary, Called, Cause, IdleMonitor, Monitor, Monitoring, Parker, Role, Taken,
    WakeReason, WorkerId, WorkerRegistry,
};
use threadlets_core::{PoolKey, clock};

use crate::beside::Job;
use crate::callback::can_enter;
use crate::dispatcher::Dispatcher;
use crate::gil_cell::{GilCell, GilSlot};
use crate::greenlets;
use crate::interpreter;
use crate::request::Request;
use crate::task::current;
use crate::worker::Worker;

/// How often a returning call that waits for the role checks whether the dispatcher is still in the same
/// request, which it then reports as a stall; and the same in debug mode.
const STALL: Duration = Duration::from_secs(5);
const STALL_IN_DEBUG_MODE: Duration = Duration::from_millis(500);

/// A function that is blocked, or runs beside the dispatcher, and the task or future that waits for it.
#[derive(Debug)]
pub(crate) struct Parked {
    callable: Py<PyAny>,
    pool: Option<PoolKey>,
    pub(crate) task: Option<Py<PyAny>>,
    future: Option<Py<PyAny>>,
    thread_id: u64,
    since_ns: u64,
    /// The function has returned and waits for the role.
    pub(crate) is_returning: bool,
}

impl Parked {
    /// A function that is blocked from now on, or begins now on a thread beside the dispatcher.
    pub(crate) fn new(
        callable: Py<PyAny>,
        pool: Option<PoolKey>,
        task: Option<Py<PyAny>>,
        future: Option<Py<PyAny>>,
        thread_id: u64,
    ) -> Self {
        let since_ns = clock::now_ns();
        Self { callable, pool, task, future, thread_id, since_ns, is_returning: false }
    }
}

/// Function, thread, since when in seconds, whether it has returned, awaiting task.
type Blocked = (Py<PyAny>, u64, f64, bool, Option<Py<PyAny>>);

/// How a protected call ended.
#[derive(Debug)]
pub(crate) enum Protected<R> {
    /// This worker still has the role.
    Kept(R),
    /// This worker still has the role, and the call kept other requests waiting for long.
    Slow(R),
    /// Another worker has the role.
    Lost(R),
    /// The function was not called: no thread is left that could take over.
    Full,
}

#[derive(Debug, Default)]
struct Counts {
    n_blocked: AtomicU64,
    n_computing: AtomicU64,
    n_overdue: AtomicU64,
    n_taken_on_return: AtomicU64,
    n_granted: AtomicU64,
    n_full: AtomicU64,
    n_not_spawned: AtomicU64,
}

/// How many functions may compute beside the dispatcher at once: the size of asyncio's own executor.
fn n_computing_max() -> usize {
    let n_cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (n_cpus + 4).min(32)
}

/// The threads of one dispatcher.
#[derive(Debug)]
pub(crate) struct Workers {
    pub(crate) role: Arc<Role>,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) registry: GilCell<WorkerRegistry>,
    /// The work that waits for a thread beside the dispatcher.
    pub(crate) beside: GilCell<Beside<Job>>,
    /// The thread to be called for that work when the dispatcher next releases the GIL.
    pub(crate) called: GilSlot<Option<WorkerId>>,
    /// Which threads have bound tasks, and the steps that wait for those threads.
    pub(crate) bound: GilCell<takeover::Bound<Request>>,
    pub(crate) n_ties: AtomicUsize,
    pub(crate) n_handed_over: AtomicUsize,
    /// The function that the dispatcher is calling, and the index of its pool plus one (zero: none), for a
    /// worker that takes over.
    calling: AtomicPtr<ffi::PyObject>,
    calling_pool: AtomicUsize,
    /// The future that only the call itself settles; null for a call in an awaiting task.
    calling_future: AtomicPtr<ffi::PyObject>,
    pub(crate) parked: GilCell<BTreeMap<usize, Parked>>,
    /// How many functions are blocked.
    pub(crate) n_parked: AtomicUsize,
    /// Requests whose context a blocked threadlet holds; they are queued again when a threadlet returns.
    deferred: GilCell<Vec<Request>>,
    /// The exception that ends the loop, on its way to the home thread.
    pending: GilCell<Option<PyErr>>,
    /// Unparked when a thread has ended.
    pub(crate) exits: Arc<Parker>,
    pub(crate) is_stopped: AtomicBool,
    /// This process is the child of a fork that was made on a worker thread: it has no home thread.
    pub(crate) is_orphaned: AtomicBool,
    /// Signals whose handlers are set with the kernel, not yet with the interpreter; see `signals.rs`.
    pub(crate) interim_signals: AtomicU64,
    counts: Counts,
}

impl Workers {
    pub(crate) fn new(n_threads_max: usize) -> Self {
        let role = Arc::new(Role::new(n_threads_max));
        Self {
            monitor: Arc::new(Monitor::new(Arc::clone(&role), interpreter::holds_gil)),
            role,
            registry: GilCell::new(WorkerRegistry::new(n_threads_max)),
            beside: GilCell::new(Beside::new(n_computing_max())),
            called: GilSlot::default(),
            bound: GilCell::default(),
            n_ties: AtomicUsize::new(0),
            n_handed_over: AtomicUsize::new(0),
            calling: AtomicPtr::new(null_mut()),
            calling_pool: AtomicUsize::new(0),
            calling_future: AtomicPtr::new(null_mut()),
            parked: GilCell::default(),
            n_parked: AtomicUsize::new(0),
            deferred: GilCell::default(),
            pending: GilCell::default(),
            exits: Arc::default(),
            is_stopped: AtomicBool::new(false),
            is_orphaned: AtomicBool::new(false),
            interim_signals: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// Call a function, by `call`, as a threadlet, from which the role can be taken over. Inside a
    /// threadlet it is just called.
    #[inline]
    pub(crate) fn protect<R>(
        slf: &Bound<'_, Dispatcher>,
        worker: &Worker,
        callable: *mut ffi::PyObject,
        pool: Option<PoolKey>,
        future: *mut ffi::PyObject,
        call: impl FnOnce() -> R,
    ) -> Protected<R> {
        let workers = &slf.get().workers;
        let seq = match workers.role.enter(worker.id) {
            Called::Monitored(seq) => seq,
            Called::Unmonitored(seq) if Self::ensure_monitor(slf) => seq,
            Called::Unmonitored(seq) => {
                workers.role.leave(worker.id, seq);
                return Protected::Full;
            }
            Called::Inside => return Protected::Kept(call()),
        };
        workers.calling.store(callable, Relaxed);
        workers.calling_pool.store(pool.map_or(0, |it| it.index() + 1), Relaxed);
        workers.calling_future.store(future, Relaxed);
        let result = call();
        if !workers.role.leave(worker.id, seq) {
            Protected::Lost(result)
        } else if workers.monitor.was_slow(seq) {
            Protected::Slow(result)
        } else {
            Protected::Kept(result)
        }
    }

    /// Make sure that there is a monitor, and that it is awake; `false`: no thread is left for it.
    #[cold]
    fn ensure_monitor(slf: &Bound<'_, Dispatcher>) -> bool {
        let py = slf.py();
        let workers = &slf.get().workers;
        match workers.registry.with(py, |registry| workers.role.ensure_monitor(registry)) {
            Monitoring::Monitored => true,
            Monitoring::Spawn(id) => {
                workers.monitor.start_idle_monitor();
                let spawned = Worker::spawn(slf, id, WakeReason::MONITOR);
                if !spawned {
                    workers.count_refused();
                    workers.registry.with(py, |registry| workers.role.not_spawned(registry, id));
                    // If there are other threads, calls can wait until one of them is idle.
                    slf.get().hold_calls(py, workers.check_threads(py).is_ok());
                }
                spawned
            }
            Monitoring::Full => {
                workers.counts.n_full.fetch_add(1, Relaxed);
                slf.get().hold_calls(py, true);
                false
            }
        }
    }

    /// Fail unless there are threads: without a monitor, a call can wait for one of them to become idle.
    pub(crate) fn check_threads(&self, py: Python<'_>) -> PyResult<()> {
        if self.registry.with(py, |registry| registry.n_threads()) > 0 {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(
            "can't start new thread: a threadlet needs one that could take over from it; raise the \
             limit (`ulimit -u`, or pids.max of the control group), or the memory of the process",
        ))
    }

    /// Count a thread that the system has refused to start.
    pub(crate) fn count_refused(&self) {
        self.counts.n_not_spawned.fetch_add(1, Relaxed);
    }

    /// Count why the role was taken over.
    pub(crate) fn count(&self, cause: Cause) {
        let count = match cause {
            Cause::Blocked => &self.counts.n_blocked,
            Cause::Computing => &self.counts.n_computing,
            Cause::Overdue => &self.counts.n_overdue,
        };
        count.fetch_add(1, Relaxed);
    }

    /// Note that a worker has got the role: which thread runs the loop, and its own current task.
    ///
    /// Runs no Python code before the blocked function is parked: the function could return meanwhile.
    pub(crate) fn gained(slf: &Bound<'_, Dispatcher>, worker: &Worker, taken: Option<Taken>) {
        let py = slf.py();
        let this = slf.get();
        let workers = &this.workers;
        match taken {
            Some(Taken::FromThreadlet(victim)) => workers.park(slf, victim),
            Some(Taken::FromPoll) => this.end_poll_of_victim(py),
            Some(Taken::Vacant) | None => {}
        }
        this.set_thread(worker.thread_id);
        Self::resume(slf, worker);
        greenlets::look(slf, worker);
    }

    /// Make the task whose function has returned the current one again.
    fn resume(slf: &Bound<'_, Dispatcher>, worker: &Worker) {
        let py = slf.py();
        let parked = Self::unpark(slf, worker);
        // A native step does not clear the current task itself: with this set, the next request does.
        slf.get().names_task.store(true, Relaxed);
        if let Some(task) = parked.as_ref().and_then(|it| it.task.as_ref())
            && let Err(error) = current::unpark(slf, task)
        {
            error.write_unraisable(py, Some(slf));
        }
    }

    /// In debug mode, look for objects that stay behind on a thread that is blocked.
    pub(crate) fn tell_of_move(slf: &Bound<'_, Dispatcher>, worker: &Worker, taken: Taken) {
        let py = slf.py();
        let Taken::FromThreadlet(victim) = taken else { return };
        if !slf.get().is_debug() {
            return;
        }
        let parked = &slf.get().workers.parked;
        let blocked = parked.with(py, |it| it.get(&victim.index()).map(|it| it.thread_id));
        if let Some(blocked) = blocked
            && let Err(error) =
                slf.call_method1(intern!(py, "_role_moved"), (blocked, worker.thread_id))
        {
            error.write_unraisable(py, Some(slf));
        }
    }

    /// Park a blocked function with its task, so that other tasks can run.
    fn park(&self, slf: &Bound<'_, Dispatcher>, victim: WorkerId) {
        let py = slf.py();
        // SAFETY: the dispatcher is inside the call, on whose stack both are alive.
        let (callable, future) = unsafe {
            let callable = Bound::from_borrowed_ptr(py, self.calling.load(Relaxed)).unbind();
            let future = Bound::from_borrowed_ptr_or_opt(py, self.calling_future.load(Relaxed));
            (callable, future.map(Bound::unbind))
        };
        let pool = self.calling_pool.load(Relaxed).checked_sub(1).map(PoolKey::from_index);
        let task = current::park(slf, victim).unwrap_or_else(|error| {
            error.write_unraisable(py, Some(slf));
            None
        });
        let thread_id = slf.get().thread().unwrap_or(0);
        self.keep_parked(py, victim, Parked::new(callable, pool, task, future, thread_id));
    }

    /// Record the function that a thread is inside, and what waits for it, until it returns.
    pub(crate) fn keep_parked(&self, py: Python<'_>, worker: WorkerId, parked: Parked) {
        self.n_parked.fetch_add(1, Relaxed);
        drop(self.parked.with(py, |it| it.insert(worker.index(), parked)));
    }

    /// Take out what was parked for a worker whose function has returned, and queue deferred requests.
    pub(crate) fn unpark(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> Option<Parked> {
        let py = slf.py();
        let this = slf.get();
        let workers = &this.workers;
        let parked = workers.parked.with(py, |parked| parked.remove(&worker.id.index()));
        workers.n_parked.fetch_sub(usize::from(parked.is_some()), Relaxed);
        let deferred = workers.deferred.with(py, std::mem::take);
        if !deferred.is_empty() {
            this.queues.with(py, |queues| deferred.into_iter().for_each(|it| queues.submit(it)));
            // Fails for a closed loop only, where no dispatcher waits.
            let _ = this.wake_if_sleeping(py);
        }
        parked
    }

    /// Whether a context cannot be entered because a threadlet that was called in it is blocked.
    #[inline]
    pub(crate) fn holds_context(&self, context: &Bound<'_, PyAny>) -> bool {
        self.n_parked.load(Relaxed) > 0 && !can_enter(context.py(), context)
    }

    /// Keep a request until a blocked function returns.
    pub(crate) fn defer(&self, py: Python<'_>, request: Request) {
        self.deferred.with(py, |deferred| deferred.push(request));
    }

    /// Get the role back after a function has returned, and wait for it if need be.
    ///
    /// Fails if a signal handler has raised (with the role here all the same), or if the loop was closed.
    pub(crate) fn get_role_back(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<()> {
        let py = slf.py();
        let workers = &slf.get().workers;
        if let Some(taken) =
            workers.registry.with(py, |registry| workers.role.ask(registry, worker.id))
        {
            workers.counts.n_taken_on_return.fetch_add(1, Relaxed);
            Self::gained(slf, worker, Some(taken));
            Self::tell_of_move(slf, worker, taken);
            return Self::settle_signals(slf, worker);
        }
        workers.parked.with(py, |parked| {
            if let Some(parked) = parked.get_mut(&worker.id.index()) {
                parked.is_returning = true;
            }
        });
        let mut outcome = Ok(());
        let parker = &workers.role.slot(worker.id).parker;
        let patience = if slf.get().is_debug() { STALL_IN_DEBUG_MODE } else { STALL };
        let mut looked_at = None;
        let mut reported_at = None;
        loop {
            // A signal's byte does not end this wait: check for signals that came inside the function. If a
            // handler raises, its exception waits for the role.
            if let Err(error) = py.check_signals() {
                outcome = Err(error);
            }
            let reasons = py.detach(|| parker.park(WakeReason::GRANT, Some(patience)));
            if reasons.has(WakeReason::GRANT) {
                break;
            }
            if reasons.has(WakeReason::STOP) {
                Self::resume(slf, worker);
                return Err(PyRuntimeError::new_err(
                    "Event loop was closed while a threadlet was blocked; its result is lost",
                ));
            }
            let now = slf.get().thread().zip(Some(slf.get().n_requests()));
            if workers.role.owner().is_some() && now == looked_at && now != reported_at {
                Self::report_stall(slf);
                reported_at = now;
            }
            looked_at = now;
        }
        workers.counts.n_granted.fetch_add(1, Relaxed);
        Self::gained(slf, worker, None);
        outcome.and(Self::settle_signals(slf, worker))
    }

    /// Whether the task that awaits a call was cancelled while the function was blocked.
    pub(crate) fn is_cancelled(slf: &Bound<'_, Dispatcher>) -> PyResult<bool> {
        let py = slf.py();
        let Some(task) = current::get(slf)? else { return Ok(false) };
        // A task of a user's own class need not have the attribute.
        match task.getattr_opt(intern!(py, "_must_cancel"))? {
            Some(must_cancel) => must_cancel.is_truthy(),
            None => Ok(false),
        }
    }

    /// Report a dispatcher that does not come to a boundary, and the threads that wait for the role.
    #[cold]
    fn report_stall(slf: &Bound<'_, Dispatcher>) {
        let py = slf.py();
        let waiting: Vec<u64> = slf.get().workers.parked.with(py, |parked| {
            parked.values().filter(|it| it.is_returning).map(|it| it.thread_id).collect()
        });
        let report = (slf.get().thread(), waiting);
        if let Err(error) = slf.call_method1(intern!(py, "_dispatcher_stalls"), report) {
            error.write_unraisable(py, Some(slf));
        }
    }

    /// The boundary between two requests: whether this worker still has the role.
    #[inline]
    pub(crate) fn keeps_role(&self, py: Python<'_>, worker: &Worker) -> bool {
        self.registry.with(py, |registry| self.role.boundary(registry, worker.id)) == Boundary::Kept
    }

    /// Drop the deferred requests and the pending exception, when the loop is closed.
    pub(crate) fn release(&self, py: Python<'_>) {
        drop(self.deferred.with(py, std::mem::take));
        drop(self.pending.with(py, Option::take));
    }

    /// Have the home thread raise an exception; the first one, if there are several.
    pub(crate) fn set_pending(&self, py: Python<'_>, error: PyErr) {
        let later = self.pending.with(py, |pending| match pending {
            Some(_) => Some(error),
            None => pending.replace(error),
        });
        drop(later);
    }

    pub(crate) fn has_pending(&self, py: Python<'_>) -> bool {
        self.pending.with(py, |pending| pending.is_some())
    }

    pub(crate) fn take_pending(&self, py: Python<'_>) -> PyResult<()> {
        self.pending.with(py, Option::take).map_or(Ok(()), Err)
    }

    /// Cancel the tasks and futures that wait for blocked functions of this pool; how many.
    pub(crate) fn cancel_blocked(
        &self,
        py: Python<'_>,
        pool: PoolKey,
        message: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let tasks: Vec<_> = self.parked.with(py, |parked| {
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

    /// The functions that are blocked: each with the thread that it blocks, since when in seconds of the
    /// loop's time, whether it has returned and waits for the role, and the task that awaits it.
    pub(crate) fn blocked(&self, py: Python<'_>) -> Vec<Blocked> {
        self.parked.with(py, |parked| {
            let row = |it: &Parked| {
                let since = clock::to_seconds(it.since_ns);
                let task = it.task.as_ref().map(|it| it.clone_ref(py));
                (it.callable.clone_ref(py), it.thread_id, since, it.is_returning, task)
            };
            parked.values().map(row).collect()
        })
    }

    /// Statistics of the workers so far.
    pub(crate) fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counts = &self.counts;
        let stats = PyDict::new(py);
        for (name, count) in [
            ("takeovers_blocked", &counts.n_blocked),
            ("takeovers_computing", &counts.n_computing),
            ("takeovers_overdue", &counts.n_overdue),
            ("returns_at_once", &counts.n_taken_on_return),
            ("returns_granted", &counts.n_granted),
            ("calls_held", &counts.n_full),
            ("threads_refused", &counts.n_not_spawned),
        ] {
            stats.set_item(name, count.load(Relaxed))?;
        }
        self.registry.with(py, |registry| {
            stats.set_item("threads", registry.n_threads())?;
            stats.set_item("threads_idle", registry.n_idle())?;
            stats.set_item("threads_peak", registry.n_threads_peak())?;
            stats.set_item("threads_max", registry.n_threads_max())?;
            stats.set_item("returning", registry.n_waiting())
        })?;
        stats.set_item("blocked", self.parked.with(py, |parked| parked.len()))?;
        let monitor = match self.monitor.idle_monitor() {
            IdleMonitor::NotStarted => "not started",
            IdleMonitor::Present => "idle monitor and timer",
            IdleMonitor::Refused => "timer",
        };
        stats.set_item("monitor", monitor)?;
        Ok(stats)
    }

    /// Visit what is parked, for the cycle collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.parked.traverse(visit, |parked| {
            parked.values().try_for_each(|it| {
                visit.call(&it.callable)?;
                visit.call(&it.task)?;
                visit.call(&it.future)
            })
        })?;
        self.visit_beside(visit)?;
        self.visit_bound(visit)?;
        self.deferred.traverse(visit, |deferred| {
            deferred.iter().try_for_each(|request| request.traverse(visit))
        })
    }
}

#[pymethods]
impl Dispatcher {
    /// Statistics of the workers and of calls so far, and how many threads there are.
    fn _worker_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.workers.stats(py)?;
        self.add_calls(&stats)?;
        Ok(stats)
    }

    /// The functions that are blocked: function, thread, since when in seconds of the loop's time,
    /// whether it has returned and waits for the role, and the task that awaits it.
    fn _blocked(&self, py: Python<'_>) -> Vec<Blocked> {
        self.workers.blocked(py)
    }

    /// After how many seconds a call that computes is taken over; None: never.
    #[getter(_preempt_s)]
    fn preempt_s(&self) -> Option<f64> {
        self.workers.monitor.overdue().map(|it| it.as_secs_f64())
    }

    #[setter(_preempt_s)]
    fn set_preempt_s(&self, seconds: Option<f64>) -> PyResult<()> {
        let after = seconds.map(Duration::try_from_secs_f64).transpose();
        let after = after.map_err(|error| PyValueError::new_err(error.to_string()))?;
        self.workers.monitor.set_overdue(after);
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // The idle monitor holds no reference to the loop, and must not outlive it.
        self.role.stop_all();
    }
}
