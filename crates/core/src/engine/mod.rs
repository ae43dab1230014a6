//! Engines: native threads, never with the host's lock, that carry on runs which would block.
//!
//! Each thread has a table of runs, timers and a backend that makes the system calls: an io_uring,
//! worker threads where that is missing or forbidden, or a simulation for tests. Only the backends
//! differ; what a program does, and when it ends, is the same on all of them.

mod backend;
mod hands;
mod inbox;
mod patient;
mod sim;
mod thread;
mod uring;
mod watches;
mod workers;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::fp;
use crate::syslet::Run;
use backend::Backend;
use inbox::{Inbox, Message};
use thread::Thread;

pub use sim::Simulation;

/// What makes an engine's system calls.
#[derive(Debug, Clone)]
pub enum Kind {
    /// An io_uring for each thread.
    Uring,
    /// Worker threads and epoll.
    Workers,
    /// One thread, seeded, with a clock of its own.
    Simulated(Simulation),
}

impl Kind {
    /// The kind's name: `uring`, `workers`, `sim`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Workers => "workers",
            Self::Simulated(_) => "sim",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why io_uring cannot be used here; `None`: it can.
pub fn uring_refusal() -> Option<Error> {
    uring::refusal()
}

/// What to do about a refusal.
pub fn uring_remedy(refusal: Error) -> &'static str {
    match refusal.errno {
        Errno::PERM | Errno::ACCESS => {
            "it is forbidden here (kernel.io_uring_disabled, or a container's seccomp filter); set \
             kernel.io_uring_disabled=0 and allow io_uring_setup, io_uring_enter and \
             io_uring_register, or go on with worker threads (THREADLETS_ENGINE=workers)"
        }
        Errno::NOSYS => {
            "this kernel has none, or one too old; boot Linux 5.15 or later, or go on with worker \
             threads (THREADLETS_ENGINE=workers)"
        }
        Errno::NOMEM => {
            "its memory cannot be locked; raise RLIMIT_MEMLOCK (ulimit -l), or go on with worker \
             threads (THREADLETS_ENGINE=workers)"
        }
        _ => "go on with worker threads (THREADLETS_ENGINE=workers)",
    }
}

/// How many runs one thread takes before the next one gets some.
const LIGHT_LOAD: usize = 64;

/// One native thread for each CPU, started as they are needed.
pub struct Engine {
    kind: Kind,
    lanes: Box<[Lane]>,
    n_named: AtomicU64,
    is_stopped: AtomicBool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({}, {} threads)", self.kind, self.lanes.len())
    }
}

#[derive(Default)]
struct Lane {
    started: Mutex<Option<(Arc<Inbox>, JoinHandle<()>)>>,
    inbox: std::sync::OnceLock<Arc<Inbox>>,
    n_in_flight: Arc<AtomicUsize>,
}

impl Engine {
    /// An engine of this kind, with up to so many threads; none is started yet.
    ///
    /// # Panics
    ///
    /// Without threads.
    pub fn new(kind: Kind, n_threads: usize) -> Self {
        assert!(n_threads > 0, "an engine has at least one thread");
        let n_threads = if matches!(kind, Kind::Simulated(_)) { 1 } else { n_threads };
        let lanes = (0..n_threads).map(|_| Lane::default()).collect();
        Self { kind, lanes, n_named: AtomicU64::new(1), is_stopped: AtomicBool::new(false) }
    }

    /// What makes the system calls.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// How many threads there may be.
    pub fn n_threads(&self) -> usize {
        self.lanes.len()
    }

    /// Whether runs are to be tried where they stand before they are submitted.
    pub fn tries_first(&self) -> bool {
        !matches!(self.kind, Kind::Simulated(_))
    }

    /// Whether many runs are better tried by the engine than where they stand: its system calls take
    /// many at a time.
    pub fn tries_in_bulk(&self) -> bool {
        !matches!(self.kind, Kind::Workers)
    }

    /// How many runs the engine has in its hands.
    pub fn n_in_flight(&self) -> usize {
        self.lanes.iter().map(|lane| lane.n_in_flight.load(Relaxed)).sum()
    }

    /// Have a run carried on, and name it for `cancel`. Its outlet is given it when it has ended.
    pub fn submit(&self, mut run: Box<Run>) -> std::result::Result<u64, (Error, Box<Run>)> {
        if self.is_stopped.load(Relaxed) {
            return Err((stopped(), run));
        }
        let lane_idx = self.lightest_lane();
        let inbox = match self.inbox(lane_idx) {
            Ok(inbox) => inbox,
            Err(error) => return Err((error, run)),
        };
        let n_lanes = self.lanes.len() as u64;
        let id = self.n_named.fetch_add(1, Relaxed) * n_lanes + lane_idx as u64;
        run.id = id;
        let n_in_flight = &self.lanes[lane_idx].n_in_flight;
        n_in_flight.fetch_add(1, Relaxed);
        match inbox.send(Message::Run(run)) {
            Err(Message::Run(run)) => {
                n_in_flight.fetch_sub(1, Relaxed);
                Err((stopped(), run))
            }
            _ => Ok(id),
        }
    }

    /// Have many runs carried on, shared out among the threads. They have no names; `cancel_group`
    /// ends them.
    pub fn submit_many(
        &self,
        mut runs: Vec<Box<Run>>,
    ) -> std::result::Result<(), (Error, Vec<Box<Run>>)> {
        if self.is_stopped.load(Relaxed) {
            return Err((stopped(), runs));
        }
        let share = runs.len().div_ceil(self.lanes.len()).max(LIGHT_LOAD / 4);
        let mut lane_idx = self.lightest_lane();
        while !runs.is_empty() {
            let inbox = match self.inbox(lane_idx) {
                Ok(inbox) => inbox,
                Err(error) => return Err((error, runs)),
            };
            let part = runs.split_off(runs.len().saturating_sub(share));
            let (n_in_flight, n_runs) = (&self.lanes[lane_idx].n_in_flight, part.len());
            n_in_flight.fetch_add(n_runs, Relaxed);
            if let Err(Message::Runs(part)) = inbox.send(Message::Runs(part)) {
                n_in_flight.fetch_sub(n_runs, Relaxed);
                runs.extend(part);
                return Err((stopped(), runs));
            }
            lane_idx = (lane_idx + 1) % self.lanes.len();
        }
        Ok(())
    }

    /// End the run with this name soon, if it has not ended.
    pub fn cancel(&self, id: u64) {
        if self.is_stopped.load(Relaxed) {
            return;
        }
        let lane = &self.lanes[(id % self.lanes.len() as u64) as usize];
        if let Some(inbox) = lane.inbox.get() {
            // Whoever has ended has nothing to cancel.
            let _ = inbox.send(Message::Cancel(id));
        }
    }

    /// End all runs of a group soon.
    pub fn cancel_group(&self, group: u64) {
        if self.is_stopped.load(Relaxed) {
            return;
        }
        for inbox in self.lanes.iter().filter_map(|lane| lane.inbox.get()) {
            let _ = inbox.send(Message::CancelGroup(group));
        }
    }

    /// End all runs, and the threads; returns when the last one has ended.
    pub fn stop(&self) {
        self.is_stopped.store(true, Relaxed);
        let mut threads = Vec::new();
        for lane in &self.lanes {
            let started = lane.started.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((inbox, thread)) = started {
                let _ = inbox.send(Message::Stop);
                threads.push(thread);
            }
        }
        for thread in threads {
            // A thread that panicked has said so; there is nothing to be done about it here.
            let _ = thread.join();
        }
    }

    /// In the child of a fork: the threads are the parent's. Take no more runs, touch nothing that they
    /// may have locked.
    pub fn abandon(&self) {
        self.is_stopped.store(true, Relaxed);
    }

    fn lightest_lane(&self) -> usize {
        let load = |idx: usize| self.lanes[idx].n_in_flight.load(Relaxed);
        if load(0) < LIGHT_LOAD {
            return 0;
        }
        (0..self.lanes.len()).min_by_key(|&idx| load(idx)).unwrap_or(0)
    }

    /// The inbox of a lane, whose thread is started if it is not running.
    fn inbox(&self, lane_idx: usize) -> Result<&Arc<Inbox>> {
        let lane = &self.lanes[lane_idx];
        if let Some(inbox) = lane.inbox.get() {
            return Ok(inbox);
        }
        let mut started = lane.started.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_stopped.load(Relaxed) {
            return Err(stopped());
        }
        if started.is_none() {
            *started = Some(self.start_thread(lane_idx)?);
        }
        let Some((inbox, _)) = &*started else { unreachable!("it was started just now") };
        Ok(lane.inbox.get_or_init(|| Arc::clone(inbox)))
    }

    fn start_thread(&self, lane_idx: usize) -> Result<(Arc<Inbox>, JoinHandle<()>)> {
        let inbox = Arc::new(Inbox::new()?);
        let (kind, its_inbox) = (self.kind.clone(), Arc::clone(&inbox));
        let n_in_flight = Arc::clone(&self.lanes[lane_idx].n_in_flight);
        let (sender, receiver) = mpsc::channel();
        let body = move || {
            ignore_signals();
            match kind {
                Kind::Uring => serve(uring::Ring::new(&its_inbox), its_inbox, n_in_flight, &sender),
                Kind::Workers => {
                    serve(workers::Workers::new(&its_inbox), its_inbox, n_in_flight, &sender);
                }
                Kind::Simulated(simulation) => {
                    let backend = sim::Simulated::new(&its_inbox, simulation);
                    serve(backend, its_inbox, n_in_flight, &sender);
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
        // A thread that ended without a word has panicked.
        receiver.recv().unwrap_or(Err(Error::new("engine", Errno::IO)))?;
        Ok((inbox, thread))
    }
}

fn stopped() -> Error {
    Error::new("engine", Errno::SHUTDOWN)
}

fn serve<B: Backend>(
    backend: Result<B>,
    inbox: Arc<Inbox>,
    n_in_flight: Arc<AtomicUsize>,
    sender: &mpsc::Sender<Result<()>>,
) {
    match backend {
        Ok(backend) => {
            // Whoever waits for this is there until it comes.
            let _ = sender.send(Ok(()));
            Thread::new(inbox, backend, n_in_flight).run();
        }
        Err(error) => {
            let _ = sender.send(Err(error));
        }
    }
}

/// Leave signals to the host's threads, which know what to do about them.
pub(crate) fn ignore_signals() {
    // SAFETY: a set of all signals, made and used here.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        // What the thread does to itself ends the process, and the host may have a word on it.
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
            libc::sigdelset(&raw mut all, fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}
