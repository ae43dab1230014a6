//! What an application holds of a websocket: the objects behind `receive` and `send`.

use std::sync::Arc;

use http::StatusCode;
use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use threadlets_http::Exchange;
use threadlets_http::WebSocket;
use threadlets_http::wakes::looking_afterwards;
use threadlets_http::websocket::Outbound;

use super::answering::Answers;
use super::messages::SentMessage;
use super::receivers::Receivers;
use super::server::HttpServer;
use super::websocket_messages::{self, SentToWebSocket};
use crate::py::gil_cell::GilSlot;
use crate::py::names;
use crate::task::future::Future;

/// A websocket, from its handshake on, and the task that answers it.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct HttpWebSocket {
    server: Py<HttpServer>,
    /// Its handshake, until the application has accepted that.
    handshake: GilSlot<Option<Arc<Exchange>>>,
    websocket: Arc<WebSocket>,
    stage: GilSlot<Stage>,
    /// `receive` has given "websocket.connect".
    has_connected: GilSlot<bool>,
    /// The future that `receive` waits with.
    receivers: Receivers,
    /// The future that `send` waits with.
    sender: GilSlot<Option<Py<Future>>>,
    /// The task of the application, until it has ended.
    task: GilSlot<Option<Py<PyAny>>>,
    /// The application was told that its client has left, or has begun to receive messages: it is told by these.
    listens: GilSlot<bool>,
}

/// What the application has said to the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Opening,
    Accepted,
    Denied,
}

impl HttpWebSocket {
    pub(super) fn new(
        server: Py<HttpServer>,
        exchange: Arc<Exchange>,
        websocket: Arc<WebSocket>,
    ) -> Self {
        Self {
            server,
            handshake: GilSlot::new(Some(exchange)),
            websocket,
            stage: GilSlot::new(Stage::Opening),
            has_connected: GilSlot::new(false),
            receivers: Receivers::default(),
            sender: GilSlot::default(),
            task: GilSlot::default(),
            listens: GilSlot::new(false),
        }
    }

    fn handshake(&self, py: Python<'_>) -> Option<Arc<Exchange>> {
        self.handshake.with(py, |it| it.clone())
    }

    /// Tell the application that the client has left within its handshake.
    pub(super) fn give_up(&self, py: Python<'_>) {
        self.handshake.with(py, |it| it.as_ref().map(|it| it.give_up()));
    }

    /// Whether the connection has to know of it still: an application runs or waits.
    pub(super) fn is_live(&self, py: Python<'_>) -> bool {
        self.task.with(py, |it| it.is_some())
            || self.receivers.any(py)
            || self.sender.with(py, |it| it.is_some())
    }

    /// The connection has moved: go on with what waits for it.
    pub(super) fn progress(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        while this.receivers.any(py)
            && let Some(message) = this.next_message(py)?
        {
            this.receivers.give(py, message.unbind())?;
        }
        let high_water = this.server.get().server.limits.send_high_water;
        let has_room = this.is_closed(py) || this.n_unsent(py) <= high_water / 4;
        if has_room && let Some(sender) = this.sender.take(py) {
            Future::resolve(sender.bind(py), py.None())?;
        }
        if this.is_left(py) && !this.listens.get(py) {
            let task = this.task.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)));
            if let Some(task) = task {
                this.listens.set(py, true);
                task.call_method0(py, intern!(py, "cancel"))?;
            }
        }
        Ok(())
    }

    /// Whether the client, or the server, has ended what the application has not.
    fn is_left(&self, py: Python<'_>) -> bool {
        match self.handshake(py) {
            Some(handshake) => handshake.is_client_gone(),
            None => self.websocket.is_left(),
        }
    }

    fn is_closed(&self, py: Python<'_>) -> bool {
        match self.handshake(py) {
            Some(handshake) => handshake.is_over(),
            None => self.websocket.is_closed(),
        }
    }

    fn n_unsent(&self, py: Python<'_>) -> usize {
        match self.handshake(py) {
            Some(handshake) => handshake.n_unsent(),
            None => self.websocket.n_unsent(),
        }
    }

    /// The message that `receive` gives now; `None`: there is none yet.
    fn next_message<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if !self.has_connected.replace(py, true) {
            return Ok(Some(websocket_messages::connect(py)?.into_any()));
        }
        let (handshake, stage) = (self.handshake(py), self.stage.get(py));
        if handshake.is_none()
            && let Some(message) = looking_afterwards(|| self.websocket.receive())
        {
            return Ok(Some(websocket_messages::receive(py, message)?.into_any()));
        }
        let closure = self.websocket.closure();
        let is_over = match handshake {
            Some(it) => it.is_over() || (stage == Stage::Denied && it.is_complete()),
            None => closure.is_some(),
        };
        if !is_over {
            return Ok(None);
        }
        Ok(Some(websocket_messages::disconnect(py, closure)?.into_any()))
    }

    fn receive<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Future>> {
        let py = slf.py();
        let this = slf.get();
        let server = this.server.bind(py);
        let future = Future::make(server.get().dispatcher.bind(py))?;
        // From its second call on, the application learns by itself that its client has left; and what it has
        // received before that, it may finish.
        this.listens.set(py, this.listens.get(py) || this.has_connected.get(py));
        // Messages go to those who have waited for longer.
        let first = if this.receivers.any(py) { None } else { this.next_message(py)? };
        match first {
            Some(message) => Future::resolve(&future, message.unbind())?,
            None => this.receivers.add(py, future.clone().unbind()),
        }
        HttpServer::schedule(server)?;
        Ok(future)
    }

    fn send(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<Py<Future>> {
        let py = slf.py();
        let this = slf.get();
        let sent = websocket_messages::parse(message)?;
        match (this.stage.get(py), this.handshake(py), sent) {
            (Stage::Accepted, _, SentToWebSocket::Text(text)) => {
                let text = text.to_str()?;
                looking_afterwards(|| this.websocket.send(Outbound::Text(text)))
                    .map_err(|_| client_disconnected(py, CLOSED))?;
            }
            (Stage::Accepted, _, SentToWebSocket::Bytes(bytes)) => {
                looking_afterwards(|| this.websocket.send(Outbound::Binary(bytes)))
                    .map_err(|_| client_disconnected(py, CLOSED))?;
            }
            (Stage::Accepted, _, SentToWebSocket::Close) => {
                let (code, reason) = websocket_messages::closure(message)?;
                looking_afterwards(|| this.websocket.close(code, &reason));
            }
            (Stage::Opening, Some(handshake), SentToWebSocket::Accept { subprotocol, headers }) => {
                looking_afterwards(|| this.websocket.accept(&handshake, subprotocol, headers));
                this.stage.set(py, Stage::Accepted);
                drop(this.handshake.take(py));
            }
            (Stage::Opening, Some(handshake), SentToWebSocket::Close) => {
                looking_afterwards(|| handshake.refuse(StatusCode::FORBIDDEN));
                this.stage.set(py, Stage::Denied);
            }
            (
                Stage::Opening,
                Some(handshake),
                SentToWebSocket::Denial(SentMessage::Start { head, .. }),
            ) => {
                handshake.start(head);
                this.stage.set(py, Stage::Denied);
            }
            (
                Stage::Denied,
                Some(handshake),
                SentToWebSocket::Denial(SentMessage::Body { data, more }),
            ) if !handshake.is_complete() => {
                looking_afterwards(|| handshake.send(data, more))
                    .map_err(super::exchange::mismatched)?;
            }
            (stage, _, _) => return Err(misplaced(message, stage)),
        }
        let server = this.server.bind(py);
        HttpServer::schedule(server)?;
        let high_water = server.get().server.limits.send_high_water;
        if this.n_unsent(py) <= high_water || this.is_closed(py) {
            return Ok(server.get().done.clone_ref(py));
        }
        let future = Future::make(server.get().dispatcher.bind(py))?.unbind();
        if let Some(before) = this.sender.replace(py, Some(future.clone_ref(py))) {
            Future::resolve(before.bind(py), py.None())?;
        }
        Ok(future)
    }
}

impl Answers for HttpWebSocket {
    fn set_task(&self, py: Python<'_>, task: Py<PyAny>) {
        drop(self.task.replace(py, Some(task)));
        let n_applications = &self.server.get().n_applications;
        n_applications.set(py, n_applications.get(py) + 1);
    }

    fn end(slf: &Bound<'_, Self>, error: Option<PyErr>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if let Some(task) = this.task.take(py) {
            drop(task);
            let n_applications = &this.server.get().n_applications;
            n_applications.set(py, n_applications.get(py) - 1);
        }
        let server = this.server.bind(py);
        let (was_gone, has_failed) = (this.is_left(py), error.is_some());
        let handshake = this.handshake(py);
        match error {
            Some(error) if was_gone && is_of_leaving(py, &error)? => {}
            Some(error) => server.get().application_failed(py, error)?,
            None if handshake.is_none() || was_gone => {}
            None if handshake.as_ref().is_some_and(|it| it.is_complete()) => {}
            None => {
                let message = "the application returned without having answered the handshake of a \
                               websocket; it must send 'websocket.accept' or 'websocket.close'";
                server.get().application_failed(py, PyRuntimeError::new_err(message))?;
            }
        }
        looking_afterwards(|| match handshake {
            None => this.websocket.close(if has_failed { 1011 } else { 1000 }, ""),
            Some(it) if it.is_complete() => {}
            // Answer in the application's place, or break its answer off.
            Some(it) if !was_gone && it.refuse(StatusCode::INTERNAL_SERVER_ERROR) => {}
            Some(it) => it.abandon(),
        });
        HttpServer::schedule(server)
    }
}

/// Whether an exception says only that the client has left.
fn is_of_leaving(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    Ok(names::is_cancelled_error(py, error)?
        || error.is_instance(py, client_disconnected_class(py)?))
}

/// What `send` says on a websocket that is closed.
const CLOSED: &str = "a message was sent on a websocket that is closed; it is dropped";

fn client_disconnected_class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "threadlets.exceptions", "ClientDisconnected")
}

/// What ASGI asks for when an application sends on a websocket that is closed: an `OSError`.
pub(super) fn client_disconnected(py: Python<'_>, message: &'static str) -> PyErr {
    match client_disconnected_class(py) {
        Ok(class) => PyErr::from_type(class.clone(), message),
        Err(error) => error,
    }
}

fn misplaced(message: &Bound<'_, PyAny>, stage: Stage) -> PyErr {
    let why = match stage {
        Stage::Opening => "'websocket.accept' or 'websocket.close' comes first",
        Stage::Accepted => "the websocket was accepted",
        Stage::Denied => "the websocket was denied",
    };
    let kind = message.get_item("type").and_then(|it| it.repr());
    let kind = kind.map_or_else(|_| String::new(), |it| it.to_string());
    PyRuntimeError::new_err(format!("an application sent {kind}, but {why}"))
}

#[pymethods]
impl HttpWebSocket {
    /// Called with the application's task when that has ended.
    fn __call__(slf: &Bound<'_, Self>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::end_with(slf, task)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.server)?;
        self.receivers.traverse(&visit)?;
        self.sender.traverse(&visit, |it| visit.call(it))?;
        self.task.traverse(&visit, |it| visit.call(it))
    }

    fn __clear__(&self, py: Python<'_>) {
        self.receivers.clear(py);
        drop((self.sender.take(py), self.task.take(py)));
    }
}

/// ASGI's `receive`.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct HttpWebSocketReceive(pub(super) Py<HttpWebSocket>);

#[pymethods]
impl HttpWebSocketReceive {
    /// Return an awaitable of the next message.
    fn __call__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Future>> {
        HttpWebSocket::receive(self.0.bind(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

/// ASGI's `send`.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct HttpWebSocketSend(pub(super) Py<HttpWebSocket>);

#[pymethods]
impl HttpWebSocketSend {
    /// Send a message; return an awaitable that is done when there is room for more.
    fn __call__(&self, message: &Bound<'_, PyAny>) -> PyResult<Py<Future>> {
        HttpWebSocket::send(self.0.bind(message.py()), message)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}
