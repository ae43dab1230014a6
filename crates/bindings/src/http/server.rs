//! A server: its listening sockets, its connections, and how the dispatcher runs them.
//!
//! Everything is a request of one kind, `Request::Http`, with a number: that of a connection, or one of those below.

mod accepting;
mod starting;

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::header::{HeaderName, HeaderValue};
use pyo3::PyTraverseError;
use pyo3::exceptions::PyValueError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use threadlets_core::socket::{self, SocketFd};
use threadlets_core::{Backlog, Interest, Readiness, SourceKey, TimerKey, clock};
use threadlets_http::metrics::ServerMetrics;
use threadlets_http::static_files::StaticFiles;
use threadlets_http::wakes::{Wakes, looking_afterwards};
use threadlets_http::{Progress, Server, Target};

use self::accepting::Listener;
use super::answering::Answering;
use super::connections::{CONNECTIONS_MAX, Connections, Entry};
use super::counts::{self, HttpCounts};
use super::options::{limits_of, static_options, websocket_options};
use super::scope::{self, Common};
use super::tls;
use super::wsgi::CommonEnviron;
use crate::calls::checkpoint::Checkpoint;
use crate::dispatcher::request::Request;
use crate::dispatcher::{Dispatcher, Source, hooks};
use crate::net::descriptors;
use crate::py::address;
use crate::py::context::current_context;
use crate::py::entry_point;
use crate::py::error::to_python;
use crate::py::gil_cell::{GilCell, GilSlot};
use crate::task::future::Future;

/// Look at the deadlines of all connections.
const CHECK: u32 = u32::MAX;
/// Drive the connections that were woken.
const WOKEN: u32 = u32::MAX - 1;
/// Another thread has woken a connection.
const RUNG: u32 = u32::MAX - 2;
/// Listening sockets have the numbers from here on.
const LISTENERS: u32 = CONNECTIONS_MAX;

/// The most connections that a listener makes in one tick: others wait, so that requests have their turn.
const MADE_MAX: usize = 64;

/// A server of one loop. Its methods are called by the thread that runs the loop.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub(crate) struct HttpServer {
    pub(super) dispatcher: Py<Dispatcher>,
    pub(super) server: Arc<Server>,
    /// A future that is done: what `send` returns when there is room.
    pub(super) done: Py<Future>,
    /// What `send` returns when there is room and more will be sent.
    pub(super) checkpoint: Py<Checkpoint>,
    application: Py<PyAny>,
    /// Answers what is asked for on a path of the server's own, by ASGI.
    internal: Option<(String, Py<PyAny>)>,
    /// Has the hooks of a server.
    owner: Py<PyAny>,
    /// Applications run in copies of this context.
    context: Py<PyAny>,
    common: Common,
    /// The application is one of WSGI.
    environ: Option<CommonEnviron>,
    /// The application without its wrappers: what its calls are known by.
    innermost: Py<PyAny>,
    connections: GilCell<Connections<Answering>>,
    listeners: GilCell<Vec<Option<Listener>>>,
    /// Listeners that have clients waiting, and accept none of them, since there is no room; the first has waited longest.
    paused: GilCell<VecDeque<u32>>,
    /// Applications that have begun to wait, and have not ended.
    pub(super) n_applications: GilSlot<usize>,
    /// The request for woken connections is in the ready queue.
    is_scheduled: AtomicBool,
    check_timer: GilSlot<TimerKey>,
    bell: OwnedFd,
    bell_key: GilSlot<Option<SourceKey>>,
}

impl HttpServer {
    /// Note the readiness of a connection, a listener or the bell; its request, to be queued, unless it is.
    pub(crate) fn note(
        slf: &Bound<'_, Self>,
        number: u32,
        readiness: Readiness,
    ) -> Option<Request> {
        let py = slf.py();
        let this = slf.get();
        let is_new = match number {
            RUNG => true,
            LISTENERS.. => this.queues_listener(py, number - LISTENERS),
            _ => this.connections.with(py, |it| it.note(number, readiness)),
        };
        is_new.then(|| Self::request(slf, number))
    }

    /// The descriptor of one of its sources.
    pub(crate) fn fd(&self, py: Python<'_>, number: u32) -> i32 {
        let fd = match number {
            RUNG => Some(self.bell.as_raw_fd()),
            LISTENERS.. => self.listeners.with(py, |listeners| {
                Some(listeners.get((number - LISTENERS) as usize)?.as_ref()?.fd)
            }),
            _ => self
                .connections
                .with(py, |connections| Some(connections.get(number)?.connection.as_ref()?.fd())),
        };
        fd.unwrap_or(-1)
    }

    fn request(slf: &Bound<'_, Self>, number: u32) -> Request {
        Request::Http(slf.clone().into_any().unbind(), number)
    }

    fn submit(slf: &Bound<'_, Self>, number: u32) -> PyResult<()> {
        slf.get().dispatcher.get().submit(slf.py(), Self::request(slf, number))
    }

    /// Run a request of the server.
    pub(crate) fn run(slf: &Bound<'_, Self>, number: u32) -> PyResult<()> {
        match number {
            CHECK => Self::check(slf)?,
            WOKEN => {}
            RUNG => {
                let _ = rustix::io::read(slf.get().bell.as_fd(), &mut [0; 8]);
            }
            LISTENERS.. => Self::accept(slf, number - LISTENERS)?,
            _ => {
                slf.get().connections.with(slf.py(), |connections| {
                    if let Some(entry) = connections.get(number) {
                        entry.is_queued = false;
                    }
                });
                Self::serve(slf, number)?;
            }
        }
        Self::serve_woken(slf)
    }

    /// Have the connections that were woken driven in the next tick: what an application sends in one goes leaves
    /// in one.
    pub(super) fn schedule(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().is_scheduled.swap(true, Relaxed) {
            return Ok(());
        }
        Self::submit(slf, WOKEN)
    }

    /// Drive the connections that were woken, those that this wakes included, once each.
    fn serve_woken(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        this.is_scheduled.store(false, Relaxed);
        let woken = this.server.wakes.take();
        for number in woken {
            Self::serve(slf, number)?;
        }
        if this.server.wakes.is_empty() { Ok(()) } else { Self::schedule(slf) }
    }

    /// Drive a connection, start the applications of its new requests, and go on with the others.
    fn serve(slf: &Bound<'_, Self>, number: u32) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some((progress, begun)) = this.connections.with(py, |connections| {
            let connection = connections.get(number)?.connection.as_mut()?;
            let progress = connection.drive(clock::now_ns());
            Some((progress, connection.take_begun()))
        }) else {
            return Ok(());
        };
        for answering in Self::settle(slf, number, progress)? {
            answering.progress(py)?;
        }
        for exchange in begun {
            Self::start(slf, number, exchange)?;
        }
        Self::register(slf, number)?;
        if this.server.has_log() {
            this.log(py)?;
        }
        Ok(())
    }

    /// Remove a connection that is over; returns what answers its requests.
    fn settle(slf: &Bound<'_, Self>, number: u32, progress: Progress) -> PyResult<Vec<Answering>> {
        let py = slf.py();
        let this = slf.get();
        if !progress.is_open {
            let removed = this.connections.with(py, |connections| connections.remove(number));
            let Some(entry) = removed else { return Ok(Vec::new()) };
            let answering = this.release(py, entry);
            Self::resume_accepting(slf)?;
            return answering;
        }
        Ok(this.connections.with(py, |connections| {
            let Some(entry) = connections.get(number) else { return Vec::new() };
            entry.answering.retain(|it| it.is_live(py));
            if let Some(connection) = &entry.connection
                && connection.is_read_closed()
            {
                entry.answering.iter().for_each(|it| it.give_up(py));
            }
            entry.answering.iter().map(|it| it.clone_ref(py)).collect()
        }))
    }

    /// Have the poller report what a connection waits for, if the connection has come to rest.
    ///
    /// One that was woken is driven again before the poller is asked: its application may have answered already, and
    /// one that is closed after that needs no poller.
    fn register(slf: &Bound<'_, Self>, number: u32) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let to_register = this.connections.with(py, |connections| {
            let entry = connections.get(number)?;
            let connection = entry.connection.as_ref().filter(|it| !it.is_woken())?;
            let awaits_room = connection.progress().awaits_room;
            let is_missing = entry.key.is_none() || awaits_room && !entry.is_registered_for_room;
            is_missing.then(|| {
                entry.is_registered_for_room = awaits_room;
                (connection.fd(), entry.key, awaits_room)
            })
        });
        let Some((fd, key, awaits_room)) = to_register else { return Ok(()) };
        let interest = if awaits_room { Interest::BOTH } else { Interest::READABLE };
        let dispatcher = this.dispatcher.get();
        if let Some(key) = key {
            return dispatcher.poller(py)?.modify(fd, key, interest).map_err(to_python);
        }
        let source = Source::Http(slf.clone().into_any().unbind(), number);
        let key = descriptors::register_source(dispatcher, py, fd, source, interest)?;
        this.connections.with(py, |connections| {
            if let Some(entry) = connections.get(number) {
                entry.key = Some(key);
            }
        });
        Ok(())
    }

    /// Release a connection that is over; returns what answers its requests.
    fn release(&self, py: Python<'_>, entry: Entry<Answering>) -> PyResult<Vec<Answering>> {
        let dispatcher = self.dispatcher.get();
        if let Some(key) = entry.key {
            drop(dispatcher.sources.with(py, |sources| sources.remove(key)));
        }
        // Its descriptor is closed by this, and so leaves the poller: no other process has a duplicate.
        looking_afterwards(|| drop(entry.connection));
        Ok(entry.answering)
    }

    /// Report the exception of an application.
    pub(super) fn application_failed(&self, py: Python<'_>, error: PyErr) -> PyResult<()> {
        self.server.metrics.application_errors.count();
        hooks::application_failed(self.owner.bind(py), error).map(drop)
    }

    /// Look at the deadlines of all connections, and come back.
    fn check(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let now_ns = clock::now_ns();
        let (moved, waiting) = this.connections.with(py, |connections| {
            let (mut moved, mut waiting) = (Vec::new(), Vec::new());
            for (number, entry) in &mut connections.entries {
                let Some(connection) = &mut entry.connection else { continue };
                if let Some(progress) = connection.check(now_ns) {
                    moved.push((number as u32, progress));
                } else if !entry.answering.is_empty() && connection.is_body_overdue(now_ns) {
                    waiting.extend(entry.answering.iter().map(|it| it.clone_ref(py)));
                }
            }
            (moved, waiting)
        });
        for (number, progress) in moved {
            for answering in Self::settle(slf, number, progress)? {
                answering.progress(py)?;
            }
            Self::register(slf, number)?;
        }
        for answering in waiting {
            answering.time_out_body(py)?;
        }
        Self::start_checking(slf)
    }

    fn start_checking(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let deadline_ns = clock::now_ns() + this.server.check_interval().as_nanos() as u64;
        let request = Self::request(slf, CHECK);
        let dispatcher = this.dispatcher.get();
        let key = dispatcher.queues.with(py, |queues| queues.submit_at(deadline_ns, request));
        this.check_timer.set(py, key);
        dispatcher.wake_if_sleeping(py)
    }

    /// Give the requests that have ended to the owner's log.
    fn log(&self, py: Python<'_>) -> PyResult<()> {
        let list = PyList::empty(py);
        for entry in self.server.take_log() {
            let client = address::to_python(py, &entry.peer)?;
            let target = entry.uri.path_and_query().map_or("*", |it| it.as_str());
            let took = entry.took.as_secs_f64();
            let version = match entry.version {
                http::Version::HTTP_10 => "1.0",
                http::Version::HTTP_2 => "2",
                _ => "1.1",
            };
            let (method, status) = (entry.method.as_str(), entry.status.as_u16());
            let headers = entry.headers.iter().map(|(name, value)| {
                (PyBytes::new(py, name.as_str().as_bytes()), PyBytes::new(py, value.as_bytes()))
            });
            let headers = PyList::new(py, headers.collect::<Vec<_>>())?;
            list.append((client, method, target, version, status, entry.n_bytes, took, headers))?;
        }
        hooks::log_requests(self.owner.bind(py), list).map(drop)
    }
}

#[pymethods]
impl HttpServer {
    /// Make a server of the running loop; its listening sockets are added later.
    ///
    /// `headers` are pairs of byte strings that every response gets unless it has them. `tls` has the options of TLS;
    /// the scheme is `https` with it. Without `websockets`, their options, requests for websockets are requests like
    /// others. It counts in a slot of `counts`, if there is one. The log gets the header fields of requests that
    /// `logged_headers` names.
    #[new]
    #[pyo3(signature = (dispatcher, application, owner, *, limits, headers, logs, root_path, scheme, state, extensions, folder=None, internal=None, environ=None, tls=None, websockets=None, counts=None, logged_headers=None))]
    #[expect(clippy::too_many_arguments, reason = "they are named, and all of them are needed")]
    fn new(
        py: Python<'_>,
        dispatcher: Bound<'_, Dispatcher>,
        application: Py<PyAny>,
        owner: Py<PyAny>,
        limits: &Bound<'_, PyDict>,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        logs: bool,
        root_path: Py<PyString>,
        scheme: Py<PyString>,
        state: Option<Py<PyDict>>,
        extensions: Py<PyDict>,
        folder: Option<(PathBuf, Bound<'_, PyDict>)>,
        internal: Option<(String, Py<PyAny>)>,
        environ: Option<Py<PyDict>>,
        tls: Option<&Bound<'_, PyDict>>,
        websockets: Option<Bound<'_, PyDict>>,
        counts: Option<(Bound<'_, HttpCounts>, u64)>,
        logged_headers: Option<Vec<Vec<u8>>>,
    ) -> PyResult<Self> {
        let bell = rustix::event::eventfd(
            0,
            rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK,
        )
        .map_err(|errno| to_python(threadlets_core::Error::new("eventfd", errno)))?;
        let rung = bell.try_clone()?;
        let wakes = Wakes::new(move || {
            let _ = rustix::io::write(rung.as_fd(), &1_u64.to_ne_bytes());
        });
        let target = match folder {
            Some((path, options)) => {
                Target::Files(Arc::new(StaticFiles::open(&path, static_options(&options)?)?))
            }
            None => Target::Application,
        };
        let mut server = Server::new(limits_of(limits)?, target, wakes);
        server.logs = logs;
        let invalid = || PyValueError::new_err("a header field of the server is not valid");
        for name in logged_headers.into_iter().flatten() {
            server.logged_headers.push(HeaderName::from_bytes(&name).map_err(|_| invalid())?);
        }
        if let Some((counts, slot)) = counts {
            server.metrics = ServerMetrics::Shared(counts.get().slot(slot)?);
        }
        server.websockets = websockets.as_ref().map(websocket_options).transpose()?;
        server.internal_path = internal.as_ref().map(|(path, _)| path.clone());
        server.tls = tls.map(tls::tls).transpose()?;
        let certificate =
            server.tls.as_ref().map(|it| PyString::new(py, it.certificate()).unbind());
        let scheme = if tls.is_some() { PyString::new(py, "https").unbind() } else { scheme };
        for (name, value) in headers {
            let name = HeaderName::from_bytes(&name).map_err(|_| invalid())?;
            let value = HeaderValue::from_bytes(&value).map_err(|_| invalid())?;
            server.headers.push((name, value));
        }
        let done = Future::make(&dispatcher)?;
        Future::resolve(&done, py.None())?;
        let asgi = PyDict::new(py);
        asgi.set_item("version", "3.0")?;
        asgi.set_item("spec_version", "2.4")?;
        let asgi = asgi.unbind();
        let innermost = entry_point::innermost(application.bind(py), None).unbind();
        Ok(Self {
            dispatcher: dispatcher.unbind(),
            server: Arc::new(server),
            done: done.unbind(),
            checkpoint: Py::new(py, Checkpoint)?,
            application,
            internal,
            owner,
            context: current_context(py)?.unbind(),
            innermost,
            environ: environ.map(CommonEnviron::new),
            common: Common { root_path, scheme, state, extensions, asgi, certificate },
            connections: GilCell::default(),
            listeners: GilCell::default(),
            paused: GilCell::default(),
            n_applications: GilSlot::new(0),
            is_scheduled: AtomicBool::new(false),
            check_timer: GilSlot::new(TimerKey::NONE),
            bell,
            bell_key: GilSlot::new(None),
        })
    }

    /// Check the options of TLS as they are given to a new server.
    #[staticmethod]
    fn check_tls(tls: &Bound<'_, PyDict>) -> PyResult<()> {
        tls::tls(tls).map(drop)
    }

    /// Begin to serve the connections of a listening, non-blocking socket, which its owner keeps open.
    fn listen(slf: &Bound<'_, Self>, fd: i32) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if fd < 0 {
            return Err(to_python(threadlets_core::Error::bad_descriptor("listen")));
        }
        let dispatcher = this.dispatcher.get();
        let own = socket::local_address(SocketFd::new(fd)).map_err(to_python)?;
        let own = scope::server(py, &own)?.unbind();
        if this.bell_key.get(py).is_none() {
            let source = Source::Http(slf.clone().into_any().unbind(), RUNG);
            let bell = this.bell.as_raw_fd();
            let interest = Interest::READABLE;
            let key = descriptors::register_source(dispatcher, py, bell, source, interest)?;
            this.bell_key.set(py, Some(key));
            Self::start_checking(slf)?;
        }
        let which = this.listeners.with(py, |listeners| {
            listeners.push(None);
            listeners.len() - 1
        });
        let source = Source::Http(slf.clone().into_any().unbind(), LISTENERS + which as u32);
        let key = descriptors::register_source(dispatcher, py, fd, source, Interest::READABLE)?;
        this.listeners.with(py, |listeners| {
            let backlog = Backlog::new(SocketFd::new(fd));
            listeners[which] = Some(Listener { backlog, key, fd, is_queued: false, own });
        });
        Ok(())
    }

    /// Accept again after a failure.
    fn accept_again(slf: &Bound<'_, Self>, which: u32) -> PyResult<()> {
        Self::submit(slf, LISTENERS + which)
    }

    /// Stop accepting. Connections that were accepted are served, each to the end of its next response. Websockets are
    /// closed: with code 1012 if another server takes the place of this one, 1001 otherwise.
    #[pyo3(signature = (restarts=false))]
    fn drain(slf: &Bound<'_, Self>, restarts: bool) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.server.is_draining() {
            return Ok(());
        }
        this.server.drain(restarts);
        let listeners = this
            .listeners
            .with(py, |it| it.iter_mut().filter_map(Option::take).collect::<Vec<_>>());
        let dispatcher = this.dispatcher.get();
        for mut listener in listeners {
            drop(dispatcher.sources.with(py, |sources| sources.remove(listener.key)));
            dispatcher.poller(py)?.deregister(listener.fd).map_err(to_python)?;
            for connection in listener.backlog.take_all() {
                Self::make(slf, connection)?;
            }
        }
        this.connections.with(py, |connections| {
            let open = connections.entries.iter().filter_map(|(_, it)| it.connection.as_ref());
            open.for_each(|it| it.go_away());
        });
        let timer = this.check_timer.replace(py, TimerKey::NONE);
        if timer != TimerKey::NONE {
            dispatcher.forget_timer(py, timer);
            Self::start_checking(slf)?;
        }
        Self::schedule(slf)
    }

    /// Close all connections at once, and cancel what their applications do.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let numbers: Vec<u32> = this.connections.with(py, |connections| {
            connections
                .entries
                .iter_mut()
                .map(|(number, entry)| {
                    if let Some(connection) = &mut entry.connection {
                        connection.close_now();
                    }
                    number as u32
                })
                .collect()
        });
        let closed = Progress { is_open: false, awaits_room: false };
        for number in numbers {
            for answering in Self::settle(slf, number, closed)? {
                answering.progress(py)?;
            }
        }
        Ok(())
    }

    /// Leave the loop: no deadline is looked at any more, and no connection is served.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        Self::drain(slf, false)?;
        Self::abort(slf)?;
        let timer = this.check_timer.replace(py, TimerKey::NONE);
        if timer != TimerKey::NONE {
            this.dispatcher.get().forget_timer(py, timer);
        }
        if let Some(key) = this.bell_key.replace(py, None) {
            let dispatcher = this.dispatcher.get();
            drop(dispatcher.sources.with(py, |sources| sources.remove(key)));
            if let Ok(poller) = dispatcher.poller(py) {
                poller.deregister(this.bell.as_raw_fd()).map_err(to_python)?;
            }
        }
        Ok(())
    }

    /// The number of open connections, and of requests in flight.
    fn counts(&self, py: Python<'_>) -> (usize, usize) {
        (self.connections.with(py, |it| it.len()), self.server.n_in_flight())
    }

    /// The number of applications that have not ended.
    fn n_applications(&self, py: Python<'_>) -> usize {
        self.n_applications.get(py)
    }

    /// What was counted so far: see `HttpCounts.total`.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        counts::as_dict(py, &self.server.metrics)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.dispatcher)?;
        visit.call(&self.done)?;
        visit.call(&self.application)?;
        visit.call(&self.owner)?;
        if let Some((_, internal)) = &self.internal {
            visit.call(internal)?;
        }
        visit.call(&self.context)?;
        visit.call(&self.common.state)?;
        visit.call(&self.innermost)?;
        if let Some(environ) = &self.environ {
            environ.visit(&visit)?;
        }
        self.connections.traverse(&visit, |connections| {
            connections
                .entries
                .iter()
                .flat_map(|(_, entry)| &entry.answering)
                .try_for_each(|it| it.traverse(&visit))
        })
    }
}
