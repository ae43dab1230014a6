//! Counters of several processes, in memory that they share.

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{self, MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::Metrics;

/// Bytes of a slot in the file: a multiple of every page size. What is not used takes no memory.
const SLOT_BYTES: u64 = 64 * 1024;

const MAPPED_BYTES: usize = size_of::<Metrics>();

const _: () = assert!(MAPPED_BYTES as u64 <= SLOT_BYTES, "the counters fit into a slot");

/// The counters of several processes: a file in memory, with a slot for each of them.
///
/// One process at a time counts in a slot. It goes on from what is there, so that nothing is lost when a process takes
/// the place of another one.
#[derive(Debug)]
pub struct SharedMetrics(OwnedFd);

impl SharedMetrics {
    /// A file without slots.
    pub fn create() -> Result<Self, Errno> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = fs::memfd_create("threadlets-metrics", flags)?;
        // What is mapped stays there.
        fs::fcntl_add_seals(&file, SealFlags::SHRINK)?;
        Ok(Self(file))
    }

    /// The file of an inherited descriptor, which is duplicated; `EBADF` if it is not open, `EINVAL` if it is another file.
    pub fn open(fd: RawFd) -> Result<Self, Errno> {
        if fd < 0 {
            return Err(Errno::BADF);
        }
        // SAFETY: the number is not negative, and it is used for one system call only, which fails with EBADF if the
        // descriptor is not open.
        let inherited = unsafe { BorrowedFd::borrow_raw(fd) };
        let file = rustix::io::fcntl_dupfd_cloexec(inherited, 0)?;
        if fs::fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            Ok(Self(file))
        } else {
            Err(Errno::INVAL)
        }
    }

    /// How many slots there are.
    pub fn n_slots(&self) -> Result<u64, Errno> {
        Ok(fs::fstat(&self.0)?.st_size as u64 / SLOT_BYTES)
    }

    /// Make slots, up to this number; they are empty. One process does this.
    pub fn reserve(&self, n_slots: u64) -> Result<(), Errno> {
        if n_slots <= self.n_slots()? {
            return Ok(());
        }
        fs::ftruncate(&self.0, n_slots * SLOT_BYTES)
    }

    /// A slot, to count in it or to look at it; `EINVAL` if it was not reserved.
    pub fn slot(&self, number: u64) -> Result<Slot, Errno> {
        if number >= self.n_slots()? {
            return Err(Errno::INVAL);
        }
        let mapped = MmapOptions::new()
            .offset(number * SLOT_BYTES)
            .len(MAPPED_BYTES)
            .map_raw(&self.0)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOMEM))?;
        Ok(Slot(mapped))
    }

    /// The sums over all slots.
    pub fn total(&self) -> Result<Metrics, Errno> {
        let total = Metrics::default();
        for number in 0..self.n_slots()? {
            total.add(&*self.slot(number)?);
        }
        Ok(total)
    }
}

impl AsFd for SharedMetrics {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The counters of one process.
#[derive(Debug)]
pub struct Slot(MmapRaw);

impl Deref for Slot {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        // SAFETY: the memory is mapped as long as the slot is there, aligned as a page is, and long enough; the file was
        // sealed and becomes no shorter. It holds nothing but atomic numbers, for which all bits are valid, and which
        // other processes change atomically.
        unsafe { &*self.0.as_ptr().cast::<Metrics>() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn slots_add_up_and_outlive_those_who_count_in_them() {
        let shared = SharedMetrics::create().unwrap();
        shared.reserve(2).unwrap();
        for (number, n) in [(0, 3), (1, 4), (0, 5)] {
            let slot = shared.slot(number).unwrap();
            slot.requests.add(n);
            slot.responses[2].add(n);
            slot.response_times[1].add(n);
            slot.response_time_us.add(n);
        }
        let total = shared.total().unwrap();
        let found = [&total.requests, &total.responses[2], &total.response_times[1]];
        assert_eq!([12, 12, 12], found.map(super::super::Counter::get));
        assert_eq!((12, 0), (total.response_time_us.get(), total.bytes_sent.get()));
    }

    #[test]
    fn a_process_that_is_gone_has_nothing_open() {
        let shared = SharedMetrics::create().unwrap();
        shared.reserve(1).unwrap();
        let slot = shared.slot(0).unwrap();
        slot.connections_accepted.add(3);
        slot.requests.add(2);
        slot.requests_ended.add(1);
        assert_eq!((3, 1), (slot.n_connections(), slot.n_in_flight()));
        slot.settle();
        assert_eq!((0, 0), (slot.n_connections(), slot.n_in_flight()));
        assert_eq!((3, 2), (slot.connections_accepted.get(), slot.requests.get()));
    }

    #[test]
    fn more_slots_keep_those_that_were_there() {
        let shared = SharedMetrics::create().unwrap();
        assert_eq!(Errno::INVAL, shared.slot(0).unwrap_err());
        shared.reserve(1).unwrap();
        let slot = shared.slot(0).unwrap();
        shared.reserve(9).unwrap();
        shared.reserve(2).unwrap();
        slot.websockets.count();
        assert_eq!((9, 1), (shared.n_slots().unwrap(), shared.total().unwrap().websockets.get()));
        assert_eq!(Errno::INVAL, shared.slot(9).unwrap_err());
    }

    #[test]
    fn another_file_is_refused() {
        let file = fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        let opened = |fd| SharedMetrics::open(fd).map(drop);
        assert_eq!(Err(Errno::INVAL), opened(file.as_raw_fd()));
        assert_eq!(Err(Errno::BADF), opened(-1));
        let shared = SharedMetrics::create().unwrap();
        assert_eq!(Ok(()), opened(shared.as_fd().as_raw_fd()));
    }
}
