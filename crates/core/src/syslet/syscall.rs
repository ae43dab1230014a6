//! Executes a `Call` by system calls: `attempt` never blocks, `perform` may.
//!
//! Values are the kernel's: what the call returned, or a negative errno.

use libc::{EAGAIN, EINTR, ENOSYS, EOPNOTSUPP, EPERM, c_int, c_long};

use super::call::Call;
use super::fd::{self, sys};
use super::op::Op;
use super::readiness;

/// The outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AttemptOutcome {
    /// It is done, with this value.
    Done(i64),
    /// It is done; the value is a new descriptor, non-blocking although the call did not ask for that.
    OpenedNonBlocking(i64),
    /// It would block.
    WouldBlock,
}

use AttemptOutcome::{Done, WouldBlock};

/// Try a call without blocking.
///
/// # Safety
/// The addresses in the call are valid for what the operation does with them.
#[inline]
pub(crate) unsafe fn attempt(call: &Call) -> AttemptOutcome {
    // SAFETY: guaranteed by the caller, for all of them.
    unsafe {
        match call.op {
            Op::Nop | Op::Add => Done(0),
            Op::Read | Op::Pread => try_positioned(libc::SYS_preadv2, call),
            Op::Write | Op::Pwrite => try_positioned(libc::SYS_pwritev2, call),
            Op::Openat => try_open(call, u64::from(call.int(2) as u32), 0, 0),
            Op::Openat2 => {
                let how = *call.address::<libc::open_how>(2);
                try_open(call, how.flags, how.mode, how.resolve)
            }
            Op::Close | Op::Socket | Op::Shutdown => Done(perform_once(call)),
            Op::Recv => try_message(call, 3),
            Op::Send => try_message(call, 3),
            Op::Recvmsg | Op::Sendmsg => try_message(call, 2),
            Op::Statx => try_statx(call),
            Op::Readv => try_vectored(libc::SYS_preadv2, call),
            Op::Writev => try_vectored(libc::SYS_pwritev2, call),
            Op::Accept => try_accept(call),
            Op::Poll => match fd::poll(call.int(0), call.int(1) as i16, 0) {
                0 => WouldBlock,
                value => Done(value),
            },
            Op::Timeout if call.words[0] == 0 => Done(0),
            Op::Waitid => try_waitid(call),
            // There is no way to make these without blocking.
            Op::Timeout
            | Op::Fsync
            | Op::Fdatasync
            | Op::Fallocate
            | Op::Ftruncate
            | Op::Unlinkat
            | Op::Renameat
            | Op::Mkdirat
            | Op::Linkat
            | Op::Symlinkat
            | Op::Getdents
            | Op::Splice
            | Op::Sendfile
            | Op::Connect => WouldBlock,
        }
    }
}

/// Make a call that does not block, again if it is interrupted; `EAGAIN` means that it would block.
#[inline]
fn try_call(mut call: impl FnMut() -> i64) -> AttemptOutcome {
    loop {
        match call() {
            value if value >= 0 => return Done(value),
            value => match -value as c_int {
                EINTR => {}
                EAGAIN => return WouldBlock,
                _ => return Done(value),
            },
        }
    }
}

/// As `try_call`, for `RWF_NOWAIT`: some files do not support it, and sandboxes and emulators may
/// lack the whole system call.
#[inline]
fn try_nowait_call(call: impl FnMut() -> i64) -> AttemptOutcome {
    match try_call(call) {
        Done(value) if matches!(-value as c_int, EOPNOTSUPP | ENOSYS | EPERM) => WouldBlock,
        attempt => attempt,
    }
}

#[inline]
unsafe fn try_positioned(number: c_long, call: &Call) -> AttemptOutcome {
    let piece = libc::iovec { iov_base: call.address(1), iov_len: call.len(2) };
    let offset = call.offset(3);
    try_nowait_call(|| sys!(number, call.int(0), &raw const piece, 1, offset, 0, libc::RWF_NOWAIT))
}

unsafe fn try_vectored(number: c_long, call: &Call) -> AttemptOutcome {
    let (pieces, n_pieces, offset) = (call.address::<libc::iovec>(1), call.len(2), call.offset(3));
    try_nowait_call(|| sys!(number, call.int(0), pieces, n_pieces, offset, 0, libc::RWF_NOWAIT))
}

#[inline]
unsafe fn try_open(call: &Call, all_flags: u64, mode: u64, resolve: u64) -> AttemptOutcome {
    let flags = all_flags as c_int;
    const CHANGES_FOLDERS: c_int =
        libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
    if flags & CHANGES_FOLDERS != 0 {
        return WouldBlock;
    }
    // open(2) itself may block for a pipe or a device, even if its name is cached.
    // SAFETY: a structure of numbers.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = all_flags | libc::O_NONBLOCK as u64;
    how.mode = mode;
    how.resolve = resolve | libc::RESOLVE_CACHED;
    let (folder, path) = (call.int(0), call.address::<libc::c_char>(1));
    let fd = loop {
        let size = size_of::<libc::open_how>();
        match sys!(libc::SYS_openat2, folder, path, &raw const how, size) {
            value if value >= 0 => break value as c_int,
            value => match -value as c_int {
                EINTR => {}
                // openat may take what openat2 does not; ENXIO is a pipe without a reader.
                EAGAIN | libc::EINVAL | libc::E2BIG | libc::ENXIO | ENOSYS | EPERM => {
                    return WouldBlock;
                }
                _ => return Done(value),
            },
        }
    };
    if flags & libc::O_NONBLOCK != 0 {
        return Done(i64::from(fd));
    }
    if flags & libc::O_PATH == 0 && fd::position(fd).is_none() && !fd::has_other_end(fd, flags) {
        // A pipe, or a device like one, has to be opened as the program says.
        fd::close(fd);
        return WouldBlock;
    }
    AttemptOutcome::OpenedNonBlocking(i64::from(fd))
}

/// Look the path up in the cache only, and call statx(2) on what is found.
unsafe fn try_statx(call: &Call) -> AttemptOutcome {
    let (flags, mask, target) = (call.int(2), call.int(3), call.address::<libc::statx>(4));
    // SAFETY: a path ends with a zero byte.
    if unsafe { *call.address::<u8>(1) } == 0 {
        return try_call(|| {
            sys!(libc::SYS_statx, call.int(0), call.address::<u8>(1), flags, mask, target)
        });
    }
    // SAFETY: a structure of numbers.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    let nofollow = if flags & libc::AT_SYMLINK_NOFOLLOW != 0 { libc::O_NOFOLLOW } else { 0 };
    how.flags = (libc::O_PATH | libc::O_CLOEXEC | nofollow) as u64;
    how.resolve = libc::RESOLVE_CACHED;
    let (folder, path) = (call.int(0), call.address::<libc::c_char>(1));
    let size = size_of::<libc::open_how>();
    let fd = sys!(libc::SYS_openat2, folder, path, &raw const how, size) as c_int;
    if fd < 0 {
        let is_final = matches!(-fd, libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::ELOOP);
        return if is_final { Done(i64::from(fd)) } else { WouldBlock };
    }
    let flags = (flags & !libc::AT_SYMLINK_NOFOLLOW) | libc::AT_EMPTY_PATH;
    let value = sys!(libc::SYS_statx, fd, c"".as_ptr(), flags, mask, target);
    sys!(libc::SYS_close, fd);
    Done(value)
}

/// Send or receive; `flags_idx` is the word with the flags.
unsafe fn try_message(call: &Call, flags_idx: usize) -> AttemptOutcome {
    let flags = call.int(flags_idx);
    let mut tried = *call;
    tried.words[flags_idx] = (flags | libc::MSG_DONTWAIT) as u64;
    // SAFETY: guaranteed by the caller.
    let perform = || unsafe { perform_once(&tried) };
    if flags & libc::MSG_DONTWAIT != 0 { Done(perform()) } else { try_call(perform) }
}

unsafe fn try_accept(call: &Call) -> AttemptOutcome {
    // No flag makes one accept non-blocking: a blocking listener is not tried, but a non-listener is.
    match fd::status_flags(call.int(0)) {
        Err(errno) => Done(errno),
        Ok(flags) if !flags.is_non_blocking() && fd::is_listening(call.int(0)) => WouldBlock,
        // SAFETY: guaranteed by the caller.
        Ok(_) => try_call(|| unsafe { perform_once(call) }),
    }
}

unsafe fn try_waitid(call: &Call) -> AttemptOutcome {
    let mut tried = *call;
    tried.words[2] |= libc::WNOHANG as u64;
    // SAFETY: guaranteed by the caller.
    let value = unsafe { perform_once(&tried) };
    // SAFETY: guaranteed by the caller; the call that has just succeeded has filled the structure in.
    let is_none = value == 0 && unsafe { (*call.address::<libc::siginfo_t>(3)).si_pid() } == 0;
    if is_none && call.int(2) & libc::WNOHANG == 0 { WouldBlock } else { Done(value) }
}

/// Make a call, for as long as it takes.
///
/// A signal ends it with `EINTR` if it `is_interruptible`; otherwise the call continues.
///
/// # Safety
/// As for [`attempt`].
pub(crate) unsafe fn perform(call: &Call, is_interruptible: bool) -> i64 {
    loop {
        // SAFETY: guaranteed by the caller.
        let value = unsafe { perform_once(call) };
        let waited = match -value {
            it if it == i64::from(EAGAIN) => match readiness::fd_to_await(call) {
                Some((fd, events)) => fd::poll(fd, events, -1),
                None => return value,
            },
            it if call.op == Op::Connect && is_connecting(it) => {
                match fd::poll(call.int(0), libc::POLLOUT, -1) {
                    waited if waited >= 0 => return connect_outcome(call.int(0)),
                    waited => waited,
                }
            }
            it if it == i64::from(EINTR) && call.op != Op::Close => value,
            _ => return value,
        };
        if waited < 0 && (waited != -i64::from(EINTR) || is_interruptible) {
            return waited;
        }
    }
}

/// Whether connect(2) has begun, and the kernel continues it.
pub(crate) fn is_connecting(errno: i64) -> bool {
    errno == i64::from(libc::EINPROGRESS) || errno == i64::from(libc::EALREADY)
}

/// Begin to connect without blocking, even on a blocking descriptor.
///
/// # Safety
/// As for [`attempt`].
pub(crate) unsafe fn begin_to_connect(call: &Call) -> i64 {
    let fd = call.int(0);
    let flags = match fd::status_flags(fd) {
        Ok(flags) => flags,
        Err(errno) => return errno,
    };
    if flags.is_non_blocking() {
        // SAFETY: guaranteed by the caller.
        return unsafe { perform_once(call) };
    }
    fd::set_status_flags(fd, flags.with_non_blocking(true));
    // SAFETY: guaranteed by the caller.
    let value = unsafe { perform_once(call) };
    fd::set_status_flags(fd, flags);
    value
}

/// Finish the connection of `begin_to_connect`, once the descriptor is ready.
///
/// # Safety
/// As for [`attempt`].
pub(crate) unsafe fn finish_connecting(call: &Call) -> i64 {
    match connect_outcome(call.int(0)) {
        // For the kernel the socket is still connecting, until connect(2) is called once more.
        // SAFETY: guaranteed by the caller.
        0 => match unsafe { begin_to_connect(call) } {
            value if value == -i64::from(libc::EISCONN) => 0,
            value => value,
        },
        value => value,
    }
}

/// The outcome of a connection attempt: 0 or a negative errno.
fn connect_outcome(fd: c_int) -> i64 {
    let mut error: c_int = 0;
    let mut len = size_of::<c_int>() as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ERROR);
    match sys!(libc::SYS_getsockopt, fd, level, name, &raw mut error, &raw mut len) {
        0 => -i64::from(error),
        value => value,
    }
}

/// Make a call once, for as long as it takes; on a non-blocking descriptor it does not wait.
///
/// # Safety
/// As for [`attempt`].
pub(crate) unsafe fn perform_once(call: &Call) -> i64 {
    let path = |idx| call.address::<libc::c_char>(idx);
    let int = |idx| call.int(idx);
    match call.op {
        Op::Nop | Op::Add | Op::Sendfile => 0,
        Op::Openat => sys!(libc::SYS_openat, int(0), path(1), int(2), call.len(3)),
        Op::Openat2 => {
            let size = size_of::<libc::open_how>();
            sys!(libc::SYS_openat2, int(0), path(1), call.address::<libc::open_how>(2), size)
        }
        Op::Statx => {
            sys!(libc::SYS_statx, int(0), path(1), int(2), int(3), call.address::<libc::statx>(4))
        }
        Op::Read | Op::Pread if call.offset(3) == -1 => {
            sys!(libc::SYS_read, int(0), call.address::<u8>(1), call.len(2))
        }
        Op::Read | Op::Pread => {
            sys!(libc::SYS_pread64, int(0), call.address::<u8>(1), call.len(2), call.offset(3))
        }
        Op::Write | Op::Pwrite if call.offset(3) == -1 => {
            sys!(libc::SYS_write, int(0), call.address::<u8>(1), call.len(2))
        }
        Op::Write | Op::Pwrite => {
            sys!(libc::SYS_pwrite64, int(0), call.address::<u8>(1), call.len(2), call.offset(3))
        }
        Op::Readv | Op::Writev => {
            let (pieces, offset) = (call.address::<libc::iovec>(1), call.offset(3));
            let number = match (call.op, offset) {
                (Op::Readv, -1) => libc::SYS_readv,
                (Op::Readv, _) => libc::SYS_preadv,
                (_, -1) => libc::SYS_writev,
                _ => libc::SYS_pwritev,
            };
            sys!(number, int(0), pieces, call.len(2), offset, 0)
        }
        Op::Fsync => sys!(libc::SYS_fsync, int(0)),
        Op::Fdatasync => sys!(libc::SYS_fdatasync, int(0)),
        Op::Fallocate => {
            sys!(libc::SYS_fallocate, int(0), int(1), call.offset(2), call.offset(3))
        }
        Op::Ftruncate => sys!(libc::SYS_ftruncate, int(0), call.offset(1)),
        Op::Close => sys!(libc::SYS_close, int(0)),
        Op::Unlinkat => sys!(libc::SYS_unlinkat, int(0), path(1), int(2)),
        Op::Renameat => sys!(libc::SYS_renameat2, int(0), path(1), int(2), path(3), int(4)),
        Op::Mkdirat => sys!(libc::SYS_mkdirat, int(0), path(1), int(2)),
        Op::Linkat => sys!(libc::SYS_linkat, int(0), path(1), int(2), path(3), int(4)),
        Op::Symlinkat => sys!(libc::SYS_symlinkat, path(0), int(1), path(2)),
        Op::Getdents => sys!(libc::SYS_getdents64, int(0), call.address::<u8>(1), call.len(2)),
        Op::Splice => splice(call),
        Op::Socket => sys!(libc::SYS_socket, int(0), int(1), int(2)),
        Op::Connect => sys!(libc::SYS_connect, int(0), call.address::<libc::sockaddr>(1), int(2)),
        Op::Accept => {
            let len = call.address::<libc::socklen_t>(3);
            sys!(libc::SYS_accept4, int(0), call.address::<libc::sockaddr>(2), len, int(1))
        }
        Op::Recv => {
            let (start, null) = (call.address::<u8>(1), std::ptr::null_mut::<u8>());
            sys!(libc::SYS_recvfrom, int(0), start, call.len(2), int(3), null, null)
        }
        Op::Send => {
            let (start, null) = (call.address::<u8>(1), std::ptr::null_mut::<u8>());
            let flags = int(3) | libc::MSG_NOSIGNAL;
            sys!(libc::SYS_sendto, int(0), start, call.len(2), flags, null, 0)
        }
        Op::Recvmsg => sys!(libc::SYS_recvmsg, int(0), call.address::<libc::msghdr>(1), int(2)),
        Op::Sendmsg => {
            let flags = int(2) | libc::MSG_NOSIGNAL;
            sys!(libc::SYS_sendmsg, int(0), call.address::<libc::msghdr>(1), flags)
        }
        Op::Shutdown => sys!(libc::SYS_shutdown, int(0), int(1)),
        Op::Poll => fd::poll(int(0), int(1) as i16, -1),
        Op::Timeout => sleep_until(call.words[0]),
        Op::Waitid => {
            let (info, null) = (call.address::<libc::siginfo_t>(3), std::ptr::null_mut::<u8>());
            sys!(libc::SYS_waitid, int(0), int(1), info, int(2), null)
        }
    }
}

fn splice(call: &Call) -> i64 {
    let (mut offset_in, mut offset_out) = (call.offset(1), call.offset(3));
    let pointer = |offset: &mut i64| {
        if *offset < 0 { std::ptr::null_mut() } else { std::ptr::from_mut(offset) }
    };
    let (offset_in, offset_out) = (pointer(&mut offset_in), pointer(&mut offset_out));
    let (length, flags) = (call.len(4), call.int(5));
    sys!(libc::SYS_splice, call.int(0), offset_in, call.int(2), offset_out, length, flags)
}

fn sleep_until(deadline_ns: u64) -> i64 {
    let deadline = libc::timespec {
        tv_sec: (deadline_ns / 1_000_000_000) as _,
        tv_nsec: (deadline_ns % 1_000_000_000) as libc::c_long,
    };
    let null = std::ptr::null_mut::<libc::timespec>();
    let (clock, how) = (libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME);
    sys!(libc::SYS_clock_nanosleep, clock, how, &raw const deadline, null)
}
