//! Descriptors: what they are (a file, a pipe, a socket), their state, and small calls that do not wait for
//! a peer or a disk.
//!
//! Values are the kernel's: what the call returned, or a negative errno. Nothing in here knows operations.

use std::os::fd::{FromRawFd, OwnedFd};

use libc::{EAGAIN, c_int, c_long};

/// Make a raw system call; the value is what it returned, or a negative errno.
///
/// Addresses are those of local variables, or of a [`Call`](super::call::Call) in an unsafe function that
/// requires them to be valid.
macro_rules! sys {
    ($number:expr $(, $arg:expr)*) => {
        // SAFETY: see above.
        $crate::syslet::fd::to_value(unsafe { libc::syscall($number $(, $arg)*) })
    };
}

pub(super) use sys;

/// The value of a system call that has returned this.
#[inline]
pub(super) fn to_value(returned: c_long) -> i64 {
    if returned == -1 { -i64::from(errno()) } else { returned }
}

#[inline]
fn errno() -> c_int {
    // SAFETY: the address of this thread's errno, always valid.
    unsafe { *libc::__errno_location() }
}

/// Wait for events of one descriptor; the value is what it is ready for, or 0 after `timeout_ms`.
pub(crate) fn poll(fd: c_int, events: i16, timeout_ms: c_int) -> i64 {
    // poll(2) ignores a negative number, and would wait for ever.
    if fd < 0 {
        return -i64::from(libc::EBADF);
    }
    let mut polled = libc::pollfd { fd, events, revents: 0 };
    // SAFETY: one descriptor, described by a local variable.
    let n = to_value(c_long::from(unsafe { libc::poll(&raw mut polled, 1, timeout_ms) }));
    if n <= 0 {
        return n;
    }
    // As in the kernel's ring, a number that is not open is an error, not an event.
    if polled.revents & libc::POLLNVAL != 0 {
        return -i64::from(libc::EBADF);
    }
    i64::from(polled.revents as u16)
}

/// The status flags of an open file, as fcntl(2) has them.
#[derive(Debug, Clone, Copy)]
pub(super) struct StatusFlags(c_int);

impl StatusFlags {
    pub(super) fn is_non_blocking(self) -> bool {
        self.0 & libc::O_NONBLOCK != 0
    }

    pub(super) fn with_non_blocking(self, is_set: bool) -> Self {
        let others = self.0 & !libc::O_NONBLOCK;
        Self(if is_set { others | libc::O_NONBLOCK } else { others })
    }
}

pub(super) fn status_flags(fd: c_int) -> Result<StatusFlags, i64> {
    match sys!(libc::SYS_fcntl, fd, libc::F_GETFL) {
        flags if flags >= 0 => Ok(StatusFlags(flags as c_int)),
        errno => Err(errno),
    }
}

pub(super) fn set_status_flags(fd: c_int, flags: StatusFlags) {
    sys!(libc::SYS_fcntl, fd, libc::F_SETFL, flags.0);
}

/// Make a descriptor blocking, which is the default.
pub(crate) fn make_blocking(fd: c_int) {
    if let Ok(flags) = status_flags(fd) {
        set_status_flags(fd, flags.with_non_blocking(false));
    }
}

/// Close a descriptor of ours.
pub(crate) fn close(fd: c_int) {
    sys!(libc::SYS_close, fd);
}

/// The position of a descriptor whose reads come in one piece unless the file ends; `None` for pipes,
/// sockets and terminals, whose reads return what there is.
pub(crate) fn position(fd: c_int) -> Option<i64> {
    Some(sys!(libc::SYS_lseek, fd, 0, libc::SEEK_CUR)).filter(|it| *it >= 0)
}

/// The value of sending no bytes of a file: an error if it cannot be sent.
pub(crate) fn send_zero_bytes(to: c_int, from: c_int) -> i64 {
    sys!(libc::SYS_sendfile, to, from, std::ptr::null_mut::<i64>(), 0)
}

/// Whether a descriptor is a file whose reads and writes continue where the last one ended. Some regular
/// files have no position: those of the kernel that are read like pipes.
pub(crate) fn has_position(fd: c_int) -> bool {
    position(fd).is_some() && is_file(fd)
}

/// Set a file's position.
pub(crate) fn set_position(fd: c_int, position: i64) {
    sys!(libc::SYS_lseek, fd, position, libc::SEEK_SET);
}

/// Move a file's position by `n_bytes`.
pub(crate) fn move_position(fd: c_int, n_bytes: i64) {
    sys!(libc::SYS_lseek, fd, n_bytes, libc::SEEK_CUR);
}

/// Create a pipe: the read end and the write end.
pub(crate) fn pipe() -> Result<[c_int; 2], c_int> {
    let mut ends = [0; 2];
    match sys!(libc::SYS_pipe2, ends.as_mut_ptr(), libc::O_CLOEXEC) {
        0 => Ok(ends),
        value => Err(value as c_int),
    }
}

/// Whether calls on a descriptor wait.
pub(crate) fn is_blocking(fd: c_int) -> bool {
    status_flags(fd).is_ok_and(|it| !it.is_non_blocking())
}

/// The type of a descriptor's file, by the bits of `S_IFMT`; `None` if it is not open.
pub(crate) fn file_type(fd: c_int) -> Option<libc::mode_t> {
    // SAFETY: a structure of numbers.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the address is that of a local variable.
    let outcome = unsafe { libc::fstat(fd, &raw mut status) };
    (outcome == 0).then_some(status.st_mode & libc::S_IFMT)
}

/// Whether a descriptor's file is on a disk: it is always ready, and blocks all the same. The position
/// does not tell: that of eventfd, inotify and their like is always zero.
pub(crate) fn is_file(fd: c_int) -> bool {
    matches!(file_type(fd), Some(libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK))
}

/// Whether a blocking open(2) of a named pipe would have returned: its other end is open, or being
/// opened. The descriptor was opened with `flags`, but without blocking.
pub(crate) fn has_other_end(fd: c_int, flags: c_int) -> bool {
    if file_type(fd) != Some(libc::S_IFIFO) {
        return false;
    }
    // Without a reader, opening it for writing would have failed.
    flags & libc::O_ACCMODE != libc::O_RDONLY || has_writer(fd)
}

fn has_writer(fd: c_int) -> bool {
    if poll(fd, libc::POLLIN, 0) != 0 {
        return true;
    }
    // The pipe is empty: tee(2) returns 0, the end of the file, without a writer, and EAGAIN with one.
    let Ok(ends) = pipe() else { return false };
    let n = sys!(libc::SYS_tee, fd, ends[1], 1, libc::SPLICE_F_NONBLOCK);
    ends.into_iter().for_each(close);
    n > 0 || n == -i64::from(EAGAIN)
}

/// Whether a descriptor is a socket that connections can be accepted from.
pub(crate) fn is_listening(fd: c_int) -> bool {
    socket_option(fd, libc::SO_ACCEPTCONN).is_some_and(|it| it != 0)
}

/// Whether a descriptor is a stream socket, whose bytes are not divided into messages.
pub(crate) fn is_stream(fd: c_int) -> bool {
    socket_option(fd, libc::SO_TYPE) == Some(libc::SOCK_STREAM)
}

fn socket_option(fd: c_int, name: c_int) -> Option<c_int> {
    let (mut answer, mut len): (c_int, _) = (0, size_of::<c_int>() as libc::socklen_t);
    let level = libc::SOL_SOCKET;
    let outcome = sys!(libc::SYS_getsockopt, fd, level, name, &raw mut answer, &raw mut len);
    (outcome == 0).then_some(answer)
}

/// How many bytes at least a socket that is ready for writing takes without blocking.
pub(crate) fn send_room(fd: c_int) -> usize {
    /// As much as fits into the memory of one packet, for which a ready socket has room.
    const ROOM_MIN_BYTES: usize = 4096;
    const SO_MEMINFO: c_int = 55;
    let (allocated, limit, queued) = (2, 3, 5);
    if status_flags(fd).is_ok_and(StatusFlags::is_non_blocking) {
        return usize::MAX;
    }
    let mut memory = [0u32; 9];
    let mut len = size_of_val(&memory) as libc::socklen_t;
    let (level, start) = (libc::SOL_SOCKET, memory.as_mut_ptr());
    if sys!(libc::SYS_getsockopt, fd, level, SO_MEMINFO, start, &raw mut len) < 0 {
        return ROOM_MIN_BYTES;
    }
    let free = memory[limit].saturating_sub(memory[allocated].max(memory[queued]));
    // The kernel's counts include its own overhead: promise half.
    (free as usize / 2).max(ROOM_MIN_BYTES)
}

/// A descriptor that becomes readable when the process ends.
pub(crate) fn pidfd(pid: c_int) -> Result<OwnedFd, c_int> {
    match sys!(libc::SYS_pidfd_open, pid, 0) {
        // SAFETY: it was opened just now, and nothing else owns it.
        fd if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) }),
        value => Err(value as c_int),
    }
}
