//! The backend on io_uring: a ring for each engine thread, which no other thread enters.
//!
//! Completions are run when the thread asks for them (`DEFER_TASKRUN`), not when they interrupt it.
//! Operations that the kernel's ring does not have (reading folders) go to the blocking pool. The
//! thread itself keeps the time-outs, and passes one deadline to each wait.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, opcode, squeue};
use rustix::io::Errno;

use super::backend::{Backend, Completion, Key};
use super::blocking_pool::BlockingPool;
use super::command_queue::CommandQueue;
use crate::clock;
use crate::error::{Error, Result};
use crate::syslet::{Call, Op, fd, syscall};

/// How many operations go to the kernel with one system call at most.
const ENTRIES: u32 = 256;

/// How many completions may lie in the ring before the kernel keeps them elsewhere.
const COMPLETIONS: u32 = 4096;

/// How many of the kernel's own threads may block in file operations for one ring: each opening of a
/// file that is not in the cache takes one.
const BOUNDED_WORKERS: u32 = 64;

/// The user data of the poll on the waker.
const WAKER_DATA: u64 = u64::MAX;
/// The user data of cancellations.
const CANCEL_DATA: u64 = u64::MAX - 1;

/// The reason why io_uring cannot be used; `None` if it can.
pub(crate) fn refusal() -> Option<Error> {
    match IoUring::new(2) {
        Ok(ring) => {
            let params = ring.params();
            let has_all_features = params.is_feature_nodrop()
                && params.is_feature_rw_cur_pos()
                && params.is_feature_ext_arg();
            (!has_all_features).then_some(Error::new("io_uring_setup", Errno::NOSYS))
        }
        Err(error) => Some(Error::from_io("io_uring_setup", &error)),
    }
}

/// The setup flags beyond the required ones that this kernel's rings are used with, by the kernel's names.
pub(crate) fn features() -> Vec<&'static str> {
    match set_up(2, 4) {
        // `set_up` gets all of these flags or none of them.
        Ok(ring) if ring.params().is_setup_single_issuer() => {
            vec!["single_issuer", "defer_taskrun", "taskrun_flag", "submit_all"]
        }
        _ => Vec::new(),
    }
}

fn set_up(entries: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .dontfork()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions)
        .build(entries)
        // Kernels before 6.1 do not know these flags.
        .or_else(|_| IoUring::builder().dontfork().setup_cqsize(completions).build(entries))
}

/// A ring, and a blocking pool for the operations that the ring does not have.
pub(crate) struct UringBackend {
    ring: IoUring,
    probe: Probe,
    pool: BlockingPool,
    commands: Arc<CommandQueue>,
    is_waker_polled: bool,
}

impl UringBackend {
    /// Create the ring of the current thread.
    pub(crate) fn new(commands: &Arc<CommandQueue>) -> Result<Self> {
        let setup = |error: io::Error| Error::from_io("io_uring_setup", &error);
        let ring = set_up(ENTRIES, COMPLETIONS).map_err(setup)?;
        let mut probe = Probe::new();
        // If it fails, no operation counts as supported, and the pool makes all calls.
        let _ = ring.submitter().register_probe(&mut probe);
        // If it fails, the kernel's own bound applies.
        let _ = ring.submitter().register_iowq_max_workers(&mut [BOUNDED_WORKERS, 0]);
        let commands = Arc::clone(commands);
        let pool = BlockingPool::new(&commands, |call| {
            // SAFETY: `start` requires valid addresses until the operation has come back.
            unsafe { syscall::perform_once(call) }
        });
        Ok(Self { ring, probe, pool, commands, is_waker_polled: false })
    }

    /// Start an operation, in the ring if the ring has such an operation, else in the pool.
    ///
    /// # Safety
    /// As for [`Backend::start`].
    unsafe fn start_with(&mut self, key: Key, call: Call, flags: squeue::Flags) {
        let supported = entry(&call).filter(|(code, _)| self.probe.is_supported(*code));
        // SAFETY: guaranteed by the caller.
        unsafe {
            match supported.filter(|_| !needs_system_call(&call)) {
                Some((_, entry)) => self.push(&entry.flags(flags).user_data(u64::from(key))),
                None => self.pool.start(key, call),
            }
        }
    }

    /// # Safety
    /// The entry's addresses are valid until the operation has come back.
    unsafe fn push(&mut self, entry: &Entry) {
        loop {
            // SAFETY: guaranteed by the caller.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            self.enter(None);
        }
    }

    /// Have the kernel take the entries that were pushed; with a `timeout`, wait for a completion: for that
    /// long, or (`Some(None)`) for as long as it takes.
    fn enter(&mut self, timeout: Option<Option<Duration>>) {
        let submitter = self.ring.submitter();
        let entered = match timeout {
            None => submitter.submit(),
            Some(None) => submitter.submit_and_wait(1),
            Some(Some(timeout)) => {
                let timeout = Timespec::from(timeout);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        match entered {
            Ok(_) => {}
            // The time is up, a signal came, or completions have to be taken before more can be
            // submitted, which happens next.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) => {}
            Err(error) => panic!("the ring of an engine's thread is broken: {error}"),
        }
    }

    fn poll_waker(&mut self) {
        if !self.is_waker_polled {
            let fd = Fd(self.commands.waker.as_fd().as_raw_fd());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
            // SAFETY: the entry has no addresses.
            unsafe { self.push(&entry.user_data(WAKER_DATA)) };
            self.is_waker_polled = true;
        }
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        let mut is_woken = false;
        for entry in self.ring.completion() {
            match entry.user_data() {
                WAKER_DATA => {
                    is_woken = true;
                    self.is_waker_polled = false;
                }
                CANCEL_DATA => {}
                key => {
                    let value = match entry.result() {
                        // An operation that was interrupted in a kernel worker comes back with the
                        // kernel's internal codes (ERESTARTSYS and its like).
                        -516..=-512 => -i64::from(libc::EINTR),
                        value => i64::from(value),
                    };
                    completions.push(Completion { key: key as Key, value });
                }
            }
        }
        if is_woken {
            self.commands.waker.reset();
        }
    }
}

impl Backend for UringBackend {
    unsafe fn start(&mut self, key: Key, call: Call) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.start_with(key, call, squeue::Flags::empty()) }
    }

    unsafe fn start_blocking(&mut self, key: Key, call: Call) {
        // SAFETY: guaranteed by the caller.
        unsafe { self.start_with(key, call, squeue::Flags::ASYNC) }
    }

    /// The kernel first tries with `O_NONBLOCK`, which opens a named pipe in another way.
    fn opens_pipes_non_blocking(&self) -> bool {
        true
    }

    fn cancel(&mut self, key: Key) {
        self.pool.cancel(key);
        // SAFETY: the entry has no addresses.
        unsafe {
            self.push(&opcode::AsyncCancel::new(u64::from(key)).build().user_data(CANCEL_DATA))
        };
    }

    fn wait(&mut self, deadline_ns: Option<u64>, completions: &mut Vec<Completion>) {
        self.poll_waker();
        self.pool.collect(completions);
        let timeout = match deadline_ns {
            _ if !completions.is_empty() => None,
            Some(0) => None,
            Some(deadline_ns) => {
                let rest_ns = deadline_ns.saturating_sub(clock::now_ns());
                (rest_ns > 0).then(|| Some(Duration::from_nanos(rest_ns)))
            }
            None => Some(None),
        };
        self.enter(timeout);
        self.reap(completions);
        self.pool.collect(completions);
    }

    fn now_ns(&self) -> u64 {
        clock::now_ns()
    }

    fn waits_for_readiness(&self) -> bool {
        false
    }

    /// The kernel itself tries each operation, and takes many of them with one system call.
    fn tries_first(&self) -> bool {
        false
    }
}

/// Whether the ring would do something else than the system call.
///
/// The ring ignores an offset where there can be none. And it moves a file's position without a lock: a
/// transfer with the offset -1 reads the position when it starts, and writes it back when it ends. So
/// two concurrent transfers may move the same bytes. The ring does not write the position back at all
/// when an error ends a transfer in the middle. As of Linux 6.18, for files and block devices:
///
/// - If a write comes up short, the kernel itself tries again for the rest. If that fails or is
///   cancelled, the value is the count of the bytes written before, and the position does not move. With
///   the offset -1 again, the rest would overwrite them. It makes no difference whether the write was
///   tried inline or by one of the kernel's workers. If the file appends, the bytes are in the right
///   place, but the position is still wrong.
/// - A read that was tried inline behaves in the same way. A read by a worker moves the position by what
///   it has read, as read(2) does.
/// - At the end of a file, the bytes read count, and the position moves.
/// - A transfer that fails before it has moved a byte does not move the position.
///
/// Afterwards these cases cannot be told apart if others move the same position. read(2) and write(2)
/// hold the position's lock and count what they have moved. Pipes, sockets and character devices have no
/// such retries: they stay in the ring, and so does a file that the run has opened, since the run counts
/// that position itself.
fn needs_system_call(call: &Call) -> bool {
    let has_offset = match call.op() {
        Op::Pread | Op::Pwrite => true,
        Op::Readv | Op::Writev => call.offset(3) >= 0 && call.words[4] == 0,
        _ => false,
    };
    let fd = call.int(0);
    has_offset && fd::position(fd).is_none() || call.moves_shared_position() && fd::has_position(fd)
}

/// The ring's entry for a call, and its operation code; `None` if the ring has no such operation.
fn entry(call: &Call) -> Option<(u8, Entry)> {
    let fd = Fd(call.int(0));
    let path = |idx| call.address::<libc::c_char>(idx).cast_const();
    let count = |idx| call.words[idx] as u32;
    Some(match call.op() {
        Op::Openat => (
            opcode::OpenAt::CODE,
            opcode::OpenAt::new(fd, path(1)).flags(call.int(2)).mode(count(3)).build(),
        ),
        Op::Openat2 => {
            let how = call.address(2);
            (opcode::OpenAt2::CODE, opcode::OpenAt2::new(fd, path(1), how).build())
        }
        Op::Statx => (
            opcode::Statx::CODE,
            opcode::Statx::new(fd, path(1), call.address(4))
                .flags(call.int(2))
                .mask(count(3))
                .build(),
        ),
        Op::Read | Op::Pread => (
            opcode::Read::CODE,
            opcode::Read::new(fd, call.address(1), count(2)).offset(call.words[3]).build(),
        ),
        Op::Write | Op::Pwrite => (
            opcode::Write::CODE,
            opcode::Write::new(fd, call.address(1), count(2)).offset(call.words[3]).build(),
        ),
        Op::Readv => (
            opcode::Readv::CODE,
            opcode::Readv::new(fd, call.address(1), count(2)).offset(call.words[3]).build(),
        ),
        Op::Writev => (
            opcode::Writev::CODE,
            opcode::Writev::new(fd, call.address(1), count(2)).offset(call.words[3]).build(),
        ),
        Op::Fsync => (opcode::Fsync::CODE, opcode::Fsync::new(fd).build()),
        Op::Fdatasync => {
            (opcode::Fsync::CODE, opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build())
        }
        Op::Fallocate => {
            let entry = opcode::Fallocate::new(fd, call.words[3]).offset(call.words[2]);
            (opcode::Fallocate::CODE, entry.mode(call.int(1)).build())
        }
        Op::Ftruncate => {
            (opcode::Ftruncate::CODE, opcode::Ftruncate::new(fd, call.words[1]).build())
        }
        Op::Close => (opcode::Close::CODE, opcode::Close::new(fd).build()),
        Op::Unlinkat => {
            (opcode::UnlinkAt::CODE, opcode::UnlinkAt::new(fd, path(1)).flags(call.int(2)).build())
        }
        Op::Renameat => {
            let entry = opcode::RenameAt::new(fd, path(1), Fd(call.int(2)), path(3));
            (opcode::RenameAt::CODE, entry.flags(count(4)).build())
        }
        Op::Mkdirat => {
            (opcode::MkDirAt::CODE, opcode::MkDirAt::new(fd, path(1)).mode(count(2)).build())
        }
        Op::Linkat => {
            let entry = opcode::LinkAt::new(fd, path(1), Fd(call.int(2)), path(3));
            (opcode::LinkAt::CODE, entry.flags(call.int(4)).build())
        }
        Op::Symlinkat => {
            let entry = opcode::SymlinkAt::new(Fd(call.int(1)), path(0), path(2)).build();
            (opcode::SymlinkAt::CODE, entry)
        }
        Op::Splice => {
            let (from, to) = (fd, Fd(call.int(2)));
            let entry = opcode::Splice::new(from, call.offset(1), to, call.offset(3), count(4));
            (opcode::Splice::CODE, entry.flags(count(5)).build())
        }
        Op::Socket => {
            let entry = opcode::Socket::new(call.int(0), call.int(1), call.int(2)).build();
            (opcode::Socket::CODE, entry)
        }
        Op::Connect => {
            (opcode::Connect::CODE, opcode::Connect::new(fd, call.address(1), count(2)).build())
        }
        Op::Accept => {
            let entry =
                opcode::Accept::new(fd, call.address(2), call.address(3)).flags(call.int(1));
            (opcode::Accept::CODE, entry.build())
        }
        Op::Recv => {
            let entry = opcode::Recv::new(fd, call.address(1), count(2)).flags(call.int(3));
            (opcode::Recv::CODE, entry.build())
        }
        Op::Send => {
            let flags = call.int(3) | libc::MSG_NOSIGNAL;
            let entry = opcode::Send::new(fd, call.address(1), count(2)).flags(flags);
            (opcode::Send::CODE, entry.build())
        }
        Op::Recvmsg => (
            opcode::RecvMsg::CODE,
            opcode::RecvMsg::new(fd, call.address(1)).flags(count(2)).build(),
        ),
        Op::Sendmsg => {
            let flags = count(2) | libc::MSG_NOSIGNAL as u32;
            (opcode::SendMsg::CODE, opcode::SendMsg::new(fd, call.address(1)).flags(flags).build())
        }
        Op::Shutdown => (opcode::Shutdown::CODE, opcode::Shutdown::new(fd, call.int(1)).build()),
        Op::Poll => (opcode::PollAdd::CODE, opcode::PollAdd::new(fd, count(1)).build()),
        Op::Waitid => {
            let (kind, id) = (call.words[0] as libc::idtype_t, call.words[1] as libc::id_t);
            let entry = opcode::WaitId::new(kind, id, call.int(2)).infop(call.address(3));
            (opcode::WaitId::CODE, entry.build())
        }
        Op::Getdents | Op::Sendfile | Op::Timeout | Op::Nop | Op::Add => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn an_operation_that_the_ring_does_not_have_comes_back_however_it_is_started() {
        if let Some(refusal) = super::super::uring_refusal() {
            // Not by `eprintln!`, whose output is shown only if the test fails.
            let _ = writeln!(io::stderr(), "\nIO_URING WAS NOT TESTED: {refusal}");
            return;
        }
        let commands = Arc::new(CommandQueue::new().unwrap());
        let mut ring = UringBackend::new(&commands).unwrap();
        // SAFETY: calls without addresses.
        unsafe {
            ring.start(1, Call::new(Op::Nop, []));
            ring.start_blocking(2, Call::new(Op::Nop, []));
        }
        let mut completions = Vec::new();
        while completions.len() < 2 {
            ring.wait(None, &mut completions);
        }
        completions.sort_by_key(|it| it.key);
        assert_eq!([1, 2].map(|key| Completion { key, value: 0 }), *completions);
    }
}
