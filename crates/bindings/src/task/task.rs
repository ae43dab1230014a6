//! `Task`: a coroutine that the tick resumes, like `asyncio.Task`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};
use threadlets_core::takeover::WorkerId;

use super::arguments::{check_context, check_coroutine};
#[cfg(Py_3_14)]
use super::awaited_by::{self, AsAsyncio};
use super::future::Future;
use super::slots::{self, NativeClass, NativeFuture};
#[cfg(Py_3_14)]
use super::visible::{self, VisibleTask};
use super::{showing, step};
use crate::dispatcher::Dispatcher;
use crate::py::context::current_context;
use crate::py::gil_cell::GilSlot;
use crate::py::names;

/// Counter for the names of tasks that were not given one.
static N_MADE: AtomicU64 = AtomicU64::new(0);

/// A task of a threadlets loop, with the interface of `asyncio.Task`; `isinstance` takes it for one.
///
/// Some fields are at the offsets of asyncio's own (`asyncio_state::at`).
#[pyclass(frozen, subclass, extends = Future, module = "threadlets._core")]
#[repr(C)]
pub(crate) struct Task {
    pub(crate) context: Py<PyAny>,
    /// What the coroutine awaits; kept for a moment after that is done.
    pub(super) waits_for: GilSlot<Option<Py<PyAny>>>,
    number: u64,
    n_cancels: GilSlot<u32>,
    /// The worker that the task is bound to, or `NONE`.
    bound_to: GilSlot<WorkerId>,
    #[cfg(Py_3_14)]
    pub(super) as_asyncio: AsAsyncio,
    /// How many things bind it to that worker: greenlets, and stays.
    n_bindings: GilSlot<u16>,
    n_stays: GilSlot<u8>,
    /// The next step throws `CancelledError` in.
    pub(crate) must_cancel: GilSlot<bool>,
    /// `must_cancel` is cleared if all requests to cancel are taken back before that.
    pub(super) may_forget_cancel: GilSlot<bool>,
    pub(crate) shield: GilSlot<Shield>,
    /// It was started: it is in its scope's list, with a step to come.
    has_begun: GilSlot<bool>,
    /// It is not reported if it is freed before it has ended.
    goes_silently: GilSlot<bool>,
    pub(super) coroutine: GilSlot<Option<Py<PyAny>>>,
}

/// Whether cancelling its scope reaches a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shield {
    Down,
    /// The task is in a scope of its own that is shielded.
    Up,
    /// It is shielded, and was to be cancelled meanwhile.
    Hit,
}

/// When a new task takes its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstStep {
    /// In the next tick.
    Soon,
    /// At once, in the stack of the code that makes it, if the loop runs.
    Eager,
}

impl FirstStep {
    pub(super) fn eager_if(is_eager: bool) -> Self {
        if is_eager { Self::Eager } else { Self::Soon }
    }
}

impl Task {
    /// Make a task of a coroutine, and start it.
    pub(crate) fn start<'py>(
        dispatcher: &Bound<'py, Dispatcher>,
        coroutine: Bound<'py, PyAny>,
        name: Option<Bound<'py, PyAny>>,
        context: Option<Bound<'py, PyAny>>,
        start: FirstStep,
    ) -> PyResult<Bound<'py, Self>> {
        let py = dispatcher.py();
        check_coroutine(&coroutine)?;
        let task = Self::prepare(dispatcher, coroutine, context)?;
        #[cfg(Py_3_14)]
        let task = if dispatcher.get().is_debug() && visible::is_possible(py) {
            VisibleTask::prepare(py, task)?
        } else {
            Bound::new(py, task)?
        };
        #[cfg(not(Py_3_14))]
        let task = Bound::new(py, task)?;
        Self::begin(&task, name, start)?;
        Ok(task)
    }

    /// Make a task that has not begun.
    fn prepare(
        dispatcher: &Bound<'_, Dispatcher>,
        coroutine: Bound<'_, PyAny>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let context = match context {
            Some(context) => check_context(context)?,
            None => current_context(dispatcher.py())?,
        };
        let future = Future::new(dispatcher.clone().unbind());
        let task = Self {
            coroutine: GilSlot::new(Some(coroutine.unbind())),
            #[cfg(Py_3_14)]
            as_asyncio: AsAsyncio::new(),
            context: context.unbind(),
            waits_for: GilSlot::default(),
            number: N_MADE.fetch_add(1, Relaxed) + 1,
            n_cancels: GilSlot::new(0),
            bound_to: GilSlot::new(WorkerId::NONE),
            n_bindings: GilSlot::new(0),
            n_stays: GilSlot::new(0),
            must_cancel: GilSlot::new(false),
            may_forget_cancel: GilSlot::new(false),
            shield: GilSlot::new(Shield::Down),
            has_begun: GilSlot::new(false),
            goes_silently: GilSlot::new(true),
        };
        Ok(PyClassInitializer::from(future).add_subclass(task))
    }

    /// Start a task.
    fn begin(
        slf: &Bound<'_, Self>,
        name: Option<Bound<'_, PyAny>>,
        start: FirstStep,
    ) -> PyResult<()> {
        let py = slf.py();
        let future = slf.as_super().get();
        future.remember_source(py)?;
        if let Some(name) = name.filter(|it| !it.is_none()) {
            slf.get().rename(future, name)?;
        }
        let dispatcher = future.dispatcher.bind(py);
        let this = dispatcher.get();
        this.requests.with(py, |requests| requests.join_root(slf, &future.membership));
        slf.get().has_begun.set(py, true);
        slf.get().goes_silently.set(py, false);
        #[cfg(Py_3_14)]
        VisibleTask::enter(slf);
        if start == FirstStep::Eager && this.thread().is_some() {
            return step::start_eagerly(dispatcher, slf);
        }
        step::resume_soon(slf)
    }

    /// The worker that the task is bound to, unless it may go on in any.
    #[inline]
    pub(crate) fn bound_to(&self, py: Python<'_>) -> Option<WorkerId> {
        Some(self.bound_to.get(py)).filter(|&it| it != WorkerId::NONE)
    }

    /// Bind the task to a worker, for one more reason.
    pub(crate) fn add_binding(&self, py: Python<'_>, worker: WorkerId) {
        self.bound_to.set(py, worker);
        self.n_bindings.set(py, self.n_bindings.get(py).saturating_add(1));
    }

    /// Take one of the reasons back; without any, the task is not bound any more.
    pub(crate) fn remove_binding(&self, py: Python<'_>) {
        let n_left = self.n_bindings.get(py).saturating_sub(1);
        self.n_bindings.set(py, n_left);
        if n_left == 0 {
            self.bound_to.set(py, WorkerId::NONE);
        }
    }

    /// Count one more `threadlets.stay()` of the task.
    pub(crate) fn stays(&self, py: Python<'_>) -> PyResult<()> {
        let n_stays = self.n_stays.get(py).checked_add(1).ok_or_else(|| {
            PyRuntimeError::new_err(
                "threadlets.stay() was called 256 times in one task; once is enough, or leave each with-block",
            )
        })?;
        self.n_stays.set(py, n_stays);
        Ok(())
    }

    /// End one stay; `false`: it has ended with the task.
    pub(crate) fn leaves(&self, py: Python<'_>) -> bool {
        let n_stays = self.n_stays.get(py);
        self.n_stays.set(py, n_stays.saturating_sub(1));
        n_stays > 0
    }

    /// End all stays of a task that has ended.
    #[inline]
    pub(super) fn stays_no_more(&self, py: Python<'_>, dispatcher: &Dispatcher) {
        if let Some(worker) = self.bound_to(py) {
            while self.leaves(py) {
                self.remove_binding(py);
                dispatcher.workers.remove_binding(py, worker);
            }
        }
    }

    fn rename(&self, future: &Future, name: Bound<'_, PyAny>) -> PyResult<()> {
        let py = name.py();
        let name = name.str()?.into_any().unbind();
        drop(future.with_extras(py, |it| it.name.replace(name)));
        Ok(())
    }

    /// Request the task's cancellation; `false`: it has ended.
    ///
    /// The request passes along the chain of tasks that await one another. What the last one awaits is
    /// cancelled or, if that cannot be cancelled, that task at its next step. `by_scope`: a shielded task
    /// of the chain goes on, and the one before it stops waiting for it.
    pub(crate) fn request_cancel(
        slf: &Bound<'_, Self>,
        message: Option<&Py<PyAny>>,
        by_scope: bool,
    ) -> PyResult<bool> {
        let py = slf.py();
        slf.as_super().get().forget_traceback(py);
        if slf.as_super().get().is_done(py) {
            return Ok(false);
        }
        let message = || message.map(|it| it.clone_ref(py));
        let mut task = slf.clone();
        // A task of the chain that was passed before, to detect a cycle.
        let (mut passed, mut n_steps) = (slf.clone(), 0_usize);
        loop {
            let this = task.get();
            this.n_cancels.set(py, this.n_cancels.get(py).saturating_add(1));
            Self::mark_cancelled(&task);
            let awaited =
                this.waits_for.with(py, |it| it.as_ref().map(|it| it.clone_ref(py).into_bound(py)));
            let is_cancelled = match awaited {
                None => false,
                Some(awaited) => match into_task(awaited) {
                    Ok(next) if next.as_super().get().is_done(py) => false,
                    Ok(next) => {
                        let is_shielded = by_scope && next.get().shield.get(py) != Shield::Down;
                        if is_shielded || next.is(&passed) {
                            Self::stop_waiting(&task, &next)?;
                            false
                        } else {
                            next.as_super().get().forget_traceback(py);
                            n_steps += 1;
                            if n_steps.is_power_of_two() {
                                passed = next.clone();
                            }
                            task = next;
                            continue;
                        }
                    }
                    Err(other) => Self::cancel_awaited(&other, message())?,
                },
            };
            if !is_cancelled {
                this.must_cancel.set(py, true);
                let future = task.as_super().get();
                let message = message();
                let before =
                    future.with_extras(py, |it| std::mem::replace(&mut it.cancel_message, message));
                drop(before);
            }
            return Ok(true);
        }
    }

    /// If the task's scope is cancelled, count this member as cancelled.
    fn mark_cancelled(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let future = slf.as_super().get();
        let requests = &future.dispatcher.get().requests;
        let owner = requests.with(py, |it| it.owner_of(py, &future.membership));
        if owner.is_some_and(|it| it.is_cancelled(py)) {
            requests.with(py, |it| it.mark_cancelled(py, &future.membership));
        }
    }

    /// Cancel what a task awaits; whether that was possible.
    pub(super) fn cancel_awaited(
        awaited: &Bound<'_, PyAny>,
        message: Option<Py<PyAny>>,
    ) -> PyResult<bool> {
        let py = awaited.py();
        if let Ok(future) = awaited.cast_exact::<Future>() {
            return Future::cancel_with(future, message);
        }
        let kwargs = PyDict::new(py);
        kwargs.set_item(intern!(py, "msg"), message)?;
        awaited.call_method(intern!(py, "cancel"), (), Some(&kwargs))?.is_truthy()
    }

    /// Take out what the task awaits: it does not wait any more.
    #[inline]
    pub(super) fn take_awaited(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        let py = slf.py();
        let awaited = slf.get().waits_for.replace(py, None);
        #[cfg(Py_3_14)]
        awaited_by::ends(awaited.as_ref(), slf)?;
        Ok(awaited)
    }

    /// Have a task go on in the next tick although what it awaits is not done.
    fn stop_waiting(slf: &Bound<'_, Self>, awaited: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let forgotten = awaited.as_super().get().forget_waiter(py, slf);
        drop((forgotten, Self::take_awaited(slf)?));
        step::resume_soon(slf)
    }

    /// Whether to report that the task is freed: it has not ended.
    pub(super) fn is_missed(slf: &Bound<'_, Self>) -> bool {
        let py = slf.py();
        !slf.as_super().get().is_done(py) && !slf.get().goes_silently.get(py)
    }
}

impl NativeFuture for Task {
    const CLASS: NativeClass = NativeClass::Task;

    fn is_missed(slf: &Bound<'_, Self>) -> bool {
        Self::is_missed(slf)
    }
}

/// Whether the object is a native task, and not of a derived class.
#[inline]
fn is_task(object: &Bound<'_, PyAny>) -> bool {
    #[cfg(Py_3_14)]
    if object.is_exact_instance_of::<super::visible::VisibleTask>() {
        return true;
    }
    object.is_exact_instance_of::<Task>()
}

fn into_task(object: Bound<'_, PyAny>) -> Result<Bound<'_, Task>, Bound<'_, PyAny>> {
    if is_task(&object) {
        object.cast_into().map_err(|error| error.into_inner())
    } else {
        Err(object)
    }
}

#[pymethods]
impl Task {
    #[new]
    #[pyo3(signature = (coro, *, r#loop=None, context=None, **_kwargs))]
    fn py_new(
        coro: Bound<'_, PyAny>,
        r#loop: Option<Bound<'_, PyAny>>,
        context: Option<Bound<'_, PyAny>>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        check_coroutine(&coro)?;
        Self::prepare(&Future::its_loop(coro.py(), r#loop)?, coro, context)
    }

    /// Start the task that `__new__` has made.
    #[pyo3(signature = (_coro, *, r#loop=None, name=None, context=None, eager_start=None))]
    fn __init__(
        slf: &Bound<'_, Self>,
        _coro: &Bound<'_, PyAny>,
        r#loop: Option<&Bound<'_, PyAny>>,
        name: Option<Bound<'_, PyAny>>,
        context: Option<&Bound<'_, PyAny>>,
        eager_start: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let _ = (r#loop, context);
        if slf.get().has_begun.get(slf.py()) {
            return Err(PyRuntimeError::new_err(
                "the task was started already, and a task runs one coroutine; make another task",
            ));
        }
        let is_eager = eager_start.map_or(Ok(false), |it| it.is_truthy())?;
        Self::begin(slf, name, FirstStep::eager_if(is_eager))
    }

    /// asyncio's class, so that `isinstance(task, asyncio.Task)` holds.
    #[getter]
    fn __class__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyType>> {
        names::task_class(py)
    }

    /// Report a task that has not ended, or whose exception was never retrieved.
    fn __del__(slf: &Bound<'_, Self>) {
        slots::report_unfinished(slf.as_super(), Self::is_missed(slf));
    }

    /// Have `asyncio.CancelledError` thrown into the task; return False if it has ended.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        Self::request_cancel(slf, msg.as_ref(), false)
    }

    /// Return how many requests to cancel were not taken back.
    fn cancelling(&self, py: Python<'_>) -> u32 {
        self.n_cancels.get(py)
    }

    /// Take back one request to cancel; return how many are left.
    fn uncancel(&self, py: Python<'_>) -> u32 {
        let n_left = self.n_cancels.get(py).saturating_sub(1);
        self.n_cancels.set(py, n_left);
        if n_left == 0 && (py.version_info() >= (3, 13) || self.may_forget_cancel.get(py)) {
            self.must_cancel.set(py, false);
        }
        n_left
    }

    /// Cancel the running task again at its next await, unless its cancellation is taken back before.
    fn _cancel_anew(&self, py: Python<'_>) {
        self.must_cancel.set(py, true);
        self.may_forget_cancel.set(py, true);
    }

    fn get_coro(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.coroutine.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)))
    }

    fn get_context(&self, py: Python<'_>) -> Py<PyAny> {
        self.context.clone_ref(py)
    }

    pub(super) fn get_name<'py>(slf: &Bound<'py, Self>) -> Bound<'py, PyAny> {
        let py = slf.py();
        let named = slf.as_super().get();
        match named.peek_extras(py, |it| it.name.as_ref().map(|it| it.clone_ref(py))) {
            Some(name) => name.into_bound(py),
            None => PyString::new(py, &format!("Task-{}", slf.get().number)).into_any(),
        }
    }

    #[pyo3(signature = (value, /))]
    fn set_name(slf: &Bound<'_, Self>, value: Bound<'_, PyAny>) -> PyResult<()> {
        slf.get().rename(slf.as_super().get(), value)?;
        #[cfg(Py_3_14)]
        VisibleTask::show(slf);
        Ok(())
    }

    /// The frames of the coroutine: where it is suspended, or the traceback with which it ended.
    #[pyo3(signature = (*, limit=None))]
    fn get_stack<'py>(
        slf: &Bound<'py, Self>,
        limit: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("asyncio.base_tasks")?.call_method1("_task_get_stack", (slf, limit))
    }

    /// Print the frames of the coroutine.
    #[pyo3(signature = (*, limit=None, file=None))]
    fn print_stack<'py>(
        slf: &Bound<'py, Self>,
        limit: Option<Bound<'py, PyAny>>,
        file: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("asyncio.base_tasks")?.call_method1("_task_print_stack", (slf, limit, file))
    }

    #[pyo3(signature = (_result, /))]
    fn set_result(&self, _result: Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyRuntimeError::new_err("Task does not support set_result operation"))
    }

    #[pyo3(signature = (_exception, /))]
    fn set_exception(&self, _exception: Bound<'_, PyAny>) -> PyResult<()> {
        Err(PyRuntimeError::new_err("Task does not support set_exception operation"))
    }

    fn __repr__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        showing::named_after_type(slf, names::task_repr(slf.py())?)
    }

    /// Take a step: the callback of an awaited future that is not ours. The task's context was entered.
    fn _wakeup(slf: &Bound<'_, Self>, _future: &Bound<'_, PyAny>) -> PyResult<()> {
        step::take_in_context(slf)
    }

    #[getter]
    fn _must_cancel(&self, py: Python<'_>) -> bool {
        self.must_cancel.get(py)
    }

    #[getter]
    fn _fut_waiter(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.waits_for.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)))
    }

    #[getter]
    fn _coro(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_coro(py)
    }

    /// Resume another coroutine from the next step on.
    #[setter(_coro)]
    fn set_coro(slf: &Bound<'_, Self>, coro: Bound<'_, PyAny>) {
        let before = slf.get().coroutine.replace(slf.py(), Some(coro.unbind()));
        #[cfg(Py_3_14)]
        VisibleTask::show(slf);
        drop(before);
    }

    #[getter]
    fn _context(&self, py: Python<'_>) -> Py<PyAny> {
        self.context.clone_ref(py)
    }

    #[getter]
    fn _num_cancels_requested(&self, py: Python<'_>) -> u32 {
        self.n_cancels.get(py)
    }

    #[getter]
    fn _log_destroy_pending(&self, py: Python<'_>) -> bool {
        !self.goes_silently.get(py)
    }

    #[setter(_log_destroy_pending)]
    fn set_log_destroy_pending(&self, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        self.goes_silently.set(enabled.py(), !enabled.is_truthy()?);
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.coroutine.traverse(&visit, |it| visit.call(it))?;
        visit.call(&self.context)?;
        #[cfg(Py_3_14)]
        self.as_asyncio.traverse(&visit)?;
        self.waits_for.traverse(&visit, |it| visit.call(it))
    }

    fn __clear__(&self, py: Python<'_>) {
        let coroutine = self.coroutine.take(py);
        let waits_for = self.waits_for.take(py);
        #[cfg(Py_3_14)]
        drop(self.as_asyncio.clear(py));
        drop((coroutine, waits_for));
    }
}
