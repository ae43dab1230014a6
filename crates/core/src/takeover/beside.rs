//! Jobs for threads beside the dispatcher: functions that may block, and so do not start on its stack.
//!
//! Guarded by the host lock, as the registry is. While jobs wait, one thread is on its way to them, and no
//! more: it takes the first job, has another thread called for the rest, and begins. A thread whose jobs do
//! not block therefore runs all of them, one after the other, and a job that blocks delays no other. However
//! many jobs it runs, the thread that was called for the rest stays the one that is on its way.
//!
//! Threads that block are not limited in number. Threads that compute are: with more than a few of them
//! the dispatcher would wait for the host lock behind all of them.

use std::collections::VecDeque;

use super::registry::{WorkerId, WorkerRegistry};
use crate::pools::{IN_A_ROW_MAX, Priority};

/// After how long the computing threads are counted again, in nanoseconds.
pub const RECOUNT_NS: u64 = 5_000_000;
/// A job counts as computing once it has used this much CPU time, in nanoseconds …
const COMPUTING_MIN_NS: u64 = 1_000_000;
/// … and some of it within this time, in nanoseconds: meanwhile it may have waited for the host lock.
const COMPUTING_WINDOW_NS: u64 = 50_000_000;

/// Which thread to call for the jobs that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Summons {
    /// None: no job waits.
    NotNeeded,
    /// None: a thread is on its way.
    OnItsWay,
    /// Unpark this idle worker.
    Unpark(WorkerId),
    /// Start a thread for this worker.
    Spawn(WorkerId),
    /// None: no thread is left. A thread that ends its job takes the next one.
    Full,
}

/// A job that a thread runs.
#[derive(Debug)]
struct RunningJob {
    worker: WorkerId,
    began_ns: u64,
    /// CPU time of the thread when the job began.
    cpu_before_ns: u64,
    /// CPU time of the thread at the last look.
    cpu_ns: u64,
    /// When a look last found more CPU time than the one before.
    last_used_cpu_at_ns: u64,
}

/// The jobs that wait, and the threads that run jobs.
#[derive(Debug)]
pub struct Beside<J> {
    /// Waiting jobs by priority, each queue in the order of submission.
    jobs: [VecDeque<J>; Priority::ALL.len()],
    /// For each priority, how many jobs of higher ones were taken while one of it waited.
    n_passed_over: [u32; Priority::ALL.len()],
    /// The thread that is on its way to the jobs.
    summoned: Option<WorkerId>,
    /// It may be long in coming: it counts as on its way only until another thread takes a job.
    is_late: bool,
    running: Vec<RunningJob>,
    /// How many threads may compute at once.
    n_computing_max: usize,
    /// How many threads computed at the last look.
    n_computing: usize,
    counted_at_ns: u64,
}

impl<J> Beside<J> {
    /// No jobs; while `n_computing_max` threads compute, no other job begins.
    pub fn new(n_computing_max: usize) -> Self {
        Self {
            jobs: Default::default(),
            n_passed_over: Default::default(),
            summoned: None,
            is_late: false,
            running: Vec::new(),
            n_computing_max,
            n_computing: 0,
            counted_at_ns: 0,
        }
    }

    /// Queue a job; call `summon` then.
    pub fn submit(&mut self, priority: Priority, job: J) {
        self.jobs[priority as usize].push_back(job);
    }

    /// The jobs that wait, in the order of their priorities.
    pub fn jobs(&self) -> impl Iterator<Item = &J> {
        self.jobs.iter().flatten()
    }

    /// Take out all jobs that wait.
    pub fn take_all(&mut self) -> Vec<J> {
        self.jobs.iter_mut().flat_map(std::mem::take).collect()
    }

    /// Queue the waiting jobs anew, because the priority of some has changed.
    pub fn requeue(&mut self, priority: impl Fn(&J) -> Priority) {
        for job in self.take_all() {
            self.submit(priority(&job), job);
        }
    }

    /// Whether no job waits.
    pub fn is_empty(&self) -> bool {
        self.jobs.iter().all(VecDeque::is_empty)
    }

    /// How many threads run a job.
    pub fn n_at_work(&self) -> usize {
        self.running.len()
    }

    /// Choose the thread to call for the jobs that wait; it counts as on its way from now on.
    pub fn summon(&mut self, registry: &mut WorkerRegistry) -> Summons {
        if self.is_empty() {
            return Summons::NotNeeded;
        }
        if self.summoned.is_some() {
            return Summons::OnItsWay;
        }
        match registry.appoint() {
            None => Summons::Full,
            Some((worker, is_new)) => {
                self.summoned = Some(worker);
                self.is_late = false;
                if is_new { Summons::Spawn(worker) } else { Summons::Unpark(worker) }
            }
        }
    }

    /// Count the monitor as on its way to the jobs; the caller unparks it.
    pub fn summon_monitor(&mut self, monitor: WorkerId) {
        self.summoned = Some(monitor);
        self.is_late = true;
    }

    /// Note that this thread has come to the jobs, or will not come, if it was on its way.
    pub fn arrived(&mut self, worker: WorkerId) {
        self.summoned = self.summoned.filter(|&it| it != worker);
    }

    /// Note that this thread has come to the jobs, and may not begin one yet.
    pub fn waits(&mut self, worker: WorkerId) {
        self.is_late |= self.summoned == Some(worker);
    }

    /// Call off the thread that is on its way if no job waits any more; `false`: it has to come.
    pub fn call_off(&mut self, registry: &mut WorkerRegistry, worker: WorkerId) -> bool {
        let is_off = self.is_empty() && self.summoned == Some(worker);
        if is_off {
            self.summoned = None;
            registry.add_idle(worker);
        }
        is_off
    }

    /// Whether one more job may begin; `cpu_ns` gives a thread's CPU time in nanoseconds.
    pub fn may_begin(&mut self, now_ns: u64, cpu_ns: impl Fn(WorkerId) -> Option<u64>) -> bool {
        if self.running.len() < self.n_computing_max {
            return true;
        }
        if now_ns.saturating_sub(self.counted_at_ns) >= RECOUNT_NS {
            self.counted_at_ns = now_ns;
            self.n_computing = self
                .running
                .iter_mut()
                .filter_map(|it| it.is_computing(now_ns, cpu_ns(it.worker)?).then_some(()))
                .count();
        }
        self.n_computing < self.n_computing_max
    }

    /// Take the first job of the highest priority, or now and then of a lower one that was passed over.
    pub fn take(&mut self) -> Option<J> {
        let waits = |&it: &usize| !self.jobs[it].is_empty();
        let first = (0..self.jobs.len()).find(waits)?;
        let overdue = |&it: &usize| self.n_passed_over[it] >= IN_A_ROW_MAX;
        let chosen = (first + 1..self.jobs.len()).filter(waits).find(overdue).unwrap_or(first);
        self.n_passed_over[chosen] = 0;
        for lower in chosen + 1..self.jobs.len() {
            self.n_passed_over[lower] += u32::from(!self.jobs[lower].is_empty());
        }
        if self.is_late {
            self.summoned = None;
        }
        self.jobs[chosen].pop_front()
    }

    /// Note that a thread begins a job; `cpu_before_ns` is its CPU time so far.
    pub fn begins(&mut self, worker: WorkerId, now_ns: u64, cpu_before_ns: u64) {
        self.running.push(RunningJob {
            worker,
            began_ns: now_ns,
            cpu_before_ns,
            cpu_ns: cpu_before_ns,
            last_used_cpu_at_ns: now_ns,
        });
    }

    /// Note that a thread has ended its job; when the job began.
    pub fn ends(&mut self, worker: WorkerId) -> Option<u64> {
        let at = self.running.iter().rposition(|it| it.worker == worker)?;
        Some(self.running.swap_remove(at).began_ns)
    }

    /// In the child of a fork: forget all threads, and take out the jobs that wait. For a thread that forked
    /// within its job, `ends` then gives `None`.
    pub fn reset(&mut self) -> Vec<J> {
        self.summoned = None;
        self.running.clear();
        self.take_all()
    }
}

impl RunningJob {
    fn is_computing(&mut self, now_ns: u64, cpu_ns: u64) -> bool {
        if cpu_ns > self.cpu_ns {
            self.cpu_ns = cpu_ns;
            self.last_used_cpu_at_ns = now_ns;
        }
        let has_computed = self.cpu_ns.saturating_sub(self.cpu_before_ns) >= COMPUTING_MIN_NS;
        has_computed && now_ns.saturating_sub(self.last_used_cpu_at_ns) <= COMPUTING_WINDOW_NS
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
    fn one_thread_is_on_its_way_while_jobs_wait() {
        let (mut beside, mut registry) = (Beside::new(2), WorkerRegistry::new(4));
        assert_eq!(Summons::NotNeeded, beside.summon(&mut registry));
        beside.submit(Priority::Normal, 1);
        beside.submit(Priority::Normal, 2);
        let first = summoned(&mut beside, &mut registry);
        assert_eq!(Summons::OnItsWay, beside.summon(&mut registry));
        beside.arrived(first);
        assert_eq!(Some(1), beside.take());
        // Another thread is called for the rest.
        let second = summoned(&mut beside, &mut registry);
        beside.arrived(second);
        assert_eq!(Some(2), beside.take());
        assert_eq!(Summons::NotNeeded, beside.summon(&mut registry));
    }

    #[test]
    fn no_third_thread_is_called_while_one_runs_job_after_job() {
        let (mut beside, mut registry) = (Beside::new(2), WorkerRegistry::new(4));
        (1..=4).for_each(|it| beside.submit(Priority::Normal, it));
        let first = summoned(&mut beside, &mut registry);
        beside.arrived(first);
        beside.take();
        let second = summoned(&mut beside, &mut registry);
        // The first job has returned before the second thread has come.
        for _ in 0..2 {
            beside.arrived(first);
            beside.take();
            assert_eq!(Summons::OnItsWay, beside.summon(&mut registry));
        }
        beside.arrived(second);
        assert_eq!(Some(4), beside.take());
        assert_eq!(2, registry.n_threads());
    }

    #[test]
    fn a_thread_that_may_be_late_counts_until_another_one_takes_a_job() {
        let (mut beside, mut registry) = (Beside::new(2), WorkerRegistry::new(4));
        (1..=3).for_each(|it| beside.submit(Priority::Normal, it));
        let first = summoned(&mut beside, &mut registry);
        beside.waits(first);
        assert_eq!(Summons::OnItsWay, beside.summon(&mut registry));
        beside.take();
        let second = summoned(&mut beside, &mut registry);
        assert_ne!(first, second);
        // What the first one does now does not concern the second.
        beside.waits(first);
        beside.arrived(first);
        beside.take();
        assert_eq!(Summons::OnItsWay, beside.summon(&mut registry));
    }

    #[test]
    fn a_thread_is_called_off_if_no_job_is_left_for_it() {
        let (mut beside, mut registry) = (Beside::new(2), WorkerRegistry::new(4));
        beside.submit(Priority::Normal, 1);
        let worker = summoned(&mut beside, &mut registry);
        assert!(!beside.call_off(&mut registry, worker));
        beside.take();
        assert!(beside.call_off(&mut registry, worker));
        assert!(registry.is_idle(worker));
        beside.submit(Priority::Normal, 2);
        assert_eq!(Summons::Unpark(worker), beside.summon(&mut registry));
    }

    #[test]
    fn an_idle_thread_is_called_before_one_is_started() {
        let (mut beside, mut registry) = (Beside::new(2), WorkerRegistry::new(4));
        beside.submit(Priority::Normal, 1);
        let first = summoned(&mut beside, &mut registry);
        beside.arrived(first);
        beside.take();
        registry.add_idle(first);
        beside.submit(Priority::Normal, 2);
        assert_eq!(Summons::Unpark(first), beside.summon(&mut registry));
    }

    #[test]
    fn at_the_limit_of_threads_jobs_wait_for_one_that_ends_its_job() {
        let (mut beside, mut registry) = (Beside::new(2), WorkerRegistry::new(1));
        beside.submit(Priority::Normal, 1);
        beside.submit(Priority::Normal, 2);
        let worker = summoned(&mut beside, &mut registry);
        beside.arrived(worker);
        assert_eq!(Some(1), beside.take());
        assert_eq!(Summons::Full, beside.summon(&mut registry));
        assert_eq!(Some(2), beside.take());
    }

    #[test]
    fn urgent_jobs_are_first_and_the_rest_is_not_forgotten() {
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
        beside.requeue(|&it| if it == 2 { Priority::Interactive } else { Priority::Batch });
        assert_eq!((Some(2), Some(1), None), (beside.take(), beside.take(), beside.take()));
    }

    #[test]
    fn few_threads_compute_at_once_and_any_number_is_blocked() {
        let mut beside = Beside::<u32>::new(2);
        let workers: Vec<_> = (1..10).map(WorkerId::new).collect();
        // Blocked threads use no CPU.
        for (now, &worker) in workers[..4].iter().enumerate() {
            assert!(beside.may_begin(now as u64 * 10 * MS, |_| Some(0)));
            beside.begins(worker, now as u64 * 10 * MS, 0);
        }
        // Two of them compute, as the next look finds.
        let computing = |it: WorkerId| Some(if it.index() <= 2 { 3 * MS } else { 0 });
        assert!(!beside.may_begin(100 * MS, computing));
        // The count stays valid for a while.
        assert!(!beside.may_begin(101 * MS, |_| Some(0)));
        // They block: their CPU time has not grown for longer than `COMPUTING_WINDOW_NS`.
        assert!(beside.may_begin(200 * MS, computing));
        // One computes again.
        let one = |it: WorkerId| Some(if it.index() == 1 { 9 * MS } else { 0 });
        assert!(beside.may_begin(300 * MS, one));
        beside.begins(workers[8], 300 * MS, 0);
        assert_eq!(Some(300 * MS), beside.ends(workers[8]));
        assert_eq!(None, beside.ends(workers[8]));
        assert_eq!(4, beside.n_at_work());
    }
}
