//! A letterbox: threads put letters in, and one takes out all that are there.
//!
//! It knows nothing of how its taker sleeps: whoever puts a letter in is told whether to wake him.
//! There is no lock. A thread that a fork leaves behind in the middle of putting a letter in, or that
//! dies there, has not put it in; nobody waits for it.

use std::marker::PhantomData;
use std::ptr;
use std::sync::Mutex;

use crate::sync::{AtomicBool, AtomicPtr, Ordering::SeqCst};

#[derive(Debug)]
struct Letter<T> {
    content: T,
    /// The one that was put in before it.
    older: *mut Letter<T>,
}

/// Letters that nobody has taken out yet.
#[derive(Debug)]
pub struct Letterbox<T> {
    /// The newest letter, which leads to the others; null: there is none. See also [`Self::CLOSED`].
    newest: AtomicPtr<Letter<T>>,
    /// The taker waits, or is about to.
    is_awaited: AtomicBool,
    /// Letters pass between threads: the letterbox is as good as a lock around them.
    _letters: PhantomData<Mutex<T>>,
}

impl<T> Default for Letterbox<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Letterbox<T> {
    /// In place of the newest letter: nobody takes any more. No letter lies at this address.
    const CLOSED: *mut Letter<T> = ptr::dangling_mut();

    /// An open letterbox, with nothing in it.
    #[cfg(not(feature = "model"))]
    pub const fn new() -> Self {
        Self {
            newest: AtomicPtr::new(ptr::null_mut()),
            is_awaited: AtomicBool::new(false),
            _letters: PhantomData,
        }
    }

    /// The same, made while the model runs: the checker's atomics are no constants.
    #[cfg(feature = "model")]
    pub fn new() -> Self {
        Self {
            newest: AtomicPtr::new(ptr::null_mut()),
            is_awaited: AtomicBool::new(false),
            _letters: PhantomData,
        }
    }

    /// Put a letter in; whether the taker is to be woken now. The letter comes back if nobody takes
    /// any more.
    pub fn put(&self, content: T) -> Result<bool, T> {
        let mut older = self.newest.load(SeqCst);
        let letter = Box::into_raw(Box::new(Letter { content, older }));
        loop {
            if older == Self::CLOSED {
                // SAFETY: made above, and nobody else has seen it.
                return Err(unsafe { Box::from_raw(letter) }.content);
            }
            // SAFETY: as above.
            unsafe { (*letter).older = older };
            match self.newest.compare_exchange_weak(older, letter, SeqCst, SeqCst) {
                Ok(_) => break,
                Err(newest) => older = newest,
            }
        }
        // We put in, then look who waits; the taker says that he waits, then looks what is there. All
        // swap, so that whoever comes second at the flag sees what the first had done.
        Ok(self.is_awaited.swap(false, SeqCst))
    }

    /// Take all letters out, the oldest first.
    pub fn take(&self) -> Vec<T> {
        let mut newest = self.newest.load(SeqCst);
        loop {
            if newest.is_null() || newest == Self::CLOSED {
                return Vec::new();
            }
            match self.newest.compare_exchange_weak(newest, ptr::null_mut(), SeqCst, SeqCst) {
                // SAFETY: what was taken out belongs to who took it.
                Ok(_) => return unsafe { unfold(newest) },
                Err(other) => newest = other,
            }
        }
    }

    /// Take no more letters, unless there are some; whether there were none.
    pub fn close_if_empty(&self) -> bool {
        match self.newest.compare_exchange(ptr::null_mut(), Self::CLOSED, SeqCst, SeqCst) {
            Ok(_) => true,
            Err(newest) => newest == Self::CLOSED,
        }
    }

    /// Take no more letters but those that are there.
    pub fn close(&self) -> Vec<T> {
        let newest = self.newest.swap(Self::CLOSED, SeqCst);
        if newest == Self::CLOSED {
            return Vec::new();
        }
        // SAFETY: what was taken out belongs to who took it.
        unsafe { unfold(newest) }
    }

    /// The taker is about to wait; whether there are letters already.
    pub fn starts_waiting(&self) -> bool {
        self.is_awaited.swap(true, SeqCst);
        let newest = self.newest.load(SeqCst);
        !newest.is_null() && newest != Self::CLOSED
    }

    /// The taker waits no more.
    pub fn stops_waiting(&self) {
        self.is_awaited.swap(false, SeqCst);
    }
}

impl<T> Drop for Letterbox<T> {
    fn drop(&mut self) {
        self.close();
    }
}

/// The contents of a letter and of all older ones, the oldest first.
///
/// # Safety
/// The letters were taken out, or there is none; nobody else has them.
unsafe fn unfold<T>(mut newest: *mut Letter<T>) -> Vec<T> {
    let mut contents = Vec::new();
    while !newest.is_null() {
        // SAFETY: each was a box when it was put in, and is one again.
        let letter = unsafe { Box::from_raw(newest) };
        newest = letter.older;
        contents.push(letter.content);
    }
    contents.reverse();
    contents
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn letters_come_out_once_and_in_order() {
        let letterbox = Letterbox::new();
        assert!(letterbox.take().is_empty());
        (0..3).for_each(|it| assert_eq!(Ok(false), letterbox.put(it)));
        assert_eq!(vec![0, 1, 2], letterbox.take());
        assert!(letterbox.take().is_empty());
    }

    #[test]
    fn who_waits_is_woken_once() {
        let letterbox = Letterbox::new();
        assert!(!letterbox.starts_waiting());
        assert_eq!([Ok(true), Ok(false)], [letterbox.put(1), letterbox.put(2)]);
        assert!(letterbox.starts_waiting());
        letterbox.stops_waiting();
        assert_eq!(Ok(false), letterbox.put(3));
    }

    #[test]
    fn a_closed_letterbox_gives_letters_back() {
        let letterbox = Letterbox::new();
        letterbox.put(1).unwrap();
        assert!(!letterbox.close_if_empty());
        assert_eq!(vec![1], letterbox.take());
        assert!(letterbox.close_if_empty() && letterbox.close_if_empty());
        assert_eq!(Err(2), letterbox.put(2));
        assert!(letterbox.take().is_empty() && !letterbox.starts_waiting());
        let letterbox = Letterbox::new();
        letterbox.put(3).unwrap();
        assert_eq!(vec![3], letterbox.close());
        assert_eq!(Err(4), letterbox.put(4));
    }

    #[test]
    fn what_nobody_took_is_dropped_with_the_letterbox() {
        let content = Arc::new(());
        let letterbox = Letterbox::new();
        (0..3).for_each(|_| drop(letterbox.put(Arc::clone(&content))));
        drop(letterbox);
        assert_eq!(1, Arc::strong_count(&content));
    }

    #[test]
    fn nothing_is_lost_and_nobody_sleeps_on_between_threads() {
        const N_SENDERS: usize = 3;
        const N_LETTERS: usize = 2000;
        let (letterbox, n_refused) = (Letterbox::new(), AtomicUsize::new(0));
        let taker = std::thread::current();
        let mut taken: Vec<(usize, usize)> = Vec::new();
        std::thread::scope(|scope| {
            for sender in 0..N_SENDERS {
                let (letterbox, n_refused, taker) = (&letterbox, &n_refused, &taker);
                scope.spawn(move || {
                    for number in 0..N_LETTERS {
                        match letterbox.put((sender, number)) {
                            Ok(true) => taker.unpark(),
                            Ok(false) => {}
                            Err(_) => _ = n_refused.fetch_add(1, SeqCst),
                        }
                    }
                });
            }
            // The last ones are refused.
            while taken.len() < N_SENDERS * N_LETTERS - 100 {
                if !letterbox.starts_waiting() {
                    std::thread::park();
                }
                letterbox.stops_waiting();
                taken.extend(letterbox.take());
            }
            taken.extend(letterbox.close());
        });
        assert_eq!(N_SENDERS * N_LETTERS, taken.len() + n_refused.load(SeqCst));
        for sender in 0..N_SENDERS {
            let numbers: Vec<_> = taken.iter().filter(|it| it.0 == sender).map(|it| it.1).collect();
            assert!(numbers.iter().copied().eq(0..numbers.len()));
        }
    }

    #[test]
    fn a_child_of_a_fork_finds_it_usable_whatever_the_parents_threads_are_doing() {
        let (letterbox, is_over) = (Letterbox::new(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(SeqCst) {
                        letterbox.put(1).unwrap();
                        letterbox.take();
                    }
                });
            }
            let outcomes: Vec<_> = (0..100)
                .map(|_| {
                    in_a_child(|| {
                        letterbox.take();
                        letterbox.put(2) == Ok(false) && letterbox.take() == vec![2]
                    })
                })
                .collect();
            is_over.store(true, SeqCst);
            assert_eq!(vec![0; 100], outcomes);
        });
    }

    /// How a child of a fork ends in which this is to hold, and that is killed if it hangs.
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
