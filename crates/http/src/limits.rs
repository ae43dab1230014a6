//! What a server allows its clients.

use std::time::Duration;

use crate::websocket;

/// The limits of a server. Each refusal has a status of its own, and is counted in [`Metrics`](crate::Metrics).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests in flight; more are answered with 503.
    pub concurrency: Option<usize>,
    /// Open connections; further ones wait in the backlogs of the listening sockets.
    pub connections: Option<usize>,
    /// Bytes of a request's target; more are answered with 414.
    pub request_line: usize,
    /// Fields of a request's head; more are answered with 431.
    pub request_headers: usize,
    /// Bytes of a request's head; more are answered with 431.
    pub request_head: usize,
    /// Bytes of a request's body; more are answered with 413.
    pub request_body: Option<u64>,
    /// How long a connection may be idle between two requests.
    pub keep_alive: Duration,
    /// How long a client may take for a request's head, from its first byte on; then it is answered with 408. A new
    /// connection that sends nothing for so long is closed without an answer: there is no request that it could be for.
    pub head: Duration,
    /// How long a client may pause within a body that the application waits for; then it is answered with 408.
    pub body: Duration,
    /// How long a client may take nothing of a response; then its connection is reset.
    pub response: Duration,
    /// How many unsent bytes of a response make its application wait.
    pub send_high_water: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency: None,
            connections: None,
            request_line: 16 * 1024,
            request_headers: 100,
            request_head: 64 * 1024,
            request_body: None,
            keep_alive: Duration::from_secs(5),
            head: Duration::from_secs(30),
            body: Duration::from_secs(60),
            response: Duration::from_secs(60),
            send_high_water: 64 * 1024,
        }
    }
}

impl Limits {
    /// How often connections have to be looked at, so that none overstays by much.
    pub(crate) fn check_interval(&self, websockets: Option<&websocket::Options>) -> Duration {
        let pings = websockets.into_iter().flat_map(|it| [it.ping_interval, it.ping_timeout]);
        let shortest = [self.keep_alive, self.head, self.body, self.response]
            .into_iter()
            .chain(pings.flatten())
            .fold(Duration::MAX, Duration::min);
        (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1))
    }
}
