//! An engine's thread: takes runs, executes them, and gives back those that have ended.
//!
//! One iteration is: command queue → tick of the runs that can continue → timers → wait. A run is tried
//! inline before the backend is asked. A run whose operation the backend has stays in the table of runs
//! until the operation has come back.

use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use slab::Slab;

use super::EngineCounters;
use super::backend::{Backend, Completion, Key};
use super::blocking::opens_named_pipe;
use super::command_queue::{Command, CommandQueue};
use crate::syslet::inline::{self, Budget, Stopped};
use crate::syslet::{Call, CompletionSink, Flow, Op, Run, fd, readiness, syscall};
use crate::timers::{TimerKey, Timers};

/// How long to wait before another look whether the other end of a named pipe is open, in nanoseconds.
const OTHER_END_RETRY_NS: u64 = 10_000_000;

/// How long a cancelled operation may take to come back before it is cancelled again, in nanoseconds.
pub(super) const RESEND_CANCEL_NS: u64 = 10_000_000;

/// What a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WaitingFor {
    /// The next tick.
    NextTick,
    /// The operation that it has in flight.
    Operation,
    /// That its descriptor becomes ready; then it is tried again.
    Readiness,
    /// A connection that is being made.
    Connection,
    /// That the other end of a named pipe is opened; its own end may be open already.
    OtherEnd(Option<i32>, TimerKey),
    /// Its time-out.
    Timeout(TimerKey),
}

/// What a timer is for.
#[derive(Debug, Clone, Copy)]
enum TimerKind {
    /// The time-out that a run waits for.
    Timeout(Key),
    /// The time limit of a run.
    TimeLimit(Key),
    /// Another look whether the other end of a named pipe is open.
    OtherEnd(Key),
    /// Cancelling an operation again that has not come back.
    ResendCancel(Key),
}

#[derive(Debug)]
pub(super) struct RunEntry {
    pub(super) run: Box<Run>,
    pub(super) waiting_for: WaitingFor,
    /// The errno with which the run is to end, if it is.
    abort_errno: Option<i32>,
    /// The timer of its time limit; after a cancellation, that of the next cancellation.
    timer: Option<TimerKey>,
    /// The current atom's descriptor has become ready: if the atom would still block, the backend starts it.
    was_reported_ready: bool,
}

impl RunEntry {
    /// Whether an operation that returned this value has done nothing, because it was cancelled, interrupted or
    /// would have blocked. A close has freed its descriptor all the same.
    pub(super) fn did_nothing(&self, value: i64) -> bool {
        let is_undone = [libc::ECANCELED, libc::EINTR, libc::EAGAIN].contains(&(-value as i32));
        is_undone && self.run.op() != Op::Close
    }
}

/// The state of one engine thread.
pub(crate) struct EngineThread<B> {
    pub(super) commands: Arc<CommandQueue>,
    /// Commands that were taken out of the command queue and are still to be executed.
    pub(super) taken_commands: VecDeque<Command>,
    /// Runs of the current command that are still to be admitted.
    pub(super) unadmitted_runs: VecDeque<Box<Run>>,
    pub(super) backend: B,
    /// Completions that are still to be handled, the oldest last.
    pub(super) completions: Vec<Completion>,
    pub(super) entries: Slab<RunEntry>,
    by_id: HashMap<u64, Key>,
    ready: VecDeque<Key>,
    timers: Timers<TimerKind>,
    pub(super) ended: Vec<Box<Run>>,
    pub(super) counters: Arc<EngineCounters>,
    is_stopping: bool,
}

impl<B: Backend> EngineThread<B> {
    pub(crate) fn new(
        commands: Arc<CommandQueue>,
        backend: B,
        counters: Arc<EngineCounters>,
    ) -> Self {
        Self {
            commands,
            taken_commands: VecDeque::new(),
            unadmitted_runs: VecDeque::new(),
            backend,
            completions: Vec::new(),
            entries: Slab::new(),
            by_id: HashMap::new(),
            ready: VecDeque::new(),
            timers: Timers::default(),
            ended: Vec::new(),
            counters,
            is_stopping: false,
        }
    }

    /// Serve until the engine stops and all runs that were taken have ended.
    pub(crate) fn run(mut self) {
        if catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            self.fail();
        }
    }

    fn serve(&mut self) {
        loop {
            self.receive_commands();
            self.advance_ready();
            self.fire_timers();
            self.deliver_ended();
            if self.is_stopping && self.entries.is_empty() && self.commands.queue.close_if_empty() {
                break;
            }
            // Announce the wait, then look at the queue: a sender pushes, then looks whether we wait.
            let deadline_ns = if !self.ready.is_empty() || self.commands.queue.starts_waiting() {
                Some(0)
            } else {
                self.timers.next_deadline_ns()
            };
            self.backend.wait(deadline_ns, &mut self.completions);
            self.commands.queue.stops_waiting();
            self.completions.reverse();
            while let Some(completion) = self.completions.pop() {
                self.handle_completion(completion);
            }
        }
    }

    fn receive_commands(&mut self) {
        self.taken_commands.extend(self.commands.queue.take());
        while let Some(command) = self.taken_commands.pop_front() {
            match command {
                Command::Run(run) => self.admit(run),
                Command::Runs(runs) => {
                    self.unadmitted_runs.extend(runs);
                    while let Some(run) = self.unadmitted_runs.pop_front() {
                        self.admit(run);
                    }
                }
                Command::Cancel(id) => {
                    if let Some(&key) = self.by_id.get(&id) {
                        self.abort(key, libc::ECANCELED);
                    }
                }
                Command::CancelGroup(group) => self.cancel_where(|run| run.group == group),
                Command::Stop => {
                    self.is_stopping = true;
                    self.cancel_where(|_| true);
                }
            }
        }
    }

    fn admit(&mut self, run: Box<Run>) {
        let id = run.id;
        let timeout_ns = run.timeout_ns;
        let entry = RunEntry {
            run,
            waiting_for: WaitingFor::NextTick,
            abort_errno: None,
            timer: None,
            was_reported_ready: false,
        };
        let key = self.entries.insert(entry) as Key;
        if timeout_ns > 0 {
            let deadline_ns = self.backend.now_ns().saturating_add(timeout_ns);
            let timer = self.timers.start(deadline_ns, TimerKind::TimeLimit(key));
            self.entries[key as usize].timer = Some(timer);
        }
        if id != 0 {
            self.by_id.insert(id, key);
        }
        self.ready.push_back(key);
        if self.is_stopping {
            self.abort(key, libc::ECANCELED);
        }
    }

    fn cancel_where(&mut self, is_affected: impl Fn(&Run) -> bool) {
        let affected = self.entries.iter().filter(|(_, entry)| is_affected(&entry.run));
        let keys: Vec<Key> = affected.map(|(key, _)| key as Key).collect();
        keys.into_iter().for_each(|key| self.abort(key, libc::ECANCELED));
    }

    /// Have a run end soon, with this errno.
    fn abort(&mut self, key: Key, errno: i32) {
        let entry = &mut self.entries[key as usize];
        if entry.abort_errno.is_some() {
            return;
        }
        entry.abort_errno = Some(errno);
        match entry.waiting_for {
            // The next tick ends it.
            WaitingFor::NextTick => {}
            WaitingFor::Timeout(timer) => {
                self.timers.cancel(timer);
                self.end_aborted(key);
            }
            WaitingFor::OtherEnd(our_end, timer) => {
                self.timers.cancel(timer);
                our_end.into_iter().for_each(fd::close);
                self.end_aborted(key);
            }
            WaitingFor::Operation | WaitingFor::Readiness | WaitingFor::Connection => {
                self.resend_cancel(key)
            }
        }
    }

    /// Cancel an operation, and again until it has come back: the kernel can miss one of its workers
    /// that is about to block.
    fn resend_cancel(&mut self, key: Key) {
        self.backend.cancel(key);
        let timer = self
            .timers
            .start(self.backend.now_ns() + RESEND_CANCEL_NS, TimerKind::ResendCancel(key));
        if let Some(before) = self.entries[key as usize].timer.replace(timer) {
            self.timers.cancel(before);
        }
    }

    /// Advance each run that can continue once.
    fn advance_ready(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            self.advance(key);
        }
    }

    fn advance(&mut self, key: Key) {
        let budget = Budget { tries_first: self.backend.tries_first(), ..Budget::OWN_THREAD };
        let entry = &mut self.entries[key as usize];
        if entry.abort_errno.is_some() {
            self.end_aborted(key);
            return;
        }
        let mut stopped = inline::advance(&mut entry.run, Budget { atoms: 1, ..budget });
        if stopped == Stopped::BudgetSpent {
            // Only the atom whose descriptor was ready can be stuck, not a later one.
            entry.was_reported_ready = false;
            stopped = inline::advance(&mut entry.run, budget);
        }
        match stopped {
            Stopped::Ended => self.remove_ended(key),
            Stopped::BudgetSpent => self.make_ready(key),
            Stopped::WouldBlock => self.start_atom(key),
        }
    }

    fn make_ready(&mut self, key: Key) {
        self.entries[key as usize].waiting_for = WaitingFor::NextTick;
        self.ready.push_back(key);
    }

    /// Give the run's current atom, which would block, to a timer or to the backend.
    fn start_atom(&mut self, key: Key) {
        let entry = &mut self.entries[key as usize];
        let call = match entry.run.prepare() {
            Ok(call) => call,
            Err(errno) => return self.complete_atom(key, i64::from(errno)),
        };
        if call.op() == Op::Timeout {
            let deadline_ns = entry.run.timeout_deadline_ns(call.words[0], self.backend.now_ns());
            entry.waiting_for =
                WaitingFor::Timeout(self.timers.start(deadline_ns, TimerKind::Timeout(key)));
            return;
        }
        if self.backend.waits_for_readiness() {
            if call.op() == Op::Connect {
                return self.connect(key, &call);
            }
            let was_reported_ready = std::mem::take(&mut entry.was_reported_ready);
            // A splice cannot be tried: the backend itself waits for both of its descriptors.
            let may_wait = !was_reported_ready && call.op() != Op::Splice;
            if let Some(fd_events) = readiness::fd_to_await(&call).filter(|_| may_wait) {
                return self.start_poll(key, WaitingFor::Readiness, fd_events);
            }
        }
        entry.waiting_for = WaitingFor::Operation;
        // SAFETY: the addresses lead into memory of the run, which does not move and is not touched until the
        // operation has come back.
        unsafe { self.backend.start(key, call) };
    }

    fn start_poll(&mut self, key: Key, waiting_for: WaitingFor, (fd, events): (RawFd, i16)) {
        self.entries[key as usize].waiting_for = waiting_for;
        // SAFETY: a call without addresses.
        unsafe { self.backend.start(key, Call::new(Op::Poll, [fd as u64, events as u64])) };
    }

    /// Begin to connect, and wait for the connection.
    fn connect(&mut self, key: Key, call: &Call) {
        // SAFETY: the run has just looked up the addresses; they are used at once.
        let value = unsafe { syscall::begin_to_connect(call) };
        if syscall::is_connecting(-value) {
            self.start_poll(key, WaitingFor::Connection, (call.int(0), libc::POLLOUT));
        } else if value == -i64::from(libc::EAGAIN) {
            // A Unix socket whose peer's backlog is full: no event tells when there is room.
            self.entries[key as usize].waiting_for = WaitingFor::Operation;
            // SAFETY: as in `start_atom`.
            unsafe { self.backend.start(key, *call) };
        } else {
            self.complete_atom(key, value);
        }
    }

    /// Handle an operation that has come back.
    fn handle_completion(&mut self, Completion { key, value }: Completion) {
        let entry = &mut self.entries[key as usize];
        let waiting_for = std::mem::replace(&mut entry.waiting_for, WaitingFor::NextTick);
        if entry.abort_errno.is_some() && entry.did_nothing(value) {
            return self.end_aborted(key);
        }
        match waiting_for {
            WaitingFor::Readiness if value >= 0 => {
                if self.backend.tries_first() {
                    entry.run.note_ready();
                }
                entry.was_reported_ready = true;
                self.make_ready(key);
            }
            WaitingFor::Connection if value >= 0 => {
                let outcome = match entry.run.prepare() {
                    // SAFETY: the run has just looked up the addresses; they are used at once.
                    Ok(call) => unsafe { syscall::finish_connecting(&call) },
                    Err(errno) => i64::from(errno),
                };
                self.complete_atom(key, outcome);
            }
            WaitingFor::Operation if value == -i64::from(libc::EAGAIN) => {
                // A non-blocking descriptor: wait until it is ready, and try again.
                match entry.run.prepare() {
                    // A Unix socket whose peer's backlog is full: no event tells when there is room.
                    Ok(call) if call.op() == Op::Connect && fd::is_blocking(call.int(0)) => {
                        entry.waiting_for = WaitingFor::Operation;
                        // SAFETY: as in `start_atom`.
                        unsafe { self.backend.start_blocking(key, call) };
                    }
                    Ok(call) => match readiness::fd_to_await(&call) {
                        Some(fd_events) => self.start_poll(key, WaitingFor::Readiness, fd_events),
                        None => self.complete_atom(key, value),
                    },
                    Err(errno) => self.complete_atom(key, i64::from(errno)),
                }
            }
            WaitingFor::Operation
                if self.backend.opens_pipes_non_blocking()
                    && lacks_other_end(&mut entry.run, value) =>
            {
                self.wait_for_other_end(key, (value >= 0).then_some(value as i32));
            }
            // An interrupted close(2) has freed its number, which may be in use again.
            _ if value == -i64::from(libc::EINTR) && entry.run.op() != Op::Close => {
                self.start_atom(key);
            }
            _ => self.complete_atom(key, value),
        }
    }

    /// Look again later at a named pipe that was opened, or refused, while its other end was not open.
    ///
    /// Our end stays open meanwhile: a process that has found it open must not find it closed.
    fn wait_for_other_end(&mut self, key: Key, our_end: Option<i32>) {
        let deadline_ns = self.backend.now_ns() + OTHER_END_RETRY_NS;
        let timer = self.timers.start(deadline_ns, TimerKind::OtherEnd(key));
        self.entries[key as usize].waiting_for = WaitingFor::OtherEnd(our_end, timer);
    }

    fn check_other_end(&mut self, key: Key) {
        let entry = &mut self.entries[key as usize];
        match std::mem::replace(&mut entry.waiting_for, WaitingFor::NextTick) {
            WaitingFor::OtherEnd(Some(our_end), _) => {
                let flags = entry.run.open_flags();
                if fd::poll(our_end, libc::POLLIN, 0) != 0 || fd::has_other_end(our_end, flags) {
                    self.complete_atom(key, i64::from(our_end));
                } else {
                    self.wait_for_other_end(key, Some(our_end));
                }
            }
            _ => self.start_atom(key),
        }
    }

    /// Complete the run's current atom with this value.
    fn complete_atom(&mut self, key: Key, value: i64) {
        let entry = &mut self.entries[key as usize];
        entry.was_reported_ready = false;
        match entry.run.complete(value) {
            Flow::Ended => self.remove_ended(key),
            Flow::Continues => self.make_ready(key),
        }
    }

    fn fire_timers(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now_ns = self.backend.now_ns();
        while let Some(kind) = self.timers.pop_due(now_ns) {
            match kind {
                TimerKind::Timeout(key) => self.complete_atom(key, 0),
                TimerKind::OtherEnd(key) => self.check_other_end(key),
                TimerKind::ResendCancel(key) => {
                    let entry = &mut self.entries[key as usize];
                    entry.timer = None;
                    if !matches!(entry.waiting_for, WaitingFor::NextTick) {
                        self.resend_cancel(key);
                    }
                }
                TimerKind::TimeLimit(key) => {
                    self.entries[key as usize].timer = None;
                    self.abort(key, libc::ETIMEDOUT);
                }
            }
        }
    }

    /// End a run that was aborted, with its errno or `ECANCELED`; it has no operation in flight.
    fn end_aborted(&mut self, key: Key) {
        let entry = &mut self.entries[key as usize];
        entry.run.abort(entry.abort_errno.unwrap_or(libc::ECANCELED));
        self.remove_ended(key);
    }

    fn remove_ended(&mut self, key: Key) {
        let entry = self.entries.remove(key as usize);
        let id = entry.run.id;
        self.ended.push(entry.run);
        self.counters.n_in_flight.fetch_sub(1, Relaxed);
        if let Some(timer) = entry.timer {
            self.timers.cancel(timer);
        }
        if id != 0 {
            self.by_id.remove(&id);
        }
    }

    /// Deliver the runs that have ended: adjacent ones with the same sink together.
    pub(super) fn deliver_ended(&mut self) {
        let mut batch: Vec<Box<Run>> = Vec::new();
        let mut sink: Option<Arc<dyn CompletionSink>> = None;
        for mut run in self.ended.drain(..) {
            let its_sink = run.sink.take();
            let is_same = match (&sink, &its_sink) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                _ => false,
            };
            if !is_same {
                deliver(sink.take(), &mut batch);
                sink = its_sink;
            }
            batch.push(run);
        }
        deliver(sink, &mut batch);
    }
}

fn deliver(sink: Option<Arc<dyn CompletionSink>>, batch: &mut Vec<Box<Run>>) {
    if let Some(sink) = sink
        && !batch.is_empty()
    {
        // The panic hook reports a sink that panics. Its runs are dropped; other sinks still get theirs.
        let _ = catch_unwind(AssertUnwindSafe(|| sink.deliver(batch)));
    }
    batch.clear();
}

/// Whether the run has opened, or could not open, a named pipe because its other end is not open.
fn lacks_other_end(run: &mut Run, value: i64) -> bool {
    if !matches!(run.op(), Op::Openat | Op::Openat2)
        || run.open_flags() & (libc::O_NONBLOCK | libc::O_PATH) != 0
    {
        return false;
    }
    if value == -i64::from(libc::ENXIO) {
        // Sockets, and device files without a device, fail with ENXIO for good.
        // SAFETY: the run has just looked up the addresses; they are used at once.
        return run.prepare().is_ok_and(|call| unsafe { opens_named_pipe(&call) });
    }
    let fd = value as i32;
    value >= 0
        && fd::position(fd).is_none()
        && fd::file_type(fd) == Some(libc::S_IFIFO)
        && !fd::has_other_end(fd, run.open_flags())
}
