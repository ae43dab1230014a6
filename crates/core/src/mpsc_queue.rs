//! Lock-free queue: many producers, and one consumer that takes all items at once.
//!
//! The queue does not know how its consumer sleeps: `push` tells the producer whether to wake it.
//! There is no lock: a thread that a fork leaves behind in the middle of a `push`, or that dies there,
//! has not pushed its item, and no other thread waits for it.

use std::marker::PhantomData;
use std::ptr;
use std::sync::Mutex;

use crate::sync::{AtomicBool, AtomicPtr, Ordering::SeqCst};

#[derive(Debug)]
struct QueueNode<T> {
    item: T,
    /// The node that was pushed before this one.
    older: *mut QueueNode<T>,
}

/// A queue of items that were not taken yet.
#[derive(Debug)]
pub struct MpscQueue<T> {
    /// The newest node, which leads to the older ones; null: the queue is empty. See also [`Self::CLOSED`].
    newest: AtomicPtr<QueueNode<T>>,
    /// The consumer waits, or is about to.
    is_consumer_waiting: AtomicBool,
    /// Items pass between threads: for `Send` and `Sync` the queue counts as a lock around them.
    _items: PhantomData<Mutex<T>>,
}

impl<T> Default for MpscQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> MpscQueue<T> {
    /// Stands in place of the newest node in a closed queue. No node has this address.
    const CLOSED: *mut QueueNode<T> = ptr::dangling_mut();

    /// An open, empty queue.
    #[cfg(not(feature = "model"))]
    pub const fn new() -> Self {
        Self {
            newest: AtomicPtr::new(ptr::null_mut()),
            is_consumer_waiting: AtomicBool::new(false),
            _items: PhantomData,
        }
    }

    /// An open, empty queue, made while a model runs: the checker's atomics cannot be made in constants.
    #[cfg(feature = "model")]
    pub fn new() -> Self {
        Self {
            newest: AtomicPtr::new(ptr::null_mut()),
            is_consumer_waiting: AtomicBool::new(false),
            _items: PhantomData,
        }
    }

    /// Push an item; returns whether the consumer must be woken now. A closed queue returns the item as
    /// an error.
    pub fn push(&self, item: T) -> Result<bool, T> {
        let mut older = self.newest.load(SeqCst);
        let node = Box::into_raw(Box::new(QueueNode { item, older }));
        loop {
            if older == Self::CLOSED {
                // SAFETY: the node was made above, and no other thread has seen it.
                return Err(unsafe { Box::from_raw(node) }.item);
            }
            // SAFETY: as above.
            unsafe { (*node).older = older };
            match self.newest.compare_exchange_weak(older, node, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(newest) => older = newest,
            }
        }
        // The producer pushes, then reads the flag; the consumer sets the flag, then reads the queue. Both
        // swap the flag, so that the one that swaps second sees what the first did before.
        Ok(self.is_consumer_waiting.swap(false, SeqCst))
    }

    /// Take all items out, the oldest first.
    pub fn take(&self) -> Vec<T> {
        let mut newest = self.newest.load(SeqCst);
        loop {
            if newest.is_null() || newest == Self::CLOSED {
                return Vec::new();
            }
            match self.newest.compare_exchange_weak(newest, ptr::null_mut(), SeqCst, SeqCst) {
                // SAFETY: the nodes were taken out, and belong to this thread alone.
                Ok(_) => return unsafe { into_items(newest) },
                Err(other) => newest = other,
            }
        }
    }

    /// Close the queue if it is empty; returns whether it is closed.
    pub fn close_if_empty(&self) -> bool {
        match self.newest.compare_exchange(ptr::null_mut(), Self::CLOSED, SeqCst, SeqCst) {
            Ok(_) => true,
            Err(newest) => newest == Self::CLOSED,
        }
    }

    /// Close the queue, and take the items that are in it.
    pub fn close(&self) -> Vec<T> {
        let newest = self.newest.swap(Self::CLOSED, SeqCst);
        if newest == Self::CLOSED {
            return Vec::new();
        }
        // SAFETY: the nodes were taken out, and belong to this thread alone.
        unsafe { into_items(newest) }
    }

    /// Announce that the consumer is about to wait; returns whether there are items already.
    pub fn starts_waiting(&self) -> bool {
        self.is_consumer_waiting.swap(true, SeqCst);
        let newest = self.newest.load(SeqCst);
        !newest.is_null() && newest != Self::CLOSED
    }

    /// Announce that the consumer waits no more.
    pub fn stops_waiting(&self) {
        self.is_consumer_waiting.swap(false, SeqCst);
    }
}

impl<T> Drop for MpscQueue<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Free a node and all older ones; returns their contents, the oldest first.
///
/// # Safety
/// The nodes were taken out of the queue, and no other thread has them; null: there are none.
unsafe fn into_items<T>(mut newest: *mut QueueNode<T>) -> Vec<T> {
    let mut items = Vec::new();
    while !newest.is_null() {
        // SAFETY: each node was a box when it was pushed, and becomes one again.
        let node = unsafe { Box::from_raw(newest) };
        newest = node.older;
        items.push(node.item);
    }
    items.reverse();
    items
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn items_come_out_once_and_in_order() {
        let queue = MpscQueue::new();
        assert!(queue.take().is_empty());
        (0..3).for_each(|it| assert_eq!(Ok(false), queue.push(it)));
        assert_eq!(vec![0, 1, 2], queue.take());
        assert!(queue.take().is_empty());
    }

    #[test]
    fn a_waiting_consumer_is_woken_once() {
        let queue = MpscQueue::new();
        assert!(!queue.starts_waiting());
        assert_eq!([Ok(true), Ok(false)], [queue.push(1), queue.push(2)]);
        assert!(queue.starts_waiting());
        queue.stops_waiting();
        assert_eq!(Ok(false), queue.push(3));
    }

    #[test]
    fn a_closed_queue_gives_items_back() {
        let queue = MpscQueue::new();
        queue.push(1).unwrap();
        assert!(!queue.close_if_empty());
        assert_eq!(vec![1], queue.take());
        assert!(queue.close_if_empty() && queue.close_if_empty());
        assert_eq!(Err(2), queue.push(2));
        assert!(queue.take().is_empty() && !queue.starts_waiting());
        let queue = MpscQueue::new();
        queue.push(3).unwrap();
        assert_eq!(vec![3], queue.close());
        assert_eq!(Err(4), queue.push(4));
    }

    #[test]
    fn items_that_were_not_taken_are_dropped_with_the_queue() {
        let item = Arc::new(());
        let queue = MpscQueue::new();
        (0..3).for_each(|_| drop(queue.push(Arc::clone(&item))));
        drop(queue);
        assert_eq!(1, Arc::strong_count(&item));
    }

    #[test]
    fn no_item_and_no_wake_up_is_lost_between_threads() {
        const N_SENDERS: usize = 3;
        const N_ITEMS: usize = 2000;
        let (queue, n_refused) = (MpscQueue::new(), AtomicUsize::new(0));
        let taker = std::thread::current();
        let mut taken: Vec<(usize, usize)> = Vec::new();
        std::thread::scope(|scope| {
            for sender in 0..N_SENDERS {
                let (queue, n_refused, taker) = (&queue, &n_refused, &taker);
                scope.spawn(move || {
                    for number in 0..N_ITEMS {
                        match queue.push((sender, number)) {
                            Ok(true) => taker.unpark(),
                            Ok(false) => {}
                            Err(_) => _ = n_refused.fetch_add(1, SeqCst),
                        }
                    }
                });
            }
            // The consumer stops early, so that the last items are refused.
            while taken.len() < N_SENDERS * N_ITEMS - 100 {
                if !queue.starts_waiting() {
                    std::thread::park();
                }
                queue.stops_waiting();
                taken.extend(queue.take());
            }
            taken.extend(queue.close());
        });
        assert_eq!(N_SENDERS * N_ITEMS, taken.len() + n_refused.load(SeqCst));
        for sender in 0..N_SENDERS {
            let numbers: Vec<_> = taken.iter().filter(|it| it.0 == sender).map(|it| it.1).collect();
            assert!(numbers.iter().copied().eq(0..numbers.len()));
        }
    }

    #[test]
    fn a_child_of_a_fork_finds_the_queue_usable_whatever_the_parents_threads_are_doing() {
        let (queue, is_over) = (MpscQueue::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(SeqCst) {
                        queue.push(1).unwrap();
                        queue.take();
                    }
                });
            }
            let outcomes: Vec<_> = (0..100)
                .map(|_| {
                    in_a_child(|| {
                        queue.take();
                        queue.push(2) == Ok(false) && queue.take() == vec![2]
                    })
                })
                .collect();
            is_over.store(true, SeqCst);
            assert_eq!(vec![0; 100], outcomes);
        });
    }

    /// The wait status of a forked child: zero if the claim holds there. A child that hangs is killed.
    fn in_a_child(claim: impl FnOnce() -> bool) -> i32 {
        let mut status = 0;
        // SAFETY: the child takes no lock that another thread may have, and never returns from here.
        unsafe {
            match libc::fork() {
                0 => {
                    libc::alarm(2);
                    libc::_exit(i32::from(!claim()));
                }
                pid => assert_eq!(pid, libc::waitpid(pid, &raw mut status, 0)),
            }
        }
        status
    }
}
