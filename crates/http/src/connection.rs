//! One connection of a server, from its first byte to its last.

mod deadlines;

use std::cell::RefCell;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::http1;
use threadlets_core::Readiness;
use threadlets_core::socket::Address;

use crate::exchange::Exchange;
use crate::first_line::FirstLine;
use crate::http2::{Http2, PREFACE, is_flood, resets_too_much};
use crate::link::HttpLink;
use crate::server::Server;
use crate::service::RequestService;
use crate::session::TlsFailure;
use crate::socket::{self, Socket};
use crate::wakes::looking_afterwards;
use crate::websocket::{Driver, Turn};

/// What is read of a connection before its protocol is known, at most.
const FIRST_READ_MAX: usize = 16 * 1024;

/// How long a connection is read from after its last response, so that its client gets that response.
const LINGER: Duration = Duration::from_secs(2);

/// How long a connection with HTTP/2 has been idle when its buffers are given up.
const REST: Duration = Duration::from_secs(1);

/// How long a connection may be idle while the server drains, if a request or its goodbye may be on the way.
const IDLE_WHILE_DRAINING: Duration = Duration::from_secs(1);

/// How often a connection is driven in a row, at most, before others have their turn.
const TURNS_MAX: usize = 4;

/// A connection: a socket, the protocol on it, and the deadlines of its client.
#[derive(Debug)]
pub struct HttpConnection {
    protocol: Protocol,
    link: Arc<HttpLink>,
    waker: Waker,
    fd: RawFd,
    times: Times,
}

#[derive(Debug)]
enum Protocol {
    /// No request is under way: a connection costs its socket and no buffers. TLS shakes hands in this state.
    Resting(Socket),
    Http1(Box<http1::Connection<Socket, RequestService>>),
    Http2(Box<Http2>),
    WebSocket(Box<Driver>),
    /// The last response was sent; what still comes is read and dropped.
    Lingering(Socket),
    Closed,
}

/// When something last moved, in nanoseconds of the core's clock.
#[derive(Debug, Clone, Copy)]
struct Times {
    n_read: u64,
    read_ns: u64,
    n_written: u64,
    written_ns: u64,
    /// Bytes that the kernel had not sent when a reader seemed to take nothing.
    n_left: u32,
    /// Since when no request is in flight and nothing of a next one has come; `None` while there is one.
    idle_ns: Option<u64>,
    n_requests: u64,
    n_requests_at_rest: u64,
    /// A request was in flight when this was last looked at.
    was_busy: bool,
    lingers_ns: Option<u64>,
    has_pieces: bool,
    n_pieces_moved: u64,
    /// When HTTP/2 last sent some of a body, or began to wait for its client to make room.
    piece_moved_ns: u64,
}

impl Times {
    /// Whether a reader that leaves no room takes something all the same: there is room again only when much of the
    /// kernel's buffer is sent.
    fn takes_a_little(&mut self, fd: RawFd, now_ns: u64) -> bool {
        let n_left = socket::n_unacknowledged(fd).unwrap_or(u32::MAX);
        let takes = n_left < self.n_left;
        if takes {
            (self.n_left, self.written_ns) = (n_left, now_ns);
        }
        takes
    }
}

/// What driving a connection has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// It goes on; otherwise its socket is closed.
    pub is_open: bool,
    /// It has to be driven when the socket has room, too.
    pub awaits_room: bool,
}

impl HttpConnection {
    /// A connection that was accepted; `number` is the one by which it is woken.
    pub fn new(server: &Arc<Server>, number: u32, fd: OwnedFd, peer: Address, now_ns: u64) -> Self {
        server.metrics.connections_accepted.count();
        let link = Arc::new(HttpLink::new(Arc::clone(server), number, peer));
        let (protocol, fd) = match Socket::new(fd, Arc::clone(&link)) {
            Ok(socket) => {
                let fd = socket.raw_fd();
                (Protocol::Resting(socket), fd)
            }
            // TLS was checked when the server was made; so this is for the case that memory has run out.
            Err(_) => (Protocol::Closed, -1),
        };
        let times = Times {
            n_read: 0,
            read_ns: now_ns,
            n_written: 0,
            written_ns: now_ns,
            n_left: u32::MAX,
            idle_ns: Some(now_ns),
            n_requests: 0,
            n_requests_at_rest: 0,
            was_busy: false,
            lingers_ns: None,
            has_pieces: false,
            n_pieces_moved: 0,
            piece_moved_ns: now_ns,
        };
        let waker = Waker::from(Arc::clone(&link));
        Self { protocol, link, waker, fd, times }
    }

    /// The number of its descriptor, while it is open.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// Note what the poller has said of the socket; the connection is to be driven then.
    pub fn note(&self, readiness: Readiness) {
        let link = &self.link;
        if readiness.readable {
            link.may_read.store(true, Relaxed);
        }
        if readiness.short_read_misleads {
            link.distrusts_short_reads.store(true, Relaxed);
        }
        if readiness.writable {
            link.may_write.store(true, Relaxed);
        }
    }

    /// Take the exchanges that have begun: their applications are to be started.
    pub fn take_begun(&self) -> Vec<Arc<Exchange>> {
        self.link.take_begun()
    }

    /// How many requests are in flight.
    pub fn n_in_flight(&self) -> u32 {
        self.link.n_in_flight.load(Relaxed)
    }

    /// Whether it was woken and is to be driven again.
    pub fn is_woken(&self) -> bool {
        self.link.is_woken.load(Relaxed)
    }

    /// Whether the client has ended its half: it may have left.
    pub fn is_read_closed(&self) -> bool {
        self.link.is_read_closed.load(Relaxed)
    }

    /// Do all that can be done now.
    pub fn drive(&mut self, now_ns: u64) -> Progress {
        self.link.is_driven.store(true, Relaxed);
        looking_afterwards(|| {
            for _ in 0..TURNS_MAX {
                self.link.is_woken.store(false, SeqCst);
                self.protocol = self.take_turn(now_ns);
                self.show_end();
                if !self.link.is_woken.load(Relaxed) {
                    break;
                }
            }
            self.link.is_driven.store(false, SeqCst);
            if self.link.is_woken.load(SeqCst) {
                self.link.server.wakes.push(self.link.number);
            }
        });
        self.rest(now_ns);
        self.note_progress(now_ns);
        if self.is_idle() && self.link.server.is_stopping() {
            self.protocol = Protocol::Closed;
        }
        self.progress()
    }

    /// Have hyper read the end that it was not told of while a response was under way.
    fn show_end(&self) {
        let link = &self.link;
        if link.has_hidden_end.load(Relaxed) && !link.is_responding() {
            link.has_hidden_end.store(false, Relaxed);
            link.is_woken.store(true, SeqCst);
        }
    }

    /// What driving it has come to, when that was last done.
    pub fn progress(&self) -> Progress {
        Progress {
            is_open: !matches!(self.protocol, Protocol::Closed),
            awaits_room: self.link.awaits_room.load(Relaxed),
        }
    }

    fn take_turn(&mut self, now_ns: u64) -> Protocol {
        match mem::replace(&mut self.protocol, Protocol::Closed) {
            Protocol::Resting(socket) => match self.begin(socket, now_ns) {
                Protocol::Http1(http) => self.poll_http1(http, now_ns),
                Protocol::Http2(http) => self.poll_http2(http, now_ns),
                other => other,
            },
            Protocol::Http1(http) => self.poll_http1(http, now_ns),
            Protocol::Http2(http) => self.poll_http2(http, now_ns),
            Protocol::WebSocket(driver) => self.turn_websocket(driver, now_ns),
            Protocol::Lingering(socket) => linger(socket, &self.link),
            Protocol::Closed => Protocol::Closed,
        }
    }

    /// Read the first bytes, and choose the protocol by them.
    fn begin(&mut self, mut socket: Socket, now_ns: u64) -> Protocol {
        loop {
            let first = match read_first(&mut socket) {
                Ok(None) => return Protocol::Resting(socket),
                Ok(Some(first)) if first.is_empty() => return Protocol::Closed,
                Err(_) => return self.refuse_handshake(socket, now_ns),
                Ok(Some(first)) => joined(socket.take_prefix(), first),
            };
            let (is_http2, may_be_http2) = self.recognize(&socket, &first);
            if is_http2 {
                socket.put_back(first);
                return Protocol::Http2(Box::new(Http2::new(socket, &self.link)));
            }
            let line = FirstLine::of(&first);
            let n_line_max = self.link.server.limits.request_head.min(FIRST_READ_MAX);
            let may_go_on = line == FirstLine::Incomplete && first.len() < n_line_max;
            if !may_be_http2 && !may_go_on {
                return self.begin_http1(socket, first, line, now_ns);
            }
            // No edge announces again what has come already, such as the client's end.
            socket.put_back(first);
        }
    }

    /// Have hyper parse a request, once its first line is known to have a version for that.
    fn begin_http1(
        &mut self,
        mut socket: Socket,
        first: Bytes,
        line: FirstLine,
        now_ns: u64,
    ) -> Protocol {
        const NOT_SUPPORTED: &[u8] =
            b"HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        match line {
            FirstLine::Incomplete | FirstLine::Usual => socket.put_back(first),
            FirstLine::Newer(minor) => socket.put_back(FirstLine::as_1_1(&first, minor)),
            FirstLine::Unsupported => {
                let _ = socket.send(NOT_SUPPORTED);
                let metrics = &self.link.server.metrics;
                metrics.responses[5].count();
                metrics.refused_malformed.count();
                self.link.leaves_body.store(true, Relaxed);
                return self.close(socket, now_ns);
            }
        }
        self.http1(socket)
    }

    /// Whether the client speaks HTTP/2, and whether it may, as far as the first bytes say. With TLS the handshake
    /// says it; without, the client has to know that we do.
    fn recognize(&self, socket: &Socket, first: &[u8]) -> (bool, bool) {
        match socket.agreed_on_http2() {
            Some(agreed) => (agreed, false),
            None if self.link.n_requests.load(Relaxed) > 0 => (false, false),
            None => (first.starts_with(PREFACE), PREFACE.starts_with(first)),
        }
    }

    /// Close a connection whose first bytes could not be read: its handshake has failed, or it is broken.
    fn refuse_handshake(&mut self, mut socket: Socket, now_ns: u64) -> Protocol {
        const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
            content-type: text/plain; charset=utf-8\r\ncontent-length: 46\r\n\r\n\
            This port speaks HTTPS. Use a https:// address";
        let metrics = &self.link.server.metrics;
        if !socket.is_established() {
            metrics.tls_handshakes_failed.count();
        }
        match socket.failure() {
            Some(TlsFailure::PlainHttp) => {
                socket.drop_session();
                let _ = socket.send(PLAIN_HTTP);
                metrics.responses[4].count();
                self.close(socket, now_ns)
            }
            // The alert that says why should not be lost.
            Some(TlsFailure::Tls) => self.close(socket, now_ns),
            Some(TlsFailure::Truncated) | None => Protocol::Closed,
        }
    }

    fn poll_http2(&mut self, mut http: Box<Http2>, now_ns: u64) -> Protocol {
        if self.link.server.is_draining() {
            http.go_away(now_ns);
        }
        let mut context = Context::from_waker(&self.waker);
        let ended = http.poll(&mut context);
        let metrics = &self.link.server.metrics;
        if resets_too_much(&self.link) {
            metrics.refused_resets.count();
            http.reset_on_close();
            return Protocol::Closed;
        }
        let Poll::Ready(ended) = ended else { return Protocol::Http2(http) };
        match &ended {
            Err(error) if is_flood(error) => metrics.refused_floods.count(),
            Err(_) if !self.link.is_read_closed.load(Relaxed) => metrics.refused_malformed.count(),
            _ => {}
        }
        match http.into_socket() {
            Some(socket) => self.close(socket, now_ns),
            None => Protocol::Closed,
        }
    }

    fn poll_http1(
        &mut self,
        mut http: Box<http1::Connection<Socket, RequestService>>,
        now_ns: u64,
    ) -> Protocol {
        let mut context = Context::from_waker(&self.waker);
        let Poll::Ready(ended) = http.poll_without_shutdown(&mut context) else {
            return Protocol::Http1(http);
        };
        let parts = http.into_parts();
        let socket = parts.io;
        let metrics = &self.link.server.metrics;
        let accepted = self.link.websocket().clone().filter(|it| ended.is_ok() && it.is_accepted());
        if let Some(websocket) = accepted {
            let driver = Driver::new(socket, parts.read_buf, websocket, now_ns);
            return self.turn_websocket(Box::new(driver), now_ns);
        }
        match &ended {
            Ok(()) => {}
            Err(error) if error.is_parse_too_large() => metrics.refused_head_too_large.count(),
            Err(error) if error.is_parse() => metrics.refused_malformed.count(),
            // The application has broken its response off, or the client has left in the middle.
            Err(_) => {
                socket.reset_on_close();
                return Protocol::Closed;
            }
        }
        self.close(socket, now_ns)
    }

    fn turn_websocket(&mut self, mut driver: Box<Driver>, now_ns: u64) -> Protocol {
        let turn = driver.turn(&mut Context::from_waker(&self.waker), now_ns);
        self.after(turn, driver, now_ns)
    }

    fn after(&mut self, turn: Turn, driver: Box<Driver>, now_ns: u64) -> Protocol {
        match turn {
            Turn::GoesOn => Protocol::WebSocket(driver),
            Turn::Closes => self.close(driver.into_socket(), now_ns),
            Turn::Breaks => {
                driver.into_socket().reset_on_close();
                Protocol::Closed
            }
        }
    }

    /// Whether it has had requests and nothing of another one has come, in HTTP/1.1.
    fn is_idle(&self) -> bool {
        let times = &self.times;
        matches!(self.protocol, Protocol::Resting(_))
            && times.idle_ns.is_some()
            && times.n_requests > 0
    }

    /// The server drains: close a websocket, and have other connections driven, which closes those that are idle if it
    /// stops. A request that has come is answered first.
    pub fn go_away(&self) {
        let link = &self.link;
        link.may_read.store(true, Relaxed);
        let websocket = link.websocket().clone();
        looking_afterwards(|| match websocket {
            Some(websocket) => websocket.go_away(),
            None => link.server.wakes.push(link.number),
        });
    }

    /// Close after the last response. Where the client may still be sending, what it sends is read first:
    /// closing with unread bytes resets the connection, and the response might be lost with it.
    fn close(&mut self, mut socket: Socket, now_ns: u64) -> Protocol {
        let link = &self.link;
        let may_come = link.may_read.load(Relaxed) || link.leaves_body.load(Relaxed);
        if link.is_read_closed.load(Relaxed) || !may_come {
            return Protocol::Closed;
        }
        socket.shut_down();
        self.times.lingers_ns = Some(now_ns);
        linger(socket, &self.link)
    }

    fn note_progress(&mut self, now_ns: u64) {
        let (link, times) = (&self.link, &mut self.times);
        let (n_read, n_written) = (link.n_read.load(Relaxed), link.n_written.load(Relaxed));
        let n_requests = link.n_requests.load(Relaxed);
        if n_written != times.n_written {
            (times.n_written, times.written_ns) = (n_written, now_ns);
            times.n_left = u32::MAX;
            if !link.is_http2.load(Relaxed) {
                // A response may be on its way long after its request has ended for us.
                times.idle_ns = times.idle_ns.map(|_| now_ns);
            }
        }
        let has_read = n_read != times.n_read;
        if link.is_http2.load(Relaxed) {
            let (n_moved, has_pieces) = (link.n_pieces_moved.load(Relaxed), link.has_pieces());
            if n_moved != times.n_pieces_moved || has_pieces != times.has_pieces {
                (times.n_pieces_moved, times.piece_moved_ns) = (n_moved, now_ns);
                times.has_pieces = has_pieces;
            }
            // Not each frame is a request; and a body may be under way after its request has ended for us.
            if has_read {
                (times.n_read, times.read_ns) = (n_read, now_ns);
            }
            let is_sending = has_pieces || !link.may_write.load(Relaxed);
            if link.n_in_flight.load(Relaxed) > 0 || is_sending {
                times.idle_ns = None;
            } else if times.idle_ns.is_none() || n_requests != times.n_requests {
                times.idle_ns = Some(now_ns);
            }
        } else if link.n_in_flight.load(Relaxed) > 0 {
            times.idle_ns = None;
            if has_read {
                (times.n_read, times.read_ns) = (n_read, now_ns);
            }
        } else if n_requests != times.n_requests || times.was_busy {
            times.idle_ns = Some(now_ns);
            times.n_read = n_read;
        } else if has_read && times.idle_ns.is_some() {
            // The first bytes of the next request, whose head is not complete.
            times.idle_ns = None;
            (times.n_read, times.read_ns) = (n_read, now_ns);
        }
        times.n_requests = n_requests;
        times.was_busy = link.n_in_flight.load(Relaxed) > 0;
    }

    /// Close the connection at once.
    pub fn close_now(&mut self) {
        self.protocol = Protocol::Closed;
    }

    /// Close the connection at once, and drop what the kernel has not sent.
    fn reset(&mut self) {
        match mem::replace(&mut self.protocol, Protocol::Closed) {
            Protocol::Http1(http) => http.into_parts().io.reset_on_close(),
            Protocol::Http2(http) => http.reset_on_close(),
            Protocol::Resting(socket) | Protocol::Lingering(socket) => drop(socket),
            Protocol::WebSocket(driver) => driver.into_socket().reset_on_close(),
            Protocol::Closed => {}
        }
    }

    /// Give hyper's state and its buffers up when a request has ended and nothing of the next has come: a connection
    /// between two requests costs its socket. Making them anew costs less than keeping them in the cache would.
    fn rest(&mut self, now_ns: u64) {
        let link = &self.link;
        let has_ended = link.n_requests.load(Relaxed) != self.times.n_requests_at_rest
            && link.n_in_flight.load(Relaxed) == 0
            && link.may_write.load(Relaxed)
            && !link.has_left_body.load(Relaxed)
            && !link.is_woken.load(Relaxed);
        if !has_ended || !matches!(self.protocol, Protocol::Http1(_)) {
            return;
        }
        self.times.n_requests_at_rest = link.n_requests.load(Relaxed);
        let is_misread = link.is_misread.load(Relaxed);
        let Protocol::Http1(http) = mem::replace(&mut self.protocol, Protocol::Closed) else {
            unreachable!("matched above")
        };
        let parts = http.into_parts();
        let mut socket = parts.io;
        self.protocol = if is_misread {
            self.close(socket, now_ns)
        } else if parts.read_buf.is_empty() {
            socket.rest();
            Protocol::Resting(socket)
        } else {
            // A part of the next request. hyper looks at no byte of it twice.
            socket.put_back(parts.read_buf);
            self.http1(socket)
        };
    }

    fn http1(&self, socket: Socket) -> Protocol {
        let requests = RequestService(Arc::clone(&self.link));
        let http = self.link.server.http1.serve_connection(socket, requests);
        Protocol::Http1(Box::new(http))
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        let websocket = self.link.websocket().take();
        if let Some(websocket) = websocket {
            websocket.lose();
        }
        self.link.server.metrics.connections_closed.count();
    }
}

/// Read what has come of a connection whose protocol is not known yet; as `Socket::receive`.
fn read_first(socket: &mut Socket) -> io::Result<Option<Bytes>> {
    thread_local! {
        static BUFFER: RefCell<Box<[MaybeUninit<u8>]>> =
            RefCell::new(Box::new_uninit_slice(FIRST_READ_MAX));
    }
    BUFFER.with_borrow_mut(|buffer| {
        let received = socket.receive(buffer)?;
        Ok(received.map(|n| {
            // SAFETY: the kernel has written the first `n` bytes.
            let filled = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), n) };
            Bytes::copy_from_slice(filled)
        }))
    })
}

/// Read and drop what still comes, until the client closes, too.
fn linger(socket: Socket, link: &HttpLink) -> Protocol {
    let mut buffer = [MaybeUninit::uninit(); 16384];
    for _ in 0..16 {
        match socket.discard(&mut buffer) {
            Ok(Some(n)) if n > 0 => {}
            Ok(None) => return Protocol::Lingering(socket),
            _ => return Protocol::Closed,
        }
    }
    // There may be more, which no other edge announces.
    link.is_woken.store(true, SeqCst);
    Protocol::Lingering(socket)
}

fn joined(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(&first);
    both.extend_from_slice(&second);
    both.freeze()
}
