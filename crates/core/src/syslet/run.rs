//! A run: one execution of a program, by whichever executor.
//!
//! It decides which call the current atom makes ([`Run::prepare`]), and where the flow goes with the
//! value that came back ([`Run::complete`]). It makes no blocking call itself.

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::Arc;

use super::fd;
use super::memory::{Access, Frame, Memory};
use super::op::Op;
use super::program::{Atom, AtomFlags, NONE, Program, ResultSpec, Span};
use crate::buffers::BufferPool;

/// Receives runs that have ended.
pub trait CompletionSink: Send + Sync {
    /// Take these runs; called by an engine's thread.
    fn deliver(&self, runs: &mut Vec<Box<Run>>);
}

/// Where a run goes after an atom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// To an atom, which is the same one again if it is not done.
    On,
    /// It has ended.
    Ended,
}

/// How a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The last atom.
    pub atom: u16,
    /// Its value.
    pub value: i64,
    /// Whether the value is an error that ended the program.
    pub is_failure: bool,
    /// How many bytes the last atom that failed, or was cancelled, had moved before.
    pub progress: usize,
}

/// What is known of an atom that has not been executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prospect {
    /// Nothing.
    Open,
    /// Its descriptor is ready.
    Ready,
    /// An attempt has shown that it blocks, or it must not be tried.
    Blocked,
}

/// A descriptor that the run has opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    pub(super) fd: i32,
    /// It is non-blocking only because an attempt has opened it so.
    pub(super) is_tried: bool,
    /// The position for reads and writes without an offset; negative: only the kernel knows it.
    pub(super) position: i64,
    /// It was looked up, and is a file: reads and writes can name an offset.
    pub(super) is_file: bool,
}

/// The pipe through which a file is sent, and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Conduit {
    pub(super) ends: [i32; 2],
    pub(super) held: usize,
    /// The file that is sent, if that moves its position, which goes back by what does not get through.
    pub(super) moved: Option<i32>,
}

/// Structures that the kernel reads and writes during an operation.
pub(super) struct Details {
    pub(super) how: libc::open_how,
    pub(super) statx: libc::statx,
    pub(super) message: libc::msghdr,
    pub(super) child: libc::siginfo_t,
}

/// One execution of a program.
pub struct Run {
    pub(super) program: Arc<Program>,
    pub(super) frame: Frame,
    pub(super) pool: Arc<BufferPool>,
    pub(super) at: u16,
    /// What is known of the current atom.
    prospect: Prospect,
    /// How many bytes the current atom has moved already.
    pub(super) progress: usize,
    /// How many bytes the last atom that failed had moved before.
    failed_after: usize,
    end: Option<End>,
    pub(super) opened: Vec<Opened>,
    pub(super) details: Option<Box<Details>>,
    pub(super) conduit: Option<Box<Conduit>>,
    /// When the current time-out is due; zero: it has not begun.
    deadline_ns: u64,
    /// The identity by which the run is cancelled; zero: none.
    pub id: u64,
    /// The identity of the runs that are cancelled together; zero: none.
    pub group: u64,
    /// How long an engine may take, in nanoseconds; zero: without a limit.
    pub timeout_ns: u64,
    /// For the owner's use; the core does not look at it.
    pub token: u64,
    /// Where the run goes when it has ended.
    pub sink: Option<Arc<dyn CompletionSink>>,
}

// SAFETY: the pointers in the details lead into the run's own memory, which moves along with it.
unsafe impl Send for Run {}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("at", &self.at).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Run {
    /// A run of a program, at its first atom, whose parameters are still to be set.
    pub fn new(program: Arc<Program>, pool: Arc<BufferPool>) -> Self {
        let frame = Frame::new(&program);
        Self {
            program,
            frame,
            pool,
            at: 0,
            prospect: Prospect::Open,
            progress: 0,
            failed_after: 0,
            end: None,
            opened: Vec::new(),
            details: None,
            conduit: None,
            deadline_ns: 0,
            id: 0,
            group: 0,
            timeout_ns: 0,
            token: 0,
            sink: None,
        }
    }

    /// Make a run that has ended ready to begin again, with other parameters.
    pub fn begin_again(&mut self) {
        self.close_what_is_open();
        self.frame.slots.copy_from_slice(&self.program.slots);
        for (memory, object) in self.frame.objects.iter_mut().zip(&self.program.objects) {
            *memory = Memory::for_object(object);
        }
        (self.at, self.progress, self.failed_after, self.deadline_ns) = (0, 0, 0, 0);
        (self.id, self.group, self.token, self.timeout_ns) = (0, 0, 0, 0);
        (self.prospect, self.end) = (Prospect::Open, None);
        self.sink = None;
    }

    /// Give a variable its value, before the run begins.
    pub fn set_slot(&mut self, slot: u16, value: i64) {
        self.frame.slots[usize::from(slot)] = value;
    }

    /// Give an object its memory, before the run begins.
    pub fn set_object(&mut self, object: u16, memory: Memory) {
        self.frame.objects[usize::from(object)] = memory;
    }

    /// The program.
    pub fn program(&self) -> &Arc<Program> {
        &self.program
    }

    /// How the run has ended, if it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// A variable.
    pub fn slot(&self, slot: u16) -> i64 {
        self.frame.slot(slot)
    }

    /// An object.
    pub fn object(&self, object: u16) -> &Memory {
        &self.frame.objects[usize::from(object)]
    }

    /// The bytes of a span.
    pub fn bytes(&mut self, span: Span) -> &[u8] {
        if matches!(self.object(span.object), Memory::Unmade) {
            // It has not been used: make it, zeroed, unless there is no memory for it.
            let whole = Span { object: span.object, start: NONE, length: NONE };
            let _ = self.frame.resolve(&self.program, whole, Access::ReadsFrom, &self.pool);
        }
        self.frame.bytes(&self.program, span)
    }

    /// The index of a span's first byte within its object.
    pub fn start_of(&self, span: Span) -> usize {
        self.frame.start_of(span)
    }

    /// Take an object out of a run that has ended.
    pub fn take_object(&mut self, object: u16) -> Memory {
        std::mem::replace(&mut self.frame.objects[usize::from(object)], Memory::Missing)
    }

    /// Whether to try the current atom inline; `tries` is whether the executor tries atoms at all.
    #[inline]
    pub(crate) fn is_to_be_tried(&self, tries: bool) -> bool {
        match self.prospect {
            Prospect::Open => tries && !self.flags().has(AtomFlags::ASYNC),
            Prospect::Ready => true,
            Prospect::Blocked => false,
        }
    }

    #[inline]
    pub(crate) fn flags(&self) -> AtomFlags {
        self.program.atoms[usize::from(self.at)].flags
    }

    #[inline]
    pub(crate) fn op(&self) -> Op {
        self.program.atoms[usize::from(self.at)].op
    }

    /// The flags with which the current atom opens a file.
    pub(crate) fn open_flags(&self) -> i32 {
        let atom = &self.program.atoms[usize::from(self.at)];
        self.frame.slot(atom.words[2]) as i32
    }

    /// Note that the current atom would block.
    pub(crate) fn note_blocked(&mut self) {
        self.prospect = Prospect::Blocked;
        self.settle_descriptors();
    }

    /// Note that the current atom's descriptor is ready, so another attempt is worthwhile.
    pub(crate) fn note_ready(&mut self) {
        self.prospect = Prospect::Ready;
    }

    /// When the current time-out is due, in nanoseconds; the first call starts the time-out.
    pub(crate) fn deadline_ns(&mut self, duration_ns: u64, now_ns: u64) -> u64 {
        if self.deadline_ns == 0 {
            self.deadline_ns = now_ns.saturating_add(duration_ns);
        }
        self.deadline_ns
    }

    /// Make descriptors blocking that attempts have opened non-blocking, as the program asked.
    pub(crate) fn settle_descriptors(&mut self) {
        for opened in self.opened.iter_mut().filter(|it| it.is_tried) {
            fd::make_blocking(opened.fd);
            opened.is_tried = false;
        }
    }

    /// The value of an atom that needs no system call.
    #[inline]
    pub(crate) fn computed(&self) -> Option<i64> {
        let atom = &self.program.atoms[usize::from(self.at)];
        match atom.op {
            Op::Nop => Some(0),
            Op::Add => {
                let [base, amount, factor, ..] = atom.words;
                let product = self.frame.slot(amount).wrapping_mul(self.frame.slot(factor));
                Some(self.frame.slot(base).wrapping_add(product))
            }
            _ => None,
        }
    }

    /// Complete an open whose descriptor is non-blocking although the program did not ask for that.
    pub(crate) fn complete_tried_open(&mut self, value: i64) -> Flow {
        let flow = self.complete(value);
        // It may be closed already, if the program ended with it.
        if let Some(opened) = self.opened.iter_mut().find(|it| i64::from(it.fd) == value) {
            opened.is_tried = true;
        }
        if flow == Flow::Ended {
            self.settle_descriptors();
        }
        flow
    }

    /// Note that `n_bytes` bytes of the current atom are done, and not the rest.
    pub(crate) fn note_progress(&mut self, n_bytes: i64) {
        self.note_moved(n_bytes);
        self.progress += n_bytes as usize;
    }

    /// Complete the current atom with its call's value: note the effects, and follow the flow.
    pub(crate) fn complete(&mut self, value: i64) -> Flow {
        let atom = self.program.atoms[usize::from(self.at)];
        if value > 0 {
            self.note_moved(value);
        }
        let value = match atom.op {
            Op::Nop | Op::Add => value,
            Op::Sendfile => {
                let [to, from, offset, count, ..] = atom.words;
                match self.advance_conduit([to, from, offset, count], value) {
                    Some(value) => value,
                    None => return self.again(),
                }
            }
            op if value > 0 && (op.writes_all() || self.waits_for_all(&atom)) => {
                if op == Op::Recvmsg && self.progress == 0 {
                    // Ancillary data comes with the first bytes of a message.
                    self.note_message(&atom.words);
                }
                self.progress += value as usize;
                if self.has_more_to_move(&atom) {
                    return self.again();
                }
                self.progress as i64
            }
            // A write moves everything or is an error: programs do not look for short writes.
            op if value < 0 && op.writes_all() => value,
            _ if self.progress > 0 => {
                // The bytes moved before the end of the file, or before an error, count.
                self.progress as i64 + value.max(0)
            }
            _ => value,
        };
        let value = match atom.op {
            Op::Read | Op::Pread | Op::Recv | Op::Getdents
                if value > 0
                    && self.frame.overflows(&self.program, atom.words[1], value as usize) =>
            {
                -i64::from(libc::ENOBUFS)
            }
            _ => value,
        };
        if !matches!(atom.op, Op::Nop | Op::Add) {
            self.note_effects(atom.op, &atom.words, value);
            if value < 0 {
                self.failed_after = self.progress;
            }
            self.progress = 0;
            self.prospect = Prospect::Open;
            self.deadline_ns = 0;
        }
        if atom.result != NONE {
            self.frame.slots[usize::from(atom.result)] = value;
        }
        if atom.flags.stop_at(value) {
            let adjacent = self.at + 1;
            if atom.flags.has(AtomFlags::SKIP_TO_NEXT_ON_STOP) {
                if usize::from(adjacent) < self.program.atoms.len() {
                    self.at = adjacent;
                    return Flow::On;
                }
                return self.finish(value, false);
            }
            return self.finish(value, value < 0 && atom.op.is_io());
        }
        if atom.next != NONE {
            self.at = atom.next;
            return Flow::On;
        }
        self.finish(value, false)
    }

    fn again(&mut self) -> Flow {
        self.prospect = Prospect::Open;
        Flow::On
    }

    /// Whether a receive continues until the memory is full.
    fn waits_for_all(&self, atom: &Atom) -> bool {
        // Peeking returns the same bytes again, and datagrams are not to be joined.
        matches!(atom.op, Op::Recv | Op::Recvmsg)
            && self.message_flags(atom) & (libc::MSG_WAITALL | libc::MSG_PEEK) == libc::MSG_WAITALL
            && fd::is_stream(self.frame.slot(atom.words[0]) as i32)
    }

    fn message_flags(&self, atom: &Atom) -> i32 {
        match atom.op {
            Op::Recv | Op::Send => self.frame.slot(atom.words[4]) as i32,
            Op::Recvmsg | Op::Sendmsg => self.frame.slot(atom.words[2]) as i32,
            _ => 0,
        }
    }

    /// Whether the atom has not moved all of its bytes yet, and may continue.
    fn has_more_to_move(&mut self, atom: &Atom) -> bool {
        if self.message_flags(atom) & libc::MSG_DONTWAIT != 0 {
            return false;
        }
        let reads = atom.op.writes_all();
        let access = if reads { Access::ReadsFrom } else { Access::WritesTo };
        let words = &atom.words;
        let total = if matches!(atom.op, Op::Writev | Op::Sendmsg | Op::Recvmsg) {
            let vector = self.frame.resolve_vector(&self.program, words[1], access, 0, &self.pool);
            match &self.frame.objects[usize::from(words[1])] {
                Memory::Vector(pieces) if vector.is_ok() => {
                    pieces.iter().map(|it| it.0.iov_len).sum()
                }
                _ => 0,
            }
        } else {
            let span = Span { object: words[1], start: words[2], length: words[3] };
            self.frame.resolve(&self.program, span, access, &self.pool).map_or(0, |it| it.len)
        };
        self.progress < total
    }

    /// Handle a splice of a file that is sent; the value is that of the whole, once it is done.
    fn advance_conduit(&mut self, words: [u16; 4], value: i64) -> Option<i64> {
        let Some(conduit) = &mut self.conduit else { return Some(value) };
        let sent = |progress: usize, value: i64| if progress > 0 { progress as i64 } else { value };
        if value <= 0 {
            let mut value = value;
            if value == 0 && self.progress == 0 {
                // With nothing to send, no call has checked the target yet.
                let [to, from, ..] = words.map(|it| self.frame.slot_if_any(it) as i32);
                value = fd::send_nothing(to, from);
            }
            let outcome = sent(self.progress, value);
            self.close_conduit();
            return Some(outcome);
        }
        if conduit.held == 0 {
            conduit.held = value as usize;
            return None;
        }
        conduit.held -= value as usize;
        self.progress += value as usize;
        let is_done = conduit.held == 0 && self.progress as i64 >= self.frame.slot(words[3]);
        if is_done {
            let outcome = self.progress as i64;
            self.close_conduit();
            return Some(outcome);
        }
        None
    }

    fn close_conduit(&mut self) {
        let Some(conduit) = self.conduit.take() else { return };
        if let Some(fd) = conduit.moved.filter(|_| conduit.held > 0) {
            // The next reader reads the bytes again that did not get through.
            fd::move_position(fd, -(conduit.held as i64));
        }
        conduit.ends.into_iter().for_each(fd::close);
    }

    /// End the run with this errno: it was cancelled, or its time is up.
    pub(crate) fn give_up(&mut self, errno: i32) {
        self.failed_after = self.progress;
        self.finish(-i64::from(errno), true);
    }

    /// A run that goes to the sink in this one's place, ended with this errno. It has none of this one's
    /// memory, which the kernel may be using.
    pub(crate) fn stand_in(&mut self, errno: i32) -> Box<Self> {
        let mut it = Box::new(Self::new(Arc::clone(&self.program), Arc::clone(&self.pool)));
        (it.id, it.group, it.token) = (self.id, self.group, self.token);
        (it.at, it.timeout_ns) = (self.at, self.timeout_ns);
        it.sink = self.sink.take();
        let (atom, value, progress) = (self.at, -i64::from(errno), self.progress);
        it.end = Some(End { atom, value, is_failure: true, progress });
        it
    }

    fn finish(&mut self, value: i64, is_failure: bool) -> Flow {
        let is_failure = is_failure
            || value < 0
                && self.op().is_io()
                && *self.program.outcome_at(self.at) == ResultSpec::Atom;
        self.end = Some(End { atom: self.at, value, is_failure, progress: self.failed_after });
        self.close_conduit();
        if !self.opened.is_empty() {
            self.close_leftovers(value, is_failure);
        }
        Flow::Ended
    }

    /// Close the descriptors that the run has opened, except those that its outcome hands over.
    fn close_leftovers(&mut self, value: i64, is_failure: bool) {
        let mut handed_over = Vec::new();
        if !is_failure {
            let program = Arc::clone(&self.program);
            match program.outcome_at(self.at) {
                ResultSpec::Atom if self.op().opens() => handed_over.push(value as i32),
                outcome => self.collect_descriptors(outcome, &mut handed_over),
            }
        }
        self.opened.retain(|it| {
            let stays = handed_over.contains(&it.fd);
            if stays {
                it.tell_position();
            } else {
                fd::close(it.fd);
            }
            stays
        });
        self.settle_descriptors();
    }

    fn collect_descriptors(&self, outcome: &ResultSpec, into: &mut Vec<i32>) {
        match outcome {
            ResultSpec::Fd(slot) => into.push(self.frame.slot(*slot) as i32),
            ResultSpec::Tuple(parts) => {
                parts.iter().for_each(|part| self.collect_descriptors(part, into));
            }
            _ => {}
        }
    }

    /// The descriptors of the outcome, which the caller owns from now on.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        self.opened
            .drain(..)
            // SAFETY: the run has opened it and not closed it, and forgets it here.
            .map(|it| unsafe { OwnedFd::from_raw_fd(it.fd) })
            .collect()
    }
}

impl Run {
    fn close_what_is_open(&mut self) {
        self.close_conduit();
        for opened in self.opened.drain(..) {
            fd::close(opened.fd);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.close_what_is_open();
    }
}
