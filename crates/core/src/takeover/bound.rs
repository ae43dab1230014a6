//! Tasks that belong to a thread: what of them goes on where, while the role is elsewhere.
//!
//! Guarded by the host lock. A task that belongs to a thread takes its steps there and nowhere else. When
//! its turn comes on another thread, the step is handed over, and the thread asks for the role. A thread to
//! which something belongs stays, and nobody else's functions are called there.

use std::collections::BTreeMap;

use super::role::WorkerId;

/// What belongs to threads; `S` is a step of a task.
#[derive(Debug)]
pub struct Bound<S> {
    threads: BTreeMap<usize, BoundThread<S>>,
}

#[derive(Debug)]
struct BoundThread<S> {
    /// How many things belong to it.
    n_ties: usize,
    /// What is to go on there.
    steps: Vec<S>,
}

impl<S> Default for Bound<S> {
    fn default() -> Self {
        Self { threads: BTreeMap::new() }
    }
}

impl<S> Bound<S> {
    /// Something more belongs to a thread.
    pub fn tie(&mut self, worker: WorkerId) {
        self.thread(worker).n_ties += 1;
    }

    /// Something belongs to it no more; whether that was the last.
    pub fn untie(&mut self, worker: WorkerId) -> bool {
        let thread = self.thread(worker);
        thread.n_ties = thread.n_ties.saturating_sub(1);
        self.tidy(worker);
        !self.is_tied(worker)
    }

    /// Whether something belongs to a thread: it has to stay.
    pub fn is_tied(&self, worker: WorkerId) -> bool {
        self.threads.get(&worker.index()).is_some_and(|it| it.n_ties > 0)
    }

    /// Have a thread take a step when it next has the role.
    pub fn hand_over(&mut self, worker: WorkerId, step: S) {
        self.thread(worker).steps.push(step);
    }

    /// Whether a thread has steps to take.
    pub fn has_steps(&self, worker: WorkerId) -> bool {
        self.threads.get(&worker.index()).is_some_and(|it| !it.steps.is_empty())
    }

    /// The steps that a thread has to take, in order. It has the role.
    pub fn take_steps(&mut self, worker: WorkerId) -> Vec<S> {
        let steps = self.threads.get_mut(&worker.index()).map(|it| std::mem::take(&mut it.steps));
        self.tidy(worker);
        steps.unwrap_or_default()
    }

    /// Give back steps that could not be taken: they are the first again.
    pub fn put_back(&mut self, worker: WorkerId, steps: impl IntoIterator<Item = S>) {
        self.thread(worker).steps.splice(0..0, steps);
        self.tidy(worker);
    }

    /// Every step that is to be taken.
    pub fn steps(&self) -> impl Iterator<Item = &S> {
        self.threads.values().flat_map(|it| &it.steps)
    }

    /// Take out everything.
    pub fn take_all(&mut self) -> Vec<S> {
        std::mem::take(&mut self.threads).into_values().flat_map(|it| it.steps).collect()
    }

    fn thread(&mut self, worker: WorkerId) -> &mut BoundThread<S> {
        self.threads
            .entry(worker.index())
            .or_insert_with(|| BoundThread { n_ties: 0, steps: Vec::new() })
    }

    fn tidy(&mut self, worker: WorkerId) {
        let is_over = |it: &BoundThread<S>| it.n_ties == 0 && it.steps.is_empty();
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
        assert!(!bound.is_tied(worker));
        bound.tie(worker);
        bound.tie(worker);
        assert!(!bound.untie(worker));
        assert!(bound.is_tied(worker) && !bound.is_tied(WorkerId::HOME));
        assert!(bound.untie(worker));
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
