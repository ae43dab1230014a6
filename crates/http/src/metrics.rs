//! What a server counts.

mod shared;

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use shared::{SharedMetrics, Slot};

/// The upper bounds of the histogram of response times, in microseconds; one more bucket has no bound.
pub const TIME_BOUNDS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 1_000_000, 10_000_000];

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of a server, since it was made.
        #[derive(Debug, Default)]
        #[repr(C)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: Counter,)*
            /// Responses by the first digit of their status.
            pub responses: [Counter; 6],
            /// Responses by the time that they took: see [`TIME_BOUNDS_US`].
            pub response_times: [Counter; TIME_BOUNDS_US.len() + 1],
            /// The sum of these times, in microseconds.
            pub response_time_us: Counter,
        }

        impl Metrics {
            /// The plain counters, with their names.
            pub fn counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)*].into_iter()
            }

            /// Add what others have counted.
            pub fn add(&self, others: &Self) {
                $(self.$name.add(others.$name.get());)*
                self.response_time_us.add(others.response_time_us.get());
                let lists = [
                    (&self.responses[..], &others.responses[..]),
                    (&self.response_times[..], &others.response_times[..]),
                ];
                for (own, other) in lists.into_iter().flat_map(|(own, other)| own.iter().zip(other)) {
                    own.add(other.get());
                }
            }
        }
    };
}

counters! {
    /// Connections that were accepted.
    connections_accepted,
    /// Connections that were closed.
    connections_closed,
    /// How often clients had to wait because there were as many connections as are allowed.
    accepting_paused,
    /// Requests that have begun: their heads could be parsed.
    requests,
    /// Requests that have ended.
    requests_ended,
    /// Requests whose clients had left before their responses were sent.
    clients_left,
    /// Requests that the parser refused.
    refused_malformed,
    /// Requests with a target, a head or too many header fields above their limits.
    refused_head_too_large,
    /// Requests with a body above its limit.
    refused_body_too_large,
    /// Requests beyond the limit of those in flight.
    refused_busy,
    /// Connections that stayed idle for too long.
    timeouts_idle,
    /// Connections that took too long for the head of a request.
    timeouts_head,
    /// Connections that took too long for the body of a request.
    timeouts_body,
    /// Connections that took nothing of a response for too long.
    timeouts_response,
    /// TLS handshakes that were completed.
    tls_handshakes,
    /// TLS handshakes that failed, or that were none.
    tls_handshakes_failed,
    /// HTTP/2 connections that were closed because their clients reset too many streams.
    refused_resets,
    /// HTTP/2 connections that were closed because their clients sent too many frames of other kinds.
    refused_floods,
    /// Websockets whose clients did not answer a ping in time.
    timeouts_ping,
    /// Bytes that were received.
    bytes_received,
    /// Bytes that were sent.
    bytes_sent,
    /// Requests whose application failed.
    application_errors,
    /// Connections that became websockets.
    websockets,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The number so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Add one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Add `n`. All of it is done by one thread at a time, the one that drives the server's connections.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed) + n, Relaxed);
    }
}

/// Where a server counts: in memory of its own, or in a slot of memory that processes share.
#[derive(Debug)]
pub enum ServerMetrics {
    /// Nobody else adds up what is counted.
    Own(Box<Metrics>),
    /// Other processes show it, too.
    Shared(Slot),
}

impl Default for ServerMetrics {
    fn default() -> Self {
        Self::Own(Box::default())
    }
}

impl Deref for ServerMetrics {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        match self {
            Self::Own(metrics) => metrics,
            Self::Shared(slot) => slot,
        }
    }
}

impl Metrics {
    /// How many connections are open.
    pub fn n_connections(&self) -> u64 {
        let n_closed = self.connections_closed.get();
        self.connections_accepted.get().saturating_sub(n_closed)
    }

    /// How many requests have begun and have not ended.
    pub fn n_in_flight(&self) -> u64 {
        let n_ended = self.requests_ended.get();
        self.requests.get().saturating_sub(n_ended)
    }

    /// Count what was open and in flight as ended: the process that has counted here is gone.
    pub fn settle(&self) {
        self.connections_closed.add(self.n_connections());
        self.requests_ended.add(self.n_in_flight());
    }

    /// Count a response.
    pub(crate) fn responded(&self, status: http::StatusCode, took: Duration) {
        self.requests_ended.count();
        if let Some(counter) = self.responses.get(usize::from(status.as_u16() / 100)) {
            counter.count();
        }
        let us = took.as_micros() as u64;
        let bucket = TIME_BOUNDS_US.partition_point(|&bound| bound < us);
        self.response_times[bucket].count();
        self.response_time_us.add(us);
    }
}
