//! Requests: what the dispatcher's ready queue holds.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::accept::Acceptor;
use crate::beside::CallBeside;
use crate::callback::{Handle, TimerHandle};
use crate::datagrams::Datagrams;
use crate::internals::RequestHandle;
use crate::queued_call::{Outcome, QueuedCall};
use crate::scope::members::Members;
use crate::scope::sleep::Sleep;
use crate::sock_ops::Direction;
use crate::stream::Stream;
use crate::syslet::completion_queue::Message;
use crate::task::task::Task;
use crate::task::waiters::DoneCallback;

/// A request: one unit of work for a tick.
#[derive(Debug)]
pub(crate) enum Request {
    /// A step of a task.
    Step(Py<Task>),
    /// A sleep whose time has come.
    Sleep(Py<Sleep>),
    /// Members of a scope that are to be cancelled.
    End(Py<Members>),
    /// A callback of a future that is done; it cannot be cancelled.
    Done(Box<DoneCallback>),
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
    /// A call to submit beside the dispatcher again: it could not begin, since its context was in use.
    Beside(Py<CallBeside>),
    /// The outcome of a pool's call that ran on a worker without the role.
    Settle(Box<(Py<QueuedCall>, Outcome)>),
    /// A message of the completion queue.
    Message(Message),
    /// A request without a handle of its own that got one because the program read the ready queue.
    Held(Py<RequestHandle>),
}

impl Request {
    /// Cancel the request.
    pub(crate) fn abandon(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Callback(handle) => drop(handle.get().take(py)),
            Self::Timer(handle) => drop(handle.get().take(py)),
            Self::Call(call) => call.get().abandon(py)?,
            Self::Held(handle) => {
                if let Some(request) = handle.get().take(py) {
                    request.abandon(py)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What debug mode names the request by: a task, a handle, a protocol, a function, or a string.
    pub(crate) fn subject<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        let subject = match self {
            Self::Step(task) => Some(task.bind(py).clone().into_any()),
            Self::Done(callback) => Some(callback.callable.bind(py).clone()),
            Self::Foreign(handle) => Some(handle.bind(py).clone()),
            Self::Stream(stream) => stream.get().protocol(py),
            Self::Datagrams(datagrams) => Some(datagrams.get().protocol(py)),
            Self::Call(call) => call.get().function(py),
            Self::Held(handle) => Some(handle.get().subject(py)),
            _ => None,
        };
        subject.unwrap_or_else(|| PyString::new(py, &format!("{self:?}")).into_any())
    }

    /// Visit what a queued request refers to, for the cycle collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Step(task) => visit.call(task),
            Self::Sleep(sleep) => visit.call(sleep),
            Self::End(members) => visit.call(members),
            Self::Done(callback) => callback.traverse(visit),
            Self::Callback(handle) => visit.call(handle),
            Self::Timer(handle) => visit.call(handle),
            Self::Foreign(handle) => visit.call(handle),
            Self::Stream(stream) => visit.call(stream),
            Self::Accept(acceptor) => visit.call(acceptor),
            Self::Datagrams(datagrams) => visit.call(datagrams),
            Self::Operations(..) | Self::Message(_) => Ok(()),
            Self::Call(call) => visit.call(call),
            Self::Beside(call) => visit.call(call),
            Self::Held(handle) => visit.call(handle),
            Self::Settle(settled) => {
                visit.call(&settled.0)?;
                settled.1.as_ref().map_or(Ok(()), |result| visit.call(result))
            }
        }
    }
}

// The ready queue is walked in order; four requests fit into a cache line.
const _: () = assert!(size_of::<Request>() == 16);
