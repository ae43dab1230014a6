//! When an engine's thread fails: it has panicked, which is a bug of ours or a kernel that breaks its
//! word. Its runs come out all the same, ended with `EIO`, and the next ones get another thread.
//!
//! What is in flight is called back first. What does not come back keeps its memory for good, since the
//! kernel may write to it at any time: another run comes out in its place.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::backend::{Backend, Completion};
use super::command_queue::Command;
use super::thread::{EngineThread, Waits};
use crate::mpsc_queue::MpscQueue;
use crate::syslet::{Op, Run, syscall};

/// How long operations may take to come back.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait before they are cancelled again, in nanoseconds.
const RESEND_CANCEL_NS: u64 = 10_000_000;

/// How runs end that the thread could not carry on.
const ERRNO: i32 = libc::EIO;

/// Runs whose memory may be written to at any time: here they stay.
static LOST: MpscQueue<Box<Run>> = MpscQueue::new();

impl<B: Backend> EngineThread<B> {
    /// Give everything back, ended. Nothing is taken for granted but that what is in flight is known.
    pub(super) fn fail(mut self) {
        // Whoever sends something from now on is told that we are gone.
        self.queue.extend(self.commands.queue.close());
        let _ = catch_unwind(AssertUnwindSafe(|| self.call_back()));
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
                    syscall::close(half);
                }
                end(&mut run);
            }
            runs.push(run);
        }
        self.say_so(runs.len(), n_lost);
        self.tally.n_failures.fetch_add(1, Relaxed);
        self.tally.n_in_flight.fetch_sub(runs.len(), Relaxed);
        self.ended.append(&mut runs);
        self.give_back();
    }

    /// Cancel what is in flight, and wait for it.
    fn call_back(&mut self) {
        let started = Instant::now();
        loop {
            while let Some(completion) = self.completions.pop() {
                self.note_back(completion);
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

    fn note_back(&mut self, Completion { key, value }: Completion) {
        let Some(entry) = self.entries.get_mut(key as usize) else { return };
        let waited = std::mem::replace(&mut entry.waits, Waits::Turn);
        let is_undone = [libc::ECANCELED, libc::EINTR, libc::EAGAIN].contains(&(-value as i32));
        if waited == Waits::Operation && (!is_undone || entry.run.op() == Op::Close) {
            // What it has opened or closed is to be known.
            let run = &mut entry.run;
            let _ = catch_unwind(AssertUnwindSafe(|| run.complete(value)));
        }
    }

    fn say_so(&self, n_runs: usize, n_lost: usize) {
        let name = std::thread::current().name().unwrap_or("engine").to_owned();
        let lost = match n_lost {
            0 => String::new(),
            n => format!(", the memory of {n} of them is lost to the kernel"),
        };
        eprintln!(
            "threadlets: thread '{name}' has failed, as told above: its {n_runs} programs end with \
             EIO{lost}, others go on, and the next ones get another thread. It should not happen; \
             please report it"
        );
    }
}

/// End a run that nothing is in flight for.
fn end(run: &mut Box<Run>) {
    if run.end().is_some() {
        return;
    }
    if catch_unwind(AssertUnwindSafe(|| run.give_up(ERRNO))).is_err() {
        // Perhaps it was this one that made the thread fail: do not look at it again.
        lose(run);
    }
}

/// Keep a run for good, and have another one come out in its place.
fn lose(run: &mut Box<Run>) {
    let stand_in = run.stand_in(ERRNO);
    // It is never closed.
    let _ = LOST.push(std::mem::replace(run, stand_in));
}

impl Waits {
    /// Whether the backend has something of the run's.
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
    use crate::syslet::{Call, CompletionSink};

    /// Starts everything, and gives back only what is cancelled; fails when it is told to.
    struct Faulty {
        in_flight: Arc<Mutex<Vec<Key>>>,
        cancelled: Vec<Key>,
        fails_for_good: bool,
    }

    impl Backend for Faulty {
        unsafe fn start(&mut self, key: Key, call: Call) {
            self.in_flight.lock().unwrap().push(key);
            assert_ne!(Op::Fsync, call.op(), "the backend fails, as it is told to");
        }

        fn cancel(&mut self, key: Key) {
            self.cancelled.push(key);
        }

        fn wait(&mut self, _deadline_ns: Option<u64>, completions: &mut Vec<Completion>) {
            assert!(!self.fails_for_good, "the backend fails, as it is told to");
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

    /// Notes which runs came out, how, and whether anything was in flight then.
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

    /// A thread that fails, and has these operations to carry on; what came of it.
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
    fn what_a_failing_thread_has_in_flight_is_called_back_before_its_runs_come_out() {
        let pool = Arc::new(BufferPool::new(1 << 20));
        let sink = fail_with(&[Op::Recv, Op::Fsync, Op::Recv], false, &pool);
        let mut ended = std::mem::take(&mut *sink.ended.lock().unwrap());
        ended.sort();
        let errno = -i64::from(ERRNO);
        assert_eq!(vec![(0, errno, false), (1, errno, false), (2, errno, false)], ended);
        assert_eq!(0, pool.in_use_bytes());
    }

    #[test]
    fn what_does_not_come_back_keeps_its_memory_and_its_run_ends_all_the_same() {
        let pool = Arc::new(BufferPool::new(1 << 20));
        let sink = fail_with(&[Op::Recv, Op::Recv], true, &pool);
        let mut ended = std::mem::take(&mut *sink.ended.lock().unwrap());
        ended.sort();
        let errno = -i64::from(ERRNO);
        assert_eq!(vec![(0, errno, true), (1, errno, true)], ended);
        assert!(pool.in_use_bytes() >= 200);
    }
}
