//! What an engine's thread asks of whoever makes its system calls: a ring, worker threads, or a
//! simulation.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::{Error, Result};
use crate::syslet::Call;

/// Names an operation in flight.
pub(crate) type Key = u32;

/// What came back: which operation, and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) key: Key,
    pub(crate) value: i64,
}

/// Makes system calls that block, and waits for them. It belongs to one thread.
///
/// Every operation that was started comes back exactly once, also when it was cancelled: until then
/// its addresses are in use.
pub(crate) trait Backend {
    /// Begin an operation; its key is not in use.
    ///
    /// # Safety
    /// The call's addresses are valid for what it does, and nobody else's, until the operation has come back.
    unsafe fn start(&mut self, key: Key, call: Call);

    /// The same for what has to block a thread: connecting to a Unix socket whose
    /// backlog is full.
    ///
    /// # Safety
    /// As for [`Self::start`].
    unsafe fn start_patiently(&mut self, key: Key, call: Call) {
        // SAFETY: the caller's.
        unsafe { self.start(key, call) }
    }

    /// Whether `start` opens named pipes without waiting for the other end, or fails to.
    fn opens_half(&self) -> bool {
        false
    }

    /// Have an operation come back soon, with `ECANCELED` if it did nothing.
    fn cancel(&mut self, key: Key);

    /// Wait until something has come back, the waker was rung, or the deadline has passed; without
    /// a deadline, for as long as it takes. What has come back already does not wait.
    fn wait(&mut self, deadline_ns: Option<u64>, completions: &mut Vec<Completion>);

    /// The time, in nanoseconds, that deadlines refer to.
    fn now_ns(&self) -> u64;

    /// Whether operations on descriptors that become ready (sockets, pipes) are not to be started
    /// here: their readiness is waited for, by `poll`, and they are tried again.
    fn waits_for_readiness(&self) -> bool;

    /// Whether operations are to be tried where the run stands before they are started here.
    fn tries_first(&self) -> bool;
}

/// How other threads wake an engine's thread.
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn new() -> Result<Self> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Self)
            .map_err(|errno| Error::new("eventfd", errno))
    }

    /// Wake the thread, now or when it next waits.
    pub(crate) fn wake(&self) {
        // It can only fail when the counter is full: then the thread is woken anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Forget all rings so far.
    pub(crate) fn reset(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
