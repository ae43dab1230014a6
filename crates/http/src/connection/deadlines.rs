//! The deadlines of a connection's client.

use std::mem;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use std::time::Duration;

use super::{HttpConnection, IDLE_WHILE_DRAINING, LINGER, Progress, Protocol, REST, Times};
use crate::http2::Http2;
use crate::link::HttpLink;
use crate::server::Server;
use crate::wakes::looking_afterwards;

impl HttpConnection {
    /// Look at the deadlines of the connection; `None`: there is nothing to do.
    pub fn check(&mut self, now_ns: u64) -> Option<Progress> {
        let (link, times) = (Arc::clone(&self.link), self.times);
        let (limits, metrics) = (&link.server.limits, &link.server.metrics);
        let is_past = |since_ns: u64, limit: Duration| {
            now_ns.saturating_sub(since_ns) > limit.as_nanos() as u64
        };
        if let Some(since_ns) = times.lingers_ns {
            if is_past(since_ns, LINGER) {
                self.protocol = Protocol::Closed;
                return Some(self.progress());
            }
            return None;
        }
        if let Protocol::Http2(http) = &mut self.protocol {
            return check_http2(http, self.fd, &link, &mut self.times, now_ns).then(|| {
                self.protocol = Protocol::Closed;
                self.progress()
            });
        }
        if let Protocol::WebSocket(driver) = &mut self.protocol {
            let turn = driver.check(&mut Context::from_waker(&self.waker), now_ns)?;
            if let Protocol::WebSocket(driver) = mem::replace(&mut self.protocol, Protocol::Closed)
            {
                self.protocol = self.after(turn, driver, now_ns);
            }
            return Some(self.progress());
        }
        // Without room, a response is still on its way.
        let is_stuck = !link.may_write.load(Relaxed);
        if link.n_in_flight.load(Relaxed) == 0 && !is_stuck {
            let Some(idle_ns) = times.idle_ns else {
                if is_past(times.read_ns, limits.head) {
                    metrics.timeouts_head.count();
                    return Some(self.time_out(now_ns));
                }
                return None;
            };
            if is_past(idle_ns, patience(&link.server, times.n_requests)) {
                metrics.timeouts_idle.count();
                self.protocol = Protocol::Closed;
                return Some(self.progress());
            }
            return None;
        }
        if is_stuck && is_past(times.written_ns.max(times.read_ns), limits.response) {
            if self.times.takes_a_little(self.fd, now_ns) {
                return None;
            }
            metrics.timeouts_response.count();
            self.reset();
            return Some(self.progress());
        }
        None
    }

    /// Whether the client has paused for too long within the body of a request.
    pub fn is_body_overdue(&self, now_ns: u64) -> bool {
        let limit = self.link.server.limits.body.as_nanos() as u64;
        now_ns.saturating_sub(self.times.read_ns) > limit
    }

    /// Answer 408 to half a head, and close.
    fn time_out(&mut self, now_ns: u64) -> Progress {
        const TIMED_OUT: &[u8] =
            b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let mut socket = match mem::replace(&mut self.protocol, Protocol::Closed) {
            Protocol::Http1(http) => http.into_parts().io,
            Protocol::Resting(socket) => socket,
            _ => return self.progress(),
        };
        if !socket.is_established() {
            self.link.server.metrics.tls_handshakes_failed.count();
            return self.progress();
        }
        if socket.agreed_on_http2() == Some(true) {
            return self.progress();
        }
        let _ = socket.send(TIMED_OUT);
        self.link.server.metrics.responses[4].count();
        self.link.may_read.store(true, Relaxed);
        self.protocol = self.close(socket, now_ns);
        self.progress()
    }
}

/// How long a connection may be idle that has had this many requests.
fn patience(server: &Server, n_requests: u64) -> Duration {
    let usual = if n_requests == 0 { server.limits.head } else { server.limits.keep_alive };
    if server.is_draining() { IDLE_WHILE_DRAINING.min(usual) } else { usual }
}

/// Look at the deadlines of a connection with HTTP/2; whether it is over.
///
/// One that was idle for too long is told to go away, and closed when it has, or some time later.
fn check_http2(
    http: &mut Http2,
    fd: RawFd,
    link: &HttpLink,
    times: &mut Times,
    now_ns: u64,
) -> bool {
    let (limits, metrics) = (&link.server.limits, &link.server.metrics);
    let is_past =
        |since_ns: u64, limit: Duration| now_ns.saturating_sub(since_ns) > limit.as_nanos() as u64;
    let wake = || looking_afterwards(|| link.server.wakes.push(link.number));
    if link.server.is_draining() && http.goes_away_ns.is_none() {
        http.go_away(now_ns);
        wake();
    }
    let Some(idle_ns) = times.idle_ns else {
        let lacks_window = times.has_pieces && is_past(times.piece_moved_ns, limits.response);
        let lacks_room = !link.may_write.load(Relaxed)
            && is_past(times.written_ns, limits.response)
            && !times.takes_a_little(fd, now_ns);
        if lacks_window || lacks_room {
            metrics.timeouts_response.count();
            http.reset_on_close();
            return true;
        }
        return false;
    };
    match http.goes_away_ns {
        // Clients answer to it at once.
        Some(since_ns) if link.server.is_draining() => {
            is_past(since_ns.max(idle_ns), IDLE_WHILE_DRAINING)
        }
        Some(since_ns) => is_past(since_ns.max(idle_ns), LINGER),
        None => {
            if is_past(idle_ns, patience(&link.server, times.n_requests)) {
                metrics.timeouts_idle.count();
                http.go_away(now_ns);
                wake();
            } else if is_past(idle_ns, REST) {
                http.rest();
            }
            false
        }
    }
}
