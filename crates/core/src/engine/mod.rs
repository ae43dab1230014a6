//! Engines: native threads that continue runs which would block.
//!
//! They never hold the host's lock (the GIL), and drop nothing that could need it: they run while Python code does,
//! and would wait for it otherwise; a fork may stop them at any instruction, so they share no lock with others; and
//! one that panics takes down nothing that it does not own. What they end goes into queues.
//!
//! Each thread has a table of runs, timers and a backend that makes the system calls: an io_uring,
//! epoll with a blocking pool where io_uring is missing or forbidden, or a simulation for tests.
//! Only the backends differ: a program has the same effects and the same end on all of them.

mod backend;
mod blocking;
mod blocking_pool;
mod command_queue;
mod epoll;
mod epoll_set;
mod failure;
mod sim;
mod thread;
mod uring;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::fp;
use crate::syslet::Run;
use backend::Backend;
use blocking::DescriptorLocks;
use command_queue::{Command, CommandQueue};
use thread::EngineThread;

pub use sim::Simulation;

/// The kind of backend that makes an engine's system calls.
#[derive(Debug, Clone)]
pub enum EngineKind {
    /// An io_uring for each thread.
    Uring,
    /// Epoll and a blocking pool for each thread.
    Workers,
    /// One thread, for which a seed decides the order of events, with a clock of its own.
    Simulated(Simulation),
}

impl EngineKind {
    /// The kind's name: `uring`, `workers` or `sim`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Workers => "workers",
            Self::Simulated(_) => "sim",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The reason why io_uring cannot be used here; `None` if it can.
pub fn uring_refusal() -> Option<Error> {
    uring::refusal()
}

/// The optional setup flags with which this kernel's rings are used; none before Linux 6.1.
pub fn uring_features() -> Vec<&'static str> {
    uring::features()
}

/// What a user can do about a refusal.
pub fn uring_remedy(refusal: Error) -> &'static str {
    match refusal.errno {
        Errno::PERM | Errno::ACCESS => {
            "it is forbidden here (kernel.io_uring_disabled, or a container's seccomp filter); set \
             kernel.io_uring_disabled=0 and allow io_uring_setup, io_uring_enter and \
             io_uring_register, or use worker threads (THREADLETS_ENGINE=workers)"
        }
        Errno::NOSYS => {
            "this kernel has no io_uring, or one that is too old; boot Linux 5.15 or later, or use \
             worker threads (THREADLETS_ENGINE=workers)"
        }
        Errno::NOMEM => {
            "the memory of a ring cannot be locked; raise RLIMIT_MEMLOCK (ulimit -l), or use worker \
             threads (THREADLETS_ENGINE=workers)"
        }
        _ => "use worker threads (THREADLETS_ENGINE=workers)",
    }
}

/// How many runs the first thread may have in flight before runs are spread over all threads.
const FIRST_SHARD_RUNS_MAX: usize = 64;

/// A bounded number of native threads, each started when it is needed.
///
/// Dropping the engine stops it.
pub struct Engine {
    kind: EngineKind,
    shards: Box<[Shard]>,
    locks: Arc<DescriptorLocks>,
    next_id: AtomicU64,
    is_stopped: AtomicBool,
    is_abandoned: AtomicBool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({}, {} threads)", self.kind, self.shards.len())
    }
}

/// A part of an engine, with a thread of its own; a thread that fails is replaced.
#[derive(Default)]
struct Shard {
    /// The last thread takes runs. Those before it have failed and are about to end.
    threads: Mutex<Vec<EngineThreadHandle>>,
    counters: Arc<EngineCounters>,
}

struct EngineThreadHandle {
    commands: Arc<CommandQueue>,
    thread: JoinHandle<()>,
}

/// Counters of a shard's threads.
#[derive(Debug, Default)]
pub(crate) struct EngineCounters {
    n_in_flight: AtomicUsize,
    n_failures: AtomicUsize,
}

impl Shard {
    fn threads(&self) -> MutexGuard<'_, Vec<EngineThreadHandle>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Create an engine with up to `n_threads` threads (a simulation has one); none is started yet.
    ///
    /// # Panics
    ///
    /// If `n_threads` is zero.
    pub fn new(kind: EngineKind, n_threads: usize) -> Self {
        assert!(n_threads > 0, "an engine has at least one thread");
        let n_threads = if matches!(kind, EngineKind::Simulated(_)) { 1 } else { n_threads };
        Self {
            kind,
            shards: (0..n_threads).map(|_| Shard::default()).collect(),
            locks: Arc::default(),
            next_id: AtomicU64::new(1),
            is_stopped: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
        }
    }

    /// The engine's kind.
    pub fn kind(&self) -> &EngineKind {
        &self.kind
    }

    /// How many threads the engine may start.
    pub fn n_threads(&self) -> usize {
        self.shards.len()
    }

    /// Whether a caller should try a run inline before it submits the run.
    pub fn tries_first(&self) -> bool {
        !matches!(self.kind, EngineKind::Simulated(_))
    }

    /// Whether many runs are better tried by the engine than inline, because one of its system calls
    /// takes many operations.
    pub fn tries_in_bulk(&self) -> bool {
        !matches!(self.kind, EngineKind::Workers)
    }

    /// How many runs have been submitted and have not ended.
    pub fn n_in_flight(&self) -> usize {
        self.shards.iter().map(|shard| shard.counters.n_in_flight.load(Relaxed)).sum()
    }

    /// How many of the engine's threads have failed and were replaced. Their runs have ended with `EIO`.
    pub fn n_failures(&self) -> usize {
        self.shards.iter().map(|shard| shard.counters.n_failures.load(Relaxed)).sum()
    }

    /// Continue a run on the engine, and return the identity that `cancel` takes. The run goes to its
    /// sink when it has ended. With an error, the run comes back.
    pub fn submit(&self, mut run: Box<Run>) -> std::result::Result<u64, (Error, Box<Run>)> {
        let shard_idx = self.lightest_shard();
        let n_shards = self.shards.len() as u64;
        let id = self.next_id.fetch_add(1, Relaxed) * n_shards + shard_idx as u64;
        run.id = id;
        match self.send(shard_idx, Command::Run(run), 1) {
            Err((error, Command::Run(run))) => Err((error, run)),
            _ => Ok(id),
        }
    }

    /// Continue many runs, divided among the threads. They get no identities; `cancel_group` ends
    /// them. With an error, the runs that were not taken come back.
    pub fn submit_many(
        &self,
        mut runs: Vec<Box<Run>>,
    ) -> std::result::Result<(), (Error, Vec<Box<Run>>)> {
        let share = runs.len().div_ceil(self.shards.len()).max(FIRST_SHARD_RUNS_MAX / 4);
        let mut shard_idx = self.lightest_shard();
        while !runs.is_empty() {
            let part = runs.split_off(runs.len().saturating_sub(share));
            let n_runs = part.len();
            if let Err((error, Command::Runs(part))) =
                self.send(shard_idx, Command::Runs(part), n_runs)
            {
                runs.extend(part);
                return Err((error, runs));
            }
            shard_idx = (shard_idx + 1) % self.shards.len();
        }
        Ok(())
    }

    /// Have the run with this identity end soon, if it has not ended.
    pub fn cancel(&self, id: u64) {
        if self.is_stopped.load(Relaxed) {
            return;
        }
        let shard = &self.shards[(id % self.shards.len() as u64) as usize];
        if let Some(it) = shard.threads().last() {
            // A thread that has ended has no run to cancel.
            let _ = it.commands.send(Command::Cancel(id));
        }
    }

    /// Have all runs of a group end soon. Zero means no group: such runs are not cancelled together.
    pub fn cancel_group(&self, group: u64) {
        if group == 0 || self.is_stopped.load(Relaxed) {
            return;
        }
        for shard in &self.shards {
            if let Some(it) = shard.threads().last() {
                let _ = it.commands.send(Command::CancelGroup(group));
            }
        }
    }

    /// End all runs and threads, and return when the last thread has ended.
    ///
    /// A thread of the engine that calls this from a sink does not wait for itself.
    pub fn stop(&self) {
        self.is_stopped.store(true, Relaxed);
        if self.is_abandoned.load(Relaxed) {
            return;
        }
        let mut threads = Vec::new();
        for shard in &self.shards {
            threads.append(&mut shard.threads());
        }
        for it in &threads {
            let _ = it.commands.send(Command::Stop);
        }
        for it in threads {
            if it.thread.thread().id() != std::thread::current().id() {
                // The thread itself has reported a panic; nothing is left to do about it here.
                let _ = it.thread.join();
            }
        }
    }

    /// Give the engine up in the child of a fork, which does not have its threads: take no more runs,
    /// and touch nothing that those threads may have locked.
    pub fn abandon(&self) {
        self.is_stopped.store(true, Relaxed);
        self.is_abandoned.store(true, Relaxed);
    }

    fn lightest_shard(&self) -> usize {
        let load = |idx: usize| self.shards[idx].counters.n_in_flight.load(Relaxed);
        if load(0) < FIRST_SHARD_RUNS_MAX {
            return 0;
        }
        (0..self.shards.len()).min_by_key(|&idx| load(idx)).unwrap_or(0)
    }

    /// Send a command with `n_runs` runs to a shard's thread; start a thread if there is none that works.
    fn send(
        &self,
        shard_idx: usize,
        mut command: Command,
        n_runs: usize,
    ) -> std::result::Result<(), (Error, Command)> {
        if self.is_stopped.load(Relaxed) {
            return Err((stopped_error(), command));
        }
        let shard = &self.shards[shard_idx];
        let mut threads = shard.threads();
        // The engine may have been stopped while this thread waited for the lock.
        if self.is_stopped.load(Relaxed) {
            return Err((stopped_error(), command));
        }
        let n_in_flight = &shard.counters.n_in_flight;
        n_in_flight.fetch_add(n_runs, Relaxed);
        if let Some(it) = threads.last() {
            match it.commands.send(command) {
                Ok(()) => return Ok(()),
                Err(returned) => command = returned,
            }
        }
        threads.retain(|it| !it.thread.is_finished());
        let error = match self.start_thread(shard_idx) {
            Ok(started) => {
                threads.push(started);
                match threads[threads.len() - 1].commands.send(command) {
                    Ok(()) => return Ok(()),
                    Err(returned) => command = returned,
                }
                // The new thread has failed already.
                Error::new("engine", Errno::IO)
            }
            Err(error) => error,
        };
        n_in_flight.fetch_sub(n_runs, Relaxed);
        Err((error, command))
    }

    fn start_thread(&self, shard_idx: usize) -> Result<EngineThreadHandle> {
        let commands = Arc::new(CommandQueue::new()?);
        let (kind, its_commands) = (self.kind.clone(), Arc::clone(&commands));
        let locks = Arc::clone(&self.locks);
        let counters = Arc::clone(&self.shards[shard_idx].counters);
        let (sender, receiver) = mpsc::channel();
        let body = move || {
            crate::signals::block();
            match kind {
                EngineKind::Uring => run_thread(
                    uring::UringBackend::new(&its_commands),
                    its_commands,
                    counters,
                    &sender,
                ),
                EngineKind::Workers => {
                    let backend = epoll::EpollBackend::new(&its_commands, &locks);
                    run_thread(backend, its_commands, counters, &sender);
                }
                EngineKind::Simulated(simulation) => {
                    let backend = sim::SimulatedBackend::new(&its_commands, simulation);
                    run_thread(backend, its_commands, counters, &sender);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("engine-{shard_idx}"))
            .spawn(move || {
                fp::begin_thread();
                body();
            })
            .map_err(|error| Error::from_io("clone", &error))?;
        // A thread that ended without sending an outcome has panicked.
        receiver.recv().unwrap_or(Err(Error::new("engine", Errno::IO)))?;
        Ok(EngineThreadHandle { commands, thread })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
        if *self.is_abandoned.get_mut() {
            // The child of a fork does not have these threads, so a drop must not detach them.
            for shard in &mut self.shards {
                std::mem::forget(std::mem::take(&mut shard.threads));
            }
        }
    }
}

fn stopped_error() -> Error {
    Error::new("engine", Errno::SHUTDOWN)
}

fn run_thread<B: Backend>(
    backend: Result<B>,
    commands: Arc<CommandQueue>,
    counters: Arc<EngineCounters>,
    sender: &mpsc::Sender<Result<()>>,
) {
    match backend {
        Ok(backend) => {
            // `start_thread` keeps the receiver until this arrives.
            let _ = sender.send(Ok(()));
            EngineThread::new(commands, backend, counters).run();
        }
        Err(error) => {
            let _ = sender.send(Err(error));
        }
    }
}
