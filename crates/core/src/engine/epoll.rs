//! The backend on epoll and a blocking pool, for systems where io_uring is missing or forbidden.
//!
//! An operation that waits for a descriptor waits by epoll; one that waits for a disk blocks a thread of
//! the pool. An operation that waits for another party without a descriptor that becomes ready (any
//! child, the other end of a named pipe) is tried again at intervals. So only disks hold a thread of the
//! pool, and everything else can be cancelled: fsync and its like continue until they are done, cancelled
//! or not, and stopping the engine waits for them. Opening a named pipe holds no thread, since it is tried
//! without blocking until the other end is open too. One other call can hold a thread: an accept on a
//! blocking listener from which code outside of the engine accepts as well.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::backend::{Backend, Completion, Key};
use super::blocking::{self, DescriptorLocks, NOT_YET};
use super::blocking_pool::BlockingPool;
use super::command_queue::CommandQueue;
use super::epoll_set::{EpollSet, ReadyOperation};
use crate::clock;
use crate::error::Result;
use crate::syslet::{Call, Op, fd, readiness};
use crate::timers::{TimerKey, Timers};

/// How long to wait before another attempt at an operation for which no event comes, in nanoseconds.
pub(crate) const RETRY_NS: u64 = 10_000_000;

const CANCELED: i64 = -(libc::ECANCELED as i64);

/// Where an operation stands.
#[derive(Debug, Clone, Copy)]
enum OperationState {
    /// On the engine's thread, which is about to make the call, or to make it again.
    BeingMade,
    /// Queued or running in the blocking pool.
    InPool,
    /// Waiting for a descriptor.
    AwaitsReadiness(RawFd),
    /// Waiting until it is time for another attempt.
    AwaitsRetry(TimerKey),
}

#[derive(Debug)]
struct EpollOperation {
    call: Call,
    state: OperationState,
    is_cancelled: bool,
    /// It opens a named pipe, and waits for the other end.
    opens_pipe: bool,
    /// Our end of the named pipe, if it is open already.
    our_end: Option<OwnedFd>,
    /// A pidfd of the child that it waits for.
    child_pidfd: Option<OwnedFd>,
}

/// The epoll backend of one engine thread.
pub(crate) struct EpollBackend {
    pool: BlockingPool,
    epoll_set: EpollSet,
    operations: HashMap<Key, EpollOperation>,
    retry_timers: Timers<Key>,
    ready: Vec<ReadyOperation>,
    /// Operations that the pool has given back.
    pool_completions: Vec<Completion>,
    /// Operations that the next `wait` gives back.
    completed: Vec<Completion>,
    locks: Arc<DescriptorLocks>,
    commands: Arc<CommandQueue>,
}

impl EpollBackend {
    /// Create the backend of a thread; `locks` are the engine's.
    pub(crate) fn new(commands: &Arc<CommandQueue>, locks: &Arc<DescriptorLocks>) -> Result<Self> {
        let pool_locks = Arc::clone(locks);
        Ok(Self {
            pool: BlockingPool::new(commands, move |call| {
                // SAFETY: `start` requires valid addresses until the operation has come back.
                unsafe { blocking::perform(call, &pool_locks) }
            }),
            epoll_set: EpollSet::new(commands.waker.as_fd())?,
            operations: HashMap::new(),
            retry_timers: Timers::default(),
            ready: Vec::new(),
            pool_completions: Vec::new(),
            completed: Vec::new(),
            locks: Arc::clone(locks),
            commands: Arc::clone(commands),
        })
    }

    /// Make an operation's call, on this thread or in the pool.
    fn make_call(&mut self, key: Key) {
        let Some(operation) = self.operations.get_mut(&key) else { return };
        let call = operation.call;
        operation.state = OperationState::BeingMade;
        let value = match call.op() {
            // SAFETY: `start` requires valid addresses until the operation has come back.
            _ if operation.opens_pipe => unsafe {
                blocking::open_pipe(&call, &mut operation.our_end)
            },
            Op::Recv | Op::Send | Op::Recvmsg | Op::Sendmsg | Op::Connect | Op::Waitid => {
                // SAFETY: see above.
                unsafe { blocking::perform(&call, &self.locks) }
            }
            _ => {
                operation.state = OperationState::InPool;
                // SAFETY: see above.
                return unsafe { self.pool.start(key, call) };
            }
        };
        self.handle_value(key, value);
    }

    /// Handle the value of an operation's call, which may be `NOT_YET`.
    fn handle_value(&mut self, key: Key, value: i64) {
        if value != NOT_YET {
            return self.finish(key, value);
        }
        let Some(operation) = self.operations.get_mut(&key) else { return };
        if operation.is_cancelled {
            return self.finish(key, CANCELED);
        }
        let is_open = matches!(operation.call.op(), Op::Openat | Op::Openat2);
        if is_open && !operation.opens_pipe {
            operation.opens_pipe = true;
            return self.make_call(key);
        }
        match operation.fd_to_await() {
            Some((fd, events)) => self.wait_for_readiness(key, fd, events),
            None => self.retry_later(key),
        }
    }

    fn wait_for_readiness(&mut self, key: Key, fd: RawFd, events: i16) {
        if let Some(operation) = self.operations.get_mut(&key) {
            operation.state = OperationState::AwaitsReadiness(fd);
            self.epoll_set.add(key, fd, events as u16, &mut self.ready);
        }
    }

    fn retry_later(&mut self, key: Key) {
        if let Some(operation) = self.operations.get_mut(&key) {
            let timer = self.retry_timers.start(clock::now_ns() + RETRY_NS, key);
            operation.state = OperationState::AwaitsRetry(timer);
        }
    }

    fn finish(&mut self, key: Key, value: i64) {
        self.operations.remove(&key);
        self.completed.push(Completion { key, value });
    }

    /// Handle calls that the pool has made, attempts that are due, and descriptors that are ready.
    fn process_events(&mut self) {
        self.pool.collect(&mut self.pool_completions);
        for Completion { key, value } in std::mem::take(&mut self.pool_completions) {
            self.handle_value(key, value);
        }
        if !self.retry_timers.is_empty() {
            let now_ns = clock::now_ns();
            while let Some(key) = self.retry_timers.pop_due(now_ns) {
                self.make_call(key);
            }
        }
        for (key, value) in std::mem::take(&mut self.ready) {
            let Some(operation) = self.operations.get(&key) else { continue };
            match operation.call.op() {
                Op::Poll => self.finish(key, value),
                _ if operation.is_cancelled => self.finish(key, CANCELED),
                // If the descriptor is bad, the call itself reports the error.
                _ => self.make_call(key),
            }
        }
    }
}

impl EpollOperation {
    /// The descriptor and events that the operation waits for; `None` if no event tells.
    fn fd_to_await(&mut self) -> Option<(RawFd, i16)> {
        if self.call.op() != Op::Waitid {
            return readiness::unready_fd(&self.call);
        }
        let (kind, id, options) = (self.call.int(0) as u32, self.call.int(1), self.call.int(2));
        // A pidfd becomes readable when the child ends, not when it stops or continues.
        if options & (libc::WSTOPPED | libc::WCONTINUED) != 0 {
            return None;
        }
        let fd = match kind {
            libc::P_PIDFD => id,
            libc::P_PID => {
                if self.child_pidfd.is_none() {
                    self.child_pidfd = fd::pidfd(id).ok();
                }
                self.child_pidfd.as_ref()?.as_raw_fd()
            }
            _ => return None,
        };
        (fd::poll(fd, libc::POLLIN, 0) == 0).then_some((fd, libc::POLLIN))
    }
}

impl Backend for EpollBackend {
    unsafe fn start(&mut self, key: Key, call: Call) {
        let operation = EpollOperation {
            call,
            state: OperationState::BeingMade,
            is_cancelled: false,
            opens_pipe: false,
            our_end: None,
            child_pidfd: None,
        };
        self.operations.insert(key, operation);
        if call.op() == Op::Poll {
            self.wait_for_readiness(key, call.int(0), call.int(1) as i16);
        } else {
            self.make_call(key);
        }
    }

    fn cancel(&mut self, key: Key) {
        let Some(operation) = self.operations.get_mut(&key) else { return };
        operation.is_cancelled = true;
        match operation.state {
            // Its call is being made, and comes back soon.
            OperationState::BeingMade => {}
            OperationState::InPool => self.pool.cancel(key),
            OperationState::AwaitsReadiness(fd) => {
                if !self.ready.iter().any(|it| it.0 == key) {
                    self.epoll_set.remove(key, fd);
                    self.finish(key, CANCELED);
                }
            }
            OperationState::AwaitsRetry(timer) => {
                self.retry_timers.cancel(timer);
                self.finish(key, CANCELED);
            }
        }
    }

    fn wait(&mut self, deadline_ns: Option<u64>, completions: &mut Vec<Completion>) {
        self.process_events();
        let deadline_ns = match (deadline_ns, self.retry_timers.next_deadline_ns()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let timeout_ns = match deadline_ns {
            _ if !self.completed.is_empty() || !self.ready.is_empty() => Some(0),
            Some(0) => Some(0),
            Some(deadline_ns) => Some(deadline_ns.saturating_sub(clock::now_ns())),
            None => None,
        };
        if self.epoll_set.wait(timeout_ns, &mut self.ready) {
            self.commands.waker.reset();
        }
        self.process_events();
        completions.append(&mut self.completed);
    }

    fn now_ns(&self) -> u64 {
        clock::now_ns()
    }

    fn waits_for_readiness(&self) -> bool {
        true
    }

    fn tries_first(&self) -> bool {
        true
    }
}
