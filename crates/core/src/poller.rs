//! Readiness: an edge-triggered poller (epoll, by mio) that any thread may wait on.
//!
//! Waiting and delivering are two steps. [`Poller::wait`] blocks and touches nothing else, so it
//! runs without Python's lock; [`Poller::deliver`] hands the events out. Edges suit operations that
//! are tried first anyway: a descriptor is registered once, for both directions, and only owners that
//! want levels need another system call ([`Poller::modify`] reports readiness that still holds).

use std::io;
use std::ops::BitOr;
use std::os::fd::RawFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Poll, Registry, Token, Waker};

use crate::error::{Error, Result};
use crate::sources::SourceKey;

const EVENTS_MAX: usize = 1024;
const WAKER: Token = Token(usize::MAX);

const URGENT: mio::Interest = mio::Interest::PRIORITY;

/// The kinds of readiness that are reported of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Report that there is something to read.
    pub readable: bool,
    /// Report that there is room to write.
    pub writable: bool,
    /// Report urgent data, which is nothing to read, but cuts a receive short: an owner that takes a short
    /// read for the last one must know of it, or the data that follows would wait for ever.
    pub urgent: bool,
}

impl Interest {
    /// Both directions.
    pub const BOTH: Self = Self { readable: true, writable: true, urgent: false };
    /// Only reading.
    pub const READABLE: Self = Self { readable: true, writable: false, urgent: false };
    /// Reading, and urgent data.
    pub const READABLE_OR_URGENT: Self = Self { urgent: true, ..Self::READABLE };
    /// Both directions, and urgent data.
    pub const ALL: Self = Self { urgent: true, ..Self::BOTH };

    fn to_mio(self) -> Option<mio::Interest> {
        let wanted = [
            (self.readable, mio::Interest::READABLE),
            (self.writable, mio::Interest::WRITABLE),
            (self.urgent, URGENT),
        ];
        let wanted = wanted.into_iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, it)| it);
        wanted.reduce(BitOr::bitor)
    }
}

/// The readiness that is reported of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// There is something to read: data, an end, or an error.
    pub readable: bool,
    /// There is room to write, or an error that a write reports.
    pub writable: bool,
    /// The reading half has ended, or has urgent data in it: a short read need not be the last one.
    pub short_read_misleads: bool,
    /// There is urgent data, and perhaps nothing else.
    pub urgent: bool,
}

impl Readiness {
    /// Something to read, without an end or urgent data.
    pub const READABLE: Self =
        Self { readable: true, writable: false, short_read_misleads: false, urgent: false };
}

impl BitOr for Readiness {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            readable: self.readable || other.readable,
            writable: self.writable || other.writable,
            short_read_misleads: self.short_read_misleads || other.short_read_misleads,
            urgent: self.urgent || other.urgent,
        }
    }
}

/// Waits until registered descriptors are ready, or until another thread wakes it.
#[derive(Debug)]
pub struct Poller {
    registry: Registry,
    waker: Waker,
    threads: Mutex<PollerThreads>,
    changed: Condvar,
    // Held by the thread that waits or delivers.
    waiting: Mutex<(Poll, Events)>,
}

/// The threads that are in [`Poller::wait`].
#[derive(Debug, Default)]
struct PollerThreads {
    /// A thread waits for events: the dispatcher, or the one that was it before the role was taken.
    is_polling: bool,
    /// How many threads wait for that thread to return. Notifying costs a system call even if there are none.
    n_queued: usize,
}

impl Poller {
    /// A poller with nothing registered.
    pub fn new() -> Result<Self> {
        let error = |error: io::Error| Error::from_io("epoll_create", &error);
        let poll = Poll::new().map_err(error)?;
        let registry = poll.registry().try_clone().map_err(error)?;
        let waker = Waker::new(&registry, WAKER).map_err(error)?;
        let waiting = Mutex::new((poll, Events::with_capacity(EVENTS_MAX)));
        let (threads, changed) = (Mutex::default(), Condvar::new());
        Ok(Self { registry, waker, threads, changed, waiting })
    }

    /// Begin to report the readiness of `fd`; the readiness that it has now is reported, too.
    ///
    /// A descriptor that is registered already (its number was closed unnoticed and a duplicate kept
    /// the file open) changes over to the new key.
    pub fn register(&self, fd: RawFd, key: SourceKey, interest: Interest) -> Result<()> {
        let Some(interest) = interest.to_mio() else { return Ok(()) };
        let token = Token(key.to_bits());
        match self.registry.register(&mut SourceFd(&fd), token, interest) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.registry.reregister(&mut SourceFd(&fd), token, interest)
            }
            result => result,
        }
        .map_err(|error| Error::from_io("epoll_ctl", &error))
    }

    /// Change what is reported of a registered `fd`, and report again the readiness that it has now.
    ///
    /// A descriptor that the kernel forgot (it was closed and its number opened again) is
    /// registered afresh.
    pub fn modify(&self, fd: RawFd, key: SourceKey, interest: Interest) -> Result<()> {
        let Some(interest) = interest.to_mio() else { return self.deregister(fd) };
        let token = Token(key.to_bits());
        match self.registry.reregister(&mut SourceFd(&fd), token, interest) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.registry.register(&mut SourceFd(&fd), token, interest)
            }
            result => result,
        }
        .map_err(|error| Error::from_io("epoll_ctl", &error))
    }

    /// Stop reporting `fd`. Descriptors that were closed before are forgotten already.
    pub fn deregister(&self, fd: RawFd) -> Result<()> {
        match self.registry.deregister(&mut SourceFd(&fd)) {
            Err(error) if !is_gone(&error) => Err(Error::from_io("epoll_ctl", &error)),
            _ => Ok(()),
        }
    }

    /// Make the current or the next wait return at once. Any thread may call this.
    pub fn wake(&self) -> Result<()> {
        self.waker.wake().map_err(|error| Error::from_io("eventfd_write", &error))
    }

    /// Have threads that wait for another one's [`Poller::wait`] ask `is_wanted` again.
    pub fn recheck_waits(&self) {
        let _threads = self.threads();
        self.changed.notify_all();
    }

    /// Wait for events, at most for `timeout` (`None`: for ever). A signal ends the wait early.
    ///
    /// One thread waits for events at a time; another one waits until the first returns. Events that the
    /// first has not delivered end the second one's wait at once. `is_wanted` is asked before either wait:
    /// a thread that makes it false, and then calls `recheck_waits` and `wake`, leaves no thread waiting in vain.
    pub fn wait(&self, timeout: Option<Duration>, is_wanted: impl Fn() -> bool) -> Result<()> {
        let mut threads = self.threads();
        if threads.is_polling {
            threads.n_queued += 1;
            threads = self
                .changed
                .wait_while(threads, |it| it.is_polling && is_wanted())
                .unwrap_or_else(PoisonError::into_inner);
            threads.n_queued -= 1;
        }
        if threads.is_polling || !is_wanted() {
            return Ok(());
        }
        threads.is_polling = true;
        drop(threads);
        let outcome = self.wait_for_events(timeout);
        let mut threads = self.threads();
        threads.is_polling = false;
        if threads.n_queued > 0 {
            self.changed.notify_all();
        }
        outcome
    }

    fn threads(&self) -> MutexGuard<'_, PollerThreads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_events(&self, timeout: Option<Duration>) -> Result<()> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (poll, events) = &mut *waiting;
        if !events.is_empty() {
            return Ok(());
        }
        match poll.poll(events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                Err(Error::from_io("epoll_wait", &error))
            }
            _ => Ok(()),
        }
    }

    /// Hand out the events of the last wait; returns whether [`Poller::wake`] was called.
    pub fn deliver(&self, mut take: impl FnMut(SourceKey, Readiness)) -> bool {
        // A thread that is waiting now has found no undelivered events, and will deliver its own.
        let Ok(mut waiting) = self.waiting.try_lock() else { return false };
        let (_, events) = &mut *waiting;
        let mut is_woken = false;
        for event in events.iter() {
            if event.token() == WAKER {
                is_woken = true;
                continue;
            }
            let has_ended = event.is_read_closed() || event.is_error();
            // mio reports urgent data as something to read, and not whether there is more.
            let readiness = Readiness {
                readable: event.is_readable() || has_ended,
                writable: event.is_writable() || event.is_write_closed() || event.is_error(),
                short_read_misleads: has_ended || event.is_priority(),
                urgent: event.is_priority(),
            };
            take(SourceKey::from_bits(event.token().0), readiness);
        }
        events.clear();
        is_woken
    }
}

fn is_gone(error: &io::Error) -> bool {
    // ENOENT: not registered; EBADF: closed.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Sources;
    use rustix::io::Errno;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    fn events(poller: &Poller) -> Vec<(SourceKey, Readiness)> {
        let mut events = Vec::new();
        poller.wait(Some(Duration::ZERO), || true).unwrap();
        poller.deliver(|key, readiness| events.push((key, readiness)));
        events
    }

    #[test]
    fn an_edge_is_reported_once_and_modify_reports_the_level() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let poller = Poller::new().unwrap();
        let key = Sources::default().insert(());
        poller.register(ours.as_raw_fd(), key, Interest::READABLE).unwrap();
        assert_eq!(0, events(&poller).len());

        theirs.write_all(b"data").unwrap();
        assert_eq!(vec![(key, Readiness::READABLE)], events(&poller));
        assert_eq!(0, events(&poller).len());

        poller.modify(ours.as_raw_fd(), key, Interest::READABLE).unwrap();
        assert_eq!(1, events(&poller).len());
        ours.read_exact(&mut [0; 4]).unwrap();
        poller.modify(ours.as_raw_fd(), key, Interest::READABLE).unwrap();
        assert_eq!(0, events(&poller).len());
    }

    #[test]
    fn an_end_is_reported_as_readable_and_closed() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let poller = Poller::new().unwrap();
        let key = Sources::default().insert(());
        poller.register(ours.as_raw_fd(), key, Interest::READABLE).unwrap();
        drop(theirs);
        let (_, readiness) = events(&poller)[0];
        assert!(readiness.readable && readiness.short_read_misleads);
    }

    #[test]
    fn urgent_data_is_reported_to_sources_that_ask_for_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let poller = Poller::new().unwrap();
        let mut keys = Sources::default();
        let (asks, does_not) = (keys.insert(()), keys.insert(()));
        let copy = ours.try_clone().unwrap();
        poller.register(ours.as_raw_fd(), asks, Interest::READABLE_OR_URGENT).unwrap();
        poller.register(copy.as_raw_fd(), does_not, Interest::READABLE).unwrap();
        rustix::net::send(&theirs, b"!", rustix::net::SendFlags::OOB).unwrap();
        poller.wait(Some(Duration::from_secs(5)), || true).unwrap();
        let mut told = Vec::new();
        poller.deliver(|key, readiness| told.push((key, readiness)));
        let misled = Readiness { short_read_misleads: true, urgent: true, ..Readiness::READABLE };
        assert_eq!(vec![(asks, misled)], told);
        poller.modify(copy.as_raw_fd(), does_not, Interest::READABLE).unwrap();
        assert_eq!(0, events(&poller).len());
        theirs.write_all(b"data").unwrap();
        poller.wait(Some(Duration::from_secs(5)), || true).unwrap();
        told.clear();
        poller.deliver(|key, readiness| told.push((key, readiness)));
        assert!(told.contains(&(does_not, Readiness::READABLE)));
    }

    #[test]
    fn a_wake_from_another_thread_ends_the_wait() {
        let poller = Poller::new().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| poller.wake().unwrap());
            poller.wait(None, || true).unwrap();
        });
        let mut n_events = 0;
        poller.deliver(|_, _| n_events += 1);
        assert_eq!(0, n_events);
    }

    #[test]
    fn undelivered_events_end_the_next_wait_and_are_not_lost() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let poller = Poller::new().unwrap();
        let key = Sources::default().insert(());
        poller.register(ours.as_raw_fd(), key, Interest::READABLE).unwrap();
        theirs.write_all(b"data").unwrap();
        poller.wait(None, || true).unwrap();
        poller.wait(None, || true).unwrap();
        assert_eq!(vec![(key, Readiness::READABLE)], events(&poller));
    }

    #[test]
    fn a_thread_that_waits_for_another_ones_wait_can_be_recalled() {
        let poller = Poller::new().unwrap();
        let (is_waiting, is_wanted) = (AtomicBool::new(false), AtomicBool::new(true));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let is_wanted = || {
                    is_waiting.store(true, SeqCst);
                    true
                };
                poller.wait(None, is_wanted).unwrap();
            });
            while !is_waiting.load(SeqCst) {
                std::thread::yield_now();
            }
            let second = scope.spawn(|| poller.wait(None, || is_wanted.load(SeqCst)).unwrap());
            while poller.threads().n_queued == 0 {
                std::thread::yield_now();
            }
            is_wanted.store(false, SeqCst);
            poller.recheck_waits();
            second.join().unwrap();
            poller.wake().unwrap();
        });
    }

    #[test]
    fn a_thread_that_waits_for_another_ones_wait_goes_on_when_that_ends() {
        let poller = Poller::new().unwrap();
        std::thread::scope(|scope| {
            let both = [(); 2].map(|()| scope.spawn(|| poller.wait(None, || true).unwrap()));
            while poller.threads().n_queued == 0 {
                std::thread::yield_now();
            }
            // The event that the first does not deliver ends the second one's wait, too.
            poller.wake().unwrap();
            both.into_iter().for_each(|it| it.join().unwrap());
        });
        assert_eq!(0, poller.threads().n_queued);
    }

    #[test]
    fn readiness_adds_up() {
        let none = Readiness {
            readable: false,
            writable: false,
            short_read_misleads: false,
            urgent: false,
        };
        let each = [
            Readiness { readable: true, ..none },
            Readiness { writable: true, ..none },
            Readiness { short_read_misleads: true, ..none },
            Readiness { urgent: true, ..none },
        ];
        for one in each {
            assert_eq!([one; 3], [one | none, none | one, one | one]);
            for other in each {
                assert_eq!(one.readable || other.readable, (one | other).readable);
                assert_eq!(one.writable || other.writable, (one | other).writable);
            }
        }
    }

    #[test]
    fn a_number_that_is_registered_already_changes_over_to_the_new_key() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (poller, mut sources) = (Poller::new().unwrap(), Sources::default());
        let (old, new) = (sources.insert(()), sources.insert(()));
        poller.register(ours.as_raw_fd(), old, Interest::READABLE).unwrap();
        poller.register(ours.as_raw_fd(), new, Interest::READABLE).unwrap();
        theirs.write_all(b"data").unwrap();
        assert_eq!(vec![(new, Readiness::READABLE)], events(&poller));
    }

    #[test]
    fn a_number_that_the_kernel_has_forgotten_is_registered_afresh() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let poller = Poller::new().unwrap();
        let key = Sources::default().insert(());
        theirs.write_all(b"data").unwrap();
        poller.modify(ours.as_raw_fd(), key, Interest::READABLE).unwrap();
        assert_eq!(vec![(key, Readiness::READABLE)], events(&poller));
    }

    #[test]
    fn what_cannot_be_watched_is_refused_with_the_kernels_own_error() {
        let file = std::fs::File::open("Cargo.toml").unwrap();
        let (poller, key) = (Poller::new().unwrap(), Sources::default().insert(()));
        let error = poller.register(file.as_raw_fd(), key, Interest::READABLE).unwrap_err();
        assert_eq!(Errno::PERM, error.errno);
        let error = poller.register(-1, key, Interest::READABLE).unwrap_err();
        assert_eq!(Errno::BADF, error.errno);
    }

    #[test]
    fn an_unwanted_wait_does_not_begin() {
        Poller::new().unwrap().wait(None, || false).unwrap();
    }

    #[test]
    fn a_closed_descriptor_can_be_deregistered() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let poller = Poller::new().unwrap();
        let fd = ours.as_raw_fd();
        poller.register(fd, Sources::default().insert(()), Interest::BOTH).unwrap();
        drop(ours);
        poller.deregister(fd).unwrap();
    }
}
