//! The dispatcher's queues: ready requests, timers, and calls that wait in pools.
//!
//! In each tick of the dispatcher [`Scheduler::timeout`] says how long the poll may wait, the poll's
//! requests are submitted, [`Scheduler::begin_tick`] adds the timers that are due and fixes the number of
//! requests, and [`Scheduler::next`] hands out one request after the other. Calls that wait in pools start
//! in the tick as well: interactive ones before the other requests, the rest after them, for as long as the
//! tick's time for calls lasts.
//!
//! Nothing in here names a thread. The worker that holds the role calls these methods, and between two
//! calls of `next` the role may pass to another thread.

use std::collections::VecDeque;
use std::time::Duration;

use crate::pools::{Pools, Priority};
use crate::timers::{TimerKey, Timers};

/// How long a tick starts calls that waited in pools, before its other requests and again after them, in
/// nanoseconds. After the requests, the poll waits no longer than this and the last call.
const CALLS_BUDGET_NS: u64 = 500_000;

/// For how many requests the ready queue keeps memory when they are gone.
const READY_KEPT: usize = 16 * 1024;

/// The queues of one loop; `R` is its kind of request.
#[derive(Debug)]
pub struct Scheduler<R> {
    ready: VecDeque<R>,
    timers: Timers<R>,
    /// Calls that wait until their pools let them start.
    pub pools: Pools<R>,
    /// No call may start: no thread is left that could take over from it.
    pub calls_are_held: bool,
    /// The tick that runs.
    tick: Tick,
}

#[derive(Debug, Default)]
struct Tick {
    /// How many requests the tick runs, calls of pools excluded.
    size: usize,
    n_left: usize,
    /// When the time for calls of pools ends: first for those before the other requests, then for those after
    /// them. Zero until the first of them starts.
    calls_until_ns: u64,
    /// `Batch` calls could start in this tick; while requests are ready, they cannot again.
    has_run_batch: bool,
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

    /// Take back a request that waits for its time; `None` if its time has come already.
    pub fn cancel_timer(&mut self, key: TimerKey) -> Option<R> {
        self.timers.cancel(key)
    }

    /// How long the next poll may wait: not at all while requests are ready, otherwise until the next
    /// timer, and for ever (`None`) when only an event can bring work. The clock is read only when the
    /// answer depends on it.
    pub fn timeout(&self, now_ns: impl FnOnce() -> u64) -> Option<Duration> {
        if self.has_work() {
            return Some(Duration::ZERO);
        }
        let deadline_ns = self.timers.next_deadline_ns()?;
        // A timer at `u64::MAX` is never due: the poll waits as if there were none.
        let wait_ns = || deadline_ns.saturating_sub(now_ns());
        (deadline_ns != u64::MAX).then(|| Duration::from_nanos(wait_ns()))
    }

    /// Move the timers that are due to the ready queue, and fix which requests this tick runs.
    ///
    /// Requests that the tick itself makes ready wait for the next one, so that the poll is reached even if
    /// every request queues another.
    pub fn begin_tick(&mut self, now_ns: impl FnOnce() -> u64) {
        if !self.timers.is_empty() {
            let now_ns = now_ns();
            while let Some(request) = self.timers.pop_due(now_ns) {
                self.ready.push_back(request);
            }
        }
        if self.ready.capacity() > READY_KEPT && self.ready.len() < self.ready.capacity() / 4 {
            // A queue that was long once need not keep its memory for ever.
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
            // Calls after the other requests have a time of their own, however long those requests take.
            self.tick.calls_until_ns = 0;
        }
        self.ready.pop_front()
    }

    #[cold]
    fn next_call(&mut self, now_ns: impl FnOnce() -> u64) -> Option<R> {
        let tick = &mut self.tick;
        let at_least = match tick.n_left {
            1.. => Priority::Interactive,
            0 if self.ready.is_empty() || !tick.has_run_batch => Priority::Batch,
            0 => Priority::Normal,
        };
        let now_ns = now_ns();
        if tick.calls_until_ns != 0 && now_ns >= tick.calls_until_ns {
            return None;
        }
        tick.has_run_batch |= at_least == Priority::Batch;
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

    /// Take the first request that is ready, or a call that may start, outside of a tick.
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

    /// The requests that are ready, to be inspected or replaced.
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

    /// Take out every request that is ready, or waits for its time or in a pool.
    pub fn take_all(&mut self) -> Vec<R> {
        // The pools themselves stay: some of their calls may still run.
        let (ready, mut timers) =
            (std::mem::take(&mut self.ready), std::mem::take(&mut self.timers));
        let timed = std::iter::from_fn(|| timers.pop_due(u64::MAX));
        ready.into_iter().chain(timed).chain(self.pools.take_all()).collect()
    }

    /// Every request that is ready, or waits for its time or in a pool.
    pub fn requests(&self) -> impl Iterator<Item = &R> {
        self.ready.iter().chain(self.timers.values()).chain(self.pools.calls())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick<R>(scheduler: &mut Scheduler<R>, now_ns: u64) -> Vec<R> {
        scheduler.begin_tick(|| now_ns);
        std::iter::from_fn(|| scheduler.next(|| now_ns)).collect()
    }

    #[test]
    fn a_tick_does_not_grow_while_it_runs() {
        let mut scheduler = Scheduler::default();
        scheduler.submit(1);
        scheduler.submit(2);
        scheduler.begin_tick(|| 0);
        let mut n_this_tick = 0;
        while let Some(request) = scheduler.next(|| 0) {
            scheduler.submit(request + 10);
            n_this_tick += 1;
        }
        assert_eq!((2, 2), (n_this_tick, scheduler.n_ready()));
    }

    #[test]
    fn due_timers_run_after_what_was_ready_before() {
        let mut scheduler = Scheduler::default();
        scheduler.submit_at(5, "timer");
        scheduler.submit("ready");
        assert_eq!(vec!["ready", "timer"], tick(&mut scheduler, 5));
    }

    #[test]
    fn memory_of_a_long_queue_is_given_back() {
        let mut scheduler = Scheduler::default();
        (0..10 * READY_KEPT).for_each(|request| scheduler.submit(request));
        assert_eq!(10 * READY_KEPT, tick(&mut scheduler, 0).len());
        scheduler.submit(0);
        assert_eq!(vec![0], tick(&mut scheduler, 0));
        assert!(scheduler.ready.capacity() <= 2 * READY_KEPT);
    }

    #[test]
    fn the_timeout_ends_with_the_next_timer_and_with_any_ready_request() {
        let mut scheduler = Scheduler::default();
        assert_eq!(None, scheduler.timeout(|| 0));
        scheduler.submit_at(u64::MAX, ());
        assert_eq!(None, scheduler.timeout(|| 0));
        scheduler.submit_at(900, ());
        assert_eq!(Some(Duration::from_nanos(800)), scheduler.timeout(|| 100));
        assert_eq!(Some(Duration::ZERO), scheduler.timeout(|| 1000));
        scheduler.submit(());
        assert_eq!(Some(Duration::ZERO), scheduler.timeout(|| 100));
    }

    #[test]
    fn interactive_calls_run_before_other_requests_and_the_rest_after_them() {
        let mut scheduler = Scheduler::default();
        for (priority, name) in [
            (Priority::Batch, "batch"),
            (Priority::Normal, "normal"),
            (Priority::Interactive, "interactive"),
        ] {
            let pool = scheduler.pools.open(priority, None);
            scheduler.pools.submit(pool, name);
        }
        assert_eq!(Some(Duration::ZERO), scheduler.timeout(|| 0));
        scheduler.submit("ready");
        assert_eq!(vec!["interactive", "ready", "normal", "batch"], tick(&mut scheduler, 1));
    }

    #[test]
    fn calls_that_wait_do_not_hold_up_the_poll() {
        let mut scheduler = Scheduler::default();
        let pool = scheduler.pools.open(Priority::Normal, None);
        (0..10).for_each(|call| scheduler.pools.submit(pool, call));
        scheduler.begin_tick(|| 0);
        let mut now_ns = 1;
        let mut n_this_tick = 0;
        while scheduler.next(|| now_ns).is_some() {
            now_ns += CALLS_BUDGET_NS / 2;
            n_this_tick += 1;
        }
        assert_eq!((2, 8), (n_this_tick, scheduler.pools.n_queued()));
    }

    #[test]
    fn calls_start_however_long_requests_take() {
        let mut scheduler = Scheduler::default();
        for priority in [Priority::Interactive, Priority::Batch] {
            let pool = scheduler.pools.open(priority, None);
            scheduler.pools.submit(pool, "call");
        }
        scheduler.submit("ready");
        scheduler.begin_tick(|| 0);
        let mut now_ns = 1;
        let taken = std::iter::from_fn(|| {
            now_ns += 2 * CALLS_BUDGET_NS;
            scheduler.next(|| now_ns)
        });
        assert_eq!(vec!["call", "ready", "call"], taken.collect::<Vec<_>>());
    }

    #[test]
    fn held_calls_do_not_start_and_do_not_spin() {
        let mut scheduler = Scheduler::default();
        let pool = scheduler.pools.open(Priority::Normal, None);
        scheduler.pools.submit(pool, ());
        scheduler.calls_are_held = true;
        assert_eq!(None, scheduler.timeout(|| 0));
        assert_eq!(0, tick(&mut scheduler, 1).len());
        scheduler.calls_are_held = false;
        assert_eq!(1, tick(&mut scheduler, 1).len());
    }
}
