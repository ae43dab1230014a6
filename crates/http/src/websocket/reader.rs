//! What a client sends, from bytes to messages: RFC 6455, 5 and 8.1. It knows nothing of sockets.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::deflate::{InflateError, Inflater};
use super::{Closure, WebSocketMessage};

/// Bytes of the longest head of a frame.
const HEAD_MAX: usize = 14;

/// Bytes of the longest payload of a control frame.
const CONTROL_MAX: u64 = 125;

/// What the bytes that were read have come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Message(WebSocketMessage),
    Ping(Vec<u8>),
    Pong,
    /// The client closes; without a code, the code is 1005.
    Close(Option<Closure>),
}

/// The client breaks the protocol or a limit: the connection has to be closed with this code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FrameFailure {
    pub(super) code: CloseCode,
    pub(super) reason: &'static str,
}

const fn violation(reason: &'static str) -> FrameFailure {
    FrameFailure { code: CloseCode::Protocol, reason }
}

const NOT_UTF8: FrameFailure =
    FrameFailure { code: CloseCode::Invalid, reason: "a text is not UTF-8" };
const TOO_LARGE: FrameFailure =
    FrameFailure { code: CloseCode::Size, reason: "a message is too large" };

#[derive(Debug)]
pub(super) struct Reader {
    /// What has come of the next frame's head.
    head: [u8; HEAD_MAX],
    n_head: usize,
    frame: Option<Frame>,
    /// The payload of a control frame, which may come between the frames of a message.
    control: Vec<u8>,
    message: Option<Box<Incoming>>,
    inflater: Option<Inflater>,
    message_max: usize,
}

/// A frame whose head is complete.
#[derive(Debug)]
struct Frame {
    opcode: OpCode,
    is_final: bool,
    mask: [u8; 4],
    n_left: u64,
}

/// A message that is not complete.
#[derive(Debug)]
struct Incoming {
    is_text: bool,
    is_compressed: bool,
    payload: Vec<u8>,
    /// How much of a text is known to be UTF-8.
    n_valid: usize,
}

impl Incoming {
    /// Check what has come of a text; the end may lack a part of a character.
    fn check(&mut self) -> Result<(), FrameFailure> {
        if !self.is_text {
            return Ok(());
        }
        match std::str::from_utf8(&self.payload[self.n_valid..]) {
            Ok(_) => self.n_valid = self.payload.len(),
            Err(error) if error.error_len().is_none() => self.n_valid += error.valid_up_to(),
            Err(_) => return Err(NOT_UTF8),
        }
        Ok(())
    }

    fn into_message(mut self) -> Result<WebSocketMessage, FrameFailure> {
        self.check()?;
        if !self.is_text {
            return Ok(WebSocketMessage::Binary(self.payload));
        }
        if self.n_valid < self.payload.len() {
            return Err(NOT_UTF8);
        }
        // This looks at the whole text once more, which is much cheaper than what becomes of the text.
        String::from_utf8(self.payload).map(WebSocketMessage::Text).map_err(|_| NOT_UTF8)
    }
}

impl Reader {
    /// A reader of messages of at most `message_max` bytes; without an `inflater` none is compressed.
    pub(super) fn new(message_max: usize, inflater: Option<Inflater>) -> Self {
        Self {
            head: [0; HEAD_MAX],
            n_head: 0,
            frame: None,
            control: Vec::new(),
            message: None,
            inflater,
            message_max,
        }
    }

    /// Read on until something is complete, or everything was read. What was read is taken from `data`, whose
    /// bytes are changed.
    pub(super) fn read(&mut self, data: &mut &mut [u8]) -> Result<Option<Event>, FrameFailure> {
        loop {
            if self.frame.is_none() {
                self.frame = self.read_head(data)?;
            }
            let Some(frame) = &mut self.frame else { return Ok(None) };
            let n = (data.len() as u64).min(frame.n_left) as usize;
            let (payload, rest) = std::mem::take(data).split_at_mut(n);
            *data = rest;
            unmask(payload, frame.mask);
            frame.mask.rotate_left(n % 4);
            frame.n_left -= n as u64;
            let (is_over, opcode, is_final) = (frame.n_left == 0, frame.opcode, frame.is_final);
            match (opcode, &mut self.message) {
                (OpCode::Data(_), Some(message)) => {
                    message.payload.extend_from_slice(payload);
                    if !message.is_compressed {
                        message.check()?;
                    }
                }
                _ => self.control.extend_from_slice(payload),
            }
            if !is_over {
                return Ok(None);
            }
            self.frame = None;
            match opcode {
                OpCode::Control(control) => {
                    let payload = std::mem::take(&mut self.control);
                    return match control {
                        Control::Ping => Ok(Some(Event::Ping(payload))),
                        Control::Close => closure(payload).map(|it| Some(Event::Close(it))),
                        _ => Ok(Some(Event::Pong)),
                    };
                }
                OpCode::Data(_) if is_final => {
                    if let Some(message) = self.message.take() {
                        return self.end(*message).map(|it| Some(Event::Message(it)));
                    }
                }
                OpCode::Data(_) => {}
            }
        }
    }

    fn end(&mut self, mut message: Incoming) -> Result<WebSocketMessage, FrameFailure> {
        if message.is_compressed
            && let Some(inflater) = &mut self.inflater
        {
            let inflated = inflater.inflate(message.payload, self.message_max);
            message.payload = inflated.map_err(|error| match error {
                InflateError::TooLarge => TOO_LARGE,
                InflateError::Corrupt => FrameFailure {
                    code: CloseCode::Invalid,
                    reason: "a message cannot be decompressed",
                },
            })?;
        }
        message.into_message()
    }

    /// Complete the head of the next frame, and begin the frame.
    fn read_head(&mut self, data: &mut &mut [u8]) -> Result<Option<Frame>, FrameFailure> {
        let n_new = data.len().min(HEAD_MAX - self.n_head);
        self.head[self.n_head..self.n_head + n_new].copy_from_slice(&data[..n_new]);
        let n_there = self.n_head + n_new;
        let mut cursor = Cursor::new(&self.head[..n_there]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| violation("a reserved opcode"))?;
        let n_head = cursor.position() as usize;
        let n_taken = if parsed.is_some() { n_head - self.n_head } else { n_new };
        *data = &mut std::mem::take(data)[n_taken..];
        let Some((head, n_payload)) = parsed else {
            self.n_head = n_there;
            return Ok(None);
        };
        self.n_head = 0;
        if n_head != head.len(n_payload) || n_payload > i64::MAX as u64 {
            return Err(violation("a length that is not in its shortest form"));
        }
        self.begin(&head, n_payload).map(Some)
    }

    fn begin(&mut self, head: &FrameHeader, n_payload: u64) -> Result<Frame, FrameFailure> {
        let Some(mask) = head.mask else {
            return Err(violation("a frame without a mask"));
        };
        let begins = matches!(head.opcode, OpCode::Data(Data::Text | Data::Binary));
        let may_be_compressed = begins && self.inflater.is_some();
        if head.rsv2 || head.rsv3 || (head.rsv1 && !may_be_compressed) {
            return Err(violation("a reserved bit"));
        }
        match head.opcode {
            OpCode::Control(_) if !head.is_final => {
                return Err(violation("a control frame in parts"));
            }
            OpCode::Control(_) if n_payload > CONTROL_MAX => {
                return Err(violation("a control frame of more than 125 bytes"));
            }
            OpCode::Control(_) => {}
            OpCode::Data(_) if begins == self.message.is_some() => {
                return Err(violation(if begins {
                    "a new message within another"
                } else {
                    "a continuation of no message"
                }));
            }
            OpCode::Data(kind) => {
                let message = self.message.get_or_insert_with(|| {
                    Box::new(Incoming {
                        is_text: kind == Data::Text,
                        is_compressed: head.rsv1,
                        payload: Vec::new(),
                        n_valid: 0,
                    })
                });
                // Deflate makes what it cannot compress a little longer.
                let n_slack = if message.is_compressed { 1024 + self.message_max / 256 } else { 0 };
                let n_max = self.message_max.saturating_add(n_slack);
                if n_payload > (n_max - message.payload.len().min(n_max)) as u64 {
                    return Err(TOO_LARGE);
                }
            }
        }
        Ok(Frame { opcode: head.opcode, is_final: head.is_final, mask, n_left: n_payload })
    }
}

/// What a close frame says.
fn closure(payload: Vec<u8>) -> Result<Option<Closure>, FrameFailure> {
    let (code, reason) = match payload.split_first_chunk::<2>() {
        Some((code, reason)) => (u16::from_be_bytes(*code), reason),
        None if payload.is_empty() => return Ok(None),
        None => return Err(violation("a close frame of one byte")),
    };
    if !CloseCode::from(code).is_allowed() {
        return Err(violation("a close code that none may send"));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| NOT_UTF8)?;
    Ok(Some(Closure { code, reason: reason.to_owned() }))
}

fn unmask(data: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask, mask].concat().try_into().unwrap_or_default());
    let mut chunks = data.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let word = u64::from_ne_bytes(chunk.try_into().unwrap_or_default()) ^ wide;
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    for (byte, mask) in chunks.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}
