//! The first line of a request, of which hyper knows two versions only: RFC 9110, 2.5 and 15.6.6.

use bytes::{Bytes, BytesMut};

/// What the first line of a request says of its version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FirstLine {
    /// There is no whole line yet, and it may be one of a request.
    Incomplete,
    /// For hyper: 1.0, 1.1, or no request.
    Usual,
    /// HTTP/1.2 or above: its last digit is here.
    Newer(usize),
    /// A major version that is not spoken here.
    Unsupported,
}

impl FirstLine {
    /// Look at the first bytes of a request.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let n_empty = match bytes.first() {
            Some(b'\r' | b'\n') => bytes.iter().take_while(|it| b"\r\n".contains(it)).count(),
            _ => 0,
        };
        let Some(n_line) = memchr::memchr(b'\n', &bytes[n_empty..]) else {
            let may_be = bytes[n_empty..].iter().all(|it| matches!(it, b' '..=b'~' | b'\r'));
            return if may_be { Self::Incomplete } else { Self::Usual };
        };
        let line = &bytes[n_empty..n_empty + n_line];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line == b"PRI * HTTP/2.0" {
            // The preface of HTTP/2 is no request (RFC 9113, 3.4).
            return Self::Usual;
        }
        match line {
            [.., b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1'] => Self::Usual,
            [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'2'..=b'9'] => {
                Self::Newer(n_empty + line.len() - 1)
            }
            [.., b' ', b'H', b'T', b'T', b'P', b'/', b'2'..=b'9', b'.', b'0'..=b'9'] => {
                Self::Unsupported
            }
            _ => Self::Usual,
        }
    }

    /// The same bytes with HTTP/1.1 in place of a newer version, whose `minor` digit is there (RFC 9110, 2.5).
    pub(crate) fn as_1_1(bytes: &[u8], minor: usize) -> Bytes {
        let mut bytes = BytesMut::from(bytes);
        bytes[minor] = b'1';
        bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_say_their_version() {
        let cases: &[(&[u8], FirstLine)] = &[
            (b"", FirstLine::Incomplete),
            (b"\r\n\r\nGET / HT", FirstLine::Incomplete),
            (b"GET / HTTP/1.2\r", FirstLine::Incomplete),
            (b"\x16\x03\x01", FirstLine::Usual),
            (b"GET / HTTP/1.1\r\n", FirstLine::Usual),
            (b"GET / HTTP/1.0\nHost: a", FirstLine::Usual),
            (b"GET / HTTP/1.2\r\nHost: a", FirstLine::Newer(13)),
            (b"\r\nGET / HTTP/1.9\n", FirstLine::Newer(15)),
            (b"GET / HTTP/2.0\r\n", FirstLine::Unsupported),
            (b"PRI * HTTP/2.0\r\n", FirstLine::Usual),
            (b"GET / HTTP/2\r\n", FirstLine::Usual),
            (b"GET /HTTP/1.2\r\n", FirstLine::Usual),
            (b"GET / HTTP/1.10\r\n", FirstLine::Usual),
            (b"GET / http/1.2\r\n", FirstLine::Usual),
        ];
        for (bytes, expected) in cases {
            assert_eq!(expected, &FirstLine::of(bytes), "{}", bytes.escape_ascii());
        }
        assert_eq!(b"GET / HTTP/1.1\r\n"[..], FirstLine::as_1_1(b"GET / HTTP/1.2\r\n", 13));
    }
}
