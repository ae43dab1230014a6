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
    Continues,
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

/// Whether an attempt at an atom is worthwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtomReadiness {
    /// It has not been tried.
    Unknown,
    /// Its descriptor is ready.
    Ready,
    /// An attempt has shown that it blocks, or it must not be tried.
    Blocked,
}

/// A descriptor that the run has opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenedDescriptor {
    pub(super) fd: i32,
    /// It is non-blocking only because an attempt has opened it so.
    pub(super) must_become_blocking: bool,
    /// The position for reads and writes without an offset; negative: only the kernel knows it.
    pub(super) position: i64,
    /// It was looked up, and is a file: reads and writes can name an offset.
    pub(super) is_file: bool,
}

/// The pipe through which a file is sent, and how many bytes are in it.
#[derive(Debug)]
pub(super) struct SendfilePipe {
    pub(super) ends: [i32; 2],
    pub(super) n_held: usize,
    /// The file that is sent, if that moves its position, which goes back by what does not get through.
    pub(super) source_to_rewind: Option<i32>,
}

/// Structures that the kernel reads and writes during an operation.
pub(super) struct KernelStructs {
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
    pub(super) atom_idx: u16,
    /// Whether an attempt at the current atom is worthwhile.
    readiness: AtomReadiness,
    /// How many bytes the current atom has moved already.
    pub(super) progress: usize,
    /// How many bytes the last atom that failed had moved before.
    progress_at_failure: usize,
    end: Option<End>,
    pub(super) opened: Vec<OpenedDescriptor>,
    pub(super) structs: Option<Box<KernelStructs>>,
    pub(super) sendfile_pipe: Option<Box<SendfilePipe>>,
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

// SAFETY: the pointers in the structures lead into the run's own memory, which moves along with it.
unsafe impl Send for Run {}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("atom_idx", &self.atom_idx)
            .field("end", &self.end)
            .finish_non_exhaustive()
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
            atom_idx: 0,
            readiness: AtomReadiness::Unknown,
            progress: 0,
            progress_at_failure: 0,
            end: None,
            opened: Vec::new(),
            structs: None,
            sendfile_pipe: None,
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
        self.close_descriptors();
        self.frame.slots.copy_from_slice(&self.program.slots);
        for (memory, object) in self.frame.objects.iter_mut().zip(&self.program.objects) {
            *memory = Memory::for_object(object);
        }
        (self.atom_idx, self.progress, self.progress_at_failure, self.deadline_ns) = (0, 0, 0, 0);
        (self.id, self.group, self.token, self.timeout_ns) = (0, 0, 0, 0);
        (self.readiness, self.end) = (AtomReadiness::Unknown, None);
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
        if matches!(self.object(span.object), Memory::Unallocated) {
            // It has not been used: allocate it, zeroed, unless there is no memory for it.
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
        std::mem::replace(&mut self.frame.objects[usize::from(object)], Memory::Unset)
    }

    /// Whether to try the current atom inline; `tries` is whether the executor tries atoms at all.
    #[inline]
    pub(crate) fn should_try(&self, tries_first: bool) -> bool {
        match self.readiness {
            AtomReadiness::Unknown => tries_first && !self.flags().has(AtomFlags::ASYNC),
            AtomReadiness::Ready => true,
            AtomReadiness::Blocked => false,
        }
    }

    #[inline]
    pub(crate) fn flags(&self) -> AtomFlags {
        self.program.atoms[usize::from(self.atom_idx)].flags
    }

    #[inline]
    pub(crate) fn op(&self) -> Op {
        self.program.atoms[usize::from(self.atom_idx)].op
    }

    /// The flags with which the current atom opens a file.
    pub(crate) fn open_flags(&self) -> i32 {
        let atom = &self.program.atoms[usize::from(self.atom_idx)];
        self.frame.slot(atom.words[2]) as i32
    }

    /// Note that the current atom would block.
    pub(crate) fn note_blocked(&mut self) {
        self.readiness = AtomReadiness::Blocked;
        self.make_descriptors_blocking();
    }

    /// Note that the current atom's descriptor is ready, so another attempt is worthwhile.
    pub(crate) fn note_ready(&mut self) {
        self.readiness = AtomReadiness::Ready;
    }

    /// When the current time-out is due, in nanoseconds; the first call starts the time-out.
    pub(crate) fn timeout_deadline_ns(&mut self, duration_ns: u64, now_ns: u64) -> u64 {
        if self.deadline_ns == 0 {
            self.deadline_ns = now_ns.saturating_add(duration_ns);
        }
        self.deadline_ns
    }

    /// Make descriptors blocking that attempts have opened non-blocking, as the program asked.
    pub(crate) fn make_descriptors_blocking(&mut self) {
        for opened in self.opened.iter_mut().filter(|it| it.must_become_blocking) {
            fd::make_blocking(opened.fd);
            opened.must_become_blocking = false;
        }
    }

    /// Compute the value of the current atom; `None`: it needs a system call.
    #[inline]
    pub(crate) fn compute(&self) -> Option<i64> {
        let atom = &self.program.atoms[usize::from(self.atom_idx)];
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
    pub(crate) fn complete_non_blocking_open(&mut self, value: i64) -> Flow {
        let flow = self.complete(value);
        // It may be closed already, if the program ended with it.
        if let Some(opened) = self.opened.iter_mut().find(|it| i64::from(it.fd) == value) {
            opened.must_become_blocking = true;
        }
        if flow == Flow::Ended {
            self.make_descriptors_blocking();
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
        let atom = self.program.atoms[usize::from(self.atom_idx)];
        if value > 0 {
            self.note_moved(value);
        }
        let value = match atom.op {
            Op::Nop | Op::Add => value,
            Op::Sendfile => {
                let [to, from, offset, count, ..] = atom.words;
                match self.advance_sendfile([to, from, offset, count], value) {
                    Some(value) => value,
                    None => return self.repeat_atom(),
                }
            }
            op if value > 0 && (op.writes_all() || self.receives_all(&atom)) => {
                if op == Op::Recvmsg && self.progress == 0 {
                    // Ancillary data comes with the first bytes of a message.
                    self.note_message(&atom.words);
                }
                self.progress += value as usize;
                if self.has_more_to_move(&atom) {
                    return self.repeat_atom();
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
                self.progress_at_failure = self.progress;
            }
            self.progress = 0;
            self.readiness = AtomReadiness::Unknown;
            self.deadline_ns = 0;
        }
        if atom.result != NONE {
            self.frame.slots[usize::from(atom.result)] = value;
        }
        if atom.flags.stops_at(value) {
            let adjacent = self.atom_idx + 1;
            if atom.flags.has(AtomFlags::SKIP_TO_NEXT_ON_STOP) {
                if usize::from(adjacent) < self.program.atoms.len() {
                    self.atom_idx = adjacent;
                    return Flow::Continues;
                }
                return self.finish(value, false);
            }
            return self.finish(value, value < 0 && atom.op.is_io());
        }
        if atom.next != NONE {
            self.atom_idx = atom.next;
            return Flow::Continues;
        }
        self.finish(value, false)
    }

    fn repeat_atom(&mut self) -> Flow {
        self.readiness = AtomReadiness::Unknown;
        Flow::Continues
    }

    /// Whether a receive continues until the memory is full.
    fn receives_all(&self, atom: &Atom) -> bool {
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
        let reads_memory = atom.op.writes_all();
        let access = if reads_memory { Access::ReadsFrom } else { Access::WritesTo };
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
    fn advance_sendfile(&mut self, words: [u16; 4], value: i64) -> Option<i64> {
        let Some(pipe) = &mut self.sendfile_pipe else { return Some(value) };
        let sent = |progress: usize, value: i64| if progress > 0 { progress as i64 } else { value };
        if value <= 0 {
            let mut value = value;
            if value == 0 && self.progress == 0 {
                // With nothing to send, no call has checked the target yet.
                let [to, from, ..] = words.map(|it| self.frame.slot_if_any(it) as i32);
                value = fd::send_zero_bytes(to, from);
            }
            let outcome = sent(self.progress, value);
            self.close_sendfile_pipe();
            return Some(outcome);
        }
        if pipe.n_held == 0 {
            pipe.n_held = value as usize;
            return None;
        }
        pipe.n_held -= value as usize;
        self.progress += value as usize;
        let is_done = pipe.n_held == 0 && self.progress as i64 >= self.frame.slot(words[3]);
        if is_done {
            let outcome = self.progress as i64;
            self.close_sendfile_pipe();
            return Some(outcome);
        }
        None
    }

    fn close_sendfile_pipe(&mut self) {
        let Some(pipe) = self.sendfile_pipe.take() else { return };
        if let Some(fd) = pipe.source_to_rewind.filter(|_| pipe.n_held > 0) {
            // The next reader reads the bytes again that did not get through.
            fd::move_position(fd, -(pipe.n_held as i64));
        }
        pipe.ends.into_iter().for_each(fd::close);
    }

    /// End the run with this errno: it was cancelled, or its time is up.
    pub(crate) fn abort(&mut self, errno: i32) {
        self.progress_at_failure = self.progress;
        self.finish(-i64::from(errno), true);
    }

    /// Make a run that goes to the sink in this one's place, ended with this errno. It has none of this one's
    /// memory, which the kernel may be using.
    pub(crate) fn make_replacement(&mut self, errno: i32) -> Box<Self> {
        let mut it = Box::new(Self::new(Arc::clone(&self.program), Arc::clone(&self.pool)));
        (it.id, it.group, it.token) = (self.id, self.group, self.token);
        (it.atom_idx, it.timeout_ns) = (self.atom_idx, self.timeout_ns);
        it.sink = self.sink.take();
        let (atom, value, progress) = (self.atom_idx, -i64::from(errno), self.progress);
        it.end = Some(End { atom, value, is_failure: true, progress });
        it
    }

    fn finish(&mut self, value: i64, is_failure: bool) -> Flow {
        let is_failure = is_failure
            || value < 0
                && self.op().is_io()
                && *self.program.outcome_at(self.atom_idx) == ResultSpec::Atom;
        self.end = Some(End {
            atom: self.atom_idx,
            value,
            is_failure,
            progress: self.progress_at_failure,
        });
        self.close_sendfile_pipe();
        if !self.opened.is_empty() {
            self.close_unreturned(value, is_failure);
        }
        Flow::Ended
    }

    /// Close the descriptors that the run has opened, except those that its outcome hands over.
    fn close_unreturned(&mut self, value: i64, is_failure: bool) {
        let mut handed_over = Vec::new();
        if !is_failure {
            let program = Arc::clone(&self.program);
            match program.outcome_at(self.atom_idx) {
                ResultSpec::Atom if self.op().opens() => handed_over.push(value as i32),
                outcome => self.collect_descriptors(outcome, &mut handed_over),
            }
        }
        self.opened.retain(|it| {
            let stays = handed_over.contains(&it.fd);
            if stays {
                it.sync_position();
            } else {
                fd::close(it.fd);
            }
            stays
        });
        self.make_descriptors_blocking();
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
    fn close_descriptors(&mut self) {
        self.close_sendfile_pipe();
        for opened in self.opened.drain(..) {
            fd::close(opened.fd);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.close_descriptors();
    }
}
