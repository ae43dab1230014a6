//! A run that a coroutine awaits: the engine carries it on, and the dispatcher settles its future.

use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use threadlets_core::engine::Engine;
use threadlets_core::syslet::Run;

use super::program::SysletProgram;
use super::result::SysletResult;
use super::{argument, engine};
use crate::dispatcher::Dispatcher;
use crate::py::gil_cell::{GilCell, GilSlot};
use crate::task::any_future;
use crate::task::future::{Future, Outcome};
use crate::task::slots::{NativeClass, NativeFuture};

/// A run that has ended, on its way to the task that awaits it. If its result is never taken, its
/// descriptors are closed with it.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct EndedRun {
    program: Py<SysletProgram>,
    run: GilCell<Option<Box<Run>>>,
}

#[pymethods]
impl EndedRun {
    /// Return the result, once.
    fn result(&self, py: Python<'_>) -> PyResult<SysletResult> {
        let run = self.run.with(py, Option::take);
        let mut run = run.ok_or_else(|| PyRuntimeError::new_err("the result was taken already"))?;
        self.program.get().result(py, &mut run, None)
    }

    /// Drop the result: close its descriptors, and give back lent memory.
    fn discard(&self, py: Python<'_>) {
        drop(self.run.with(py, Option::take));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.program)
    }
}

/// The future of a run in an engine: done, with a `EndedRun`, when the run has ended.
///
/// Cancelling it asks the engine to cancel the run, and the future is not done before the run has ended. A
/// task that awaits it and is cancelled is therefore resumed when nothing of the run is under way any more.
#[pyclass(frozen, extends = Future, module = "threadlets._core")]
pub(crate) struct Pending {
    program: Py<SysletProgram>,
    engine: Arc<Engine>,
    id: GilSlot<u64>,
    /// Cancelling the run has no effect: it was cancelled already, or it persists.
    ignores_cancel: GilSlot<bool>,
}

impl Pending {
    /// Submit a run to an engine for a loop; if no thread can carry it on, it comes back. `persists`: it is
    /// not ended by cancelling.
    pub(crate) fn submit<'py>(
        dispatcher: &Bound<'py, Dispatcher>,
        program: &Bound<'py, SysletProgram>,
        engine: &Arc<Engine>,
        mut run: Box<Run>,
        persists: bool,
    ) -> Result<Bound<'py, Self>, (PyErr, Box<Run>)> {
        let py = dispatcher.py();
        let this = dispatcher.get();
        let pending = match Self::make(dispatcher, program, engine, persists) {
            Ok(pending) => pending,
            Err(error) => return Err((error, run)),
        };
        let awaited = pending.clone().into_any().unbind();
        let token = this.awaited.with(py, |it| it.insert(awaited));
        run.token = token as u64;
        run.sink = Some(this.completions.sink());
        match engine::submit(engine, run) {
            Ok(id) => pending.get().id.set(py, id),
            Err((error, mut run)) => {
                this.completions.forget_one();
                run.sink = None;
                drop(this.awaited.with(py, |awaited| awaited.remove(token)));
                return Err((error, run));
            }
        }
        Ok(pending)
    }

    fn make<'py>(
        dispatcher: &Bound<'py, Dispatcher>,
        program: &Bound<'py, SysletProgram>,
        engine: &Arc<Engine>,
        persists: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let py = dispatcher.py();
        dispatcher.get().check_closed()?;
        let future = Future::new(dispatcher.clone().unbind());
        future.remember_source(py)?;
        let (id, ignores_cancel) = (GilSlot::new(0), GilSlot::new(persists));
        let (program, engine) = (program.clone().unbind(), Arc::clone(engine));
        let pending = Self { program, engine, id, ignores_cancel };
        Bound::new(py, PyClassInitializer::from(future).add_subclass(pending))
    }

    /// Ask the engine to cancel the run, unless it persists or was cancelled before.
    fn request_cancel(&self, py: Python<'_>) {
        if !self.ignores_cancel.get(py) {
            self.ignores_cancel.set(py, true);
            self.engine.cancel(self.id.get(py));
        }
    }
}

#[pymethods]
impl Pending {
    /// Ask the engine to cancel the run; return False, since the future is done only when the run has ended.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> bool {
        drop(msg);
        if !slf.as_super().get().is_done(slf.py()) {
            slf.get().request_cancel(slf.py());
        }
        false
    }

    /// Give the run up: cancel it, or discard its result.
    fn abandon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.as_super().get().outcome(py) {
            None => slf.get().request_cancel(py),
            Some(Outcome::Result(ended)) => ended.bind(py).cast::<EndedRun>()?.get().discard(py),
            Some(Outcome::Error(_)) => {}
        }
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.program)
    }
}

impl NativeFuture for Pending {
    const CLASS: NativeClass = NativeClass::Pending;
}

/// Cancel the runs of a loop that are under way, except those that persist.
pub(crate) fn cancel_all<'a>(py: Python<'_>, awaited: impl Iterator<Item = &'a Py<PyAny>>) {
    for future in awaited {
        if let Ok(pending) = future.bind(py).cast::<Pending>() {
            pending.get().request_cancel(py);
        }
    }
}

/// Register a future that is to be done when a channel has enough runs; returns its token.
pub(crate) fn await_channel(dispatcher: &Dispatcher, py: Python<'_>, future: Py<PyAny>) -> u64 {
    dispatcher.awaited.with(py, |awaited| awaited.insert(future)) as u64
}

/// Forget the future with this token: no channel will notify it.
pub(crate) fn forget_channel(dispatcher: &Dispatcher, py: Python<'_>, token: u64) {
    drop(dispatcher.awaited.with(py, |awaited| awaited.try_remove(token as usize)));
}

/// Settle the future with this token, whose run has ended, or whose channel has enough runs.
pub(crate) fn deliver(
    slf: &Bound<'_, Dispatcher>,
    token: usize,
    run: Option<Box<Run>>,
) -> PyResult<()> {
    let py = slf.py();
    argument::release_dropped_buffers(py);
    let awaited = slf.get().awaited.with(py, |awaited| awaited.try_remove(token));
    let Some(future) = awaited.map(|it| it.into_bound(py)) else { return Ok(()) };
    match (run, future.cast::<Pending>()) {
        (Some(run), Ok(pending)) => {
            let program = pending.get().program.clone_ref(py);
            let ended = Py::new(py, EndedRun { program, run: GilCell::new(Some(run)) })?;
            Future::resolve(pending.as_super(), ended.into_any())
        }
        _ => any_future::settle(&future, Ok(py.None())),
    }
}
