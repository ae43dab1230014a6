//! A listening socket's accepted connections that are not served yet.
//!
//! Accepting is cheap and must not wait: the kernel's backlog refuses clients when it is full, and they try
//! again a second later. Serving a connection costs far more, in time and in memory. So connections are
//! accepted as they come, and held here as bare descriptors until they are served.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use crate::error::Result;
use crate::socket::{self, Address, SocketFd};

/// The most connections that one call of `accept` accepts.
const ACCEPTED_AT_ONCE_MAX: usize = 256;

/// The most connections that are held. The others stay in the kernel's backlog.
const HELD_MAX: usize = 16 * 1024;

/// A connection that is not served yet, with its peer's address.
pub type AcceptedConnection = (OwnedFd, Address);

/// The accepted connections of a listening socket.
#[derive(Debug)]
pub struct Backlog {
    fd: SocketFd,
    held: VecDeque<AcceptedConnection>,
}

impl Backlog {
    /// The backlog of a listening socket, which its owner keeps open.
    pub fn new(fd: SocketFd) -> Self {
        Self { fd, held: VecDeque::new() }
    }

    /// Accept the connections that are waiting, within the limits; returns whether there may be more.
    ///
    /// A failure is reported only when no connections are held: they need not be given up for it, and
    /// their end may help (if descriptors have run out).
    pub fn accept(&mut self) -> Result<bool> {
        self.accept_at_most(usize::MAX)
    }

    /// Accept as [`Backlog::accept`] does, but no more than `n_max` connections.
    pub fn accept_at_most(&mut self, n_max: usize) -> Result<bool> {
        let held_max = HELD_MAX.min(self.held.len().saturating_add(n_max));
        for _ in 0..ACCEPTED_AT_ONCE_MAX {
            if self.held.len() >= held_max {
                return Ok(true);
            }
            match socket::accept(self.fd) {
                Ok(Some(connection)) => self.held.push_back(connection),
                Ok(None) => return Ok(false),
                Err(_) if !self.held.is_empty() => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether the kernel holds connections that were not accepted.
    pub fn has_waiting(&self) -> bool {
        socket::is_readable(self.fd)
    }

    /// Take out the connection that has been held for the longest time.
    pub fn take(&mut self) -> Option<AcceptedConnection> {
        self.held.pop_front()
    }

    /// How many connections are held.
    pub fn n_held(&self) -> usize {
        self.held.len()
    }

    /// Take out all connections that are held; dropping them refuses them.
    pub fn take_all(&mut self) -> VecDeque<AcceptedConnection> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use rustix::io::Errno;

    fn listening() -> (TcpListener, Backlog) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let backlog = Backlog::new(SocketFd::new(listener.as_raw_fd()));
        (listener, backlog)
    }

    fn connect(listener: &TcpListener) -> TcpStream {
        TcpStream::connect(listener.local_addr().unwrap()).unwrap()
    }

    #[test]
    fn connections_are_held_in_the_order_in_which_they_came() {
        let (listener, mut backlog) = listening();
        assert_eq!(Ok(false), backlog.accept());
        let clients = [connect(&listener), connect(&listener)];
        assert_eq!((Ok(false), 2), (backlog.accept(), backlog.n_held()));
        for client in &clients {
            let (_, peer) = backlog.take().expect("the connection is held");
            assert_eq!(Address::Internet(client.local_addr().unwrap()), peer);
        }
        assert!(backlog.take().is_none());
    }

    #[test]
    fn what_is_beyond_the_number_that_is_wanted_stays_with_the_kernel() {
        let (listener, mut backlog) = listening();
        let _clients = [connect(&listener), connect(&listener), connect(&listener)];
        assert_eq!((Ok(true), 0), (backlog.accept_at_most(0), backlog.n_held()));
        assert_eq!((Ok(true), 2), (backlog.accept_at_most(2), backlog.n_held()));
        assert!(backlog.has_waiting());
        assert_eq!((Ok(false), 3), (backlog.accept_at_most(2), backlog.n_held()));
        assert!(!backlog.has_waiting());
    }

    #[test]
    fn a_failure_is_reported_when_all_connections_are_served() {
        let (listener, mut backlog) = listening();
        let _client = connect(&listener);
        backlog.accept().unwrap();
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        assert_eq!(Ok(true), backlog.accept());
        drop(backlog.take());
        assert_eq!(Errno::INVAL, backlog.accept().unwrap_err().errno);
    }

    #[test]
    fn a_backlog_that_is_given_up_refuses_the_connections_it_holds() {
        let (listener, mut backlog) = listening();
        let mut client = connect(&listener);
        backlog.accept().unwrap();
        drop(backlog.take_all());
        assert_eq!((0, 0), (backlog.n_held(), client.read(&mut [0; 1]).unwrap()));
    }
}
