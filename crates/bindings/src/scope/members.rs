//! `Members`: the requests of one scope. Cancelling it with the scopes within is in `tree.rs`; entering and
//! leaving a scope, and deadlines, are Python (`threadlets/_scopes`).

use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use threadlets_core::{MemberKey, ScopeKey, clock};

use super::failures::Failures;
use super::tree::TreeNode;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::outstanding::{MemberKind, ScopeOwner, counts_by_name};
use crate::dispatcher::request::Request;
use crate::py::gil_cell::{GilCell, GilSlot};
use crate::task::any_future;
use crate::task::future::Future;
use crate::task::slots::as_future;
use crate::task::task::{FirstStep, Shield, Task};

/// How long one request goes on cancelling members, in nanoseconds.
const BUDGET_NS: u64 = 1_000_000;
/// How many tasks it cancels at most: each of them takes a step in the next tick.
const N_TASKS_MAX: usize = 512;
/// How many members are cancelled between two reads of the clock.
const N_PER_CLOCK_READ: usize = 64;

/// The members of one open scope.
#[pyclass(frozen, weakref, module = "threadlets._core")]
pub(crate) struct Members {
    dispatcher: Py<Dispatcher>,
    /// None once the scope is closed.
    key: GilSlot<Option<ScopeKey>>,
    /// Its place among the other scopes, and the task that runs its block.
    pub(super) node: TreeNode,
    /// Futures that are settled when the last member has ended.
    emptied: GilSlot<Vec<Py<PyAny>>>,
    /// The message with which members are cancelled; None: they are not to be.
    cancel_message: GilSlot<Option<Py<PyAny>>>,
    /// A request is queued that cancels more of them.
    cancels_more: GilSlot<bool>,
    pub(super) failures: GilCell<Failures>,
}

impl Members {
    fn key(&self, py: Python<'_>) -> PyResult<ScopeKey> {
        self.key.get(py).ok_or_else(|| PyRuntimeError::new_err("the scope is closed"))
    }

    /// If a request has failed, keep its exception and cancel the scope.
    fn note_failure(slf: &Bound<'_, Self>, request: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let error = as_future(request)?.get().seen_error(py);
        let Some(error) = error else { return Ok(()) };
        if !slf.get().failures.with(py, |it| it.add(request, &error)) {
            return Ok(());
        }
        Self::cancel_for(slf, "another request of the scope failed: ", error.bind(py))
    }

    /// Whether the members are cancelled, and those that will join.
    pub(super) fn is_cancelled(&self, py: Python<'_>) -> bool {
        self.cancel_message.with(py, |it| it.is_some())
    }

    /// Cancel all members, and those that will join; `again`: also those that were cancelled before.
    /// Scopes within are not concerned.
    pub(super) fn cancel_members(
        slf: &Bound<'_, Self>,
        message: Py<PyAny>,
        again: bool,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some(key) = this.key.get(py) else { return Ok(()) };
        drop(this.cancel_message.replace(py, Some(message)));
        if again {
            this.dispatcher.get().requests.with(py, |it| it.reset_cancelled(key));
        }
        if this.cancels_more.get(py) { Ok(()) } else { Self::cancel_some(slf) }
    }

    /// Cancel as many members as there is time for; the others in the next tick.
    pub(crate) fn cancel_some(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        this.cancels_more.set(slf.py(), false);
        if this.cancel_until(slf.py(), N_TASKS_MAX, clock::now_ns() + BUDGET_NS)? {
            return Ok(());
        }
        this.cancels_more.set(slf.py(), true);
        this.dispatcher
            .get()
            .submit(slf.py(), Request::CancelMembers(slf.clone().into_any().unbind()))
    }

    /// Cancel up to `n_tasks_max` tasks and any number of waits until about `until_ns`; whether none is left.
    fn cancel_until(&self, py: Python<'_>, n_tasks_max: usize, until_ns: u64) -> PyResult<bool> {
        let Some(key) = self.key.get(py) else { return Ok(true) };
        let message = self.cancel_message.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)));
        let Some(message) = message else { return Ok(true) };
        let dispatcher = self.dispatcher.bind(py);
        let (mut n_cancelled, mut n_tasks) = (0, 0);
        while n_tasks < n_tasks_max {
            let next = dispatcher.get().requests.with(py, |it| it.next_to_cancel(py, key));
            let Some(request) = next else { return Ok(true) };
            let cancelled = match request.cast::<Task>() {
                Ok(task) => {
                    n_tasks += 1;
                    // A shielded task is cancelled by its own scope, when that lifts the shield.
                    match task.get().shield.get(py) {
                        Shield::Down => Task::request_cancel(task, Some(&message), true).map(drop),
                        Shield::Up | Shield::Hit => {
                            task.get().shield.set(py, Shield::Hit);
                            Ok(())
                        }
                    }
                }
                Err(_) => {
                    let wait = as_future(&request)?;
                    // The message is for awaiters: of a million waits, most have none.
                    let why = wait.get().is_awaited(py).then(|| message.clone_ref(py));
                    Future::cancel_with(wait, why).map(drop)
                }
            };
            // What a member awaits may refuse to be cancelled; the others are cancelled all the same.
            Dispatcher::outlive(dispatcher, cancelled)?;
            n_cancelled += 1;
            if n_cancelled % N_PER_CLOCK_READ == 0 && clock::now_ns() >= until_ns {
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn join(slf: &Bound<'_, Self>, kind: MemberKind, request: &Bound<'_, Future>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let key = this.key(py)?;
        let dispatcher = this.dispatcher.get();
        let left = dispatcher.requests.with(py, |requests| {
            let membership = &request.get().membership;
            let left = requests.leave(py, membership, false);
            requests.join(key, kind, request, membership);
            left
        });
        drop(left);
        if this.is_cancelled(py) && !this.cancels_more.get(py) {
            Self::cancel_some(slf)?;
        }
        Ok(())
    }
}

/// The members of a scope, as the loop's requests know them.
struct Owner(Py<Members>);

impl ScopeOwner for Owner {
    /// Note the failure of a request that has left its scope; settle `emptied` if it was the last.
    fn request_ended(&self, request: &Bound<'_, PyAny>, is_last: bool) -> PyResult<()> {
        let py = request.py();
        let outcome = Members::note_failure(self.0.bind(py), request);
        if is_last {
            // Whatever that has raised: these futures are awaited.
            for emptied in self.0.get().emptied.take(py) {
                any_future::settle(emptied.bind(py), Ok(py.None()))?;
            }
        }
        outcome
    }

    fn is_cancelled(&self, py: Python<'_>) -> bool {
        self.0.get().is_cancelled(py)
    }

    fn members(&self, py: Python<'_>) -> Py<PyAny> {
        self.0.clone_ref(py).into_any()
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

#[pymethods]
impl Members {
    /// Open a scope that the task `host` enters. `entered` is a list of the scopes that it has entered, which
    /// they share. A shielded scope, with those within, is cancelled by itself alone.
    #[new]
    fn new<'py>(
        r#loop: &Bound<'py, Dispatcher>,
        host: Bound<'py, PyAny>,
        entered: Bound<'py, PyList>,
        is_shielded: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let py = r#loop.py();
        r#loop.get().check_closed()?;
        let members = Self {
            dispatcher: r#loop.clone().unbind(),
            key: GilSlot::new(None),
            node: TreeNode::new(r#loop, host, entered, is_shielded)?,
            emptied: GilSlot::default(),
            cancel_message: GilSlot::default(),
            cancels_more: GilSlot::new(false),
            failures: GilCell::default(),
        };
        let members = Bound::new(py, members)?;
        TreeNode::attach(&members)?;
        let owner = Arc::new(Owner(members.clone().unbind()));
        let key = r#loop.get().requests.with(py, |it| it.open(owner));
        members.get().key.set(py, Some(key));
        Ok(members)
    }

    /// Start a task of a coroutine, of the kind `"task"`, `"call"` or `"syslet"`, in a context, or in a
    /// copy of the current one.
    #[pyo3(signature = (coroutine, kind, context))]
    fn start_task<'py>(
        slf: &Bound<'py, Self>,
        coroutine: Bound<'py, PyAny>,
        kind: &str,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Task>> {
        slf.get().key(slf.py())?;
        let kind = match kind {
            "task" => MemberKind::Task,
            "call" => MemberKind::Call,
            "syslet" => MemberKind::Syslet,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "there is no kind {kind:?} of requests; it is 'task', 'call' or 'syslet'"
                )));
            }
        };
        let dispatcher = slf.get().dispatcher.bind(slf.py());
        let task = Task::start(dispatcher, coroutine, None, context, FirstStep::Soon)?;
        Self::join(slf, kind, task.as_super())?;
        Ok(task)
    }

    /// Add a future that is in no scope to this one; if it is done, report its failure only.
    fn start_wait(slf: &Bound<'_, Self>, wait: &Bound<'_, Future>) -> PyResult<()> {
        let py = slf.py();
        if !wait.get().dispatcher.is(&slf.get().dispatcher) {
            return Err(PyRuntimeError::new_err(format!(
                "{} is of another loop than the scope; start it in a scope of its own loop",
                wait.repr()?
            )));
        }
        if wait.get().is_done(py) {
            slf.get().key(py)?;
            return Self::note_failure(slf, wait);
        }
        if wait.get().membership.get(py) != MemberKey::NONE {
            return Err(PyRuntimeError::new_err(format!(
                "{} belongs to a scope already, and a request belongs to one only; await it \
                 where it is needed, or start another",
                wait.repr()?
            )));
        }
        Self::join(slf, MemberKind::Wait, wait)
    }

    /// Return a future that is done once there are no members; None if there are none now.
    fn emptied<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(key) = self.key.get(py) else { return Ok(None) };
        let dispatcher = self.dispatcher.bind(py);
        if dispatcher.get().requests.with(py, |it| it.is_empty(key)) {
            return Ok(None);
        }
        let future = any_future::make(dispatcher)?;
        // A waiter that has given up has cancelled its future.
        let mut waiting = Vec::new();
        for emptied in self.emptied.take(py) {
            if !any_future::is_done(emptied.bind(py))? {
                waiting.push(emptied);
            }
        }
        waiting.push(future.clone().unbind());
        drop(self.emptied.replace(py, waiting));
        Ok(Some(future))
    }

    /// How many members there are, by kind.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let key = self.key.get(py);
        let n_requests = key.map_or([0; MemberKind::NAMES.len()], |key| {
            self.dispatcher.get().requests.with(py, |it| it.n_requests(Some(key)))
        });
        counts_by_name(py, n_requests)
    }

    /// The members that have not ended.
    fn requests<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyAny>> {
        let key = self.key.get(py);
        key.map_or_else(Vec::new, |key| {
            self.dispatcher.get().requests.with(py, |it| it.requests(py, Some(key)))
        })
    }

    /// Close the scope: no more requests join. Those that are left are cancelled if members are to be, and
    /// belong to the loop alone. If a shield was lifted with it, the host gets the cancellation that was held
    /// off.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let cancelled = this.cancel_until(py, usize::MAX, u64::MAX).map(drop);
        let Some(key) = this.key.replace(py, None) else { return Ok(()) };
        let left = this.dispatcher.get().requests.with(py, |it| it.close(py, key));
        let failures = this.failures.with(py, std::mem::take);
        let detached = TreeNode::detach(slf);
        drop((left, failures, this.emptied.take(py), this.cancel_message.take(py)));
        cancelled.and(detached)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.dispatcher)?;
        self.node.traverse(&visit)?;
        self.failures.traverse(&visit, |it| it.visit(&visit))?;
        self.emptied.traverse(&visit, |it| it.iter().try_for_each(|it| visit.call(it)))?;
        self.cancel_message.traverse(&visit, |it| visit.call(it))
    }

    fn __clear__(&self, py: Python<'_>) {
        let failures = self.failures.with(py, std::mem::take);
        self.node.clear(py);
        drop((failures, self.emptied.take(py), self.cancel_message.take(py)));
    }
}
