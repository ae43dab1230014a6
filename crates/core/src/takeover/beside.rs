//! Work for threads beside the dispatcher: functions that may block, and so do not start in its stack.
//!
//! Guarded by the host lock, as the registry is. While work waits, one thread is on its way to it and no more:
//! it takes the first piece, has another thread called for the rest, and begins. A thread that does not block
//! therefore does all of the work by itself, one piece after the other, and one that blocks holds up nothing.
//!
//! Threads that block are not limited in number. Those that compute are: with more than a few of them
//! the dispatcher would wait for the host lock behind all of them.

use std::collections::VecDeque;

use super::registry::WorkerRegistry;
use super::role::WorkerId;
use crate::pools::{IN_A_ROW_MAX, Priority};

/// How long a look at who computes stays good, in nanoseconds.
pub const LOOK_NS: u64 = 5_000_000;
/// A piece of work computes once it has used so much of a CPU, in nanoseconds …
const COMPUTES_NS: u64 = 1_000_000;
/// … and went on with it in this last while: it may have waited its turn for the host lock.
const LATELY_NS: u64 = 50_000_000;

/// Which thread is to come, if one is to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Summons {
    /// No work waits, or a thread is on its way.
    Nobody,
    /// WakeReason this thread's parker: it stands by.
    Unpark(WorkerId),
    /// Start this thread.
    Spawn(WorkerId),
    /// There is no thread left. One that is through with its work takes what waits.
    Full,
}

/// A thread that is at work.
#[derive(Debug)]
struct AtWork {
    worker: WorkerId,
    began_ns: u64,
    /// How much of a CPU the thread had used when its piece of work began, and at the last look.
    cpu_before_ns: u64,
    cpu_ns: u64,
    /// When it was last seen to have used more of it.
    advanced_at_ns: u64,
}

/// The work that waits, and the threads that are at work.
#[derive(Debug)]
pub struct Beside<J> {
    /// What waits, by priority, each in the order in which it came.
    jobs: [VecDeque<J>; Priority::ALL.len()],
    /// How many pieces of a higher priority were taken while one of this waited.
    n_passed_over: [u32; Priority::ALL.len()],
    /// A thread is on its way.
    is_summoned: bool,
    at_work: Vec<AtWork>,
    /// How many may compute at once.
    n_computing_max: usize,
    n_computing: usize,
    looked_at_ns: u64,
}

impl<J> Beside<J> {
    /// No work; with more than `n_computing_max` threads that compute, no other begins.
    pub fn new(n_computing_max: usize) -> Self {
        Self {
            jobs: Default::default(),
            n_passed_over: Default::default(),
            is_summoned: false,
            at_work: Vec::new(),
            n_computing_max,
            n_computing: 0,
            looked_at_ns: 0,
        }
    }

    /// Queue a piece of work; then `summon`.
    pub fn submit(&mut self, priority: Priority, job: J) {
        self.jobs[priority as usize].push_back(job);
    }

    /// The work that waits, in the order of its priorities.
    pub fn jobs(&self) -> impl Iterator<Item = &J> {
        self.jobs.iter().flatten()
    }

    /// Take out all work that waits.
    pub fn take_all(&mut self) -> Vec<J> {
        self.jobs.iter_mut().flat_map(std::mem::take).collect()
    }

    /// The priority of some of the work has changed.
    pub fn sort_anew(&mut self, priority: impl Fn(&J) -> Priority) {
        for job in self.take_all() {
            self.submit(priority(&job), job);
        }
    }

    /// Whether no work waits.
    pub fn is_empty(&self) -> bool {
        self.jobs.iter().all(VecDeque::is_empty)
    }

    /// How many threads are at work.
    pub fn n_at_work(&self) -> usize {
        self.at_work.len()
    }

    /// Which thread to call, so that what waits is done. It is on its way then.
    pub fn summon(&mut self, registry: &mut WorkerRegistry) -> Summons {
        if self.is_empty() || self.is_summoned {
            return Summons::Nobody;
        }
        match registry.appoint() {
            None => Summons::Full,
            Some((worker, is_new)) => {
                self.is_summoned = true;
                if is_new { Summons::Spawn(worker) } else { Summons::Unpark(worker) }
            }
        }
    }

    /// Call a thread that is busy with something less urgent.
    pub fn summon_from_watch(&mut self) {
        self.is_summoned = true;
    }

    /// The thread that was on its way is here, or will not come.
    pub fn arrived(&mut self) {
        self.is_summoned = false;
    }

    /// Whether one more may begin; `cpu_ns` tells how much of a CPU a thread has used.
    pub fn may_begin(&mut self, now_ns: u64, cpu_ns: impl Fn(WorkerId) -> Option<u64>) -> bool {
        if self.at_work.len() < self.n_computing_max {
            return true;
        }
        if now_ns.saturating_sub(self.looked_at_ns) >= LOOK_NS {
            self.looked_at_ns = now_ns;
            self.n_computing = self
                .at_work
                .iter_mut()
                .filter_map(|it| it.computes(now_ns, cpu_ns(it.worker)?).then_some(()))
                .count();
        }
        self.n_computing < self.n_computing_max
    }

    /// Take the first piece of work of the highest priority; now and then, of a lower one that was passed over.
    pub fn take(&mut self) -> Option<J> {
        let waits = |&it: &usize| !self.jobs[it].is_empty();
        let first = (0..self.jobs.len()).find(waits)?;
        let overdue = |&it: &usize| self.n_passed_over[it] >= IN_A_ROW_MAX;
        let chosen = (first + 1..self.jobs.len()).filter(waits).find(overdue).unwrap_or(first);
        self.n_passed_over[chosen] = 0;
        for lower in chosen + 1..self.jobs.len() {
            self.n_passed_over[lower] += u32::from(!self.jobs[lower].is_empty());
        }
        self.jobs[chosen].pop_front()
    }

    /// A thread begins a piece of work, having used so much of a CPU before.
    pub fn begins(&mut self, worker: WorkerId, now_ns: u64, cpu_before_ns: u64) {
        self.at_work.push(AtWork {
            worker,
            began_ns: now_ns,
            cpu_before_ns,
            cpu_ns: cpu_before_ns,
            advanced_at_ns: now_ns,
        });
    }

    /// It is through with it; when it began.
    pub fn ends(&mut self, worker: WorkerId) -> Option<u64> {
        let at = self.at_work.iter().rposition(|it| it.worker == worker)?;
        Some(self.at_work.swap_remove(at).began_ns)
    }

    /// In the child of a fork: nobody is at work but the thread that forked, if it was.
    pub fn reset(&mut self) -> Vec<J> {
        self.is_summoned = false;
        self.at_work.clear();
        self.take_all()
    }
}

impl AtWork {
    fn computes(&mut self, now_ns: u64, cpu_ns: u64) -> bool {
        if cpu_ns > self.cpu_ns {
            self.cpu_ns = cpu_ns;
            self.advanced_at_ns = now_ns;
        }
        let has_computed = self.cpu_ns.saturating_sub(self.cpu_before_ns) >= COMPUTES_NS;
        has_computed && now_ns.saturating_sub(self.advanced_at_ns) <= LATELY_NS
    }
}

#[cfg(all(test, not(feature = "model")))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn summoned(beside: &mut Beside<u32>, registry: &mut WorkerRegistry) -> WorkerId {
        match beside.summon(registry) {
            Summons::Unpark(worker) | Summons::Spawn(worker) => worker,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_thread_is_on_its_way_while_work_waits() {
        let (mut beside, mut registry) = (Beside::new(2), WorkerRegistry::new(4));
        assert_eq!(Summons::Nobody, beside.summon(&mut registry));
        beside.submit(Priority::Normal, 1);
        beside.submit(Priority::Normal, 2);
        summoned(&mut beside, &mut registry);
        assert_eq!(Summons::Nobody, beside.summon(&mut registry));
        beside.arrived();
        assert_eq!(Some(1), beside.take());
        // For the rest.
        summoned(&mut beside, &mut registry);
        beside.arrived();
        assert_eq!(Some(2), beside.take());
        assert_eq!(Summons::Nobody, beside.summon(&mut registry));
    }

    #[test]
    fn a_thread_that_stands_by_is_called_before_one_is_started() {
        let (mut beside, mut registry) = (Beside::new(2), WorkerRegistry::new(4));
        beside.submit(Priority::Normal, 1);
        let first = summoned(&mut beside, &mut registry);
        beside.arrived();
        beside.take();
        registry.stand_by(first);
        beside.submit(Priority::Normal, 2);
        assert_eq!(Summons::Unpark(first), beside.summon(&mut registry));
    }

    #[test]
    fn without_threads_work_waits_for_one_that_is_through() {
        let (mut beside, mut registry) = (Beside::new(2), WorkerRegistry::new(1));
        beside.submit(Priority::Normal, 1);
        beside.submit(Priority::Normal, 2);
        summoned(&mut beside, &mut registry);
        beside.arrived();
        assert_eq!(Some(1), beside.take());
        assert_eq!(Summons::Full, beside.summon(&mut registry));
        assert_eq!(Some(2), beside.take());
    }

    #[test]
    fn urgent_work_is_first_and_the_rest_is_not_forgotten() {
        let mut beside = Beside::new(2);
        beside.submit(Priority::Batch, 3);
        beside.submit(Priority::Normal, 2);
        (0..40).for_each(|_| beside.submit(Priority::Interactive, 1));
        let order: Vec<_> = std::iter::from_fn(|| beside.take()).collect();
        assert_eq!(42, order.len());
        assert_eq!(Some(16), order.iter().position(|&it| it == 2));
        assert!(order.iter().position(|&it| it == 3) < Some(40));
        beside.submit(Priority::Normal, 1);
        beside.submit(Priority::Normal, 2);
        beside.sort_anew(|&it| if it == 2 { Priority::Interactive } else { Priority::Batch });
        assert_eq!((Some(2), Some(1), None), (beside.take(), beside.take(), beside.take()));
    }

    #[test]
    fn few_threads_compute_at_once_and_any_number_is_blocked() {
        let mut beside = Beside::<u32>::new(2);
        let workers: Vec<_> = (1..10).map(WorkerId::new).collect();
        // Blocked ones use no CPU.
        for (now, &worker) in workers[..4].iter().enumerate() {
            assert!(beside.may_begin(now as u64 * 10 * MS, |_| Some(0)));
            beside.begins(worker, now as u64 * 10 * MS, 0);
        }
        // Two of them compute, and are seen to by the second look.
        let computing = |it: WorkerId| Some(if it.index() <= 2 { 3 * MS } else { 0 });
        assert!(!beside.may_begin(100 * MS, computing));
        // A look stays good for a while.
        assert!(!beside.may_begin(101 * MS, |_| Some(0)));
        // They block: nothing has changed for long.
        assert!(beside.may_begin(200 * MS, computing));
        // One goes on.
        let one = |it: WorkerId| Some(if it.index() == 1 { 9 * MS } else { 0 });
        assert!(beside.may_begin(300 * MS, one));
        beside.begins(workers[8], 300 * MS, 0);
        assert_eq!(Some(300 * MS), beside.ends(workers[8]));
        assert_eq!(None, beside.ends(workers[8]));
        assert_eq!(4, beside.n_at_work());
    }
}
