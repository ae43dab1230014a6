//! A run that a coroutine awaits: the engine carries it on, and the dispatcher settles its future.

use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use threadlets_core::engine::Engine;
use threadlets_core::syslet::Run;

use super::argument;
use super::completion_queue::Message;
use super::engine;
use super::program::SysletProgram;
use super::result::SysletResult;
use crate::dispatcher::Dispatcher;
use crate::gil_cell::{GilCell, GilSlot};
use crate::task::any_future;
use crate::task::future::{Future, Outcome};

/// What a message of the completion queue settles.
pub(crate) enum Awaited {
    /// The future of a run, and the run's program.
    Run { program: Py<SysletProgram>, pending: Py<Pending> },
    /// A future that is to be done when a channel has enough runs.
    Channel(Py<PyAny>),
}

impl Awaited {
    /// Cancel the run, if it is one: the loop is closed.
    pub(crate) fn give_up(&self, py: Python<'_>) {
        if let Self::Run { pending, .. } = self {
            pending.get().request_cancel(py);
        }
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Run { program, pending } => {
                visit.call(program)?;
                visit.call(pending)
            }
            Self::Channel(future) => visit.call(future),
        }
    }
}

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
        let pending = match Self::make(dispatcher, engine, persists) {
            Ok(pending) => pending,
            Err(error) => return Err((error, run)),
        };
        let awaited =
            Awaited::Run { program: program.clone().unbind(), pending: pending.clone().unbind() };
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
        engine: &Arc<Engine>,
        persists: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let py = dispatcher.py();
        dispatcher.get().check_closed()?;
        let future = Future::new(dispatcher.clone().unbind());
        future.remember_source(py)?;
        let (id, ignores_cancel) = (GilSlot::new(0), GilSlot::new(persists));
        let pending = Self { engine: Arc::clone(engine), id, ignores_cancel };
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
            Some(Outcome::Result(landed)) => landed.bind(py).cast::<EndedRun>()?.get().discard(py),
            Some(Outcome::Error(_)) => {}
        }
        Ok(())
    }
}

impl Dispatcher {
    /// Register a future that is to be done when a channel has enough runs; returns its token.
    pub(crate) fn await_channel(&self, py: Python<'_>, future: Py<PyAny>) -> u64 {
        self.awaited.with(py, |awaited| awaited.insert(Awaited::Channel(future))) as u64
    }

    /// Forget the future with this token: no channel will notify it.
    pub(crate) fn forget_channel(&self, py: Python<'_>, token: u64) {
        drop(self.awaited.with(py, |awaited| awaited.try_remove(token as usize)));
    }

    /// Settle the future that a message is about.
    pub(crate) fn deliver(slf: &Bound<'_, Self>, message: Message) -> PyResult<()> {
        let py = slf.py();
        argument::release_dropped_buffers(py);
        let (token, run) = match message {
            Message::Ended(run) => (run.token as usize, Some(run)),
            Message::Notified(token) => (token as usize, None),
        };
        let awaited = slf.get().awaited.with(py, |awaited| awaited.try_remove(token));
        match (awaited, run) {
            (Some(Awaited::Run { program, pending }), Some(run)) => {
                let landed = EndedRun { program, run: GilCell::new(Some(run)) };
                let landed = Py::new(py, landed)?.into_any();
                Future::resolve(pending.bind(py).as_super(), landed)
            }
            (Some(Awaited::Channel(future)), _) => {
                any_future::settle(future.bind(py), Ok(py.None()))
            }
            _ => Ok(()),
        }
    }
}
