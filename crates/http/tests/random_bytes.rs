//! Random bytes, and requests and frames with random changes, fed to a connection in random cuts, from a fixed seed.
//!
//! `HTTP_INPUTS` says how many; `HTTP_SEED` chooses others.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use threadlets_http::Server;

#[path = "../fuzz/harness.rs"]
mod harness;

const REQUESTS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /x?y HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nX: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\nX: \ty\r\n\r\n",
    b"GET http://a/x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
];

const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"-1",
    b"+",
    b"0x",
    b"chunked",
    b"close",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\xff",
    b"HTTP/1.1",
    b"ffffffffffffffff",
    b"99999999999999999999",
    b"Host: b\r\n",
    b"0\r\n\r\n",
];

/// SplitMix64: a sequence that a seed determines.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one<'a>(&mut self, of: &[&'a [u8]]) -> &'a [u8] {
        of[self.below(of.len())]
    }
}

/// Requests in a row, some with changes; now and then noise alone.
fn input(draw: &mut Draw) -> Vec<u8> {
    let mut bytes = vec![draw.next() as u8, draw.next() as u8];
    if draw.below(20) == 0 {
        let n_bytes = draw.below(300);
        bytes.extend((0..n_bytes).map(|_| draw.next() as u8));
        return bytes;
    }
    for _ in 0..=draw.below(3) {
        bytes.extend_from_slice(draw.one(REQUESTS));
    }
    for _ in 0..draw.below(6) {
        let place = 2 + draw.below(bytes.len() - 1);
        match draw.below(5) {
            0 => bytes.insert(place, draw.next() as u8),
            1 => {
                let end = (place + 1 + draw.below(8)).min(bytes.len());
                bytes.drain(place.min(end)..end);
            }
            2 if place < bytes.len() => bytes[place] ^= 1 << draw.below(8),
            3 => drop(bytes.splice(place..place, draw.one(TOKENS).iter().copied())),
            _ => {
                let from = 2 + draw.below(bytes.len() - 1);
                let end = (from + draw.below(20)).min(bytes.len());
                let copied = bytes[from.min(end)..end].to_vec();
                drop(bytes.splice(place..place, copied));
            }
        }
    }
    bytes
}

fn from_environment<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|it| it.parse().ok()).unwrap_or(default)
}

/// The seeds of a fuzz target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let mut paths: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(paths.len() > 20, "the seeds are not in {}", folder.display());
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A frame with a head that may lie, or one that most servers would take.
fn frame(draw: &mut Draw) -> Vec<u8> {
    const STREAMS: [u8; 8] = [0, 1, 1, 1, 3, 5, 2, 255];
    const REQUEST: &[u8] = b"\x83\x87\x84\x41\x01a";
    let kind = draw.below(11) as u8;
    let mut payload = match draw.below(4) {
        0 => REQUEST.to_vec(),
        1 => Vec::new(),
        2 => vec![0, 0, 0, draw.next() as u8],
        _ => (0..draw.below(20)).map(|_| draw.next() as u8).collect(),
    };
    if kind == 4 {
        payload = vec![0, draw.below(10) as u8, 0, 0, draw.next() as u8, draw.next() as u8];
    }
    let length = if draw.below(10) == 0 { draw.below(300) } else { payload.len() };
    let stream = STREAMS[draw.below(STREAMS.len())];
    let flags = draw.one(&[b"\0", b"\x01", b"\x04", b"\x05", b"\x0c", b"\x24"])[0];
    let head = [0, (length >> 8) as u8, length as u8, kind, flags, 0, 0, 0, stream];
    [&head[..], &payload].concat()
}

/// Frames: those of one or two seeds with changes, and some that nobody has written.
fn frames(draw: &mut Draw, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![draw.next() as u8, draw.next() as u8];
    for _ in 0..=draw.below(4) {
        match draw.below(3) {
            0 => bytes.extend(frame(draw)),
            _ => bytes.extend_from_slice(&seeds[draw.below(seeds.len())][2..]),
        }
    }
    for _ in 0..draw.below(4) {
        let place = 2 + draw.below(bytes.len() - 1);
        match draw.below(3) {
            0 => bytes.insert(place, draw.next() as u8),
            1 => drop(bytes.drain(place..(place + draw.below(9)).min(bytes.len()).max(place))),
            _ if place < bytes.len() => bytes[place] ^= 1 << draw.below(8),
            _ => {}
        }
    }
    bytes
}

/// Feed this many inputs, and show the one on which it fails.
fn feed_all(
    default: u64,
    feed: fn(&Arc<Server>, &[u8]),
    mut input: impl FnMut(&mut Draw) -> Vec<u8>,
) {
    let server = harness::server();
    let mut draw = Draw(from_environment("HTTP_SEED", 17));
    for number in 0..from_environment("HTTP_INPUTS", default) {
        let bytes = input(&mut draw);
        let fed = catch_unwind(AssertUnwindSafe(|| feed(&server, &bytes)));
        if let Err(panic) = fed {
            eprintln!("input {number}: {}", bytes.escape_ascii());
            resume_unwind(panic);
        }
    }
}

#[test]
fn random_inputs_are_answered_or_closed() {
    feed_all(50_000, harness::feed, input);
}

#[test]
fn random_frames_are_answered_or_closed() {
    let seeds = seeds("http2");
    feed_all(50_000, harness::feed_http2, |draw| frames(draw, &seeds));
}

#[test]
fn seeds_are_answered_or_closed() {
    let server = harness::server();
    for seed in seeds("http1") {
        harness::feed(&server, &seed);
    }
    for seed in seeds("http2") {
        harness::feed_http2(&server, &seed);
    }
}
