//! A run that a coroutine waits for: the engine carries it on, the dispatcher settles its future.

use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use threadlets_core::engine::Engine;
use threadlets_core::syslet::{Outlet, Run};

use super::argument;
use super::engine;
use super::mailbox::Letter;
use super::program::SysletProgram;
use super::result::SysletResult;
use crate::dispatcher::Dispatcher;
use crate::gil_cell::GilCell;
use crate::task::any_future;

/// Who is told when something comes back to a loop.
pub(crate) enum Awaited {
    /// The future of a run, and the program that the run is of.
    Run { program: Py<SysletProgram>, future: Py<PyAny>, engine: Arc<Engine>, id: u64 },
    /// A future that is to be done when a channel has something.
    Channel(Py<PyAny>),
}

impl Awaited {
    /// The loop is closed: nobody waits any more.
    pub(crate) fn give_up(&self) {
        if let Self::Run { engine, id, .. } = self {
            engine.cancel(*id);
        }
    }

    pub(crate) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Run { program, future, .. } => {
                visit.call(program)?;
                visit.call(future)
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

    /// Nobody wants the result: close what it has opened, give back what it was lent.
    fn discard(&self, py: Python<'_>) {
        drop(self.run.with(py, Option::take));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.program)
    }
}

/// A run in an engine's hands.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct Pending {
    dispatcher: Py<Dispatcher>,
    token: usize,
    engine: Arc<Engine>,
    id: u64,
    future: GilCell<Py<PyAny>>,
}

impl Pending {
    /// Have a run carried on for a loop.
    pub(crate) fn submit(
        dispatcher: &Bound<'_, Dispatcher>,
        program: &Bound<'_, SysletProgram>,
        engine: &Arc<Engine>,
        mut run: Box<Run>,
    ) -> PyResult<Self> {
        let py = dispatcher.py();
        let this = dispatcher.get();
        this.check_closed()?;
        let future = any_future::make(dispatcher)?.unbind();
        let token = this.awaited.with(py, |awaited| {
            awaited.insert(Awaited::Run {
                program: program.clone().unbind(),
                future: future.clone_ref(py),
                engine: Arc::clone(engine),
                id: 0,
            })
        });
        run.token = token as u64;
        run.outlet = Some(Arc::clone(&this.mailbox) as Arc<dyn Outlet>);
        let id = match engine::submit(engine, run) {
            Ok(id) => id,
            Err(error) => {
                drop(this.awaited.with(py, |awaited| awaited.remove(token)));
                return Err(error);
            }
        };
        this.awaited.with(py, |awaited| {
            if let Some(Awaited::Run { id: its_id, .. }) = awaited.get_mut(token) {
                *its_id = id;
            }
        });
        let future = GilCell::new(future);
        let (dispatcher, engine) = (dispatcher.clone().unbind(), Arc::clone(engine));
        Ok(Self { dispatcher, token, engine, id, future })
    }
}

#[pymethods]
impl Pending {
    /// The future that gets the run, `Landed`.
    #[getter]
    fn future(&self, py: Python<'_>) -> Py<PyAny> {
        self.future.with(py, |future| future.clone_ref(py))
    }

    /// Have the run end soon; nobody waits for that.
    fn abandon(&self) {
        self.engine.cancel(self.id);
    }

    /// Have the run end soon, and return the future that is done when it has.
    fn cancel(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let dispatcher = self.dispatcher.bind(py);
        let renewed = any_future::make(dispatcher)?.unbind();
        let before = self.future.with(py, |it| std::mem::replace(it, renewed.clone_ref(py)));
        let is_there = dispatcher.get().awaited.with(py, |awaited| match awaited.get(self.token) {
            Some(Awaited::Run { id, future, .. }) => *id == self.id && future.is(&before),
            _ => false,
        });
        if !is_there {
            any_future::settle(renewed.bind(py), Ok(py.None()))?;
            return Ok(renewed);
        }
        let replaced = dispatcher.get().awaited.with(py, |awaited| {
            awaited.get_mut(self.token).and_then(|it| match it {
                Awaited::Run { future, .. } => {
                    Some(std::mem::replace(future, renewed.clone_ref(py)))
                }
                Awaited::Channel(_) => None,
            })
        });
        drop((before, replaced));
        self.engine.cancel(self.id);
        Ok(renewed)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.dispatcher)?;
        self.future.traverse(&visit, |future| visit.call(future))
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

    /// Settle what a letter is about.
    pub(crate) fn open_letter(slf: &Bound<'_, Self>, letter: Letter) -> PyResult<()> {
        let py = slf.py();
        argument::bury_what_was_left(py);
        let (token, run) = match letter {
            Letter::Ended(run) => (run.token as usize, Some(run)),
            Letter::Notified(token) => (token as usize, None),
        };
        let awaited = slf.get().awaited.with(py, |awaited| awaited.try_remove(token));
        let (future, outcome) = match (awaited, run) {
            (Some(Awaited::Run { program, future, .. }), Some(run)) => {
                if any_future::is_done(future.bind(py))? {
                    return Ok(());
                }
                let landed = Landed { program, run: GilCell::new(Some(run)) };
                (future, Py::new(py, landed)?.into_any())
            }
            (Some(Awaited::Channel(future)), _) => (future, py.None()),
            _ => return Ok(()),
        };
        any_future::settle(future.bind(py), Ok(outcome))
    }
}
