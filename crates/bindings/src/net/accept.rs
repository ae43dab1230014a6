//! Acceptors: connections are accepted as soon as they arrive, and served a few per tick.

use std::os::fd::{AsRawFd, IntoRawFd};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use threadlets_core::Backlog;
use threadlets_core::backlog::AcceptedConnection;
use threadlets_core::socket::{self, Address, SocketFd};

use super::connection_context::ConnectionContext;
use super::stream::Stream;
use crate::contract::in_context;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::request::Request;
use crate::py::context::{copy_context, current_context};
use crate::py::error::to_python;
use crate::py::gil_cell::GilCell;

/// How many connections an acceptor may serve per tick, at least.
///
/// A connection that arrives together with its request ends after a few ticks. When few are served at a
/// time, they are gone before the cyclic collector counts the next ones; when hundreds are, they are not,
/// and the collector looks at them again and again. Measured with a connection for each request, at most
/// 100 of them at once: in 22,000 requests the collector ran 39 times with 4, 114 times with 8, and 588
/// times with 32.
const SERVED_MIN: usize = 8;

/// The most connections that an acceptor may serve per tick: more would keep other requests waiting.
const SERVED_MAX: usize = 256;

/// Between those bounds, an acceptor may serve one connection for every so many requests of the tick. With
/// a fixed number, a loop with long ticks would serve too few. With a large share, a loop that serves
/// connections alone would go from few to many: each of them makes several requests later.
const SERVED_SHARE: usize = 16;

#[derive(Debug)]
struct AcceptorState {
    backlog: Backlog,
    /// The request is in the ready queue: one is enough for any number of edges.
    is_queued: bool,
    is_retired: bool,
}

/// A listening socket, and the callbacks for its connections and its errors.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub struct Acceptor {
    on_connection: Py<PyAny>,
    on_error: Py<PyAny>,
    /// Connections are made in copies of this context: the server's own, or the one in which the server was
    /// started.
    context: Py<PyAny>,
    /// The context is the server's own: all callbacks of a connection run in the same copy of it.
    is_servers: bool,
    state: GilCell<AcceptorState>,
}

impl Acceptor {
    pub(crate) fn new(
        py: Python<'_>,
        fd: i32,
        on_connection: Py<PyAny>,
        on_error: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let is_servers = context.is_some();
        let context = context.map_or_else(|| current_context(py).map(Bound::unbind), Ok)?;
        let backlog = Backlog::new(SocketFd::new(fd));
        let state = GilCell::new(AcceptorState { backlog, is_queued: false, is_retired: false });
        Ok(Self { on_connection, on_error, context, is_servers, state })
    }

    /// The request that accepts connections, unless it is queued already.
    pub(crate) fn request(slf: &Bound<'_, Self>) -> Option<Request> {
        let state = &slf.get().state;
        let was_queued = state.with(slf.py(), |it| std::mem::replace(&mut it.is_queued, true));
        (!was_queued).then(|| Request::Accept(slf.clone().into_any().unbind()))
    }

    /// Pass a connection to `on_connection`, in a context of its own: connections share no variables.
    fn connect(
        &self,
        dispatcher: &Bound<'_, Dispatcher>,
        (fd, peer): AcceptedConnection,
    ) -> PyResult<()> {
        let py = dispatcher.py();
        if matches!(peer, Address::Internet(_)) {
            // A failure is ignored: it costs latency, nothing else.
            let _ = socket::set_nodelay(SocketFd::new(fd.as_raw_fd()));
        }
        let context = copy_context(py, &self.context)?;
        let its_own = if self.is_servers {
            ConnectionContext::given(context.clone_ref(py))
        } else {
            ConnectionContext::copy_of(self.context.clone_ref(py))
        };
        let stream = Stream::accepted(dispatcher, &fd, peer, its_own)?;
        // The descriptor belongs to the transport from here on.
        let _ = fd.into_raw_fd();
        in_context(py, &context, || self.on_connection.call1(py, (stream,)).map(drop))
    }

    /// Stop accepting; the socket is about to be closed. Connections that are held are still served: to
    /// their clients they are accepted.
    pub(crate) fn retire(&self, py: Python<'_>) {
        self.state.with(py, |state| state.is_retired = true);
    }

    /// Refuse the connections that are not served yet: the loop is closed.
    pub(crate) fn give_up(&self, py: Python<'_>) {
        self.retire(py);
        drop(self.state.with(py, |state| state.backlog.take_all()));
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

/// Accept the connections that are waiting and serve some of them; another request serves the rest later.
pub(crate) fn run(dispatcher: &Bound<'_, Dispatcher>, slf: &Bound<'_, Acceptor>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let tick_size = dispatcher.get().queues.with(py, |queues| queues.tick_size());
    let n_served_max = (tick_size / SERVED_SHARE).clamp(SERVED_MIN, SERVED_MAX);
    let accepted = this.state.with(py, |state| {
        state.is_queued = false;
        let may_be_more = !state.is_retired && state.backlog.accept()?;
        Ok(may_be_more || state.backlog.n_held() > 1)
    });
    // Queue the next request before serving: `on_connection` may block for long while another worker runs
    // the loop, or end the loop, and no further edge reports the connections that are waiting already.
    if !matches!(accepted, Ok(false)) {
        again(dispatcher, slf)?;
    }
    if let Err(error) = accepted {
        let failed = || this.on_error.call1(py, (to_python(error),)).map(drop);
        return in_context(py, &this.context, failed);
    }
    for _ in 0..n_served_max {
        let Some(connection) = this.state.with(py, |state| state.backlog.take()) else { break };
        this.connect(dispatcher, connection)?;
    }
    Ok(())
}

fn again(dispatcher: &Bound<'_, Dispatcher>, slf: &Bound<'_, Acceptor>) -> PyResult<()> {
    match Acceptor::request(slf) {
        Some(request) => dispatcher.get().submit(slf.py(), request),
        None => Ok(()),
    }
}
