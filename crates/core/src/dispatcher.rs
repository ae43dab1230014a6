//! The dispatcher's queues: ready queue → burst → timers.
//!
//! One turn of the dispatcher is: [`Dispatcher::patience`] says how long the poll may wait, the
//! poll's requests are submitted, [`Dispatcher::begin_burst`] adds the timers that are due and
//! fixes the size of the burst, and [`Dispatcher::next`] hands out one request after the other.
//!
//! Nothing in here names a thread. Whoever holds the dispatcher role calls these methods, and
//! between two calls of `next` the role may pass to another thread.

use std::collections::VecDeque;
use std::time::Duration;

use crate::timers::{TimerKey, Timers};

/// The queues of one loop; `R` is its kind of request.
#[derive(Debug)]
pub struct Dispatcher<R> {
    ready: VecDeque<R>,
    timers: Timers<R>,
}

impl<R> Default for Dispatcher<R> {
    fn default() -> Self {
        Self { ready: VecDeque::new(), timers: Timers::default() }
    }
}

impl<R> Dispatcher<R> {
    /// Queue a request for the next burst.
    pub fn submit(&mut self, request: R) {
        self.ready.push_back(request);
    }

    /// Queue a request for the first burst at or after `deadline_ns`.
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
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let deadline_ns = self.timers.next_deadline_ns()?;
        // A timer at the end of time is never due, and no poll waits that long.
        let wait_ns = || deadline_ns.saturating_sub(now_ns());
        (deadline_ns != u64::MAX).then(|| Duration::from_nanos(wait_ns()))
    }

    /// Move the timers that are due to the ready queue and return the size of this burst.
    ///
    /// Requests that the burst itself makes ready wait for the next one, so that the poll gets
    /// its turn however much work makes more work.
    pub fn begin_burst(&mut self, now_ns: impl FnOnce() -> u64) -> usize {
        if !self.timers.is_empty() {
            let now_ns = now_ns();
            while let Some(request) = self.timers.pop_due(now_ns) {
                self.ready.push_back(request);
            }
        }
        self.ready.len()
    }

    /// The next request to run.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<R> {
        self.ready.pop_front()
    }

    /// How many requests are ready to run.
    pub fn n_ready(&self) -> usize {
        self.ready.len()
    }

    /// How many timers are outstanding.
    pub fn n_timers(&self) -> usize {
        self.timers.len()
    }

    /// Take out every request that is ready or waits for its time.
    pub fn take_all(&mut self) -> Vec<R> {
        let Self { ready, mut timers } = std::mem::take(self);
        ready.into_iter().chain(std::iter::from_fn(|| timers.pop_due(u64::MAX))).collect()
    }

    /// Every request that is ready or waits for its time.
    pub fn requests(&self) -> impl Iterator<Item = &R> {
        self.ready.iter().chain(self.timers.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_does_not_grow_while_it_runs() {
        let mut dispatcher = Dispatcher::default();
        dispatcher.submit(1);
        dispatcher.submit(2);
        let n_burst = dispatcher.begin_burst(|| 0);
        for _ in 0..n_burst {
            let request = dispatcher.next().expect("a burst has as many requests as it said");
            dispatcher.submit(request + 10);
        }
        assert_eq!((2, 2), (n_burst, dispatcher.n_ready()));
    }

    #[test]
    fn due_timers_run_after_what_was_ready_before() {
        let mut dispatcher = Dispatcher::default();
        dispatcher.submit_at(5, "timer");
        dispatcher.submit("ready");
        assert_eq!(2, dispatcher.begin_burst(|| 5));
        assert_eq!((Some("ready"), Some("timer")), (dispatcher.next(), dispatcher.next()));
    }

    #[test]
    fn patience_ends_with_the_next_timer_and_with_any_ready_request() {
        let mut dispatcher = Dispatcher::default();
        assert_eq!(None, dispatcher.patience(|| 0));
        dispatcher.submit_at(u64::MAX, ());
        assert_eq!(None, dispatcher.patience(|| 0));
        dispatcher.submit_at(900, ());
        assert_eq!(Some(Duration::from_nanos(800)), dispatcher.patience(|| 100));
        assert_eq!(Some(Duration::ZERO), dispatcher.patience(|| 1000));
        dispatcher.submit(());
        assert_eq!(Some(Duration::ZERO), dispatcher.patience(|| 100));
    }
}
