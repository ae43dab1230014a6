//! Worker threads and epoll: what makes an engine's calls where there is no ring.
//!
//! What waits for a descriptor waits by epoll, what waits for a disk does so on a hand. What waits for
//! somebody else without a descriptor to tell (any child, a named pipe's other end) is tried again and
//! again. So everything but disks can be cancelled, and nothing else holds a hand: fsync and its like
//! go on until they are done, cancelled or not, and with them whoever waits for their hand to end.
//! Opening a named pipe does not: it is opened without blocking, until the other end is there, too.
//! What remains: an accept on a listener that blocks, and that others than us accept from as well.

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
use crate::syslet::{Call, Op, readiness, syscall};
use crate::timers::{TimerKey, Timers};

/// How long to wait before another attempt at what nothing tells the time for.
pub(crate) const RETRY_NS: u64 = 10_000_000;

const CANCELED: i64 = -(libc::ECANCELED as i64);

/// Where an operation is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// About to be made, or made again.
    Here,
    Hand,
    /// Waiting for a descriptor.
    Watch(RawFd),
    /// Waiting for another attempt.
    Pause(TimerKey),
}

#[derive(Debug)]
struct EpollOperation {
    call: Call,
    place: Place,
    is_cancelled: bool,
    /// It opens a named pipe, and waits for the other end.
    opens_pipe: bool,
    half: Option<OwnedFd>,
    /// The child that it waits for.
    child: Option<OwnedFd>,
}

/// The operations of one engine thread.
pub(crate) struct EpollBackend {
    pool: BlockingPool,
    watches: EpollSet,
    operations: HashMap<Key, EpollOperation>,
    pauses: Timers<Key>,
    fired: Vec<Fired>,
    made: Vec<Completion>,
    done: Vec<Completion>,
    locks: Arc<DescriptorLocks>,
    commands: Arc<CommandQueue>,
}

impl EpollBackend {
    /// For this thread, of an engine with these locks.
    pub(crate) fn new(commands: &Arc<CommandQueue>, locks: &Arc<DescriptorLocks>) -> Result<Self> {
        let at_hand = Arc::clone(locks);
        Ok(Self {
            pool: BlockingPool::new(commands, move |call| {
                // SAFETY: whoever started the operation vouches for its addresses until it comes back.
                unsafe { blocking::perform(call, &at_hand) }
            }),
            watches: EpollSet::new(commands.waker.as_fd())?,
            operations: HashMap::new(),
            pauses: Timers::default(),
            fired: Vec::new(),
            made: Vec::new(),
            done: Vec::new(),
            locks: Arc::clone(locks),
            commands: Arc::clone(commands),
        })
    }

    /// Make an operation's call, here or on a hand.
    fn make(&mut self, key: Key) {
        let Some(operation) = self.operations.get_mut(&key) else { return };
        let call = operation.call;
        operation.place = Place::Here;
        let value = match call.op() {
            // SAFETY: whoever started the operation vouches for its addresses until it comes back.
            _ if operation.opens_pipe => unsafe { blocking::open_pipe(&call, &mut operation.half) },
            Op::Recv | Op::Send | Op::Recvmsg | Op::Sendmsg | Op::Connect | Op::Waitid => {
                // SAFETY: see above.
                unsafe { blocking::perform(&call, &self.locks) }
            }
            _ => {
                operation.place = Place::Hand;
                // SAFETY: see above.
                return unsafe { self.pool.start(key, call) };
            }
        };
        self.note_made(key, value);
    }

    /// An operation's call was made, or turned away.
    fn note_made(&mut self, key: Key, value: i64) {
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
            operation.place = Place::Watch(fd);
            self.watches.add(key, fd, events as u16, &mut self.fired);
        }
    }

    fn pause(&mut self, key: Key) {
        if let Some(operation) = self.operations.get_mut(&key) {
            let timer = self.pauses.start(clock::now_ns() + RETRY_NS, key);
            operation.place = Place::Pause(timer);
        }
    }

    fn finish(&mut self, key: Key, value: i64) {
        self.operations.remove(&key);
        self.done.push(Completion { key, value });
    }

    /// Carry on with everything that has come back to us.
    fn carry_on(&mut self) {
        self.pool.collect(&mut self.made);
        for Completion { key, value } in std::mem::take(&mut self.made) {
            self.note_made(key, value);
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
                // The call itself tells what is wrong with its descriptor.
                _ => self.make(key),
            }
        }
    }
}

impl EpollOperation {
    /// Which descriptor it waits for; `None`: nothing tells.
    fn awaited(&mut self) -> Option<(RawFd, i16)> {
        if self.call.op() != Op::Waitid {
            return readiness::missing(&self.call);
        }
        let (kind, id, options) = (self.call.int(0) as u32, self.call.int(1), self.call.int(2));
        // Only the end of a child can be watched.
        if options & (libc::WSTOPPED | libc::WCONTINUED) != 0 {
            return None;
        }
        let fd = match kind {
            libc::P_PIDFD => id,
            libc::P_PID => {
                if self.child.is_none() {
                    self.child = syscall::pidfd(id).ok();
                }
                self.child.as_ref()?.as_raw_fd()
            }
            _ => return None,
        };
        (syscall::poll(fd, libc::POLLIN, 0) == 0).then_some((fd, libc::POLLIN))
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
            // It has fired, and comes back soon.
            Place::Here => {}
            Place::Hand => self.pool.cancel(key),
            Place::Watch(fd) => {
                if !self.fired.iter().any(|it| it.0 == key) {
                    self.watches.remove(key, fd);
                    self.finish(key, CANCELED);
                }
            }
            Place::Pause(timer) => {
                self.pauses.cancel(timer);
                self.finish(key, CANCELED);
            }
        }
    }

    fn wait(&mut self, deadline_ns: Option<u64>, completions: &mut Vec<Completion>) {
        self.carry_on();
        let deadline_ns = match (deadline_ns, self.pauses.next_deadline_ns()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let patience_ns = match deadline_ns {
            _ if !self.done.is_empty() || !self.fired.is_empty() => Some(0),
            Some(0) => Some(0),
            Some(deadline_ns) => Some(deadline_ns.saturating_sub(clock::now_ns())),
            None => None,
        };
        if self.watches.wait(patience_ns, &mut self.fired) {
            self.commands.waker.reset();
        }
        self.carry_on();
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
