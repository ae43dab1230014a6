//! What an application holds of a request: the objects behind `receive` and `send`.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyConnectionAbortedError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use rustix::fs::OFlags;
use threadlets_http::exchange::ReceivedBody;
use threadlets_http::static_files::FileBody;
use threadlets_http::wakes::looking_afterwards;
use threadlets_http::{Exchange, LengthMismatch};

use super::answering::Answers;
use super::messages::{self, SentFile, SentMessage};
use super::receivers::Receivers;
use super::server::HttpServer;
use super::websocket::client_disconnected;
use crate::py::gil_cell::GilSlot;
use crate::py::names;
use crate::task::future::Future;

/// A request, its response, and the task that answers it.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct HttpExchange {
    server: Py<HttpServer>,
    exchange: Arc<Exchange>,
    /// Trailers follow the body.
    has_trailers: GilSlot<bool>,
    /// A part of the body was sent.
    has_body: GilSlot<bool>,
    /// The calls of `receive` that wait.
    receivers: Receivers,
    /// The future that `send` waits with.
    sender: GilSlot<Option<Py<Future>>>,
    /// The task of the application, until it has ended.
    task: GilSlot<Option<Py<PyAny>>>,
    /// A WSGI application runs.
    is_running: GilSlot<bool>,
    /// What a WSGI application waits with, on a thread of its own.
    bell: Arc<Bell>,
    /// The application was told that its client has left, or asks for it itself.
    listens: GilSlot<bool>,
}

impl HttpExchange {
    pub(super) fn new(server: Py<HttpServer>, exchange: Arc<Exchange>) -> Self {
        Self {
            server,
            exchange,
            has_trailers: GilSlot::new(false),
            has_body: GilSlot::new(false),
            receivers: Receivers::default(),
            sender: GilSlot::default(),
            task: GilSlot::default(),
            is_running: GilSlot::new(false),
            bell: Arc::default(),
            listens: GilSlot::new(false),
        }
    }

    /// A WSGI application begins to answer; see `end_blocking`.
    pub(super) fn begin_blocking(&self, py: Python<'_>) {
        self.is_running.set(py, true);
        // It learns of its client's end when it reads or sends.
        self.listens.set(py, true);
        let n_applications = &self.server.get().n_applications;
        n_applications.set(py, n_applications.get(py) + 1);
    }

    pub(super) fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// Whether the connection has to know of it still: an application runs or waits.
    pub(super) fn is_live(&self, py: Python<'_>) -> bool {
        self.is_running.get(py)
            || self.task.with(py, |it| it.is_some())
            || self.receivers.any(py)
            || self.sender.with(py, |it| it.is_some())
    }

    /// The connection has moved: go on with what waits for it.
    pub(super) fn progress(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.is_running.get(py) {
            this.bell.ring();
        }
        while this.receivers.any(py)
            && let Some(message) = this.next_message(py)?
        {
            this.receivers.give(py, message.unbind())?;
        }
        let has_room = this.exchange.is_over()
            || (this.exchange.n_unsent() <= this.low_water(py) && !this.exchange.has_queued_file());
        if has_room && let Some(sender) = this.sender.take(py) {
            Future::resolve(sender.bind(py), py.None())?;
        }
        if this.exchange.is_client_gone() && !this.listens.get(py) {
            let task = this.task.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)));
            if let Some(task) = task {
                this.listens.set(py, true);
                task.call_method0(py, intern!(py, "cancel"))?;
            }
        }
        Ok(())
    }

    /// Whether the application waits for more of the body.
    pub(super) fn awaits_body(&self, py: Python<'_>) -> bool {
        self.receivers.any(py) && !self.exchange.is_body_over()
    }

    fn low_water(&self, py: Python<'_>) -> usize {
        self.server.bind(py).get().server.limits.send_high_water / 4
    }

    /// The message that `receive` gives now; `None`: there is none yet.
    fn next_message<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let exchange = &self.exchange;
        match looking_afterwards(|| exchange.receive()) {
            ReceivedBody::Data { data, more } => {
                // An application that has a part of a body asks for the next, and is told then.
                self.listens.set(py, more);
                return Ok(Some(messages::request(py, &data, more)?.into_any()));
            }
            ReceivedBody::TooLarge => {
                exchange.refuse(StatusCode::PAYLOAD_TOO_LARGE);
            }
            ReceivedBody::Broken => {
                exchange.refuse(StatusCode::BAD_REQUEST);
            }
            ReceivedBody::End if exchange.is_over() || exchange.is_complete() => {}
            ReceivedBody::Nothing if exchange.is_over() => {}
            ReceivedBody::Nothing | ReceivedBody::End => return Ok(None),
        }
        // It is told, and so need not be cancelled.
        self.listens.set(py, true);
        Ok(Some(messages::disconnect(py)?.into_any()))
    }

    fn receive<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Future>> {
        let py = slf.py();
        let this = slf.get();
        let server = this.server.bind(py);
        let future = Future::make(server.get().dispatcher.bind(py))?;
        // Messages go to those who have waited for longer.
        let first = if this.receivers.any(py) { None } else { this.take_first(py)? };
        match first {
            Some(message) => Future::resolve(&future, message.unbind())?,
            None => {
                // From here on the application learns by itself that its client has left.
                this.listens.set(py, this.exchange.is_body_over());
                this.receivers.add(py, future.clone().unbind());
            }
        }
        HttpServer::schedule(server)?;
        Ok(future)
    }

    /// The next message at once; that of a request without a body is given once.
    fn take_first<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        if self.exchange.take_empty_body() {
            return Ok(Some(messages::request(py, b"", false)?.into_any()));
        }
        self.next_message(py)
    }

    fn send(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let exchange = &this.exchange;
        let sent = messages::parse(message)?;
        if exchange.is_refused() {
            return Ok(this.server.bind(py).get().done.clone_ref(py).into_any());
        }
        if exchange.is_cut_off() {
            return Err(client_left(slf.py()));
        }
        match sent {
            SentMessage::Start { head, trailers } => {
                if !exchange.start(head) {
                    return Err(misplaced("http.response.start", "the response has begun before"));
                }
                this.has_trailers.set(py, trailers);
            }
            SentMessage::Body { data, more } => {
                this.check_body("http.response.body")?;
                this.has_body.set(py, true);
                let more = more || this.has_trailers.get(py);
                looking_afterwards(|| exchange.send(data, more)).map_err(mismatched)?;
            }
            SentMessage::Path(path) => {
                this.check_body("http.response.pathsend")?;
                if this.has_body.get(py) {
                    return Err(misplaced(
                        "http.response.pathsend",
                        "a part of the body was sent before, and the file is all of it",
                    ));
                }
                let more = this.has_trailers.get(py);
                let n_bytes = exchange.n_announced_left().unwrap_or(u64::MAX);
                let file = whole_file(&path, n_bytes)?;
                looking_afterwards(|| exchange.send_file(file, more)).map_err(mismatched)?;
            }
            SentMessage::File(SentFile { fd, position, n_bytes, more }) => {
                this.check_body("http.response.zerocopysend")?;
                this.has_body.set(py, true);
                let file = FileBody::part_of(fd, position, n_bytes)?.ok_or_else(|| {
                    PyValueError::new_err(
                        "'http.response.zerocopysend' has a file that is no regular one; send its \
                         bytes by 'http.response.body'",
                    )
                })?;
                let more = more || this.has_trailers.get(py);
                looking_afterwards(|| exchange.send_file(file, more)).map_err(mismatched)?;
            }
            SentMessage::Trailers(trailers, more) => {
                this.check_body("http.response.trailers")?;
                if !this.has_trailers.get(py) {
                    return Err(misplaced(
                        "http.response.trailers",
                        "'http.response.start' did not announce trailers",
                    ));
                }
                looking_afterwards(|| exchange.send_trailers(trailers, more))
                    .map_err(mismatched)?;
            }
        }
        let server = this.server.bind(py);
        HttpServer::schedule(server)?;
        let high_water = server.get().server.limits.send_high_water;
        // A file takes no memory, but a descriptor: more of them wait for their turn.
        let has_room = exchange.n_unsent() <= high_water
            && (exchange.is_complete() || !exchange.has_queued_file());
        if has_room || exchange.is_over() {
            // An application that only sends has to let others run.
            let (done, checkpoint) = (&server.get().done, &server.get().checkpoint);
            let is_first = exchange.is_complete() || !this.has_body.get(py);
            return Ok(if is_first {
                done.clone_ref(py).into_any()
            } else {
                checkpoint.clone_ref(py).into_any()
            });
        }
        let future = Future::make(server.get().dispatcher.bind(py))?.unbind();
        if let Some(before) = this.sender.replace(py, Some(future.clone_ref(py))) {
            Future::resolve(before.bind(py), py.None())?;
        }
        Ok(future.into_any())
    }

    fn check_body(&self, kind: &str) -> PyResult<()> {
        if !self.exchange.has_started() {
            return Err(misplaced(kind, "'http.response.start' comes first"));
        }
        if self.exchange.is_complete() {
            return Err(misplaced(kind, "the response was complete"));
        }
        Ok(())
    }

    /// Receive the next piece of the body on a thread that may wait.
    pub(super) fn receive_blocking(slf: &Bound<'_, Self>) -> PyResult<ReceivedBody> {
        let this = slf.get();
        let server = this.server.bind(slf.py());
        loop {
            let n_rings = this.bell.n_rings();
            match looking_afterwards(|| this.exchange.receive()) {
                ReceivedBody::Nothing if this.exchange.is_over() => {
                    return Err(client_left(slf.py()));
                }
                ReceivedBody::Nothing => {}
                ReceivedBody::Broken => return Err(client_left(slf.py())),
                ReceivedBody::TooLarge => {
                    this.exchange.refuse(StatusCode::PAYLOAD_TOO_LARGE);
                    HttpServer::schedule(server)?;
                    return Err(body_too_large());
                }
                received => {
                    HttpServer::schedule(server)?;
                    return Ok(received);
                }
            }
            HttpServer::schedule(server)?;
            this.bell.wait(slf.py(), n_rings)?;
        }
    }

    /// Send a piece of the response on a thread that may wait for room; without `more` it is the last.
    pub(super) fn send_blocking(slf: &Bound<'_, Self>, data: Bytes, more: bool) -> PyResult<()> {
        let this = slf.get();
        looking_afterwards(|| this.exchange.send(data, more)).map_err(mismatched)?;
        HttpServer::schedule(this.server.bind(slf.py()))?;
        if more { Self::await_room(slf) } else { Ok(()) }
    }

    /// Send the rest of a file as the rest of the response.
    pub(super) fn send_file(slf: &Bound<'_, Self>, file: FileBody) -> PyResult<()> {
        let this = slf.get();
        looking_afterwards(|| this.exchange.send_file(file, false)).map_err(mismatched)?;
        HttpServer::schedule(this.server.bind(slf.py()))
    }

    fn await_room(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let high_water = this.server.get().server.limits.send_high_water;
        loop {
            let n_rings = this.bell.n_rings();
            if this.exchange.is_cut_off() {
                return Err(client_left(slf.py()));
            }
            if this.exchange.n_unsent() <= high_water {
                return Ok(());
            }
            this.bell.wait(py, n_rings)?;
        }
    }

    /// A WSGI application has ended; `error` is its exception.
    pub(super) fn end_blocking(slf: &Bound<'_, Self>, error: Option<PyErr>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.is_running.replace(py, false) {
            let n_applications = &this.server.get().n_applications;
            n_applications.set(py, n_applications.get(py) - 1);
        }
        Self::end(slf, error)
    }

    /// The client has paused for too long within the body that the application waits for.
    pub(super) fn time_out_body(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if !this.awaits_body(py) {
            return Ok(());
        }
        let server = this.server.bind(py);
        server.get().server.metrics.timeouts_body.count();
        looking_afterwards(|| {
            if !this.exchange.refuse(StatusCode::REQUEST_TIMEOUT) {
                this.exchange.abandon();
            }
            this.exchange.give_up();
        });
        Self::progress(slf)?;
        HttpServer::schedule(server)
    }
}

impl Answers for HttpExchange {
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
        let exchange = &this.exchange;
        let server = this.server.bind(py);
        let was_gone = exchange.is_client_gone();
        match error {
            Some(error) if was_gone && ends_with_client(py, &error)? => {}
            Some(error) => server.get().application_failed(py, error)?,
            None if exchange.is_complete() || was_gone => {}
            None => {
                let what = if exchange.has_started() { "the whole response" } else { "a response" };
                let message = format!("the application returned without having sent {what}");
                server.get().application_failed(py, PyRuntimeError::new_err(message))?;
            }
        }
        if !exchange.is_complete() {
            looking_afterwards(|| {
                if was_gone || !exchange.refuse(StatusCode::INTERNAL_SERVER_ERROR) {
                    exchange.abandon();
                }
            });
        }
        HttpServer::schedule(server)
    }
}

/// All of a file, or its first `n_bytes` if it has more.
fn whole_file(path: &Path, n_bytes: u64) -> PyResult<FileBody> {
    // A named pipe would have it wait for its writer.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
        .open(path);
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(errno) => PyOSError::new_err((errno, error.to_string(), path.to_owned())),
        None => error.into(),
    };
    let file = opened.map_err(failed)?;
    FileBody::part_of(file.as_raw_fd(), 0, n_bytes).map_err(failed)?.ok_or_else(|| {
        PyValueError::new_err(format!(
            "'http.response.pathsend' has the path {}, which is no regular file",
            path.display()
        ))
    })
}

/// Wakes a thread that waits for its connection to move.
#[derive(Debug, Default)]
struct Bell {
    n_rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.n_rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn n_rings(&self) -> u64 {
        *self.lock()
    }

    fn ring(&self) {
        *self.lock() += 1;
        self.rung.notify_all();
    }

    /// Wait, without the GIL, until it has rung more often than `n_rings` times.
    fn wait(&self, py: Python<'_>, n_rings: u64) -> PyResult<()> {
        // Signal handlers run in between, on the thread that may run them.
        const SLICE: Duration = Duration::from_millis(100);
        while py.detach(|| {
            let is_early = |now: &mut u64| *now == n_rings;
            let waited = self.rung.wait_timeout_while(self.lock(), SLICE, is_early);
            waited.map_or_else(|it| it.into_inner().1, |it| it.1).timed_out()
        }) {
            py.check_signals()?;
        }
        Ok(())
    }
}

/// Whether an application has failed because its client has left.
fn ends_with_client(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    // How deep the error of `send` may be in what frameworks make of it.
    const N_CAUSES_MAX: usize = 8;
    if names::is_cancelled_error(py, error)? {
        return Ok(true);
    }
    let mut error = error.value(py).clone().into_any();
    for _ in 0..N_CAUSES_MAX {
        if error.is_instance_of::<PyConnectionAbortedError>() {
            return Ok(true);
        }
        let cause = error.getattr(intern!(py, "__cause__"))?;
        error = if cause.is_none() { error.getattr(intern!(py, "__context__"))? } else { cause };
        if error.is_none() {
            break;
        }
    }
    Ok(false)
}

/// What an application gets that sends to a client that has left.
fn client_left(py: Python<'_>) -> PyErr {
    client_disconnected(py, "the client has left")
}

fn body_too_large() -> PyErr {
    PyValueError::new_err("the body of the request is longer than the server allows")
}

pub(super) fn mismatched(error: LengthMismatch) -> PyErr {
    PyRuntimeError::new_err(format!("an application sent a part of a body, but {error}"))
}

fn misplaced(kind: &str, why: &str) -> PyErr {
    PyRuntimeError::new_err(format!("an application sent '{kind}', but {why}"))
}

#[pymethods]
impl HttpExchange {
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
pub(crate) struct HttpReceive(pub(super) Py<HttpExchange>);

#[pymethods]
impl HttpReceive {
    /// Return an awaitable of the next message.
    fn __call__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, Future>> {
        HttpExchange::receive(self.0.bind(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

/// ASGI's `send`.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct HttpSend(pub(super) Py<HttpExchange>);

#[pymethods]
impl HttpSend {
    /// Send a message; return an awaitable that is done when there is room for more.
    fn __call__(&self, message: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        HttpExchange::send(self.0.bind(message.py()), message)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}
