//! Calls that may wait for a disk, never for a peer, a child or the other end of a pipe.
//!
//! A call that would have to wait for such another party is refused with `NOT_YET`: the backend waits,
//! and makes the call again.

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use libc::c_int;

use crate::syslet::syscall::{self, AttemptOutcome};
use crate::syslet::{Call, Op, fd, readiness};

/// The value of a call that would have to wait for another party; no system call returns it.
pub(crate) const NOT_YET: i64 = i64::MIN;

/// How many bytes a pipe that is ready for writing takes without waiting for its reader.
const PIPE_ROOM_BYTES: u64 = 4096;

const EAGAIN: i64 = libc::EAGAIN as i64;

/// Locks under which a thread looks whether a descriptor is ready, and then makes a call that would
/// block if it was not. The descriptor's number chooses the lock.
///
/// They belong to an engine, not to the process: the child of a fork, in which the parent's threads are
/// missing, has another engine, and with it locks that no thread holds.
#[derive(Debug)]
pub(crate) struct DescriptorLocks([Mutex<()>; 64]);

impl Default for DescriptorLocks {
    fn default() -> Self {
        Self([const { Mutex::new(()) }; 64])
    }
}

/// Make a call, unless it would have to wait for another party; then the value is `NOT_YET`.
///
/// # Safety
/// The addresses in the call are valid for what the operation does with them.
pub(crate) unsafe fn perform(call: &Call, locks: &DescriptorLocks) -> i64 {
    // SAFETY: guaranteed by the caller, here and below.
    let attempt = || match unsafe { syscall::attempt(call) } {
        AttemptOutcome::Done(value) => value,
        AttemptOutcome::OpenedNonBlocking(fd) => {
            fd::make_blocking(fd as c_int);
            fd
        }
        AttemptOutcome::WouldBlock => NOT_YET,
    };
    // SAFETY: see above.
    let make_call = |call: &Call| unsafe { syscall::perform_once(call) };
    match call.op() {
        Op::Recv | Op::Send | Op::Recvmsg | Op::Sendmsg | Op::Waitid => attempt(),
        Op::Read | Op::Write | Op::Readv | Op::Writev if !fd::is_file(call.int(0)) => {
            match attempt() {
                NOT_YET => locks.call_if_ready(call, |call| {
                    // SAFETY: see above.
                    make_call(&unsafe { shorten_for_pipe(call) })
                }),
                value => value,
            }
        }
        Op::Accept => match attempt() {
            NOT_YET => locks.call_if_ready(call, make_call),
            value => value,
        },
        // SAFETY: see above.
        Op::Connect => match unsafe { syscall::begin_to_connect(call) } {
            value if value == -EAGAIN || syscall::is_connecting(-value) => NOT_YET,
            value => value,
        },
        // A splice of zero bytes never waits.
        Op::Splice if call.words[4] > 0 => splice_if_ready(call, locks, make_call),
        // SAFETY: see above.
        Op::Openat | Op::Openat2 if unsafe { opens_named_pipe(call) } => NOT_YET,
        _ => make_call(call),
    }
}

impl DescriptorLocks {
    /// Make a call under its descriptor's lock, if all of its descriptors are ready.
    ///
    /// Code outside of the engine may still come first, and then the call blocks after all: there is no
    /// flag against that.
    fn call_if_ready(&self, call: &Call, make_call: impl FnOnce(&Call) -> i64) -> i64 {
        let lock = &self.0[call.int(0) as usize % self.0.len()];
        // Another thread is about to make such a call, and may leave nothing for this one.
        let _guard = match lock.try_lock() {
            Ok(guard) => guard,
            Err(std::sync::TryLockError::Poisoned(error)) => PoisonError::into_inner(error),
            Err(std::sync::TryLockError::WouldBlock) => return NOT_YET,
        };
        for (fd, events) in readiness::needed_fds(call).into_iter().flatten() {
            match fd::poll(fd, events, 0) {
                0 => return NOT_YET,
                value if value < 0 => return value,
                _ => {}
            }
        }
        match make_call(call) {
            value if value == -EAGAIN => NOT_YET,
            value => value,
        }
    }
}

/// Shorten a write to what a pipe takes that is ready; other calls stay as they are.
///
/// # Safety
/// The call's addresses are valid.
unsafe fn shorten_for_pipe(call: &Call) -> Call {
    match call.op() {
        Op::Write => call.with(2, call.words[2].min(PIPE_ROOM_BYTES)),
        Op::Writev if call.offset(3) == -1 && call.len(2) > 0 => {
            // SAFETY: guaranteed by the caller.
            let pieces = unsafe {
                std::slice::from_raw_parts(call.address::<libc::iovec>(1).cast_const(), call.len(2))
            };
            let piece = pieces.iter().find(|it| it.iov_len > 0).unwrap_or(&pieces[0]);
            let len = (piece.iov_len as u64).min(PIPE_ROOM_BYTES);
            Call::new(Op::Write, [call.words[0], piece.iov_base as u64, len, u64::MAX])
        }
        _ => *call,
    }
}

fn splice_if_ready(
    call: &Call,
    locks: &DescriptorLocks,
    make_call: impl FnOnce(&Call) -> i64,
) -> i64 {
    let outcome = locks.call_if_ready(call, |call| {
        // SPLICE_F_NONBLOCK works for pipes only: a blocking socket is given no more than fits.
        let room = match fd::file_type(call.int(2)) {
            Some(libc::S_IFSOCK) => fd::send_room(call.int(2)) as u64,
            _ => u64::MAX,
        };
        let flags = call.words[5] | u64::from(libc::SPLICE_F_NONBLOCK);
        make_call(&call.with(4, call.words[4].min(room)).with(5, flags))
    });
    if outcome == NOT_YET && readiness::asks_not_to_wait(call) { -EAGAIN } else { outcome }
}

/// Whether a call opens a named pipe, and may wait for the other end.
///
/// # Safety
/// As for [`perform`].
pub(crate) unsafe fn opens_named_pipe(call: &Call) -> bool {
    const NEVER_WAITS: c_int = libc::O_PATH | libc::O_DIRECTORY | libc::O_NONBLOCK;
    // SAFETY: guaranteed by the caller.
    let flags = unsafe { open_flags(call) };
    let is_new = libc::O_CREAT | libc::O_EXCL;
    if flags & NEVER_WAITS != 0
        || flags & is_new == is_new
        || flags & libc::O_ACCMODE == libc::O_RDWR
    {
        return false;
    }
    let path_only = libc::O_PATH | libc::O_CLOEXEC | flags & libc::O_NOFOLLOW;
    // SAFETY: guaranteed by the caller.
    match unsafe { open_with(call, path_only, 0) } {
        fd if fd >= 0 => {
            let is_pipe = fd::file_type(fd as c_int) == Some(libc::S_IFIFO);
            fd::close(fd as c_int);
            is_pipe
        }
        // The call itself reports why the path cannot be opened.
        _ => false,
    }
}

/// Open a named pipe without waiting; the value is `NOT_YET` until the other end is open.
///
/// `our_end` keeps our end open between attempts, so that the other party's open(2) can return.
///
/// # Safety
/// As for [`perform`].
pub(crate) unsafe fn open_pipe(call: &Call, our_end: &mut Option<OwnedFd>) -> i64 {
    // SAFETY: guaranteed by the caller.
    let (flags, mode) = unsafe { (open_flags(call), open_mode(call)) };
    let fd = match our_end.take() {
        Some(fd) => fd,
        // SAFETY: guaranteed by the caller.
        None => match unsafe { open_with(call, flags | libc::O_NONBLOCK, mode) } {
            // The pipe has no reader yet.
            value if value == -i64::from(libc::ENXIO) => return NOT_YET,
            value if value < 0 => return value,
            // SAFETY: it was opened just now, and nothing else owns it.
            value => unsafe { OwnedFd::from_raw_fd(value as c_int) },
        },
    };
    let is_pipe = fd::file_type(fd.as_raw_fd()) == Some(libc::S_IFIFO);
    if is_pipe && !fd::has_other_end(fd.as_raw_fd(), flags) {
        *our_end = Some(fd);
        return NOT_YET;
    }
    fd::make_blocking(fd.as_raw_fd());
    i64::from(fd.into_raw_fd())
}

/// # Safety
/// As for [`perform`].
unsafe fn open_flags(call: &Call) -> c_int {
    match call.op() {
        Op::Openat => call.int(2),
        // SAFETY: guaranteed by the caller.
        _ => unsafe { (*call.address::<libc::open_how>(2)).flags as c_int },
    }
}

/// # Safety
/// As for [`perform`].
unsafe fn open_mode(call: &Call) -> u64 {
    match call.op() {
        Op::Openat => call.words[3],
        // SAFETY: guaranteed by the caller.
        _ => unsafe { (*call.address::<libc::open_how>(2)).mode },
    }
}

/// Make the call with other flags and another mode.
///
/// # Safety
/// As for [`perform`].
unsafe fn open_with(call: &Call, flags: c_int, mode: u64) -> i64 {
    if call.op() == Op::Openat {
        let call = call.with(2, flags as u64).with(3, mode);
        // SAFETY: guaranteed by the caller.
        return unsafe { syscall::perform_once(&call) };
    }
    // SAFETY: guaranteed by the caller.
    let mut how = unsafe { *call.address::<libc::open_how>(2) };
    (how.flags, how.mode) = (flags as u64, mode);
    let call = call.with(2, &raw const how as u64);
    // SAFETY: guaranteed by the caller; the new structure is a local variable.
    unsafe { syscall::perform_once(&call) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_do_not_share_their_locks() {
        let (one, other) = (DescriptorLocks::default(), DescriptorLocks::default());
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"x").unwrap();
        let fd = reader.as_raw_fd() as u64;
        let mut byte = 0u8;
        let call = Call::new(Op::Read, [fd, &raw mut byte as u64, 1, u64::MAX]);
        let value = one.call_if_ready(&call, |call| {
            assert_eq!(NOT_YET, one.call_if_ready(call, |_| 1));
            other.call_if_ready(call, |_| 2)
        });
        assert_eq!(2, value);
    }
}
