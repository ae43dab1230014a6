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
use super::epoll_set::{EpollSet, Fired};
use crate::clock;
use crate::error::Result;
use crate::syslet::{Call, Op, fd, readiness};
use crate::timers::{TimerKey, Timers};

/// How long to wait before another attempt at an operation for which no event comes, in nanoseconds.
pub(crate) const RETRY_NS: u64 = 10_000_000;

const CANCELED: i64 = -(libc::ECANCELED as i64);

/// Where an operation is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// On the engine's thread, which is about to make the call, or to make it again.
    Here,
    /// Queued or running in the blocking pool.
    Pool,
    /// Waiting for a descriptor.
    Readiness(RawFd),
    /// Waiting until it is time for another attempt.
    Retry(TimerKey),
}

#[derive(Debug)]
struct EpollOperation {
    call: Call,
    place: Place,
    is_cancelled: bool,
    /// It opens a named pipe, and waits for the other end.
    opens_pipe: bool,
    /// Our end of the named pipe, if it is open already.
    half: Option<OwnedFd>,
    /// A pidfd of the child that it waits for.
    child: Option<OwnedFd>,
}

/// The epoll backend of one engine thread.
pub(crate) struct EpollBackend {
    pool: BlockingPool,
    epoll_set: EpollSet,
    operations: HashMap<Key, EpollOperation>,
    pauses: Timers<Key>,
    fired: Vec<Fired>,
    made: Vec<Completion>,
    done: Vec<Completion>,
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
            pauses: Timers::default(),
            fired: Vec::new(),
            made: Vec::new(),
            done: Vec::new(),
            locks: Arc::clone(locks),
            commands: Arc::clone(commands),
        })
    }

    /// Make an operation's call, on this thread or in the pool.
    fn make(&mut self, key: Key) {
        let Some(operation) = self.operations.get_mut(&key) else { return };
        let call = operation.call;
        operation.place = Place::Here;
        let value = match call.op() {
            // SAFETY: `start` requires valid addresses until the operation has come back.
            _ if operation.opens_pipe => unsafe { blocking::open_pipe(&call, &mut operation.half) },
            Op::Recv | Op::Send | Op::Recvmsg | Op::Sendmsg | Op::Connect | Op::Waitid => {
                // SAFETY: see above.
                unsafe { blocking::perform(&call, &self.locks) }
            }
            _ => {
                operation.place = Place::Pool;
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
            return self.make(key);
        }
        match operation.awaited() {
            Some((fd, events)) => self.watch(key, fd, events),
            None => self.pause(key),
        }
    }

    fn watch(&mut self, key: Key, fd: RawFd, events: i16) {
        if let Some(operation) = self.operations.get_mut(&key) {
            operation.place = Place::Readiness(fd);
            self.epoll_set.add(key, fd, events as u16, &mut self.fired);
        }
    }

    fn pause(&mut self, key: Key) {
        if let Some(operation) = self.operations.get_mut(&key) {
            let timer = self.pauses.start(clock::now_ns() + RETRY_NS, key);
            operation.place = Place::Retry(timer);
        }
    }

    fn finish(&mut self, key: Key, value: i64) {
        self.operations.remove(&key);
        self.done.push(Completion { key, value });
    }

    /// Handle calls that the pool has made, attempts that are due, and descriptors that are ready.
    fn process(&mut self) {
        self.pool.collect(&mut self.made);
        for Completion { key, value } in std::mem::take(&mut self.made) {
            self.handle_value(key, value);
        }
        if !self.pauses.is_empty() {
            let now_ns = clock::now_ns();
            while let Some(key) = self.pauses.pop_due(now_ns) {
                self.make(key);
            }
        }
        for (key, value) in std::mem::take(&mut self.fired) {
            let Some(operation) = self.operations.get(&key) else { continue };
            match operation.call.op() {
                Op::Poll => self.finish(key, value),
                _ if operation.is_cancelled => self.finish(key, CANCELED),
                // If the descriptor is bad, the call itself reports the error.
                _ => self.make(key),
            }
        }
    }
}

impl EpollOperation {
    /// The descriptor and events that the operation waits for; `None` if no event tells.
    fn awaited(&mut self) -> Option<(RawFd, i16)> {
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
                if self.child.is_none() {
                    self.child = fd::pidfd(id).ok();
                }
                self.child.as_ref()?.as_raw_fd()
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
            place: Place::Here,
            is_cancelled: false,
            opens_pipe: false,
            half: None,
            child: None,
        };
        self.operations.insert(key, operation);
        if call.op() == Op::Poll {
            self.watch(key, call.int(0), call.int(1) as i16);
        } else {
            self.make(key);
        }
    }

    fn cancel(&mut self, key: Key) {
        let Some(operation) = self.operations.get_mut(&key) else { return };
        operation.is_cancelled = true;
        match operation.place {
            // Its call is being made, and comes back soon.
            Place::Here => {}
            Place::Pool => self.pool.cancel(key),
            Place::Readiness(fd) => {
                if !self.fired.iter().any(|it| it.0 == key) {
                    self.epoll_set.remove(key, fd);
                    self.finish(key, CANCELED);
                }
            }
            Place::Retry(timer) => {
                self.pauses.cancel(timer);
                self.finish(key, CANCELED);
            }
        }
    }

    fn wait(&mut self, deadline_ns: Option<u64>, completions: &mut Vec<Completion>) {
        self.process();
        let deadline_ns = match (deadline_ns, self.pauses.next_deadline_ns()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let timeout_ns = match deadline_ns {
            _ if !self.done.is_empty() || !self.fired.is_empty() => Some(0),
            Some(0) => Some(0),
            Some(deadline_ns) => Some(deadline_ns.saturating_sub(clock::now_ns())),
            None => None,
        };
        if self.epoll_set.wait(timeout_ns, &mut self.fired) {
            self.commands.waker.reset();
        }
        self.process();
        completions.append(&mut self.done);
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
