//! What answers a request: an application's task, and the object by which it is told and tells.

use pyo3::PyClass;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;

use super::exchange::HttpExchange;
use super::websocket::HttpWebSocket;
use crate::task::future::Outcome;
use crate::task::task::Task;

/// An object that is called with the task of an application when that has ended.
pub(super) trait Answers: PyClass<Frozen = True> + Sync {
    /// Note that the application waits.
    fn set_task(&self, py: Python<'_>, task: Py<PyAny>);

    /// The application has ended; `error` is its exception.
    fn end(slf: &Bound<'_, Self>, error: Option<PyErr>) -> PyResult<()>;

    /// Take the outcome of a task that has ended, or have it call this object when it ends.
    fn follow(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if task.call_method0(intern!(py, "done"))?.is_truthy()? {
            return Self::end_with(slf, task);
        }
        slf.get().set_task(py, task.clone().unbind());
        task.call_method1(intern!(py, "add_done_callback"), (slf,)).map(drop)
    }

    /// As `follow`, for a native task.
    fn follow_native(slf: &Bound<'_, Self>, task: &Bound<'_, Task>) -> PyResult<()> {
        match task.as_super().get().outcome(slf.py()) {
            Some(Outcome::Result(_)) => Self::end(slf, None),
            Some(Outcome::Error(error)) => Self::end(slf, Some(error)),
            None => Self::follow(slf, task.as_any()),
        }
    }

    /// Take the outcome of a task that has ended.
    fn end_with(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::end(slf, task.call_method0(intern!(slf.py(), "result")).err())
    }
}

/// What answers a request of a connection.
#[derive(Debug)]
pub(super) enum Answering {
    Http(Py<HttpExchange>),
    WebSocket(Py<HttpWebSocket>),
}

impl Answering {
    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Http(exchange) => Self::Http(exchange.clone_ref(py)),
            Self::WebSocket(websocket) => Self::WebSocket(websocket.clone_ref(py)),
        }
    }

    /// Whether the connection has to know of it still: an application runs or waits.
    pub(super) fn is_live(&self, py: Python<'_>) -> bool {
        match self {
            Self::Http(exchange) => exchange.get().is_live(py),
            Self::WebSocket(websocket) => websocket.get().is_live(py),
        }
    }

    /// Tell the application that the client has ended its half.
    pub(super) fn give_up(&self, py: Python<'_>) {
        match self {
            Self::Http(exchange) => exchange.get().exchange().give_up(),
            Self::WebSocket(websocket) => websocket.get().give_up(py),
        }
    }

    /// The connection has moved: go on with what waits for it.
    pub(super) fn progress(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Http(exchange) => HttpExchange::progress(exchange.bind(py)),
            Self::WebSocket(websocket) => HttpWebSocket::progress(websocket.bind(py)),
        }
    }

    /// The client has paused for too long within a body that the application waits for.
    pub(super) fn time_out_body(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Http(exchange) => HttpExchange::time_out_body(exchange.bind(py)),
            Self::WebSocket(_) => Ok(()),
        }
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Self::Http(exchange) => visit.call(exchange),
            Self::WebSocket(websocket) => visit.call(websocket),
        }
    }
}
