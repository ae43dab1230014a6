//! Frames of the fuzzer, fed to a connection of HTTP/2.

#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use threadlets_http::Server;

#[path = "../harness.rs"]
mod harness;

static SERVER: OnceLock<Arc<Server>> = OnceLock::new();

fuzz_target!(|input: &[u8]| harness::feed_http2(SERVER.get_or_init(harness::server), input));
