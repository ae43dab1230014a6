//! The registry: which workers there are, which are idle, and which wait for the role.
//!
//! Guarded by the host lock. It knows nothing of how a thread is started or woken.

use std::collections::VecDeque;

/// Number of a thread that can hold the role. It is used again after the thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerId(pub(super) u32);

impl WorkerId {
    /// The home thread, which runs the loop: the role begins and ends there.
    pub const HOME: Self = Self(0);
    /// No worker.
    pub const NONE: Self = Self(u32::MAX);

    pub(super) fn new(number: usize) -> Self {
        Self(number as u32)
    }

    /// The position among all workers; home is 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The workers of one loop.
#[derive(Debug)]
pub struct WorkerRegistry {
    /// Workers that wait for the role, in the order in which they get it.
    waiting: VecDeque<WorkerId>,
    /// Idle workers. The last used is the first to be called, so that the others can end.
    idle: Vec<WorkerId>,
    free_ids: Vec<WorkerId>,
    n_ids: usize,
    n_threads: usize,
    n_threads_max: usize,
    n_threads_peak: usize,
    /// The dispatcher waits for events, without the host lock.
    is_polling: bool,
}

impl WorkerRegistry {
    /// No worker yet but home.
    pub fn new(n_threads_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            idle: Vec::new(),
            free_ids: Vec::new(),
            n_ids: 1,
            n_threads: 0,
            n_threads_max,
            n_threads_peak: 0,
            is_polling: false,
        }
    }

    /// How many threads there are, without the home thread.
    pub fn n_threads(&self) -> usize {
        self.n_threads
    }

    /// The most threads there may be.
    pub fn n_threads_max(&self) -> usize {
        self.n_threads_max
    }

    /// The most threads there have been at once.
    pub fn n_threads_peak(&self) -> usize {
        self.n_threads_peak
    }

    /// How many threads are idle.
    pub fn n_idle(&self) -> usize {
        self.idle.len()
    }

    /// How many threads wait for the role.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Note that the dispatcher begins to wait for events.
    pub fn start_polling(&mut self) {
        self.is_polling = true;
    }

    /// Note that the dispatcher waits no more, or has lost the role; whether it waited.
    pub fn stop_polling(&mut self) -> bool {
        std::mem::replace(&mut self.is_polling, false)
    }

    /// Note that a worker is idle.
    pub fn add_idle(&mut self, worker: WorkerId) {
        self.idle.push(worker);
    }

    /// Whether a worker is idle.
    pub fn is_idle(&self, worker: WorkerId) -> bool {
        self.idle.contains(&worker)
    }

    /// Remove a worker from the idle ones, so that its thread can end; `false`: it was appointed meanwhile.
    /// Its number is free only after `ended`.
    pub fn retire(&mut self, worker: WorkerId) -> bool {
        let at = self.idle.iter().position(|&it| it == worker);
        at.map(|at| self.idle.remove(at)).is_some()
    }

    /// Note that a worker's thread has ended.
    pub fn ended(&mut self, worker: WorkerId) {
        self.n_threads -= 1;
        self.free_ids.push(worker);
    }

    pub(super) fn not_spawned(&mut self, worker: WorkerId) {
        self.ended(worker);
    }

    /// Choose a worker: an idle one, or a new one (`true`) if there may be another thread.
    pub(super) fn appoint(&mut self) -> Option<(WorkerId, bool)> {
        if let Some(worker) = self.idle.pop() {
            return Some((worker, false));
        }
        if self.n_threads == self.n_threads_max {
            return None;
        }
        let worker = self.free_ids.pop().unwrap_or_else(|| {
            self.n_ids += 1;
            WorkerId::new(self.n_ids - 1)
        });
        self.n_threads += 1;
        self.n_threads_peak = self.n_threads_peak.max(self.n_threads);
        Some((worker, true))
    }

    pub(super) fn queue_for_grant(&mut self, worker: WorkerId) {
        self.waiting.push_back(worker);
    }

    pub(super) fn next_grant(&mut self) -> Option<WorkerId> {
        self.waiting.pop_front()
    }

    pub(super) fn reset(&mut self, me: Option<WorkerId>) {
        *self = Self::new(self.n_threads_max);
        if let Some(me) = me.filter(|&it| it != WorkerId::HOME) {
            self.n_threads = 1;
            self.n_ids = me.index() + 1;
            self.free_ids = (1..me.index()).map(WorkerId::new).collect();
        }
    }
}
