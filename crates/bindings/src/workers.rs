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
    self, Attendance, Beside, Boundary, Called, Cause, IdleMonitor, Monitor, Parker, Role, Taken,
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

/// How often a return that waits looks whether the dispatcher is in the same request still, in which
/// case that is reported: otherwise and in debug mode.
const STALL: Duration = Duration::from_secs(5);
const STALL_IN_DEBUG_MODE: Duration = Duration::from_millis(500);

/// A function that is blocked, or is called beside the dispatcher, and who waits until it returns.
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

/// How a call went.
#[derive(Debug)]
pub(crate) enum Protected<R> {
    /// The role stayed here.
    Kept(R),
    /// It stayed here, and kept others waiting for long.
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

/// How many functions may compute at once beside the dispatcher: as many threads as asyncio's own executor has.
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
    /// What is to be done beside the dispatcher.
    pub(crate) beside: GilCell<Beside<Job>>,
    /// The thread that is to come for it when the dispatcher next gives the GIL up.
    pub(crate) called: GilSlot<Option<WorkerId>>,
    /// What belongs to threads, and the steps that are to be taken there.
    pub(crate) bound: GilCell<takeover::Bound<Request>>,
    pub(crate) n_ties: AtomicUsize,
    pub(crate) n_handed_over: AtomicUsize,
    /// What the dispatcher is calling, and in which pool (plus one; zero: none). Whoever takes over
    /// from inside the call finds it here.
    calling: AtomicPtr<ffi::PyObject>,
    calling_pool: AtomicUsize,
    /// The future that nobody but the call itself settles; null for a call in an awaiting task.
    calling_future: AtomicPtr<ffi::PyObject>,
    pub(crate) parked: GilCell<BTreeMap<usize, Parked>>,
    /// How many functions are blocked.
    pub(crate) n_parked: AtomicUsize,
    /// Requests whose context a blocked threadlet was called in; they are queued again when one
    /// returns.
    deferred: GilCell<Vec<Request>>,
    /// What ends the loop, on its way to the home thread.
    pending: GilCell<Option<PyErr>>,
    /// Rings when a thread has ended.
    pub(crate) exits: Arc<Parker>,
    pub(crate) is_stopped: AtomicBool,
    /// This process is the child of a fork that a thread of the workers made: there is no home thread.
    pub(crate) is_orphaned: AtomicBool,
    /// Of which signals the kernel knows, and the interpreter does not; see `signals.rs`.
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

    /// Call a function as a threadlet: `call` calls it. Inside a threadlet it is just called.
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
            Called::Unmonitored(seq) if Self::attend(slf) => seq,
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

    /// See to it that somebody watches; `false`: nobody can.
    #[cold]
    fn attend(slf: &Bound<'_, Dispatcher>) -> bool {
        let py = slf.py();
        let workers = &slf.get().workers;
        match workers.registry.with(py, |registry| workers.role.attend(registry)) {
            Attendance::Monitored => true,
            Attendance::Spawn(id) => {
                workers.monitor.start_idle_monitor();
                let spawned = Worker::spawn(slf, id, WakeReason::MONITOR);
                if !spawned {
                    workers.count_refused();
                    workers.registry.with(py, |registry| workers.role.not_spawned(registry, id));
                    // Calls can wait for threads that come back, if there are any.
                    slf.get().hold_calls(py, workers.check_threads(py).is_ok());
                }
                spawned
            }
            Attendance::Full => {
                workers.counts.n_full.fetch_add(1, Relaxed);
                slf.get().hold_calls(py, true);
                false
            }
        }
    }

    /// Whether a call that found nobody to watch may wait for somebody: there are threads that come
    /// back.
    pub(crate) fn check_threads(&self, py: Python<'_>) -> PyResult<()> {
        if self.registry.with(py, |registry| registry.n_threads()) > 0 {
            return Ok(());
        }
        Err(PyRuntimeError::new_err(
            "can't start new thread: a threadlet needs one that could take over from it; raise the \
             limit (`ulimit -u`, or pids.max of the control group), or the memory of the process",
        ))
    }

    /// Count a thread that the system has refused.
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

    /// A worker has the role: tell the loop which thread runs it, and put its own task back.
    ///
    /// Runs no Python code before what belongs to the blocked function is put aside: the function
    /// could return meanwhile.
    pub(crate) fn gained(slf: &Bound<'_, Dispatcher>, worker: &Worker, taken: Option<Taken>) {
        let py = slf.py();
        let this = slf.get();
        let workers = &this.workers;
        match taken {
            Some(Taken::FromThreadlet(victim)) => workers.park(slf, victim),
            Some(Taken::FromPoll) => this.recall_from_poll(py),
            Some(Taken::Vacant) | None => {}
        }
        this.set_thread(worker.thread_id);
        Self::resume(slf, worker);
        greenlets::look(slf, worker);
    }

    /// Make the task the current one again whose function has returned.
    fn resume(slf: &Bound<'_, Dispatcher>, worker: &Worker) {
        let py = slf.py();
        let parked = Self::unpark(slf, worker);
        // A step of ours does not remove its task itself.
        slf.get().names_task.store(true, Relaxed);
        if let Some(task) = parked.as_ref().and_then(|it| it.task.as_ref())
            && let Err(error) = current::unpark(slf, task)
        {
            error.write_unraisable(py, Some(slf));
        }
    }

    /// In debug mode: look for objects that stay behind with a thread that is blocked.
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

    /// Put aside what belongs to a blocked function, so that other tasks can run.
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

    /// Keep what waits for the function in which a thread is, until that returns.
    pub(crate) fn keep_parked(&self, py: Python<'_>, worker: WorkerId, parked: Parked) {
        self.n_parked.fetch_add(1, Relaxed);
        drop(self.parked.with(py, |it| it.insert(worker.index(), parked)));
    }

    /// What was parked for a worker whose function has returned; requests that waited for that are
    /// queued again.
    pub(crate) fn unpark(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> Option<Parked> {
        let py = slf.py();
        let this = slf.get();
        let workers = &this.workers;
        let parked = workers.parked.with(py, |parked| parked.remove(&worker.id.index()));
        workers.n_parked.fetch_sub(usize::from(parked.is_some()), Relaxed);
        let deferred = workers.deferred.with(py, std::mem::take);
        if !deferred.is_empty() {
            this.queues.with(py, |queues| deferred.into_iter().for_each(|it| queues.submit(it)));
            // A closed loop has nobody to wake.
            let _ = this.wake_if_sleeping(py);
        }
        parked
    }

    /// Whether a context cannot be entered because a threadlet is blocked that was called in it.
    #[inline]
    pub(crate) fn holds_context(&self, context: &Bound<'_, PyAny>) -> bool {
        self.n_parked.load(Relaxed) > 0 && !can_enter(context.py(), context)
    }

    /// Keep a request until a blocked function returns.
    pub(crate) fn defer(&self, py: Python<'_>, request: Request) {
        self.deferred.with(py, |deferred| deferred.push(request));
    }

    /// A function has returned: get the role back, and wait for it if need be. An error came while
    /// waiting (a signal's), or the loop was closed; the role is here all the same, unless closed.
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
            // No byte ends this wait: look for signals that came inside the function. A handler that raises
            // has run, and its exception waits for the role.
            if let Err(error) = py.check_signals() {
                outcome = Err(error);
            }
            let heard = py.detach(|| parker.park(WakeReason::GRANT, Some(patience)));
            if heard.has(WakeReason::GRANT) {
                break;
            }
            if heard.has(WakeReason::STOP) {
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
        // A task of the user's own making need not say so.
        match task.getattr_opt(intern!(py, "_must_cancel"))? {
            Some(must_cancel) => must_cancel.is_truthy(),
            None => Ok(false),
        }
    }

    /// Name both sides of a dispatcher that does not come to a boundary while others wait.
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

    /// Between two requests: whether the role is still here.
    #[inline]
    pub(crate) fn keeps_role(&self, py: Python<'_>, worker: &Worker) -> bool {
        self.registry.with(py, |registry| self.role.boundary(registry, worker.id)) == Boundary::Kept
    }

    /// A closed loop runs nothing more of what was kept for later.
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

    /// Cancel whoever awaits functions of this pool that are blocked; how many.
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

    /// The functions that are blocked: each with the thread that it blocks, since when in seconds
    /// of the loop's time, whether it has returned and waits for the role, and the task that awaits it.
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

    /// What the workers has done so far.
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
            stats.set_item("threads_idle", registry.n_standby())?;
            stats.set_item("threads_peak", registry.n_threads_peak())?;
            stats.set_item("threads_max", registry.n_threads_max())?;
            stats.set_item("returning", registry.n_waiting())
        })?;
        stats.set_item("blocked", self.parked.with(py, |parked| parked.len()))?;
        let monitor = match self.monitor.idle_monitor() {
            IdleMonitor::NotStarted => "not started",
            IdleMonitor::Present => "idle_monitor and timer",
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
    /// What the workers has done so far, and how many threads it has.
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
        // The idle_monitor holds no reference to the loop, and must not outlive it.
        self.role.stop_all();
    }
}
