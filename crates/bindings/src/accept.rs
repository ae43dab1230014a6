//! Accepting connections: in bursts, until no more are waiting.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use threadlets_core::op::{self, Address, SocketFd};

use crate::address;
use crate::callback::{copy_context, current_context, in_context};
use crate::dispatcher::Dispatcher;
use crate::error::to_python;
use crate::request::Request;

/// How many connections are accepted before other requests get their turn.
///
/// Larger bursts were measured under 8,000 clients that connect anew for each request: they made
/// the backlog overflow more, not less, since clients that are answered late return all at once.
const ACCEPT_BURST_MAX: usize = 256;

/// A listening socket and whom to tell of its connections.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub struct Acceptor {
    fd: SocketFd,
    on_connection: Py<PyAny>,
    on_error: Py<PyAny>,
    /// The context in which the server was started; its connections are made in it.
    context: Py<PyAny>,
    retired: AtomicBool,
}

impl Acceptor {
    pub(crate) fn new(
        py: Python<'_>,
        fd: i32,
        on_connection: Py<PyAny>,
        on_error: Py<PyAny>,
    ) -> PyResult<Self> {
        let context = current_context(py)?.unbind();
        let retired = AtomicBool::new(false);
        Ok(Self { fd: SocketFd::new(fd), on_connection, on_error, context, retired })
    }

    /// Hand over a connection, in a context of its own: it shares no variables with others.
    fn connect(&self, py: Python<'_>, fd: i32, peer: &Address) -> PyResult<()> {
        if matches!(peer, Address::Internet(_)) {
            // Its failure would only cost time.
            let _ = op::set_nodelay(SocketFd::new(fd));
        }
        let context = copy_context(py, &self.context)?;
        in_context(py, &context, || {
            self.on_connection.call1(py, (fd, address::to_python(py, peer)?)).map(drop)
        })
    }

    /// Accept no more; its descriptor is about to be closed.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }
}

#[pymethods]
impl Acceptor {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.on_connection)?;
        visit.call(&self.on_error)?;
        visit.call(&self.context)
    }
}

/// Accept what is waiting, at most one burst of it; the rest is queued behind other requests.
pub(crate) fn run(dispatcher: &Bound<'_, Dispatcher>, slf: &Bound<'_, Acceptor>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    for _ in 0..ACCEPT_BURST_MAX {
        if this.retired.load(Relaxed) {
            return Ok(());
        }
        let outcome = match op::accept(this.fd) {
            Ok(None) => return Ok(()),
            Ok(Some((fd, peer))) => this.connect(py, fd, &peer),
            Err(error) => {
                in_context(py, &this.context, || this.on_error.call1(py, (to_python(error),)))
                    .map(drop)
            }
        };
        if outcome.is_err() {
            // No edge tells of the connections that are waiting already.
            dispatcher.get().submit(py, Request::Accept(slf.clone().unbind()))?;
            return outcome;
        }
    }
    dispatcher.get().submit(py, Request::Accept(slf.clone().unbind()))
}
