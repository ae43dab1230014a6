//! The length of a response's body: what its head says, and what the application sends.
//!
//! hyper trusts that both are the same if it knows the whole body: otherwise a client would take the end of a body for the
//! next response, or the next response for the end of a body.

use std::fmt;

use http::header::CONTENT_LENGTH;
use http::{StatusCode, response};

/// An application has sent another number of bytes than it has announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthMismatch {
    /// More than `announced`.
    TooLong {
        /// The number in Content-Length.
        announced: u64,
    },
    /// The response has ended after `n_sent` bytes.
    TooShort {
        /// The number in Content-Length.
        announced: u64,
        /// The number of bytes that were sent.
        n_sent: u64,
    },
}

impl fmt::Display for LengthMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { announced } => write!(
                f,
                "the body of a response is longer than its Content-Length of {announced} bytes"
            ),
            Self::TooShort { announced, n_sent } => write!(
                f,
                "the body of a response has ended after {n_sent} of the {announced} bytes of its \
                 Content-Length"
            ),
        }
    }
}

impl std::error::Error for LengthMismatch {}

/// Compares what is sent with what was announced.
#[derive(Debug, Default)]
pub(crate) struct ResponseLength {
    announced: Option<u64>,
    n_sent: u64,
    /// The response has no body, whatever the application sends.
    has_no_body: bool,
}

impl ResponseLength {
    /// Read the announcement of a head, and correct it: one that is no number or is not allowed is taken out.
    pub(crate) fn of(head: &mut response::Parts, answers_head: bool) -> Self {
        let has_no_body = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if has_no_body {
            head.headers.remove(CONTENT_LENGTH);
        }
        let announced = {
            let mut values = head.headers.get_all(CONTENT_LENGTH).iter();
            let first = values.next().and_then(|it| number(it.as_bytes()));
            if values.next().is_some() { None } else { first }
        };
        if announced.is_none() {
            head.headers.remove(CONTENT_LENGTH);
        }
        let has_no_body = has_no_body || answers_head;
        Self { announced: announced.filter(|_| !has_no_body), n_sent: 0, has_no_body }
    }

    /// How many bytes of the body are still to be sent, if that was announced.
    pub(crate) fn n_left(&self) -> Option<u64> {
        self.announced.map(|it| it.saturating_sub(self.n_sent))
    }

    /// Note a piece of the body; the last one has `more` unset. Returns whether it goes out.
    pub(crate) fn note(&mut self, n_bytes: u64, more: bool) -> Result<bool, LengthMismatch> {
        if self.has_no_body {
            return Ok(false);
        }
        self.n_sent += n_bytes;
        match self.announced {
            Some(announced) if self.n_sent > announced => {
                Err(LengthMismatch::TooLong { announced })
            }
            Some(announced) if !more && self.n_sent < announced => {
                Err(LengthMismatch::TooShort { announced, n_sent: self.n_sent })
            }
            _ => Ok(true),
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    if !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, lengths: &[&'static str]) -> response::Parts {
        let mut response = http::Response::builder().status(status);
        for length in lengths {
            response = response.header(CONTENT_LENGTH, *length);
        }
        response.body(()).expect("a response that can be made").into_parts().0
    }

    #[test]
    fn what_is_sent_is_what_was_announced() {
        let mut length = ResponseLength::of(&mut head(200, &["5"]), false);
        assert_eq!(Ok(true), length.note(3, true));
        assert_eq!(Ok(true), length.note(2, true));
        assert_eq!(Ok(true), length.note(0, false));
        assert_eq!(Err(LengthMismatch::TooLong { announced: 5 }), length.note(1, true));
        let mut length = ResponseLength::of(&mut head(200, &["5"]), false);
        let too_short = LengthMismatch::TooShort { announced: 5, n_sent: 4 };
        assert_eq!(Err(too_short), length.note(4, false));
    }

    #[test]
    fn an_announcement_that_is_none_is_taken_out() {
        for lengths in [&["x"][..], &["-1"], &["+1"], &[""], &["5", "5"], &["99999999999999999999"]]
        {
            let mut head = head(200, lengths);
            let mut length = ResponseLength::of(&mut head, false);
            assert!(!head.headers.contains_key(CONTENT_LENGTH), "{lengths:?}");
            assert_eq!(Ok(true), length.note(3, false));
        }
    }

    #[test]
    fn a_response_without_a_body_sends_none() {
        for status in [204, 304] {
            let mut head = head(status, &["5"]);
            let mut length = ResponseLength::of(&mut head, false);
            assert!(!head.headers.contains_key(CONTENT_LENGTH));
            assert_eq!(Ok(false), length.note(3, false));
        }
        let mut head = head(200, &["5"]);
        let mut length = ResponseLength::of(&mut head, true);
        assert!(head.headers.contains_key(CONTENT_LENGTH));
        assert_eq!(Ok(false), length.note(0, false));
    }
}
