//! What the parts of one connection share: the socket under hyper, the service above it, and the driver around it.

use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Wake;

use threadlets_core::socket::Address;

use crate::exchange::Exchange;
use crate::server::Server;
use crate::tls::TlsInfo;
use crate::websocket::WebSocket;

/// The shared state of a connection.
///
/// One thread at a time uses it, except for waking; so relaxed loads and stores will do.
#[derive(Debug)]
pub(crate) struct HttpLink {
    pub(crate) server: Arc<Server>,
    /// The connection's number, by which it is woken.
    pub(crate) number: u32,
    pub(crate) peer: Address,
    /// To be driven again.
    pub(crate) is_woken: AtomicBool,
    /// It is being driven: its driver looks whether it was woken.
    pub(crate) is_driven: AtomicBool,

    /// The socket may have something to read.
    pub(crate) may_read: AtomicBool,
    /// The socket may have room.
    pub(crate) may_write: AtomicBool,
    /// A short read does not mean that nothing is left: an end or an error follows.
    pub(crate) distrusts_short_reads: AtomicBool,
    /// The peer has ended its half.
    pub(crate) is_read_closed: AtomicBool,
    /// The end was not told to hyper while a request was in flight.
    pub(crate) has_hidden_end: AtomicBool,
    /// A write has found no room, once at least: writability has to be reported.
    pub(crate) awaits_room: AtomicBool,
    pub(crate) n_read: AtomicU64,
    pub(crate) n_written: AtomicU64,
    /// Bytes of bodies that hyper has taken and that are not known to be sent.
    pub(crate) n_in_hyper: AtomicU64,
    /// The close resets the connection.
    pub(crate) resets: AtomicBool,

    /// It speaks HTTP/2.
    pub(crate) is_http2: AtomicBool,
    /// Bytes of bodies that HTTP/2 has taken; its streams may wait for their client to make room.
    pub(crate) n_pieces_taken: AtomicU64,
    /// Those of them that were sent or dropped.
    pub(crate) n_pieces_moved: AtomicU64,
    /// Requests that ended without the whole response.
    pub(crate) n_left: AtomicU64,
    /// What the TLS session has agreed on.
    pub(crate) tls: OnceLock<Box<TlsInfo>>,

    /// Requests of this connection that have begun and have not ended.
    pub(crate) n_in_flight: AtomicU32,
    /// Requests whose bodies are not complete.
    pub(crate) n_bodies: AtomicU32,
    /// The last request's body was not received as a whole: the client may still be sending it.
    pub(crate) leaves_body: AtomicBool,
    /// Requests that have begun.
    pub(crate) n_requests: AtomicU64,
    /// Exchanges that have begun, and of which the application does not know yet.
    begun: Mutex<Vec<Arc<Exchange>>>,
    /// The websocket that the client has asked for, until the connection is over.
    websocket: Mutex<Option<Arc<WebSocket>>>,
}

impl HttpLink {
    pub(crate) fn new(server: Arc<Server>, number: u32, peer: Address) -> Self {
        Self {
            server,
            number,
            peer,
            is_woken: AtomicBool::new(false),
            is_driven: AtomicBool::new(false),
            // A client that connects usually sends at once.
            may_read: AtomicBool::new(true),
            may_write: AtomicBool::new(true),
            distrusts_short_reads: AtomicBool::new(false),
            is_read_closed: AtomicBool::new(false),
            has_hidden_end: AtomicBool::new(false),
            awaits_room: AtomicBool::new(false),
            n_read: AtomicU64::new(0),
            n_written: AtomicU64::new(0),
            n_in_hyper: AtomicU64::new(0),
            resets: AtomicBool::new(false),
            is_http2: AtomicBool::new(false),
            n_pieces_taken: AtomicU64::new(0),
            n_pieces_moved: AtomicU64::new(0),
            n_left: AtomicU64::new(0),
            tls: OnceLock::new(),
            n_in_flight: AtomicU32::new(0),
            n_bodies: AtomicU32::new(0),
            leaves_body: AtomicBool::new(false),
            n_requests: AtomicU64::new(0),
            begun: Mutex::default(),
            websocket: Mutex::default(),
        }
    }

    fn begun(&self) -> MutexGuard<'_, Vec<Arc<Exchange>>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(&self, exchange: Arc<Exchange>) {
        self.begun().push(exchange);
    }

    pub(crate) fn take_begun(&self) -> Vec<Arc<Exchange>> {
        std::mem::take(&mut *self.begun())
    }

    /// The connection's websocket, while it is asked for, and while it is one.
    pub(crate) fn websocket(&self) -> MutexGuard<'_, Option<Arc<WebSocket>>> {
        self.websocket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hide the end of what the client sends from hyper, if a request is in flight: it would take that for the client's leaving,
    /// and drop a response that is under way. A client may end its half and wait for the response. The end of a
    /// body that is not complete is told; and in HTTP/2, whose clients send as long as they receive.
    pub(crate) fn hide_end(&self) -> bool {
        let hides = self.n_in_flight.load(Relaxed) > 0
            && self.n_bodies.load(Relaxed) == 0
            && !self.is_http2.load(Relaxed);
        if hides {
            self.has_hidden_end.store(true, Relaxed);
        }
        hides
    }

    /// Whether HTTP/2 has bytes of bodies that wait for the client.
    pub(crate) fn has_pieces(&self) -> bool {
        self.n_pieces_taken.load(Relaxed) != self.n_pieces_moved.load(Relaxed)
    }

    pub(crate) fn request_begins(&self) {
        self.server.request_begins();
        self.n_in_flight.fetch_add(1, Relaxed);
        self.n_requests.fetch_add(1, Relaxed);
    }

    pub(crate) fn request_ends(&self) {
        self.server.request_ends();
        self.n_in_flight.fetch_sub(1, Relaxed);
    }
}

impl Wake for HttpLink {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Another thread may wake while the driver looks for the last time: one of them sees the other's.
        if !self.is_woken.swap(true, SeqCst) && !self.is_driven.load(SeqCst) {
            self.server.wakes.push(self.number);
        }
    }
}
