//! Datagram sockets: each receives a limited number of datagrams per tick, until none is waiting.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::socket::{self, SocketFd};

use crate::contract::in_context;
use crate::dispatcher::request::Request;
use crate::dispatcher::{Dispatcher, hooks};
use crate::py::context::current_context;
use crate::py::error::{ends_the_loop, to_python};
use crate::py::gil_cell::GilCell;
use crate::py::{address, memory};

/// How many datagrams a socket receives before other requests run.
const DATAGRAMS_PER_TICK_MAX: usize = 64;

/// A datagram socket that is read, and the protocol that gets its datagrams.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub struct Datagrams {
    fd: SocketFd,
    protocol: GilCell<Py<PyAny>>,
    /// The context in which the endpoint was made; its protocol is called in it.
    context: Py<PyAny>,
    retired: AtomicBool,
    /// The request is in the ready queue: one is enough for any number of edges.
    queued: AtomicBool,
}

impl Datagrams {
    /// The protocol that gets the datagrams.
    pub(crate) fn protocol<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.protocol.with(py, |protocol| protocol.bind(py).clone())
    }

    pub(crate) fn new(py: Python<'_>, fd: i32, protocol: Py<PyAny>) -> PyResult<Self> {
        let context = current_context(py)?.unbind();
        let protocol = GilCell::new(protocol);
        let (retired, queued) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { fd: SocketFd::new(fd), protocol, context, retired, queued })
    }

    /// The request that receives datagrams, unless it is queued already.
    pub(crate) fn request(slf: &Bound<'_, Self>) -> Option<Request> {
        let was_queued = slf.get().queued.swap(true, Relaxed);
        (!was_queued).then(|| Request::Datagrams(slf.clone().into_any().unbind()))
    }

    /// Stop receiving; the descriptor may be about to be closed.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Receive one datagram and pass it to the protocol; false if there was none.
    fn receive(&self, dispatcher: &Bound<'_, Dispatcher>) -> PyResult<bool> {
        let py = dispatcher.py();
        let received = dispatcher.get().with_receive_buffer(py, |buffer| {
            let received = socket::receive_from(self.fd, buffer)?;
            Ok(received.map(|(n_bytes, sender)| (memory::bytes(py, &buffer[..n_bytes]), sender)))
        });
        let received = received.and_then(|received| match received.map_err(to_python)? {
            Some((data, sender)) => Ok(Some((data?, sender))),
            None => Ok(None),
        });
        let protocol = self.protocol.with(py, |protocol| protocol.clone_ref(py));
        let handed_over = match received {
            Ok(None) => return Ok(false),
            Ok(Some((data, sender))) => {
                let sender = sender.map(|it| address::to_python(py, &it)).transpose()?;
                protocol.call_method1(py, intern!(py, "datagram_received"), (data, sender))
            }
            Err(error) => protocol.call_method1(py, intern!(py, "error_received"), (error,)),
        };
        match handed_over {
            Err(error) if ends_the_loop(py, &error) => Err(error),
            Err(error) => hooks::protocol_failed(dispatcher, error, protocol).map(|_| true),
            Ok(_) => Ok(true),
        }
    }
}

#[pymethods]
impl Datagrams {
    /// Pass datagrams to `protocol` from now on.
    fn set_protocol(&self, py: Python<'_>, protocol: Py<PyAny>) {
        let previous = self.protocol.with(py, |it| std::mem::replace(it, protocol));
        drop(previous);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.context)?;
        self.protocol.traverse(&visit, |protocol| visit.call(protocol))
    }
}

/// Receive the datagrams that are waiting, up to the limit; another request receives the rest later.
pub(crate) fn run(dispatcher: &Bound<'_, Dispatcher>, slf: &Bound<'_, Datagrams>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    this.queued.store(false, Relaxed);
    let received = in_context(py, &this.context, || {
        for _ in 0..DATAGRAMS_PER_TICK_MAX {
            if this.retired.load(Relaxed) || !this.receive(dispatcher)? {
                return Ok(false);
            }
        }
        Ok(true)
    });
    // Queue it after a failure, too: no further edge reports the datagrams that are waiting already.
    if !matches!(received, Ok(false))
        && let Some(request) = Datagrams::request(slf)
    {
        dispatcher.get().submit(py, request)?;
    }
    received.map(drop)
}
