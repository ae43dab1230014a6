//! The workers of one dispatcher: its role, the threads that can hold it, and what waits for them.

use std::collections::BTreeMap;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::Relaxed};

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, ffi};
use threadlets_core::takeover::{
    self, Beside, Boundary, Cause, IdleMonitor, Monitor, Parker, Role, WakeReason, WorkerId,
    WorkerRegistry,
};
use threadlets_core::{PoolKey, clock};

use super::Dispatcher;
use super::request::Request;
use super::worker::Worker;
use crate::py::context::can_enter;
use crate::py::gil_cell::{GilCell, GilSlot};
use crate::py::interpreter;

/// A function that is blocked, or runs beside the dispatcher, and the task or future that waits for it.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) callable: Py<PyAny>,
    pub(crate) pool: Option<PoolKey>,
    pub(crate) task: Option<Py<PyAny>>,
    pub(crate) future: Option<Py<PyAny>>,
    pub(crate) thread_id: u64,
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
pub(crate) type Blocked = (Py<PyAny>, u64, f64, bool, Option<Py<PyAny>>);

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) n_blocked: AtomicU64,
    pub(crate) n_computing: AtomicU64,
    pub(crate) n_overdue: AtomicU64,
    pub(crate) n_taken_on_return: AtomicU64,
    pub(crate) n_granted: AtomicU64,
    pub(crate) n_full: AtomicU64,
    pub(crate) n_not_spawned: AtomicU64,
}

/// Starts a worker's thread, whose first wake reason is the given one; whether it could be started.
pub(crate) type Spawn = fn(&Bound<'_, Dispatcher>, WorkerId, WakeReason) -> bool;

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
    /// The calls that wait for a thread beside the dispatcher: each a `CallBeside` or a `QueuedCall`.
    pub(crate) beside: GilCell<Beside<Py<PyAny>>>,
    /// The thread to be called for that work when the dispatcher next releases the GIL.
    pub(crate) called: GilSlot<Option<WorkerId>>,
    /// Which threads have bound tasks, and the steps that wait for those threads.
    pub(crate) bound: GilCell<takeover::Bound<Request>>,
    pub(crate) n_bindings: AtomicUsize,
    pub(crate) n_handed_over: AtomicUsize,
    /// The function that the dispatcher is calling, and the index of its pool plus one (zero: none), for a
    /// worker that takes over.
    pub(crate) calling: AtomicPtr<ffi::PyObject>,
    pub(crate) calling_pool: AtomicUsize,
    /// The future that only the call itself settles; null for a call in an awaiting task.
    pub(crate) calling_future: AtomicPtr<ffi::PyObject>,
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
    pub(crate) counts: Counts,
    /// Starts a thread (`tick/worker_thread.rs`).
    pub(crate) spawn: Spawn,
}

impl Workers {
    pub(crate) fn new(n_threads_max: usize, spawn: Spawn) -> Self {
        let role = Arc::new(Role::new(n_threads_max));
        Self {
            monitor: Arc::new(Monitor::new(Arc::clone(&role), interpreter::holds_gil)),
            role,
            registry: GilCell::new(WorkerRegistry::new(n_threads_max)),
            beside: GilCell::new(Beside::new(n_computing_max())),
            called: GilSlot::default(),
            bound: GilCell::default(),
            n_bindings: AtomicUsize::new(0),
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
            spawn,
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

    /// Tie one more thing to a thread.
    pub(crate) fn add_binding(&self, py: Python<'_>, worker: WorkerId) {
        self.bound.with(py, |bound| bound.add_binding(worker));
        self.n_bindings.fetch_add(1, Relaxed);
    }

    /// Undo one `add_binding`.
    pub(crate) fn remove_binding(&self, py: Python<'_>, worker: WorkerId) {
        self.n_bindings.fetch_sub(1, Relaxed);
        let is_free = self.bound.with(py, |bound| bound.remove_binding(worker));
        if is_free && worker != WorkerId::HOME {
            // It may be idle again.
            self.role.slot(worker).parker.unpark(WakeReason::ASK);
        }
    }

    /// Whether something is bound to a thread, which then does not end and is given no other work.
    #[inline]
    pub(crate) fn has_bindings(&self, py: Python<'_>, worker: WorkerId) -> bool {
        self.n_bindings.load(Relaxed) > 0 && self.bound.with(py, |bound| bound.has_bindings(worker))
    }

    /// Hand a task's next step over to the thread that the task belongs to.
    #[cold]
    pub(crate) fn hand_over(&self, task: &Bound<'_, PyAny>, worker: WorkerId) {
        let py = task.py();
        let step = Request::Step(task.clone().unbind());
        self.bound.with(py, |bound| bound.hand_over(worker, step));
        self.n_handed_over.fetch_add(1, Relaxed);
        if worker != WorkerId::HOME {
            self.role.slot(worker).parker.unpark(WakeReason::ASK);
        }
    }

    /// Whether steps wait for this thread.
    pub(crate) fn has_steps(&self, py: Python<'_>, worker: WorkerId) -> bool {
        self.n_handed_over.load(Relaxed) > 0 && self.bound.with(py, |it| it.has_steps(worker))
    }

    /// Drop the steps that wait and all bindings: the loop is closed.
    pub(crate) fn release_bound(&self, py: Python<'_>) {
        let steps = self.bound.with(py, |bound| bound.take_all());
        self.n_handed_over.store(0, Relaxed);
        drop(steps);
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

    /// Visit the calls that wait, for the cycle collector.
    pub(crate) fn visit_beside(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.beside.traverse(visit, |beside| beside.jobs().try_for_each(|call| visit.call(call)))
    }

    /// Visit the steps that wait, for the cycle collector.
    pub(crate) fn visit_bound(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.bound.traverse(visit, |bound| bound.steps().try_for_each(|it| it.traverse(visit)))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // The idle monitor holds no reference to the loop, and must not outlive it.
        self.role.stop_all();
    }
}
