//! Starts the application of a request.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use threadlets_http::Exchange;

use super::super::answering::{Answering, Answers};
use super::super::exchange::{HttpExchange, HttpReceive, HttpSend};
use super::super::scope;
use super::super::websocket::{HttpWebSocket, HttpWebSocketReceive, HttpWebSocketSend};
use super::super::wsgi::{CommonEnviron, WsgiRequest};
use super::HttpServer;
use crate::calls::queued_call::{self, Work};
use crate::contract::in_context;
use crate::py::context::copy_context;
use crate::task::future::Future;
use crate::task::task::{FirstStep, Task};

impl HttpServer {
    /// Start the application of a request, in this stack; it becomes a task.
    pub(super) fn start(
        slf: &Bound<'_, Self>,
        number: u32,
        exchange: Arc<Exchange>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some(head) = exchange.take_head() else { return Ok(()) };
        let application = match &this.internal {
            Some((path, internal)) if head.uri.path() == path => internal,
            _ => &this.application,
        };
        if let (Some(common), true) = (&this.environ, application.is(&this.application)) {
            return Self::start_wsgi(slf, number, exchange, &head, common);
        }
        let own = this.own_address(py, &exchange);
        let (common, peer) = (&this.common, exchange.peer());
        if let Some(websocket) = exchange.websocket() {
            let subprotocols = websocket.subprotocols();
            let tls = exchange.tls();
            let scope = scope::websocket(py, common, &head, peer, &own, tls, subprotocols)?;
            drop(head);
            let websocket = Arc::clone(websocket);
            let websocket = HttpWebSocket::new(slf.clone().unbind(), exchange, websocket);
            let websocket = Py::new(py, websocket)?;
            this.answers(py, number, Answering::WebSocket(websocket.clone_ref(py)));
            let receive = Bound::new(py, HttpWebSocketReceive(websocket.clone_ref(py)))?.into_any();
            let send = Bound::new(py, HttpWebSocketSend(websocket.clone_ref(py)))?.into_any();
            return this.call(application, scope, receive, send, websocket.bind(py));
        }
        let scope = scope::http(py, common, &head, peer, &own, exchange.tls())?;
        drop(head);
        let exchange = Py::new(py, HttpExchange::new(slf.clone().unbind(), exchange))?;
        this.answers(py, number, Answering::Http(exchange.clone_ref(py)));
        let receive = Bound::new(py, HttpReceive(exchange.clone_ref(py)))?.into_any();
        let send = Bound::new(py, HttpSend(exchange.clone_ref(py)))?.into_any();
        this.call(application, scope, receive, send, exchange.bind(py))
    }

    fn answers(&self, py: Python<'_>, number: u32, answering: Answering) {
        self.connections.with(py, |connections| {
            if let Some(entry) = connections.get(number) {
                entry.answering.push(answering);
            }
        });
    }

    /// Call an application, in this stack; its coroutine becomes a task.
    fn call<'py, T: Answers>(
        &self,
        application: &Py<PyAny>,
        scope: Bound<'py, PyDict>,
        receive: Bound<'py, PyAny>,
        send: Bound<'py, PyAny>,
        answering: &Bound<'py, T>,
    ) -> PyResult<()> {
        let py = scope.py();
        let context = copy_context(py, &self.context)?;
        let dispatcher = self.dispatcher.bind(py);
        let coroutine =
            in_context(py, &context, || application.bind(py).call1((scope, receive, send)));
        let coroutine = match coroutine {
            Ok(coroutine) => coroutine,
            Err(error) => return T::end(answering, Some(error)),
        };
        let context = context.into_bound(py);
        if dispatcher.get().makes_native_tasks(py) {
            let task = Task::start(dispatcher, coroutine, None, Some(context), FirstStep::Eager)?;
            return T::follow_native(answering, &task);
        }
        let kwargs = PyDict::new(py);
        kwargs.set_item(intern!(py, "context"), context)?;
        let method = intern!(py, "create_task");
        let task = dispatcher.call_method(method, (coroutine,), Some(&kwargs))?;
        T::follow(answering, &task)
    }

    /// Queue the call of a WSGI application.
    fn start_wsgi(
        slf: &Bound<'_, Self>,
        number: u32,
        exchange: Arc<Exchange>,
        head: &http::request::Parts,
        common: &CommonEnviron,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let exchange = Py::new(py, HttpExchange::new(slf.clone().unbind(), exchange))?;
        exchange.get().begin_blocking(py);
        this.answers(py, number, Answering::Http(exchange.clone_ref(py)));
        let exchange = exchange.bind(py);
        let context = copy_context(py, &this.context)?;
        let request = WsgiRequest::new(exchange, &this.application, common, head, context)?;
        let work = Work::Function {
            callable: Py::new(py, request)?.into_any(),
            args: PyTuple::empty(py).unbind(),
            kwargs: None,
            innermost: this.innermost.clone_ref(py),
        };
        let dispatcher = this.dispatcher.bind(py);
        let ended = Future::make(dispatcher)?;
        queued_call::queue(dispatcher, work, ended.into_any().unbind(), false, None)
    }

    /// What scopes say of the address to which a client has connected.
    fn own_address(&self, py: Python<'_>, _exchange: &Exchange) -> Py<PyAny> {
        self.listeners.with(py, |listeners| {
            let first = listeners.iter().flatten().next();
            first.map_or_else(|| py.None(), |listener| listener.own.clone_ref(py))
        })
    }
}
