//! One connection that is fed with bytes in cuts: it never panics, what it writes is HTTP, and it answers or closes.
//!
//! Shared by the fuzz targets and by a test of stable Rust.

// Each target uses a part.
#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Response, StatusCode};
use threadlets_core::Readiness;
use threadlets_core::socket::Address;
use threadlets_http::exchange::ReceivedBody;
use threadlets_http::wakes::Wakes;
use threadlets_http::{Exchange, HttpConnection, Limits, Server, Target};

/// How often a connection is driven without anything new before it is taken for quiet.
const QUIET_TURNS: usize = 3;
/// What a client of HTTP/2 says first: the preface, and settings that change nothing.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The longest frame that a server may write unless its client allows more.
const FRAME_MAX: usize = 16 * 1024;
/// Longer than every deadline, in nanoseconds.
const LONG_NS: u64 = 1_000_000_000_000;

/// A server for inputs, with limits that short inputs reach.
pub(crate) fn server() -> Arc<Server> {
    let limits = Limits {
        request_line: 64,
        request_headers: 10,
        request_head: 1024,
        request_body: Some(256),
        send_high_water: 1024,
        ..Limits::default()
    };
    Arc::new(Server::new(limits, Target::Application, Wakes::new(|| {})))
}

/// What an application has of a request that it has not answered.
struct Running {
    exchange: Arc<Exchange>,
    body: Vec<u8>,
}

/// Feed a connection of the server: the first two bytes say how the rest is cut.
pub(crate) fn feed(server: &Arc<Server>, input: &[u8]) {
    let (cuts, bytes) = input.split_at(input.len().min(2));
    let written = fed(server, cuts, bytes);
    let is_http = written.is_empty() || written.starts_with(b"HTTP/1.") || is_http2(bytes);
    assert!(is_http, "what was written is no HTTP: {}", text(&written));
}

/// The same with HTTP/2: the bytes are frames after the first settings.
pub(crate) fn feed_http2(server: &Arc<Server>, input: &[u8]) {
    let (cuts, frames) = input.split_at(input.len().min(2));
    let written = fed(server, cuts, &[OPENING, frames].concat());
    let mut rest = &written[..];
    // The last one may have been cut by a reset.
    while let [high, middle, low, kind, _, stream @ .., _, _, _] = &rest[..rest.len().min(9)] {
        let n_payload = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        assert!(n_payload <= FRAME_MAX && *kind <= 9, "no frame: {}", rest.escape_ascii());
        assert!(stream[0] < 0x80, "a reserved bit is set: {}", rest.escape_ascii());
        rest = &rest[rest.len().min(9 + n_payload)..];
    }
}

/// Feed the bytes, let all deadlines pass, and return what was written.
fn fed(server: &Arc<Server>, cuts: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut step = Steps::new(cuts);
    let (ours, mut client) = UnixStream::pair().expect("a pair of sockets");
    ours.set_nonblocking(true).expect("a socket that does not block");
    client.set_nonblocking(true).expect("a socket that does not block");
    let mut now_ns = 1;
    let mut connection =
        HttpConnection::new(server, 0, OwnedFd::from(ours), Address::Unnamed, now_ns);
    let mut running = Vec::new();
    let mut written = Vec::new();

    let mut rest = bytes;
    let mut is_open = true;
    while is_open && !rest.is_empty() {
        let (piece, after) = rest.split_at(step.next_len().min(rest.len()));
        rest = after;
        // The server may have closed, or its buffer be full: both are its right.
        let _ = client.write(piece);
        now_ns += 1_000_000;
        is_open = settle(&mut connection, &mut running, &mut client, &mut written, now_ns);
    }
    client.shutdown(std::net::Shutdown::Write).ok();
    settle(&mut connection, &mut running, &mut client, &mut written, now_ns);
    // Whatever it still waits for does not come: every deadline passes.
    for _ in 0..4 {
        now_ns += LONG_NS;
        connection.check(now_ns);
        for it in &running {
            it.exchange.refuse(StatusCode::REQUEST_TIMEOUT);
        }
        is_open = settle(&mut connection, &mut running, &mut client, &mut written, now_ns);
    }
    assert!(
        !is_open,
        "the connection neither ends nor is ended; it has written {}",
        text(&written)
    );
    assert_eq!(0, connection.n_in_flight(), "a request has not ended");
    drop((connection, running));
    assert_eq!(0, server.n_in_flight(), "the server counts a request that has ended");
    written
}

fn is_http2(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PRI")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned()
}

/// Drive a connection and its applications until nothing moves; returns whether it is open.
fn settle(
    connection: &mut HttpConnection,
    running: &mut Vec<Running>,
    client: &mut UnixStream,
    written: &mut Vec<u8>,
    now_ns: u64,
) -> bool {
    let mut n_quiet = 0;
    let mut is_open = true;
    while n_quiet < QUIET_TURNS && is_open {
        let n_before = written.len();
        connection.note(Readiness {
            readable: true,
            writable: true,
            short_read_misleads: true,
            urgent: false,
        });
        is_open = connection.drive(now_ns).is_open;
        for exchange in connection.take_begun() {
            assert!(exchange.take_head().is_some(), "a request without a head");
            running.push(Running { exchange, body: Vec::new() });
        }
        running.retain_mut(goes_on);
        read(client, written);
        n_quiet = if written.len() == n_before { n_quiet + 1 } else { 0 };
    }
    is_open
}

/// Have an application go on: it sends back the body when it has all of it. Returns whether it waits.
fn goes_on(running: &mut Running) -> bool {
    let exchange = &running.exchange;
    loop {
        match exchange.receive() {
            ReceivedBody::Data { data, more } => {
                running.body.extend_from_slice(&data);
                if more {
                    continue;
                }
            }
            ReceivedBody::Nothing => return !exchange.is_over(),
            ReceivedBody::End => {}
            ReceivedBody::Broken => {
                exchange.refuse(StatusCode::BAD_REQUEST);
                return false;
            }
            ReceivedBody::TooLarge => {
                exchange.refuse(StatusCode::PAYLOAD_TOO_LARGE);
                return false;
            }
        }
        break;
    }
    let (mut head, ()) = Response::new(()).into_parts();
    let body = std::mem::take(&mut running.body);
    // Of known length, in chunks, or wrong.
    match body.len() % 4 {
        0 => drop(head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()))),
        1 => drop(head.headers.insert(CONTENT_LENGTH, HeaderValue::from(7))),
        2 => head.status = StatusCode::NO_CONTENT,
        _ => {}
    }
    if exchange.start(head) && exchange.send(Bytes::from(body), false).is_err() {
        exchange.abandon();
    }
    false
}

fn read(client: &mut UnixStream, written: &mut Vec<u8>) {
    let mut buffer = [0; 4096];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => written.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// The lengths of the pieces: all at once, byte by byte, or of two lengths in turn.
struct Steps {
    lengths: [usize; 2],
    turn: usize,
}

impl Steps {
    fn new(cuts: &[u8]) -> Self {
        let length = |i: usize| match cuts.get(i).copied().unwrap_or(0) {
            0..64 => usize::MAX,
            it => usize::from(it - 63),
        };
        Self { lengths: [length(0), length(1)], turn: 0 }
    }

    fn next_len(&mut self) -> usize {
        self.turn += 1;
        self.lengths[self.turn % 2]
    }
}
