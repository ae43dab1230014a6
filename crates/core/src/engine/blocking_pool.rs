//! Blocking pool: native threads that make calls for one engine thread, which must not block.
//!
//! The pool knows nothing of runs: it takes calls and returns their values. Threads start when there is
//! work for them, and end when there has been none for a while.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::backend::{Completion, Key};
use super::command_queue::CommandQueue;
use crate::syslet::Call;

const THREADS_MAX: usize = 16;

const IDLE_MAX: Duration = Duration::from_secs(1);

/// Makes a call, on a thread of the pool. `start` requires valid addresses until the call has come back.
type MakeCall = dyn Fn(&Call) -> i64 + Send + Sync;

struct BlockingJob {
    key: Key,
    call: Call,
}

#[derive(Default)]
struct BlockingPoolState {
    jobs: VecDeque<BlockingJob>,
    completed: Vec<Completion>,
    n_threads: usize,
    n_idle: usize,
    is_closing: bool,
}

struct PoolShared {
    state: Mutex<BlockingPoolState>,
    /// Notified when there is a job, and when the pool closes.
    changed: Condvar,
    commands: Arc<CommandQueue>,
    make_call: Box<MakeCall>,
}

impl PoolShared {
    fn lock(&self) -> MutexGuard<'_, BlockingPoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads that make blocking calls for one engine thread.
pub(crate) struct BlockingPool {
    shared: Arc<PoolShared>,
    threads: Vec<JoinHandle<()>>,
}

impl BlockingPool {
    /// Create a pool without threads. Its threads make calls with `make_call`, and use the waker of
    /// `commands` when a call has come back.
    pub(crate) fn new(
        commands: &Arc<CommandQueue>,
        make_call: impl Fn(&Call) -> i64 + Send + Sync + 'static,
    ) -> Self {
        let shared = PoolShared {
            state: Mutex::default(),
            changed: Condvar::new(),
            commands: Arc::clone(commands),
            make_call: Box::new(make_call),
        };
        Self { shared: Arc::new(shared), threads: Vec::new() }
    }

    /// Have a thread make a call, for as long as it takes.
    ///
    /// # Safety
    /// The call's addresses are valid for what it does until the operation has come back, or the pool has
    /// been dropped.
    pub(crate) unsafe fn start(&mut self, key: Key, call: Call) {
        let mut state = self.shared.lock();
        state.jobs.push_back(BlockingJob { key, call });
        if state.n_idle >= state.jobs.len() {
            self.shared.changed.notify_one();
            return;
        }
        if state.n_threads == THREADS_MAX {
            return;
        }
        state.n_threads += 1;
        drop(state);
        if let Err(errno) = self.start_thread() {
            let mut state = self.shared.lock();
            state.n_threads -= 1;
            // Without any thread the queued calls would never be made.
            if state.n_threads == 0 {
                let jobs = std::mem::take(&mut state.jobs);
                let refused = jobs.into_iter().map(|it| Completion { key: it.key, value: errno });
                state.completed.extend(refused);
            }
        }
    }

    /// Have an operation come back at once if no thread has begun it; one that has begun continues.
    pub(crate) fn cancel(&mut self, key: Key) {
        let mut state = self.shared.lock();
        if let Some(idx) = state.jobs.iter().position(|it| it.key == key) {
            state.jobs.remove(idx);
            state.completed.push(Completion { key, value: -i64::from(libc::ECANCELED) });
        }
    }

    /// Take the operations that have come back. The pool uses the waker for later ones, so call this
    /// before each wait.
    pub(crate) fn collect(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.shared.lock().completed);
    }

    fn start_thread(&mut self) -> Result<(), i64> {
        self.threads.retain(|it| !it.is_finished());
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("engine-blocking".to_owned())
            .spawn(move || {
                crate::fp::begin_thread();
                run_thread(&shared);
            })
            // Not EAGAIN, which would mean that the operation is to be tried again.
            .map_err(|_| -i64::from(libc::ENOMEM))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for BlockingPool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closing = true;
        // These calls must not be made any more: their addresses may become invalid.
        state.jobs.clear();
        drop(state);
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // `run_thread` catches the panics of calls.
            let _ = thread.join();
        }
    }
}

fn run_thread(shared: &PoolShared) {
    crate::signals::block();
    let mut state = shared.lock();
    loop {
        if let Some(job) = state.jobs.pop_front() {
            drop(state);
            // The panic hook has reported a panic; the call comes back all the same.
            let outcome = catch_unwind(AssertUnwindSafe(|| (shared.make_call)(&job.call)));
            let value = outcome.unwrap_or(-i64::from(libc::EIO));
            state = shared.lock();
            state.completed.push(Completion { key: job.key, value });
            // If `completed` had entries, the first of them has used the waker and is not collected yet.
            if state.completed.len() == 1 {
                shared.commands.waker.wake();
            }
            continue;
        }
        if state.is_closing {
            break;
        }
        state.n_idle += 1;
        let is_idle = |state: &mut BlockingPoolState| state.jobs.is_empty() && !state.is_closing;
        let waited = shared.changed.wait_timeout_while(state, IDLE_MAX, is_idle);
        let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        state = guard;
        state.n_idle -= 1;
        if timeout.timed_out() && state.jobs.is_empty() {
            break;
        }
    }
    state.n_threads -= 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syslet::{Op, syscall};

    fn collect(pool: &mut BlockingPool, n: usize) -> Vec<Completion> {
        let mut all = Vec::new();
        while all.len() < n {
            pool.collect(&mut all);
            std::thread::yield_now();
        }
        all
    }

    #[test]
    fn a_call_that_no_thread_has_begun_is_cancelled_at_once() {
        let commands = Arc::new(CommandQueue::new().unwrap());
        // SAFETY: the bytes live until all calls have come back.
        let mut pool = BlockingPool::new(&commands, |call| unsafe { syscall::perform_once(call) });
        let (reader, writer) = std::io::pipe().unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&reader) as u64;
        let mut bytes = [0u8; THREADS_MAX + 1];
        for (key, byte) in bytes.iter_mut().enumerate() {
            let words = [fd, std::ptr::from_mut(byte) as u64, 1, u64::MAX];
            // SAFETY: the bytes live until all calls have come back.
            unsafe { pool.start(key as Key, Call::new(Op::Read, words)) };
        }
        // Every call has a thread, except the last one.
        while pool.shared.lock().jobs.len() > 1 {
            std::thread::yield_now();
        }
        pool.cancel(THREADS_MAX as Key);
        pool.cancel(0);
        let cancelled = Completion { key: THREADS_MAX as Key, value: -i64::from(libc::ECANCELED) };
        assert_eq!(vec![cancelled], collect(&mut pool, 1));
        std::io::Write::write_all(&mut &writer, &[1; THREADS_MAX]).unwrap();
        assert!(collect(&mut pool, THREADS_MAX).iter().all(|it| it.value == 1));
    }

    #[test]
    fn a_call_that_panics_comes_back() {
        let commands = Arc::new(CommandQueue::new().unwrap());
        let mut pool = BlockingPool::new(&commands, |_| panic!("panics, as the test wants"));
        // SAFETY: a call without addresses.
        unsafe { pool.start(7, Call::new(Op::Nop, [])) };
        let failed = Completion { key: 7, value: -i64::from(libc::EIO) };
        assert_eq!(vec![failed], collect(&mut pool, 1));
        // SAFETY: as above.
        unsafe { pool.start(8, Call::new(Op::Nop, [])) };
        assert_eq!(8, collect(&mut pool, 1)[0].key);
        assert_eq!(1, pool.shared.lock().n_threads);
    }
}
