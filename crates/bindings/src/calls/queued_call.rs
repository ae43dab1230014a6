//! Calls in a pool's queue: functions that the dispatcher calls, and permits that awaiters of calls wait for.

use std::ptr::null_mut;

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};
use threadlets_core::{EntryPoint, PoolKey, Start};

use super::job::Ran;
use super::pool::Pool;
use super::{beside, starts};
use crate::contract::{self, Environment};
use crate::dispatcher::Dispatcher;
use crate::dispatcher::request::Request;
use crate::dispatcher::worker::Worker;
use crate::dispatcher::workers::{Parked, Workers};
use crate::py::cast::known;
use crate::py::entry_point;
use crate::py::error::not_stop_iteration;
use crate::task::any_future;
use crate::task::current;
use crate::task::future::Future;
use crate::workers::protect::{self, Protected};

/// The code number of permits outside of all pools, whose functions are not known yet.
const ANY_CODE: usize = 0;

/// The result of a function.
pub(crate) type Outcome = PyResult<Py<PyAny>>;

#[derive(Debug)]
pub(crate) enum Work {
    /// Call this, and settle the future. `innermost` is the function without its wrappers.
    Function {
        callable: Py<PyAny>,
        args: Py<PyTuple>,
        kwargs: Option<Py<PyDict>>,
        innermost: Py<PyAny>,
    },
    /// Settle the future; the awaiter of the call then calls the function itself.
    Permit,
}

impl Work {
    /// The call of a function.
    pub(crate) fn of(
        function: Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        kwargs: Option<Py<PyDict>>,
    ) -> Self {
        let innermost = entry_point::innermost(&function, args.get_item(0).ok());
        let (callable, args, innermost) = (function.unbind(), args.unbind(), innermost.unbind());
        Self::Function { callable, args, kwargs, innermost }
    }

    /// The number of the code that is run.
    fn code(&self, py: Python<'_>) -> usize {
        match self {
            Self::Function { innermost, .. } => entry_point::code_id(innermost.bind(py), || None),
            Self::Permit => ANY_CODE,
        }
    }
}

/// A call in a pool's queue.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct QueuedCall {
    work: Work,
    future: Py<PyAny>,
    /// The future is a `concurrent.futures.Future`, which any thread may settle.
    any_thread_settles: bool,
    key: PoolKey,
    membership: Membership,
    /// The key of its function's history.
    function: EntryPoint,
}

/// The pool that a call is in.
#[derive(Debug)]
enum Membership {
    /// A user's pool.
    Pool(Py<Pool>),
    /// The dispatcher's own pool of all calls that run this code.
    EntryPoint(usize),
}

impl QueuedCall {
    /// Run the call, started by its pool.
    pub(crate) fn run(queued: &Bound<'_, Self>, slf: &Bound<'_, Dispatcher>) -> PyResult<()> {
        let py = slf.py();
        let this = queued.get();
        let begins = this.begins(py);
        if !matches!(begins, Ok(true)) {
            this.end(slf);
            return begins.map(drop);
        }
        let Work::Function { innermost, .. } = &this.work else {
            if matches!(this.membership, Membership::EntryPoint(_)) {
                this.end(slf);
            }
            // In a user's pool, the awaiter's call has the place from now on, and gives it up itself.
            return this.settle(py, Ok(py.None()));
        };
        let call = || this.call(slf);
        // Only a future of the loop's own can be cancelled while the function runs.
        let future = if this.any_thread_settles { null_mut() } else { this.future.as_ptr() };
        Worker::with_current(|worker| {
            let worker = worker.expect("requests run on a worker");
            let pool = this.pool().map(|it| it.bind(py));
            let start = starts::choose(slf, worker, this.function, pool, || {
                entry_point::name(innermost.bind(py)).ok()
            });
            if start == Start::Beside {
                beside::submit(slf, queued.as_any());
                return Ok(());
            }
            let key = Some(this.key);
            let protected = protect::protect(slf, worker, innermost.as_ptr(), key, future, call);
            match protected {
                Protected::Kept(outcome) => {
                    this.end(slf);
                    this.settle(py, outcome)
                }
                Protected::Slow(outcome) => {
                    starts::note_mistake(slf.get(), py, this.function);
                    this.end(slf);
                    this.settle(py, outcome)
                }
                Protected::Lost(outcome) => {
                    starts::note_mistake(slf.get(), py, this.function);
                    // The result is queued for the dispatcher: this thread need not get the role back.
                    drop(Workers::unpark(slf, worker));
                    Self::finish_beside(queued, slf, outcome)
                }
                Protected::Full => {
                    starts::note_not_started(slf.get(), py, this.function);
                    if let Err(error) = slf.get().workers.check_threads(py) {
                        this.end(slf);
                        return this.settle(py, Err(error));
                    }
                    let request = Request::Call(queued.clone().into_any().unbind());
                    slf.get().queues.with(py, |queues| queues.pools.put_back(this.key, request));
                    Ok(())
                }
            }
        })
    }

    /// Call the function on this thread.
    fn call(&self, slf: &Bound<'_, Dispatcher>) -> Outcome {
        let py = slf.py();
        let Work::Function { callable, args, kwargs, .. } = &self.work else {
            return Ok(py.None());
        };
        if self.any_thread_settles && !self.starts(py)? {
            return Ok(py.None());
        }
        let kwargs = kwargs.as_ref().map(|it| it.bind(py));
        let environment = self.environment(py);
        without_loop(slf, || {
            let result =
                contract::call_threadlet(slf, callable.as_ptr(), environment.as_ref(), || {
                    let called = callable.bind(py).call(args.bind(py), kwargs);
                    called.map_or_else(
                        |error| {
                            error.restore(py);
                            null_mut()
                        },
                        Bound::into_ptr,
                    )
                });
            // SAFETY: a new reference, or null with an exception set.
            unsafe { Bound::from_owned_ptr_or_err(py, result) }.map(Bound::unbind)
        })?
    }

    /// Run the call on a thread beside the dispatcher.
    pub(crate) fn run_beside(
        queued: &Bound<'_, Self>,
        slf: &Bound<'_, Dispatcher>,
        worker: &Worker,
    ) -> PyResult<Ran> {
        let py = slf.py();
        let this = queued.get();
        let begins = this.begins(py);
        if !matches!(begins, Ok(true)) {
            this.end(slf);
            return begins.map(|_| Ran::default());
        }
        if let Work::Function { innermost, .. } = &this.work {
            let future = (!this.any_thread_settles).then(|| this.future.clone_ref(py));
            let (innermost, key) = (innermost.clone_ref(py), Some(this.key));
            let parked = Parked::new(innermost, key, None, future, worker.thread_id);
            slf.get().workers.keep_parked(py, worker.id, parked);
        }
        let outcome = this.call(slf);
        drop(Workers::unpark(slf, worker));
        // Callbacks of a future that any thread may settle run here, and may wait for the loop. Then the
        // wake-up is not claimed, so that what they queue wakes the dispatcher.
        let wakes = !this.any_thread_settles && slf.get().claim_wake();
        Self::finish_beside(queued, slf, outcome)?;
        Ok(Ran { function: Some(this.function), wakes })
    }

    /// Deliver the outcome of a function that ran on a thread without the role.
    pub(crate) fn finish_beside(
        queued: &Bound<'_, Self>,
        slf: &Bound<'_, Dispatcher>,
        outcome: Outcome,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = queued.get();
        this.end(slf);
        if this.any_thread_settles {
            return this.settle(py, outcome);
        }
        slf.get()
            .submit(py, Request::Settle(Box::new((queued.clone().into_any().unbind(), outcome))))
    }

    /// Cancel the future of a call that has not begun; whether it could be cancelled.
    pub(crate) fn cancel_waiting(&self, py: Python<'_>) -> PyResult<bool> {
        self.future.bind(py).call_method0(intern!(py, "cancel"))?.is_truthy()
    }

    /// The user's pool that the call is in.
    pub(crate) fn pool(&self) -> Option<&Py<Pool>> {
        match &self.membership {
            Membership::Pool(pool) => Some(pool),
            Membership::EntryPoint(_) => None,
        }
    }

    /// Settle the future, unless it was cancelled.
    pub(crate) fn settle(&self, py: Python<'_>, outcome: Outcome) -> PyResult<()> {
        let future = self.future.bind(py);
        let outcome = outcome.map_err(|error| not_stop_iteration(py, error));
        if !self.any_thread_settles {
            return any_future::settle(future, outcome);
        }
        // Other code must not settle it: if it has, `put` raises.
        if self.is_cancelled(py)? { Ok(()) } else { any_future::put(future, outcome) }
    }

    /// Cancel a queued call.
    pub(crate) fn abandon(&self, py: Python<'_>) -> PyResult<()> {
        if let Membership::Pool(pool) = &self.membership {
            pool.get().withdrew(py, 1);
        }
        self.future.bind(py).call_method0(intern!(py, "cancel")).map(drop)
    }

    /// Cancel the call of a request that was taken out of a pool's queue.
    pub(super) fn abandon_request(py: Python<'_>, request: &Request) -> PyResult<()> {
        match request {
            Request::Call(call) => known::<Self>(call.bind(py)).get().abandon(py),
            _ => Ok(()),
        }
    }

    /// The function that is called, unless this is a permit.
    pub(crate) fn function<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match &self.work {
            Work::Function { callable, .. } => Some(callable.bind(py).clone()),
            Work::Permit => None,
        }
    }

    fn environment<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Environment>> {
        self.pool()?.get().environment(py)
    }

    fn is_cancelled(&self, py: Python<'_>) -> PyResult<bool> {
        any_future::is_cancelled(self.future.bind(py))
    }

    /// Whether the call may begin: it was not cancelled.
    fn begins(&self, py: Python<'_>) -> PyResult<bool> {
        let is_cancelled = self.is_cancelled(py)?;
        if is_cancelled && self.any_thread_settles {
            // Notifies the threads that wait for the future of the cancellation.
            self.starts(py)?;
        }
        Ok(!is_cancelled)
    }

    /// Mark the future as running, so that it cannot be cancelled any more; `false`: it was cancelled.
    fn starts(&self, py: Python<'_>) -> PyResult<bool> {
        let future = self.future.bind(py);
        future.call_method0(intern!(py, "set_running_or_notify_cancel"))?.is_truthy()
    }

    /// Give up the call's place in its pool.
    fn end(&self, slf: &Bound<'_, Dispatcher>) {
        let py = slf.py();
        match &self.membership {
            Membership::Pool(pool) => pool.get().finish(py, slf, false),
            Membership::EntryPoint(code) => slf.get().finish_entry_point(py, *code, self.key),
        }
    }

    /// Visit what the call refers to, for the cycle collector.
    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Work::Function { callable, args, kwargs, innermost } = &self.work {
            visit.call(callable)?;
            visit.call(innermost)?;
            visit.call(args)?;
            visit.call(kwargs)?;
        }
        visit.call(&self.future)?;
        match &self.membership {
            Membership::Pool(pool) => visit.call(pool),
            Membership::EntryPoint(_) => Ok(()),
        }
    }
}

#[pymethods]
impl QueuedCall {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.visit(&visit)
    }
}

/// Call something as in a thread of a thread pool: no loop runs there, so it may run its own.
pub(crate) fn without_loop<R>(
    slf: &Bound<'_, Dispatcher>,
    call: impl FnOnce() -> R,
) -> PyResult<R> {
    let py = slf.py();
    current::hidden(slf, || {
        let running = running_loop(py)?;
        running.set.call1((py.None(),))?;
        let result = Worker::hidden(call);
        running.set.call1((running.now,))?;
        Ok(result)
    })
}

struct RunningCall<'py> {
    now: Bound<'py, PyAny>,
    set: &'py Bound<'py, PyAny>,
}

/// The loop that asyncio takes to be running in this thread, and the function that sets it.
fn running_loop(py: Python<'_>) -> PyResult<RunningCall<'_>> {
    static GET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static SET: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let now = GET.import(py, "asyncio", "_get_running_loop")?.call0()?;
    Ok(RunningCall { now, set: SET.import(py, "asyncio", "_set_running_loop")? })
}

/// Queue a call that its awaiter starts; the future is done when it may.
pub(crate) fn queue_permit<'py>(
    slf: &Bound<'py, Dispatcher>,
    pool: Option<Bound<'py, Pool>>,
) -> PyResult<Bound<'py, Future>> {
    let permit = Future::make(slf)?;
    queue(slf, Work::Permit, permit.clone().into_any().unbind(), false, pool)?;
    Ok(permit)
}

/// Queue a call in its pool.
pub(crate) fn queue(
    slf: &Bound<'_, Dispatcher>,
    work: Work,
    future: Py<PyAny>,
    any_thread_settles: bool,
    pool: Option<Bound<'_, Pool>>,
) -> PyResult<()> {
    let py = slf.py();
    let code = work.code(py);
    let this = slf.get();
    this.check_closed()?;
    let function = Pool::entry_point(pool.as_ref(), code);
    let (key, membership) = match pool {
        Some(pool) => (pool.get().enter(slf)?, Membership::Pool(pool.unbind())),
        None => (this.pool_of(py, code), Membership::EntryPoint(code)),
    };
    let call = QueuedCall { work, future, any_thread_settles, key, membership, function };
    let request = Request::Call(Py::new(py, call)?.into_any());
    this.queues.with(py, |queues| queues.pools.submit(key, request));
    this.wake_if_sleeping(py)
}
