//! Which connections have to be driven though no event of their sockets says so.

use std::cell::Cell;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

thread_local! {
    static LOOKS_AFTERWARDS: Cell<bool> = const { Cell::new(false) };
}

/// The connections that were woken, by their numbers.
///
/// hyper wakes a connection while that is driven, and while an application takes or sends something: the caller
/// looks afterwards. Only threads of their own, which read cold files, ring.
pub struct Wakes {
    woken: Mutex<Vec<u32>>,
    ring: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wakes").finish_non_exhaustive()
    }
}

impl Wakes {
    /// `ring` makes the owner call [`Wakes::take`] soon, from any thread.
    pub fn new(ring: impl Fn() + Send + Sync + 'static) -> Self {
        Self { woken: Mutex::default(), ring: Box::new(ring) }
    }

    fn woken(&self) -> MutexGuard<'_, Vec<u32>> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, number: u32) {
        let was_empty = {
            let mut woken = self.woken();
            woken.push(number);
            woken.len() == 1
        };
        if was_empty && !LOOKS_AFTERWARDS.get() {
            (self.ring)();
        }
    }

    /// Whether no connection was woken.
    pub fn is_empty(&self) -> bool {
        self.woken().is_empty()
    }

    /// Take the numbers of the connections that were woken.
    pub fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.woken())
    }
}

/// Call `act`, after which this thread looks for woken connections: it needs no ringing.
pub fn looking_afterwards<R>(act: impl FnOnce() -> R) -> R {
    let before = LOOKS_AFTERWARDS.replace(true);
    let result = act();
    LOOKS_AFTERWARDS.set(before);
    result
}
