//! A listening socket's backlog, and what has been accepted of it and is not served yet.
//!
//! Accepting is cheap and cannot wait: a backlog that is full refuses clients, who come back a second
//! later. Serving a connection costs far more, in time and in memory. So connections are accepted as
//! they come, and held here as bare descriptors until it is their turn.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use crate::error::Result;
use crate::op::{self, Address, SocketFd};

/// How many connections are accepted before anything else gets its turn.
const ACCEPTED_AT_ONCE_MAX: usize = 256;

/// How many connections are held. The kernel's backlog holds the others.
const HELD_MAX: usize = 16 * 1024;

/// A connection that is not served yet, with its peer's address.
pub type Connection = (OwnedFd, Address);

/// The connections of a listening socket.
#[derive(Debug)]
pub struct Backlog {
    fd: SocketFd,
    held: VecDeque<Connection>,
}

impl Backlog {
    /// The backlog of a listening socket, which its owner keeps open.
    pub fn new(fd: SocketFd) -> Self {
        Self { fd, held: VecDeque::new() }
    }

    /// Accept what is waiting, as far as may be for now; whether there may be more.
    ///
    /// A failure is not told before the connections that came first are served: nobody need give them
    /// up for it, and that they end may help.
    pub fn accept(&mut self) -> Result<bool> {
        for _ in 0..ACCEPTED_AT_ONCE_MAX {
            if self.held.len() >= HELD_MAX {
                return Ok(true);
            }
            match op::accept(self.fd) {
                Ok(Some(connection)) => self.held.push_back(connection),
                Ok(None) => return Ok(false),
                Err(_) if !self.held.is_empty() => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The connection that has been held for the longest time.
    pub fn take(&mut self) -> Option<Connection> {
        self.held.pop_front()
    }

    /// How many connections are held.
    pub fn n_held(&self) -> usize {
        self.held.len()
    }

    /// Hold none any more; dropping what is returned refuses them.
    pub fn give_up(&mut self) -> VecDeque<Connection> {
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
    fn a_failure_is_told_when_everybody_is_served() {
        let (listener, mut backlog) = listening();
        let _client = connect(&listener);
        backlog.accept().unwrap();
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        assert_eq!(Ok(true), backlog.accept());
        drop(backlog.take());
        assert_eq!(Errno::INVAL, backlog.accept().unwrap_err().errno);
    }

    #[test]
    fn a_backlog_that_is_given_up_refuses_whom_it_holds() {
        let (listener, mut backlog) = listening();
        let mut client = connect(&listener);
        backlog.accept().unwrap();
        drop(backlog.give_up());
        assert_eq!((0, 0), (backlog.n_held(), client.read(&mut [0; 1]).unwrap()));
    }
}
