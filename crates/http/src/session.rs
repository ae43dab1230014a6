//! A TLS session on a socket: handshake, records, and the end of each half.

use std::cell::RefCell;
use std::io::{self, BufRead, ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::{Buf, Bytes};
use rustls::{ProtocolVersion, ServerConnection};

use crate::link::HttpLink;
use crate::socket::Wire;
use crate::tls::{HTTP2, Tls, TlsInfo};

/// How much is received at a time, at most; what a reader has no room for is kept.
const RECEIVED_MAX: usize = 64 * 1024;

/// How much more is received than a reader has room for: records have heads.
const RECORD_OVERHEAD: usize = 512;

/// A session. It has no descriptor: that is lent for each operation.
#[derive(Debug)]
pub(crate) struct Session {
    tls: ServerConnection,
    /// Received, and not given to rustls.
    unread: Bytes,
    /// Decrypted bytes that nobody has taken.
    n_plain: usize,
    is_established: bool,
    /// The peer has said that it sends no more.
    is_peer_done: bool,
    has_received: bool,
    has_said_end: bool,
    failure: Option<TlsFailure>,
}

/// Why a session cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TlsFailure {
    /// The client speaks HTTP without TLS.
    PlainHttp,
    /// The peers do not agree, or one has broken the protocol; the peer was told by an alert.
    Tls,
    /// The peer has left without a word, in the middle.
    Truncated,
}

impl From<TlsFailure> for io::Error {
    fn from(failure: TlsFailure) -> Self {
        match failure {
            TlsFailure::PlainHttp => io::Error::new(ErrorKind::InvalidData, "HTTP without TLS"),
            TlsFailure::Tls => io::Error::new(ErrorKind::InvalidData, "TLS has failed"),
            TlsFailure::Truncated => ErrorKind::UnexpectedEof.into(),
        }
    }
}

impl Session {
    pub(crate) fn new(tls: &Tls) -> Result<Self, rustls::Error> {
        Ok(Self {
            tls: ServerConnection::new(Arc::clone(&tls.config))?,
            unread: Bytes::new(),
            n_plain: 0,
            is_established: false,
            is_peer_done: false,
            has_received: false,
            has_said_end: false,
            failure: None,
        })
    }

    pub(crate) fn is_established(&self) -> bool {
        self.is_established
    }

    pub(crate) fn agreed_on_http2(&self) -> bool {
        self.tls.alpn_protocol() == Some(HTTP2)
    }

    pub(crate) fn failure(&self) -> Option<TlsFailure> {
        self.failure
    }

    /// Receive decrypted bytes, going on with the handshake where that is not complete; `None` if there are none
    /// now, 0 at the end.
    pub(crate) fn receive(
        &mut self,
        wire: &Wire,
        buffer: &mut [MaybeUninit<u8>],
    ) -> io::Result<Option<usize>> {
        thread_local! {
            static RECEIVED: RefCell<Box<[MaybeUninit<u8>]>> =
                RefCell::new(Box::new_uninit_slice(RECEIVED_MAX));
        }
        if buffer.is_empty() {
            return Ok(Some(0));
        }
        let mut n = self.take_plain(buffer);
        if !self.unread.is_empty() && n < buffer.len() {
            let mut unread = std::mem::take(&mut self.unread);
            let n_left = self.decrypt(wire, &unread, buffer, &mut n);
            unread.advance(unread.len() - n_left);
            self.unread = unread;
        }
        while n == 0 {
            if let Some(failure) = self.failure {
                return Err(failure.into());
            }
            if self.is_peer_done {
                return Ok(self.end(&wire.link));
            }
            let received = RECEIVED.with_borrow_mut(|received| {
                let n_max = (buffer.len() + RECORD_OVERHEAD).min(RECEIVED_MAX);
                let received = &mut received[..n_max];
                let Some(n_received) = wire.receive(received)? else { return Ok(None) };
                // SAFETY: the kernel has written the first bytes.
                let received = unsafe {
                    std::slice::from_raw_parts(received.as_ptr().cast::<u8>(), n_received)
                };
                let n_left = self.decrypt(wire, received, buffer, &mut n);
                self.unread = Bytes::copy_from_slice(&received[n_received - n_left..]);
                Ok::<_, io::Error>(Some(n_received))
            })?;
            match received {
                None => {
                    self.flush(wire)?;
                    return Ok(None);
                }
                Some(0) => return self.break_off(&wire.link),
                Some(_) => {}
            }
        }
        Ok(Some(n))
    }

    /// Decrypt what was received until `buffer` is full; returns how much of it is left over.
    fn decrypt(
        &mut self,
        wire: &Wire,
        mut received: &[u8],
        buffer: &mut [MaybeUninit<u8>],
        n: &mut usize,
    ) -> usize {
        if !std::mem::replace(&mut self.has_received, true)
            && received.first().is_some_and(u8::is_ascii_uppercase)
        {
            self.failure = Some(TlsFailure::PlainHttp);
        }
        while !received.is_empty() && self.n_plain == 0 && self.failure.is_none() {
            if self.is_peer_done || self.tls.read_tls(&mut received).is_err() {
                received = &[];
            }
            match self.tls.process_new_packets() {
                Ok(state) => {
                    self.n_plain = state.plaintext_bytes_to_read();
                    self.is_peer_done |= state.peer_has_closed();
                }
                Err(_) => self.failure = Some(TlsFailure::Tls),
            }
            *n += self.take_plain(&mut buffer[*n..]);
        }
        if !self.is_established && !self.tls.is_handshaking() && self.failure.is_none() {
            self.is_established = true;
            self.note_handshake(&wire.link);
        }
        // What the handshake answers, or an alert; an error of this is met again by who sends.
        let _ = self.flush(wire);
        received.len()
    }

    fn note_handshake(&self, link: &HttpLink) {
        link.server.metrics.tls_handshakes.count();
        let _ = link.tls.set(Box::new(TlsInfo::new(
            self.tls.protocol_version().map_or(0, |it: ProtocolVersion| it.into()),
            self.tls.negotiated_cipher_suite().map_or(0, |it| it.suite().into()),
            self.tls.peer_certificates().unwrap_or_default().to_vec(),
        )));
    }

    fn take_plain(&mut self, buffer: &mut [MaybeUninit<u8>]) -> usize {
        let mut n = 0;
        while self.n_plain > 0 && n < buffer.len() {
            let mut reader = self.tls.reader();
            let Ok(chunk) = reader.fill_buf() else { break };
            let n_chunk = chunk.len().min(buffer.len() - n);
            for (to, from) in buffer[n..].iter_mut().zip(&chunk[..n_chunk]) {
                to.write(*from);
            }
            reader.consume(n_chunk);
            n += n_chunk;
            self.n_plain -= n_chunk;
        }
        n
    }

    /// The peer has ended its half in order.
    fn end(&self, link: &HttpLink) -> Option<usize> {
        link.is_read_closed.store(true, Relaxed);
        (!link.hide_end()).then_some(0)
    }

    /// The peer has ended its half without a word. Between two requests that costs nothing; within a body, or
    /// within the handshake, it is an error.
    fn break_off(&mut self, link: &HttpLink) -> io::Result<Option<usize>> {
        if !self.is_established || link.n_bodies.load(Relaxed) > 0 {
            self.failure = Some(TlsFailure::Truncated);
            return Err(TlsFailure::Truncated.into());
        }
        Ok(self.end(link))
    }

    /// Encrypt, and send as much as there is room for; `None` if what was encrypted before has no room yet.
    pub(crate) fn send(
        &mut self,
        wire: &Wire,
        slices: &[IoSlice<'_>],
    ) -> io::Result<Option<usize>> {
        use io::Write as _;
        if !self.flush(wire)? {
            return Ok(None);
        }
        let n = self.tls.writer().write_vectored(slices)?;
        self.flush(wire)?;
        Ok(Some(n))
    }

    /// Send what is encrypted; whether all of it is sent.
    pub(crate) fn flush(&mut self, wire: &Wire) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Sink(wire)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Tell the peer that nothing follows, as far as there is room.
    pub(crate) fn say_end(&mut self, wire: &Wire) {
        if self.is_established && self.failure.is_none() && !self.has_said_end {
            self.has_said_end = true;
            self.tls.send_close_notify();
            let _ = self.flush(wire);
        }
    }

    /// Give up the buffers that are not in use.
    pub(crate) fn rest(&mut self) {
        // rustls looks at the size of its buffer before it reads.
        if self.n_plain == 0 && !self.is_peer_done {
            let _ = self.tls.read_tls(&mut Nothing);
        }
    }
}

/// Where rustls writes records to.
struct Sink<'a>(&'a Wire);

fn written(sent: io::Result<Option<usize>>) -> io::Result<usize> {
    sent?.ok_or_else(|| ErrorKind::WouldBlock.into())
}

impl io::Write for Sink<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        written(self.0.send(data))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [one] => written(self.0.send(one)),
            several => written(self.0.send_vectored(several)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A reader that has nothing now.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}
