//! permessage-deflate (RFC 7692): what is agreed on, and the compression of whole messages.
//!
//! A connection keeps no compressor. Both directions go on with the context of earlier messages all the same: the
//! last bytes of these, at most a window, are the dictionary with which a compressor of the thread begins the next
//! message. So an idle connection costs the windows, which are small, and only as far as something was in them.

use std::cell::RefCell;
use std::fmt::Write as _;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Window bits that the server uses, and those that it asks clients to use, at most.
const BITS_MAX: u8 = 12;

/// The smallest window that zlib compresses with.
const BITS_MIN: u8 = 9;

/// A higher level costs more than it gains where messages are made once and sent once.
const LEVEL: u32 = 3;

/// The end of a block that a sync flush makes. It is left out of messages.
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// What is added to an output at a time.
const STEP: usize = 4096;

/// The dictionary of a stream that cannot look back farther than deflate can.
const WINDOW_MAX: usize = 1 << 15;

/// What a server and a client have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Agreement {
    /// The window of what the server sends; the server answers with it if it was asked for.
    server_bits: u8,
    tells_server_bits: bool,
    /// The window of what the client sends; `None` if the client did not say that it can be told.
    client_bits: Option<u8>,
    server_forgets: bool,
    client_forgets: bool,
}

impl Agreement {
    /// Agree to the first acceptable offer of the values of `Sec-WebSocket-Extensions`.
    pub(super) fn of<'a>(values: impl Iterator<Item = &'a str>) -> Option<Self> {
        values.flat_map(|value| value.split(',')).find_map(Self::of_offer)
    }

    fn of_offer(offer: &str) -> Option<Self> {
        let mut parts = offer.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
            return None;
        }
        let mut agreed = Self {
            server_bits: BITS_MAX,
            tells_server_bits: false,
            client_bits: None,
            server_forgets: false,
            client_forgets: false,
        };
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), Some(unquoted(value.trim()))),
                None => (part, None),
            };
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match (name, value) {
                ("server_no_context_takeover", None) => agreed.server_forgets = true,
                ("client_no_context_takeover", None) => agreed.client_forgets = true,
                ("server_max_window_bits", Some(value)) => {
                    let bits = bits_of(value)?;
                    if bits < BITS_MIN {
                        return None;
                    }
                    agreed.server_bits = bits.min(BITS_MAX);
                    agreed.tells_server_bits = true;
                }
                ("client_max_window_bits", None) => agreed.client_bits = Some(BITS_MAX),
                ("client_max_window_bits", Some(value)) => {
                    agreed.client_bits = Some(bits_of(value)?.min(BITS_MAX));
                }
                _ => return None,
            }
        }
        // A window of 32 KiB is not kept for anybody.
        agreed.client_forgets |= agreed.client_bits.is_none();
        Some(agreed)
    }

    /// What the response says of it.
    pub(super) fn answer(&self) -> String {
        let mut answer = String::from("permessage-deflate");
        if self.server_forgets {
            answer.push_str("; server_no_context_takeover");
        }
        if self.client_forgets {
            answer.push_str("; client_no_context_takeover");
        }
        if self.tells_server_bits {
            let _ = write!(answer, "; server_max_window_bits={}", self.server_bits);
        }
        if let Some(bits) = self.client_bits {
            let _ = write!(answer, "; client_max_window_bits={bits}");
        }
        answer
    }

    pub(super) fn deflater(&self) -> Deflater {
        let window = if self.server_forgets { 0 } else { 1 << self.server_bits };
        Deflater { bits: self.server_bits, history: History::new(window) }
    }

    pub(super) fn inflater(&self) -> Inflater {
        let window = match self.client_bits {
            Some(bits) if !self.client_forgets => 1 << bits,
            _ => 0,
        };
        Inflater { history: History::new(window) }
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(value)
}

/// A number of window bits: 8 to 15, without a leading zero.
fn bits_of(value: &str) -> Option<u8> {
    let bits = value.parse().ok().filter(|bits| (8..=15).contains(bits))?;
    (value.len() == if bits < 10 { 1 } else { 2 }).then_some(bits)
}

/// The last bytes of the messages of one direction.
#[derive(Debug)]
struct History {
    bytes: Vec<u8>,
    window: usize,
}

impl History {
    fn new(window: usize) -> Self {
        Self { bytes: Vec::new(), window }
    }

    fn add(&mut self, message: &[u8]) {
        let message = &message[message.len().saturating_sub(self.window)..];
        let n_surplus = (self.bytes.len() + message.len()).saturating_sub(self.window);
        self.bytes.drain(..n_surplus);
        self.bytes.reserve_exact(message.len());
        self.bytes.extend_from_slice(message);
    }
}

/// Compresses the messages of a connection.
#[derive(Debug)]
pub(super) struct Deflater {
    bits: u8,
    history: History,
}

impl Deflater {
    /// Compress a message; `None` if that does not make it shorter.
    pub(super) fn deflate(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        thread_local! {
            static STREAMS: RefCell<[Option<Compress>; 16]> = const { RefCell::new([const { None }; 16]) };
        }
        STREAMS.with_borrow_mut(|streams| {
            let stream = streams[usize::from(self.bits)].get_or_insert_with(|| {
                Compress::new_with_window_bits(Compression::new(LEVEL), false, self.bits)
            });
            stream.reset();
            if !self.history.bytes.is_empty() {
                stream.set_dictionary(&self.history.bytes).ok()?;
            }
            let mut output = Vec::with_capacity(message.len() / 2 + 64);
            loop {
                let n_in = stream.total_in() as usize;
                stream.compress_vec(&message[n_in..], &mut output, FlushCompress::Sync).ok()?;
                if output.len() >= message.len() {
                    // The client never sees this message in its window, and so it is not noted here.
                    return None;
                }
                // Room that is left says that the flush is complete.
                if output.len() < output.capacity() && stream.total_in() as usize == message.len() {
                    break;
                }
                output.reserve(STEP);
            }
            debug_assert!(output.ends_with(&TAIL));
            output.truncate(output.len() - TAIL.len());
            self.history.add(message);
            Some(output)
        })
    }
}

/// Why a message cannot be decompressed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum InflateError {
    Corrupt,
    TooLarge,
}

/// Decompresses the messages of a connection.
#[derive(Debug)]
pub(super) struct Inflater {
    history: History,
}

impl Inflater {
    /// Decompress a message of at most `n_max` bytes.
    pub(super) fn inflate(
        &mut self,
        mut message: Vec<u8>,
        n_max: usize,
    ) -> Result<Vec<u8>, InflateError> {
        thread_local! {
            static STREAM: RefCell<Decompress> = RefCell::new(Decompress::new(false));
        }
        message.extend_from_slice(&TAIL);
        let output = STREAM.with_borrow_mut(|stream| {
            let mut output = Vec::with_capacity((message.len() * 2).min(n_max) + STEP);
            let mut input = &message[..];
            begin(stream, &self.history.bytes)?;
            loop {
                let (n_in, n_out) = (stream.total_in(), output.len());
                let status = stream
                    .decompress_vec(input, &mut output, FlushDecompress::Sync)
                    .map_err(|_| InflateError::Corrupt)?;
                input = &input[(stream.total_in() - n_in) as usize..];
                if output.len() > n_max {
                    return Err(InflateError::TooLarge);
                }
                if status == Status::StreamEnd {
                    // A final block: others may follow, and look back beyond it.
                    begin(stream, &self.looked_back_to(&output))?;
                    if input.is_empty() {
                        break;
                    }
                    continue;
                }
                if output.len() == output.capacity() {
                    output.reserve(STEP.max(output.len()));
                } else if input.is_empty() {
                    break;
                } else if output.len() == n_out && status == Status::BufError {
                    return Err(InflateError::Corrupt);
                }
            }
            output.shrink_to(output.len() + STEP);
            Ok(output)
        })?;
        self.history.add(&output);
        Ok(output)
    }

    fn looked_back_to(&self, output: &[u8]) -> Vec<u8> {
        let both = [&self.history.bytes, output].concat();
        both[both.len().saturating_sub(WINDOW_MAX)..].to_vec()
    }
}

fn begin(stream: &mut Decompress, dictionary: &[u8]) -> Result<(), InflateError> {
    stream.reset(false);
    if dictionary.is_empty() {
        return Ok(());
    }
    stream.set_dictionary(dictionary).map(drop).map_err(|_| InflateError::Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(offers: &str) -> Option<String> {
        Agreement::of([offers].into_iter()).map(|it| it.answer())
    }

    #[test]
    fn answers_offers_as_rfc_7692_has_them() {
        let answers = [
            ("permessage-deflate", Some("permessage-deflate; client_no_context_takeover")),
            (
                "permessage-deflate; client_max_window_bits",
                Some("permessage-deflate; client_max_window_bits=12"),
            ),
            (
                "permessage-deflate; server_max_window_bits=10; client_max_window_bits=\"9\"",
                Some("permessage-deflate; server_max_window_bits=10; client_max_window_bits=9"),
            ),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
                Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
            ),
            (
                "permessage-deflate; server_max_window_bits=8, permessage-deflate",
                Some("permessage-deflate; client_no_context_takeover"),
            ),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; server_max_window_bits=16", None),
            ("permessage-deflate; server_max_window_bits=012", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            ("permessage-deflate; client_max_window_bits; client_max_window_bits", None),
            ("permessage-deflate; unknown", None),
            ("x-webkit-deflate-frame", None),
        ];
        for (offer, answer) in answers {
            assert_eq!(answer, agreed(offer).as_deref(), "{offer}");
        }
    }

    fn pair(offer: &str) -> (Deflater, Inflater) {
        let mut agreed = Agreement::of([offer].into_iter()).unwrap();
        let deflater = agreed.deflater();
        // The other side of the same direction.
        agreed.client_bits = Some(agreed.server_bits);
        agreed.client_forgets = agreed.server_forgets;
        (deflater, agreed.inflater())
    }

    #[test]
    fn messages_survive_with_and_without_their_context() {
        let noise: Vec<u8> = (0..100_000_u32).map(|it| (it.wrapping_mul(it) >> 7) as u8).collect();
        for offer in [
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits=9",
        ] {
            let (mut deflater, mut inflater) = pair(offer);
            for n in [0, 1, 100, 5000, 70_000, 3, 100_000, 5000] {
                let message = [&noise[..n / 2], &vec![b'x'; n - n / 2]].concat();
                if let Some(deflated) = deflater.deflate(&message) {
                    assert!(deflated.len() < message.len());
                    assert_eq!(Ok(message), inflater.inflate(deflated, 100_000), "{offer}, {n}");
                }
            }
        }
    }

    #[test]
    fn a_message_is_short_if_it_repeats_the_one_before() {
        let (mut deflater, mut inflater) = pair("permessage-deflate");
        let message: Vec<u8> = (0..2000_u32).map(|it| ((it * 7919) >> 5) as u8).collect();
        let first = deflater.deflate(&message);
        let Some(first) = first else { panic!("it is not compressed") };
        let second = deflater.deflate(&message).unwrap();
        assert!(second.len() < first.len() / 4, "{} and {} bytes", first.len(), second.len());
        assert_eq!(message, inflater.inflate(first, 10_000).unwrap());
        assert_eq!(message, inflater.inflate(second, 10_000).unwrap());
    }

    #[test]
    fn the_examples_of_rfc_7692_are_read() {
        let (_, mut inflater) = pair("permessage-deflate");
        let hello = b"Hello".to_vec();
        let examples: [&[u8]; 4] = [
            // 7.2.3.1, and again with its context, 7.2.3.2
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
            &[0xf2, 0x00, 0x11, 0x00, 0x00],
            // 7.2.3.3, a block without compression; 7.2.3.4, a final block
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        ];
        for example in examples {
            assert_eq!(Ok(hello.clone()), inflater.inflate(example.to_vec(), 5), "{example:x?}");
        }
        // 7.2.3.5, two blocks
        let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(Ok(hello), inflater.inflate(two.to_vec(), 5));
    }

    #[test]
    fn too_much_and_nonsense_are_refused() {
        let (mut deflater, mut inflater) = pair("permessage-deflate");
        let bomb = deflater.deflate(&vec![0; 1 << 20]).unwrap();
        assert_eq!(Err(InflateError::TooLarge), inflater.inflate(bomb, 1 << 16));
        assert_eq!(Err(InflateError::Corrupt), inflater.inflate(vec![0xFF; 20], 1000));
    }
}
