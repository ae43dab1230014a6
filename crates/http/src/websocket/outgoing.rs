//! What is to be sent on a websocket: frames, in order, as bytes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::Write;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, OpCode};

/// Payloads up to this size are copied behind their heads, which costs less than sending them apart.
const COPIED_MAX: usize = 4096;

/// How many pieces are given to the kernel at a time.
const PIECES_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// The last piece, to which small frames are added.
    tail: Vec<u8>,
    n_bytes: usize,
    /// The answer to the last ping, while too much is unsent: a client that only pings costs no more than this.
    pong: Option<Vec<u8>>,
}

impl Outgoing {
    /// How many bytes are unsent.
    pub(super) fn n_bytes(&self) -> usize {
        self.n_bytes
    }

    /// Add a frame.
    pub(super) fn push(&mut self, opcode: OpCode, is_compressed: bool, payload: &[u8]) {
        if payload.len() > COPIED_MAX {
            return self.push_shared(opcode, is_compressed, Bytes::copy_from_slice(payload));
        }
        self.push_head(opcode, is_compressed, payload.len());
        self.tail.extend_from_slice(payload);
        self.n_bytes += payload.len();
    }

    /// Add a frame whose payload is not copied, unless it is small.
    pub(super) fn push_shared(&mut self, opcode: OpCode, is_compressed: bool, payload: Bytes) {
        if payload.len() <= COPIED_MAX {
            return self.push(opcode, is_compressed, &payload);
        }
        self.push_head(opcode, is_compressed, payload.len());
        self.seal();
        self.n_bytes += payload.len();
        self.pieces.push_back(payload);
    }

    fn push_head(&mut self, opcode: OpCode, is_compressed: bool, n_payload: usize) {
        let head = FrameHeader { rsv1: is_compressed, opcode, ..FrameHeader::default() };
        let n_before = self.tail.len();
        let formatted = head.format(n_payload as u64, &mut self.tail);
        debug_assert!(formatted.is_ok(), "a vector takes everything");
        self.n_bytes += self.tail.len() - n_before;
    }

    /// Answer a ping. While more than `n_max` bytes are unsent, only the last one is answered: RFC 6455, 5.5.3.
    pub(super) fn push_pong(&mut self, payload: Vec<u8>, n_max: usize) {
        if self.n_bytes > n_max {
            self.pong = Some(payload);
        } else {
            self.push(OpCode::Control(Control::Pong), false, &payload);
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(Bytes::from(std::mem::take(&mut self.tail)));
        }
    }

    /// Write as much as there is room for; ready when nothing is unsent.
    pub(super) fn poll_write(
        &mut self,
        writer: &mut (impl Write + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            self.seal();
            if self.pieces.is_empty() {
                if let Some(pong) = self.pong.take() {
                    self.push(OpCode::Control(Control::Pong), false, &pong);
                    continue;
                }
                self.pieces = VecDeque::new();
                return Pin::new(writer).poll_flush(cx);
            }
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let n_pieces = self.pieces.len().min(PIECES_MAX);
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
            }
            match Pin::new(&mut *writer).poll_write_vectored(cx, &slices[..n_pieces]) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.take(n),
            }
        }
    }

    fn take(&mut self, mut n: usize) {
        self.n_bytes -= n;
        while let Some(piece) = self.pieces.front_mut() {
            if piece.len() > n {
                piece.advance(n);
                return;
            }
            n -= piece.len();
            self.pieces.pop_front();
        }
    }

    /// Drop everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
