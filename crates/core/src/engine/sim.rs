//! Simulation: the backend makes real calls, and a seed decides their order, failures and times.
//!
//! Everything happens on the engine's own thread. The seed's decisions depend on the sequence of the
//! operations that are started, and on nothing else, as long as no other thread or process takes part.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use super::backend::{Backend, Completion, Key};
use super::blocking::{self, DescriptorLocks, NOT_YET};
use super::command_queue::CommandQueue;
use super::epoll::RETRY_NS;
use crate::clock;
use crate::error::Result;
use crate::syslet::{Call, Op, fd, readiness};

/// The settings of a simulated engine.
#[derive(Debug, Clone, Default)]
pub struct Simulation {
    /// The seed of all random decisions.
    pub seed: u64,
    /// The share of operations that fail without being made, from 0 to 1.
    pub error_rate: f64,
    /// The share of transfers that move less than they could, from 0 to 1.
    pub short_rate: f64,
}

/// The least memory for a folder's entries, in bytes: an entry may not fit into less.
const FOLDER_MIN_BYTES: u64 = 512;

/// How many bytes a pipe takes in one piece; a shortened write to a pipe has no fewer.
const PIPE_MIN_BYTES: u64 = 4096;

/// Random numbers, the same ones for the same seed (splitmix64).
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ (it >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn happens(&mut self, rate: f64) -> bool {
        rate > (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[derive(Debug)]
struct SimulatedOperation {
    key: Key,
    call: Call,
    is_cancelled: bool,
    /// The negative errno with which it fails; zero: it does not fail.
    errno: i64,
    /// A random number that decides by how much it falls short; zero: it does not.
    shortage: u64,
    opens_pipe: bool,
    our_end: Option<OwnedFd>,
}

/// The backend of a simulated engine, which has one thread.
pub(crate) struct SimulatedBackend {
    simulation: Simulation,
    random: Random,
    now_ns: u64,
    /// In the order in which they were started.
    operations: Vec<SimulatedOperation>,
    locks: DescriptorLocks,
    commands: Arc<CommandQueue>,
}

impl SimulatedBackend {
    /// Create the backend of a thread.
    pub(crate) fn new(commands: &Arc<CommandQueue>, simulation: Simulation) -> Result<Self> {
        Ok(Self {
            random: Random(simulation.seed),
            simulation,
            now_ns: clock::now_ns(),
            operations: Vec::new(),
            locks: DescriptorLocks::default(),
            commands: Arc::clone(commands),
        })
    }

    /// Make some of the calls in random order, and more of them until one has come back.
    fn make_some_calls(&mut self, completions: &mut Vec<Completion>) {
        let n_operations = self.operations.len();
        if n_operations == 0 {
            return;
        }
        let random_before = self.random.clone();
        let n_wanted = 1 + self.random.below(n_operations);
        let mut order: Vec<usize> = (0..n_operations).collect();
        for idx in (1..n_operations).rev() {
            order.swap(idx, self.random.below(idx + 1));
        }
        let mut is_done = vec![false; n_operations];
        for (n_tried, idx) in order.into_iter().enumerate() {
            if n_tried >= n_wanted && !completions.is_empty() {
                break;
            }
            let operation = &mut self.operations[idx];
            let value = match (operation.is_cancelled, self.random.next() % 2) {
                (true, 0) => -i64::from(libc::ECANCELED),
                // Sometimes it is too late to cancel.
                (true, _) => match operation.make_call(&self.locks) {
                    NOT_YET => -i64::from(libc::ECANCELED),
                    value => value,
                },
                _ => operation.make_call(&self.locks),
            };
            if value != NOT_YET {
                is_done[idx] = true;
                completions.push(Completion { key: operation.key, value });
            }
        }
        if completions.is_empty() {
            // The number of attempts in vain depends on others: it must not change later decisions.
            self.random = random_before;
            return;
        }
        let mut is_done = is_done.into_iter();
        self.operations.retain(|_| is_done.next() != Some(true));
    }

    /// Wait in real time for the waker, for descriptors, or for another attempt.
    fn wait_in_real_time(&mut self) {
        let pollfd = |fd, events| libc::pollfd { fd, events, revents: 0 };
        let mut polled = vec![pollfd(self.commands.waker.as_fd().as_raw_fd(), libc::POLLIN)];
        let mut timeout_ms = -1;
        for operation in &self.operations {
            match operation.fd_to_await() {
                Some((fd, events)) => polled.push(pollfd(fd, events)),
                None => timeout_ms = (RETRY_NS / 1_000_000) as i32,
            }
        }
        // SAFETY: the address and the length are those of a vector that lives here.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, timeout_ms) };
        if polled[0].revents != 0 {
            self.commands.waker.reset();
        }
    }
}

impl SimulatedOperation {
    /// Make the call; the value is `NOT_YET` if it has to wait.
    fn make_call(&mut self, locks: &DescriptorLocks) -> i64 {
        let call = match self.errno {
            0 => self.call,
            // close(2) frees the number even when it fails, so make the call all the same.
            errno if self.call.op() == Op::Close => {
                // SAFETY: a call without addresses.
                return match unsafe { blocking::perform(&self.call, locks) } {
                    0 => errno,
                    value => value,
                };
            }
            errno => return errno,
        };
        if call.op() == Op::Poll {
            return match fd::poll(call.int(0), call.int(1) as i16, 0) {
                0 => NOT_YET,
                value => value,
            };
        }
        let mut value = NOT_YET;
        if !self.opens_pipe {
            // SAFETY: `start` requires valid addresses until the operation has come back.
            unsafe {
                let call = if self.shortage > 0 { shorten(&call, self.shortage) } else { call };
                value = blocking::perform(&call, locks);
            }
            self.opens_pipe = value == NOT_YET && matches!(call.op(), Op::Openat | Op::Openat2);
        }
        if self.opens_pipe {
            // SAFETY: see above.
            value = unsafe { blocking::open_pipe(&call, &mut self.our_end) };
        }
        value
    }

    /// The descriptor and events that the operation waits for; `None` if no event tells.
    fn fd_to_await(&self) -> Option<(RawFd, i16)> {
        match self.call.op() {
            Op::Poll => Some((self.call.int(0), self.call.int(1) as i16)),
            _ => readiness::unready_fd(&self.call),
        }
    }
}

/// The errnos with which an operation may be made to fail.
fn possible_errnos(call: &Call) -> Vec<i32> {
    match call.op() {
        // Not these: the engine's thread handles time-outs, and the others make no system call.
        Op::Nop | Op::Add | Op::Timeout => return Vec::new(),
        Op::Close => return vec![libc::EIO, libc::EINTR],
        Op::Poll => return vec![libc::ENOMEM, libc::EINTR],
        _ => {}
    }
    let mut errnos = vec![libc::EIO, libc::EINTR, libc::ENOMEM];
    let may_block = call.op() != Op::Splice && readiness::needed_fds(call)[0].is_some();
    if may_block || call.op() == Op::Connect {
        errnos.push(libc::EAGAIN);
    }
    if matches!(call.op(), Op::Write | Op::Pwrite | Op::Writev | Op::Fallocate) {
        errnos.push(libc::ENOSPC);
    }
    errnos
}

/// Reduce what a call moves, to at least something, if such a call may come up short at all.
///
/// # Safety
/// The call's addresses are valid, and nothing else uses them.
unsafe fn shorten(call: &Call, shortage: u64) -> Call {
    let fd = call.int(0);
    let writes = matches!(call.op(), Op::Write | Op::Pwrite | Op::Writev);
    let min_bytes = match (call.op(), fd::file_type(fd)) {
        (Op::Getdents, _) => FOLDER_MIN_BYTES,
        (_, Some(libc::S_IFIFO)) if writes => PIPE_MIN_BYTES,
        (_, Some(libc::S_IFREG | libc::S_IFIFO)) => 1,
        // Not for datagrams: a shorter one would be another message.
        (_, Some(libc::S_IFSOCK)) if fd::is_stream(fd) => 1,
        _ => return *call,
    };
    let reduced =
        |len: u64| if len > min_bytes { len - shortage % (len - min_bytes + 1) } else { len };
    match call.op() {
        Op::Read | Op::Pread | Op::Write | Op::Pwrite | Op::Recv | Op::Send | Op::Getdents => {
            call.with(2, reduced(call.words[2]))
        }
        Op::Splice => call.with(4, reduced(call.words[4])),
        Op::Readv | Op::Writev if min_bytes == 1 => {
            // SAFETY: guaranteed by the caller.
            let n_pieces =
                unsafe { shorten_pieces(call.address::<libc::iovec>(1), call.len(2), shortage) };
            call.with(2, n_pieces as u64)
        }
        Op::Recvmsg | Op::Sendmsg => {
            let message = call.address::<libc::msghdr>(1);
            // SAFETY: guaranteed by the caller; the pieces are listed anew for each call.
            unsafe {
                #[allow(clippy::unnecessary_cast)] // musl has narrower ones.
                let n_pieces = (*message).msg_iovlen as usize;
                (*message).msg_iovlen = shorten_pieces((*message).msg_iov, n_pieces, shortage) as _;
            }
            *call
        }
        _ => *call,
    }
}

/// Return a smaller count of pieces that still have bytes: none at all would be the end of the file.
///
/// # Safety
/// `pieces` points to `n_pieces` valid pieces.
unsafe fn shorten_pieces(pieces: *const libc::iovec, n_pieces: usize, shortage: u64) -> usize {
    if n_pieces == 0 {
        return 0;
    }
    // SAFETY: guaranteed by the caller.
    let pieces = unsafe { std::slice::from_raw_parts(pieces, n_pieces) };
    let first = pieces.iter().position(|it| it.iov_len > 0).unwrap_or(n_pieces - 1);
    n_pieces - (shortage % (n_pieces - first) as u64) as usize
}

impl Backend for SimulatedBackend {
    unsafe fn start(&mut self, key: Key, call: Call) {
        // Decide the outcome now, so that the number of attempts does not matter.
        let (fails, falls_short) = (
            self.random.happens(self.simulation.error_rate),
            self.random.happens(self.simulation.short_rate),
        );
        let errnos = if fails { possible_errnos(&call) } else { Vec::new() };
        let errno = match errnos.len() {
            0 => 0,
            n_errnos => -i64::from(errnos[self.random.below(n_errnos)]),
        };
        let shortage = if falls_short { self.random.next() } else { 0 };
        self.operations.push(SimulatedOperation {
            key,
            call,
            is_cancelled: false,
            errno,
            shortage,
            opens_pipe: false,
            our_end: None,
        });
    }

    fn cancel(&mut self, key: Key) {
        if let Some(operation) = self.operations.iter_mut().find(|it| it.key == key) {
            operation.is_cancelled = true;
        }
    }

    fn wait(&mut self, deadline_ns: Option<u64>, completions: &mut Vec<Completion>) {
        self.make_some_calls(completions);
        if !completions.is_empty() {
            return;
        }
        match deadline_ns {
            Some(deadline_ns) => self.now_ns = self.now_ns.max(deadline_ns),
            None => self.wait_in_real_time(),
        }
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn waits_for_readiness(&self) -> bool {
        true
    }

    fn tries_first(&self) -> bool {
        false
    }
}
