//! The role, and the protocol by which it moves: call, take over, return, doze and wake.
//!
//! The role changes only with the host lock held; the monitor and the idle monitor look at it without. A
//! sequence number says what the dispatcher does: it is odd while the dispatcher is inside a threadlet, and
//! never has the same value twice.

use std::fmt;
use std::sync::OnceLock;

use super::parker::{Parker, WakeReason};
use super::registry::{WorkerId, WorkerRegistry};
use super::slot::WorkerSlot;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Which of the monitor and the idle monitor are awake.
///
/// Each of the two clears its own bit before it looks whether the dispatcher is inside a threadlet, and
/// may then set it again. Otherwise the dispatcher alone sets bits, after it has written that it is inside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Awake(u32);

impl Awake {
    /// The monitor. Cannot be set while no worker is the monitor.
    pub const MONITOR: Self = Self(1);
    /// The idle monitor. Stays set where there is none.
    pub const IDLE_MONITOR: Self = Self(1 << 1);
    const ALL: Self = Self(3);

    fn lacks(self, other: Self) -> bool {
        self.0 & other.0 == 0
    }
}

impl fmt::Debug for Awake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [(Self::MONITOR, "MONITOR"), (Self::IDLE_MONITOR, "IDLE_MONITOR")];
        let set = names.iter().filter(|(it, _)| !self.lacks(*it)).map(|it| it.1);
        f.debug_set().entries(set).finish()
    }
}

/// How a call begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Called {
    /// Call the function, then `leave` with this number.
    Monitored(u64),
    /// The same, but call `ensure_monitor` first: nothing watches this call yet.
    Unmonitored(u64),
    /// This thread does not hold the role, or is inside a threadlet already: there is nothing to protect.
    Inside,
}

/// From where `take` took the role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// From a worker that is inside a threadlet; its task is to be parked.
    FromThreadlet(WorkerId),
    /// From a dispatcher that waits for events; it must be woken if it waits long.
    FromPoll,
    /// From no other worker.
    Vacant,
}

/// Whether a call may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Monitoring {
    /// Yes: there is a monitor.
    Monitored,
    /// Yes, once a thread is started for this worker, which is the monitor.
    Spawn(WorkerId),
    /// No: every thread that there may be is busy.
    Full,
}

/// Whether a worker still has the role after a boundary between two requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// It still has the role.
    Kept,
    /// Another worker is the dispatcher now.
    Lost,
}

/// The role of one loop's dispatcher.
pub struct Role {
    /// Odd while the dispatcher is inside a threadlet.
    seq: AtomicU64,
    /// The worker that holds the role. Written with the host lock held.
    owner: AtomicU32,
    /// Bits of `Awake`.
    awake: AtomicU32,
    /// The worker that is the monitor. Written with the host lock held.
    monitor: AtomicU32,
    /// The idle monitor's parker.
    pub idle_monitor: Parker,
    slots: Box<[OnceLock<Box<WorkerSlot>>]>,
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Role")
            .field("seq", &self.seq.load(Ordering::Relaxed))
            .field("owner", &self.owner())
            .field("awake", &Awake(self.awake.load(Ordering::Relaxed)))
            .finish_non_exhaustive()
    }
}

impl Role {
    /// A role that no thread holds, for a home thread and up to `n_threads_max` others.
    pub fn new(n_threads_max: usize) -> Self {
        Self {
            seq: AtomicU64::new(0),
            owner: AtomicU32::new(WorkerId::NONE.0),
            awake: AtomicU32::new(0),
            monitor: AtomicU32::new(WorkerId::NONE.0),
            idle_monitor: Parker::default(),
            slots: (0..=n_threads_max).map(|_| OnceLock::new()).collect(),
        }
    }

    /// What other threads see of a worker.
    pub fn slot(&self, worker: WorkerId) -> &WorkerSlot {
        self.slots[worker.index()].get_or_init(Box::default)
    }

    /// The worker that holds the role; `None` while the loop does not run.
    pub fn owner(&self) -> Option<WorkerId> {
        worker_or_none(self.owner.load(Ordering::SeqCst))
    }

    /// Whether `me` holds the role.
    pub fn is_held_by(&self, me: WorkerId) -> bool {
        self.owner.load(Ordering::Relaxed) == me.0
    }

    /// The worker that is the monitor.
    pub fn monitor(&self) -> Option<WorkerId> {
        worker_or_none(self.monitor.load(Ordering::SeqCst))
    }

    /// The sequence number: odd while the dispatcher is inside a threadlet.
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::SeqCst)
    }

    // -- the dispatcher: host lock held ----------------------------------------------------------

    /// Whether this worker holds the role, and is inside no threadlet.
    pub fn may_enter(&self, me: WorkerId) -> bool {
        !is_inside(self.seq.load(Ordering::Relaxed)) && self.is_held_by(me)
    }

    /// Begin a call.
    pub fn enter(&self, me: WorkerId) -> Called {
        let seq = self.seq.load(Ordering::Relaxed);
        if !self.may_enter(me) {
            return Called::Inside;
        }
        // First write that a threadlet runs, then read which threads are awake: a thread that dozes off
        // does the reverse, so that at least one of the two sees the other.
        self.seq.store(seq + 1, Ordering::SeqCst);
        if self.awake.load(Ordering::SeqCst) == Awake::ALL.0 {
            Called::Monitored(seq + 1)
        } else {
            Called::Unmonitored(seq + 1)
        }
    }

    /// End a call; whether this worker still has the role. If not, `ask` for it.
    pub fn leave(&self, me: WorkerId, seq: u64) -> bool {
        let kept = self.is_held_by(me) && self.seq.load(Ordering::Relaxed) == seq;
        if kept {
            self.seq.store(seq + 1, Ordering::Release);
        }
        kept
    }

    /// Make sure that the present call is watched. After `Full` it is not: `leave` without calling.
    pub fn ensure_monitor(&self, registry: &mut WorkerRegistry) -> Monitoring {
        let mut monitoring = Monitoring::Monitored;
        if self.monitor().is_none() {
            let Some((worker, is_new)) = registry.appoint() else { return Monitoring::Full };
            self.monitor.store(worker.0, Ordering::SeqCst);
            if is_new {
                monitoring = Monitoring::Spawn(worker);
            } else {
                self.slot(worker).parker.unpark(WakeReason::MONITOR);
            }
        }
        let awake = Awake(self.awake.swap(Awake::ALL.0, Ordering::SeqCst));
        if awake.lacks(Awake::MONITOR)
            && let Some(monitor) = self.monitor()
        {
            self.slot(monitor).parker.unpark(WakeReason::WAKE);
        }
        if awake.lacks(Awake::IDLE_MONITOR) {
            self.idle_monitor.unpark(WakeReason::WAKE);
        }
        monitoring
    }

    /// Undo `ensure_monitor`: the thread that it asked for could not be started.
    pub fn not_spawned(&self, registry: &mut WorkerRegistry, worker: WorkerId) {
        self.clear_monitor();
        registry.not_spawned(worker);
    }

    /// Between two requests: hand the role to the first worker that waits for it.
    pub fn boundary(&self, registry: &mut WorkerRegistry, me: WorkerId) -> Boundary {
        if !self.is_held_by(me) {
            return Boundary::Lost;
        }
        let Some(next) = registry.next_grant() else { return Boundary::Kept };
        self.owner.store(next.0, Ordering::SeqCst);
        self.slot(next).parker.unpark(WakeReason::GRANT);
        Boundary::Lost
    }

    /// Give the role up: the loop stops.
    pub fn vacate(&self, registry: &mut WorkerRegistry) {
        registry.stop_polling();
        self.owner.store(WorkerId::NONE.0, Ordering::SeqCst);
    }

    // -- the other workers: host lock held -------------------------------------------------------

    /// Take the role if the dispatcher can do without it: it is inside a threadlet, or waits for
    /// events, or there is none (then only home may). The host lock excludes other takers.
    pub fn take(&self, registry: &mut WorkerRegistry, me: WorkerId) -> Option<Taken> {
        let seq = self.seq.load(Ordering::Relaxed);
        let taken = match self.owner() {
            Some(owner) if owner == me => return Some(Taken::Vacant),
            Some(owner) if is_inside(seq) => {
                self.seq.store(seq + 1, Ordering::SeqCst);
                Taken::FromThreadlet(owner)
            }
            Some(_) if registry.stop_polling() => Taken::FromPoll,
            None if me == WorkerId::HOME => Taken::Vacant,
            _ => return None,
        };
        self.owner.store(me.0, Ordering::SeqCst);
        Some(taken)
    }

    /// Take the role, or queue for it: it then comes with `GRANT`.
    pub fn ask(&self, registry: &mut WorkerRegistry, me: WorkerId) -> Option<Taken> {
        let taken = self.take(registry, me);
        if taken.is_none() {
            registry.queue_for_grant(me);
        }
        taken
    }

    /// As the monitor: take the role from inside call `seq`, unless that call is over. There is no monitor
    /// then.
    pub fn take_over(
        &self,
        registry: &mut WorkerRegistry,
        me: WorkerId,
        seq: u64,
    ) -> Option<Taken> {
        if self.seq.load(Ordering::Relaxed) != seq || self.owner().is_none() {
            return None;
        }
        let taken = self.take(registry, me)?;
        self.clear_monitor();
        Some(taken)
    }

    /// Leave the loop without a monitor.
    pub fn clear_monitor(&self) {
        self.awake.fetch_and(!Awake::MONITOR.0, Ordering::SeqCst);
        self.monitor.store(WorkerId::NONE.0, Ordering::SeqCst);
    }

    // -- the monitor and the idle monitor: no lock -----------------------------------------------

    /// The call that the dispatcher is inside, and the worker that is the dispatcher.
    pub fn inside(&self) -> Option<(u64, WorkerId)> {
        let seq = self.seq();
        let owner = self.owner()?;
        is_inside(seq).then_some((seq, owner))
    }

    /// Clear this thread's bit before it dozes; `false`: it must not doze, a threadlet has begun.
    pub fn doze(&self, monitor: Awake) -> bool {
        self.awake.fetch_and(!monitor.0, Ordering::SeqCst);
        if !is_inside(self.seq()) {
            return true;
        }
        self.awake.fetch_or(monitor.0, Ordering::SeqCst);
        false
    }

    /// Clear this thread's bit although a threadlet runs: it has seen enough of this call.
    pub fn doze_until_next_call(&self, monitor: Awake) {
        self.awake.fetch_and(!monitor.0, Ordering::SeqCst);
    }

    /// Unpark every thread with `STOP`, the idle monitor included.
    pub fn stop_all(&self) {
        self.idle_monitor.unpark(WakeReason::STOP);
        for slot in self.slots.iter().filter_map(OnceLock::get) {
            slot.parker.unpark(WakeReason::STOP);
        }
    }

    // -- fork ------------------------------------------------------------------------------------

    /// In the child of a fork only the thread that forked goes on: forget the others. `me` is that
    /// thread if it is a worker; it then holds the role.
    pub fn reset(&self, registry: &mut WorkerRegistry, me: Option<WorkerId>) {
        let seq = self.seq.load(Ordering::Relaxed);
        if is_inside(seq) && self.owner() != me {
            // The thread inside the call does not exist here, and cannot `leave`.
            self.seq.store(seq + 1, Ordering::SeqCst);
        }
        self.owner.store(me.unwrap_or(WorkerId::NONE).0, Ordering::SeqCst);
        self.clear_monitor();
        self.awake.store(0, Ordering::SeqCst);
        self.idle_monitor.reset();
        for (idx, slot) in self.slots.iter().enumerate() {
            if let Some(slot) = slot.get() {
                slot.reset(me == Some(WorkerId::new(idx)));
            }
        }
        registry.reset(me);
    }
}

fn is_inside(seq: u64) -> bool {
    seq & 1 == 1
}

fn worker_or_none(owner: u32) -> Option<WorkerId> {
    Some(WorkerId(owner)).filter(|&it| it != WorkerId::NONE)
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    const WORKER: WorkerId = WorkerId(1);

    fn held_by_home() -> (Role, WorkerRegistry) {
        let (role, mut registry) = (Role::new(2), WorkerRegistry::new(2));
        assert_eq!(Some(Taken::Vacant), role.take(&mut registry, WorkerId::HOME));
        (role, registry)
    }

    fn enter(role: &Role, me: WorkerId) -> u64 {
        match role.enter(me) {
            Called::Monitored(seq) | Called::Unmonitored(seq) => seq,
            Called::Inside => panic!("{me:?} does not hold the role, or is inside already"),
        }
    }

    #[test]
    fn a_call_that_is_not_taken_over_keeps_the_role() {
        let (role, _) = held_by_home();
        let seq = enter(&role, WorkerId::HOME);
        assert_eq!(Some((seq, WorkerId::HOME)), role.inside());
        assert!(role.leave(WorkerId::HOME, seq));
        assert_eq!(None, role.inside());
    }

    #[test]
    fn a_call_inside_a_call_needs_no_protection() {
        let (role, _) = held_by_home();
        let seq = enter(&role, WorkerId::HOME);
        assert_eq!(Called::Inside, role.enter(WorkerId::HOME));
        assert!(role.leave(WorkerId::HOME, seq));
    }

    #[test]
    fn the_role_is_taken_from_inside_a_threadlet_and_comes_back_at_a_boundary() {
        let (role, mut registry) = held_by_home();
        let seq = enter(&role, WorkerId::HOME);
        let taken = role.take_over(&mut registry, WORKER, seq);
        assert_eq!(Some(Taken::FromThreadlet(WorkerId::HOME)), taken);
        assert!(!role.leave(WorkerId::HOME, seq));
        assert_eq!(None, role.ask(&mut registry, WorkerId::HOME));
        assert_eq!(Boundary::Lost, role.boundary(&mut registry, WORKER));
        assert_eq!(WakeReason::GRANT, role.slot(WorkerId::HOME).parker.take(WakeReason::GRANT));
        assert!(role.is_held_by(WorkerId::HOME));
        assert_eq!(Boundary::Kept, role.boundary(&mut registry, WorkerId::HOME));
    }

    #[test]
    fn a_call_that_is_over_cannot_be_taken_over() {
        let (role, mut registry) = held_by_home();
        let seq = enter(&role, WorkerId::HOME);
        assert!(role.leave(WorkerId::HOME, seq));
        assert_eq!(None, role.take_over(&mut registry, WORKER, seq));
        let _ = enter(&role, WorkerId::HOME);
        assert_eq!(None, role.take_over(&mut registry, WORKER, seq));
    }

    #[test]
    fn the_role_is_taken_from_a_dispatcher_that_waits_for_events_and_not_from_one_that_works() {
        let (role, mut registry) = held_by_home();
        assert_eq!(None, role.take(&mut registry, WORKER));
        registry.start_polling();
        assert_eq!(Some(Taken::FromPoll), role.take(&mut registry, WORKER));
        assert_eq!(None, role.take(&mut registry, WorkerId::HOME));
    }

    #[test]
    fn a_vacant_role_is_for_the_home_thread() {
        let (role, mut registry) = held_by_home();
        role.vacate(&mut registry);
        assert_eq!(None, role.take(&mut registry, WORKER));
        assert_eq!(Some(Taken::Vacant), role.take(&mut registry, WorkerId::HOME));
    }

    #[test]
    fn a_call_is_watched_by_a_new_thread_then_by_an_idle_one() {
        let (role, mut registry) = held_by_home();
        let Called::Unmonitored(seq) = role.enter(WorkerId::HOME) else { panic!("no monitor yet") };
        let Monitoring::Spawn(first) = role.ensure_monitor(&mut registry) else {
            panic!("no worker is idle")
        };
        assert!(role.take_over(&mut registry, first, seq).is_some());
        registry.add_idle(WORKER);
        let Called::Unmonitored(_) = role.enter(first) else { panic!("no monitor yet") };
        assert_eq!(Monitoring::Monitored, role.ensure_monitor(&mut registry));
        assert_eq!(WakeReason::MONITOR, role.slot(WORKER).parker.take(WakeReason::MONITOR));
    }

    #[test]
    fn without_a_thread_to_watch_no_call_begins() {
        let (role, mut registry) = (Role::new(1), WorkerRegistry::new(1));
        role.take(&mut registry, WorkerId::HOME);
        let seq = enter(&role, WorkerId::HOME);
        let Monitoring::Spawn(first) = role.ensure_monitor(&mut registry) else {
            panic!("no worker is idle")
        };
        role.take_over(&mut registry, first, seq);
        let Called::Unmonitored(seq) = role.enter(first) else { panic!("no monitor yet") };
        assert_eq!(Monitoring::Full, role.ensure_monitor(&mut registry));
        assert!(role.leave(first, seq));
    }

    #[test]
    fn the_monitor_does_not_doze_while_a_threadlet_runs() {
        let (role, _) = held_by_home();
        assert!(role.doze(Awake::MONITOR));
        let seq = enter(&role, WorkerId::HOME);
        assert!(!role.doze(Awake::MONITOR));
        role.leave(WorkerId::HOME, seq);
        assert!(role.doze(Awake::MONITOR));
    }
}
