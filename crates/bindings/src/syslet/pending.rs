//! A run that a coroutine waits for: the engine carries it on, the dispatcher says when it has ended.

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

/// Who is told when something comes back to a loop.
pub(crate) enum Awaited {
    /// A run, and the program that it is of.
    Run { program: Py<SysletProgram>, pending: Py<Pending> },
    /// A future that is to be done when a channel has something.
    Channel(Py<PyAny>),
}

impl Awaited {
    /// The loop is closed: nobody waits any more.
    pub(crate) fn give_up(&self, py: Python<'_>) {
        if let Self::Run { pending, .. } = self {
            pending.get().ask_to_end(py);
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

/// A run that has ended, on its way to whoever awaits it. If he never comes, its descriptors are
/// closed with it.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct Landed {
    program: Py<SysletProgram>,
    run: GilCell<Option<Box<Run>>>,
}

#[pymethods]
impl Landed {
    /// The result, once.
    fn result(&self, py: Python<'_>) -> PyResult<SysletResult> {
        let run = self.run.with(py, Option::take);
        let mut run = run.ok_or_else(|| PyRuntimeError::new_err("the result was taken already"))?;
        self.program.get().result(py, &mut run, None)
    }

    /// Nobody wants the result: close what it has delivered, give back what it was lent.
    fn discard(&self, py: Python<'_>) {
        drop(self.run.with(py, Option::take));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.program)
    }
}

/// A run in an engine's hands: a future that is done when it has ended, with what has `Landed`.
///
/// Cancelling asks the engine to end it, and the future is not done before. Whoever awaits it and is
/// cancelled therefore hears of that when nothing of the run is under way any more.
#[pyclass(frozen, extends = Future, module = "threadlets._core")]
pub(crate) struct Pending {
    engine: Arc<Engine>,
    id: GilSlot<u64>,
    /// Asking the run to end is useless: it was asked already, or goes to its end in any case.
    is_deaf: GilSlot<bool>,
}

impl Pending {
    /// Have a run carried on for a loop; if nobody can, it comes back. `persists`: only its own end
    /// ends it.
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
        let (id, is_deaf) = (GilSlot::new(0), GilSlot::new(persists));
        let pending = Self { engine: Arc::clone(engine), id, is_deaf };
        Bound::new(py, PyClassInitializer::from(future).add_subclass(pending))
    }

    /// Have the run end soon, unless it persists.
    fn ask_to_end(&self, py: Python<'_>) {
        if !self.is_deaf.get(py) {
            self.is_deaf.set(py, true);
            self.engine.cancel(self.id.get(py));
        }
    }
}

#[pymethods]
impl Pending {
    /// Have the run end soon; `false`, because it is not cancelled before it has ended.
    #[pyo3(signature = (msg=None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> bool {
        drop(msg);
        if !slf.as_super().get().is_done(slf.py()) {
            slf.get().ask_to_end(slf.py());
        }
        false
    }

    /// Nobody waits any more: have the run end soon, or discard what it came to.
    fn abandon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        match slf.as_super().get().outcome(py) {
            None => slf.get().ask_to_end(py),
            Some(Outcome::Result(landed)) => landed.bind(py).cast::<Landed>()?.get().discard(py),
            Some(Outcome::Error(_)) => {}
        }
        Ok(())
    }
}

impl Dispatcher {
    /// Have a future done when a channel has something; the token by which to say so.
    pub(crate) fn await_channel(&self, py: Python<'_>, future: Py<PyAny>) -> u64 {
        self.awaited.with(py, |awaited| awaited.insert(Awaited::Channel(future))) as u64
    }

    /// Nobody will say so.
    pub(crate) fn forget_channel(&self, py: Python<'_>, token: u64) {
        drop(self.awaited.with(py, |awaited| awaited.try_remove(token as usize)));
    }

    /// Settle what a message is about.
    pub(crate) fn deliver(slf: &Bound<'_, Self>, message: Message) -> PyResult<()> {
        let py = slf.py();
        argument::bury_what_was_left(py);
        let (token, run) = match message {
            Message::Ended(run) => (run.token as usize, Some(run)),
            Message::Notified(token) => (token as usize, None),
        };
        let awaited = slf.get().awaited.with(py, |awaited| awaited.try_remove(token));
        match (awaited, run) {
            (Some(Awaited::Run { program, pending }), Some(run)) => {
                let landed = Landed { program, run: GilCell::new(Some(run)) };
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
