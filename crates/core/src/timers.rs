//! Timers: a heap in which every timer can be cancelled by its key.
//!
//! Cancelling returns the timer's value at once, so that what it refers to is released at once and the
//! count of outstanding timers is exact. The timer's node stays in the heap; when half of the nodes are
//! those of cancelled timers, one pass removes them all. So cancelling costs the same however many timers
//! there are, and cancelling a million of them does not walk through the heap a million times. Timers with
//! equal deadlines fire in the order in which they were started. This module reads no clock: times are
//! passed in.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

const NO_SLOT: u32 = u32::MAX;

/// A heap with fewer nodes than this is not purged of cancelled timers.
const PURGE_MIN: usize = 64;

/// Names one timer. A key whose timer fired or was cancelled names nothing, even after its slot
/// has been used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey {
    slot: u32,
    /// The low bits of the number of timers started before: they tell the timers of one slot apart.
    started: u32,
}

impl TimerKey {
    /// Names no timer.
    pub const NONE: Self = Self { slot: NO_SLOT, started: 0 };

    /// The key as a number, for owners that can only keep a number.
    pub fn to_bits(self) -> u64 {
        u64::from(self.started) << 32 | u64::from(self.slot)
    }

    /// The key with this number.
    pub fn from_bits(bits: u64) -> Self {
        Self { slot: bits as u32, started: (bits >> 32) as u32 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TimerNode {
    deadline_ns: u64,
    key: TimerKey,
}

impl Ord for TimerNode {
    /// The greatest node of a heap is the first to fire.
    fn cmp(&self, other: &Self) -> Ordering {
        let started_after = other.key.started.wrapping_sub(self.key.started) as i32;
        other.deadline_ns.cmp(&self.deadline_ns).then(started_after.cmp(&0))
    }
}

impl PartialOrd for TimerNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Debug)]
enum TimerState<T> {
    Waiting(T),
    Free { next: u32 },
}

#[derive(Debug)]
struct TimerSlot<T> {
    started: u32,
    state: TimerState<T>,
}

/// The outstanding timers of one dispatcher, each with a value of type `T`.
#[derive(Debug)]
pub struct Timers<T> {
    /// The first node is never that of a cancelled timer.
    heap: BinaryHeap<TimerNode>,
    slots: Vec<TimerSlot<T>>,
    first_free: u32,
    n_cancelled: usize,
    n_started: u32,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        let heap = BinaryHeap::new();
        Self { heap, slots: Vec::new(), first_free: NO_SLOT, n_cancelled: 0, n_started: 0 }
    }
}

impl<T> Timers<T> {
    /// How many timers are outstanding.
    pub fn len(&self) -> usize {
        self.heap.len() - self.n_cancelled
    }

    /// Whether no timer is outstanding.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// When the next timer is due, if there is one.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.heap.peek().map(|node| node.deadline_ns)
    }

    /// The values of all outstanding timers, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| match &slot.state {
            TimerState::Waiting(value) => Some(value),
            TimerState::Free { .. } => None,
        })
    }

    /// The outstanding timers, each with its time and its key, in no particular order.
    pub fn entries(&self) -> impl Iterator<Item = (u64, TimerKey, &T)> {
        self.heap.iter().filter_map(|node| match &self.slots.get(node.key.slot as usize)?.state {
            TimerState::Waiting(value) if is_waiting(&self.slots, node.key) => {
                Some((node.deadline_ns, node.key, value))
            }
            _ => None,
        })
    }

    /// Start a timer.
    pub fn start(&mut self, deadline_ns: u64, value: T) -> TimerKey {
        let key = TimerKey { slot: self.take_free_slot(), started: self.n_started };
        self.n_started = self.n_started.wrapping_add(1);
        let filled = TimerSlot { started: key.started, state: TimerState::Waiting(value) };
        match self.slots.get_mut(key.slot as usize) {
            Some(slot) => *slot = filled,
            None => self.slots.push(filled),
        }
        self.heap.push(TimerNode { deadline_ns, key });
        key
    }

    /// Cancel a timer and return its value; `None` if it has fired or was cancelled before.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let value = self.take(key)?;
        self.n_cancelled += 1;
        if self.heap.len() >= PURGE_MIN && self.n_cancelled * 2 > self.heap.len() {
            let slots = &self.slots;
            self.heap.retain(|node| is_waiting(slots, node.key));
            self.n_cancelled = 0;
        }
        self.drop_cancelled_first();
        Some(value)
    }

    /// Fire the earliest timer if it is due at `now_ns`, and return its value.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<T> {
        if self.next_deadline_ns()? > now_ns {
            return None;
        }
        let first = self.heap.pop()?;
        let value = self.take(first.key);
        self.drop_cancelled_first();
        value
    }

    fn take_free_slot(&mut self) -> u32 {
        if self.first_free == NO_SLOT {
            return self.slots.len() as u32;
        }
        let slot_idx = self.first_free;
        let TimerState::Free { next } = self.slots[slot_idx as usize].state else {
            unreachable!("the free list holds free slots")
        };
        self.first_free = next;
        slot_idx
    }

    /// Take a waiting timer's value, and free its slot.
    fn take(&mut self, key: TimerKey) -> Option<T> {
        if !is_waiting(&self.slots, key) {
            return None;
        }
        let freed = TimerState::Free { next: std::mem::replace(&mut self.first_free, key.slot) };
        match std::mem::replace(&mut self.slots[key.slot as usize].state, freed) {
            TimerState::Waiting(value) => Some(value),
            TimerState::Free { .. } => unreachable!("checked above"),
        }
    }

    /// Remove nodes of cancelled timers until the first node is that of a waiting timer.
    fn drop_cancelled_first(&mut self) {
        while let Some(node) = self.heap.peek()
            && !is_waiting(&self.slots, node.key)
        {
            self.heap.pop();
            self.n_cancelled -= 1;
        }
        if self.heap.is_empty() && self.slots.len() > PURGE_MIN {
            // Give back the memory that many timers at once have needed.
            (self.heap, self.slots, self.first_free) = (BinaryHeap::new(), Vec::new(), NO_SLOT);
        }
    }
}

fn is_waiting<T>(slots: &[TimerSlot<T>], key: TimerKey) -> bool {
    slots
        .get(key.slot as usize)
        .is_some_and(|it| it.started == key.started && matches!(it.state, TimerState::Waiting(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_deadlines_fire_in_the_order_of_starting() {
        let mut timers = Timers::default();
        for value in 0..100 {
            timers.start(7, value);
        }
        let fired: Vec<_> = std::iter::from_fn(|| timers.pop_due(7)).collect();
        assert_eq!((0..100).collect::<Vec<_>>(), fired);
    }

    #[test]
    fn a_key_does_not_cancel_the_slots_next_timer() {
        let mut timers = Timers::default();
        let first = timers.start(1, "first");
        assert_eq!(Some("first"), timers.cancel(first));
        timers.start(2, "second");
        assert_eq!(None, timers.cancel(first));
        assert_eq!(1, timers.len());
    }

    #[test]
    fn nothing_fires_before_its_deadline() {
        let mut timers = Timers::default();
        timers.start(10, ());
        assert_eq!(None, timers.pop_due(9));
        assert_eq!(Some(()), timers.pop_due(10));
        assert_eq!(None, timers.next_deadline_ns());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Start(u64),
        Cancel(usize),
        Fire(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0..50u64).prop_map(Step::Start),
            2 => (0..200usize).prop_map(Step::Cancel),
            1 => (0..50u64).prop_map(Step::Fire),
        ];
        prop::collection::vec(step, 0..400)
    }

    #[test]
    fn cancelled_timers_give_their_room_back() {
        let mut timers = Timers::default();
        let stays = timers.start(u64::MAX, 0);
        for round in 0..10 {
            let keys: Vec<_> = (0..1000).map(|at| timers.start(round * 1000 + at, 1)).collect();
            keys.into_iter().for_each(|key| assert_eq!(Some(1), timers.cancel(key)));
        }
        assert_eq!(1, timers.len());
        assert!(timers.heap.len() < 2 * PURGE_MIN, "{} nodes stay", timers.heap.len());
        assert_eq!(1001, timers.slots.len());
        assert_eq!(Some(0), timers.cancel(stays));
        assert_eq!(0, timers.slots.len());
        assert_eq!(None, timers.cancel(stays));
    }

    proptest! {
        /// After any sequence of operations the heap agrees with a sorted list.
        #[test]
        fn the_heap_agrees_with_a_sorted_list(steps in steps()) {
            let mut timers = Timers::default();
            let mut model: Vec<(u64, usize)> = Vec::new();
            let mut keys = Vec::new();
            for step in steps {
                match step {
                    Step::Start(deadline_ns) => {
                        let id = keys.len();
                        keys.push(timers.start(deadline_ns, id));
                        model.push((deadline_ns, id));
                        model.sort();
                    }
                    Step::Cancel(id) if id < keys.len() => {
                        let at = model.iter().position(|&(_, other)| other == id);
                        let expected = at.map(|at| model.remove(at).1);
                        prop_assert_eq!(expected, timers.cancel(keys[id]));
                    }
                    Step::Cancel(_) => {}
                    Step::Fire(now_ns) => {
                        while let Some(id) = timers.pop_due(now_ns) {
                            prop_assert_eq!(model.remove(0).1, id);
                        }
                        prop_assert!(model.first().is_none_or(|&(due, _)| due > now_ns));
                    }
                }
                prop_assert_eq!(model.len(), timers.len());
                prop_assert_eq!(model.len(), timers.values().count());
                let mut entries: Vec<_> = timers.entries().map(|(at, _, &id)| (at, id)).collect();
                entries.sort_unstable();
                prop_assert_eq!(&model, &entries);
                prop_assert_eq!(model.first().map(|&(due, _)| due), timers.next_deadline_ns());
            }
        }
    }
}
