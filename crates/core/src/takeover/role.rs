//! The role and the protocol by which it moves: call, take over, return, doze and wake.
//!
//! Whoever changes the role holds the host lock; who merely looks (the watcher) does not. A number
//! says what the dispatcher does: odd while it is inside a threadlet, and never the same twice.

use std::fmt;
use std::sync::OnceLock;

use super::bell::{Bell, Ring};
use super::record::Record;
use super::roster::{Attendance, Boundary, Roster, Taken};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Names a thread that can hold the role. Numbers are used again after a thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunnerId(u32);

impl RunnerId {
    /// The thread that runs the loop: the role begins and ends there.
    pub const HOME: Self = Self(0);
    /// No runner.
    pub const NOBODY: Self = Self(u32::MAX);

    pub(super) fn new(number: usize) -> Self {
        Self(number as u32)
    }

    /// The position among all runners; home is 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which watchers are awake.
///
/// A bit is cleared by its watcher alone, before it looks whether the dispatcher is inside a
/// threadlet; it is set by the dispatcher alone, after it has said that it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Watching(u32);

impl Watching {
    /// The runner on watch. Cannot be set while nobody is on watch.
    pub const DUTY: Self = Self(1);
    /// The sentinel. Stays set where there is none.
    pub const SENTINEL: Self = Self(1 << 1);
    const ALL: Self = Self(3);

    fn lacks(self, other: Self) -> bool {
        self.0 & other.0 == 0
    }
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Self::DUTY, "DUTY"), (Self::SENTINEL, "SENTINEL")];
        let set = names.iter().filter(|(it, _)| !self.lacks(*it)).map(|it| it.1);
        f.debug_set().entries(set).finish()
    }
}

/// How a call begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// Call the function, then `leave` with this number.
    Watched(u64),
    /// The same, once `attend` has seen to it that somebody watches.
    Unwatched(u64),
    /// This thread does not hold the role, or is inside a threadlet already: nothing to protect.
    Inside,
}

/// The role of one loop's dispatcher.
pub struct Role {
    /// Odd while the dispatcher is inside a threadlet.
    seq: AtomicU64,
    /// Who holds the role. Written with the host lock held.
    owner: AtomicU32,
    watching: AtomicU32,
    /// Who is on watch. Written with the host lock held.
    duty: AtomicU32,
    /// The sentinel's bell.
    pub sentinel: Bell,
    records: Box<[OnceLock<Box<Record>>]>,
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role")
            .field("seq", &self.seq.load(Ordering::Relaxed))
            .field("owner", &self.owner())
            .field("watching", &Watching(self.watching.load(Ordering::Relaxed)))
            .finish_non_exhaustive()
    }
}

impl Role {
    /// A role that nobody holds, for a home thread and up to `n_threads_max` others.
    pub fn new(n_threads_max: usize) -> Self {
        Self {
            seq: AtomicU64::new(0),
            owner: AtomicU32::new(RunnerId::NOBODY.0),
            watching: AtomicU32::new(0),
            duty: AtomicU32::new(RunnerId::NOBODY.0),
            sentinel: Bell::default(),
            records: (0..=n_threads_max).map(|_| OnceLock::new()).collect(),
        }
    }

    /// What can be seen of a runner's thread from outside.
    pub fn record(&self, runner: RunnerId) -> &Record {
        self.records[runner.index()].get_or_init(Box::default)
    }

    /// Who holds the role; `None` while the loop does not run.
    pub fn owner(&self) -> Option<RunnerId> {
        named(self.owner.load(Ordering::SeqCst))
    }

    /// Whether `me` holds the role.
    pub fn is_held_by(&self, me: RunnerId) -> bool {
        self.owner.load(Ordering::Relaxed) == me.0
    }

    /// Who is on watch.
    pub fn on_duty(&self) -> Option<RunnerId> {
        named(self.duty.load(Ordering::SeqCst))
    }

    /// What the dispatcher does: odd while it is inside a threadlet.
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::SeqCst)
    }

    // -- the dispatcher: host lock held ----------------------------------------------------------

    /// Whether this runner dispatches, and is in no threadlet.
    pub fn may_enter(&self, me: RunnerId) -> bool {
        !is_inside(self.seq.load(Ordering::Relaxed)) && self.is_held_by(me)
    }

    /// Begin a call.
    pub fn enter(&self, me: RunnerId) -> Called {
        let seq = self.seq.load(Ordering::Relaxed);
        if !self.may_enter(me) {
            return Called::Inside;
        }
        // First say that a threadlet runs, then look who watches: a watcher that dozes off does the
        // reverse, so that at least one of the two sees the other.
        self.seq.store(seq + 1, Ordering::SeqCst);
        if self.watching.load(Ordering::SeqCst) == Watching::ALL.0 {
            Called::Watched(seq + 1)
        } else {
            Called::Unwatched(seq + 1)
        }
    }

    /// End a call; whether the role is still ours. If not, `ask` for it.
    pub fn leave(&self, me: RunnerId, seq: u64) -> bool {
        let kept = self.is_held_by(me) && self.seq.load(Ordering::Relaxed) == seq;
        if kept {
            self.seq.store(seq + 1, Ordering::Release);
        }
        kept
    }

    /// See to it that somebody watches. After `Full` nobody does: `leave` without calling.
    pub fn attend(&self, roster: &mut Roster) -> Attendance {
        let mut attendance = Attendance::Watched;
        if self.on_duty().is_none() {
            let Some((runner, is_new)) = roster.appoint() else { return Attendance::Full };
            self.duty.store(runner.0, Ordering::SeqCst);
            if is_new {
                attendance = Attendance::Spawn(runner);
            } else {
                self.record(runner).bell.ring(Ring::WATCH);
            }
        }
        let watching = Watching(self.watching.swap(Watching::ALL.0, Ordering::SeqCst));
        if watching.lacks(Watching::DUTY)
            && let Some(duty) = self.on_duty()
        {
            self.record(duty).bell.ring(Ring::WAKE);
        }
        if watching.lacks(Watching::SENTINEL) {
            self.sentinel.ring(Ring::WAKE);
        }
        attendance
    }

    /// The thread that `attend` asked for could not be started.
    pub fn not_spawned(&self, roster: &mut Roster, runner: RunnerId) {
        self.relieve();
        roster.not_spawned(runner);
    }

    /// Between two requests: hand the role to the first who waits for it.
    pub fn boundary(&self, roster: &mut Roster, me: RunnerId) -> Boundary {
        if !self.is_held_by(me) {
            return Boundary::Lost;
        }
        let Some(next) = roster.next_grant() else { return Boundary::Kept };
        self.owner.store(next.0, Ordering::SeqCst);
        self.record(next).bell.ring(Ring::GRANT);
        Boundary::Lost
    }

    /// Give the role up: the loop stops.
    pub fn vacate(&self, roster: &mut Roster) {
        roster.stop_polling();
        self.owner.store(RunnerId::NOBODY.0, Ordering::SeqCst);
    }

    // -- everybody else: host lock held ----------------------------------------------------------

    /// Take the role if the dispatcher can do without it: it is inside a threadlet, or waits for
    /// events, or there is none (then only home may). With the host lock held nobody races for it.
    pub fn take(&self, roster: &mut Roster, me: RunnerId) -> Option<Taken> {
        let seq = self.seq.load(Ordering::Relaxed);
        let taken = match self.owner() {
            Some(owner) if owner == me => return Some(Taken::Vacant),
            Some(owner) if is_inside(seq) => {
                self.seq.store(seq + 1, Ordering::SeqCst);
                Taken::FromThreadlet(owner)
            }
            Some(_) if roster.stop_polling() => Taken::FromPoll,
            None if me == RunnerId::HOME => Taken::Vacant,
            _ => return None,
        };
        self.owner.store(me.0, Ordering::SeqCst);
        Some(taken)
    }

    /// Take the role, or queue for it: then it comes with a `GRANT`.
    pub fn ask(&self, roster: &mut Roster, me: RunnerId) -> Option<Taken> {
        let taken = self.take(roster, me);
        if taken.is_none() {
            roster.queue_for_grant(me);
        }
        taken
    }

    /// On watch: take the role from inside call `seq`, unless that is over. The watch is vacant
    /// then.
    pub fn take_over(&self, roster: &mut Roster, me: RunnerId, seq: u64) -> Option<Taken> {
        if self.seq.load(Ordering::Relaxed) != seq || self.owner().is_none() {
            return None;
        }
        let taken = self.take(roster, me)?;
        self.relieve();
        Some(taken)
    }

    /// Leave the watch vacant.
    pub fn relieve(&self) {
        self.watching.fetch_and(!Watching::DUTY.0, Ordering::SeqCst);
        self.duty.store(RunnerId::NOBODY.0, Ordering::SeqCst);
    }

    // -- watchers: no lock -----------------------------------------------------------------------

    /// The call that the dispatcher is inside, and who the dispatcher is.
    pub fn inside(&self) -> Option<(u64, RunnerId)> {
        let seq = self.seq();
        let owner = self.owner()?;
        is_inside(seq).then_some((seq, owner))
    }

    /// Say that this watcher dozes off; `false`: it must not, a threadlet has begun.
    pub fn doze(&self, watcher: Watching) -> bool {
        self.watching.fetch_and(!watcher.0, Ordering::SeqCst);
        if !is_inside(self.seq()) {
            return true;
        }
        self.watching.fetch_or(watcher.0, Ordering::SeqCst);
        false
    }

    /// Say that this watcher dozes off although a threadlet runs: it has seen enough of it.
    pub fn doze_until_next_call(&self, watcher: Watching) {
        self.watching.fetch_and(!watcher.0, Ordering::SeqCst);
    }

    /// Ring the end for every thread, the sentinel included.
    pub fn stop_all(&self) {
        self.sentinel.ring(Ring::STOP);
        for record in self.records.iter().filter_map(OnceLock::get) {
            record.bell.ring(Ring::STOP);
        }
    }

    // -- fork ------------------------------------------------------------------------------------

    /// In the child of a fork only the thread that forked goes on: forget the others. `me` is that
    /// thread if it is one of ours; it holds the role then.
    pub fn reset(&self, roster: &mut Roster, me: Option<RunnerId>) {
        let seq = self.seq.load(Ordering::Relaxed);
        if is_inside(seq) && self.owner() != me {
            // The one inside is not here to leave.
            self.seq.store(seq + 1, Ordering::SeqCst);
        }
        self.owner.store(me.unwrap_or(RunnerId::NOBODY).0, Ordering::SeqCst);
        self.relieve();
        self.watching.store(0, Ordering::SeqCst);
        self.sentinel.reset();
        for (idx, record) in self.records.iter().enumerate() {
            if let Some(record) = record.get() {
                record.reset(me == Some(RunnerId::new(idx)));
            }
        }
        roster.reset(me);
    }
}

fn is_inside(seq: u64) -> bool {
    seq & 1 == 1
}

fn named(owner: u32) -> Option<RunnerId> {
    Some(RunnerId(owner)).filter(|&it| it != RunnerId::NOBODY)
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    const RUNNER: RunnerId = RunnerId(1);

    fn held_by_home() -> (Role, Roster) {
        let (role, mut roster) = (Role::new(2), Roster::new(2));
        assert_eq!(Some(Taken::Vacant), role.take(&mut roster, RunnerId::HOME));
        (role, roster)
    }

    fn enter(role: &Role, me: RunnerId) -> u64 {
        match role.enter(me) {
            Called::Watched(seq) | Called::Unwatched(seq) => seq,
            Called::Inside => panic!("{me:?} does not hold the role, or is inside already"),
        }
    }

    #[test]
    fn a_call_that_is_not_taken_over_keeps_the_role() {
        let (role, _) = held_by_home();
        let seq = enter(&role, RunnerId::HOME);
        assert_eq!(Some((seq, RunnerId::HOME)), role.inside());
        assert!(role.leave(RunnerId::HOME, seq));
        assert_eq!(None, role.inside());
    }

    #[test]
    fn a_call_inside_a_call_needs_no_protection() {
        let (role, _) = held_by_home();
        let seq = enter(&role, RunnerId::HOME);
        assert_eq!(Called::Inside, role.enter(RunnerId::HOME));
        assert!(role.leave(RunnerId::HOME, seq));
    }

    #[test]
    fn the_role_is_taken_from_inside_a_threadlet_and_comes_back_at_a_boundary() {
        let (role, mut roster) = held_by_home();
        let seq = enter(&role, RunnerId::HOME);
        let taken = role.take_over(&mut roster, RUNNER, seq);
        assert_eq!(Some(Taken::FromThreadlet(RunnerId::HOME)), taken);
        assert!(!role.leave(RunnerId::HOME, seq));
        assert_eq!(None, role.ask(&mut roster, RunnerId::HOME));
        assert_eq!(Boundary::Lost, role.boundary(&mut roster, RUNNER));
        assert_eq!(Ring::GRANT, role.record(RunnerId::HOME).bell.hear(Ring::GRANT));
        assert!(role.is_held_by(RunnerId::HOME));
        assert_eq!(Boundary::Kept, role.boundary(&mut roster, RunnerId::HOME));
    }

    #[test]
    fn a_call_that_is_over_cannot_be_taken_over() {
        let (role, mut roster) = held_by_home();
        let seq = enter(&role, RunnerId::HOME);
        assert!(role.leave(RunnerId::HOME, seq));
        assert_eq!(None, role.take_over(&mut roster, RUNNER, seq));
        let _ = enter(&role, RunnerId::HOME);
        assert_eq!(None, role.take_over(&mut roster, RUNNER, seq));
    }

    #[test]
    fn the_role_is_taken_from_a_dispatcher_that_waits_for_events_and_not_from_one_that_works() {
        let (role, mut roster) = held_by_home();
        assert_eq!(None, role.take(&mut roster, RUNNER));
        roster.start_polling();
        assert_eq!(Some(Taken::FromPoll), role.take(&mut roster, RUNNER));
        assert_eq!(None, role.take(&mut roster, RunnerId::HOME));
    }

    #[test]
    fn a_vacant_role_is_for_the_home_thread() {
        let (role, mut roster) = held_by_home();
        role.vacate(&mut roster);
        assert_eq!(None, role.take(&mut roster, RUNNER));
        assert_eq!(Some(Taken::Vacant), role.take(&mut roster, RunnerId::HOME));
    }

    #[test]
    fn a_call_is_watched_by_a_new_thread_then_by_one_that_stands_by() {
        let (role, mut roster) = held_by_home();
        let Called::Unwatched(seq) = role.enter(RunnerId::HOME) else { panic!("nobody watches") };
        let Attendance::Spawn(first) = role.attend(&mut roster) else { panic!("nobody is there") };
        assert!(role.take_over(&mut roster, first, seq).is_some());
        roster.stand_by(RUNNER);
        let Called::Unwatched(_) = role.enter(first) else { panic!("nobody watches") };
        assert_eq!(Attendance::Watched, role.attend(&mut roster));
        assert_eq!(Ring::WATCH, role.record(RUNNER).bell.hear(Ring::WATCH));
    }

    #[test]
    fn without_a_thread_to_watch_no_call_begins() {
        let (role, mut roster) = (Role::new(1), Roster::new(1));
        role.take(&mut roster, RunnerId::HOME);
        let seq = enter(&role, RunnerId::HOME);
        let Attendance::Spawn(first) = role.attend(&mut roster) else { panic!("nobody is there") };
        role.take_over(&mut roster, first, seq);
        let Called::Unwatched(seq) = role.enter(first) else { panic!("nobody watches") };
        assert_eq!(Attendance::Full, role.attend(&mut roster));
        assert!(role.leave(first, seq));
    }

    #[test]
    fn nobody_dozes_while_a_threadlet_runs() {
        let (role, _) = held_by_home();
        assert!(role.doze(Watching::DUTY));
        let seq = enter(&role, RunnerId::HOME);
        assert!(!role.doze(Watching::DUTY));
        role.leave(RunnerId::HOME, seq);
        assert!(role.doze(Watching::DUTY));
    }
}
