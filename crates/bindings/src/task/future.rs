//! `Future`: a value that is yet to come, like `asyncio.Future`, in a hundred bytes.
//!
//! It is its own iterator, so awaiting it makes no object (`slots.rs`). Rarely needed fields are in a box.

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyBaseException, PyStopIteration, PyTypeError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};
use threadlets_core::{MemberKey, fp};

use super::iter::FutureIter;
use super::slots;
pub(crate) use super::state::FutureState;
use super::waiters::Waiter;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::outstanding::{Left, Membership};
use crate::py::context::current_context;
use crate::py::gil_cell::GilSlot;
use crate::py::interpreter::is_last_reference;
use crate::py::names;

/// Fields that few futures need.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// The message that `cancel` was given, for the `CancelledError`.
    pub(crate) cancel_message: Option<Py<PyAny>>,
    /// The exception with which a cancelled task has ended, until it is retrieved.
    pub(crate) cancelled_error: Option<Py<PyBaseException>>,
    /// The traceback that the exception had when it was set: each raise begins with it.
    pub(crate) traceback: Option<Py<PyAny>>,
    /// Where it was made, in debug mode.
    pub(crate) source_traceback: Option<Py<PyAny>>,
    /// The name of a task that was given one.
    pub(crate) name: Option<Py<PyAny>>,
    /// Attributes that other code has set.
    pub(super) attributes: Option<Py<PyDict>>,
    /// The awaiters that were registered with it; a task has a field of its own.
    #[cfg(Py_3_14)]
    pub(super) awaited_by: Option<Py<pyo3::types::PySet>>,
}

impl Extras {
    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.cancel_message)?;
        visit.call(&self.cancelled_error)?;
        visit.call(&self.traceback)?;
        visit.call(&self.source_traceback)?;
        visit.call(&self.name)?;
        #[cfg(Py_3_14)]
        visit.call(&self.awaited_by)?;
        visit.call(&self.attributes)
    }
}

/// A future of a threadlets loop, with the interface of `asyncio.Future`; `isinstance` takes it for one.
#[pyclass(frozen, subclass, weakref, module = "threadlets._core")]
pub(crate) struct Future {
    pub(crate) dispatcher: Py<Dispatcher>,
    pub(super) state: GilSlot<FutureState>,
    extras: GilSlot<Option<Box<Extras>>>,
    /// Its key in its scope.
    pub(crate) membership: Membership,
    /// An await has yielded it, and the driver of the coroutine has not accepted it yet.
    pub(crate) is_blocking: GilSlot<bool>,
    /// The exception was not retrieved yet.
    pub(super) log_traceback: GilSlot<bool>,
    /// False while a derived class has not called `__init__` yet.
    #[cfg(Py_3_15)]
    is_initialised: GilSlot<bool>,
}

/// The outcome of a done future.
pub(crate) enum Outcome {
    Result(Py<PyAny>),
    Error(PyErr),
}

impl Future {
    pub(crate) fn new(dispatcher: Py<Dispatcher>) -> Self {
        Self {
            dispatcher,
            state: GilSlot::default(),
            extras: GilSlot::default(),
            membership: Membership::new(MemberKey::NONE),
            is_blocking: GilSlot::new(false),
            log_traceback: GilSlot::new(false),
            #[cfg(Py_3_15)]
            is_initialised: GilSlot::new(true),
        }
    }

    /// Make a future of a loop, as `create_future` does for a loop whose tasks are native.
    pub(crate) fn make<'py>(slf: &Bound<'py, Dispatcher>) -> PyResult<Bound<'py, Self>> {
        let future = Self::new(slf.clone().unbind());
        future.remember_source(slf.py())?;
        Bound::new(slf.py(), future)
    }

    /// Make a future with a result pending again, as if it were new; false if that could be noticed: it is
    /// of another class, has a failure or attributes, or other code refers to it.
    pub(crate) fn renew(object: &Py<PyAny>, py: Python<'_>) -> bool {
        let Ok(future) = object.bind(py).cast_exact::<Self>() else { return false };
        let this = future.get();
        let is_plain = this.state.with(py, |it| matches!(it, FutureState::Result(_)))
            && this.extras.with(py, |it| it.is_none())
            && !this.is_blocking.get(py);
        if !is_plain || !is_last_reference(object) || this.dispatcher.get().is_debug() {
            return false;
        }
        drop(this.state.take(py));
        true
    }

    /// In debug mode, remember where the future is made.
    pub(crate) fn remember_source(&self, py: Python<'_>) -> PyResult<()> {
        if self.dispatcher.get().is_debug() {
            // Extracting a stack checks the times of files, and so raises flags that are not the request's.
            let stack = fp::FlagBits::preserving(|| names::extract_stack(py)?.call0())?.unbind();
            self.with_extras(py, |it| it.source_traceback = Some(stack));
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn is_done(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.is_done())
    }

    /// Whether it was cancelled or has an exception.
    #[inline]
    pub(crate) fn is_failed(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| matches!(state, FutureState::Error(_) | FutureState::Cancelled))
    }

    /// Whether it has waiters.
    pub(crate) fn is_awaited(&self, py: Python<'_>) -> bool {
        self.state.with(py, |it| matches!(it, FutureState::Awaited(_) | FutureState::AwaitedBy(_)))
    }

    /// Do not report the exception, even if it is never retrieved.
    pub(crate) fn forget_traceback(&self, py: Python<'_>) {
        self.log_traceback.set(py, false);
    }

    pub(crate) fn is_cancelled(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| matches!(state, FutureState::Cancelled))
    }

    /// Change the extras; `change` must not drop anything that could run Python code.
    pub(crate) fn with_extras<R>(
        &self,
        py: Python<'_>,
        change: impl FnOnce(&mut Extras) -> R,
    ) -> R {
        self.extras.with(py, |extras| change(extras.get_or_insert_default()))
    }

    /// Look at the extras; `None` if this future has none.
    pub(crate) fn peek_extras<R>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&mut Extras) -> Option<R>,
    ) -> Option<R> {
        self.extras.with(py, |extras| extras.as_deref_mut().and_then(look))
    }

    /// The outcome of the future; `None` while it is not done. Its exception counts as retrieved.
    #[inline]
    pub(crate) fn outcome(&self, py: Python<'_>) -> Option<Outcome> {
        let result = self.state.with(py, |state| match state {
            FutureState::Result(result) => Some(result.clone_ref(py)),
            _ => None,
        });
        match result {
            Some(result) => Some(Outcome::Result(result)),
            None => self.error_outcome(py),
        }
    }

    #[inline(never)]
    fn error_outcome(&self, py: Python<'_>) -> Option<Outcome> {
        let error = self.state.with(py, |state| match state {
            FutureState::Error(error) => Some(Some(error.clone_ref(py))),
            FutureState::Cancelled => Some(None),
            _ => None,
        })?;
        let error = match error {
            Some(error) => {
                self.log_traceback.set(py, false);
                let error = error.into_bound(py);
                let traceback =
                    self.peek_extras(py, |it| it.traceback.as_ref().map(|it| it.clone_ref(py)));
                let traceback = traceback.unwrap_or_else(|| py.None());
                match error.setattr(intern!(py, "__traceback__"), traceback) {
                    Ok(()) => PyErr::from_value(error.into_any()),
                    Err(error) => error,
                }
            }
            None => self.cancelled_error(py),
        };
        Some(Outcome::Error(error))
    }

    /// The `CancelledError` for the waiters of a cancelled future.
    pub(crate) fn cancelled_error(&self, py: Python<'_>) -> PyErr {
        if let Some(error) = self.peek_extras(py, |it| it.cancelled_error.take()) {
            return PyErr::from_value(error.into_bound(py).into_any());
        }
        let message =
            self.peek_extras(py, |it| it.cancel_message.as_ref().map(|it| it.clone_ref(py)));
        match names::cancelled_error(py, message.as_ref()) {
            Ok(error) => PyErr::from_value(error.into_any()),
            Err(error) => error,
        }
    }

    /// Add a waiter, to be woken when the future is done, after those that were added before; it is given
    /// back if the future is done already.
    pub(crate) fn await_by(&self, py: Python<'_>, waiter: Waiter) -> Option<Waiter> {
        self.state.with(py, |state| match state {
            FutureState::Pending => {
                *state = FutureState::Awaited(waiter);
                None
            }
            FutureState::Awaited(_) => {
                let FutureState::Awaited(first) = std::mem::take(state) else { unreachable!() };
                *state = FutureState::AwaitedBy(Box::new(vec![first, waiter]));
                None
            }
            FutureState::AwaitedBy(waiters) => {
                waiters.push(waiter);
                None
            }
            _ => Some(waiter),
        })
    }

    /// Remove a task from the waiters; returns the reference to it.
    #[must_use = "dropping a reference may run Python code"]
    pub(super) fn forget_waiter(&self, py: Python<'_>, task: &Bound<'_, PyAny>) -> Option<Waiter> {
        let is_its = |it: &Waiter| matches!(it, Waiter::Task(waiting) if waiting.is(task));
        self.state.with(py, |state| match state {
            FutureState::Awaited(waiter) if is_its(waiter) => match std::mem::take(state) {
                FutureState::Awaited(waiter) => Some(waiter),
                _ => unreachable!("looked at above"),
            },
            FutureState::AwaitedBy(waiters) => {
                let at = waiters.iter().position(is_its)?;
                Some(waiters.remove(at))
            }
            _ => None,
        })
    }

    /// The waiters, in order.
    pub(super) fn waiters(&self, py: Python<'_>) -> Vec<Waiter> {
        self.state.with(py, |state| match state {
            FutureState::Awaited(waiter) => vec![waiter.clone_ref(py)],
            FutureState::AwaitedBy(waiters) => waiters.iter().map(|it| it.clone_ref(py)).collect(),
            _ => Vec::new(),
        })
    }

    /// Settle a pending future, and wake its waiters.
    pub(crate) fn settle(slf: &Bound<'_, Self>, state: FutureState) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let dispatcher = this.dispatcher.get();
        let has_failed = matches!(state, FutureState::Error(_));
        match this.state.replace(py, state) {
            FutureState::Awaited(waiter) => waiter.wake(dispatcher, slf)?,
            FutureState::AwaitedBy(waiters) => {
                waiters.into_iter().try_for_each(|it| it.wake(dispatcher, slf))?;
            }
            _ => {}
        }
        slots::withdraw(slf);
        match dispatcher.requests.with(py, |it| it.leave(py, &this.membership, has_failed)) {
            Some(Left { owner: Some(owner), is_last, .. }) => owner.request_ended(slf, is_last),
            _ => Ok(()),
        }
    }

    /// As `settle`, but fails if there are waiters, and cannot be woken because the loop is closed.
    fn settle_if_open(slf: &Bound<'_, Self>, state: FutureState) -> PyResult<()> {
        let this = slf.get();
        match this.dispatcher.get().check_closed() {
            Ok(()) => Self::settle(slf, state),
            Err(closed) => {
                let waited = this.state.take(slf.py());
                Self::settle(slf, state)?;
                match waited {
                    FutureState::Awaited(_) | FutureState::AwaitedBy(_) => Err(closed),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Settle the future with a result, unless it is done.
    pub(crate) fn resolve(slf: &Bound<'_, Self>, result: Py<PyAny>) -> PyResult<()> {
        if slf.get().is_done(slf.py()) {
            return Ok(());
        }
        Self::settle(slf, FutureState::Result(result))
    }

    /// Settle the future with an exception, unless it is done; it is reported if it is never retrieved.
    pub(crate) fn fail(slf: &Bound<'_, Self>, error: Bound<'_, PyBaseException>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.is_done(py) {
            return Ok(());
        }
        let traceback = error.getattr(intern!(py, "__traceback__"))?;
        if !traceback.is_none() {
            let traceback = traceback.unbind();
            this.with_extras(py, |it| it.traceback = Some(traceback));
        }
        this.log_traceback.set(py, true);
        Self::settle_if_open(slf, FutureState::Error(error.unbind()))
    }

    /// Cancel the future itself; `false`: it was done.
    pub(crate) fn cancel_with(slf: &Bound<'_, Self>, message: Option<Py<PyAny>>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        this.log_traceback.set(py, false);
        if this.is_done(py) {
            return Ok(false);
        }
        if let Some(message) = message {
            this.with_extras(py, |it| it.cancel_message = Some(message));
        }
        Self::settle_if_open(slf, FutureState::Cancelled)?;
        Ok(true)
    }

    fn check_pending(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        if !slf.get().is_done(py) {
            return Ok(());
        }
        let what = format!("{}: {}", slf.get().state_name(py), slf.repr()?);
        Err(names::invalid_state(py, &what))
    }

    pub(super) fn state_name(&self, py: Python<'_>) -> &'static str {
        self.state.with(py, |state| match state {
            FutureState::Pending | FutureState::Awaited(_) | FutureState::AwaitedBy(_) => "PENDING",
            FutureState::Cancelled => "CANCELLED",
            FutureState::Result(_) | FutureState::Error(_) => "FINISHED",
        })
    }

    /// The loop of a new future: the given one, else the running one, else the thread's.
    pub(crate) fn its_loop<'py>(
        py: Python<'py>,
        given: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, Dispatcher>> {
        let owner = match given {
            Some(owner) => owner,
            None => py.import("asyncio.events")?.call_method0("get_event_loop")?,
        };
        owner.cast_into::<Dispatcher>().map_err(|error| {
            let owner = error.into_inner();
            PyTypeError::new_err(format!(
                "{owner:?} is not a threadlets loop; use asyncio.Future and asyncio.Task with other loops"
            ))
        })
    }

    /// The exception, if there is one; it counts as retrieved.
    pub(crate) fn seen_error(&self, py: Python<'_>) -> Option<Py<PyBaseException>> {
        let error = self.state.with(py, |state| match state {
            FutureState::Error(error) => Some(error.clone_ref(py)),
            _ => None,
        })?;
        self.log_traceback.set(py, false);
        Some(error)
    }

    /// The exception, if it was never retrieved, to be reported when the future is freed.
    pub(super) fn unseen_error(&self, py: Python<'_>) -> Option<Py<PyBaseException>> {
        if !self.log_traceback.get(py) {
            return None;
        }
        self.log_traceback.set(py, false);
        self.state.with(py, |state| match state {
            FutureState::Error(error) => Some(error.clone_ref(py)),
            _ => None,
        })
    }
}

#[pymethods]
impl Future {
    #[new]
    #[pyo3(signature = (*, r#loop=None))]
    fn py_new<'py>(py: Python<'py>, r#loop: Option<Bound<'py, PyAny>>) -> PyResult<Self> {
        let future = Self::new(Self::its_loop(py, r#loop)?.unbind());
        future.remember_source(py)?;
        #[cfg(Py_3_15)]
        future.is_initialised.set(py, false);
        Ok(future)
    }

    /// Do nothing: `__new__` has done it all. Derived classes call this.
    #[pyo3(signature = (*_args, **_kwargs))]
    fn __init__(
        slf: &Bound<'_, Self>,
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        #[cfg(Py_3_15)]
        if slf.get().is_initialised.replace(slf.py(), true) {
            let what = format!("{} is already initialized; make another future", slf.repr()?);
            return Err(pyo3::exceptions::PyRuntimeError::new_err(what));
        }
        let _ = slf;
        Ok(())
    }

    #[classmethod]
    #[pyo3(signature = (item, /))]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        item: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        cls.py().import("types")?.getattr("GenericAlias")?.call1((cls, item))
    }

    /// asyncio's class, so that `isinstance(future, asyncio.Future)` holds.
    #[getter]
    fn __class__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        names::future_class(py)
    }

    /// Cancel the future; return False if it is done.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        Self::cancel_with(slf, msg)
    }

    /// Whether the future was cancelled.
    fn cancelled(&self, py: Python<'_>) -> bool {
        self.is_cancelled(py)
    }

    /// Whether the future has a result or an exception, or was cancelled.
    fn done(&self, py: Python<'_>) -> bool {
        self.is_done(py)
    }

    /// Return the result; raise the exception if there is one.
    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.outcome(py) {
            Some(Outcome::Result(result)) => Ok(result),
            Some(Outcome::Error(error)) => Err(error),
            None => Err(names::invalid_state(py, "Result is not set.")),
        }
    }

    /// Return the exception, or None.
    fn exception(&self, py: Python<'_>) -> PyResult<Option<Py<PyBaseException>>> {
        match self.state_name(py) {
            "CANCELLED" => return Err(self.cancelled_error(py)),
            "PENDING" => return Err(names::invalid_state(py, "Exception is not set.")),
            _ => self.log_traceback.set(py, false),
        }
        Ok(self.state.with(py, |state| match state {
            FutureState::Error(error) => Some(error.clone_ref(py)),
            _ => None,
        }))
    }

    /// Call `fn(future)` in the loop once the future is done.
    #[pyo3(signature = (r#fn, /, *, context=None))]
    fn add_done_callback(
        slf: &Bound<'_, Self>,
        r#fn: Py<PyAny>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let context = match context {
            Some(context) => context,
            None => current_context(py)?,
        };
        match this.await_by(py, Waiter::Callback(Box::new((r#fn, context.unbind())))) {
            None => Ok(()),
            Some(waiter) => {
                Dispatcher::check_thread(this.dispatcher.bind(py))?;
                this.dispatcher.get().check_closed()?;
                waiter.wake(this.dispatcher.get(), slf)
            }
        }
    }

    /// Remove a callback, however often it was added; return how often that was.
    #[pyo3(signature = (r#fn, /))]
    fn remove_done_callback(slf: &Bound<'_, Self>, r#fn: &Bound<'_, PyAny>) -> PyResult<usize> {
        let py = slf.py();
        let this = slf.get();
        let waiters = this.waiters(py);
        // Comparing runs Python code, which may change the list: the callbacks that are equal are found by
        // identity afterwards.
        let mut equal = Vec::new();
        for waiter in &waiters {
            if let Waiter::Callback(callback) = waiter
                && callback.0.bind(py).eq(r#fn)?
            {
                equal.push(callback.0.as_ptr());
            }
        }
        let is_equal = |waiter: &Waiter| match waiter {
            Waiter::Callback(callback) => equal.contains(&callback.0.as_ptr()),
            Waiter::Task(_) => false,
        };
        let removed: Vec<Waiter> = this.state.with(py, |state| match state {
            FutureState::Awaited(waiter) if is_equal(waiter) => match std::mem::take(state) {
                FutureState::Awaited(waiter) => vec![waiter],
                _ => unreachable!(),
            },
            FutureState::AwaitedBy(waiters) => {
                let (out, kept) =
                    std::mem::take(&mut **waiters).into_iter().partition(|it| is_equal(it));
                **waiters = kept;
                out
            }
            _ => Vec::new(),
        });
        Ok(removed.len())
    }

    /// Settle the future with a result.
    #[pyo3(signature = (result, /))]
    fn set_result(slf: &Bound<'_, Self>, result: Py<PyAny>) -> PyResult<()> {
        Self::check_pending(slf)?;
        Self::settle_if_open(slf, FutureState::Result(result))
    }

    /// Settle the future with an exception: an instance, or a class to be instantiated.
    #[pyo3(signature = (exception, /))]
    fn set_exception(slf: &Bound<'_, Self>, exception: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        Self::check_pending(slf)?;
        let exception =
            if exception.is_instance_of::<PyType>() { exception.call0()? } else { exception };
        let exception = exception.cast_into::<PyBaseException>().map_err(|error| {
            let given = error.into_inner();
            PyTypeError::new_err(format!("{given:?} is not an exception"))
        })?;
        if exception.is_instance_of::<PyStopIteration>() {
            // Depending on its version, asyncio refuses it or makes it the cause of another exception.
            let kwargs = PyDict::new(py);
            kwargs.set_item("loop", &slf.get().dispatcher)?;
            let stock = names::stock_future(py)?.call((), Some(&kwargs))?;
            stock.call_method1("set_exception", (exception,))?;
            let error = stock.call_method0("exception")?;
            return Self::fail(slf, error.cast_into::<PyBaseException>()?);
        }
        Self::fail(slf, exception)
    }

    /// Return the loop that the future belongs to.
    fn get_loop(&self, py: Python<'_>) -> Py<Dispatcher> {
        self.dispatcher.clone_ref(py)
    }

    /// Return an iterator for code that drives a coroutine by hand; `await` needs none (`slots.rs`).
    fn __await__(slf: Py<Self>) -> FutureIter {
        FutureIter::new(slf)
    }

    fn __iter__(slf: Py<Self>) -> FutureIter {
        FutureIter::new(slf)
    }

    /// Report an exception that was never retrieved.
    fn __del__(slf: &Bound<'_, Self>) {
        slots::report_unfinished(slf, false);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.dispatcher)?;
        self.state.traverse(&visit, |state| state.visit(&visit))?;
        self.extras.traverse(&visit, |it| it.as_ref().map_or(Ok(()), |it| it.visit(&visit)))
    }

    fn __clear__(&self, py: Python<'_>) {
        let state = self.state.take(py);
        let extras = self.extras.take(py);
        drop((state, extras));
    }
}
