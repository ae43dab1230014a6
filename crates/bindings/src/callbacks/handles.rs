//! Handles: callbacks that are queued, and can be cancelled until they run.
//!
//! A handle gives up its callback when it runs or is cancelled, so that a finished handle keeps
//! nothing alive.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyTuple, PyType};
use threadlets_core::TimerKey;

use super::running::Running;
use crate::dispatcher::Dispatcher;
use crate::py::gil_cell::{GilCell, GilSlot};
use crate::task::callback::Callback;
use crate::task::future::Future;

/// A callback queued by `call_soon` or `call_soon_threadsafe`.
#[pyclass(frozen, module = "threadlets._core", weakref)]
#[derive(Debug)]
pub(crate) struct Handle {
    callback: GilCell<Option<Callback>>,
    cancelled: AtomicBool,
    /// Set if other threads may wait until the callback has run.
    running: Option<Box<Running>>,
}

impl Handle {
    /// The handle of a callback; if it is shared, other threads may wait until the callback has run.
    pub(crate) fn new(callback: Callback, is_shared: bool) -> Self {
        let callback = GilCell::new(Some(callback));
        let running = is_shared.then(Box::default);
        Self { callback, cancelled: AtomicBool::new(false), running }
    }

    /// Run the callback that was taken out; meanwhile other threads may wait for its end.
    #[inline]
    pub(crate) fn during<R>(&self, slf: &Bound<'_, Dispatcher>, run: impl FnOnce() -> R) -> R {
        match &self.running {
            Some(running) => running.during(slf, run),
            None => run(),
        }
    }

    /// Wait while the callback runs in another thread, if the handle is shared.
    fn wait(&self, py: Python<'_>) -> PyResult<()> {
        self.running.as_ref().map_or(Ok(()), |it| it.wait(py))
    }

    /// Take the callback out, for the caller to run once; `None` if it was cancelled or taken before.
    pub(crate) fn take(&self, py: Python<'_>) -> Option<Callback> {
        self.callback.with(py, Option::take)
    }

    /// Put back a callback that could not run yet.
    pub(crate) fn put_back(&self, py: Python<'_>, callback: Callback) {
        drop(self.callback.with(py, |it| it.replace(callback)));
    }
}

#[pymethods]
impl Handle {
    /// The class that the handle passes for: `isinstance(handle, asyncio.Handle)` holds.
    #[getter]
    fn __class__<'py>(&self, py: Python<'py>) -> PyResult<&'py Bound<'py, PyType>> {
        static HANDLE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static THREAD_SAFE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        if self.running.is_some() {
            return THREAD_SAFE.import(py, "asyncio.events", "_ThreadSafeHandle");
        }
        HANDLE.import(py, "asyncio.events", "Handle")
    }

    /// Do not run the callback; without effect once it has run. Since CPython 3.14, wait for a callback of
    /// `call_soon_threadsafe` that is running in another thread.
    fn cancel(&self, py: Python<'_>) -> PyResult<()> {
        self.wait(py)?;
        self.cancelled.store(true, Relaxed);
        drop(self.take(py));
        Ok(())
    }

    /// Whether `cancel()` was called; waits for a running callback as `cancel()` does.
    fn cancelled(&self, py: Python<'_>) -> PyResult<bool> {
        self.wait(py)?;
        Ok(self._cancelled())
    }

    /// The context in which the callback will run; None once it has run or was cancelled.
    fn get_context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.callback.with(py, |callback| callback.as_ref().map(|it| it.context.clone_ref(py)))
    }

    #[getter]
    fn _callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.callback.with(py, |callback| callback.as_ref().map(|it| it.callable.clone_ref(py)))
    }

    #[getter]
    fn _args(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        self.callback.with(py, |callback| callback.as_ref().map(|it| it.args.clone_ref(py)))
    }

    #[getter]
    fn _context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_context(py)
    }

    #[getter]
    fn _cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let callback = self.callback.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)));
        let state = describe(py, callback, self._cancelled())?;
        Ok(format!("<Handle {state}>"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.callback.traverse(&visit, |callback| {
            callback.as_ref().map_or(Ok(()), |callback| callback.traverse(&visit))
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.take(py));
    }
}

/// A callback queued by `call_later` or `call_at`.
#[pyclass(frozen, module = "threadlets._core", weakref)]
pub(crate) struct TimerHandle {
    when: f64,
    pending: GilSlot<Option<Scheduled>>,
    cancelled: AtomicBool,
}

/// What a timer does when its time has come.
#[derive(Debug)]
pub(crate) enum Due {
    Callback(Callback),
    /// Set a future's result, unless it is done, as `asyncio.sleep` asks for. This needs neither a
    /// context nor a tuple of arguments.
    Result(Py<Future>, Py<PyAny>),
}

#[derive(Debug)]
struct Scheduled {
    due: Due,
    dispatcher: Py<Dispatcher>,
    /// Set when the timer is started, right after the handle is made.
    key: TimerKey,
}

impl Due {
    /// What a timer does; recognises the callback by which asyncio ends a sleep.
    pub(crate) fn new(
        callable: Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        context: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let ends_sleep = Self::ends_sleep(callable.py())?;
        if context.is_none()
            && callable.is(ends_sleep)
            && let Ok((future, result)) = args.extract::<(Bound<'_, PyAny>, Py<PyAny>)>()
            && let Ok(future) = future.cast_exact::<Future>()
        {
            return Ok(Self::Result(future.clone().unbind(), result));
        }
        Callback::new(callable, args, context).map(Self::Callback)
    }

    /// The function that asyncio calls when a sleep is over.
    fn ends_sleep(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        static ENDS_SLEEP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        ENDS_SLEEP.import(py, "asyncio.futures", "_set_result_unless_cancelled")
    }

    /// The callback that asyncio would have made for this timer.
    fn as_callback(&self, py: Python<'_>) -> PyResult<Callback> {
        match self {
            Self::Callback(callback) => Ok(callback.clone_ref(py)),
            Self::Result(future, result) => {
                let args = (future.clone_ref(py), result.clone_ref(py)).into_pyobject(py)?;
                Callback::new(Self::ends_sleep(py)?.clone(), args, None)
            }
        }
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Callback(callback) => callback.traverse(visit),
            Self::Result(future, result) => {
                visit.call(future)?;
                visit.call(result)
            }
        }
    }
}

impl TimerHandle {
    pub(crate) fn new(when: f64, due: Due, dispatcher: Py<Dispatcher>) -> Self {
        let pending = Scheduled { due, dispatcher, key: TimerKey::NONE };
        let cancelled = AtomicBool::new(false);
        Self { when, pending: GilSlot::new(Some(pending)), cancelled }
    }

    /// Remember under which key the dispatcher knows this timer.
    pub(crate) fn set_key(&self, py: Python<'_>, key: TimerKey) {
        self.pending.with(py, |pending| {
            if let Some(pending) = pending {
                pending.key = key;
            }
        });
    }

    /// The key under which the dispatcher knows this timer, unless it has run or was cancelled.
    pub(crate) fn key(&self, py: Python<'_>) -> Option<TimerKey> {
        self.pending.with(py, |pending| pending.as_ref().map(|it| it.key))
    }

    /// Take out what the timer does, for the caller to run once; `None` if it was cancelled or taken before.
    pub(crate) fn take(&self, py: Python<'_>) -> Option<Due> {
        self.pending.take(py).map(|pending| pending.due)
    }

    /// Remove the timer, and keep what it does, which is run by hand; returns the dispatcher, `None` if it has
    /// run or was cancelled.
    pub(crate) fn stop_timer(&self, py: Python<'_>) -> Option<Py<Dispatcher>> {
        let pending = self.pending.take(py)?;
        let dispatcher = pending.dispatcher.clone_ref(py);
        dispatcher.get().forget_timer(py, pending.key);
        drop(self.pending.replace(py, Some(Scheduled { key: TimerKey::NONE, ..pending })));
        Some(dispatcher)
    }

    /// Put back a callback that could not run yet; its time has come, so it has no timer any more.
    pub(crate) fn put_back(&self, py: Python<'_>, callback: Callback, dispatcher: Py<Dispatcher>) {
        let due = Due::Callback(callback);
        let pending = Scheduled { due, dispatcher, key: TimerKey::NONE };
        drop(self.pending.replace(py, Some(pending)));
    }

    /// The callback that asyncio would have made; `None` once it has run or was cancelled.
    fn callback(&self, py: Python<'_>) -> PyResult<Option<Callback>> {
        // Making a callback may run the cyclic collector, which must not find the slot in use.
        let Some(pending) = self.pending.take(py) else { return Ok(None) };
        let callback = pending.due.as_callback(py);
        drop(self.pending.replace(py, Some(pending)));
        callback.map(Some)
    }
}

#[pymethods]
impl TimerHandle {
    /// The class that the handle passes for: `isinstance(handle, asyncio.TimerHandle)` holds.
    #[getter]
    fn __class__<'py>(&self, py: Python<'py>) -> PyResult<&'py Bound<'py, PyType>> {
        static TIMER_HANDLE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        TIMER_HANDLE.import(py, "asyncio.events", "TimerHandle")
    }

    /// Do not run the callback, and remove its timer at once; without effect once it has run.
    fn cancel(&self, py: Python<'_>) {
        self.cancelled.store(true, Relaxed);
        let Some(pending) = self.pending.take(py) else { return };
        pending.dispatcher.get().forget_timer(py, pending.key);
    }

    /// Whether `cancel()` was called.
    fn cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// The loop's time, in seconds, at which the callback is due.
    fn when(&self) -> f64 {
        self.when
    }

    /// The context in which the callback will run; None once it has run or was cancelled.
    fn get_context(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(self.callback(py)?.map(|it| it.context))
    }

    #[getter]
    fn _when(&self) -> f64 {
        self.when
    }

    /// Whether the handle is among the loop's timers.
    #[getter]
    fn _scheduled(&self, py: Python<'_>) -> bool {
        self.pending.with(py, |pending| pending.is_some())
    }

    #[getter]
    fn _callback(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        Ok(self.callback(py)?.map(|it| it.callable))
    }

    #[getter]
    fn _args(&self, py: Python<'_>) -> PyResult<Option<Py<PyTuple>>> {
        Ok(self.callback(py)?.map(|it| it.args))
    }

    #[getter]
    fn _context(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.get_context(py)
    }

    #[getter]
    fn _cancelled(&self) -> bool {
        self.cancelled()
    }

    fn __hash__(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.when.to_bits().hash(&mut hasher);
        hasher.finish()
    }

    fn __richcmp__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>, op: CompareOp) -> Py<PyAny> {
        let py = slf.py();
        // Debug mode's timer handles, and the handles of other timed requests, are sorted among these.
        let theirs = other.getattr(intern!(py, "_when")).and_then(|it| it.extract::<f64>());
        let (ours, Ok(theirs)) = (slf.get().when, theirs) else { return py.NotImplemented() };
        let answer = match op {
            CompareOp::Eq => slf.is(other),
            CompareOp::Ne => !slf.is(other),
            CompareOp::Lt => ours < theirs,
            CompareOp::Le => ours <= theirs,
            CompareOp::Gt => ours > theirs,
            CompareOp::Ge => ours >= theirs,
        };
        PyBool::new(py, answer).to_owned().into_any().unbind()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let state = describe(py, self.callback(py)?, self.cancelled())?;
        Ok(format!("<TimerHandle when={} {state}>", self.when))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.pending.traverse(&visit, |pending| match pending {
            Some(pending) => {
                visit.call(&pending.dispatcher)?;
                pending.due.traverse(&visit)
            }
            None => Ok(()),
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.pending.take(py));
    }
}

/// Describe a handle: its callback, or why it has none.
fn describe(py: Python<'_>, callback: Option<Callback>, cancelled: bool) -> PyResult<String> {
    match callback {
        Some(callback) => callback.describe(py),
        None if cancelled => Ok("cancelled".to_owned()),
        None => Ok("done".to_owned()),
    }
}
