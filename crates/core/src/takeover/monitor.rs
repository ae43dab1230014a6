//! The monitor: it notices that the dispatcher is blocked inside a threadlet.
//!
//! The question is not whether the thread sleeps but whether the dispatcher has released the host lock
//! inside this call. Two threads look. The *idle monitor* runs on the dispatcher's CPU at idle priority:
//! that CPU has nothing else to run at the moment the dispatcher blocks, so the idle monitor looks within
//! microseconds, and costs nothing while the dispatcher works. On a busy machine it starves; so the
//! *monitor*, a worker, also looks by itself, once in every period. Both doze while no threadlet runs.
//!
//! Neither holds the host lock. What they find is a candidate: the worker that takes over checks it again,
//! with the lock held.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::parker::WakeReason;
use super::registry::WorkerId;
use super::role::{Awake, Role};
use super::thread::{HostProbe, ThreadTraits};
use crate::{clock, fp};

/// How often the monitor looks by itself.
const PERIOD: Duration = Duration::from_millis(1);
/// The same where there is no idle monitor, or where it starves on a busy machine.
const PERIOD_WITHOUT_IDLE_MONITOR: Duration = Duration::from_micros(200);
/// A function that takes this long, in nanoseconds, should not be called on the dispatcher's stack.
pub const SLOW_NS: u64 = 2_000_000;
/// How many blocks in a row a period may find first until the idle monitor counts as starved.
const N_MISSED_MAX: u32 = 2;
/// After how many periods without a call the monitor dozes: waking it takes the dispatcher a few
/// microseconds, which occasional calls should not pay each time.
const N_QUIET_PERIODS: u32 = 50;

/// Why the role should be taken from the dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The dispatcher sleeps, without the host lock.
    Blocked,
    /// It computes, without the host lock.
    Computing,
    /// It computes, and other requests have waited long enough.
    Overdue,
}

/// A call from inside which the role should be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The call's sequence number.
    pub seq: u64,
    /// Why the role should be taken.
    pub cause: Cause,
}

/// Why the monitor stops watching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noticed {
    /// The role should be taken over.
    Found(Candidate),
    /// This thread was called for a job, and no threadlet runs.
    Work,
    /// The loop ends, or has called no threadlet for long.
    Nothing,
}

/// State that the monitor and the idle monitor of one role share.
#[derive(Debug)]
pub struct Monitor {
    role: Arc<Role>,
    probe: HostProbe,
    /// The last call in which the idle monitor has seen the dispatcher block.
    blocked_seq: AtomicU64,
    /// How long a call may compute before it is overdue, in nanoseconds; `u64::MAX`: for ever.
    overdue_ns: AtomicU64,
    /// The last call that was seen to take `SLOW_NS` or longer.
    slow_seq: AtomicU64,
    idle_monitor: AtomicU32,
    /// How many blocks in a row the idle monitor has missed.
    n_missed: AtomicU32,
}

/// State of the idle monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleMonitor {
    /// No call has needed it yet.
    NotStarted,
    /// It runs.
    Present,
    /// The kernel refused it a thread, the idle priority or the CPU affinity, or does not tell on which CPU a
    /// thread runs.
    Refused,
}

impl Monitor {
    /// A monitor of `role`; `probe` tells whether a thread holds the host lock.
    pub fn new(role: Arc<Role>, probe: HostProbe) -> Self {
        Self {
            role,
            probe,
            blocked_seq: AtomicU64::new(0),
            overdue_ns: AtomicU64::new(u64::MAX),
            slow_seq: AtomicU64::new(0),
            idle_monitor: AtomicU32::new(IdleMonitor::NotStarted as u32),
            n_missed: AtomicU32::new(0),
        }
    }

    /// Set how long a call may compute before it is overdue; `None`: for ever.
    pub fn set_overdue(&self, after: Option<Duration>) {
        let after_ns = after.map_or(u64::MAX, |it| it.as_nanos().try_into().unwrap_or(u64::MAX));
        self.overdue_ns.store(after_ns, Relaxed);
    }

    /// Whether a call was seen to take `SLOW_NS` or longer.
    pub fn was_slow(&self, seq: u64) -> bool {
        self.slow_seq.load(Relaxed) == seq
    }

    /// How long a call may compute before it is overdue; `None`: for ever.
    pub fn overdue(&self) -> Option<Duration> {
        let after_ns = self.overdue_ns.load(Relaxed);
        (after_ns != u64::MAX).then(|| Duration::from_nanos(after_ns))
    }

    /// State of the idle monitor.
    pub fn idle_monitor(&self) -> IdleMonitor {
        match self.idle_monitor.load(Relaxed) {
            0 => IdleMonitor::NotStarted,
            1 => IdleMonitor::Present,
            _ => IdleMonitor::Refused,
        }
    }

    /// Be the monitor until the role should be taken over, a job waits, or no call has come for `idle`.
    pub fn watch(&self, me: WorkerId, idle: Duration) -> Noticed {
        let mut has_work = false;
        let noticed = self.watch_for(me, idle, &mut has_work);
        if has_work && noticed != Noticed::Work {
            // The job still waits for this thread, which gets to it later.
            self.role.slot(me).parker.unpark(WakeReason::WORK);
        }
        noticed
    }

    fn watch_for(&self, me: WorkerId, idle: Duration, has_work: &mut bool) -> Noticed {
        let parker = &self.role.slot(me).parker;
        let mut last = Observation::default();
        let mut n_quiet_periods = 0;
        let mut has_timed_out = false;
        loop {
            let before = last.seq;
            if let Some(candidate) = self.observe(&mut last) {
                self.n_missed.fetch_add(u32::from(has_timed_out), Relaxed);
                return Noticed::Found(candidate);
            }
            if *has_work && !last.is_inside {
                return Noticed::Work;
            }
            if last.is_inside || last.seq != before {
                n_quiet_periods = 0;
            } else {
                n_quiet_periods += 1;
            }
            if n_quiet_periods >= N_QUIET_PERIODS && self.role.doze(Awake::MONITOR) {
                n_quiet_periods = 0;
                has_timed_out = false;
                // `BLOCKED` may come late, from a call that has ended.
                let reasons = parker
                    .park(WakeReason::BLOCKED | WakeReason::WAKE | WakeReason::WORK, Some(idle));
                if reasons == WakeReason::NONE || reasons.has(WakeReason::STOP) {
                    return Noticed::Nothing;
                }
                *has_work |= reasons.has(WakeReason::WORK);
                continue;
            }
            let reasons = parker.park(
                WakeReason::BLOCKED | WakeReason::WAKE | WakeReason::WORK,
                Some(self.period()),
            );
            if reasons.has(WakeReason::STOP) {
                return Noticed::Nothing;
            }
            *has_work |= reasons.has(WakeReason::WORK);
            if reasons.has(WakeReason::BLOCKED) {
                self.n_missed.store(0, Relaxed);
            }
            has_timed_out = reasons == WakeReason::NONE;
        }
    }

    fn period(&self) -> Duration {
        let has_idle_monitor = self.idle_monitor() == IdleMonitor::Present;
        if has_idle_monitor && self.n_missed.load(Relaxed) <= N_MISSED_MAX {
            PERIOD
        } else {
            PERIOD_WITHOUT_IDLE_MONITOR
        }
    }

    /// Look once at what the dispatcher does.
    fn observe(&self, last: &mut Observation) -> Option<Candidate> {
        let seq = self.role.seq();
        let Some((inside_seq, owner)) = self.role.inside().filter(|it| it.0 == seq) else {
            *last = Observation { seq, is_inside: false, ..Observation::default() };
            return None;
        };
        let slot = self.role.slot(owner);
        let now_ns = clock::now_ns();
        let is_unlocked = slot.traces.holds_lock(self.probe) == Some(false);
        let is_known = last.is_inside && last.seq == seq;
        let since_ns = if is_known { last.since_ns } else { now_ns };
        let was_unlocked = is_known && last.is_unlocked;
        *last = Observation { seq, is_inside: true, is_unlocked, since_ns };
        if now_ns - since_ns >= SLOW_NS {
            self.slow_seq.store(seq, Relaxed);
        }
        // The kernel is asked last: its answer takes some microseconds.
        let is_blocked =
            || self.blocked_seq.load(Relaxed) == seq || slot.traces.is_running() == Some(false);
        let cause = if is_unlocked && is_blocked() {
            Cause::Blocked
        } else if is_unlocked && was_unlocked {
            Cause::Computing
        } else if now_ns - since_ns >= self.overdue_ns.load(Relaxed) {
            Cause::Overdue
        } else {
            return None;
        };
        // The call may have returned meanwhile, and the dispatcher released the lock elsewhere.
        (self.role.seq() == inside_seq).then_some(Candidate { seq, cause })
    }

    /// Start the idle monitor, once.
    pub fn start_idle_monitor(self: &Arc<Self>) {
        if self.idle_monitor() != IdleMonitor::NotStarted {
            return;
        }
        self.idle_monitor.store(IdleMonitor::Present as u32, Relaxed);
        let monitor = Arc::clone(self);
        let thread =
            std::thread::Builder::new().name("tl-idle-monitor".into()).stack_size(64 * 1024);
        if thread.spawn(move || monitor.run_idle_monitor()).is_err() {
            self.idle_monitor.store(IdleMonitor::Refused as u32, Relaxed);
        }
    }

    /// In the child of a fork: the idle monitor is gone, and the next call starts another.
    pub fn reset(&self) {
        self.idle_monitor.store(IdleMonitor::NotStarted as u32, Relaxed);
    }

    /// Body of the idle monitor's thread.
    fn run_idle_monitor(&self) {
        crate::signals::block();
        fp::begin_thread();
        if !ThreadTraits::run_when_idle() || self.watch_when_idle() == IdleMonitorEnd::Refused {
            self.idle_monitor.store(IdleMonitor::Refused as u32, Relaxed);
        }
    }

    fn watch_when_idle(&self) -> IdleMonitorEnd {
        let role = &self.role;
        let mut pinned_to = None;
        let mut last_seq = u64::MAX;
        loop {
            if role.idle_monitor.take(WakeReason::WAKE).has(WakeReason::STOP) {
                return IdleMonitorEnd::Stopped;
            }
            let Some((seq, owner)) = role.inside() else {
                let seq = role.seq();
                // Doze only if no call came since the last look: a dispatcher that has just left a call may
                // soon begin the next.
                if std::mem::replace(&mut last_seq, seq) == seq && role.doze(Awake::IDLE_MONITOR) {
                    role.idle_monitor.park(WakeReason::WAKE, None);
                }
                rustix::thread::sched_yield();
                continue;
            };
            let traces = &role.slot(owner).traces;
            let Some(cpu) = traces.cpu() else {
                if traces.holds_lock(self.probe).is_some() {
                    return IdleMonitorEnd::Refused;
                }
                // The owner is just detaching its traces.
                rustix::thread::sched_yield();
                continue;
            };
            if pinned_to != Some(cpu) {
                if !ThreadTraits::stay_on(cpu) {
                    return IdleMonitorEnd::Refused;
                }
                pinned_to = Some(cpu);
            } else if traces.holds_lock(self.probe) == Some(false) && role.seq() == seq {
                // This thread runs, so the dispatcher does not, and it has released the lock.
                self.blocked_seq.store(seq, Relaxed);
                role.doze_until_next_call(Awake::IDLE_MONITOR);
                if let Some(monitor) = role.monitor() {
                    role.slot(monitor).parker.unpark(WakeReason::BLOCKED);
                }
                // Look again: the next call may have begun while this thread's bit was still set.
                if role.seq() == seq {
                    role.idle_monitor.park(WakeReason::WAKE, None);
                }
            }
            rustix::thread::sched_yield();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum IdleMonitorEnd {
    Stopped,
    Refused,
}

/// What the last look at the dispatcher has found.
#[derive(Debug, Default)]
struct Observation {
    seq: u64,
    is_inside: bool,
    is_unlocked: bool,
    since_ns: u64,
}
