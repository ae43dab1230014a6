//! The dispatcher's queues: ready queue → tick → timers.
//!
//! One turn of the dispatcher is: [`Scheduler::patience`] says how long the poll may wait, the
//! poll's requests are submitted, [`Scheduler::begin_tick`] adds the timers that are due and
//! fixes the size of the tick, and [`Scheduler::next`] hands out one request after the other.
//! Calls that wait in pools join the tick: interactive ones before the rest, the others after it,
//! for as long as the tick's budget of time lasts.
//!
//! Nothing in here names a thread. Whoever holds the dispatcher role calls these methods, and
//! between two calls of `next` the role may pass to another thread.

use std::collections::VecDeque;
use std::time::Duration;

use crate::pools::{Pools, Priority};
use crate::timers::{TimerKey, Timers};

/// How long one tick goes on starting calls that waited in pools, in nanoseconds. The poll and
/// whatever it makes ready wait no longer than this and the last call.
const CALLS_BUDGET_NS: u64 = 500_000;

/// For how many requests the ready queue keeps room when they are gone.
const READY_KEPT: usize = 16 * 1024;

/// The queues of one loop; `R` is its kind of request.
#[derive(Debug)]
pub struct Scheduler<R> {
    ready: VecDeque<R>,
    timers: Timers<R>,
    /// Calls that wait for their turn.
    pub pools: Pools<R>,
    /// No call may start: there is no thread left that could take over from it.
    pub calls_are_held: bool,
    /// What is left of the tick that runs.
    tick: Tick,
}

#[derive(Debug, Default)]
struct Tick {
    /// How many requests it runs, beside calls of pools.
    size: usize,
    n_left: usize,
    /// When calls of pools have had their time: those before the other requests, then those after them.
    /// Zero until the first of them starts.
    calls_until_ns: u64,
    /// One call of the lowest priority has started although there was other work.
    batch_had_its_turn: bool,
}

impl<R> Default for Scheduler<R> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            timers: Timers::default(),
            pools: Pools::default(),
            calls_are_held: false,
            tick: Tick::default(),
        }
    }
}

impl<R> Scheduler<R> {
    /// Queue a request for the next tick.
    pub fn submit(&mut self, request: R) {
        self.ready.push_back(request);
    }

    /// Queue a request for the first tick at or after `deadline_ns`.
    pub fn submit_at(&mut self, deadline_ns: u64, request: R) -> TimerKey {
        self.timers.start(deadline_ns, request)
    }

    /// Take a request that waits for its time back; `None` if its time has come already.
    pub fn cancel_timer(&mut self, key: TimerKey) -> Option<R> {
        self.timers.cancel(key)
    }

    /// How long the next poll may wait: not at all while requests are ready, until the next
    /// timer otherwise, and for ever (`None`) when only an event can bring work. The clock is read
    /// only when the answer depends on it.
    pub fn patience(&self, now_ns: impl FnOnce() -> u64) -> Option<Duration> {
        if self.has_work() {
            return Some(Duration::ZERO);
        }
        let deadline_ns = self.timers.next_deadline_ns()?;
        // A timer at the end of time is never due, and no poll waits that long.
        let wait_ns = || deadline_ns.saturating_sub(now_ns());
        (deadline_ns != u64::MAX).then(|| Duration::from_nanos(wait_ns()))
    }

    /// Move the timers that are due to the ready queue and fix what this tick runs.
    ///
    /// Requests that the tick itself makes ready wait for the next one, so that the poll gets
    /// its turn however much work makes more work.
    pub fn begin_tick(&mut self, now_ns: impl FnOnce() -> u64) {
        if !self.timers.is_empty() {
            let now_ns = now_ns();
            while let Some(request) = self.timers.pop_due(now_ns) {
                self.ready.push_back(request);
            }
        }
        if self.ready.capacity() > READY_KEPT && self.ready.len() < self.ready.capacity() / 4 {
            // A storm of requests need not be remembered for ever.
            self.ready.shrink_to(READY_KEPT.max(self.ready.len() * 2));
        }
        let size = self.ready.len();
        self.tick = Tick { size, n_left: size, ..Tick::default() };
    }

    /// The next request of the tick; `None` ends it.
    pub fn next(&mut self, now_ns: impl FnOnce() -> u64) -> Option<R> {
        if self.pools.n_queued() > 0
            && !self.calls_are_held
            && let Some(call) = self.next_call(now_ns)
        {
            return Some(call);
        }
        self.tick.n_left = self.tick.n_left.checked_sub(1)?;
        if self.tick.n_left == 0 {
            // Calls that come after the others have a time of their own, however long those take.
            self.tick.calls_until_ns = 0;
        }
        self.ready.pop_front()
    }

    #[cold]
    fn next_call(&mut self, now_ns: impl FnOnce() -> u64) -> Option<R> {
        let tick = &mut self.tick;
        let at_least = match tick.n_left {
            1.. => Priority::Interactive,
            0 if self.ready.is_empty() || !tick.batch_had_its_turn => Priority::Batch,
            0 => Priority::Normal,
        };
        let now_ns = now_ns();
        if tick.calls_until_ns != 0 && now_ns >= tick.calls_until_ns {
            return None;
        }
        tick.batch_had_its_turn |= at_least == Priority::Batch;
        let (_, call) = self.pools.next(at_least)?;
        if tick.calls_until_ns == 0 {
            tick.calls_until_ns = now_ns.saturating_add(CALLS_BUDGET_NS);
        }
        Some(call)
    }

    /// Whether the next tick has something to run.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty() || (self.pools.has_startable() && !self.calls_are_held)
    }

    /// Take the first request that is ready, or a call that may start, out of turn.
    pub fn pop_ready(&mut self) -> Option<R> {
        self.tick.n_left = self.tick.n_left.saturating_sub(1);
        let first = self.ready.pop_front();
        first.or_else(|| {
            (!self.calls_are_held)
                .then(|| self.pools.next(Priority::Batch))
                .flatten()
                .map(|it| it.1)
        })
    }

    /// The requests that are ready, to be looked at or exchanged.
    pub fn ready_mut(&mut self) -> &mut VecDeque<R> {
        &mut self.ready
    }

    /// The outstanding timers, each with its time and its key, in no particular order.
    pub fn timers(&self) -> impl Iterator<Item = (u64, TimerKey, &R)> {
        self.timers.entries()
    }

    /// How many requests the present tick runs.
    pub fn tick_size(&self) -> usize {
        self.tick.size
    }

    /// How many requests are ready to run.
    pub fn n_ready(&self) -> usize {
        self.ready.len()
    }

    /// How many timers are outstanding.
    pub fn n_timers(&self) -> usize {
        self.timers.len()
    }

    /// Take out every request that is ready or waits, for its time or for its turn.
    pub fn take_all(&mut self) -> Vec<R> {
        // The pools stay: calls of theirs may still run.
        let (ready, mut timers) =
            (std::mem::take(&mut self.ready), std::mem::take(&mut self.timers));
        let timed = std::iter::from_fn(|| timers.pop_due(u64::MAX));
        ready.into_iter().chain(timed).chain(self.pools.take_all()).collect()
    }

    /// Every request that is ready or waits, for its time or for its turn.
    pub fn requests(&self) -> impl Iterator<Item = &R> {
        self.ready.iter().chain(self.timers.values()).chain(self.pools.calls())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick<R>(dispatcher: &mut Scheduler<R>, now_ns: u64) -> Vec<R> {
        dispatcher.begin_tick(|| now_ns);
        std::iter::from_fn(|| dispatcher.next(|| now_ns)).collect()
    }

    #[test]
    fn a_burst_does_not_grow_while_it_runs() {
        let mut dispatcher = Scheduler::default();
        dispatcher.submit(1);
        dispatcher.submit(2);
        dispatcher.begin_tick(|| 0);
        let mut n_this_tick = 0;
        while let Some(request) = dispatcher.next(|| 0) {
            dispatcher.submit(request + 10);
            n_this_tick += 1;
        }
        assert_eq!((2, 2), (n_this_tick, dispatcher.n_ready()));
    }

    #[test]
    fn due_timers_run_after_what_was_ready_before() {
        let mut dispatcher = Scheduler::default();
        dispatcher.submit_at(5, "timer");
        dispatcher.submit("ready");
        assert_eq!(vec!["ready", "timer"], tick(&mut dispatcher, 5));
    }

    #[test]
    fn room_for_a_storm_is_given_back() {
        let mut dispatcher = Scheduler::default();
        (0..10 * READY_KEPT).for_each(|request| dispatcher.submit(request));
        assert_eq!(10 * READY_KEPT, tick(&mut dispatcher, 0).len());
        dispatcher.submit(0);
        assert_eq!(vec![0], tick(&mut dispatcher, 0));
        assert!(dispatcher.ready.capacity() <= 2 * READY_KEPT);
    }

    #[test]
    fn patience_ends_with_the_next_timer_and_with_any_ready_request() {
        let mut dispatcher = Scheduler::default();
        assert_eq!(None, dispatcher.patience(|| 0));
        dispatcher.submit_at(u64::MAX, ());
        assert_eq!(None, dispatcher.patience(|| 0));
        dispatcher.submit_at(900, ());
        assert_eq!(Some(Duration::from_nanos(800)), dispatcher.patience(|| 100));
        assert_eq!(Some(Duration::ZERO), dispatcher.patience(|| 1000));
        dispatcher.submit(());
        assert_eq!(Some(Duration::ZERO), dispatcher.patience(|| 100));
    }

    #[test]
    fn interactive_calls_run_before_a_burst_and_the_others_after_it() {
        let mut dispatcher = Scheduler::default();
        for (priority, name) in [
            (Priority::Batch, "batch"),
            (Priority::Normal, "normal"),
            (Priority::Interactive, "interactive"),
        ] {
            let pool = dispatcher.pools.open(priority, None);
            dispatcher.pools.submit(pool, name);
        }
        assert_eq!(Some(Duration::ZERO), dispatcher.patience(|| 0));
        dispatcher.submit("ready");
        assert_eq!(vec!["interactive", "ready", "normal", "batch"], tick(&mut dispatcher, 1));
    }

    #[test]
    fn calls_that_wait_do_not_hold_up_the_poll() {
        let mut dispatcher = Scheduler::default();
        let pool = dispatcher.pools.open(Priority::Normal, None);
        (0..10).for_each(|call| dispatcher.pools.submit(pool, call));
        dispatcher.begin_tick(|| 0);
        let mut now_ns = 1;
        let mut n_this_tick = 0;
        while dispatcher.next(|| now_ns).is_some() {
            now_ns += CALLS_BUDGET_NS / 2;
            n_this_tick += 1;
        }
        assert_eq!((2, 8), (n_this_tick, dispatcher.pools.n_queued()));
    }

    #[test]
    fn calls_start_however_long_requests_take() {
        let mut dispatcher = Scheduler::default();
        for priority in [Priority::Interactive, Priority::Batch] {
            let pool = dispatcher.pools.open(priority, None);
            dispatcher.pools.submit(pool, "call");
        }
        dispatcher.submit("ready");
        dispatcher.begin_tick(|| 0);
        let mut now_ns = 1;
        let taken = std::iter::from_fn(|| {
            now_ns += 2 * CALLS_BUDGET_NS;
            dispatcher.next(|| now_ns)
        });
        assert_eq!(vec!["call", "ready", "call"], taken.collect::<Vec<_>>());
    }

    #[test]
    fn held_calls_do_not_start_and_do_not_spin() {
        let mut dispatcher = Scheduler::default();
        let pool = dispatcher.pools.open(Priority::Normal, None);
        dispatcher.pools.submit(pool, ());
        dispatcher.calls_are_held = true;
        assert_eq!(None, dispatcher.patience(|| 0));
        assert_eq!(0, tick(&mut dispatcher, 1).len());
        dispatcher.calls_are_held = false;
        assert_eq!(1, tick(&mut dispatcher, 1).len());
    }
}
