//! A parker: what a thread sleeps on until another thread unparks it.
//!
//! Wake reasons are bits and stay set until they are taken, so that none is lost, whether the thread is
//! unparked before or after it parks.

use std::fmt;
use std::ops::{BitAnd, BitOr};
use std::time::Duration;

use crate::sync::{AtomicU32, Ordering};

/// Why a thread is unparked: a set of reasons.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WakeReason(u32);

impl WakeReason {
    /// No reason: the wait timed out, or a signal ended it.
    pub const NONE: Self = Self(0);
    /// Be the monitor.
    pub const MONITOR: Self = Self(1);
    /// The role is granted to this thread.
    pub const GRANT: Self = Self(1 << 1);
    /// A threadlet begins: stop dozing.
    pub const WAKE: Self = Self(1 << 2);
    /// The idle monitor has seen the dispatcher block. For the monitor only.
    pub const BLOCKED: Self = Self(1 << 3);
    /// End. Stays set when it is taken.
    pub const STOP: Self = Self(1 << 4);
    /// A job waits beside the dispatcher.
    pub const WORK: Self = Self(1 << 5);
    /// A step that belongs to this thread waits: ask for the role; or nothing belongs to it any more.
    pub const ASK: Self = Self(1 << 6);
    const ALL: Self = Self((1 << 7) - 1);

    /// Whether the two sets have a reason in common.
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
    /// Wake the parker's thread for `reason`: now, or when it next parks.
    pub fn unpark(&self, reason: WakeReason) {
        if reason == WakeReason::NONE {
            return;
        }
        let before = self.reasons.fetch_or(reason.0, Ordering::SeqCst);
        if before & reason.0 != reason.0 {
            self.wake();
        }
    }

    /// Take those of the wanted reasons that are set, and `STOP` if it is, without waiting.
    pub fn take(&self, wanted: WakeReason) -> WakeReason {
        let taken = self.reasons.fetch_and(!(wanted.0 & !WakeReason::STOP.0), Ordering::SeqCst);
        WakeReason(taken & (wanted.0 | WakeReason::STOP.0))
    }

    /// Wait for one of the wanted reasons or for `STOP`; `NONE` after a time-out or a signal.
    pub fn park(&self, wanted: WakeReason, timeout: Option<Duration>) -> WakeReason {
        let taken = self.take(wanted);
        if taken != WakeReason::NONE {
            return taken;
        }
        self.sleep(wanted, timeout);
        self.take(wanted)
    }

    /// Clear all reasons, in the child of a fork: the threads that have set them do not exist there.
    pub fn reset(&self) {
        self.reasons.fetch_and(!WakeReason::ALL.0, Ordering::SeqCst);
    }

    #[cfg(not(feature = "model"))]
    fn sleep(&self, wanted: WakeReason, timeout: Option<Duration>) {
        use rustix::thread::futex::{Flags, wait};
        let reasons = self.reasons.load(Ordering::SeqCst);
        if reasons & (wanted.0 | WakeReason::STOP.0) != 0 {
            return;
        }
        let timeout = timeout.and_then(|it| rustix::time::Timespec::try_from(it).ok());
        // Whatever ends the wait (a reason, a time-out, a signal), the caller looks at the reasons.
        let _ = wait(&self.reasons, Flags::PRIVATE, reasons, timeout.as_ref());
    }

    #[cfg(not(feature = "model"))]
    fn wake(&self) {
        let _ =
            rustix::thread::futex::wake(&self.reasons, rustix::thread::futex::Flags::PRIVATE, 1);
    }

    /// In the model no wait times out: a lost reason shows as a deadlock.
    #[cfg(feature = "model")]
    fn sleep(&self, wanted: WakeReason, _timeout: Option<Duration>) {
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
    fn a_reason_from_before_the_wait_is_taken_once() {
        let parker = Parker::default();
        parker.unpark(WakeReason::GRANT);
        assert_eq!(WakeReason::GRANT, parker.park(WakeReason::GRANT, None));
        assert_eq!(WakeReason::NONE, parker.park(WakeReason::GRANT, Some(Duration::ZERO)));
    }

    #[test]
    fn an_unwanted_reason_stays_until_it_is_wanted() {
        let parker = Parker::default();
        parker.unpark(WakeReason::MONITOR);
        assert_eq!(WakeReason::NONE, parker.park(WakeReason::GRANT, Some(Duration::ZERO)));
        assert_eq!(WakeReason::MONITOR, parker.park(WakeReason::MONITOR | WakeReason::GRANT, None));
    }

    #[test]
    fn stop_ends_every_wait() {
        let parker = Parker::default();
        parker.unpark(WakeReason::STOP);
        assert!(parker.park(WakeReason::GRANT, None).has(WakeReason::STOP));
        assert!(parker.park(WakeReason::MONITOR, None).has(WakeReason::STOP));
    }

    #[test]
    fn unpark_ends_the_wait_of_another_thread() {
        let parker = Parker::default();
        std::thread::scope(|scope| {
            scope.spawn(|| parker.unpark(WakeReason::BLOCKED));
            assert_eq!(WakeReason::BLOCKED, parker.park(WakeReason::BLOCKED, None));
        });
    }
}
