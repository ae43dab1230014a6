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

use super::Tally;
use super::backend::{Backend, Completion, Key};
use super::blocking::opens_named_pipe;
use super::command_queue::{Command, CommandQueue};
use crate::syslet::inline::{self, Budget, Stopped};
use crate::syslet::{Call, CompletionSink, Flow, Op, Run, fd, readiness, syscall};
use crate::timers::{TimerKey, Timers};

/// How long to wait before another look whether the other end of a named pipe is open, in nanoseconds.
const PARTNER_NS: u64 = 10_000_000;

/// How long a cancelled operation may take to come back before it is cancelled again, in nanoseconds.
pub(super) const RESEND_CANCEL_NS: u64 = 10_000_000;

/// What a run waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// For the next tick.
    Ready,
    /// For the operation that it has in flight.
    Operation,
    /// For its descriptor to become ready; then it is tried again.
    Readiness,
    /// For a connection that is being made.
    Connection,
    /// For the other end of a named pipe to be opened; its own end may be open already.
    Partner(Option<i32>, TimerKey),
    /// For its time-out.
    Time(TimerKey),
}

/// What a timer is for.
#[derive(Debug, Clone, Copy)]
enum Alarm {
    /// The time-out that a run waits for.
    Timeout(Key),
    /// The time limit of a run.
    Deadline(Key),
    /// Another look whether the other end of a named pipe is open.
    Partner(Key),
    /// Cancelling an operation again that has not come back.
    ResendCancel(Key),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) run: Box<Run>,
    pub(super) waits: Waits,
    /// The errno with which the run is to end, if it is.
    ends_with: Option<i32>,
    /// The timer of its time limit; after a cancellation, that of the next one.
    deadline: Option<TimerKey>,
    /// The current atom's descriptor has become ready: if the atom would still block, the backend starts it.
    was_ready: bool,
}

impl Entry {
    /// Whether an operation that returned this value has done nothing, because it was cancelled, interrupted or
    /// would have blocked. A close has freed its descriptor all the same.
    pub(super) fn was_not_done(&self, value: i64) -> bool {
        let is_undone = [libc::ECANCELED, libc::EINTR, libc::EAGAIN].contains(&(-value as i32));
        is_undone && self.run.op() != Op::Close
    }
}

/// The state of one engine thread.
pub(crate) struct EngineThread<B> {
    pub(super) commands: Arc<CommandQueue>,
    /// Commands that were taken out of the command queue and are still to be executed.
    pub(super) queue: VecDeque<Command>,
    /// Runs of the current command that are still to be admitted.
    pub(super) arrivals: VecDeque<Box<Run>>,
    pub(super) backend: B,
    /// Completions that are still to be handled, the oldest last.
    pub(super) completions: Vec<Completion>,
    pub(super) entries: Slab<Entry>,
    by_id: HashMap<u64, Key>,
    ready: VecDeque<Key>,
    timers: Timers<Alarm>,
    pub(super) ended: Vec<Box<Run>>,
    pub(super) tally: Arc<Tally>,
    is_stopping: bool,
}

impl<B: Backend> EngineThread<B> {
    pub(crate) fn new(commands: Arc<CommandQueue>, backend: B, tally: Arc<Tally>) -> Self {
        Self {
            commands,
            queue: VecDeque::new(),
            arrivals: VecDeque::new(),
            backend,
            completions: Vec::new(),
            entries: Slab::new(),
            by_id: HashMap::new(),
            ready: VecDeque::new(),
            timers: Timers::default(),
            ended: Vec::new(),
            tally,
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
            self.take_in();
            self.tick();
            self.expire();
            self.give_back();
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
                self.come_back(completion);
            }
        }
    }

    fn take_in(&mut self) {
        self.queue.extend(self.commands.queue.take());
        while let Some(message) = self.queue.pop_front() {
            match message {
                Command::Run(run) => self.admit(run),
                Command::Runs(runs) => {
                    self.arrivals.extend(runs);
                    while let Some(run) = self.arrivals.pop_front() {
                        self.admit(run);
                    }
                }
                Command::Cancel(id) => {
                    if let Some(&key) = self.by_id.get(&id) {
                        self.cut_short(key, libc::ECANCELED);
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
        let entry =
            Entry { run, waits: Waits::Ready, ends_with: None, deadline: None, was_ready: false };
        let key = self.entries.insert(entry) as Key;
        if timeout_ns > 0 {
            let deadline_ns = self.backend.now_ns().saturating_add(timeout_ns);
            let timer = self.timers.start(deadline_ns, Alarm::Deadline(key));
            self.entries[key as usize].deadline = Some(timer);
        }
        if id != 0 {
            self.by_id.insert(id, key);
        }
        self.ready.push_back(key);
        if self.is_stopping {
            self.cut_short(key, libc::ECANCELED);
        }
    }

    fn cancel_where(&mut self, is_meant: impl Fn(&Run) -> bool) {
        let meant = self.entries.iter().filter(|(_, entry)| is_meant(&entry.run));
        let keys: Vec<Key> = meant.map(|(key, _)| key as Key).collect();
        keys.into_iter().for_each(|key| self.cut_short(key, libc::ECANCELED));
    }

    /// Have a run end soon, with this errno.
    fn cut_short(&mut self, key: Key, errno: i32) {
        let entry = &mut self.entries[key as usize];
        if entry.ends_with.is_some() {
            return;
        }
        entry.ends_with = Some(errno);
        match entry.waits {
            // The next tick ends it.
            Waits::Ready => {}
            Waits::Time(timer) => {
                self.timers.cancel(timer);
                self.end(key);
            }
            Waits::Partner(half, timer) => {
                self.timers.cancel(timer);
                half.into_iter().for_each(fd::close);
                self.end(key);
            }
            Waits::Operation | Waits::Readiness | Waits::Connection => self.resend_cancel(key),
        }
    }

    /// Cancel an operation, and again until it has come back: the kernel can miss one of its workers
    /// that is about to block.
    fn resend_cancel(&mut self, key: Key) {
        self.backend.cancel(key);
        let timer =
            self.timers.start(self.backend.now_ns() + RESEND_CANCEL_NS, Alarm::ResendCancel(key));
        if let Some(before) = self.entries[key as usize].deadline.replace(timer) {
            self.timers.cancel(before);
        }
    }

    /// Advance each run that can continue once.
    fn tick(&mut self) {
        for _ in 0..self.ready.len() {
            let Some(key) = self.ready.pop_front() else { break };
            self.advance(key);
        }
    }

    fn advance(&mut self, key: Key) {
        let budget = Budget { tries_first: self.backend.tries_first(), ..Budget::PATIENT };
        let entry = &mut self.entries[key as usize];
        if entry.ends_with.is_some() {
            self.end(key);
            return;
        }
        let mut stopped = inline::advance(&mut entry.run, Budget { atoms: 1, ..budget });
        if stopped == Stopped::BudgetSpent {
            // Only the atom whose descriptor was ready can be stuck, not a later one.
            entry.was_ready = false;
            stopped = inline::advance(&mut entry.run, budget);
        }
        match stopped {
            Stopped::Ended => self.remove_ended(key),
            Stopped::BudgetSpent => self.make_ready(key),
            Stopped::WouldBlock => self.start(key),
        }
    }

    fn make_ready(&mut self, key: Key) {
        self.entries[key as usize].waits = Waits::Ready;
        self.ready.push_back(key);
    }

    /// Give the run's current atom, which would block, to a timer or to the backend.
    fn start(&mut self, key: Key) {
        let entry = &mut self.entries[key as usize];
        let call = match entry.run.prepare() {
            Ok(call) => call,
            Err(errno) => return self.go_on(key, i64::from(errno)),
        };
        if call.op() == Op::Timeout {
            let deadline_ns = entry.run.deadline_ns(call.words[0], self.backend.now_ns());
            entry.waits = Waits::Time(self.timers.start(deadline_ns, Alarm::Timeout(key)));
            return;
        }
        if self.backend.waits_for_readiness() {
            if call.op() == Op::Connect {
                return self.connect(key, &call);
            }
            let is_stuck = std::mem::take(&mut entry.was_ready);
            // A splice cannot be tried: the backend itself waits for both of its descriptors.
            let waits = !is_stuck && call.op() != Op::Splice;
            if let Some(awaited) = readiness::fd_to_await(&call).filter(|_| waits) {
                return self.wait_for(key, Waits::Readiness, awaited);
            }
        }
        entry.waits = Waits::Operation;
        // SAFETY: the addresses lead into memory of the run, which does not move and is not touched until the
        // operation has come back.
        unsafe { self.backend.start(key, call) };
    }

    fn wait_for(&mut self, key: Key, waits: Waits, (fd, events): (RawFd, i16)) {
        self.entries[key as usize].waits = waits;
        // SAFETY: a call without addresses.
        unsafe { self.backend.start(key, Call::new(Op::Poll, [fd as u64, events as u64])) };
    }

    /// Begin to connect, and wait for the connection.
    fn connect(&mut self, key: Key, call: &Call) {
        // SAFETY: the run has just looked up the addresses; they are used at once.
        let value = unsafe { syscall::begin_to_connect(call) };
        if syscall::is_connecting(-value) {
            self.wait_for(key, Waits::Connection, (call.int(0), libc::POLLOUT));
        } else if value == -i64::from(libc::EAGAIN) {
            // A Unix socket whose peer's backlog is full: no event tells when there is room.
            self.entries[key as usize].waits = Waits::Operation;
            // SAFETY: as in `start`.
            unsafe { self.backend.start(key, *call) };
        } else {
            self.go_on(key, value);
        }
    }

    /// Handle an operation that has come back.
    fn come_back(&mut self, Completion { key, value }: Completion) {
        let entry = &mut self.entries[key as usize];
        let waits = std::mem::replace(&mut entry.waits, Waits::Ready);
        if entry.ends_with.is_some() && entry.was_not_done(value) {
            return self.end(key);
        }
        match waits {
            Waits::Readiness if value >= 0 => {
                if self.backend.tries_first() {
                    entry.run.note_ready();
                }
                entry.was_ready = true;
                self.make_ready(key);
            }
            Waits::Connection if value >= 0 => {
                let outcome = match entry.run.prepare() {
                    // SAFETY: the run has just looked up the addresses; they are used at once.
                    Ok(call) => unsafe { syscall::finish_connecting(&call) },
                    Err(errno) => i64::from(errno),
                };
                self.go_on(key, outcome);
            }
            Waits::Operation if value == -i64::from(libc::EAGAIN) => {
                // A non-blocking descriptor: wait until it is ready, and try again.
                match entry.run.prepare() {
                    // A Unix socket whose peer's backlog is full: no event tells when there is room.
                    Ok(call) if call.op() == Op::Connect && fd::is_blocking(call.int(0)) => {
                        entry.waits = Waits::Operation;
                        // SAFETY: as in `start`.
                        unsafe { self.backend.start_blocking(key, call) };
                    }
                    Ok(call) => match readiness::fd_to_await(&call) {
                        Some(awaited) => self.wait_for(key, Waits::Readiness, awaited),
                        None => self.go_on(key, value),
                    },
                    Err(errno) => self.go_on(key, i64::from(errno)),
                }
            }
            Waits::Operation
                if self.backend.opens_pipes_non_blocking()
                    && is_half_open(&mut entry.run, value) =>
            {
                self.await_partner(key, (value >= 0).then_some(value as i32));
            }
            // An interrupted close(2) has freed its number, which may be in use again.
            _ if value == -i64::from(libc::EINTR) && entry.run.op() != Op::Close => {
                self.start(key);
            }
            _ => self.go_on(key, value),
        }
    }

    /// Look again later at a named pipe that was opened, or refused, while its other end was not open.
    ///
    /// Our end stays open meanwhile: a process that has found it open must not find it closed.
    fn await_partner(&mut self, key: Key, half: Option<i32>) {
        let deadline_ns = self.backend.now_ns() + PARTNER_NS;
        let timer = self.timers.start(deadline_ns, Alarm::Partner(key));
        self.entries[key as usize].waits = Waits::Partner(half, timer);
    }

    fn look_for_partner(&mut self, key: Key) {
        let entry = &mut self.entries[key as usize];
        match std::mem::replace(&mut entry.waits, Waits::Ready) {
            Waits::Partner(Some(half), _) => {
                let flags = entry.run.open_flags();
                if fd::poll(half, libc::POLLIN, 0) != 0 || fd::has_other_end(half, flags) {
                    self.go_on(key, i64::from(half));
                } else {
                    self.await_partner(key, Some(half));
                }
            }
            _ => self.start(key),
        }
    }

    /// Complete the run's current atom with this value.
    fn go_on(&mut self, key: Key, value: i64) {
        let entry = &mut self.entries[key as usize];
        entry.was_ready = false;
        match entry.run.complete(value) {
            Flow::Ended => self.remove_ended(key),
            Flow::Continues => self.make_ready(key),
        }
    }

    fn expire(&mut self) {
        if self.timers.is_empty() {
            return;
        }
        let now_ns = self.backend.now_ns();
        while let Some(alarm) = self.timers.pop_due(now_ns) {
            match alarm {
                Alarm::Timeout(key) => self.go_on(key, 0),
                Alarm::Partner(key) => self.look_for_partner(key),
                Alarm::ResendCancel(key) => {
                    let entry = &mut self.entries[key as usize];
                    entry.deadline = None;
                    if !matches!(entry.waits, Waits::Ready) {
                        self.resend_cancel(key);
                    }
                }
                Alarm::Deadline(key) => {
                    self.entries[key as usize].deadline = None;
                    self.cut_short(key, libc::ETIMEDOUT);
                }
            }
        }
    }

    /// End a run early, with its errno or `ECANCELED`; it has no operation in flight.
    fn end(&mut self, key: Key) {
        let entry = &mut self.entries[key as usize];
        entry.run.abort(entry.ends_with.unwrap_or(libc::ECANCELED));
        self.remove_ended(key);
    }

    fn remove_ended(&mut self, key: Key) {
        let entry = self.entries.remove(key as usize);
        let id = entry.run.id;
        self.ended.push(entry.run);
        self.tally.n_in_flight.fetch_sub(1, Relaxed);
        if let Some(deadline) = entry.deadline {
            self.timers.cancel(deadline);
        }
        if id != 0 {
            self.by_id.remove(&id);
        }
    }

    /// Deliver the runs that have ended: adjacent ones with the same sink together.
    pub(super) fn give_back(&mut self) {
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
fn is_half_open(run: &mut Run, value: i64) -> bool {
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
