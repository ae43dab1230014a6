//! Timers: a four-ary heap in which every timer can be cancelled by its key.
//!
//! A cancelled timer leaves the heap at once, so that what it refers to is released at once and
//! the count of outstanding timers is exact. Timers with equal deadlines fire in the order in
//! which they were started. It knows nothing of clocks: times are passed in.

use std::cmp::Ordering;

const ARITY: usize = 4;
const NO_SLOT: u32 = u32::MAX;

/// Names one timer. A key whose timer fired or was cancelled names nothing, even after its slot
/// has been used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey {
    slot: u32,
    generation: u32,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    deadline_ns: u64,
    started: u64,
    slot: u32,
}

impl Node {
    fn order(&self, other: &Self) -> Ordering {
        (self.deadline_ns, self.started).cmp(&(other.deadline_ns, other.started))
    }

    fn is_before(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Less
    }
}

#[derive(Debug)]
enum State<T> {
    Waiting { heap_idx: u32, value: T },
    Free { next: u32 },
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    state: State<T>,
}

/// The outstanding timers of one dispatcher, each with a value of type `T`.
#[derive(Debug)]
pub struct Timers<T> {
    heap: Vec<Node>,
    slots: Vec<Slot<T>>,
    free: u32,
    n_started: u64,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { heap: Vec::new(), slots: Vec::new(), free: NO_SLOT, n_started: 0 }
    }
}

impl<T> Timers<T> {
    /// How many timers are outstanding.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether no timer is outstanding.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// When the next timer is due, if there is one.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.heap.first().map(|node| node.deadline_ns)
    }

    /// The values of all outstanding timers, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| match &slot.state {
            State::Waiting { value, .. } => Some(value),
            State::Free { .. } => None,
        })
    }

    /// Start a timer.
    pub fn start(&mut self, deadline_ns: u64, value: T) -> TimerKey {
        let heap_idx = self.heap.len() as u32;
        let slot = self.fill_slot(State::Waiting { heap_idx, value });
        self.heap.push(Node { deadline_ns, started: self.n_started, slot });
        self.n_started += 1;
        self.rise(heap_idx as usize);
        TimerKey { slot, generation: self.slots[slot as usize].generation }
    }

    /// Cancel a timer and give its value back; `None` if it has fired or was cancelled before.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let slot = self.slots.get(key.slot as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let State::Waiting { heap_idx, .. } = slot.state else { return None };
        Some(self.remove_at(heap_idx as usize))
    }

    /// The value of the earliest timer if it is due at `now_ns`; that timer has fired.
    pub fn pop_due(&mut self, now_ns: u64) -> Option<T> {
        (self.next_deadline_ns()? <= now_ns).then(|| self.remove_at(0))
    }

    fn fill_slot(&mut self, state: State<T>) -> u32 {
        if self.free == NO_SLOT {
            self.slots.push(Slot { generation: 0, state });
            return (self.slots.len() - 1) as u32;
        }
        let slot_idx = self.free;
        let slot = &mut self.slots[slot_idx as usize];
        let State::Free { next } = slot.state else {
            unreachable!("the free list holds free slots")
        };
        self.free = next;
        slot.state = state;
        slot_idx
    }

    fn remove_at(&mut self, heap_idx: usize) -> T {
        let removed = self.heap.swap_remove(heap_idx);
        if let Some(moved) = self.heap.get(heap_idx).copied() {
            self.place(heap_idx, moved);
            // The node from the end may belong above or below the gap, never both.
            self.sink(heap_idx);
            self.rise(heap_idx);
        }
        let slot = &mut self.slots[removed.slot as usize];
        slot.generation = slot.generation.wrapping_add(1);
        let state = std::mem::replace(&mut slot.state, State::Free { next: self.free });
        self.free = removed.slot;
        let State::Waiting { value, .. } = state else {
            unreachable!("the heap holds waiting slots")
        };
        value
    }

    fn place(&mut self, at: usize, node: Node) {
        self.heap[at] = node;
        if let State::Waiting { heap_idx, .. } = &mut self.slots[node.slot as usize].state {
            *heap_idx = at as u32;
        }
    }

    fn rise(&mut self, mut at: usize) {
        let node = self.heap[at];
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if !node.is_before(&self.heap[parent]) {
                break;
            }
            self.place(at, self.heap[parent]);
            at = parent;
        }
        self.place(at, node);
    }

    fn sink(&mut self, mut at: usize) {
        let node = self.heap[at];
        loop {
            let first = at * ARITY + 1;
            let end = (first + ARITY).min(self.heap.len());
            let Some(least) = (first..end).min_by(|&a, &b| self.heap[a].order(&self.heap[b]))
            else {
                break;
            };
            if !self.heap[least].is_before(&node) {
                break;
            }
            self.place(at, self.heap[least]);
            at = least;
        }
        self.place(at, node);
    }
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
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Whatever is started, cancelled and fired, the heap agrees with a sorted list.
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
                prop_assert_eq!(model.first().map(|&(due, _)| due), timers.next_deadline_ns());
            }
        }
    }
}
