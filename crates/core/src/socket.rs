//! Sockets: their operations, tried at once and without blocking, and their addresses.
//!
//! Every function here makes its system call without blocking and returns an [`Attempt`]:
//! `Some` of the result, or `None` when the operation would block. This module does not wait.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags,
};

use crate::error::{Error, Result};

/// The outcome of trying an operation: its result, or `None` if it would block.
pub type Attempt<T> = Result<Option<T>>;

/// A socket's descriptor, lent by the object that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketFd(RawFd);

impl SocketFd {
    /// Lend a descriptor. Its owner keeps it open as long as operations are tried on it; on a
    /// descriptor that was closed nevertheless they fail with `EBADF`.
    ///
    /// # Panics
    ///
    /// When `fd` is negative: such a number never names a descriptor.
    pub fn new(fd: RawFd) -> Self {
        assert!(fd >= 0, "a descriptor is never negative: {fd}");
        Self(fd)
    }

    /// The descriptor's number.
    pub fn raw(self) -> RawFd {
        self.0
    }

    fn borrow(&self) -> BorrowedFd<'_> {
        // SAFETY: the number is not negative (checked in `new`), and it is used for one system
        // call only, which fails with EBADF if the owner has closed it.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// Whether there is something to read now: data, an end, or an error.
pub fn is_readable(fd: SocketFd) -> bool {
    let fd = fd.borrow();
    let mut polled = [PollFd::new(&fd, PollFlags::IN)];
    // If `poll` fails, say yes: the attempt to read will show.
    !matches!(poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
}

/// The address of one end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An Internet address and port.
    Internet(SocketAddr),
    /// The path of a Unix socket.
    Path(Vec<u8>),
    /// The name of a Unix socket in Linux' abstract namespace, without its leading zero byte.
    Abstract(Vec<u8>),
    /// No address: an unnamed Unix socket, or a family that we do not know.
    Unnamed,
}

impl Address {
    /// The address that the kernel has written into these bytes.
    pub(crate) fn from_kernel_bytes(bytes: &[u8]) -> Self {
        let Some((family, rest)) = bytes.split_first_chunk::<2>() else { return Self::Unnamed };
        let port = |rest: &[u8]| u16::from_be_bytes([rest[0], rest[1]]);
        match i32::from(u16::from_ne_bytes(*family)) {
            libc::AF_INET if rest.len() >= 6 => {
                let ip = Ipv4Addr::new(rest[2], rest[3], rest[4], rest[5]);
                Self::Internet(SocketAddr::from((ip, port(rest))))
            }
            libc::AF_INET6 if rest.len() >= 26 => {
                let word = |at: usize| {
                    u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]])
                };
                let mut octets = [0; 16];
                octets.copy_from_slice(&rest[6..22]);
                let address = SocketAddrV6::new(octets.into(), port(rest), word(2), word(22));
                Self::Internet(SocketAddr::V6(address))
            }
            libc::AF_UNIX => match rest {
                [] => Self::Unnamed,
                [0, name @ ..] if !name.is_empty() => Self::Abstract(name.to_vec()),
                path => Self::Path(path.split(|it| *it == 0).next().unwrap_or(path).to_vec()),
            },
            _ => Self::Unnamed,
        }
    }

    fn from_kernel(address: Option<SocketAddrAny>) -> Self {
        let Some(address) = address else { return Self::Unnamed };
        if let Ok(address) = SocketAddr::try_from(address.clone()) {
            return Self::Internet(address);
        }
        let Ok(address) = SocketAddrUnix::try_from(address) else { return Self::Unnamed };
        if let Some(path) = address.path_bytes() {
            return Self::Path(path.to_vec());
        }
        if let Some(name) = address.abstract_name().filter(|name| !name.is_empty()) {
            return Self::Abstract(name.to_vec());
        }
        Self::Unnamed
    }
}

/// Receive into `buffer`; 0 bytes mean that the peer has ended its half.
pub fn recv(fd: SocketFd, buffer: &mut [u8]) -> Attempt<usize> {
    attempt("recv", || {
        rustix::net::recv(fd.borrow(), &mut *buffer, RecvFlags::DONTWAIT).map(|(_, n)| n)
    })
}

/// Receive one datagram into `buffer`, with its sender's address; `None` when it has none.
///
/// The part of it that does not fit into the buffer is lost.
pub fn receive_from(fd: SocketFd, buffer: &mut [u8]) -> Attempt<(usize, Option<Address>)> {
    let received = attempt("recvfrom", || {
        rustix::net::recvfrom(fd.borrow(), &mut *buffer, RecvFlags::DONTWAIT)
    })?;
    Ok(received.map(|(_, n_bytes, sender)| {
        let n_bytes = n_bytes.min(buffer.len());
        (n_bytes, sender.map(|sender| Address::from_kernel(Some(sender))))
    }))
}

/// Send as much as there is room for; the result is a count of bytes.
pub fn send(fd: SocketFd, data: &[u8]) -> Attempt<usize> {
    attempt("send", || {
        rustix::net::send(fd.borrow(), data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
    })
}

/// Send several buffers in turn as if they were one.
pub fn send_vectored(fd: SocketFd, buffers: &[IoSlice<'_>]) -> Attempt<usize> {
    attempt("sendmsg", || {
        rustix::net::sendmsg(
            fd.borrow(),
            buffers,
            &mut SendAncillaryBuffer::default(),
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        )
    })
}

/// Accept a connection as a non-blocking descriptor that child processes do not inherit, with
/// its peer's address.
///
/// A connection that its peer gave up before it was accepted is skipped.
pub fn accept(fd: SocketFd) -> Attempt<(OwnedFd, Address)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    loop {
        match attempt("accept", || rustix::net::acceptfrom_with(fd.borrow(), flags)) {
            Err(Error { errno: Errno::CONNABORTED, .. }) => {}
            outcome => {
                return outcome
                    .map(|accepted| accepted.map(|(fd, peer)| (fd, Address::from_kernel(peer))));
            }
        }
    }
}

/// Whether this is a TCP socket, where data has no boundaries that could cut a receive short.
pub fn is_tcp(fd: SocketFd) -> bool {
    use rustix::net::{AddressFamily, sockopt};
    matches!(sockopt::socket_domain(fd.borrow()), Ok(AddressFamily::INET | AddressFamily::INET6))
}

/// Send small messages at once, without waiting for an acknowledgement of earlier ones.
pub fn set_nodelay(fd: SocketFd) -> Result<()> {
    rustix::net::sockopt::set_tcp_nodelay(fd.borrow(), true)
        .map_err(|errno| Error::new("setsockopt", errno))
}

/// The address to which a socket is bound.
pub fn local_address(fd: SocketFd) -> Result<Address> {
    rustix::net::getsockname(fd.borrow())
        .map(|address| Address::from_kernel(Some(address)))
        .map_err(|errno| Error::new("getsockname", errno))
}

/// The address to which a socket is connected.
pub fn peer_address(fd: SocketFd) -> Result<Address> {
    rustix::net::getpeername(fd.borrow())
        .map(Address::from_kernel)
        .map_err(|errno| Error::new("getpeername", errno))
}

/// End the writing half: the peer reads the end of the stream after the data that was sent.
pub fn shutdown_write(fd: SocketFd) -> Result<()> {
    rustix::net::shutdown(fd.borrow(), Shutdown::Write)
        .map_err(|errno| Error::new("shutdown", errno))
}

fn attempt<T>(
    operation: &'static str,
    mut call: impl FnMut() -> rustix::io::Result<T>,
) -> Attempt<T> {
    loop {
        match call() {
            Ok(value) => return Ok(Some(value)),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(Error::new(operation, errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn an_operation_that_would_block_says_so() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(Ok(None), recv(SocketFd::new(ours.as_raw_fd()), &mut [0; 8]));
    }

    #[test]
    fn vectored_sends_arrive_as_one() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let parts = [IoSlice::new(b"one, "), IoSlice::new(b"two")];
        assert_eq!(Ok(Some(8)), send_vectored(SocketFd::new(ours.as_raw_fd()), &parts));
        let mut buffer = [0; 16];
        assert_eq!(Ok(Some(8)), recv(SocketFd::new(theirs.as_raw_fd()), &mut buffer));
        assert_eq!(b"one, two", &buffer[..8]);
    }

    #[test]
    fn an_accepted_connection_knows_both_its_ends() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let fd = SocketFd::new(listener.as_raw_fd());
        assert!(matches!(accept(fd), Ok(None)));
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, peer) = accept(fd).unwrap().expect("a connection is waiting");
        assert_eq!(Address::Internet(client.local_addr().unwrap()), peer);
        let local = local_address(SocketFd::new(accepted.as_raw_fd())).unwrap();
        assert_eq!(Address::Internet(client.peer_addr().unwrap()), local);
    }

    #[test]
    fn a_datagram_comes_with_its_sender() {
        let ours = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let theirs = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = SocketFd::new(ours.as_raw_fd());
        let mut buffer = [0; 4];
        assert_eq!(Ok(None), receive_from(fd, &mut buffer));
        theirs.send_to(b"too long", ours.local_addr().unwrap()).unwrap();
        let sender = Address::Internet(theirs.local_addr().unwrap());
        assert_eq!(Ok(Some((4, Some(sender)))), receive_from(fd, &mut buffer));
        assert_eq!(b"too ", &buffer);
    }

    #[test]
    fn unix_addresses_are_told_apart() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(Ok(Address::Unnamed), local_address(SocketFd::new(ours.as_raw_fd())));
        let path = std::env::temp_dir().join(format!("threadlets-op-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let expected = Address::Path(path.as_os_str().as_encoded_bytes().to_vec());
        assert_eq!(Ok(expected), local_address(SocketFd::new(listener.as_raw_fd())));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_closed_descriptor_is_an_error_of_its_operation() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let error = send(SocketFd::new(ours.as_raw_fd()), b"x").unwrap_err();
        assert_eq!(Error::new("send", Errno::PIPE), error);
    }
}
