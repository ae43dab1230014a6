//! What a websocket reads and writes, without a network.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use hyper::rt::Write;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::deflate::Agreement;
use super::outgoing::Outgoing;
use super::reader::{Event, FrameFailure, Reader};
use super::{Closure, WebSocketMessage};

const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];
const FINAL: u8 = 0x80;
const COMPRESSED: u8 = 0x40;

/// A frame of a client; `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        n @ ..126 => frame.push(0x80 | n as u8),
        n @ ..0x1_0000 => {
            frame.push(0xFE);
            frame.extend((n as u16).to_be_bytes());
        }
        n => {
            frame.push(0xFF);
            frame.extend((n as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Read `sent` in pieces of `n` bytes.
fn events(reader: &mut Reader, sent: &[u8], n: usize) -> Result<Vec<Event>, FrameFailure> {
    let mut found = Vec::new();
    for piece in sent.chunks(n) {
        let mut piece = piece.to_vec();
        let mut data = &mut piece[..];
        while let Some(event) = reader.read(&mut data)? {
            found.push(event);
        }
        assert!(data.is_empty());
    }
    Ok(found)
}

#[test]
fn messages_are_the_same_however_they_are_cut() {
    let long = "é".repeat(40_000);
    let sent = [
        frame(FINAL | 1, "Grüße".as_bytes()),
        frame(2, &[1; 200]),
        frame(FINAL | 9, b"ping"),
        frame(0, b""),
        frame(FINAL, &[2; 3]),
        frame(FINAL | 10, b""),
        frame(1, &long.as_bytes()[..33]),
        frame(FINAL, &long.as_bytes()[33..]),
        frame(FINAL | 1, b""),
        frame(FINAL | 8, &[&4000_u16.to_be_bytes()[..], b"why"].concat()),
    ]
    .concat();
    for n in [1, 2, 3, 7, 50, 4096, sent.len()] {
        let expected = vec![
            Event::Message(WebSocketMessage::Text("Grüße".to_owned())),
            Event::Ping(b"ping".to_vec()),
            Event::Message(WebSocketMessage::Binary([&[1; 200][..], &[2; 3]].concat())),
            Event::Pong,
            Event::Message(WebSocketMessage::Text(long.clone())),
            Event::Message(WebSocketMessage::Text(String::new())),
            Event::Close(Some(Closure { code: 4000, reason: "why".to_owned() })),
        ];
        let mut reader = Reader::new(1 << 20, None);
        assert_eq!(Ok(expected), events(&mut reader, &sent, n), "in pieces of {n}");
    }
}

#[test]
fn what_breaks_the_protocol_fails_with_its_code() {
    let with_length = |first: u8, length: &[u8]| [&[first][..], length, &MASK].concat();
    let cases = [
        ("reserved opcode", frame(FINAL | 3, b""), CloseCode::Protocol),
        ("reserved control opcode", frame(FINAL | 11, b""), CloseCode::Protocol),
        ("reserved bit", frame(FINAL | 0x20 | 1, b""), CloseCode::Protocol),
        ("compressed, not agreed on", frame(FINAL | COMPRESSED | 1, b""), CloseCode::Protocol),
        ("no mask", vec![FINAL | 1, 0], CloseCode::Protocol),
        ("ping in parts", frame(9, b""), CloseCode::Protocol),
        ("long ping", frame(FINAL | 9, &[0; 126]), CloseCode::Protocol),
        ("continuation of nothing", frame(FINAL, b""), CloseCode::Protocol),
        ("text in text", [frame(1, b""), frame(1, b"")].concat(), CloseCode::Protocol),
        ("wide length", with_length(FINAL | 2, &[0xFE, 0, 5]), CloseCode::Protocol),
        (
            "wider length",
            with_length(FINAL | 2, &[0xFF, 0, 0, 0, 0, 0, 0, 1, 0]),
            CloseCode::Protocol,
        ),
        ("negative length", with_length(FINAL | 2, &[0xFF; 9]), CloseCode::Protocol),
        ("close of one byte", frame(FINAL | 8, &[3]), CloseCode::Protocol),
        ("close with 1005", frame(FINAL | 8, &1005_u16.to_be_bytes()), CloseCode::Protocol),
        ("close with 5000", frame(FINAL | 8, &5000_u16.to_be_bytes()), CloseCode::Protocol),
        ("close with bad text", frame(FINAL | 8, &[3, 232, 0xFF]), CloseCode::Invalid),
        ("bad text", frame(FINAL | 1, &[0xC0]), CloseCode::Invalid),
        ("half a character", frame(FINAL | 1, &[0xC3]), CloseCode::Invalid),
        ("bad text that goes on", frame(1, &[b'a', 0xED, 0xA0]), CloseCode::Invalid),
        ("too large", frame(FINAL | 2, &[0; 1001]), CloseCode::Size),
        (
            "too large in parts",
            [frame(2, &[0; 1000]), frame(FINAL, &[0])].concat(),
            CloseCode::Size,
        ),
    ];
    for (what, sent, code) in cases {
        for n in [1, sent.len()] {
            let failed = events(&mut Reader::new(1000, None), &sent, n);
            assert_eq!(Some(code), failed.err().map(|it| it.code), "{what}, in pieces of {n}");
        }
    }
}

#[test]
fn a_size_that_is_only_announced_takes_no_memory() {
    let mut head = frame(FINAL | 2, &vec![0; 1 << 20]);
    head.truncate(14);
    let mut reader = Reader::new(1 << 30, None);
    assert_eq!(Ok(vec![]), events(&mut reader, &head, 14));
    assert_eq!(Ok(vec![]), events(&mut reader, &[1; 10], 10));
}

#[test]
fn compressed_messages_are_read_and_limited() {
    let agreed = Agreement::of(["permessage-deflate; client_max_window_bits"].into_iter()).unwrap();
    let mut deflater = agreed.deflater();
    let text = "threadlets ".repeat(100);
    let mut compressed = || deflater.deflate(text.as_bytes()).unwrap();
    let (first, second) = (compressed(), compressed());
    let sent = [
        frame(FINAL | COMPRESSED | 1, &first),
        frame(COMPRESSED | 1, &second[..2]),
        frame(FINAL | 9, b""),
        frame(FINAL, &second[2..]),
        frame(FINAL | 1, b"as it is"),
    ]
    .concat();
    let message = || Event::Message(WebSocketMessage::Text(text.clone()));
    let plain = Event::Message(WebSocketMessage::Text("as it is".to_owned()));
    let mut reader = Reader::new(text.len(), Some(agreed.inflater()));
    let expected = vec![message(), Event::Ping(vec![]), message(), plain];
    assert_eq!(Ok(expected), events(&mut reader, &sent, 3));

    let mut reader = Reader::new(text.len() - 1, Some(agreed.inflater()));
    let failed = events(&mut reader, &frame(FINAL | COMPRESSED | 1, &first), 1000);
    assert_eq!(Some(CloseCode::Size), failed.err().map(|it| it.code));

    let mut reader = Reader::new(1000, Some(agreed.inflater()));
    let ping = frame(FINAL | COMPRESSED | 9, b"");
    let failed = events(&mut reader, &ping, 1000);
    assert_eq!(Some(CloseCode::Protocol), failed.err().map(|it| it.code));
}

/// Takes so many bytes, and then has no room.
struct Taker {
    room: usize,
    taken: Vec<u8>,
}

impl Write for Taker {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let n = data.len().min(self.room);
        if n == 0 {
            return Poll::Pending;
        }
        self.room -= n;
        self.taken.extend_from_slice(&data[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn frames_leave_in_order_through_any_hole() {
    let mut expected = vec![0x81, 2, b'h', b'i', 0x82, 0x7F];
    expected.extend(70_000_u64.to_be_bytes());
    expected.extend(vec![7; 70_000]);
    expected.extend([0xC1, 0x7E, 0, 200]);
    expected.extend([9; 200]);
    for room in [1, 5, 6, 4000, 100_000] {
        let mut outgoing = Outgoing::default();
        outgoing.push(OpCode::Data(Data::Text), false, b"hi");
        outgoing.push_shared(OpCode::Data(Data::Binary), false, vec![7; 70_000].into());
        outgoing.push(OpCode::Data(Data::Text), true, &[9; 200]);
        assert_eq!(expected.len(), outgoing.n_bytes());
        let mut taker = Taker { room, taken: Vec::new() };
        let mut cx = Context::from_waker(Waker::noop());
        while outgoing.poll_write(&mut taker, &mut cx).is_pending() {
            assert_eq!(expected.len() - taker.taken.len(), outgoing.n_bytes());
            taker.room = room;
        }
        assert_eq!(expected, taker.taken, "{room} bytes at a time");
        assert_eq!(0, outgoing.n_bytes());
    }
}

#[test]
fn only_the_last_ping_is_answered_while_too_much_is_unsent() {
    let mut outgoing = Outgoing::default();
    outgoing.push(OpCode::Data(Data::Binary), false, &[0; 100]);
    outgoing.push_pong(b"first".to_vec(), 1000);
    for i in 0..100 {
        outgoing.push_pong(vec![i], 50);
    }
    let n_bytes = 102 + 7;
    assert_eq!(n_bytes, outgoing.n_bytes());
    let mut taker = Taker { room: usize::MAX, taken: Vec::new() };
    let mut cx = Context::from_waker(Waker::noop());
    assert!(outgoing.poll_write(&mut taker, &mut cx).is_ready());
    let pong = 0x80 | u8::from(OpCode::Control(Control::Pong));
    assert_eq!(vec![pong, 1, 99], taker.taken[n_bytes..]);
}

#[test]
fn an_idle_websocket_has_no_buffers() {
    let n_bytes = size_of::<super::Driver>() + size_of::<super::WebSocket>();
    assert!(n_bytes <= 768, "{n_bytes} bytes");
}
