//! Memory from which the kernel sends without copying: `sendfile` takes its pages, where `send` would copy them.
//!
//! It is a file without a name, sealed against changes, and mapped. A slice of it is bytes like any others; the socket
//! finds the file by the slice's address.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use memmap2::Mmap;
use rustix::fs::{MemfdFlags, SealFlags};

/// Smaller contents are copied: that costs less than a second system call.
const SEALED_MIN: usize = 32 * 1024;
/// Shorter slices are copied: the last of what a short send has left, for one.
const PART_MIN: usize = 4 * 1024;
/// How many there are at most: each has a descriptor.
const N_MAX: usize = 256;

/// All of them, by the addresses of their first bytes.
static ALL: Mutex<BTreeMap<usize, Weak<Sealed>>> = Mutex::new(BTreeMap::new());

fn all() -> MutexGuard<'static, BTreeMap<usize, Weak<Sealed>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that exists in memory alone, and never changes.
#[derive(Debug)]
pub(crate) struct Sealed {
    memory: Mmap,
    file: OwnedFd,
}

/// The bytes of a [`Sealed`].
struct Contents(Arc<Sealed>);

impl AsRef<[u8]> for Contents {
    fn as_ref(&self) -> &[u8] {
        &self.0.memory
    }
}

/// Bytes that the kernel sends without copying, if they are many and the system has what that needs.
pub(crate) fn shared(bytes: Vec<u8>) -> Bytes {
    if bytes.len() < SEALED_MIN || all().len() >= N_MAX {
        return Bytes::from(bytes);
    }
    match Sealed::new(&bytes) {
        Ok(sealed) => Bytes::from_owner(Contents(sealed)),
        Err(_) => Bytes::from(bytes),
    }
}

/// The file that holds a slice, and the slice's position in it.
pub(crate) fn find(slice: &[u8]) -> Option<(Arc<Sealed>, u64)> {
    if slice.len() < PART_MIN {
        return None;
    }
    let address = slice.as_ptr() as usize;
    let (start, sealed) = {
        let all = all();
        let (start, sealed) = all.range(..=address).next_back()?;
        (*start, sealed.upgrade()?)
    };
    let at = address - start;
    (at + slice.len() <= sealed.memory.len()).then_some((sealed, at as u64))
}

impl Sealed {
    fn new(bytes: &[u8]) -> io::Result<Arc<Self>> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create("threadlets-static", flags)?);
        file.write_all(bytes)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        // SAFETY: nothing can change the file or make it shorter: it is sealed.
        let memory = unsafe { Mmap::map(&file)? };
        let sealed = Arc::new(Self { memory, file: file.into() });
        all().insert(sealed.memory.as_ptr() as usize, Arc::downgrade(&sealed));
        Ok(sealed)
    }

    pub(crate) fn file(&self) -> &OwnedFd {
        &self.file
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        // Before the memory is unmapped: its addresses may be those of another one then.
        all().remove(&(self.memory.as_ptr() as usize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(n_bytes: usize) -> Vec<u8> {
        (0..n_bytes).map(|it| (it % 251) as u8).collect()
    }

    #[test]
    fn a_slice_is_found_by_its_address_while_it_lives() {
        let bytes = shared(pattern(3 * SEALED_MIN));
        assert_eq!(pattern(3 * SEALED_MIN), bytes);
        let part = bytes.slice(100..100 + SEALED_MIN);
        drop(bytes);
        let (sealed, at) = find(&part).expect("it is sealed");
        assert_eq!(100, at);
        let mut read = vec![0; part.len()];
        rustix::io::pread(sealed.file(), &mut read, at).expect("a file in memory is read");
        assert_eq!(part, read);
        let left = Arc::downgrade(&sealed);
        drop((sealed, part));
        assert_eq!(0, left.strong_count());
    }

    #[test]
    fn other_slices_are_in_no_file() {
        let sealed = shared(pattern(SEALED_MIN));
        assert!(find(&pattern(SEALED_MIN)).is_none());
        assert!(find(&sealed[SEALED_MIN - 100..]).is_none(), "it is short");
        assert!(find(&shared(pattern(SEALED_MIN - 1))).is_none());
    }
}
