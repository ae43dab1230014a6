//! Requests: what the dispatcher's ready queue holds.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::accept::Acceptor;
use crate::callback::{Handle, TimerHandle};
use crate::datagrams::Datagrams;
use crate::queued_call::{Outcome, QueuedCall};
use crate::sock_ops::Direction;
use crate::stream::Stream;
use crate::syslet::mailbox::Letter;

/// One thing for a burst to run.
#[derive(Debug)]
pub(crate) enum Request {
    /// A callback of `call_soon`.
    Callback(Py<Handle>),
    /// A callback of `call_later` or `call_at` whose time has come.
    Timer(Py<TimerHandle>),
    /// An `asyncio.Handle`: a reader or writer, or any callback in debug mode.
    Foreign(Py<PyAny>),
    /// A connection that can be read from or written to.
    Stream(Py<Stream>),
    /// A listening socket with connections to accept.
    Accept(Py<Acceptor>),
    /// A datagram socket with something to receive.
    Datagrams(Py<Datagrams>),
    /// A descriptor on which operations wait.
    Operations(i32, Direction),
    /// A call that waited in a pool.
    Call(Py<QueuedCall>),
    /// What such a call came to, from a runner without the role.
    Settle(Py<QueuedCall>, Outcome),
    /// News of a syslet.
    Letter(Letter),
}

impl Request {
    /// Give up what the request would have run.
    pub(crate) fn abandon(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Callback(handle) => drop(handle.get().take(py)),
            Self::Timer(handle) => drop(handle.get().take(py)),
            Self::Call(call) => call.get().abandon(py)?,
            _ => {}
        }
        Ok(())
    }

    /// Visit what a queued request refers to, for the cycle collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Callback(handle) => visit.call(handle),
            Self::Timer(handle) => visit.call(handle),
            Self::Foreign(handle) => visit.call(handle),
            Self::Stream(stream) => visit.call(stream),
            Self::Accept(acceptor) => visit.call(acceptor),
            Self::Datagrams(datagrams) => visit.call(datagrams),
            Self::Operations(..) | Self::Letter(_) => Ok(()),
            Self::Call(call) => visit.call(call),
            Self::Settle(call, outcome) => {
                visit.call(call)?;
                outcome.as_ref().map_or(Ok(()), |result| visit.call(result))
            }
        }
    }
}
