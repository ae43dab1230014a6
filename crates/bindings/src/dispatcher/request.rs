//! Requests: what the dispatcher's ready queue holds.
//!
//! A request names its object without knowing the object's class: the tick alone knows what to do with each
//! kind (`tick/running.rs`), so that everything else can queue requests.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use threadlets_core::syslet::Run;

use super::completion_queue::Message;

/// A request: one unit of work for a tick. The comments say which class an object has.
#[derive(Debug)]
pub(crate) enum Request {
    /// A step of a task: a `Task`.
    Step(Py<PyAny>),
    /// A sleep whose time has come: a `Sleep`.
    Sleep(Py<PyAny>),
    /// Members of a scope that are to be cancelled: the scope's `Members`.
    CancelMembers(Py<PyAny>),
    /// A callback of a future that is done; it cannot be cancelled.
    Done(Box<DoneCallback>),
    /// A callback of `call_soon`: its `Handle`.
    Callback(Py<PyAny>),
    /// A callback of `call_later` or `call_at` whose time has come: its `TimerHandle`.
    Timer(Py<PyAny>),
    /// A reader or writer, or any callback in debug mode: an `asyncio.Handle`.
    Foreign(Py<PyAny>),
    /// A connection that can be read from or written to: its `Stream`.
    Stream(Py<PyAny>),
    /// A listening socket with connections to accept: its `Acceptor`.
    Accept(Py<PyAny>),
    /// A datagram socket with something to receive: its `Datagrams`.
    Datagrams(Py<PyAny>),
    /// Something of an HTTP server: the `HttpServer`, and which of its requests.
    Http(Py<PyAny>, u32),
    /// A descriptor on which operations wait.
    Operations(i32, Direction),
    /// A call that waited in a pool: a `QueuedCall`.
    Call(Py<PyAny>),
    /// A call to submit beside the dispatcher again, a `CallBeside`: it could not begin, since its context
    /// was in use.
    Beside(Py<PyAny>),
    /// The outcome of a pool's call, a `QueuedCall`, that ran on a worker without the role.
    Settle(Box<(Py<PyAny>, PyResult<Py<PyAny>>)>),
    /// A run of an engine that has ended, by a message of the completion queue.
    Ended(Box<Run>),
    /// A future, by its token, of which a message says that its channel has enough runs.
    Notified(u64),
    /// A request that got a `RequestHandle` because the program read the ready queue.
    Held(Py<PyAny>),
}

/// Which readiness an operation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Request {
    /// Visit what a queued request refers to, for the cycle collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Step(object)
            | Self::Sleep(object)
            | Self::CancelMembers(object)
            | Self::Callback(object)
            | Self::Timer(object)
            | Self::Foreign(object)
            | Self::Stream(object)
            | Self::Accept(object)
            | Self::Datagrams(object)
            | Self::Call(object)
            | Self::Beside(object)
            | Self::Http(object, _)
            | Self::Held(object) => visit.call(object),
            Self::Done(callback) => callback.traverse(visit),
            Self::Operations(..) | Self::Ended(_) | Self::Notified(_) => Ok(()),
            Self::Settle(settled) => {
                visit.call(&settled.0)?;
                settled.1.as_ref().map_or(Ok(()), |result| visit.call(result))
            }
        }
    }
}

impl From<Message> for Request {
    fn from(message: Message) -> Self {
        match message {
            Message::Ended(run) => Self::Ended(run),
            Message::Notified(token) => Self::Notified(token),
        }
    }
}

// The ready queue is walked in order; four requests fit into a cache line.
const _: () = assert!(size_of::<Request>() == 16);

/// A callback of a future that is done. Its tuple of arguments is made only if code looks at it: very many
/// futures may be done at once.
#[derive(Debug)]
pub(crate) struct DoneCallback {
    pub(crate) callable: Py<PyAny>,
    pub(crate) future: Py<PyAny>,
    pub(crate) context: Py<PyAny>,
}

impl DoneCallback {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.callable)?;
        visit.call(&self.future)?;
        visit.call(&self.context)
    }
}
