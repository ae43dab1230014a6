//! Epoll set: which operations of an engine's thread wait for which descriptor.
//!
//! A descriptor is named by its number, which may be closed, and used again, while an operation waits
//! for it. The kernel removes a closed descriptor by itself, and then refuses to modify the number's
//! registration: that is how the set notices.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::io::Errno;

use super::backend::Key;
use crate::error::{Error, Result};

/// The events that poll(2) and epoll have in common, and that can be asked for.
const EVENTS_KNOWN: u16 = (libc::POLLIN
    | libc::POLLPRI
    | libc::POLLOUT
    | libc::POLLRDNORM
    | libc::POLLRDBAND
    | libc::POLLWRNORM
    | libc::POLLWRBAND
    | libc::POLLRDHUP) as u16;

/// The events that epoll reports unasked.
const EVENTS_UNASKED: u16 = (libc::POLLERR | libc::POLLHUP) as u16;

/// The events for which files and their like, which epoll refuses, are always ready.
const EVENTS_OF_FILES: u16 =
    (libc::POLLIN | libc::POLLOUT | libc::POLLRDNORM | libc::POLLWRNORM) as u16;

const WAKER: u64 = u64::MAX;

const N_EVENTS_MAX: usize = 256;

const BAD_DESCRIPTOR: i64 = -(libc::EBADF as i64);

/// An operation whose descriptor is ready, with the events or a negative errno.
pub(crate) type ReadyOperation = (Key, i64);

#[derive(Debug)]
struct EpollWaiter {
    key: Key,
    events: u16,
}

#[derive(Debug)]
struct EpollEntry {
    /// Tells the registration from earlier ones of the same number, which the kernel keeps until the
    /// last duplicate of the closed descriptor is closed.
    generation: u32,
    waiters: Vec<EpollWaiter>,
}

impl EpollEntry {
    fn events(&self) -> u16 {
        self.waiters.iter().fold(0, |events, it| events | it.events)
    }
}

/// The operations of an engine's thread that wait for descriptors.
pub(crate) struct EpollSet {
    epoll: OwnedFd,
    entries: HashMap<RawFd, EpollEntry>,
    last_generation: u32,
    events: Vec<epoll::Event>,
}

impl EpollSet {
    pub(crate) fn new(waker: BorrowedFd<'_>) -> Result<Self> {
        let error = |errno| Error::new("epoll_create", errno);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(error)?;
        let data = epoll::EventData::new_u64(WAKER);
        epoll::add(&epoll, waker, data, epoll::EventFlags::IN)
            .map_err(|errno| Error::new("epoll_ctl", errno))?;
        let events = Vec::with_capacity(N_EVENTS_MAX);
        Ok(Self { epoll, entries: HashMap::new(), last_generation: 0, events })
    }

    /// Have an operation wait for events of a descriptor; it fires once.
    pub(crate) fn add(
        &mut self,
        key: Key,
        fd: RawFd,
        events: u16,
        ready: &mut Vec<ReadyOperation>,
    ) {
        let events = events & EVENTS_KNOWN;
        let waiter = EpollWaiter { key, events };
        if let Some(entry) = self.entries.get_mut(&fd) {
            entry.waiters.push(waiter);
            match control(&self.epoll, EpollControl::Modify, fd, entry.generation, entry.events()) {
                Ok(()) => return,
                Err(errno) if !means_closed(errno) => {
                    return self.fail_waiter(key, fd, errno, ready);
                }
                // The number was closed: it is not open, or no longer what the others wait for.
                Err(_) => {
                    entry.waiters.pop();
                    self.fail_waiters(fd, BAD_DESCRIPTOR, ready);
                }
            }
        }
        self.last_generation = self.last_generation.wrapping_add(1);
        let generation = self.last_generation;
        let mut outcome = control(&self.epoll, EpollControl::Add, fd, generation, events);
        if outcome == Err(Errno::EXIST) {
            outcome = control(&self.epoll, EpollControl::Modify, fd, generation, events);
        }
        match outcome {
            Ok(()) => {
                let waiters = vec![EpollWaiter { key, events }];
                self.entries.insert(fd, EpollEntry { generation, waiters });
            }
            // Files are always ready for reading and writing, and never for anything else.
            Err(Errno::PERM) if events & EVENTS_OF_FILES == 0 => {}
            Err(Errno::PERM) => ready.push((key, i64::from(events & EVENTS_OF_FILES))),
            Err(errno) => ready.push((key, negative(errno))),
        }
    }

    /// Fail one waiter with the kernel's error; the descriptor's other waiters keep waiting.
    fn fail_waiter(&mut self, key: Key, fd: RawFd, errno: Errno, ready: &mut Vec<ReadyOperation>) {
        self.remove_waiter(key, fd);
        ready.push((key, negative(errno)));
    }

    fn fail_waiters(&mut self, fd: RawFd, value: i64, ready: &mut Vec<ReadyOperation>) {
        if let Some(entry) = self.entries.remove(&fd) {
            ready.extend(entry.waiters.iter().map(|it| (it.key, value)));
        }
    }

    /// End an operation's wait.
    pub(crate) fn remove(&mut self, key: Key, fd: RawFd) {
        self.remove_waiter(key, fd);
        if let Some(entry) = self.entries.get(&fd)
            && entry.waiters.is_empty()
        {
            self.entries.remove(&fd);
            // SAFETY: only the number is passed; the kernel refuses one that is not open.
            let source = unsafe { BorrowedFd::borrow_raw(fd) };
            // It fails, harmlessly, if the descriptor is closed already.
            let _ = epoll::delete(&self.epoll, source);
        }
    }

    fn remove_waiter(&mut self, key: Key, fd: RawFd) {
        if let Some(entry) = self.entries.get_mut(&fd) {
            entry.waiters.retain(|it| it.key != key);
        }
    }

    /// Wait until a descriptor is ready, the waker has been used, or the time has passed; return whether
    /// the waker has been used.
    pub(crate) fn wait(
        &mut self,
        timeout_ns: Option<u64>,
        ready: &mut Vec<ReadyOperation>,
    ) -> bool {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        if let Some(rest_ns @ 1..) = timeout_ns {
            // Poll the epoll instance first: epoll_wait(2) counts milliseconds.
            let rest = Timespec {
                tv_sec: i64::try_from(rest_ns / 1_000_000_000).unwrap_or(i64::MAX),
                tv_nsec: (rest_ns % 1_000_000_000) as i64,
            };
            // The outcome does not matter: the epoll_wait(2) below finds out what is ready.
            let mut polled = [PollFd::new(&self.epoll, PollFlags::IN)];
            let _ = rustix::event::poll(&mut polled, Some(&rest));
        }
        let timeout = timeout_ns.map(|_| &zero);
        let room = rustix::buffer::spare_capacity(&mut self.events);
        // An interrupted wait has found no events.
        if let Err(errno) = epoll::wait(&self.epoll, room, timeout)
            && errno != Errno::INTR
        {
            panic!("the epoll instance of an engine's thread is broken: {errno}");
        }
        let mut is_woken = false;
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            // The structure is packed: copy its fields before using them.
            let (data, flags) = (event.data, event.flags);
            let (data, events) = (data.u64(), flags.bits() as u16);
            if data == WAKER {
                is_woken = true;
            } else {
                self.fire(data as u32 as RawFd, (data >> 32) as u32, events, ready);
            }
        }
        self.events = events;
        is_woken
    }

    fn fire(&mut self, fd: RawFd, generation: u32, events: u16, ready: &mut Vec<ReadyOperation>) {
        let Some(entry) = self.entries.get_mut(&fd) else { return };
        if entry.generation != generation {
            return;
        }
        entry.waiters.retain(|it| {
            let its_events = events & (it.events | EVENTS_UNASKED);
            if its_events != 0 {
                ready.push((it.key, i64::from(its_events)));
            }
            its_events == 0
        });
        // ONESHOT has disarmed the registration: arm it again for the waiters that are left.
        if entry.waiters.is_empty() {
            return;
        }
        let events = entry.events();
        if let Err(errno) = control(&self.epoll, EpollControl::Modify, fd, generation, events) {
            let value = if means_closed(errno) { BAD_DESCRIPTOR } else { negative(errno) };
            self.fail_waiters(fd, value, ready);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum EpollControl {
    Add,
    Modify,
}

fn control(
    epoll: &OwnedFd,
    how: EpollControl,
    fd: RawFd,
    generation: u32,
    events: u16,
) -> std::result::Result<(), Errno> {
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: only the number is passed; the kernel refuses one that is not open.
    let source = unsafe { BorrowedFd::borrow_raw(fd) };
    let data = epoll::EventData::new_u64(u64::from(generation) << 32 | u64::from(fd as u32));
    let flags = epoll::EventFlags::from_bits_retain(u32::from(events)) | epoll::EventFlags::ONESHOT;
    match how {
        EpollControl::Add => epoll::add(epoll.as_fd(), source, data, flags),
        EpollControl::Modify => epoll::modify(epoll.as_fd(), source, data, flags),
    }
}

fn negative(errno: Errno) -> i64 {
    -i64::from(errno.raw_os_error())
}

/// Whether the errno says that the number is no longer the descriptor that was registered.
fn means_closed(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::BADF | Errno::PERM)
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};
    use std::os::fd::{AsRawFd, IntoRawFd};

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    const READABLE: u16 = libc::POLLIN as u16;
    const WRITABLE: u16 = libc::POLLOUT as u16;

    fn epoll_set() -> (EpollSet, OwnedFd) {
        let waker = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        (EpollSet::new(waker.as_fd()).unwrap(), waker)
    }

    fn close(fd: RawFd) {
        crate::syslet::fd::close(fd);
    }

    /// Make `to` a duplicate of `from`, whatever it was before.
    fn redirect(from: &impl AsRawFd, to: RawFd) {
        // SAFETY: only numbers are passed.
        assert_eq!(to, unsafe { libc::dup2(from.as_raw_fd(), to) });
    }

    #[test]
    fn each_waiter_gets_the_events_that_it_asked_for() {
        let (mut epoll_set, _waker) = epoll_set();
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut ready = Vec::new();
        epoll_set.add(1, one.as_raw_fd(), READABLE, &mut ready);
        epoll_set.add(2, one.as_raw_fd(), WRITABLE, &mut ready);
        epoll_set.add(3, one.as_raw_fd(), READABLE | WRITABLE, &mut ready);
        epoll_set.wait(Some(0), &mut ready);
        ready.sort();
        assert_eq!(vec![(2, i64::from(WRITABLE)), (3, i64::from(WRITABLE))], ready);
        ready.clear();
        (&other).write_all(b"x").unwrap();
        epoll_set.wait(None, &mut ready);
        assert_eq!(vec![(1, i64::from(READABLE))], ready);
    }

    #[test]
    fn a_number_that_is_used_again_fails_the_waiters_of_the_closed_descriptor() {
        let (mut epoll_set, _waker) = epoll_set();
        let ((old, _old_writer), (new, mut writer)) = (pipe().unwrap(), pipe().unwrap());
        let fd = old.into_raw_fd();
        let mut ready = Vec::new();
        epoll_set.add(1, fd, READABLE, &mut ready);
        redirect(&new, fd);
        epoll_set.add(2, fd, READABLE, &mut ready);
        assert_eq!(vec![(1, BAD_DESCRIPTOR)], ready);
        writer.write_all(b"x").unwrap();
        epoll_set.wait(None, &mut ready);
        assert_eq!((2, i64::from(READABLE)), ready[1]);
        close(fd);
        epoll_set.add(3, fd, READABLE, &mut ready);
        assert_eq!((3, BAD_DESCRIPTOR), ready[2]);
    }

    #[test]
    fn a_registration_kept_by_a_duplicate_does_not_fire_for_a_number_that_is_used_again() {
        let (mut epoll_set, _waker) = epoll_set();
        let ((old, mut old_writer), (new, _writer)) = (pipe().unwrap(), pipe().unwrap());
        let _duplicate = old.try_clone().unwrap();
        let fd = old.into_raw_fd();
        let mut ready = Vec::new();
        epoll_set.add(1, fd, READABLE, &mut ready);
        redirect(&new, fd);
        epoll_set.add(2, fd, READABLE, &mut ready);
        old_writer.write_all(b"x").unwrap();
        epoll_set.wait(Some(1_000_000), &mut ready);
        assert_eq!(vec![(1, BAD_DESCRIPTOR)], ready);
        epoll_set.remove(2, fd);
        close(fd);
    }

    #[test]
    fn files_are_always_ready_for_reading_and_writing() {
        let (mut epoll_set, _waker) = epoll_set();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let mut ready = Vec::new();
        epoll_set.add(1, file.as_raw_fd(), READABLE | libc::POLLPRI as u16, &mut ready);
        epoll_set.add(2, file.as_raw_fd(), libc::POLLPRI as u16, &mut ready);
        assert_eq!(vec![(1, i64::from(READABLE))], ready);
    }

    #[test]
    fn the_waker_ends_a_wait() {
        let (mut epoll_set, waker) = epoll_set();
        rustix::io::write(&waker, &1u64.to_ne_bytes()).unwrap();
        assert!(epoll_set.wait(None, &mut Vec::new()));
    }
}
