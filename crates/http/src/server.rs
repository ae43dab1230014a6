//! What all connections of a server share.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};

use crate::limits::Limits;
use crate::metrics::ServerMetrics;
use crate::static_files::StaticFiles;
use crate::tls::Tls;
use crate::wakes::Wakes;
use crate::websocket;

/// The code of websockets that are closed because the server stops.
const GOING_AWAY: u16 = 1001;

/// Between two looks at the connections of a server that drains.
const CHECKS_WHILE_DRAINING: Duration = Duration::from_millis(100);

/// The code of websockets that are closed because the server is replaced by another one.
const RESTARTING: u16 = 1012;

/// What answers the requests of a server.
#[derive(Debug)]
pub enum Target {
    /// An application: see [`Exchange`](crate::Exchange).
    Application,
    /// A folder.
    Files(Arc<StaticFiles>),
}

/// One request that has ended, for the log.
#[derive(Debug)]
pub struct LogEntry {
    /// The number of its connection.
    pub connection: u32,
    /// The peer of the connection.
    pub peer: threadlets_core::socket::Address,
    /// Those of its header fields that [`Server::logged_headers`] names.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The request's method.
    pub method: http::Method,
    /// The request's target.
    pub uri: http::Uri,
    /// The version of HTTP.
    pub version: http::Version,
    /// The status of the response.
    pub status: http::StatusCode,
    /// How many bytes of the body were handed over.
    pub n_bytes: u64,
    /// From the request's head to the response's end.
    pub took: Duration,
}

/// A server: what its connections share.
#[derive(Debug)]
pub struct Server {
    /// What clients may do.
    pub limits: Limits,
    /// What answers requests.
    pub target: Target,
    /// What was counted so far.
    pub metrics: ServerMetrics,
    /// Connections to be driven.
    pub wakes: Wakes,
    /// Header fields of every response that does not set them itself.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// A path that an application answers whatever the target is.
    pub internal_path: Option<String>,
    /// Requests that have ended are kept for the log until [`Server::take_log`].
    pub logs: bool,
    /// The header fields of requests that the log gets, too.
    pub logged_headers: Vec<HeaderName>,
    /// TLS on every connection.
    pub tls: Option<Tls>,
    /// What websockets do; without it, requests for them are requests like others.
    pub websockets: Option<websocket::Options>,
    pub(crate) http1: hyper::server::conn::http1::Builder,
    log: Mutex<Vec<LogEntry>>,
    n_in_flight: AtomicUsize,
    is_draining: AtomicBool,
    away_code: AtomicU16,
}

impl Server {
    /// A server without connections.
    pub fn new(limits: Limits, target: Target, wakes: Wakes) -> Self {
        Self {
            http1: http1(&limits),
            limits,
            target,
            metrics: ServerMetrics::default(),
            wakes,
            headers: Vec::new(),
            internal_path: None,
            logs: false,
            logged_headers: Vec::new(),
            tls: None,
            websockets: None,
            log: Mutex::default(),
            n_in_flight: AtomicUsize::new(0),
            is_draining: AtomicBool::new(false),
            away_code: AtomicU16::new(GOING_AWAY),
        }
    }

    /// Whether an application answers this target whatever else does.
    pub(crate) fn is_internal(&self, uri: &http::Uri) -> bool {
        self.internal_path.as_deref() == Some(uri.path())
    }

    /// From now on, have each response be the last of its connection. If another server takes its place at once
    /// (`restarts`), websockets are told so, by [`HttpConnection::go_away`](crate::Connection::go_away), and idle
    /// connections are kept for a moment: a request may be on its way, and is to be answered.
    pub fn drain(&self, restarts: bool) {
        self.away_code.store(if restarts { RESTARTING } else { GOING_AWAY }, Relaxed);
        self.is_draining.store(true, Relaxed);
    }

    /// Whether it drains for good: no other server takes its place at once, and the next request of an idle connection would
    /// be refused there, too.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_draining() && self.away_code() != RESTARTING
    }

    /// The code with which websockets are closed when the server drains.
    pub(crate) fn away_code(&self) -> u16 {
        self.away_code.load(Relaxed)
    }

    /// Whether [`Server::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    /// How often connections have to be looked at, so that none overstays by much.
    pub fn check_interval(&self) -> Duration {
        let interval = self.limits.check_interval(self.websockets.as_ref());
        if self.is_draining() { interval.min(CHECKS_WHILE_DRAINING) } else { interval }
    }

    /// How many requests have begun and have not ended.
    pub fn n_in_flight(&self) -> usize {
        self.n_in_flight.load(Relaxed)
    }

    pub(crate) fn request_begins(&self) {
        self.metrics.requests.count();
        self.n_in_flight.fetch_add(1, Relaxed);
    }

    pub(crate) fn request_ends(&self) {
        self.n_in_flight.fetch_sub(1, Relaxed);
    }

    /// Whether requests have ended that the log has not taken.
    pub fn has_log(&self) -> bool {
        self.logs && !self.log.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Take the requests that have ended since the last time.
    pub fn take_log(&self) -> Vec<LogEntry> {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn log(&self, entry: LogEntry) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }
}

/// hyper's settings. Its own deadlines stay off: connections have theirs.
fn http1(limits: &Limits) -> hyper::server::conn::http1::Builder {
    const DEFAULT_HEADERS_MAX: usize = 100;
    let mut http1 = hyper::server::conn::http1::Builder::new();
    http1.header_read_timeout(None).max_header_size(limits.request_head);
    http1.max_buf_size(limits.request_head.max(limits.send_high_water).max(8192));
    if limits.request_headers > DEFAULT_HEADERS_MAX {
        // With another number hyper allocates for each request; a smaller one is checked afterwards.
        http1.max_headers(limits.request_headers);
    }
    http1
}
