//! `threadlets.call(fn, …)`: an awaitable that calls a function inside the stack of its awaiter. The
//! task is switched only if the call waits in its pool or starts beside the dispatcher.
//!
//! Its type is made by hand (`call_type.rs`) because PyO3 has no `am_send`, which returns the result
//! of an await without an exception. A call that has to wait delegates to a native future: that of its
//! permit to start, or that of its result.

use std::ptr::null_mut;

use pyo3::exceptions::{PyBaseException, PyRuntimeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use threadlets_core::{EntryPoint, Start};

use super::call_beside::CallBeside;
use super::call_object::{CallObject, CallState, returned};
use super::pool::Pool;
use super::queued_call::{self, Work};
use super::{checkpoint, starts};
use crate::dispatcher::Dispatcher;
use crate::dispatcher::worker::Worker;
use crate::py::context::current_context;
use crate::py::{entry_point, names};
use crate::task::current;
use crate::task::future::{Future, Outcome};
use crate::workers::protect::{self, Protected};
use crate::workers::role;

/// The outcome of one step of the await.
pub(crate) enum Step {
    Returned(Py<PyAny>),
    Yielded(Py<PyAny>),
}

impl CallObject {
    /// Take the next step of the await: its first, or one with a value that was sent.
    pub(crate) fn send(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Step> {
        match self.state.get() {
            // `is_due` is asked after a yield, too: that step begins its time slice here, as any other does.
            state @ (CallState::Fresh | CallState::HasYielded) => {
                if checkpoint::is_due(py) && state == CallState::Fresh {
                    // Yield before the call: a cancellation meanwhile loses nothing.
                    self.state.set(CallState::HasYielded);
                    return Ok(Step::Yielded(py.None()));
                }
                self.begin(py)
            }
            CallState::FreshAbandonable => self.delegate_result(py),
            state @ (CallState::FreshQueueable | CallState::HasYieldedQueueable) => {
                if checkpoint::is_due(py) && state == CallState::FreshQueueable {
                    self.state.set(CallState::HasYieldedQueueable);
                    return Ok(Step::Yielded(py.None()));
                }
                self.start_or_queue(py)
            }
            CallState::AwaitsPermit | CallState::AwaitsResult | CallState::AwaitsBeside => {
                let mut result = null_mut();
                // SAFETY: all three are alive; the result is a new reference unless an error is set.
                let (sent, result) = unsafe {
                    let sent =
                        ffi::PyIter_Send(self.delegate.get(), value.as_ptr(), &raw mut result);
                    (sent, Bound::from_owned_ptr_or_opt(py, result).map(Bound::unbind))
                };
                match (sent, result) {
                    (ffi::PySendResult::PYGEN_NEXT, Some(it)) => Ok(Step::Yielded(it)),
                    (ffi::PySendResult::PYGEN_RETURN, Some(it)) => self.delegate_returned(py, it),
                    _ => self.fail(py, PyErr::fetch(py)),
                }
            }
            CallState::AwaitsCancellation => {
                self.state.set(CallState::Done);
                // SAFETY: this call owns the reference, and gives it away.
                let held = unsafe { Bound::from_owned_ptr(py, self.held.replace(null_mut())) };
                Ok(Step::Returned(held.unbind()))
            }
            CallState::Done => Err(PyRuntimeError::new_err(
                "cannot await a threadlet call twice; make another with threadlets.call()",
            )),
        }
    }

    #[cold]
    fn fail(&self, py: Python<'_>, error: PyErr) -> PyResult<Step> {
        self.end(py)?;
        Err(error)
    }

    /// End the await. A call that waits for its permit, or has got it and not started, gives it up.
    pub(crate) fn end(&self, py: Python<'_>) -> PyResult<()> {
        let permit = (self.state.get() == CallState::AwaitsPermit).then(|| self.permit(py));
        self.state.set(CallState::Done);
        let Some(permit) = permit else { return Ok(()) };
        if !permit.get().is_done(py) {
            // The queue gives up the call's place when its turn comes.
            return Future::cancel_with(&permit, None).map(drop);
        }
        if !permit.get().is_cancelled(py)
            && let Some(pool) = self.pool(py)
        {
            pool.get().finish(py, permit.get().dispatcher.bind(py), false);
        }
        Ok(())
    }

    /// The future of the permit of a call that waits for it, or has got it and not started.
    fn permit<'py>(&self, py: Python<'py>) -> Bound<'py, Future> {
        assert_eq!(CallState::AwaitsPermit, self.state.get());
        // SAFETY: in that state the delegate is such a future, which is alive.
        unsafe { Bound::from_borrowed_ptr(py, self.delegate.get()).cast_into_unchecked() }
    }

    /// Start the call, or wait until its pool admits it.
    fn begin(&self, py: Python<'_>) -> PyResult<Step> {
        let may_start = Worker::with_current(|worker| {
            let Some(pool) = self.pool(py) else { return Ok(true) };
            let worker = worker.ok_or_else(no_loop)?;
            pool.get().try_start(worker.dispatcher(py))
        });
        match may_start {
            Ok(true) => self.start(py),
            Ok(false) => self.delegate_permit(py),
            Err(error) => self.fail(py, error),
        }
    }

    /// Call the function inline if it is known to be quick, and queue it otherwise.
    fn start_or_queue(&self, py: Python<'_>) -> PyResult<Step> {
        // SAFETY: the call keeps its function alive.
        let callable = unsafe { Bound::from_borrowed_ptr(py, self.callable()) };
        let code = entry_point::code_id(&callable, || None);
        let is_quick = Worker::with_current(|worker| {
            worker.is_some_and(|worker| {
                let function = Pool::entry_point(None, code);
                starts::is_inline(worker.dispatcher(py), worker, function)
            })
        });
        if is_quick { self.start_code(py, code) } else { self.delegate_result(py) }
    }

    /// Call the function inline or beside the dispatcher; its pool has admitted the call.
    #[inline]
    fn start(&self, py: Python<'_>) -> PyResult<Step> {
        // SAFETY: the call keeps its function alive and its arguments, the first of which follows it.
        let item = |idx: usize| unsafe { Bound::from_borrowed_ptr(py, *self.items.add(idx)) };
        let first_arg = || (self.n_items() > 1).then(|| item(1));
        self.start_code(py, entry_point::code_id(&item(0), first_arg))
    }

    /// As `start`, with the number of the code that the function runs.
    #[inline]
    fn start_code(&self, py: Python<'_>, code: usize) -> PyResult<Step> {
        Worker::with_current(|worker| {
            let Some(worker) = worker else { return self.fail(py, no_loop()) };
            // The permit, if there was one, is used: whatever comes, the call's place is given up below.
            self.state.set(CallState::Done);
            let slf = worker.dispatcher(py);
            let pool = self.pool(py);
            // SAFETY: the call keeps its function alive and its arguments, the first of which follows it.
            let item = |idx: usize| unsafe { Bound::from_borrowed_ptr(py, *self.items.add(idx)) };
            let callable = item(0);
            let first_arg = || (self.n_items() > 1).then(|| item(1));
            let function = Pool::entry_point(pool.as_ref(), code);
            let start = starts::choose(slf, worker, function, pool.as_ref(), || {
                entry_point::name(&entry_point::innermost(&callable, first_arg())).ok()
            });
            // Inside another inline call nothing can wait for a call beside, so the function runs inline.
            if start == Start::Inline || !slf.get().workers.role.may_enter(worker.id) {
                return self.run(py, slf, worker, pool, function);
            }
            self.start_beside(py, slf, pool, function)
        })
    }

    /// Have the function called beside the dispatcher.
    #[inline(never)]
    fn start_beside(
        &self,
        py: Python<'_>,
        slf: &Bound<'_, Dispatcher>,
        pool: Option<Bound<'_, Pool>>,
        function: EntryPoint,
    ) -> PyResult<Step> {
        let its_pool = pool.clone().map(Bound::unbind);
        match CallBeside::submit(slf, self.as_object(py), its_pool, function) {
            Ok(beside) => self.delegate(py, CallState::AwaitsBeside, beside.into_any()),
            Err(error) => {
                if let Some(pool) = pool {
                    pool.get().finish(py, slf, false);
                }
                Err(error)
            }
        }
    }

    /// Call the function inline, as a threadlet.
    fn run(
        &self,
        py: Python<'_>,
        slf: &Bound<'_, Dispatcher>,
        worker: &Worker,
        pool: Option<Bound<'_, Pool>>,
        function: EntryPoint,
    ) -> PyResult<Step> {
        let key = pool.as_ref().and_then(|it| it.get().key(py));
        let callable = self.callable();
        let environment = self.environment(py);
        let protected = protect::protect(slf, worker, callable, key, null_mut(), || {
            self.call_as_threadlet(slf, environment)
        });
        if let Some(pool) = pool {
            pool.get().finish(py, slf, matches!(protected, Protected::Full));
        }
        match protected {
            Protected::Kept(result) => returned(py, result).map(Step::Returned),
            Protected::Slow(result) => {
                starts::note_mistake(slf.get(), py, function);
                returned(py, result).map(Step::Returned)
            }
            Protected::Lost(result) => {
                starts::note_mistake(slf.get(), py, function);
                // Take the outcome before anything else: the error indicator is the function's.
                let outcome = returned(py, result);
                role::get_role_back(slf, worker)?;
                let result = outcome?;
                if !current::is_cancelled(slf)? {
                    return Ok(Step::Returned(result));
                }
                // The task throws the cancellation in at its next step; yielding None asks for that step.
                self.held.set(result.into_ptr());
                self.state.set(CallState::AwaitsCancellation);
                Ok(Step::Yielded(py.None()))
            }
            Protected::Full => {
                starts::note_not_started(slf.get(), py, function);
                slf.get().workers.check_threads(py)?;
                self.delegate_permit(py)
            }
        }
    }

    /// Await a future instead, and take the first step of that.
    fn delegate(
        &self,
        py: Python<'_>,
        state: CallState,
        future: Bound<'_, PyAny>,
    ) -> PyResult<Step> {
        let before = self.delegate.replace(future.into_ptr());
        self.state.set(state);
        // SAFETY: this call owns the earlier delegate, if there was one.
        unsafe { ffi::Py_XDECREF(before) };
        self.send(py, py.None().bind(py))
    }

    /// Queue the call in its pool, and await its permit to start.
    fn delegate_permit(&self, py: Python<'_>) -> PyResult<Step> {
        let permit = Worker::with_current(|worker| {
            let worker = worker.ok_or_else(no_loop)?;
            queued_call::queue_permit(worker.dispatcher(py), self.pool(py))
        });
        match permit {
            Ok(permit) => self.delegate(py, CallState::AwaitsPermit, permit.into_any()),
            Err(error) => self.fail(py, error),
        }
    }

    /// Have the dispatcher call the function off the awaiter's stack, and await its result.
    fn delegate_result(&self, py: Python<'_>) -> PyResult<Step> {
        let result = Worker::with_current(|worker| {
            self.queue_function(worker.ok_or_else(no_loop)?.dispatcher(py))
        });
        match result {
            Ok(result) => self.delegate(py, CallState::AwaitsResult, result.into_any()),
            Err(error) => self.fail(py, error),
        }
    }

    /// Queue the function, to be called in a copy of the current context; returns the future of its result.
    fn queue_function<'py>(&self, slf: &Bound<'py, Dispatcher>) -> PyResult<Bound<'py, Future>> {
        let py = slf.py();
        // SAFETY: the items are alive, and so are the names.
        let (mut positional, named) = unsafe {
            let item = |&it: &*mut ffi::PyObject| Bound::from_borrowed_ptr(py, it);
            let items = std::slice::from_raw_parts(self.items, self.n_items());
            let (positional, values) = items.split_at(1 + self.n_positional());
            let positional: Vec<Bound<'_, PyAny>> = positional.iter().map(item).collect();
            let named = PyDict::new(py);
            for (idx, value) in values.iter().map(item).enumerate() {
                let names = Bound::from_borrowed_ptr(py, self.names);
                named.set_item(names.get_item(idx)?, value)?;
            }
            (positional, named)
        };
        let run = intern!(py, "run");
        if let Some(environment) = self.environment(py) {
            positional.insert(0, environment.getattr(run)?);
        }
        let run_in_context = current_context(py)?.getattr(run)?;
        let args = PyTuple::new(py, positional)?;
        let outcome = Future::make(slf)?;
        let future = outcome.clone().into_any().unbind();
        let (pool, kwargs) = (self.pool(py), Some(named.unbind()));
        let work = Work::of(run_in_context, args, kwargs);
        queued_call::queue(slf, work, future, false, pool)?;
        Ok(outcome)
    }

    fn delegate_returned(&self, py: Python<'_>, result: Py<PyAny>) -> PyResult<Step> {
        if self.state.get() == CallState::AwaitsPermit {
            let permit = self.permit(py);
            let its_loop = permit.get().dispatcher.bind(py);
            let is_elsewhere = Worker::with_current(|worker| {
                worker.is_some_and(|worker| !worker.dispatcher(py).is(its_loop))
            });
            return if is_elsewhere { self.fail(py, other_loop()) } else { self.start(py) };
        }
        self.state.set(CallState::Done);
        Ok(Step::Returned(result))
    }

    /// Take a step with an exception thrown in.
    pub(crate) fn throw(&self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<Step> {
        let thrown = thrown(args)?;
        if self.state.get() != CallState::AwaitsBeside {
            return self.fail(py, thrown);
        }
        // SAFETY: in that state the delegate is the future of the call beside.
        let delegate = unsafe { Bound::from_borrowed_ptr(py, self.delegate.get()) };
        let error = self.beside_error(&delegate, &thrown)?.unwrap_or(thrown);
        self.fail(py, error)
    }

    /// The exception that the function raised beside the dispatcher while its task was cancelled. It comes
    /// first, and the cancellation follows at the next await.
    fn beside_error(&self, delegate: &Bound<'_, PyAny>, thrown: &PyErr) -> PyResult<Option<PyErr>> {
        let py = delegate.py();
        let Ok(beside) = delegate.cast::<CallBeside>() else { return Ok(None) };
        let beside_future = beside.as_super().get();
        if beside_future.is_cancelled(py) {
            return Ok(None);
        }
        let Some(Outcome::Error(error)) = beside_future.outcome(py) else { return Ok(None) };
        let is_cancellation = names::is_cancelled_error(py, thrown)?;
        if error.value(py).is(thrown.value(py)) || !is_cancellation {
            return Ok(None);
        }
        CallBeside::recancel_awaiter(beside)?;
        Ok(Some(error))
    }
}

fn no_loop() -> PyErr {
    PyRuntimeError::new_err(
        "threadlets.call() was awaited on a loop that is not threadlets': its functions need a \
         dispatcher to come back to; use threadlets.run(main()), or asyncio.Runner(loop_factory=\
         threadlets.new_event_loop)",
    )
}

fn other_loop() -> PyErr {
    PyRuntimeError::new_err(
        "a threadlet call that waits for its pool on one event loop was awaited on another one; await \
         it on one loop, or make another with Pool.call()",
    )
}

/// The exception that the arguments of `throw` stand for.
fn thrown(args: &Bound<'_, PyTuple>) -> PyResult<PyErr> {
    let exception = args.get_item(0)?;
    match args.get_item(1) {
        Ok(value) if !value.is_none() => {
            let is_ready = value.is_instance_of::<PyBaseException>();
            Ok(PyErr::from_value(if is_ready { value } else { exception.call1((value,))? }))
        }
        _ => Ok(PyErr::from_value(exception)),
    }
}
