//! One I/O operation, tried at once where it stands.
//!
//! Every function here makes its system call without blocking and returns an [`Attempt`]:
//! `Some` of the result, or `None` when the operation would block. It knows nothing of waiting.

use std::io::IoSlice;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags};

use crate::error::{Error, Result};

/// The outcome of trying an operation: done, or `None`: it would block.
pub type Attempt<T> = Result<Option<T>>;

/// A socket's descriptor, lent by the object that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketFd(RawFd);

impl SocketFd {
    /// Lend a descriptor. Its owner keeps it open as long as operations are tried on it; a
    /// descriptor that was closed all the same gives `EBADF`.
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
        // call only, which answers EBADF should the owner have closed it.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}

/// Receive into `buffer`; 0 bytes mean that the peer has ended its half.
pub fn recv(fd: SocketFd, buffer: &mut [u8]) -> Attempt<usize> {
    attempt("recv", || {
        rustix::net::recv(fd.borrow(), &mut *buffer, RecvFlags::DONTWAIT).map(|(_, n)| n)
    })
}

/// Send what there is room for; the result is a count of bytes.
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

/// Accept a connection as a non-blocking descriptor that child processes do not inherit.
///
/// The caller owns the descriptor. A connection that its peer gave up before it was accepted is
/// skipped.
pub fn accept(fd: SocketFd) -> Attempt<RawFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    loop {
        match attempt("accept", || rustix::net::accept_with(fd.borrow(), flags)) {
            Err(Error { errno: Errno::CONNABORTED, .. }) => {}
            outcome => return outcome.map(|accepted| accepted.map(IntoRawFd::into_raw_fd)),
        }
    }
}

/// End the writing half: the peer reads an end after what was sent.
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
    fn a_closed_descriptor_is_an_error_of_its_operation() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let error = send(SocketFd::new(ours.as_raw_fd()), b"x").unwrap_err();
        assert_eq!(Error::new("send", Errno::PIPE), error);
    }
}
