//! How runs that have ended come back to a loop: engines drop them here, the dispatcher takes them
//! at its next turn.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use threadlets_core::Poller;
use threadlets_core::syslet::{Outlet, Run};

/// What a loop is told by a thread without the GIL.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A run has ended; its token says which.
    Ended(Box<Run>),
    /// A channel has something, for the one that waits with this token.
    Notified(u64),
}

/// The letters of one loop.
pub(crate) struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    n_letters: AtomicUsize,
    /// The dispatcher waits for events, or is about to: letters must wake it.
    is_awaited: AtomicBool,
    /// None once the loop is closed.
    poller: Mutex<Option<Arc<Poller>>>,
}

impl Mailbox {
    pub(crate) fn new(poller: Arc<Poller>) -> Self {
        Self {
            letters: Mutex::default(),
            n_letters: AtomicUsize::new(0),
            is_awaited: AtomicBool::new(false),
            poller: Mutex::new(Some(poller)),
        }
    }

    /// From now on letters wake this poller; without one they are thrown away.
    pub(crate) fn wake_by(&self, poller: Option<Arc<Poller>>) {
        *self.poller.lock().unwrap_or_else(PoisonError::into_inner) = poller;
    }

    /// The dispatcher is about to wait; whether there are letters already.
    pub(crate) fn starts_waiting(&self) -> bool {
        self.is_awaited.store(true, Ordering::SeqCst);
        self.n_letters.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn stops_waiting(&self) {
        self.is_awaited.store(false, Ordering::SeqCst);
    }

    /// Take all letters.
    pub(crate) fn take(&self) -> Vec<Letter> {
        if self.n_letters.load(Ordering::SeqCst) == 0 {
            return Vec::new();
        }
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        self.n_letters.store(0, Ordering::SeqCst);
        std::mem::take(&mut *letters)
    }

    /// Tell the one that waits with this token.
    pub(crate) fn notify(&self, token: u64) {
        self.post(std::iter::once(Letter::Notified(token)));
    }

    fn post(&self, new: impl Iterator<Item = Letter>) {
        if self.poller.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            // The loop is closed: nobody opens letters any more.
            return new.for_each(drop);
        }
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        letters.extend(new);
        self.n_letters.store(letters.len(), Ordering::SeqCst);
        drop(letters);
        if self.is_awaited.swap(false, Ordering::SeqCst) {
            let poller = self.poller.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(poller) = &*poller {
                // It fails only when the counter of rings is full, and then the poller wakes anyway.
                let _ = poller.wake();
            }
        }
    }
}

impl Outlet for Mailbox {
    fn deliver(&self, runs: &mut Vec<Box<Run>>) {
        self.post(runs.drain(..).map(Letter::Ended));
    }
}
