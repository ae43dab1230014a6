//! Where the bodies of HTTP/1.1 end, as far as hyper is too lenient about it.
//!
//! hyper takes a bare LF after the last chunk for the beginning of a trailer, and what follows, up to the next empty line,
//! for more of it: it swallows requests that others see. So what hyper reads is followed here, in the cases that matter:
//! when a chunked body has come, and when more is read than the first bytes of a request. hyper parses heads; this looks
//! for their ends only, and is told what bodies they announce.

use bytes::{Buf, BytesMut};

/// The body that a head announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Announced {
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunks,
}

/// A line of a chunked body's trailer ends in a bare LF.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BareLf;

/// Follows the bytes of one connection.
#[derive(Debug)]
pub(crate) struct Follower {
    place: Place,
    /// Bytes that hyper has, or will have, of a head that it has not reported.
    unfollowed: BytesMut,
    /// Heads whose ends were passed.
    n_heads: u64,
}

#[derive(Debug)]
enum Place {
    Head,
    Data(u64),
    Chunks(Chunks),
    /// hyper refuses what comes, or is not to be trusted with it: nothing is followed.
    Lost,
}

/// Within a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunks {
    SizeStart,
    Size(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
}

/// What a byte of a chunked body leads to.
enum Step {
    To(Chunks),
    End,
    BareLf,
    /// hyper refuses this, too.
    Invalid,
}

impl Follower {
    /// Follow from the beginning of a head, before which there were `n_heads`; `first` are its first bytes, which may go on
    /// with further requests.
    pub(crate) fn new(n_heads: u64, first: &[u8]) -> Self {
        Self { place: Place::Head, unfollowed: first.into(), n_heads }
    }

    /// Follow what hyper reads; `n_reported` is the number of heads that it has reported, and `announced` tells what body
    /// the head with a number has.
    pub(crate) fn follow(
        &mut self,
        read: &[u8],
        n_reported: u64,
        mut announced: impl FnMut(u64) -> Option<Announced>,
    ) -> Result<(), BareLf> {
        if self.unfollowed.is_empty() {
            let n_followed = self.follow_all(read, n_reported, &mut announced)?;
            self.unfollowed.extend_from_slice(&read[n_followed..]);
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.unfollowed);
        all.extend_from_slice(read);
        let n_followed = self.follow_all(&all, n_reported, &mut announced)?;
        all.advance(n_followed);
        self.unfollowed = all;
        Ok(())
    }

    /// Follow as far as it is known what the bytes are; returns how many were followed.
    fn follow_all(
        &mut self,
        bytes: &[u8],
        n_reported: u64,
        announced: &mut impl FnMut(u64) -> Option<Announced>,
    ) -> Result<usize, BareLf> {
        let mut rest = bytes;
        loop {
            match &mut self.place {
                Place::Head if self.n_heads < n_reported => {
                    let Some(n_head) = head_len(rest) else {
                        debug_assert!(false, "hyper has reported a head that did not come");
                        self.place = Place::Lost;
                        continue;
                    };
                    rest = &rest[n_head..];
                    self.place = match announced(self.n_heads) {
                        None => Place::Head,
                        Some(Announced::Length(n_bytes)) => Place::Data(n_bytes),
                        Some(Announced::Chunks) => Place::Chunks(Chunks::SizeStart),
                    };
                    self.n_heads += 1;
                }
                Place::Head => break,
                Place::Data(n_left) => {
                    let n = skipped(&mut rest, n_left);
                    if n > 0 {
                        break;
                    }
                    self.place = Place::Head;
                }
                Place::Chunks(chunks) => match chunks.follow(&mut rest) {
                    Step::To(next) => {
                        *chunks = next;
                        break;
                    }
                    Step::End => self.place = Place::Head,
                    Step::Invalid => self.place = Place::Lost,
                    Step::BareLf => {
                        self.place = Place::Lost;
                        return Err(BareLf);
                    }
                },
                Place::Lost => return Ok(bytes.len()),
            }
        }
        Ok(bytes.len() - rest.len())
    }
}

/// Skip bytes, at most as many as are left; returns how many are still left.
fn skipped(rest: &mut &[u8], n_left: &mut u64) -> u64 {
    let n = usize::try_from(*n_left).unwrap_or(usize::MAX).min(rest.len());
    *rest = &rest[n..];
    *n_left -= n as u64;
    *n_left
}

impl Chunks {
    /// Follow until the bytes or the body are over.
    fn follow(self, rest: &mut &[u8]) -> Step {
        let mut at = self;
        loop {
            if let Self::Data(n_left) = &mut at {
                if skipped(rest, n_left) > 0 {
                    return Step::To(at);
                }
                at = Self::DataCr;
            }
            let Some((&byte, after)) = rest.split_first() else { return Step::To(at) };
            *rest = after;
            match at.step(byte) {
                Step::To(next) => at = next,
                other => return other,
            }
        }
    }

    fn step(self, byte: u8) -> Step {
        let next = match (self, byte) {
            (Self::SizeStart, _) if byte.is_ascii_hexdigit() => Self::Size(digit(byte)),
            (Self::Size(size), _) if byte.is_ascii_hexdigit() => match size.checked_mul(16) {
                Some(sixteenfold) => Self::Size(sixteenfold + digit(byte)),
                None => return Step::Invalid,
            },
            (Self::Size(size), b'\r') => Self::SizeLf(size),
            (Self::Size(size), b';' | b' ' | b'\t') => Self::Extension(size),
            (Self::Extension(size), b'\r') => Self::SizeLf(size),
            (Self::Extension(_), b'\n') => return Step::Invalid,
            (Self::Extension(size), _) => Self::Extension(size),
            (Self::SizeLf(0), b'\n') => Self::TrailerStart,
            (Self::SizeLf(size), b'\n') => Self::Data(size),
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::SizeStart,
            (Self::TrailerStart, b'\r') => Self::EndLf,
            (Self::TrailerStart | Self::Trailer, b'\n') => return Step::BareLf,
            (Self::Trailer, b'\r') => Self::TrailerLf,
            (Self::TrailerStart | Self::Trailer, _) => Self::Trailer,
            (Self::TrailerLf, b'\n') => Self::TrailerStart,
            (Self::EndLf, b'\n') => return Step::End,
            _ => return Step::Invalid,
        };
        Step::To(next)
    }
}

fn digit(byte: u8) -> u64 {
    char::from(byte).to_digit(16).map_or(0, u64::from)
}

/// The length of a head with the empty lines before it; `None` if it is not complete. A line may end in a bare LF.
fn head_len(bytes: &[u8]) -> Option<usize> {
    let mut at = bytes.iter().position(|it| !b"\r\n".contains(it))?;
    loop {
        at += memchr::memchr(b'\n', &bytes[at..])? + 1;
        match &bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// Follow requests of which each has its own body, in pieces of this length; hyper reports each head at once.
    fn followed(
        sent: &[u8],
        bodies: &[Option<Announced>],
        n_piece: usize,
    ) -> Result<usize, BareLf> {
        let mut follower = Follower::new(0, b"");
        let mut n_reported = 0;
        for piece in sent.chunks(n_piece) {
            follower.follow(piece, n_reported, |n| bodies[n as usize])?;
            while matches!(follower.place, Place::Head) && head_len(&follower.unfollowed).is_some()
            {
                n_reported += 1;
                follower.follow(b"", n_reported, |n| bodies[n as usize])?;
            }
        }
        assert!(matches!(follower.place, Place::Head), "{:?}", follower.place);
        Ok(follower.unfollowed.len())
    }

    #[test]
    fn requests_are_followed_in_all_cuts() {
        let get: &[u8] = b"\r\nGET / HTTP/1.1\r\nHost: a\n\r\n";
        let post: &[u8] = b"POST / HTTP/1.1\nHost: a\nContent-Length: 6\n\n\r\n0\r\n\r";
        let body: &[u8] = b"3;a=b\r\n\nab\r\n0a \r\n0123456789\r\n0\r\nX: y\r\nZ: \r\n\r\n";
        let none: &[u8] = b"0\r\n\r\n";
        let all = [get, CHUNKED, body, post, get, CHUNKED, none, b"GET"].concat();
        let chunks = Some(Announced::Chunks);
        let bodies = [None, chunks, Some(Announced::Length(6)), None, chunks];
        for n_piece in 1..=all.len() {
            assert_eq!(Ok(3), followed(&all, &bodies, n_piece), "{n_piece}");
        }
    }

    #[test]
    fn a_bare_lf_after_the_last_chunk_is_found_in_all_cuts() {
        for end in [
            &b"0\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"0\r\nX: y\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"5\r\nhello\r\n00;a\r\nX: y\r\n\n",
        ] {
            let all = [CHUNKED, end].concat();
            for n_piece in 1..=all.len() {
                assert_eq!(Err(BareLf), followed(&all, &[Some(Announced::Chunks)], n_piece));
            }
        }
    }

    #[test]
    fn what_hyper_refuses_is_not_followed() {
        for body in ["x", "5\nhello", "5;a\n", "10000000000000000\r\n", "1\r\nab", "0\r\n\rx"] {
            let mut follower = Follower::new(0, CHUNKED);
            let followed = follower.follow(body.as_bytes(), 1, |_| Some(Announced::Chunks));
            assert_eq!(Ok(()), followed, "{body}");
            assert!(matches!(follower.place, Place::Lost), "{body}");
        }
    }
}
