//! Memory for I/O: leases from a pool that keeps returned memory for reuse, within a bound.
//!
//! Sizes are powers of two. Memory is zeroed when it comes from the system, but keeps its old contents
//! when it is lent again: a caller that passes it on says how many of its bytes are the caller's own.

use std::collections::VecDeque;
use std::hint::spin_loop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

const SIZE_MIN_BYTES: usize = 512;
const N_CLASSES: usize = 12;

/// The most memory that is kept for reuse, in bytes.
const KEPT_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Why a lease is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The pool's bound is reached.
    Bound,
    /// The system has no memory.
    NoMemory,
}

impl Refusal {
    /// The errno of an operation that needed the memory.
    pub fn errno(self) -> i32 {
        match self {
            Self::Bound => libc::ENOBUFS,
            Self::NoMemory => libc::ENOMEM,
        }
    }
}

/// Allocate bytes that are zero; `None` if there is no memory, where `vec![0; n]` would end the process.
pub fn zeroed(n_bytes: usize) -> Option<Box<[u8]>> {
    if n_bytes == 0 {
        return Some(Box::default());
    }
    let layout = std::alloc::Layout::array::<u8>(n_bytes).ok()?;
    // SAFETY: the layout is not empty. A box of bytes frees its memory with the same layout, and zero is a
    // valid byte.
    unsafe {
        let start = std::alloc::alloc_zeroed(layout);
        let memory = std::ptr::slice_from_raw_parts_mut(start, n_bytes);
        (!start.is_null()).then(|| Box::from_raw(memory))
    }
}

/// How often kept memory is asked for while another thread takes some, which is a matter of nanoseconds.
const N_TRIES: usize = 100;

/// A pool that lends memory, within a bound.
#[derive(Debug)]
pub struct BufferPool {
    memory_max_bytes: usize,
    in_use_bytes: AtomicUsize,
    kept_bytes: AtomicUsize,
    kept: [Mutex<VecDeque<Box<[u8]>>>; N_CLASSES],
}

impl BufferPool {
    /// A pool that lends up to `memory_max_bytes` at a time.
    pub fn new(memory_max_bytes: usize) -> Self {
        Self {
            memory_max_bytes,
            in_use_bytes: AtomicUsize::new(0),
            kept_bytes: AtomicUsize::new(0),
            kept: Default::default(),
        }
    }

    /// The most memory that is lent at a time, in bytes.
    pub fn memory_max_bytes(&self) -> usize {
        self.memory_max_bytes
    }

    /// How much memory is lent, in bytes.
    pub fn in_use_bytes(&self) -> usize {
        self.in_use_bytes.load(Relaxed)
    }

    /// How much memory is kept for the next leases, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes.load(Relaxed)
    }

    /// Borrow at least `size` bytes.
    pub fn lease(self: &Arc<Self>, size: usize) -> Result<Lease, Refusal> {
        let capacity = capacity_for(size).ok_or(Refusal::Bound)?;
        let before = self.in_use_bytes.fetch_add(capacity, Relaxed);
        if before.checked_add(capacity).is_none_or(|it| it > self.memory_max_bytes) {
            self.in_use_bytes.fetch_sub(capacity, Relaxed);
            return Err(Refusal::Bound);
        }
        let kept = size_class(capacity).and_then(|class| self.kept(class)?.pop_back());
        let memory = match kept {
            Some(memory) => {
                self.kept_bytes.fetch_sub(capacity, Relaxed);
                memory
            }
            None => zeroed(capacity).ok_or_else(|| {
                self.in_use_bytes.fetch_sub(capacity, Relaxed);
                Refusal::NoMemory
            })?,
        };
        Ok(Lease { memory, size, pool: Arc::clone(self) })
    }

    fn take_back(&self, memory: Box<[u8]>) {
        let capacity = memory.len();
        self.in_use_bytes.fetch_sub(capacity, Relaxed);
        let Some(class) = size_class(capacity) else { return };
        if self.kept_bytes.fetch_add(capacity, Relaxed) + capacity > KEPT_MAX_BYTES {
            self.kept_bytes.fetch_sub(capacity, Relaxed);
            return;
        }
        match self.kept(class) {
            Some(mut kept) => kept.push_back(memory),
            None => {
                self.kept_bytes.fetch_sub(capacity, Relaxed);
            }
        }
    }

    /// The kept memory of one size, unless it is in use: by another thread, or, in the child of a fork, for
    /// good by one that the fork has not copied. Then it is done without.
    fn kept(&self, class: usize) -> Option<MutexGuard<'_, VecDeque<Box<[u8]>>>> {
        for _ in 0..N_TRIES {
            match self.kept[class].try_lock() {
                Ok(kept) => return Some(kept),
                Err(TryLockError::Poisoned(kept)) => return Some(kept.into_inner()),
                Err(TryLockError::WouldBlock) => spin_loop(),
            }
        }
        None
    }
}

fn capacity_for(size: usize) -> Option<usize> {
    size.max(SIZE_MIN_BYTES).checked_next_power_of_two()
}

/// Which list keeps memory of this capacity; `None`: it is too large to be kept.
fn size_class(capacity: usize) -> Option<usize> {
    let class = (capacity.trailing_zeros() - SIZE_MIN_BYTES.trailing_zeros()) as usize;
    (class < N_CLASSES).then_some(class)
}

/// Memory on loan, which goes back to its pool when it is dropped.
#[derive(Debug)]
pub struct Lease {
    memory: Box<[u8]>,
    size: usize,
    pool: Arc<BufferPool>,
}

impl Lease {
    /// Lend `size` bytes of the same memory instead, if it has as many.
    pub fn resize(&mut self, size: usize) -> bool {
        let fits = size <= self.memory.len();
        if fits {
            self.size = size;
        }
        fits
    }

    /// How many bytes the memory has, of which the size is a part.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.size]
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.size]
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.take_back(std::mem::take(&mut self.memory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_comes_back_is_lent_again() {
        let pool = Arc::new(BufferPool::new(1 << 20));
        let mut lease = pool.lease(1000).unwrap();
        assert_eq!(1000, lease.len());
        lease[0] = 7;
        assert_eq!(1024, pool.in_use_bytes());
        drop(lease);
        assert_eq!((0, 1024), (pool.in_use_bytes(), pool.kept_bytes()));
        assert_eq!(7, pool.lease(600).unwrap()[0]);
    }

    #[test]
    fn a_lease_is_resized_within_its_memory() {
        let pool = Arc::new(BufferPool::new(1 << 20));
        let mut lease = pool.lease(1000).unwrap();
        assert!(lease.resize(10));
        assert_eq!((10, 1024), (lease.len(), lease.capacity()));
        assert!(lease.resize(1024));
        assert!(!lease.resize(1025));
        assert_eq!(1024, lease.len());
    }

    #[test]
    fn memory_is_lent_and_taken_back_while_the_kept_memory_is_locked_for_good() {
        let pool = Arc::new(BufferPool::new(1 << 20));
        drop(pool.lease(1000).unwrap());
        let _of_a_thread_that_is_gone = pool.kept[size_class(1024).unwrap()].lock().unwrap();
        drop(pool.lease(1000).unwrap());
        assert_eq!((0, 1024), (pool.in_use_bytes(), pool.kept_bytes()));
    }

    #[test]
    fn the_bound_holds() {
        let pool = Arc::new(BufferPool::new(4096));
        let lease = pool.lease(4096).unwrap();
        assert_eq!(Refusal::Bound, pool.lease(1).unwrap_err());
        drop(lease);
        assert_eq!(Refusal::Bound, pool.lease(4097).unwrap_err());
        assert_eq!(Refusal::Bound, pool.lease(usize::MAX).unwrap_err());
        assert_eq!(0, pool.in_use_bytes());
    }

    #[test]
    fn more_than_the_system_has_is_refused_and_not_counted() {
        let pool = Arc::new(BufferPool::new(usize::MAX));
        for size in [1 << 62, (1 << 62) + 1] {
            assert_eq!(Refusal::NoMemory, pool.lease(size).unwrap_err());
        }
        assert_eq!(0, pool.in_use_bytes());
    }

    #[test]
    fn what_is_kept_is_bounded_and_fills_the_bound() {
        let pool = Arc::new(BufferPool::new(1 << 30));
        assert_eq!(1 << 30, pool.memory_max_bytes());
        let leases: Vec<_> = (0..65).map(|_| pool.lease(1 << 20).unwrap()).collect();
        drop(leases);
        assert_eq!((0, 64 << 20), (pool.in_use_bytes(), pool.kept_bytes()));
        let again = pool.lease(1 << 20).unwrap();
        assert_eq!(63 << 20, pool.kept_bytes());
        drop(again);
        assert_eq!(64 << 20, pool.kept_bytes());
    }

    #[test]
    fn large_memory_is_not_kept() {
        let pool = Arc::new(BufferPool::new(1 << 30));
        drop(pool.lease(64 << 20).unwrap());
        assert_eq!((0, 0), (pool.in_use_bytes(), pool.kept_bytes()));
    }
}
