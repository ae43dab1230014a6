//! Files that were asked for lately, the least recently used given up first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::file::ServedFile;
use super::negotiation::{Coding, N_CODINGS};

/// What a file costs beside its contents, in bytes: names, headers, the table. An estimate.
const ENTRY_BYTES: usize = 2048;
/// For how long a file is taken for unchanged, by a clock that ticks each 1 to 10 ms.
const FRESH_NS: u64 = 1_000_000;
/// For how long a compressed sibling that was missing is taken for missing still.
const MISSING_NS: u64 = 1_000_000_000;

pub(super) enum Cached {
    /// It was as this says a moment ago.
    Fresh(Arc<ServedFile>),
    /// It has to be compared with the file's state.
    Stale(Arc<ServedFile>),
    Missing,
    Unknown,
}

#[derive(Default)]
enum Slot {
    File {
        file: Arc<ServedFile>,
        checked_ns: u64,
    },
    Missing {
        checked_ns: u64,
    },
    #[default]
    Unknown,
}

/// A file in all its codings.
type Entry = [Slot; N_CODINGS];

pub(super) struct Cache {
    entries: Mutex<Entries>,
    bytes_max: usize,
}

struct Entries {
    by_path: LruCache<Box<[u8]>, Entry>,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        let entries = Entries { by_path: LruCache::unbounded(), bytes: 0 };
        Self { entries: Mutex::new(entries), bytes_max }
    }

    pub(super) fn look(&self, path: &[u8], coding: Coding, now_ns: u64) -> Cached {
        let mut entries = self.lock();
        let Some(entry) = entries.by_path.get(path) else {
            return Cached::Unknown;
        };
        match &entry[coding as usize] {
            Slot::File { file, checked_ns } if now_ns.wrapping_sub(*checked_ns) < FRESH_NS => {
                Cached::Fresh(Arc::clone(file))
            }
            Slot::File { file, .. } => Cached::Stale(Arc::clone(file)),
            Slot::Missing { checked_ns } if now_ns.wrapping_sub(*checked_ns) < MISSING_NS => {
                Cached::Missing
            }
            _ => Cached::Unknown,
        }
    }

    /// Says that the file was unchanged at `now_ns`.
    pub(super) fn confirm(&self, path: &[u8], coding: Coding, file: &Arc<ServedFile>, now_ns: u64) {
        if let Some(entry) = self.lock().by_path.peek_mut(path)
            && let Slot::File { file: cached, checked_ns } = &mut entry[coding as usize]
            && Arc::ptr_eq(cached, file)
        {
            *checked_ns = now_ns;
        }
    }

    /// Takes a file up. What is missing is noted for compressed siblings of a file that is here, alone:
    /// otherwise requests for what nobody has would drive out what is asked for.
    pub(super) fn put(
        &self,
        path: &[u8],
        coding: Coding,
        file: Option<&Arc<ServedFile>>,
        now_ns: u64,
    ) {
        let mut entries = self.lock();
        let entries = &mut *entries;
        let slot = match file {
            Some(file) => Slot::File { file: Arc::clone(file), checked_ns: now_ns },
            // Its siblings are of no use without it.
            None if coding == Coding::Identity => return entries.forget(path),
            None => Slot::Missing { checked_ns: now_ns },
        };
        match entries.by_path.get_mut(path) {
            Some(entry) => {
                entries.bytes -= cost(path, entry);
                entry[coding as usize] = slot;
                entries.bytes += cost(path, entry);
            }
            None if coding == Coding::Identity => {
                let mut entry = Entry::default();
                entry[coding as usize] = slot;
                entries.bytes += cost(path, &entry);
                entries.by_path.put(path.into(), entry);
            }
            None => {}
        }
        while entries.bytes > self.bytes_max
            && let Some((path, entry)) = entries.by_path.pop_lru()
        {
            entries.bytes -= cost(&path, &entry);
        }
    }

    /// Gives up a file of which it is known that it has changed.
    pub(super) fn forget(&self, path: &[u8]) {
        self.lock().forget(path);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let entries = self.lock();
        let all: usize = entries.by_path.iter().map(|(path, entry)| cost(path, entry)).sum();
        assert_eq!(all, entries.bytes);
        all
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn forget(&mut self, path: &[u8]) {
        if let Some(entry) = self.by_path.pop(path) {
            self.bytes -= cost(path, &entry);
        }
    }
}

/// In bytes.
fn cost(path: &[u8], entry: &Entry) -> usize {
    let contents: usize = entry
        .iter()
        .map(|slot| match slot {
            Slot::File { file, .. } => ENTRY_BYTES + file.cached_bytes(),
            _ => 0,
        })
        .sum();
    path.len() + contents
}
