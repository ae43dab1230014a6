//! A bell: what a thread waits on when it has nothing to do.
//!
//! Rings are bits and stay until they are heard, so that none is lost, whoever is first.

use std::fmt;
use std::ops::{BitAnd, BitOr};
use std::time::Duration;

use crate::sync::{AtomicU32, Ordering};

/// Why a thread is woken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ring(u32);

impl Ring {
    /// Nothing: the wait timed out, or a signal ended it.
    pub const NONE: Self = Self(0);
    /// Go on watch.
    pub const WATCH: Self = Self(1);
    /// The dispatcher's role is yours.
    pub const GRANT: Self = Self(1 << 1);
    /// Threadlets run again: watch, do not doze.
    pub const WAKE: Self = Self(1 << 2);
    /// The sentinel has seen the dispatcher block. Only for who is on watch.
    pub const ALARM: Self = Self(1 << 3);
    /// End. Never withdrawn.
    pub const STOP: Self = Self(1 << 4);
    /// Work waits that is to be done beside the dispatcher.
    pub const WORK: Self = Self(1 << 5);
    /// Something that belongs to this thread is to go on there: ask for the role.
    pub const ASK: Self = Self(1 << 6);
    const ALL: Self = Self((1 << 7) - 1);

    /// Whether these rings and those have one in common.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Ring {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Ring {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::WATCH, "WATCH"),
            (Self::GRANT, "GRANT"),
            (Self::WAKE, "WAKE"),
            (Self::ALARM, "ALARM"),
            (Self::STOP, "STOP"),
            (Self::WORK, "WORK"),
            (Self::ASK, "ASK"),
        ];
        f.debug_set().entries(names.iter().filter(|(it, _)| self.has(*it)).map(|it| it.1)).finish()
    }
}

/// One thread's bell.
#[derive(Debug)]
pub struct Bell {
    rings: AtomicU32,
    #[cfg(feature = "model")]
    rung: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

impl Default for Bell {
    fn default() -> Self {
        Self {
            rings: AtomicU32::new(0),
            #[cfg(feature = "model")]
            rung: (loom::sync::Mutex::new(()), loom::sync::Condvar::new()),
        }
    }
}

impl Bell {
    /// Wake the thread whose bell this is, now or when it next waits.
    pub fn ring(&self, ring: Ring) {
        if ring == Ring::NONE {
            return;
        }
        let before = self.rings.fetch_or(ring.0, Ordering::SeqCst);
        if before & ring.0 != ring.0 {
            self.wake();
        }
    }

    /// Take those of the wanted rings that have come, without waiting.
    pub fn hear(&self, wanted: Ring) -> Ring {
        let heard = self.rings.fetch_and(!(wanted.0 & !Ring::STOP.0), Ordering::SeqCst);
        Ring(heard & (wanted.0 | Ring::STOP.0))
    }

    /// Wait for one of the wanted rings, or for the end; `NONE` after the time is up or a signal.
    pub fn wait(&self, wanted: Ring, patience: Option<Duration>) -> Ring {
        let heard = self.hear(wanted);
        if heard != Ring::NONE {
            return heard;
        }
        self.sleep(wanted, patience);
        self.hear(wanted)
    }

    /// Forget every ring: in the child of a fork, where nobody is left who could mean them.
    pub fn reset(&self) {
        self.rings.fetch_and(!Ring::ALL.0, Ordering::SeqCst);
    }

    #[cfg(not(feature = "model"))]
    fn sleep(&self, wanted: Ring, patience: Option<Duration>) {
        use rustix::thread::futex::{Flags, wait};
        let rings = self.rings.load(Ordering::SeqCst);
        if rings & (wanted.0 | Ring::STOP.0) != 0 {
            return;
        }
        let patience = patience.and_then(|it| rustix::time::Timespec::try_from(it).ok());
        // Whatever ends it (a ring, the time, a signal), the caller looks at the rings.
        let _ = wait(&self.rings, Flags::PRIVATE, rings, patience.as_ref());
    }

    #[cfg(not(feature = "model"))]
    fn wake(&self) {
        let _ = rustix::thread::futex::wake(&self.rings, rustix::thread::futex::Flags::PRIVATE, 1);
    }

    /// In the model nobody's patience ends: a lost ring shows as a deadlock.
    #[cfg(feature = "model")]
    fn sleep(&self, wanted: Ring, _patience: Option<Duration>) {
        let (lock, condition) = &self.rung;
        let mut guard = lock.lock().unwrap();
        while self.rings.load(Ordering::SeqCst) & (wanted.0 | Ring::STOP.0) == 0 {
            guard = condition.wait(guard).unwrap();
        }
    }

    #[cfg(feature = "model")]
    fn wake(&self) {
        let (lock, condition) = &self.rung;
        let _guard = lock.lock().unwrap();
        condition.notify_one();
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_heard_once() {
        let bell = Bell::default();
        bell.ring(Ring::GRANT);
        assert_eq!(Ring::GRANT, bell.wait(Ring::GRANT, None));
        assert_eq!(Ring::NONE, bell.wait(Ring::GRANT, Some(Duration::ZERO)));
    }

    #[test]
    fn an_unwanted_ring_waits_until_it_is_wanted() {
        let bell = Bell::default();
        bell.ring(Ring::WATCH);
        assert_eq!(Ring::NONE, bell.wait(Ring::GRANT, Some(Duration::ZERO)));
        assert_eq!(Ring::WATCH, bell.wait(Ring::WATCH | Ring::GRANT, None));
    }

    #[test]
    fn the_end_is_heard_by_everyone_every_time() {
        let bell = Bell::default();
        bell.ring(Ring::STOP);
        assert!(bell.wait(Ring::GRANT, None).has(Ring::STOP));
        assert!(bell.wait(Ring::WATCH, None).has(Ring::STOP));
    }

    #[test]
    fn a_ring_ends_the_wait_of_another_thread() {
        let bell = Bell::default();
        std::thread::scope(|scope| {
            scope.spawn(|| bell.ring(Ring::ALARM));
            assert_eq!(Ring::ALARM, bell.wait(Ring::ALARM, None));
        });
    }
}
