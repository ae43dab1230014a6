//! Pools: waiting calls, grouped, limited in number, and in order of priority.
//!
//! [`Pools::next`] starts the waiting calls: the most urgent first, and a few of one pool in a row because
//! they run the same code on the same data. No call starves: now and then each priority lets a lower one
//! pass, and each pool the next one. This module knows nothing of what a call is.

use std::collections::VecDeque;

use slab::Slab;

/// How many calls of one pool, or of one priority, start in a row while others wait.
pub(crate) const IN_A_ROW_MAX: u32 = 16;

/// How urgent the calls of a pool are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before everything else that is ready.
    Interactive,
    /// After the requests that are ready.
    Normal,
    /// When nothing else is ready, and otherwise now and then.
    Batch,
}

impl Priority {
    pub(crate) const ALL: [Self; 3] = [Self::Interactive, Self::Normal, Self::Batch];
}

/// Identifies a pool of one dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolKey(usize);

impl PoolKey {
    /// The key as a number.
    pub fn index(self) -> usize {
        self.0
    }

    /// The key with this number.
    pub fn from_index(index: usize) -> Self {
        Self(index)
    }
}

#[derive(Debug)]
struct PoolQueue<C> {
    queue: VecDeque<C>,
    priority: Priority,
    n_running: usize,
    n_running_max: usize,
    /// The pool is in the queue of its priority: exactly while one of its calls may start.
    is_startable: bool,
}

#[derive(Debug, Default)]
struct PriorityQueue {
    pools: VecDeque<usize>,
    /// How many calls the first pool has started in a row.
    n_in_a_row: u32,
    /// How many calls of higher priority have started while one of this priority could have.
    n_passed_over: u32,
}

/// The pools of one dispatcher; `C` is a waiting call.
#[derive(Debug)]
pub struct Pools<C> {
    pools: Slab<PoolQueue<C>>,
    queues: [PriorityQueue; 3],
    n_queued: usize,
}

impl<C> Default for Pools<C> {
    fn default() -> Self {
        Self { pools: Slab::new(), queues: Default::default(), n_queued: 0 }
    }
}

impl<C> Pools<C> {
    /// Open a pool that runs at most `n_running_max` calls at a time (`None`: any number).
    pub fn open(&mut self, priority: Priority, n_running_max: Option<usize>) -> PoolKey {
        let pool = PoolQueue {
            queue: VecDeque::new(),
            priority,
            n_running: 0,
            n_running_max: n_running_max.unwrap_or(usize::MAX),
            is_startable: false,
        };
        PoolKey(self.pools.insert(pool))
    }

    /// Close a pool in which nothing runs or waits; whether it was closed.
    pub fn close_idle(&mut self, key: PoolKey) -> bool {
        let is_idle = self.n_running(key) == 0 && self.n_queued_in(key) == 0;
        if is_idle {
            self.pools.remove(key.0);
        }
        is_idle
    }

    /// Change a pool's limit; calls that already run are not affected.
    pub fn set_limit(&mut self, key: PoolKey, n_running_max: Option<usize>) {
        self.delist(key);
        self.pools[key.0].n_running_max = n_running_max.unwrap_or(usize::MAX);
        self.enlist(key);
    }

    /// Change a pool's priority, also for the calls that wait.
    pub fn set_priority(&mut self, key: PoolKey, priority: Priority) {
        self.delist(key);
        self.pools[key.0].priority = priority;
        self.enlist(key);
    }

    /// A pool's priority.
    pub fn priority(&self, key: PoolKey) -> Priority {
        self.pools[key.0].priority
    }

    /// How many calls of a pool run.
    pub fn n_running(&self, key: PoolKey) -> usize {
        self.pools[key.0].n_running
    }

    /// How many calls of a pool wait.
    pub fn n_queued_in(&self, key: PoolKey) -> usize {
        self.pools[key.0].queue.len()
    }

    /// How many calls wait in all pools.
    pub fn n_queued(&self) -> usize {
        self.n_queued
    }

    /// Whether a call may start.
    pub fn has_startable(&self) -> bool {
        self.queues.iter().any(|queue| !queue.pools.is_empty())
    }

    /// Queue a call behind the others of its pool.
    pub fn submit(&mut self, key: PoolKey, call: C) {
        self.pools[key.0].queue.push_back(call);
        self.n_queued += 1;
        self.enlist(key);
    }

    /// Start a call that is not queued; `false`: it has to queue, because others wait or the limit is
    /// reached.
    pub fn try_start(&mut self, key: PoolKey) -> bool {
        let pool = &mut self.pools[key.0];
        let may_start = pool.queue.is_empty() && pool.n_running < pool.n_running_max;
        pool.n_running += usize::from(may_start);
        may_start
    }

    /// Queue a call that `next` gave out and that could not start: it is the first of its pool again.
    pub fn put_back(&mut self, key: PoolKey, call: C) {
        let pool = &mut self.pools[key.0];
        pool.n_running -= 1;
        pool.queue.push_front(call);
        self.n_queued += 1;
        self.enlist(key);
    }

    /// Note that a call has ended; one that waits may start instead.
    pub fn finish(&mut self, key: PoolKey) {
        let pool = &mut self.pools[key.0];
        pool.n_running = pool.n_running.checked_sub(1).expect("a call that ends has started");
        self.enlist(key);
    }

    /// Take out the waiting calls of a pool for which `is_wanted` holds, in their order.
    pub fn withdraw(&mut self, key: PoolKey, mut is_wanted: impl FnMut(&C) -> bool) -> Vec<C> {
        let queue = std::mem::take(&mut self.pools[key.0].queue);
        let (taken, kept): (Vec<_>, VecDeque<_>) =
            queue.into_iter().fold((Vec::new(), VecDeque::new()), |(mut taken, mut kept), call| {
                if is_wanted(&call) {
                    taken.push(call)
                } else {
                    kept.push_back(call)
                }
                (taken, kept)
            });
        self.pools[key.0].queue = kept;
        self.n_queued -= taken.len();
        self.delist(key);
        self.enlist(key);
        taken
    }

    /// Start the next call of at least this priority; the call and its pool.
    pub fn next(&mut self, at_least: Priority) -> Option<(PoolKey, C)> {
        let priority = self.choose(at_least)?;
        for lower in &mut self.queues[priority as usize + 1..] {
            lower.n_passed_over += u32::from(!lower.pools.is_empty());
        }
        let queue = &mut self.queues[priority as usize];
        queue.n_passed_over = 0;
        if queue.n_in_a_row == IN_A_ROW_MAX {
            queue.pools.rotate_left(1);
            queue.n_in_a_row = 0;
        }
        queue.n_in_a_row += 1;
        let key = PoolKey(*queue.pools.front()?);
        let pool = &mut self.pools[key.0];
        let call = pool.queue.pop_front()?;
        pool.n_running += 1;
        self.n_queued -= 1;
        if !self.pools[key.0].may_start() {
            self.delist(key);
        }
        Some((key, call))
    }

    /// Take out every waiting call.
    pub fn take_all(&mut self) -> Vec<C> {
        let keys: Vec<_> = self.pools.iter().map(|(key, _)| PoolKey(key)).collect();
        keys.into_iter().flat_map(|key| self.withdraw(key, |_| true)).collect()
    }

    /// Every waiting call.
    pub fn calls(&self) -> impl Iterator<Item = &C> {
        self.pools.iter().flat_map(|(_, pool)| &pool.queue)
    }

    fn choose(&self, at_least: Priority) -> Option<Priority> {
        let candidates = Priority::ALL.into_iter().filter(|&it| it <= at_least);
        let mut startable = candidates.filter(|&it| !self.queues[it as usize].pools.is_empty());
        let first = startable.next()?;
        let overdue = startable.find(|&it| self.queues[it as usize].n_passed_over >= IN_A_ROW_MAX);
        Some(overdue.unwrap_or(first))
    }

    fn enlist(&mut self, key: PoolKey) {
        let pool = &mut self.pools[key.0];
        if pool.may_start() && !pool.is_startable {
            pool.is_startable = true;
            self.queues[pool.priority as usize].pools.push_back(key.0);
        }
    }

    fn delist(&mut self, key: PoolKey) {
        let pool = &mut self.pools[key.0];
        if !std::mem::take(&mut pool.is_startable) {
            return;
        }
        let queue = &mut self.queues[pool.priority as usize];
        if queue.pools.front() == Some(&key.0) {
            queue.n_in_a_row = 0;
        }
        queue.pools.retain(|&it| it != key.0);
    }
}

impl<C> PoolQueue<C> {
    fn may_start(&self) -> bool {
        !self.queue.is_empty() && self.n_running < self.n_running_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: Priority = Priority::Batch;

    fn filled(priorities: &[Priority], n_calls: usize) -> (Pools<usize>, Vec<PoolKey>) {
        let mut pools = Pools::default();
        let keys: Vec<_> = priorities.iter().map(|&it| pools.open(it, None)).collect();
        for call in 0..n_calls {
            keys.iter().for_each(|&key| pools.submit(key, call));
        }
        (pools, keys)
    }

    #[test]
    fn calls_of_one_pool_run_in_a_row_and_then_those_of_the_next() {
        let (mut pools, keys) = filled(&[Priority::Normal; 2], 40);
        let order: Vec<_> = std::iter::from_fn(|| pools.next(ALL)).map(|it| it.0).collect();
        assert!(order[..16].iter().all(|&key| key == keys[0]));
        assert!(order[16..32].iter().all(|&key| key == keys[1]));
        assert_eq!(80, order.len());
    }

    #[test]
    fn a_lower_priority_is_passed_over_a_bounded_number_of_times() {
        use Priority::{Batch, Interactive, Normal};
        let (mut pools, keys) = filled(&[Interactive, Normal, Batch], 1000);
        let order: Vec<_> = (0..1000).map(|_| pools.next(ALL).unwrap().0).collect();
        for key in [keys[1], keys[2]] {
            let at: Vec<_> = (0..1000).filter(|&idx| order[idx] == key).collect();
            assert!(at.windows(2).all(|pair| pair[1] - pair[0] <= 18), "{at:?}");
            assert!(at.len() >= 1000 / 18 - 1);
        }
    }

    #[test]
    fn a_full_pool_starts_nothing_until_a_call_ends() {
        let mut pools = Pools::default();
        let key = pools.open(Priority::Normal, Some(1));
        assert!(pools.try_start(key));
        assert!(!pools.try_start(key));
        pools.submit(key, "waits");
        assert_eq!(None, pools.next(ALL));
        pools.finish(key);
        assert!(!pools.try_start(key), "the waiting call is first");
        assert_eq!(Some((key, "waits")), pools.next(ALL));
        assert!(!pools.close_idle(key));
        pools.finish(key);
        assert!(pools.close_idle(key));
    }

    #[test]
    fn a_pool_that_becomes_interactive_is_served_first() {
        let (mut pools, keys) = filled(&[Priority::Normal, Priority::Batch], 2);
        pools.set_priority(keys[1], Priority::Interactive);
        assert_eq!(keys[1], pools.next(Priority::Interactive).unwrap().0);
        assert_eq!(keys[1], pools.next(ALL).unwrap().0);
        assert_eq!(keys[0], pools.next(ALL).unwrap().0);
        assert_eq!(None, pools.next(Priority::Interactive));
    }

    #[test]
    fn withdrawn_calls_do_not_start() {
        let (mut pools, keys) = filled(&[Priority::Normal], 4);
        assert_eq!(vec![1, 3], pools.withdraw(keys[0], |call| call % 2 == 1));
        let left: Vec<_> = std::iter::from_fn(|| pools.next(ALL)).map(|it| it.1).collect();
        assert_eq!(vec![0, 2], left);
    }

    #[test]
    fn a_call_that_is_put_back_is_the_first_again() {
        let (mut pools, keys) = filled(&[Priority::Normal], 2);
        let (key, call) = pools.next(ALL).unwrap();
        pools.put_back(key, call);
        assert_eq!((0, 2, 2), (pools.n_running(key), pools.n_queued_in(key), pools.n_queued()));
        assert_eq!(Some((keys[0], 0)), pools.next(ALL));
        assert_eq!(Some((keys[0], 1)), pools.next(ALL));
    }

    #[test]
    fn every_waiting_call_can_be_taken_out() {
        let (mut pools, keys) = filled(&[Priority::Normal, Priority::Batch], 2);
        pools.next(ALL).unwrap();
        assert_eq!(vec![1, 0, 1], pools.take_all());
        assert_eq!((0, None), (pools.n_queued(), pools.next(ALL)));
        assert_eq!(1, pools.n_running(keys[0]));
    }

    #[test]
    fn a_key_survives_as_a_number() {
        let (_, keys) = filled(&[Priority::Normal; 3], 0);
        let numbers: Vec<_> = keys.iter().map(|key| key.index()).collect();
        assert_eq!(keys, numbers.into_iter().map(PoolKey::from_index).collect::<Vec<_>>());
    }

    #[test]
    fn only_a_pool_that_leaves_from_the_front_ends_its_row() {
        let started = |pools: &mut Pools<_>, n| {
            let keys = std::iter::from_fn(|| pools.next(ALL)).map(|it| it.0);
            keys.take(n).collect::<Vec<_>>()
        };
        let (mut pools, keys) = filled(&[Priority::Normal; 2], 40);
        assert_eq!(vec![keys[0]; 10], started(&mut pools, 10));
        // The pool behind leaves the queue and comes back: the row of the first one goes on.
        pools.withdraw(keys[1], |call| *call == 0);
        assert_eq!(vec![keys[0]; 6], started(&mut pools, 6));
        assert_eq!(vec![keys[1]; 10], started(&mut pools, 10));
        // The first pool leaves the queue: the next one begins a whole row.
        pools.withdraw(keys[1], |call| *call == 20);
        assert_eq!(vec![keys[0]; 16], started(&mut pools, 16));
        assert_eq!(vec![keys[1]; 1], started(&mut pools, 1));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Submit(usize),
        Start(usize),
        Next(Priority),
        Finish(usize),
        Limit(usize, Option<usize>),
        Prioritise(usize, Priority),
        Withdraw(usize),
    }

    fn priority() -> impl Strategy<Value = Priority> {
        prop_oneof![Just(Priority::Interactive), Just(Priority::Normal), Just(Priority::Batch)]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let limit = prop_oneof![Just(None), (1..4usize).prop_map(Some)];
        let step = prop_oneof![
            6 => (0..4usize).prop_map(Step::Submit),
            2 => (0..4usize).prop_map(Step::Start),
            4 => priority().prop_map(Step::Next),
            4 => (0..4usize).prop_map(Step::Finish),
            1 => ((0..4usize), limit).prop_map(|(at, limit)| Step::Limit(at, limit)),
            1 => ((0..4usize), priority()).prop_map(|(at, it)| Step::Prioritise(at, it)),
            1 => (0..4usize).prop_map(Step::Withdraw),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever happens, limits hold, each pool is first in, first out, and `next` gives out a call if
        /// one may start.
        #[test]
        fn limits_hold_and_nothing_is_forgotten(steps in steps()) {
            let mut pools = Pools::default();
            let keys: Vec<_> = (0..4).map(|_| pools.open(Priority::Normal, Some(2))).collect();
            // The model: waiting calls, running calls, limit, priority.
            let mut model = vec![(VecDeque::new(), 0usize, Some(2), Priority::Normal); 4];
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Submit(at) => {
                        pools.submit(keys[at], number);
                        model[at].0.push_back(number);
                    }
                    Step::Start(at) => {
                        let (queue, n_running, limit, _) = &mut model[at];
                        let free = limit.is_none_or(|it| *n_running < it) && queue.is_empty();
                        prop_assert_eq!(free, pools.try_start(keys[at]));
                        *n_running += usize::from(free);
                    }
                    Step::Next(at_least) => {
                        let may_start = |it: &(VecDeque<usize>, usize, Option<usize>, Priority)| {
                            !it.0.is_empty() && it.2.is_none_or(|limit| it.1 < limit)
                                && it.3 <= at_least
                        };
                        let expected = model.iter().any(may_start);
                        let started = pools.next(at_least);
                        prop_assert_eq!(expected, started.is_some());
                        if let Some((key, call)) = started {
                            let at = keys.iter().position(|&it| it == key).unwrap();
                            prop_assert!(may_start(&model[at]));
                            prop_assert_eq!(model[at].0.pop_front(), Some(call));
                            model[at].1 += 1;
                        }
                    }
                    Step::Finish(at) if model[at].1 > 0 => {
                        pools.finish(keys[at]);
                        model[at].1 -= 1;
                    }
                    Step::Finish(_) => {}
                    Step::Limit(at, limit) => {
                        pools.set_limit(keys[at], limit);
                        model[at].2 = limit;
                    }
                    Step::Prioritise(at, priority) => {
                        pools.set_priority(keys[at], priority);
                        model[at].3 = priority;
                    }
                    Step::Withdraw(at) => {
                        let even = |call: &usize| call.is_multiple_of(2);
                        let taken = pools.withdraw(keys[at], even);
                        prop_assert!(taken.iter().all(even));
                        model[at].0.retain(|call| !even(call));
                    }
                }
                let n_queued: usize = model.iter().map(|it| it.0.len()).sum();
                prop_assert_eq!(n_queued, pools.n_queued());
                prop_assert_eq!(n_queued, pools.calls().count());
            }
        }
    }
}
