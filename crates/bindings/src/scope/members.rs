//! `Members`: the requests of one scope. The semantics of scopes are decided in Python
//! (`threadlets/scopes`).

use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use threadlets_core::{MemberKey, ScopeKey, clock};

use crate::dispatcher::outstanding::{RequestKind, ScopeOwner, counts_by_name};
use crate::dispatcher::request::Request;
use crate::dispatcher::{Dispatcher, hooks};
use crate::py::gil_cell::GilSlot;
use crate::task::any_future;
use crate::task::future::Future;
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
    /// The scope: its `_failed(request, exception)` is called when a member fails.
    scope: GilSlot<Option<Py<PyAny>>>,
    /// Futures that are settled when the last member has ended.
    emptied: GilSlot<Vec<Py<PyAny>>>,
    /// The message with which members are cancelled; None: they are not to be.
    ending: GilSlot<Option<Py<PyAny>>>,
    /// A request is queued that cancels more of them.
    tells_more: GilSlot<bool>,
}

impl Members {
    fn key(&self, py: Python<'_>) -> PyResult<ScopeKey> {
        self.key.get(py).ok_or_else(|| PyRuntimeError::new_err("the scope is closed"))
    }

    /// The scope of these members; none once it is closed.
    fn scope(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.scope.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)))
    }

    fn report_failure(&self, request: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = request.py();
        let error = request.cast::<Future>()?.get().seen_error(py);
        if let Some(error) = error
            && let Some(scope) = self.scope(py)
        {
            hooks::member_failed(scope.bind(py), request, error)?;
        }
        Ok(())
    }

    /// Cancel as many members as there is time for; the others in the next tick.
    pub(crate) fn tell_some(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        this.tells_more.set(slf.py(), false);
        if this.tell(slf.py(), N_TASKS_MAX, clock::now_ns() + BUDGET_NS)? {
            return Ok(());
        }
        this.tells_more.set(slf.py(), true);
        this.dispatcher.get().submit(slf.py(), Request::End(slf.clone().into_any().unbind()))
    }

    /// Cancel up to `n_tasks_max` tasks and any number of waits until about `until_ns`; whether none is left.
    fn tell(&self, py: Python<'_>, n_tasks_max: usize, until_ns: u64) -> PyResult<bool> {
        let Some(key) = self.key.get(py) else { return Ok(true) };
        let Some(message) = self.ending.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)))
        else {
            return Ok(true);
        };
        let dispatcher = self.dispatcher.bind(py);
        let (mut n_told, mut n_tasks) = (0, 0);
        while n_tasks < n_tasks_max {
            let next = dispatcher.get().requests.with(py, |it| it.next_to_end(py, key));
            let Some(request) = next else { return Ok(true) };
            let told = match request.cast::<Task>() {
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
                    let wait = request.cast::<Future>()?;
                    // The message is for awaiters: of a million waits, most have none.
                    let why = wait.get().is_awaited(py).then(|| message.clone_ref(py));
                    Future::cancel_with(wait, why).map(drop)
                }
            };
            // What a member awaits may refuse to be cancelled; the others are cancelled all the same.
            Dispatcher::outlive(dispatcher, told)?;
            n_told += 1;
            if n_told % N_PER_CLOCK_READ == 0 && clock::now_ns() >= until_ns {
                return Ok(false);
            }
        }
        Ok(false)
    }

    fn join(slf: &Bound<'_, Self>, kind: RequestKind, request: &Bound<'_, Future>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let key = this.key(py)?;
        let dispatcher = this.dispatcher.get();
        let left = dispatcher.requests.with(py, |requests| {
            let membership = &request.get().membership;
            let left = requests.leave(py, membership);
            requests.join(key, kind, request, membership);
            left
        });
        drop(left);
        let is_ending = this.ending.with(py, |it| it.is_some());
        if is_ending && !this.tells_more.get(py) {
            Self::tell_some(slf)?;
        }
        Ok(())
    }
}

/// The members of a scope, as the loop's requests know them.
struct Owner(Py<Members>);

impl ScopeOwner for Owner {
    /// Report the failure of a request that has left its scope; settle `emptied` if it was the last.
    fn request_ended(&self, request: &Bound<'_, PyAny>, is_last: bool) -> PyResult<()> {
        let py = request.py();
        let members = self.0.get();
        let outcome = members.report_failure(request);
        if is_last {
            // Whatever the report has raised: these futures are awaited.
            for emptied in members.emptied.take(py) {
                any_future::settle(emptied.bind(py), Ok(py.None()))?;
            }
        }
        outcome
    }

    fn cancels(&self, py: Python<'_>) -> bool {
        self.0.get().ending.with(py, |ending| ending.is_some())
    }

    fn scope(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.0.get().scope(py)
    }

    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

#[pymethods]
impl Members {
    /// The members of `scope`, on `loop`. `scope._failed(request, exception)` is called when one fails.
    #[new]
    fn new<'py>(r#loop: &Bound<'py, Dispatcher>, scope: Py<PyAny>) -> PyResult<Bound<'py, Self>> {
        let py = r#loop.py();
        r#loop.get().check_closed()?;
        let members = Self {
            dispatcher: r#loop.clone().unbind(),
            key: GilSlot::new(None),
            scope: GilSlot::new(Some(scope)),
            emptied: GilSlot::default(),
            ending: GilSlot::default(),
            tells_more: GilSlot::new(false),
        };
        let members = Bound::new(py, members)?;
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
            "task" => RequestKind::Task,
            "call" => RequestKind::Call,
            "syslet" => RequestKind::Syslet,
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
            return slf.get().report_failure(wait);
        }
        if wait.get().membership.get(py) != MemberKey::NONE {
            return Err(PyRuntimeError::new_err(format!(
                "{} belongs to a scope already, and a request belongs to one only; await it \
                 where it is needed, or start another",
                wait.repr()?
            )));
        }
        Self::join(slf, RequestKind::Wait, wait)
    }

    /// Cancel all members, and those that will join; `again`: also those that were cancelled before.
    fn end(slf: &Bound<'_, Self>, message: Py<PyAny>, again: bool) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some(key) = this.key.get(py) else { return Ok(()) };
        drop(this.ending.replace(py, Some(message)));
        if again {
            this.dispatcher.get().requests.with(py, |it| it.reset_told(key));
        }
        if this.tells_more.get(py) { Ok(()) } else { Self::tell_some(slf) }
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
        let n_requests = key.map_or([0; RequestKind::NAMES.len()], |key| {
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
    /// belong to the loop alone.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let told = self.tell(py, usize::MAX, u64::MAX);
        let Some(key) = self.key.replace(py, None) else { return Ok(()) };
        let left = self.dispatcher.get().requests.with(py, |it| it.close(py, key));
        drop((left, self.scope.take(py), self.emptied.take(py), self.ending.take(py)));
        told.map(drop)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.dispatcher)?;
        self.scope.traverse(&visit, |it| visit.call(it))?;
        self.emptied.traverse(&visit, |it| it.iter().try_for_each(|it| visit.call(it)))?;
        self.ending.traverse(&visit, |it| visit.call(it))
    }

    fn __clear__(&self, py: Python<'_>) {
        drop((self.scope.take(py), self.emptied.take(py), self.ending.take(py)));
    }
}
