//! Readiness: the descriptor, and its events, for which a call that would block waits.
//!
//! No other module decides this. When and how to wait is up to the caller.

use libc::{POLLIN, POLLOUT, c_int};

use super::call::Call;
use super::fd;
use super::op::Op;

/// A descriptor, and events of it.
type FdEvents = (c_int, i16);

/// The descriptors that a call needs to be ready, with their events.
///
/// Files are not among them: they are always ready, and block all the same.
pub(crate) fn needed_fds(call: &Call) -> [Option<FdEvents>; 2] {
    let end = |idx, events| {
        let fd = call.int(idx);
        (!fd::is_file(fd)).then_some((fd, events))
    };
    match call.op {
        // A descriptor that has no offsets, such as a pipe, refuses one at once.
        Op::Readv | Op::Writev if call.offset(3) >= 0 => [None, None],
        Op::Read | Op::Readv | Op::Recv | Op::Recvmsg | Op::Accept => [end(0, POLLIN), None],
        Op::Write | Op::Writev | Op::Send | Op::Sendmsg => [end(0, POLLOUT), None],
        Op::Splice => [end(0, POLLIN), end(2, POLLOUT)],
        // Not Connect: its EAGAIN means that the peer's backlog is full.
        _ => [None, None],
    }
}

/// What to wait for before a call is made, or made again after it has failed with `EAGAIN`. `None` if
/// there is nothing to wait for; then `EAGAIN` is its value.
pub(crate) fn fd_to_await(call: &Call) -> Option<FdEvents> {
    if asks_not_to_wait(call) || fails_at_once(call) {
        return None;
    }
    match needed_fds(call) {
        [Some(from), Some(to)] => Some(if is_unready(from) { from } else { to }),
        [one, other] => one.or(other),
    }
}

/// The first descriptor that the call needs and that is not ready now.
pub(crate) fn unready_fd(call: &Call) -> Option<FdEvents> {
    needed_fds(call).into_iter().flatten().find(|&end| is_unready(end))
}

fn is_unready((fd, events): FdEvents) -> bool {
    fd::poll(fd, events, 0) == 0
}

/// Whether the program itself asks not to wait.
pub(crate) fn asks_not_to_wait(call: &Call) -> bool {
    let flags_idx = match call.op {
        Op::Recv | Op::Send => 3,
        Op::Recvmsg | Op::Sendmsg => 2,
        Op::Splice => return call.int(5) as u32 & libc::SPLICE_F_NONBLOCK != 0,
        _ => return false,
    };
    call.int(flags_idx) & libc::MSG_DONTWAIT != 0
}

/// Whether the call fails at once, because its descriptor is not a listener, or not a socket.
fn fails_at_once(call: &Call) -> bool {
    match call.op {
        Op::Accept => !fd::is_listening(call.int(0)),
        Op::Recv | Op::Send | Op::Recvmsg | Op::Sendmsg => {
            fd::file_type(call.int(0)) != Some(libc::S_IFSOCK)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn call_on(op: Op, fd: &impl AsRawFd) -> Call {
        Call::new(op, [fd.as_raw_fd() as u64, 0, 0, u64::MAX])
    }

    #[test]
    fn each_operation_waits_for_the_direction_in_which_it_moves() {
        let (reader, writer) = std::io::pipe().unwrap();
        for op in [Op::Read, Op::Readv] {
            assert_eq!(
                Some((reader.as_raw_fd(), POLLIN)),
                fd_to_await(&call_on(op, &reader)),
                "{op}"
            );
        }
        for op in [Op::Write, Op::Writev] {
            assert_eq!(
                Some((writer.as_raw_fd(), POLLOUT)),
                fd_to_await(&call_on(op, &writer)),
                "{op}"
            );
            assert_eq!(None, unready_fd(&call_on(op, &writer)), "{op}");
        }
        assert_eq!(None, fd_to_await(&call_on(Op::Readv, &reader).with(3, 0)));
        assert_eq!(Some((reader.as_raw_fd(), POLLIN)), unready_fd(&call_on(Op::Read, &reader)));
    }

    #[test]
    fn files_and_refused_or_impatient_calls_are_not_waited_for() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let (socket, _peer) = UnixStream::pair().unwrap();
        for op in [Op::Read, Op::Write, Op::Recv, Op::Sendmsg, Op::Accept, Op::Fsync] {
            assert_eq!(None, fd_to_await(&call_on(op, &file)), "{op}");
        }
        assert_eq!(None, fd_to_await(&call_on(Op::Accept, &socket)));
        assert_eq!(
            None,
            fd_to_await(&call_on(Op::Recv, &socket).with(3, libc::MSG_DONTWAIT as u64))
        );
        let expected = Some((socket.as_raw_fd(), POLLIN));
        assert_eq!(expected, fd_to_await(&call_on(Op::Recv, &socket).with(3, 0)));
    }

    #[test]
    fn a_listener_is_waited_for_until_a_peer_connects() {
        let path = std::env::temp_dir().join(format!("readiness-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let call = call_on(Op::Accept, &listener);
        assert_eq!(Some((listener.as_raw_fd(), POLLIN)), unready_fd(&call));
        let _peer = UnixStream::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(None, unready_fd(&call));
        assert_eq!(Some((listener.as_raw_fd(), POLLIN)), fd_to_await(&call));
    }

    #[test]
    fn a_splice_waits_for_the_end_that_is_not_ready() {
        let ((from, mut filler), (_drain, to)) =
            (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let (from_fd, to_fd) = (from.as_raw_fd(), to.as_raw_fd());
        let call = Call::new(Op::Splice, [from_fd as u64, u64::MAX, to_fd as u64, u64::MAX, 1, 0]);
        assert_eq!(Some((from_fd, POLLIN)), fd_to_await(&call));
        std::io::Write::write_all(&mut filler, b"x").unwrap();
        assert_eq!((Some((to_fd, POLLOUT)), None), (fd_to_await(&call), unready_fd(&call)));
        assert_eq!(None, fd_to_await(&call.with(5, u64::from(libc::SPLICE_F_NONBLOCK))));
    }
}
