//! What the parts of one connection share: the socket under hyper, the service above it, and the driver around it.

use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Wake;

use hyper::body::Incoming;
use threadlets_core::socket::Address;

use crate::exchange::Exchange;
use crate::framing::Announced;
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
    /// The end was not told to hyper while a response was under way.
    pub(crate) has_hidden_end: AtomicBool,
    /// A write has found no room, once at least: writability has to be reported.
    pub(crate) awaits_room: AtomicBool,
    pub(crate) n_read: AtomicU64,
    pub(crate) n_written: AtomicU64,
    /// Bytes of bodies that hyper has taken and that are not known to be sent.
    pub(crate) n_in_hyper: AtomicU64,
    /// A write has found no room, and hyper has not written all that it has.
    pub(crate) is_unflushed: AtomicBool,
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
    /// What requests have announced of their bodies, by how many requests came before, in HTTP/1.1.
    announced: Mutex<VecDeque<(u64, Announced)>>,
    has_announced: AtomicBool,
    /// A chunked body has been announced: its bytes are to be followed.
    pub(crate) has_chunks: AtomicBool,
    /// A chunked body was misread: what follows on the connection may be no request.
    pub(crate) is_misread: AtomicBool,
    /// A body that nobody will read. hyper is told when the response is sent: it would give up what is unsent of that.
    left_body: Mutex<Option<Incoming>>,
    pub(crate) has_left_body: AtomicBool,
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
            is_unflushed: AtomicBool::new(false),
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
            announced: Mutex::default(),
            has_announced: AtomicBool::new(false),
            has_chunks: AtomicBool::new(false),
            is_misread: AtomicBool::new(false),
            left_body: Mutex::default(),
            has_left_body: AtomicBool::new(false),
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

    /// Note the body of the request that has just begun.
    pub(crate) fn announce(&self, body: Announced) {
        let number = self.n_requests.load(Relaxed) - 1;
        self.announced().push_back((number, body));
        self.has_announced.store(true, Relaxed);
        if body == Announced::Chunks {
            self.has_chunks.store(true, Relaxed);
        }
    }

    /// Take what the request with a number has announced.
    pub(crate) fn take_announced(&self, number: u64) -> Option<Announced> {
        let mut announced = self.announced();
        while announced.front().is_some_and(|(it, _)| *it < number) {
            announced.pop_front();
        }
        match announced.front() {
            Some((it, body)) if *it == number => Some(*body),
            _ => None,
        }
    }

    /// Forget what was announced: the requests of it are over.
    pub(crate) fn forget_announced(&self) {
        if self.has_announced.swap(false, Relaxed) {
            self.announced().clear();
            self.has_chunks.store(false, Relaxed);
        }
    }

    fn announced(&self) -> MutexGuard<'_, VecDeque<(u64, Announced)>> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave a body: nobody will read it.
    pub(crate) fn leave(self: &Arc<Self>, body: Incoming) {
        if self.is_http2.load(Relaxed) {
            // Each stream ends by itself.
            return;
        }
        let before = self.left_body.lock().unwrap_or_else(PoisonError::into_inner).replace(body);
        self.has_left_body.store(true, Relaxed);
        drop(before);
        if self.n_in_flight.load(Relaxed) == 0 {
            // What was sent was flushed before.
            self.wake_by_ref();
        }
    }

    /// All that hyper had was sent: it may know that a body is left.
    pub(crate) fn is_flushed(self: &Arc<Self>) {
        self.n_in_hyper.store(0, Relaxed);
        self.is_unflushed.store(false, Relaxed);
        if self.has_left_body.load(Relaxed) && self.n_in_flight.load(Relaxed) == 0 {
            self.has_left_body.store(false, Relaxed);
            let body = self.left_body.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(body);
            self.wake_by_ref();
        }
    }

    /// Hide the end of what the client sends from hyper, while a response is under way: it would take that for the client's
    /// leaving, and drop the response. A client may end its half and wait for the response. The end of a
    /// body that is not complete is told; and in HTTP/2, whose clients send as long as they receive.
    pub(crate) fn hide_end(&self) -> bool {
        let hides = self.is_responding()
            && self.n_bodies.load(Relaxed) == 0
            && !self.is_http2.load(Relaxed);
        if hides {
            self.has_hidden_end.store(true, Relaxed);
        }
        hides
    }

    /// Whether a response is under way, which may be long after its request has ended for us.
    pub(crate) fn is_responding(&self) -> bool {
        self.n_in_flight.load(Relaxed) > 0 || self.is_unflushed.load(Relaxed)
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
