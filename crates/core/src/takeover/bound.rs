//! Tasks that belong to a thread: their steps wait for that thread while the role is elsewhere.
//!
//! Guarded by the host lock. A task that belongs to a thread takes its steps there and nowhere else. When
//! another thread comes to such a step, it hands the step over, and the task's thread asks for the role. A
//! thread to which something belongs does not end, and runs no jobs beside the dispatcher.

use std::collections::BTreeMap;

use super::registry::WorkerId;

/// The threads to which tasks belong, and the steps that wait there; `S` is a step of a task.
#[derive(Debug)]
pub struct Bound<S> {
    threads: BTreeMap<usize, BoundThread<S>>,
}

#[derive(Debug)]
struct BoundThread<S> {
    /// How many things belong to the thread.
    n_bindings: usize,
    /// Steps that wait until the thread has the role.
    steps: Vec<S>,
}

impl<S> Default for Bound<S> {
    fn default() -> Self {
        Self { threads: BTreeMap::new() }
    }
}

impl<S> Bound<S> {
    /// Count one more thing that belongs to a thread.
    pub fn add_binding(&mut self, worker: WorkerId) {
        self.thread(worker).n_bindings += 1;
    }

    /// Count one thing less that belongs to a thread; whether nothing belongs to it any more.
    pub fn remove_binding(&mut self, worker: WorkerId) -> bool {
        let thread = self.thread(worker);
        thread.n_bindings = thread.n_bindings.saturating_sub(1);
        self.remove_if_unused(worker);
        !self.has_bindings(worker)
    }

    /// Whether something belongs to a thread, which must not end then.
    pub fn has_bindings(&self, worker: WorkerId) -> bool {
        self.threads.get(&worker.index()).is_some_and(|it| it.n_bindings > 0)
    }

    /// Have a thread take a step when it next has the role.
    pub fn hand_over(&mut self, worker: WorkerId, step: S) {
        self.thread(worker).steps.push(step);
    }

    /// Whether a thread has steps to take.
    pub fn has_steps(&self, worker: WorkerId) -> bool {
        self.threads.get(&worker.index()).is_some_and(|it| !it.steps.is_empty())
    }

    /// Take out a thread's waiting steps, in order, for the thread to take them: it has the role.
    pub fn take_steps(&mut self, worker: WorkerId) -> Vec<S> {
        let steps = self.threads.get_mut(&worker.index()).map(|it| std::mem::take(&mut it.steps));
        self.remove_if_unused(worker);
        steps.unwrap_or_default()
    }

    /// Put back steps that the thread could not take; they are the first again.
    pub fn put_back(&mut self, worker: WorkerId, steps: impl IntoIterator<Item = S>) {
        self.thread(worker).steps.splice(0..0, steps);
        self.remove_if_unused(worker);
    }

    /// The waiting steps of all threads.
    pub fn steps(&self) -> impl Iterator<Item = &S> {
        self.threads.values().flat_map(|it| &it.steps)
    }

    /// Take out all waiting steps, and forget what belongs to threads.
    pub fn take_all(&mut self) -> Vec<S> {
        std::mem::take(&mut self.threads).into_values().flat_map(|it| it.steps).collect()
    }

    fn thread(&mut self, worker: WorkerId) -> &mut BoundThread<S> {
        self.threads
            .entry(worker.index())
            .or_insert_with(|| BoundThread { n_bindings: 0, steps: Vec::new() })
    }

    fn remove_if_unused(&mut self, worker: WorkerId) {
        let is_over = |it: &BoundThread<S>| it.n_bindings == 0 && it.steps.is_empty();
        if self.threads.get(&worker.index()).is_some_and(is_over) {
            self.threads.remove(&worker.index());
        }
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_free_when_nothing_belongs_to_it_any_more() {
        let mut bound = Bound::<u32>::default();
        let worker = WorkerId::new(3);
        assert!(!bound.has_bindings(worker));
        bound.add_binding(worker);
        bound.add_binding(worker);
        assert!(!bound.remove_binding(worker));
        assert!(bound.has_bindings(worker) && !bound.has_bindings(WorkerId::HOME));
        assert!(bound.remove_binding(worker));
    }

    #[test]
    fn steps_wait_for_their_own_thread_in_order() {
        let mut bound = Bound::default();
        let (home, other) = (WorkerId::HOME, WorkerId::new(1));
        for step in [1, 2, 3] {
            bound.hand_over(home, step);
        }
        bound.hand_over(other, 9);
        assert!(bound.has_steps(home) && bound.has_steps(other));
        assert_eq!(vec![1, 2, 3], bound.take_steps(home));
        assert!(!bound.has_steps(home));
        bound.hand_over(home, 4);
        bound.put_back(home, [2, 3]);
        assert_eq!(vec![2, 3, 4], bound.take_steps(home));
        assert_eq!(vec![9], bound.take_all());
        assert_eq!(0, bound.steps().count());
    }
}
