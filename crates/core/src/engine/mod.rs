//! Engines: native threads that continue runs which would block. They never hold the host's lock.
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
const LIGHT_LOAD: usize = 64;

/// A bounded number of native threads, each started when it is needed.
///
/// Dropping the engine stops it.
pub struct Engine {
    kind: EngineKind,
    lanes: Box<[Lane]>,
    locks: Arc<DescriptorLocks>,
    n_ids: AtomicU64,
    is_stopped: AtomicBool,
    is_abandoned: AtomicBool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({}, {} threads)", self.kind, self.lanes.len())
    }
}

/// The place of one thread in the engine; a thread that fails is replaced.
#[derive(Default)]
struct Lane {
    /// The last thread takes runs. Those before it have failed and are about to end.
    threads: Mutex<Vec<RunningEngine>>,
    tally: Arc<Tally>,
}

struct RunningEngine {
    commands: Arc<CommandQueue>,
    thread: JoinHandle<()>,
}

/// Counters of a lane's threads.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    n_in_flight: AtomicUsize,
    n_failures: AtomicUsize,
}

impl Lane {
    fn threads(&self) -> MutexGuard<'_, Vec<RunningEngine>> {
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
            lanes: (0..n_threads).map(|_| Lane::default()).collect(),
            locks: Arc::default(),
            n_ids: AtomicU64::new(1),
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
        self.lanes.len()
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
        self.lanes.iter().map(|lane| lane.tally.n_in_flight.load(Relaxed)).sum()
    }

    /// How many of the engine's threads have failed and were replaced. Their runs have ended with `EIO`.
    pub fn n_failures(&self) -> usize {
        self.lanes.iter().map(|lane| lane.tally.n_failures.load(Relaxed)).sum()
    }

    /// Continue a run on the engine, and return the identity that `cancel` takes. The run goes to its
    /// sink when it has ended. With an error, the run comes back.
    pub fn submit(&self, mut run: Box<Run>) -> std::result::Result<u64, (Error, Box<Run>)> {
        let lane_idx = self.lightest_lane();
        let n_lanes = self.lanes.len() as u64;
        let id = self.n_ids.fetch_add(1, Relaxed) * n_lanes + lane_idx as u64;
        run.id = id;
        match self.send(lane_idx, Command::Run(run), 1) {
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
        let share = runs.len().div_ceil(self.lanes.len()).max(LIGHT_LOAD / 4);
        let mut lane_idx = self.lightest_lane();
        while !runs.is_empty() {
            let part = runs.split_off(runs.len().saturating_sub(share));
            let n_runs = part.len();
            if let Err((error, Command::Runs(part))) =
                self.send(lane_idx, Command::Runs(part), n_runs)
            {
                runs.extend(part);
                return Err((error, runs));
            }
            lane_idx = (lane_idx + 1) % self.lanes.len();
        }
        Ok(())
    }

    /// Have the run with this identity end soon, if it has not ended.
    pub fn cancel(&self, id: u64) {
        if self.is_stopped.load(Relaxed) {
            return;
        }
        let lane = &self.lanes[(id % self.lanes.len() as u64) as usize];
        if let Some(it) = lane.threads().last() {
            // A thread that has ended has no run to cancel.
            let _ = it.commands.send(Command::Cancel(id));
        }
    }

    /// Have all runs of a group end soon. Zero means no group: such runs are not cancelled together.
    pub fn cancel_group(&self, group: u64) {
        if group == 0 || self.is_stopped.load(Relaxed) {
            return;
        }
        for lane in &self.lanes {
            if let Some(it) = lane.threads().last() {
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
        for lane in &self.lanes {
            threads.append(&mut lane.threads());
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

    fn lightest_lane(&self) -> usize {
        let load = |idx: usize| self.lanes[idx].tally.n_in_flight.load(Relaxed);
        if load(0) < LIGHT_LOAD {
            return 0;
        }
        (0..self.lanes.len()).min_by_key(|&idx| load(idx)).unwrap_or(0)
    }

    /// Send a command with `n_runs` runs to a lane's thread; start a thread if there is none that works.
    fn send(
        &self,
        lane_idx: usize,
        mut message: Command,
        n_runs: usize,
    ) -> std::result::Result<(), (Error, Command)> {
        if self.is_stopped.load(Relaxed) {
            return Err((stopped(), message));
        }
        let lane = &self.lanes[lane_idx];
        let mut threads = lane.threads();
        // The engine may have been stopped while this thread waited for the lock.
        if self.is_stopped.load(Relaxed) {
            return Err((stopped(), message));
        }
        let n_in_flight = &lane.tally.n_in_flight;
        n_in_flight.fetch_add(n_runs, Relaxed);
        if let Some(it) = threads.last() {
            match it.commands.send(message) {
                Ok(()) => return Ok(()),
                Err(returned) => message = returned,
            }
        }
        threads.retain(|it| !it.thread.is_finished());
        let error = match self.start_thread(lane_idx) {
            Ok(started) => {
                threads.push(started);
                match threads[threads.len() - 1].commands.send(message) {
                    Ok(()) => return Ok(()),
                    Err(returned) => message = returned,
                }
                // The new thread has failed already.
                Error::new("engine", Errno::IO)
            }
            Err(error) => error,
        };
        n_in_flight.fetch_sub(n_runs, Relaxed);
        Err((error, message))
    }

    fn start_thread(&self, lane_idx: usize) -> Result<RunningEngine> {
        let commands = Arc::new(CommandQueue::new()?);
        let (kind, its_queue) = (self.kind.clone(), Arc::clone(&commands));
        let locks = Arc::clone(&self.locks);
        let tally = Arc::clone(&self.lanes[lane_idx].tally);
        let (sender, receiver) = mpsc::channel();
        let body = move || {
            crate::signals::block();
            match kind {
                EngineKind::Uring => {
                    serve(uring::UringBackend::new(&its_queue), its_queue, tally, &sender)
                }
                EngineKind::Workers => {
                    let backend = epoll::EpollBackend::new(&its_queue, &locks);
                    serve(backend, its_queue, tally, &sender);
                }
                EngineKind::Simulated(simulation) => {
                    let backend = sim::Simulated::new(&its_queue, simulation);
                    serve(backend, its_queue, tally, &sender);
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name(format!("engine-{lane_idx}"))
            .spawn(move || {
                fp::begin_thread();
                body();
            })
            .map_err(|error| Error::from_io("clone", &error))?;
        // A thread that ended without sending an outcome has panicked.
        receiver.recv().unwrap_or(Err(Error::new("engine", Errno::IO)))?;
        Ok(RunningEngine { commands, thread })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
        if *self.is_abandoned.get_mut() {
            // The child of a fork does not have these threads, so a drop must not detach them.
            for lane in &mut self.lanes {
                std::mem::forget(std::mem::take(&mut lane.threads));
            }
        }
    }
}

fn stopped() -> Error {
    Error::new("engine", Errno::SHUTDOWN)
}

fn serve<B: Backend>(
    backend: Result<B>,
    commands: Arc<CommandQueue>,
    tally: Arc<Tally>,
    sender: &mpsc::Sender<Result<()>>,
) {
    match backend {
        Ok(backend) => {
            // `start_thread` keeps the receiver until this arrives.
            let _ = sender.send(Ok(()));
            EngineThread::new(commands, backend, tally).run();
        }
        Err(error) => {
            let _ = sender.send(Err(error));
        }
    }
}
