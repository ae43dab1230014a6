//! One request of HTTP/1.1 and its answer, of which only the length is looked at. Knows nothing of time.

use std::io::{self, ErrorKind, Read, Write};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::args::Load;
use crate::exchange::connect;

const HEAD_SIZE_MAX: usize = 16 * 1024;

/// What all connections of a load send, and where they read to.
pub(crate) struct Asking {
    request: Vec<u8>,
    expected_size: u64,
    inbox: Vec<u8>,
}

impl Asking {
    pub(crate) fn new(load: &Load, keep_alive: bool) -> Self {
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: {connection}\r\n\r\n",
            load.http.path,
            load.server.port(),
        );
        Self {
            request: request.into_bytes(),
            expected_size: load.message_size as u64,
            inbox: vec![0; load.http.read_max],
        }
    }
}

#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// There is nothing to read; an edge of readiness follows.
    Nothing,
    Part,
    /// The answer is complete.
    All,
}

pub(crate) struct Visit {
    stream: TcpStream,
    sent: usize,
    answer: Answer,
}

impl Visit {
    /// Start connecting. Readiness comes under `Token(idx)`; `turn` picks the source address.
    pub(crate) fn open(
        load: &Load,
        idx: usize,
        turn: usize,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut stream = connect(load.server, turn, load.http.receive_buffer)?;
        registry.register(&mut stream, Token(idx), Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, sent: 0, answer: Answer::default() })
    }

    /// Send what is left of the request; `NotConnected` is no error, since an edge follows.
    pub(crate) fn ask(&mut self, asking: &Asking) -> io::Result<()> {
        while self.sent < asking.request.len() {
            match self.stream.write(&asking.request[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Read once.
    pub(crate) fn take(&mut self, asking: &mut Asking) -> io::Result<Taken> {
        match self.stream.read(&mut asking.inbox) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) if self.answer.feed(&asking.inbox[..n], asking.expected_size)? => Ok(Taken::All),
            Ok(_) => Ok(Taken::Part),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Taken::Nothing),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Taken::Part),
            Err(error) => Err(error),
        }
    }
}

/// How far an answer has come.
#[derive(Default)]
struct Answer {
    head: Vec<u8>,
    /// Bytes of the body that are to come, once the head is complete.
    left: Option<u64>,
}

impl Answer {
    /// Take what was read; return whether the answer is complete.
    fn feed(&mut self, bytes: &[u8], expected_size: u64) -> io::Result<bool> {
        let mut n_body = bytes.len();
        if self.left.is_none() {
            let n_before = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = self.head.windows(4).position(|part| part == b"\r\n\r\n") else {
                if self.head.len() > HEAD_SIZE_MAX {
                    return Err(invalid("the head of the answer has no end"));
                }
                return Ok(false);
            };
            if length_of(&self.head[..end + 2])? != expected_size {
                return Err(invalid("the answer has another length"));
            }
            self.left = Some(expected_size);
            n_body = n_before + bytes.len() - (end + 4);
            self.head = Vec::new();
        }
        let left = self.left.unwrap_or(0);
        let Some(left) = left.checked_sub(n_body as u64) else {
            return Err(invalid("the answer is longer than it says"));
        };
        self.left = Some(left);
        Ok(left == 0)
    }
}

/// Return the Content-Length of an answer whose status is 200.
fn length_of(head: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(head).map_err(|_| invalid("the head is not UTF-8"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or("").split(' ').nth(1);
    if status != Some("200") {
        return Err(invalid(&format!("the status is {}", status.unwrap_or("missing"))));
    }
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .ok_or_else(|| invalid("the answer has no Content-Length"))
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::Answer;

    #[test]
    fn answer_is_complete_with_its_last_byte_however_it_is_cut() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcde";
        for cut in 1..bytes.len() {
            let mut answer = Answer::default();
            assert!(!answer.feed(&bytes[..cut], 5).unwrap());
            assert!(answer.feed(&bytes[cut..], 5).unwrap());
        }
    }

    #[test]
    fn other_answers_are_errors() {
        for (bytes, complaint) in [
            (&b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\n"[..], "503"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "no Content-Length"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", "another length"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcdef", "longer"),
        ] {
            let error = Answer::default().feed(bytes, 5).unwrap_err();
            assert!(error.to_string().contains(complaint), "{error}");
        }
    }
}
