//! `threadlets.call(fn, …)`: an awaitable that calls a function inside the stack of its awaiter. The
//! task is switched only if the call waits in its pool or starts beside the dispatcher.
//!
//! Its type is made by hand (`call_type.rs`) because PyO3 has no `am_send`, which returns the result
//! of an await without an exception. Everything that is not on the path of every call is left to
//! coroutines (`Loop._permit`, `Loop._call_abandonable`), to which the awaitable delegates.

use std::cell::Cell;
use std::ptr::{NonNull, null_mut};

use pyo3::exceptions::{PyBaseException, PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use threadlets_core::{EntryPoint, Start};

use crate::beside::CallBeside;
use crate::checkpoint;
use crate::contract::{self, Environment};
use crate::dispatcher::Dispatcher;
use crate::entry_point;
use crate::pool::Pool;
use crate::task::future::Outcome;
use crate::task::names;
use crate::worker::Worker;
use crate::workers::{Protected, Workers};

/// The state of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CallState {
    /// It was not awaited yet.
    Fresh,
    /// It was not awaited yet; cancelling does not wait for the function.
    FreshAbandonable,
    /// It has let other requests run, and calls the function next.
    HasYielded,
    /// The delegate waits until the pool admits the call.
    AwaitsPermit,
    /// The delegate waits for the result.
    AwaitsResult,
    /// The function is called beside the dispatcher; the delegate is the future of its result.
    AwaitsBeside,
    /// The function has returned, but its task was cancelled meanwhile: the cancellation is thrown in next.
    AwaitsCancellation,
    Done,
}

#[repr(C)]
pub(crate) struct CallObject {
    pub(crate) head: ffi::PyVarObject,
    /// The names of the named arguments, which are the last: a tuple, or null.
    pub(crate) names: *mut ffi::PyObject,
    /// The pool, or null.
    pub(crate) pool: *mut ffi::PyObject,
    /// The environment that the function computes in; null for the pool's, or else the awaiter's.
    pub(crate) environment: *mut ffi::PyObject,
    /// The coroutine or future that is awaited instead, or null.
    pub(crate) delegate: Cell<*mut ffi::PyObject>,
    /// The result, kept in case no cancellation is thrown in after all; or null.
    pub(crate) held: Cell<*mut ffi::PyObject>,
    pub(crate) state: Cell<CallState>,
    /// The function, its positional arguments, the values of its named arguments: they follow the struct in
    /// the same memory. A pointer, since a reference to the struct covers its fields only, and since the
    /// callee may write to the item before the arguments.
    pub(crate) items: *mut *mut ffi::PyObject,
}

/// The outcome of one step of the await.
pub(crate) enum Step {
    Returned(Py<PyAny>),
    Yielded(Py<PyAny>),
}

impl CallObject {
    pub(crate) fn n_items(&self) -> usize {
        self.head.ob_size as usize
    }

    pub(crate) fn callable(&self) -> *mut ffi::PyObject {
        // SAFETY: there is one item at least.
        unsafe { *self.items }
    }

    fn n_positional(&self) -> usize {
        if self.names.is_null() {
            return self.n_items() - 1;
        }
        // SAFETY: the names are a tuple.
        let n_ids = unsafe { ffi::PyTuple_GET_SIZE(self.names) };
        self.n_items() - 1 - n_ids as usize
    }

    fn pool<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Pool>> {
        // SAFETY: the pool is an instance of `Pool`, or null.
        unsafe {
            let pool = NonNull::new(self.pool)?;
            Some(Bound::from_borrowed_ptr(py, pool.as_ptr()).cast_into_unchecked())
        }
    }

    fn environment<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Environment>> {
        // SAFETY: the environment is an instance of `Environment`, or null.
        let own = NonNull::new(self.environment)
            .map(|it| unsafe { Bound::from_borrowed_ptr(py, it.as_ptr()).cast_into_unchecked() });
        own.or_else(|| self.pool(py)?.get().environment(py))
    }

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
                    _ => self.fail(PyErr::fetch(py)),
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

    fn fail(&self, error: PyErr) -> PyResult<Step> {
        self.state.set(CallState::Done);
        Err(error)
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
            Err(error) => self.fail(error),
        }
    }

    /// Call the function inline or beside the dispatcher; its pool has admitted the call.
    #[inline]
    fn start(&self, py: Python<'_>) -> PyResult<Step> {
        Worker::with_current(|worker| {
            let Some(worker) = worker else { return self.fail(no_loop()) };
            let slf = worker.dispatcher(py);
            let pool = self.pool(py);
            // SAFETY: the call keeps its function alive and its arguments, the first of which follows it.
            let item = |idx: usize| unsafe { Bound::from_borrowed_ptr(py, *self.items.add(idx)) };
            let callable = item(0);
            let first_arg = || (self.n_items() > 1).then(|| item(1));
            let code = entry_point::number(&callable, first_arg);
            let function = Pool::entry_point(pool.as_ref(), code);
            let start = Dispatcher::choose_start(slf, worker, function, pool.as_ref(), || {
                entry_point::name(&entry_point::innermost(&callable, first_arg())).ok()
            });
            // Inside another inline call nothing can wait for a call beside, so the function runs inline.
            if start == Start::Inline || !slf.get().workers.role.may_enter(worker.id) {
                return self.run(py, slf, worker, pool, function);
            }
            self.delegate(py, CallState::AwaitsBeside, |this, slf| {
                let pool = pool.map(Bound::unbind);
                let beside = CallBeside::submit(slf, this.as_object(py), pool, function)?;
                Ok(beside.into_any().unbind())
            })
        })
    }

    /// The call as a Python object.
    fn as_object(&self, py: Python<'_>) -> Py<PyAny> {
        // SAFETY: every call is an object, which is alive while a method of it runs.
        unsafe {
            let object = (&raw const *self).cast_mut().cast::<ffi::PyObject>();
            Bound::from_borrowed_ptr(py, object).unbind()
        }
    }

    /// Call the function on this thread, which is beside the dispatcher.
    pub(crate) fn call_function(&self, slf: &Bound<'_, Dispatcher>) -> PyResult<Py<PyAny>> {
        returned(slf.py(), self.call_as_threadlet(slf, self.environment(slf.py())))
    }

    #[inline]
    fn call_as_threadlet(
        &self,
        slf: &Bound<'_, Dispatcher>,
        environment: Option<Bound<'_, Environment>>,
    ) -> *mut ffi::PyObject {
        let callable = self.callable();
        let nargsf = self.n_positional() | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
        contract::call_threadlet(slf, callable, environment.as_ref(), || {
            // SAFETY: the arguments live in this object, which its awaiter or its thread keeps alive. The
            // word before them holds the callable, and the callee may use it meanwhile.
            unsafe { ffi::PyObject_Vectorcall(callable, self.items.add(1), nargsf, self.names) }
        })
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
        self.state.set(CallState::Done);
        let environment = self.environment(py);
        let protected = Workers::protect(slf, worker, callable, key, null_mut(), || {
            self.call_as_threadlet(slf, environment)
        });
        if let Some(pool) = pool {
            pool.get().finish(py, slf, matches!(protected, Protected::Full));
        }
        match protected {
            Protected::Kept(result) => returned(py, result).map(Step::Returned),
            Protected::Slow(result) => {
                slf.get().note_mistake(py, function);
                returned(py, result).map(Step::Returned)
            }
            Protected::Lost(result) => {
                slf.get().note_mistake(py, function);
                // Take the outcome before anything else: the error indicator is the function's.
                let outcome = returned(py, result);
                Workers::get_role_back(slf, worker)?;
                let result = outcome?;
                if !Workers::is_cancelled(slf)? {
                    return Ok(Step::Returned(result));
                }
                // The task throws the cancellation in at its next step; yielding None asks for that step.
                self.held.set(result.into_ptr());
                self.state.set(CallState::AwaitsCancellation);
                Ok(Step::Yielded(py.None()))
            }
            Protected::Full => {
                slf.get().note_not_started(py, function);
                match slf.get().workers.check_threads(py) {
                    Ok(()) => self.delegate_permit(py),
                    Err(error) => self.fail(error),
                }
            }
        }
    }

    /// Await what `make` returns instead, and take its first step.
    fn delegate(
        &self,
        py: Python<'_>,
        state: CallState,
        make: impl FnOnce(&Self, &Bound<'_, Dispatcher>) -> PyResult<Py<PyAny>>,
    ) -> PyResult<Step> {
        let coroutine =
            Worker::with_current(|worker| make(self, worker.ok_or_else(no_loop)?.dispatcher(py)));
        match coroutine {
            Ok(coroutine) => {
                let before = self.delegate.replace(coroutine.into_ptr());
                // SAFETY: this call owns the earlier delegate, if there was one.
                unsafe { ffi::Py_XDECREF(before) };
                self.state.set(state);
                self.send(py, py.None().bind(py))
            }
            Err(error) => self.fail(error),
        }
    }

    fn delegate_permit(&self, py: Python<'_>) -> PyResult<Step> {
        self.delegate(py, CallState::AwaitsPermit, |this, slf| {
            slf.call_method1(intern!(py, "_permit"), (this.pool(py),)).map(Bound::unbind)
        })
    }

    fn delegate_result(&self, py: Python<'_>) -> PyResult<Step> {
        self.delegate(py, CallState::AwaitsResult, |this, slf| {
            // SAFETY: the items are alive, and so are the names.
            let (positional, named) = unsafe {
                let item = |&it: &*mut ffi::PyObject| Bound::from_borrowed_ptr(py, it);
                let items = std::slice::from_raw_parts(this.items, this.n_items());
                let (positional, values) = items.split_at(1 + this.n_positional());
                let positional = PyTuple::new(py, positional.iter().map(item))?;
                let named = PyDict::new(py);
                for (idx, value) in values.iter().map(item).enumerate() {
                    let names = Bound::from_borrowed_ptr(py, this.names);
                    named.set_item(names.get_item(idx)?, value)?;
                }
                (positional, named)
            };
            let args = (this.pool(py), this.environment(py), positional, named);
            slf.call_method1(intern!(py, "_call_abandonable"), args).map(Bound::unbind)
        })
    }

    fn delegate_returned(&self, py: Python<'_>, result: Py<PyAny>) -> PyResult<Step> {
        if self.state.get() == CallState::AwaitsPermit {
            return self.start(py);
        }
        self.state.set(CallState::Done);
        Ok(Step::Returned(result))
    }

    /// Take a step with an exception thrown in.
    pub(crate) fn throw(&self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<Step> {
        let state = self.state.get();
        if !matches!(
            state,
            CallState::AwaitsPermit | CallState::AwaitsResult | CallState::AwaitsBeside
        ) {
            return self.fail(thrown(args)?);
        }
        // SAFETY: a delegate is set while one is awaited.
        let delegate = unsafe { Bound::from_borrowed_ptr(py, self.delegate.get()) };
        if state == CallState::AwaitsBeside {
            let thrown = thrown(args)?;
            return self.fail(self.beside_error(&delegate, &thrown)?.unwrap_or(thrown));
        }
        match delegate.call_method1(intern!(py, "throw"), args) {
            Ok(yielded) => Ok(Step::Yielded(yielded.unbind())),
            Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
                let result = error.value(py).getattr(intern!(py, "value"))?;
                self.delegate_returned(py, result.unbind())
            }
            Err(error) => self.fail(error),
        }
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

    pub(crate) fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.state.set(CallState::Done);
        if self.delegate.get().is_null() {
            return Ok(());
        }
        // SAFETY: see `throw`.
        let delegate = unsafe { Bound::from_borrowed_ptr(py, self.delegate.get()) };
        delegate.call_method0(intern!(py, "close")).map(drop)
    }
}

fn no_loop() -> PyErr {
    PyRuntimeError::new_err(
        "threadlets.call() was awaited on a loop that is not threadlets': its functions need a \
         dispatcher to come back to; use threadlets.run(main()), or asyncio.Runner(loop_factory=\
         threadlets.new_event_loop)",
    )
}

/// Replace a `StopIteration`, which would be taken for a return if it left an await or a future.
pub(crate) fn not_stop_iteration(py: Python<'_>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyStopIteration>(py) {
        return error;
    }
    let renamed = PyRuntimeError::new_err("threadlet raised StopIteration");
    renamed.set_cause(py, Some(error));
    renamed
}

/// The result of a call; a `TypeError` for a coroutine, which nothing would await.
fn returned(py: Python<'_>, result: *mut ffi::PyObject) -> PyResult<Py<PyAny>> {
    // SAFETY: a new reference, or null with an exception set.
    let result = unsafe { Bound::from_owned_ptr_or_err(py, result) };
    let result = result.map_err(|error| not_stop_iteration(py, error))?;
    // SAFETY: this only looks at the type.
    if unsafe { ffi::PyCoro_CheckExact(result.as_ptr()) } != 0 {
        result.call_method0(intern!(py, "close"))?;
        let name = result.getattr(intern!(py, "__qualname__"))?;
        return Err(PyTypeError::new_err(format!(
            "{name}() is a coroutine function: it does not block, so it needs no threadlet; await \
             it directly"
        )));
    }
    Ok(result.unbind())
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
