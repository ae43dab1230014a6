//! The connection's side of a websocket: reads, writes and deadlines.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::{Read, ReadBuf};
use tungstenite::protocol::frame::coding::{CloseCode, Control, OpCode};

use super::reader::{Event, Reader};
use super::{Options, Phase, WebSocket};
use crate::socket::Socket;

/// What is read at a time.
const READ_BYTES: usize = 64 * 1024;

/// How often a websocket is read from in a row, at most, before others have their turn.
const READS_MAX: usize = 4;

/// How long a client may take for its part of closing, without taking anything of what is sent; less if responses
/// have less time.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A websocket on its connection.
#[derive(Debug)]
pub(crate) struct Driver {
    socket: Socket,
    websocket: Arc<WebSocket>,
    reader: Reader,
    read_ns: u64,
    written_ns: u64,
    n_written: u64,
    /// When the client was pinged, if nothing was read since.
    pinged_ns: Option<u64>,
    /// Since when it is being closed.
    closing_ns: Option<u64>,
}

/// What a turn has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    GoesOn,
    /// Everything is said: close the connection.
    Closes,
    /// The client takes nothing: reset the connection.
    Breaks,
}

impl Driver {
    /// A websocket that was accepted, on the socket from which hyper has read `first` already.
    pub(crate) fn new(
        mut socket: Socket,
        first: Bytes,
        websocket: Arc<WebSocket>,
        now_ns: u64,
    ) -> Self {
        let server = &websocket.link.server;
        server.metrics.websockets.count();
        socket.stop_following();
        if !first.is_empty() {
            put_back(&mut socket, &first);
        }
        if server.is_draining() {
            websocket.go_away();
        }
        let max_size = server.websockets.as_ref().map_or(0, |it| it.max_size);
        let inflater = websocket.state().inflater.take();
        Self {
            socket,
            reader: Reader::new(max_size, inflater),
            websocket,
            read_ns: now_ns,
            written_ns: now_ns,
            n_written: 0,
            pinged_ns: None,
            closing_ns: None,
        }
    }

    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }

    /// Read and write what can be read and written now.
    pub(crate) fn turn(&mut self, cx: &mut Context<'_>, now_ns: u64) -> Turn {
        if self.poll_read(cx, now_ns).is_err() {
            self.websocket.lose();
        }
        self.write(cx, now_ns)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, now_ns: u64) -> std::io::Result<()> {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
        }
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..READS_MAX {
                if !self.websocket.state().is_reading() {
                    return Ok(());
                }
                let mut into = ReadBuf::new(buffer);
                let Poll::Ready(read) = Pin::new(&mut self.socket).poll_read(cx, into.unfilled())
                else {
                    return Ok(());
                };
                read?;
                let n = into.filled().len();
                if n == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                (self.read_ns, self.pinged_ns) = (now_ns, None);
                self.take(&mut buffer[..n]);
            }
            // There may be more.
            cx.waker().wake_by_ref();
            Ok(())
        })
    }

    /// Make of bytes what they say.
    fn take(&mut self, mut data: &mut [u8]) {
        let high_water = self.websocket.link.server.limits.send_high_water;
        let mut state = self.websocket.state();
        while state.is_reading() {
            match self.reader.read(&mut data) {
                Ok(None) => return,
                Ok(Some(Event::Message(message))) => state.deliver(message),
                Ok(Some(Event::Ping(payload))) => state.outgoing.push_pong(payload, high_water),
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close(closure))) => state.client_closes(closure),
                Err(failure) => {
                    let told = failure.code.into();
                    state.fail(failure.code, failure.reason, told);
                }
            }
        }
        if state.is_paused && !data.is_empty() {
            put_back(&mut self.socket, data);
        }
    }

    fn write(&mut self, cx: &mut Context<'_>, now_ns: u64) -> Turn {
        let mut state = self.websocket.state();
        let written = state.outgoing.poll_write(&mut self.socket, cx);
        let n_written = self.websocket.link.n_written.load(Relaxed);
        if n_written != self.n_written {
            (self.n_written, self.written_ns) = (n_written, now_ns);
        }
        let phase = state.phase;
        drop(state);
        match (phase, written) {
            (Phase::Over, _) | (Phase::Ending, Poll::Ready(_)) | (_, Poll::Ready(Err(_))) => {
                self.websocket.lose();
                Turn::Closes
            }
            (Phase::Open | Phase::Opening, _) => Turn::GoesOn,
            (Phase::Closing | Phase::Ending, _) => {
                self.closing_ns.get_or_insert(now_ns);
                Turn::GoesOn
            }
        }
    }

    /// Look at the deadlines; `None`: there is nothing to do.
    pub(crate) fn check(&mut self, cx: &mut Context<'_>, now_ns: u64) -> Option<Turn> {
        let link = &self.websocket.link;
        let metrics = &link.server.metrics;
        let is_past = |since_ns: u64, limit: Duration| {
            now_ns.saturating_sub(since_ns) > limit.as_nanos() as u64
        };
        if let Some(closing_ns) = self.closing_ns {
            let patience = CLOSE_TIMEOUT.min(link.server.limits.response);
            return is_past(closing_ns.max(self.written_ns), patience).then_some(Turn::Breaks);
        }
        let (is_reading, n_unsent) = {
            let state = self.websocket.state();
            (state.is_reading(), state.outgoing.n_bytes())
        };
        let is_stuck = n_unsent > 0 && !link.may_write.load(Relaxed);
        if is_stuck && is_past(self.written_ns, link.server.limits.response) {
            metrics.timeouts_response.count();
            return Some(Turn::Breaks);
        }
        if !is_reading {
            // Nobody looks whether the client answers.
            (self.read_ns, self.pinged_ns) = (now_ns, None);
            return None;
        }
        let Options { ping_interval, ping_timeout, .. } = link.server.websockets.as_ref()?;
        match self.pinged_ns {
            Some(pinged_ns) if ping_timeout.is_some_and(|it| is_past(pinged_ns, it)) => {
                metrics.timeouts_ping.count();
                let told = CloseCode::Abnormal.into();
                self.websocket.state().fail(CloseCode::Error, "no answer to a ping", told);
                let _ = self.write(cx, now_ns);
                Some(Turn::Closes)
            }
            None if ping_interval.is_some_and(|it| is_past(self.read_ns, it)) => {
                self.pinged_ns = Some(now_ns);
                let ping = OpCode::Control(Control::Ping);
                self.websocket.state().outgoing.push(ping, false, &[]);
                Some(self.write(cx, now_ns))
            }
            _ => None,
        }
    }
}

/// Have bytes read again, before others that were put back.
fn put_back(socket: &mut Socket, data: &[u8]) {
    let rest = socket.take_prefix();
    socket.put_back([data, &rest].concat().into());
}
