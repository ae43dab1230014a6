//! Backend: the interface of an engine's thread to what makes its system calls, which is a ring, epoll
//! with a blocking pool, or a simulation.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::error::{Error, Result};
use crate::syslet::Call;

/// Identifies an operation in flight.
pub(crate) type Key = u32;

/// An operation that has come back, with its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    pub(crate) key: Key,
    pub(crate) value: i64,
}

/// Makes system calls that block, and waits for them. It belongs to one thread.
///
/// Every operation that was started comes back exactly once, even if it was cancelled; until then
/// its addresses are in use.
pub(crate) trait Backend {
    /// Start an operation under a key that is not in use.
    ///
    /// # Safety
    /// The call's addresses are valid for what it does, and nothing else uses them, until the operation
    /// has come back.
    unsafe fn start(&mut self, key: Key, call: Call);

    /// Start an operation that has to block a thread: connecting to a Unix socket whose backlog is full.
    ///
    /// # Safety
    /// As for [`Self::start`].
    unsafe fn start_blocking(&mut self, key: Key, call: Call) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.start(key, call) }
    }

    /// Whether `start` opens a named pipe at once or not at all, instead of waiting for its other end.
    fn opens_pipes_non_blocking(&self) -> bool {
        false
    }

    /// Have an operation come back soon, with `ECANCELED` if it did nothing.
    fn cancel(&mut self, key: Key);

    /// Wait until an operation has come back, the waker has been used, or the deadline has passed;
    /// without a deadline, for as long as it takes. Return at once if an operation has come back already.
    fn wait(&mut self, deadline_ns: Option<u64>, completions: &mut Vec<Completion>);

    /// The current time on the clock of the deadlines, in nanoseconds.
    fn now_ns(&self) -> u64;

    /// Whether the engine's thread must not start operations on descriptors that become ready (sockets,
    /// pipes): it starts a `poll` instead, and tries the operation again when the descriptor is ready.
    fn waits_for_readiness(&self) -> bool;

    /// Whether the engine's thread should try an operation inline before it starts the operation here.
    fn tries_first(&self) -> bool;
}

/// Wakes an engine's thread from other threads.
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
        // The write fails only when the counter is full, and then the thread wakes anyway.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Forget all wake-ups so far.
    pub(crate) fn reset(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
