//! The inline executor: it advances a run on the calling thread, for as long as nothing blocks.

use super::op::Op;
use super::program::AtomFlags;
use super::run::{Flow, Run};
use super::syscall::{self, AttemptOutcome};

/// Why the inline executor stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The run has ended.
    Ended,
    /// The current atom would block, or must be queued without an attempt.
    WouldBlock,
    /// The budget is spent; the run can continue.
    BudgetSpent,
}

/// How much a run may do in one call of [`advance`].
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// How many atoms may be executed.
    pub atoms: usize,
    /// How many bytes may be moved, and how many an atom may ask for at once.
    pub bytes: usize,
    /// Whether operations are tried before their descriptors are known to be ready.
    pub tries_first: bool,
}

impl Budget {
    /// For a thread on which other work waits: well below a millisecond.
    pub const SHARED_THREAD: Self = Self { atoms: 256, bytes: 1024 * 1024, tries_first: true };
    /// For a thread on which no other work is urgent: any number of bytes.
    pub const OWN_THREAD: Self = Self { atoms: 256, bytes: usize::MAX, tries_first: true };
}

/// Run atoms until one would block, the program ends, or the budget is spent.
pub fn advance(run: &mut Run, budget: Budget) -> Stopped {
    let mut bytes_left = budget.bytes;
    for _ in 0..budget.atoms {
        let flow = match run.compute() {
            Some(value) => run.complete(value),
            None => match attempt(run, budget.tries_first, &mut bytes_left) {
                Ok(flow) => flow,
                Err(stopped) => return stopped,
            },
        };
        if flow == Flow::Ended {
            return Stopped::Ended;
        }
    }
    Stopped::BudgetSpent
}

/// Try the current atom.
fn attempt(run: &mut Run, tries_first: bool, bytes_left: &mut usize) -> Result<Flow, Stopped> {
    if run.flags().has(AtomFlags::SYNC) {
        return Ok(perform(run, false));
    }
    if !run.should_try(tries_first) {
        run.note_blocked();
        return Err(Stopped::WouldBlock);
    }
    let call = match run.prepare() {
        Ok(call) => call,
        Err(errno) => return Ok(run.complete(i64::from(errno))),
    };
    if call.n_bytes() > *bytes_left {
        return Err(Stopped::BudgetSpent);
    }
    // SAFETY: the run has just looked up the addresses in its own memory, and nothing changes that
    // before the call returns.
    match unsafe { syscall::attempt(&call) } {
        AttemptOutcome::Done(n_read)
            if matches!(call.op, Op::Read | Op::Pread | Op::Readv)
                // SAFETY: as above.
                && unsafe { run.may_be_cut_by_cache(&call, n_read) } =>
        {
            run.note_progress(n_read);
            attempt(run, tries_first, bytes_left)
        }
        AttemptOutcome::Done(value) => {
            if call.n_bytes() > 0 && value > 0 {
                *bytes_left -= (value as usize).min(*bytes_left);
            }
            Ok(run.complete(value))
        }
        AttemptOutcome::OpenedNonBlocking(value) => Ok(run.complete_non_blocking_open(value)),
        AttemptOutcome::WouldBlock => {
            run.note_blocked();
            Err(Stopped::WouldBlock)
        }
    }
}

/// Make the current atom's call, for as long as it takes. A signal ends it if it `is_interruptible`;
/// then the same atom has to be performed again.
fn perform(run: &mut Run, is_interruptible: bool) -> Flow {
    run.make_descriptors_blocking();
    let mut call = match run.prepare() {
        Ok(call) => call,
        Err(errno) => return run.complete(i64::from(errno)),
    };
    if call.op == Op::Timeout {
        let now_ns = crate::clock::now_ns();
        // An absolute time, so that a time-out does not begin anew after a signal.
        call.words[0] = run.timeout_deadline_ns(call.words[0], now_ns);
    }
    // SAFETY: see `attempt`.
    let value = unsafe { syscall::perform(&call, is_interruptible) };
    if value == -i64::from(libc::EINTR) && is_interruptible && call.op != Op::Close {
        return Flow::Continues;
    }
    run.complete(value)
}

/// Run one atom, which may block; a signal may leave it unfinished.
pub fn perform_one(run: &mut Run) -> Flow {
    match run.compute() {
        Some(value) => run.complete(value),
        None => perform(run, true),
    }
}
