//! A parker: what a thread waits on when it has nothing to do.
//!
//! Rings are bits and stay until they are taken, so that none is lost, whoever is first.

use std::fmt;
use std::ops::{BitAnd, BitOr};
use std::time::Duration;

use crate::sync::{AtomicU32, Ordering};

/// Why a thread is woken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WakeReason(u32);

impl WakeReason {
    /// Nothing: the wait timed out, or a signal ended it.
    pub const NONE: Self = Self(0);
    /// Go on watch.
    pub const MONITOR: Self = Self(1);
    /// The dispatcher's role is yours.
    pub const GRANT: Self = Self(1 << 1);
    /// Threadlets run again: watch, do not doze.
    pub const WAKE: Self = Self(1 << 2);
    /// The idle_monitor has seen the dispatcher block. Only for who is on watch.
    pub const BLOCKED: Self = Self(1 << 3);
    /// End. Never withdrawn.
    pub const STOP: Self = Self(1 << 4);
    /// Work waits that is to be done beside the dispatcher.
    pub const WORK: Self = Self(1 << 5);
    /// Something that belongs to this thread is to go on there: ask for the role.
    pub const ASK: Self = Self(1 << 6);
    const ALL: Self = Self((1 << 7) - 1);

    /// Whether these reasons and those have one in common.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for WakeReason {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for WakeReason {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Debug for WakeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::MONITOR, "MONITOR"),
            (Self::GRANT, "GRANT"),
            (Self::WAKE, "WAKE"),
            (Self::BLOCKED, "BLOCKED"),
            (Self::STOP, "STOP"),
            (Self::WORK, "WORK"),
            (Self::ASK, "ASK"),
        ];
        f.debug_set().entries(names.iter().filter(|(it, _)| self.has(*it)).map(|it| it.1)).finish()
    }
}

/// One thread's parker.
#[derive(Debug)]
pub struct Parker {
    reasons: AtomicU32,
    #[cfg(feature = "model")]
    woken: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

impl Default for Parker {
    fn default() -> Self {
        Self {
            reasons: AtomicU32::new(0),
            #[cfg(feature = "model")]
            woken: (loom::sync::Mutex::new(()), loom::sync::Condvar::new()),
        }
    }
}

impl Parker {
    /// Wake the thread whose parker this is, now or when it next waits.
    pub fn unpark(&self, reason: WakeReason) {
        if reason == WakeReason::NONE {
            return;
        }
        let before = self.reasons.fetch_or(reason.0, Ordering::SeqCst);
        if before & reason.0 != reason.0 {
            self.wake();
        }
    }

    /// Take those of the wanted reasons that have come, without waiting.
    pub fn take(&self, wanted: WakeReason) -> WakeReason {
        let taken = self.reasons.fetch_and(!(wanted.0 & !WakeReason::STOP.0), Ordering::SeqCst);
        WakeReason(taken & (wanted.0 | WakeReason::STOP.0))
    }

    /// Wait for one of the wanted reasons, or for the end; `NONE` after the time is up or a signal.
    pub fn park(&self, wanted: WakeReason, patience: Option<Duration>) -> WakeReason {
        let taken = self.take(wanted);
        if taken != WakeReason::NONE {
            return taken;
        }
        self.sleep(wanted, patience);
        self.take(wanted)
    }

    /// Forget every reason: in the child of a fork, where nobody is left who could mean them.
    pub fn reset(&self) {
        self.reasons.fetch_and(!WakeReason::ALL.0, Ordering::SeqCst);
    }

    #[cfg(not(feature = "model"))]
    fn sleep(&self, wanted: WakeReason, patience: Option<Duration>) {
        use rustix::thread::futex::{Flags, wait};
        let reasons = self.reasons.load(Ordering::SeqCst);
        if reasons & (wanted.0 | WakeReason::STOP.0) != 0 {
            return;
        }
        let patience = patience.and_then(|it| rustix::time::Timespec::try_from(it).ok());
        // Whatever ends it (a reason, the time, a signal), the caller looks at the reasons.
        let _ = wait(&self.reasons, Flags::PRIVATE, reasons, patience.as_ref());
    }

    #[cfg(not(feature = "model"))]
    fn wake(&self) {
        let _ =
            rustix::thread::futex::wake(&self.reasons, rustix::thread::futex::Flags::PRIVATE, 1);
    }

    /// In the model nobody's patience ends: a lost reason shows as a deadlock.
    #[cfg(feature = "model")]
    fn sleep(&self, wanted: WakeReason, _patience: Option<Duration>) {
        let (lock, condition) = &self.woken;
        let mut guard = lock.lock().unwrap();
        while self.reasons.load(Ordering::SeqCst) & (wanted.0 | WakeReason::STOP.0) == 0 {
            guard = condition.wait(guard).unwrap();
        }
    }

    #[cfg(feature = "model")]
    fn wake(&self) {
        let (lock, condition) = &self.woken;
        let _guard = lock.lock().unwrap();
        condition.notify_one();
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_the_wait_is_heard_once() {
        let parker = Parker::default();
        parker.unpark(WakeReason::GRANT);
        assert_eq!(WakeReason::GRANT, parker.park(WakeReason::GRANT, None));
        assert_eq!(WakeReason::NONE, parker.park(WakeReason::GRANT, Some(Duration::ZERO)));
    }

    #[test]
    fn an_unwanted_ring_waits_until_it_is_wanted() {
        let parker = Parker::default();
        parker.unpark(WakeReason::MONITOR);
        assert_eq!(WakeReason::NONE, parker.park(WakeReason::GRANT, Some(Duration::ZERO)));
        assert_eq!(WakeReason::MONITOR, parker.park(WakeReason::MONITOR | WakeReason::GRANT, None));
    }

    #[test]
    fn the_end_is_heard_by_everyone_every_time() {
        let parker = Parker::default();
        parker.unpark(WakeReason::STOP);
        assert!(parker.park(WakeReason::GRANT, None).has(WakeReason::STOP));
        assert!(parker.park(WakeReason::MONITOR, None).has(WakeReason::STOP));
    }

    #[test]
    fn a_ring_ends_the_wait_of_another_thread() {
        let parker = Parker::default();
        std::thread::scope(|scope| {
            scope.spawn(|| parker.unpark(WakeReason::BLOCKED));
            assert_eq!(WakeReason::BLOCKED, parker.park(WakeReason::BLOCKED, None));
        });
    }
}
