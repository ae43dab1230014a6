//! Websockets: RFC 6455, with compression by RFC 7692.
//!
//! [`WebSocket`] is what an application and a connection share; `driver` is the connection's side of it. `handshake`
//! opens, `reader` makes messages of bytes, `outgoing` bytes of messages, `deflate` compresses.
//!
//! tungstenite parses and writes the heads of frames, knows the opcodes and the close codes, and answers keys; flate2
//! on zlib-rs compresses. No crate is used as a whole:
//!
//! - tungstenite does not compress, and holds a read buffer for each connection.
//! - soketto has no context takeover and no limit for what a compressed message becomes.
//! - yawc needs tokio with its runtime and hyper's client, and a buffer and a compressor for each connection.
//! - fastwebsockets and tokio-websockets need tokio, and do not compress.
//!
//! Here an idle websocket has no buffer and no compressor. A text is refused at its first wrong byte, and reading stops
//! while an application is behind with receiving.

mod deflate;
mod driver;
mod handshake;
mod outgoing;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_VERSION};
use http::{Response, StatusCode, request, response};
use http_body::Body as _;
use hyper::body::Incoming;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

pub(crate) use driver::{Driver, Turn};
pub(crate) use handshake::is_handshake;

use self::deflate::{Deflater, Inflater};
use self::handshake::Handshake;
use self::outgoing::Outgoing;
use crate::exchange::Exchange;
use crate::link::HttpLink;

/// Messages below this size are not compressed: it costs more than it saves.
const COMPRESSED_MIN: usize = 1024;

/// How many bytes an application may be behind with receiving before reading stops.
const INBOX_MAX: usize = 64 * 1024;

/// What a received message counts besides its bytes.
const MESSAGE_COST: usize = 64;

/// What websockets do and allow.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of a message; longer ones close with code 1009.
    pub max_size: usize,
    /// A client of which nothing was read for so long is pinged.
    pub ping_interval: Option<Duration>,
    /// A client of which nothing was read for so long after a ping has left.
    pub ping_timeout: Option<Duration>,
    /// Agree to compress messages with clients that offer it.
    pub per_message_deflate: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_size: 16 * 1024 * 1024,
            ping_interval: Some(Duration::from_secs(20)),
            ping_timeout: Some(Duration::from_secs(20)),
            per_message_deflate: true,
        }
    }
}

/// A message from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum WebSocketMessage {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
}

/// A message to a client.
#[derive(Debug)]
pub enum Outbound<'a> {
    /// Text.
    Text(&'a str),
    /// Bytes.
    Binary(Bytes),
}

/// How a websocket was closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    /// The code that the client has sent; 1005 if it has sent none, 1006 if it has left without closing; or the code
    /// with which the server has closed.
    pub code: u16,
    /// The reason that was sent with it.
    pub reason: String,
}

/// A message was sent on a websocket that is closed, or is being closed.
#[derive(Debug)]
pub struct Closed;

/// A websocket, between an application and its connection.
#[derive(Debug)]
pub struct WebSocket {
    link: Arc<HttpLink>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// What the application needs for its answer.
    handshake: Option<Box<Handshake>>,
    inbox: VecDeque<WebSocketMessage>,
    n_inbox: usize,
    /// Nothing is read until the application has received more.
    is_paused: bool,
    outgoing: Outgoing,
    deflater: Option<Box<Deflater>>,
    inflater: Option<Inflater>,
    /// The code with which the server closes of its own accord, of which the application is told.
    server_code: Option<u16>,
    /// The application has closed: it takes no more messages.
    is_closed_by_application: bool,
    closure: Option<Box<Closure>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The application has not accepted it.
    Opening,
    Open,
    /// We have sent a close frame, and wait for the client's.
    Closing,
    /// Nothing is read any more; what is unsent, close frames included, is sent.
    Ending,
    Over,
}

/// Check a request for a websocket; the error is the response that refuses it.
pub(crate) fn open(
    link: &Arc<HttpLink>,
    request: &request::Parts,
    body: &Incoming,
) -> Result<Arc<WebSocket>, Box<(response::Parts, Bytes)>> {
    let server = &link.server;
    let deflates = server.websockets.as_ref().is_some_and(|it| it.per_message_deflate);
    let checked = if server.is_draining() {
        Err(StatusCode::SERVICE_UNAVAILABLE)
    } else {
        handshake::check(request, !body.is_end_stream(), deflates)
    };
    match checked {
        Ok(handshake) => Ok(WebSocket::new(link, handshake)),
        Err(status) => {
            if status.is_client_error() {
                server.metrics.refused_malformed.count();
            }
            let refusal = crate::refusal::response(status);
            let (mut head, text) =
                refusal.unwrap_or_else(|| (Response::new(()).into_parts().0, Bytes::new()));
            if status == StatusCode::UPGRADE_REQUIRED {
                head.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            Err(Box::new((head, text)))
        }
    }
}

impl WebSocket {
    fn new(link: &Arc<HttpLink>, handshake: Handshake) -> Arc<Self> {
        let state = State {
            phase: Phase::Opening,
            handshake: Some(Box::new(handshake)),
            inbox: VecDeque::new(),
            n_inbox: 0,
            is_paused: false,
            outgoing: Outgoing::default(),
            deflater: None,
            inflater: None,
            server_code: None,
            is_closed_by_application: false,
            closure: None,
        };
        Arc::new(Self { link: Arc::clone(link), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        std::task::Wake::wake_by_ref(&self.link);
    }

    /// The subprotocols that the client offers.
    pub fn subprotocols(&self) -> Vec<String> {
        let state = self.state();
        state.handshake.as_ref().map_or_else(Vec::new, |it| it.subprotocols.clone())
    }

    /// Accept it, on the exchange of its handshake; `false`: that was answered before.
    pub fn accept(
        &self,
        exchange: &Exchange,
        subprotocol: Option<HeaderValue>,
        headers: HeaderMap,
    ) -> bool {
        let Some(handshake) = self.state().handshake.take() else { return false };
        if !exchange.start(handshake.response(subprotocol, headers)) {
            return false;
        }
        let mut state = self.state();
        if state.phase == Phase::Opening {
            state.phase = Phase::Open;
            state.deflater = handshake.deflate.map(|it| Box::new(it.deflater()));
            state.inflater = handshake.deflate.map(|it| it.inflater());
        }
        drop(state);
        exchange.send(Bytes::new(), false).is_ok()
    }

    /// Whether the application has accepted it.
    pub(crate) fn is_accepted(&self) -> bool {
        self.state().phase != Phase::Opening
    }

    /// Receive a message that has come.
    pub fn receive(&self) -> Option<WebSocketMessage> {
        let mut state = self.state();
        let message = state.inbox.pop_front()?;
        state.n_inbox -= cost(&message);
        if state.inbox.is_empty() {
            state.inbox = VecDeque::new();
        }
        let goes_on = state.is_paused && state.n_inbox <= INBOX_MAX / 2;
        if goes_on {
            state.is_paused = false;
        }
        drop(state);
        if goes_on {
            self.wake();
        }
        Some(message)
    }

    /// How it was closed, once all messages before that were received.
    pub fn closure(&self) -> Option<Closure> {
        let state = self.state();
        if !state.inbox.is_empty() {
            return None;
        }
        state.closure.as_deref().cloned()
    }

    /// Whether it was closed by the client, by the server, or by the client's leaving.
    pub fn is_left(&self) -> bool {
        let state = self.state();
        state.closure.is_some() && !state.is_closed_by_application
    }

    /// Whether nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        !matches!(self.state().phase, Phase::Opening | Phase::Open)
    }

    /// How many bytes are not sent.
    pub fn n_unsent(&self) -> usize {
        self.state().outgoing.n_bytes()
    }

    /// Send a message. It leaves when the connection is driven.
    pub fn send(&self, message: Outbound<'_>) -> Result<(), Closed> {
        let mut state = self.state();
        if state.phase != Phase::Open {
            return Err(Closed);
        }
        let (kind, payload) = match &message {
            Outbound::Text(text) => (Data::Text, text.as_bytes()),
            Outbound::Binary(bytes) => (Data::Binary, &bytes[..]),
        };
        let opcode = OpCode::Data(kind);
        let deflater = state.deflater.as_mut().filter(|_| payload.len() >= COMPRESSED_MIN);
        let deflated = deflater.and_then(|it| it.deflate(payload));
        match (deflated, message) {
            (Some(deflated), _) => state.outgoing.push_shared(opcode, true, deflated.into()),
            (None, Outbound::Binary(bytes)) => state.outgoing.push_shared(opcode, false, bytes),
            (None, Outbound::Text(text)) => state.outgoing.push(opcode, false, text.as_bytes()),
        }
        drop(state);
        self.wake();
        Ok(())
    }

    /// Close it: what was sent is sent, and then a close frame. Nothing more is received.
    ///
    /// `reason` has at most 123 bytes.
    pub fn close(&self, code: u16, reason: &str) {
        let mut state = self.state();
        if state.phase != Phase::Open {
            return;
        }
        state.is_closed_by_application = true;
        state.inbox = VecDeque::new();
        (state.n_inbox, state.is_paused) = (0, false);
        state.push_close(code, reason);
        state.phase = Phase::Closing;
        drop(state);
        self.wake();
    }

    /// The server is going away: close it by the code that says so.
    pub(crate) fn go_away(&self) {
        let mut state = self.state();
        let code = self.link.server.away_code();
        state.server_code = Some(code);
        if state.phase == Phase::Open {
            state.push_close(code, "");
            state.phase = Phase::Closing;
        }
        drop(state);
        self.wake();
    }

    /// Its connection is over.
    pub(crate) fn lose(&self) {
        let mut state = self.state();
        state.phase = Phase::Over;
        state.outgoing.clear();
        let code = state.server_code.unwrap_or(CloseCode::Abnormal.into());
        state.note_closure(code, "");
    }
}

impl State {
    fn push_close(&mut self, code: u16, reason: &str) {
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        self.outgoing.push(OpCode::Control(Control::Close), false, &payload);
    }

    fn note_closure(&mut self, code: u16, reason: &str) {
        if self.closure.is_none() {
            self.closure = Some(Box::new(Closure { code, reason: reason.to_owned() }));
        }
    }

    fn is_reading(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Closing) && !self.is_paused
    }

    /// A message has come.
    fn deliver(&mut self, message: WebSocketMessage) {
        if self.is_closed_by_application {
            return;
        }
        self.n_inbox += cost(&message);
        self.inbox.push_back(message);
        self.is_paused = self.n_inbox > INBOX_MAX;
    }

    /// The client has closed: answer it, unless this was the answer.
    fn client_closes(&mut self, closure: Option<Closure>) {
        if self.phase == Phase::Open {
            match &closure {
                Some(closure) => self.push_close(closure.code, ""),
                None => self.outgoing.push(OpCode::Control(Control::Close), false, &[]),
            }
        }
        match (self.server_code, closure) {
            (Some(code), _) => self.note_closure(code, ""),
            (None, Some(closure)) => self.note_closure(closure.code, &closure.reason),
            (None, None) => self.note_closure(CloseCode::Status.into(), ""),
        }
        self.phase = Phase::Ending;
    }

    /// Close without waiting for the client; the application is told `told`.
    fn fail(&mut self, code: CloseCode, reason: &str, told: u16) {
        if self.phase == Phase::Open {
            self.push_close(code.into(), reason);
        }
        self.note_closure(told, reason);
        self.phase = Phase::Ending;
    }
}

fn cost(message: &WebSocketMessage) -> usize {
    MESSAGE_COST
        + match message {
            WebSocketMessage::Text(text) => text.len(),
            WebSocketMessage::Binary(bytes) => bytes.len(),
        }
}

/// Whether an application may close with a code.
pub fn may_be_sent(code: u16) -> bool {
    CloseCode::from(code).is_allowed()
}
