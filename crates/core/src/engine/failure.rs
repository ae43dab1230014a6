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
use super::thread::{EngineThread, RESEND_CANCEL_NS, Waits};
use crate::mpsc_queue::MpscQueue;
use crate::syslet::{Run, fd};

/// How long cancelled operations may take to come back; after that their runs are kept for good.
const PATIENCE: Duration = Duration::from_secs(5);

/// The errno of runs that the failed thread could not finish.
const ERRNO: i32 = libc::EIO;

/// Runs that are kept for good, because the kernel may write to their memory at any time.
static LEAKED: MpscQueue<Box<Run>> = MpscQueue::new();

impl<B: Backend> EngineThread<B> {
    /// End all runs and give them back. This relies on nothing of the panicked thread but that its table
    /// tells which operations are in flight.
    pub(super) fn fail(mut self) {
        // From now on senders get their commands back.
        self.queue.extend(self.commands.queue.close());
        let _ = catch_unwind(AssertUnwindSafe(|| self.cancel_in_flight()));
        let mut runs: Vec<_> = self.arrivals.drain(..).collect();
        for message in self.queue.drain(..) {
            match message {
                Command::Run(run) => runs.push(run),
                Command::Runs(more) => runs.extend(more),
                Command::Cancel(_) | Command::CancelGroup(_) | Command::Stop => {}
            }
        }
        runs.iter_mut().for_each(end);
        let mut n_lost = 0;
        for entry in self.entries.drain() {
            let mut run = entry.run;
            if entry.waits.is_in_flight() {
                n_lost += 1;
                lose(&mut run);
            } else {
                if let Waits::Partner(Some(half), _) = entry.waits {
                    fd::close(half);
                }
                end(&mut run);
            }
            runs.push(run);
        }
        self.report(runs.len(), n_lost);
        self.tally.n_failures.fetch_add(1, Relaxed);
        self.tally.n_in_flight.fetch_sub(runs.len(), Relaxed);
        self.ended.append(&mut runs);
        self.give_back();
    }

    /// Cancel the operations in flight, and wait for them.
    fn cancel_in_flight(&mut self) {
        let started = Instant::now();
        loop {
            while let Some(completion) = self.completions.pop() {
                self.handle_completion(completion);
            }
            let in_flight = self.entries.iter().filter(|(_, it)| it.waits.is_in_flight());
            let keys: Vec<_> = in_flight.map(|(key, _)| key as u32).collect();
            if keys.is_empty() || started.elapsed() > PATIENCE {
                return;
            }
            keys.into_iter().for_each(|key| self.backend.cancel(key));
            let deadline_ns = self.backend.now_ns() + RESEND_CANCEL_NS;
            self.backend.wait(Some(deadline_ns), &mut self.completions);
        }
    }

    fn handle_completion(&mut self, Completion { key, value }: Completion) {
        let Some(entry) = self.entries.get_mut(key as usize) else { return };
        let waited = std::mem::replace(&mut entry.waits, Waits::Ready);
        if waited == Waits::Operation && !entry.was_not_done(value) {
            // The run has to know which descriptors the operation has opened or closed.
            let run = &mut entry.run;
            let _ = catch_unwind(AssertUnwindSafe(|| run.complete(value)));
        }
    }

    fn report(&self, n_runs: usize, n_lost: usize) {
        let name = std::thread::current().name().unwrap_or("engine").to_owned();
        let lost = match n_lost {
            0 => String::new(),
            n => format!(" (the memory of {n} of them is leaked: the kernel may still use it)"),
        };
        eprintln!(
            "threadlets: thread '{name}' has panicked with the message above: its {n_runs} programs \
             end with EIO{lost}, others continue, and new ones get another thread. This should not \
             happen; please report it"
        );
    }
}

/// End a run that has no operation in flight.
fn end(run: &mut Box<Run>) {
    if run.end().is_some() {
        return;
    }
    if catch_unwind(AssertUnwindSafe(|| run.abort(ERRNO))).is_err() {
        // Perhaps this run has made the thread fail: keep it, and do not touch it again.
        lose(run);
    }
}

/// Keep a run for good, and put a stand-in in its place.
fn lose(run: &mut Box<Run>) {
    let replacement = run.make_replacement(ERRNO);
    // The queue is never closed, so it takes the run.
    let _ = LEAKED.push(std::mem::replace(run, replacement));
}

impl Waits {
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
    use crate::engine::Tally;
    use crate::engine::backend::Key;
    use crate::engine::command_queue::CommandQueue;
    use crate::syslet::program::{Atom, AtomFlags, NONE, Object, Program, ResultSpec};
    use crate::syslet::{Call, CompletionSink, Op};

    /// Starts every operation, and gives back only cancelled ones; panics at an fsync, or in every wait.
    struct Faulty {
        in_flight: Arc<Mutex<Vec<Key>>>,
        cancelled: Vec<Key>,
        fails_for_good: bool,
    }

    impl Backend for Faulty {
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
    struct Noted {
        in_flight: Arc<Mutex<Vec<Key>>>,
        ended: Mutex<Vec<(u64, i64, bool)>>,
    }

    impl CompletionSink for Noted {
        fn deliver(&self, runs: &mut Vec<Box<Run>>) {
            let n_in_flight = self.in_flight.lock().unwrap().len();
            for run in runs.drain(..) {
                let value = run.end().unwrap().value;
                self.ended.lock().unwrap().push((run.token, value, n_in_flight > 0));
            }
        }
    }

    /// Let a thread fail that has runs of these operations; return what its sink has noted.
    fn fail_with(ops: &[Op], fails_for_good: bool, pool: &Arc<BufferPool>) -> Arc<Noted> {
        let sink = Arc::new(Noted::default());
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
        let tally = Arc::new(Tally::default());
        tally.n_in_flight.store(runs.len(), Relaxed);
        let last = runs.pop().unwrap();
        commands.send(Command::Runs(runs)).unwrap();
        commands.send(Command::Run(last)).unwrap();
        let in_flight = Arc::clone(&sink.in_flight);
        let backend = Faulty { in_flight, cancelled: Vec::new(), fails_for_good };
        EngineThread::new(Arc::clone(&commands), backend, Arc::clone(&tally)).run();
        assert!(commands.send(Command::Stop).is_err());
        assert_eq!((0, 1), (tally.n_in_flight.load(Relaxed), tally.n_failures.load(Relaxed)));
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
