//! hyper's reads and writes, on a non-blocking socket: plain, or through a TLS session.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::framing::Follower;
use crate::link::HttpLink;
use crate::sealed::{self, Sealed};
use crate::session::{Session, TlsFailure};

/// The descriptor of a connection, and what its driver is told of it.
#[derive(Debug)]
pub(crate) struct Wire {
    fd: OwnedFd,
    pub(crate) link: Arc<HttpLink>,
}

impl Wire {
    /// Receive into uninitialised memory; `None` if there is nothing now, 0 at the end.
    pub(crate) fn receive(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Option<usize>> {
        let link = &self.link;
        if !link.may_read.load(Relaxed) {
            return Ok(None);
        }
        let n_wanted = buffer.len();
        loop {
            return match rustix::net::recv(self.fd.as_fd(), &mut *buffer, RecvFlags::DONTWAIT) {
                Ok(((filled, _), _)) => {
                    let n = filled.len();
                    if n == 0 && n_wanted > 0 {
                        link.is_read_closed.store(true, Relaxed);
                    } else if n < n_wanted && !link.distrusts_short_reads.load(Relaxed) {
                        // The next edge says when there is more.
                        link.may_read.store(false, Relaxed);
                    }
                    link.n_read.store(link.n_read.load(Relaxed) + n as u64, Relaxed);
                    link.server.metrics.bytes_received.add(n as u64);
                    Ok(Some(n))
                }
                Err(Errno::AGAIN) => {
                    link.may_read.store(false, Relaxed);
                    link.distrusts_short_reads.store(false, Relaxed);
                    Ok(None)
                }
                Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Send as much as there is room for; `None` if there is no room now.
    pub(crate) fn send(&self, data: &[u8]) -> io::Result<Option<usize>> {
        if let Some((sealed, at)) = sealed::find(data) {
            return self.send_sealed(&sealed, at, data.len());
        }
        self.sent(|| rustix::net::send(self.fd.as_fd(), data, send_flags()))
    }

    pub(crate) fn send_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        let found = slices.iter().enumerate().find_map(|(i, it)| Some((i, sealed::find(it)?)));
        let Some((n_before, (sealed, at))) = found else {
            return self.send_message(slices, send_flags());
        };
        let (before, part) = (&slices[..n_before], slices[n_before].len());
        let n_bytes: usize = before.iter().map(|it| it.len()).sum();
        if n_bytes == 0 {
            return self.send_sealed(&sealed, at, part);
        }
        match self.send_message(before, send_flags() | SendFlags::MORE)? {
            // An error is met again by the next attempt.
            Some(n) if n == n_bytes => {
                Ok(Some(n + self.send_sealed(&sealed, at, part).unwrap_or(None).unwrap_or(0)))
            }
            other => Ok(other),
        }
    }

    fn send_message(&self, slices: &[IoSlice<'_>], flags: SendFlags) -> io::Result<Option<usize>> {
        self.sent(|| {
            let mut no_ancillary = SendAncillaryBuffer::default();
            rustix::net::sendmsg(self.fd.as_fd(), slices, &mut no_ancillary, flags)
        })
    }

    /// Send a part of a file that is in memory, without copying it.
    fn send_sealed(&self, sealed: &Sealed, at: u64, n_bytes: usize) -> io::Result<Option<usize>> {
        self.sent(|| {
            rustix::fs::sendfile(self.fd.as_fd(), sealed.file(), Some(&mut at.clone()), n_bytes)
        })
    }

    fn sent(
        &self,
        mut send: impl FnMut() -> rustix::io::Result<usize>,
    ) -> io::Result<Option<usize>> {
        let link = &self.link;
        if !link.may_write.load(Relaxed) {
            link.is_unflushed.store(true, Relaxed);
            return Ok(None);
        }
        loop {
            return match send() {
                Ok(n) => {
                    link.n_written.store(link.n_written.load(Relaxed) + n as u64, Relaxed);
                    let in_hyper = link.n_in_hyper.load(Relaxed);
                    link.n_in_hyper.store(in_hyper.saturating_sub(n as u64), Relaxed);
                    link.server.metrics.bytes_sent.add(n as u64);
                    Ok(Some(n))
                }
                Err(Errno::AGAIN) => {
                    link.may_write.store(false, Relaxed);
                    link.is_unflushed.store(true, Relaxed);
                    link.awaits_room.store(true, Relaxed);
                    Ok(None)
                }
                Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }
}

/// How many bytes the kernel has taken for a socket and the peer has not acknowledged; `None` where it does not say.
pub(crate) fn n_unacknowledged(fd: RawFd) -> Option<u32> {
    let mut n_bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int, or fails if there is no such descriptor.
    let answer = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &mut n_bytes) };
    (answer == 0).then_some(n_bytes.unsigned_abs())
}

fn send_flags() -> SendFlags {
    SendFlags::DONTWAIT | SendFlags::NOSIGNAL
}

/// The socket of a connection. It tries each operation, and leaves waiting to the driver.
#[derive(Debug)]
pub(crate) struct Socket {
    wire: Wire,
    /// What was read before hyper was asked: the beginning of a request.
    prefix: Bytes,
    /// How much of that was read again.
    n_prefix_read: usize,
    /// How many requests there were before those of the prefix.
    n_requests_before: u64,
    /// hyper reads HTTP/1.1 of it.
    is_followed: bool,
    /// Follows what hyper reads, where bodies are to be found in it.
    follower: Option<Box<Follower>>,
    /// The TLS session; plain sockets have none.
    session: Option<Box<Session>>,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd, link: Arc<HttpLink>) -> Result<Self, rustls::Error> {
        let session = match &link.server.tls {
            Some(tls) => Some(Box::new(Session::new(tls)?)),
            None => None,
        };
        Ok(Self {
            wire: Wire { fd, link },
            prefix: Bytes::new(),
            n_prefix_read: 0,
            n_requests_before: 0,
            is_followed: true,
            follower: None,
            session,
        })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.wire.fd.as_raw_fd()
    }

    /// Put bytes back that were read: they are read again first. In HTTP/1.1, a request begins with them.
    pub(crate) fn put_back(&mut self, prefix: Bytes) {
        debug_assert!(self.prefix.len() == self.n_prefix_read);
        self.prefix = prefix;
        self.n_prefix_read = 0;
        let link = &self.wire.link;
        self.n_requests_before = link.n_requests.load(Relaxed);
        self.follower = None;
        link.forget_announced();
    }

    /// Take what was put back and not read.
    pub(crate) fn take_prefix(&mut self) -> Bytes {
        let mut prefix = std::mem::take(&mut self.prefix);
        prefix.advance(std::mem::take(&mut self.n_prefix_read));
        prefix
    }

    /// From now on, another protocol than HTTP/1.1 is read.
    pub(crate) fn stop_following(&mut self) {
        self.is_followed = false;
        self.follower = None;
    }

    /// Follow what hyper has read, up to these bytes, to see whether it misreads a body.
    fn follow(&mut self, read: &[u8]) {
        let link = &self.wire.link;
        link.has_chunks.store(false, Relaxed);
        let follower = self
            .follower
            .get_or_insert_with(|| Box::new(Follower::new(self.n_requests_before, &self.prefix)));
        let n_reported = link.n_requests.load(Relaxed);
        if follower.follow(read, n_reported, |number| link.take_announced(number)).is_err() {
            link.server.metrics.refused_malformed.count();
            link.is_misread.store(true, Relaxed);
        }
    }

    /// Whether HTTP can be spoken: there is no handshake that is not complete.
    pub(crate) fn is_established(&self) -> bool {
        self.session.as_ref().is_none_or(|it| it.is_established())
    }

    /// What the handshake has agreed on: whether that is HTTP/2. `None` without TLS.
    pub(crate) fn agreed_on_http2(&self) -> Option<bool> {
        self.session.as_ref().map(|it| it.agreed_on_http2())
    }

    /// Why the TLS session has failed, if it has.
    pub(crate) fn failure(&self) -> Option<TlsFailure> {
        self.session.as_ref().and_then(|it| it.failure())
    }

    /// From now on, send and receive in plain.
    pub(crate) fn drop_session(&mut self) {
        self.session = None;
    }

    /// Receive into uninitialised memory; `None` if there is nothing now, 0 at the end.
    pub(crate) fn receive(&mut self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Option<usize>> {
        let Some(session) = &mut self.session else {
            return Ok(match self.wire.receive(buffer)? {
                Some(0) if self.wire.link.hide_end() && !buffer.is_empty() => None,
                received => received,
            });
        };
        session.receive(&self.wire, buffer)
    }

    /// Receive what is dropped, TLS or not, as `receive`.
    pub(crate) fn discard(&self, buffer: &mut [MaybeUninit<u8>]) -> io::Result<Option<usize>> {
        self.wire.receive(buffer)
    }

    /// Send as much as there is room for; `None` if there is no room now.
    pub(crate) fn send(&mut self, data: &[u8]) -> io::Result<Option<usize>> {
        match &mut self.session {
            None => self.wire.send(data),
            Some(session) => session.send(&self.wire, &[IoSlice::new(data)]),
        }
    }

    fn send_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        match (&mut self.session, slices) {
            (None, [one]) => self.wire.send(one),
            (None, several) => self.wire.send_vectored(several),
            (Some(session), several) => session.send(&self.wire, several),
        }
    }

    /// Send what was encrypted and found no room; whether all of it is sent.
    fn flush(&mut self) -> io::Result<bool> {
        match &mut self.session {
            None => Ok(true),
            Some(session) => session.flush(&self.wire),
        }
    }

    /// End our half: the peer reads an end after what was sent.
    pub(crate) fn shut_down(&mut self) {
        self.say_end();
        let _ = rustix::net::shutdown(self.wire.fd.as_fd(), rustix::net::Shutdown::Write);
    }

    /// Tell a TLS peer that nothing follows.
    fn say_end(&mut self) {
        if let Some(session) = &mut self.session
            && !self.wire.link.resets.load(Relaxed)
        {
            session.say_end(&self.wire);
        }
    }

    /// Have the close reset the connection: the peer learns that what it got is not all.
    pub(crate) fn reset_on_close(&self) {
        self.wire.link.resets.store(true, Relaxed);
        let linger = Some(std::time::Duration::ZERO);
        let _ = rustix::net::sockopt::set_socket_linger(self.wire.fd.as_fd(), linger);
    }

    /// Give up the memory that is needed while bytes move only.
    pub(crate) fn rest(&mut self) {
        if self.n_prefix_read == self.prefix.len() {
            self.take_prefix();
        }
        self.follower = None;
        if let Some(session) = &mut self.session {
            session.rest();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.say_end();
    }
}

fn poll_of<T>(attempt: io::Result<Option<T>>) -> Poll<io::Result<T>> {
    match attempt {
        Ok(Some(value)) => Poll::Ready(Ok(value)),
        Ok(None) => Poll::Pending,
        Err(error) => Poll::Ready(Err(error)),
    }
}

impl Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.n_prefix_read < self.prefix.len() {
            let rest = &self.prefix[self.n_prefix_read..];
            let n = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..n]);
            self.n_prefix_read += n;
            return Poll::Ready(Ok(()));
        }
        // SAFETY: `receive` writes to the memory, and nothing is uninitialised by it.
        let memory = unsafe { buffer.as_mut() };
        let received = self.receive(memory);
        if let Ok(Some(n @ 1..)) = received
            && self.is_followed
        {
            // SAFETY: the first `n` bytes were written.
            let read = unsafe { std::slice::from_raw_parts(memory.as_ptr().cast::<u8>(), n) };
            self.follow(read);
        }
        poll_of(received).map_ok(|n| {
            // SAFETY: the first `n` bytes were written.
            unsafe { buffer.advance(n) }
        })
    }
}

impl Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        poll_of(self.send(data))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_of(self.send_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes when it has written all that it had, and after each request whose head it has read.
    fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.wire.link.has_chunks.load(Relaxed) {
            self.follow(&[]);
        }
        match self.flush() {
            Ok(true) => {
                self.wire.link.is_flushed();
                Poll::Ready(Ok(()))
            }
            Ok(false) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Nothing: the driver decides how a connection is closed.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
