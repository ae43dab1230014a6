//! Failure of an engine's thread: it has panicked, because of a bug of ours or because the kernel breaks
//! its promises. Its runs still come out, ended with `EIO`, and later runs get another thread.
//!
//! Operations in flight are cancelled first. If one does not come back, its run keeps its memory for
//! good, since the kernel may write to it at any time, and another run comes out in its place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::backend::{Backend, Completion};
use super::command_queue::Command;
use super::thread::{EngineThread, RESEND_CANCEL_NS, WaitingFor};
use crate::mpsc_queue::MpscQueue;
use crate::syslet::{Run, fd};

/// How long cancelled operations may take to come back; after that their runs are kept for good.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// The errno of runs that the failed thread could not finish.
const ERRNO: i32 = libc::EIO;

/// Runs that are kept for good, because the kernel may write to their memory at any time.
static LEAKED: MpscQueue<Box<Run>> = MpscQueue::new();

impl<B: Backend> EngineThread<B> {
    /// End all runs, and deliver them. This relies on nothing of the panicked thread but that its table
    /// tells which operations are in flight.
    pub(super) fn fail(mut self) {
        // From now on senders get their commands back.
        self.taken_commands.extend(self.commands.queue.close());
        let _ = catch_unwind(AssertUnwindSafe(|| self.cancel_in_flight()));
        let mut runs: Vec<_> = self.unadmitted_runs.drain(..).collect();
        for command in self.taken_commands.drain(..) {
            match command {
                Command::Run(run) => runs.push(run),
                Command::Runs(more) => runs.extend(more),
                Command::Cancel(_) | Command::CancelGroup(_) | Command::Stop => {}
            }
        }
        runs.iter_mut().for_each(end_run);
        let mut n_leaked = 0;
        for entry in self.entries.drain() {
            let mut run = entry.run;
            if entry.waiting_for.is_in_flight() {
                n_leaked += 1;
                leak(&mut run);
            } else {
                if let WaitingFor::OtherEnd(Some(our_end), _) = entry.waiting_for {
                    fd::close(our_end);
                }
                end_run(&mut run);
            }
            runs.push(run);
        }
        self.report(runs.len(), n_leaked);
        self.counters.n_failures.fetch_add(1, Relaxed);
        self.counters.n_in_flight.fetch_sub(runs.len(), Relaxed);
        self.ended.append(&mut runs);
        self.deliver_ended();
    }

    /// Cancel the operations in flight, and wait for them.
    fn cancel_in_flight(&mut self) {
        let started = Instant::now();
        loop {
            while let Some(completion) = self.completions.pop() {
                self.record_completion(completion);
            }
            let in_flight = self.entries.iter().filter(|(_, it)| it.waiting_for.is_in_flight());
            let keys: Vec<_> = in_flight.map(|(key, _)| key as u32).collect();
            if keys.is_empty() || started.elapsed() > CANCEL_TIMEOUT {
                return;
            }
            keys.into_iter().for_each(|key| self.backend.cancel(key));
            let deadline_ns = self.backend.now_ns() + RESEND_CANCEL_NS;
            self.backend.wait(Some(deadline_ns), &mut self.completions);
        }
    }

    fn record_completion(&mut self, Completion { key, value }: Completion) {
        let Some(entry) = self.entries.get_mut(key as usize) else { return };
        let waiting_for = std::mem::replace(&mut entry.waiting_for, WaitingFor::NextTick);
        if waiting_for == WaitingFor::Operation && !entry.did_nothing(value) {
            // The run has to know which descriptors the operation has opened or closed.
            let run = &mut entry.run;
            let _ = catch_unwind(AssertUnwindSafe(|| run.complete(value)));
        }
    }

    fn report(&self, n_runs: usize, n_leaked: usize) {
        let name = std::thread::current().name().unwrap_or("engine").to_owned();
        let leaked = match n_leaked {
            0 => String::new(),
            n => format!(" (the memory of {n} of them is leaked: the kernel may still use it)"),
        };
        eprintln!(
            "threadlets: thread '{name}' has panicked with the message above: its {n_runs} programs \
             end with EIO{leaked}, others continue, and new ones get another thread. This should not \
             happen; please report it"
        );
    }
}

/// End a run that has no operation in flight.
fn end_run(run: &mut Box<Run>) {
    if run.end().is_some() {
        return;
    }
    if catch_unwind(AssertUnwindSafe(|| run.abort(ERRNO))).is_err() {
        // Perhaps this run has made the thread fail: keep it, and do not touch it again.
        leak(run);
    }
}

/// Keep a run for good, and put a replacement in its place.
fn leak(run: &mut Box<Run>) {
    let replacement = run.make_replacement(ERRNO);
    // The queue is never closed, so it takes the run.
    let _ = LEAKED.push(std::mem::replace(run, replacement));
}

impl WaitingFor {
    /// Whether the backend has an operation of the run.
    fn is_in_flight(self) -> bool {
        matches!(self, Self::Operation | Self::Readiness | Self::Connection)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::buffers::BufferPool;
    use crate::clock;
    use crate::engine::EngineCounters;
    use crate::engine::backend::Key;
    use crate::engine::command_queue::CommandQueue;
    use crate::syslet::program::{Atom, AtomFlags, NONE, Object, Program, ResultSpec};
    use crate::syslet::{Call, CompletionSink, Op};

    /// Starts every operation, and gives back only cancelled ones; panics at an fsync, or in every wait.
    struct FaultyBackend {
        in_flight: Arc<Mutex<Vec<Key>>>,
        cancelled: Vec<Key>,
        fails_for_good: bool,
    }

    impl Backend for FaultyBackend {
        unsafe fn start(&mut self, key: Key, call: Call) {
            self.in_flight.lock().unwrap().push(key);
            assert_ne!(Op::Fsync, call.op(), "the backend panics, as the test wants");
        }

        fn cancel(&mut self, key: Key) {
            self.cancelled.push(key);
        }

        fn wait(&mut self, _deadline_ns: Option<u64>, completions: &mut Vec<Completion>) {
            assert!(!self.fails_for_good, "the backend panics, as the test wants");
            for key in self.cancelled.drain(..) {
                self.in_flight.lock().unwrap().retain(|it| *it != key);
                completions.push(Completion { key, value: -i64::from(libc::ECANCELED) });
            }
        }

        fn now_ns(&self) -> u64 {
            clock::now_ns()
        }

        fn waits_for_readiness(&self) -> bool {
            false
        }

        fn tries_first(&self) -> bool {
            false
        }
    }

    /// Notes which runs came out, their values, and whether operations were in flight then.
    #[derive(Default)]
    struct RecordingSink {
        in_flight: Arc<Mutex<Vec<Key>>>,
        ended: Mutex<Vec<(u64, i64, bool)>>,
    }

    impl CompletionSink for RecordingSink {
        fn deliver(&self, runs: &mut Vec<Box<Run>>) {
            let n_in_flight = self.in_flight.lock().unwrap().len();
            for run in runs.drain(..) {
                let value = run.end().unwrap().value;
                self.ended.lock().unwrap().push((run.token, value, n_in_flight > 0));
            }
        }
    }

    /// Let a thread fail that has runs of these operations; return what its sink has noted.
    fn fail_with(ops: &[Op], fails_for_good: bool, pool: &Arc<BufferPool>) -> Arc<RecordingSink> {
        let sink = Arc::new(RecordingSink::default());
        let commands = Arc::new(CommandQueue::new().unwrap());
        let runs = ops.iter().enumerate().map(|(idx, &op)| {
            let words = if op == Op::Recv { [0, 0, NONE, NONE, 2] } else { [0; 5] };
            let mut atom = Atom { op, words: [NONE; 6], result: NONE, next: NONE, ..ATOM };
            let n_words: usize = op.operands().iter().map(|it| it.n_words()).sum();
            atom.words[..n_words].copy_from_slice(&words[..n_words]);
            let (slots, objects) = (vec![-1, 100, 0], vec![Object::Buffer(1)]);
            let program = Program::new(vec![atom], slots, objects, vec![ResultSpec::Atom]).unwrap();
            let mut run = Box::new(Run::new(Arc::new(program), Arc::clone(pool)));
            run.token = idx as u64;
            run.sink = Some(Arc::clone(&sink) as Arc<dyn CompletionSink>);
            run
        });
        let mut runs: Vec<_> = runs.collect();
        let counters = Arc::new(EngineCounters::default());
        counters.n_in_flight.store(runs.len(), Relaxed);
        let last = runs.pop().unwrap();
        commands.send(Command::Runs(runs)).unwrap();
        commands.send(Command::Run(last)).unwrap();
        let in_flight = Arc::clone(&sink.in_flight);
        let backend = FaultyBackend { in_flight, cancelled: Vec::new(), fails_for_good };
        EngineThread::new(Arc::clone(&commands), backend, Arc::clone(&counters)).run();
        assert!(commands.send(Command::Stop).is_err());
        assert_eq!((0, 1), (counters.n_in_flight.load(Relaxed), counters.n_failures.load(Relaxed)));
        sink
    }

    const ATOM: Atom = Atom {
        op: Op::Nop,
        words: [NONE; 6],
        result: NONE,
        next: NONE,
        flags: AtomFlags::STOP_ON_NEGATIVE,
        outcome: 0,
    };

    #[test]
    fn a_failing_thread_gets_its_operations_back_before_its_runs_come_out() {
        let pool = Arc::new(BufferPool::new(1 << 20));
        let sink = fail_with(&[Op::Recv, Op::Fsync, Op::Recv], false, &pool);
        let mut ended = std::mem::take(&mut *sink.ended.lock().unwrap());
        ended.sort();
        let errno = -i64::from(ERRNO);
        assert_eq!(vec![(0, errno, false), (1, errno, false), (2, errno, false)], ended);
        assert_eq!(0, pool.in_use_bytes());
    }

    #[test]
    fn a_run_that_does_not_come_back_keeps_its_memory_and_a_stand_in_ends() {
        let pool = Arc::new(BufferPool::new(1 << 20));
        let sink = fail_with(&[Op::Recv, Op::Recv], true, &pool);
        let mut ended = std::mem::take(&mut *sink.ended.lock().unwrap());
        ended.sort();
        let errno = -i64::from(ERRNO);
        assert_eq!(vec![(0, errno, true), (1, errno, true)], ended);
        assert!(pool.in_use_bytes() >= 200);
    }
}
