//! A run: one execution of a program, wherever it is carried on.
//!
//! It decides what the current atom asks of the kernel ([`Run::prepare`]), and where the flow goes
//! with the value that came back ([`Run::complete`]). It makes no blocking call itself.

use std::sync::Arc;

use super::call::Call;
use super::memory::{Access, Errno, Frame, Memory};
use super::op::Op;
use super::program::{Atom, Flags, NONE, Outcome, Program, Span};
use super::syscall;
use crate::buffers::BufferPool;

/// Who is given runs that have ended.
pub trait Outlet: Send + Sync {
    /// Take these runs; called by an engine's thread.
    fn deliver(&self, runs: &mut Vec<Box<Run>>);
}

/// Where a run goes after an atom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// To an atom, the same one again if there is more of it to do.
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
}

/// What is known of an atom that has not been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prospect {
    /// Nothing.
    Open,
    /// Its descriptor is ready.
    Ready,
    /// An attempt has shown that it blocks, or nobody is to try.
    Blocked,
}

/// A descriptor that the run has opened.
#[derive(Debug, Clone, Copy)]
struct Opened {
    fd: i32,
    /// It is non-blocking because that is how we tried to open it.
    is_tried: bool,
    /// Where reads and writes without an offset go on, for files; negative: unknown.
    position: i64,
}

/// Structures that the kernel reads and writes during an operation.
struct Details {
    how: libc::open_how,
    statx: libc::statx,
    message: libc::msghdr,
    child: libc::siginfo_t,
}

/// The pipe through which a file is sent, and how many bytes are in it.
#[derive(Debug)]
struct Conduit {
    ends: [i32; 2],
    held: usize,
}

/// How much goes through the conduit at a time, in bytes: what a pipe holds.
const CONDUIT_BYTES: usize = 64 * 1024;

/// One execution of a program.
pub struct Run {
    program: Arc<Program>,
    frame: Frame,
    pool: Arc<BufferPool>,
    at: u16,
    /// What is known of the current atom.
    prospect: Prospect,
    /// What the current atom has done already, in bytes.
    progress: usize,
    end: Option<End>,
    opened: Vec<Opened>,
    details: Option<Box<Details>>,
    conduit: Option<Box<Conduit>>,
    /// When the current time-out is due; zero: it has not begun.
    deadline_ns: u64,
    /// Names the run for whoever wants to cancel it; zero: nobody does.
    pub id: u64,
    /// Names the runs that are cancelled together; zero: none.
    pub group: u64,
    /// How long an engine may take, in nanoseconds; zero: as long as it takes.
    pub timeout_ns: u64,
    /// The owner's own, untouched.
    pub token: u64,
    /// Whether the run went to an engine.
    pub went_async: bool,
    /// Who is given the run when it has ended.
    pub outlet: Option<Arc<dyn Outlet>>,
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
            end: None,
            opened: Vec::new(),
            details: None,
            conduit: None,
            deadline_ns: 0,
            id: 0,
            group: 0,
            timeout_ns: 0,
            token: 0,
            went_async: false,
            outlet: None,
        }
    }

    /// Make a run that has ended ready to begin again, with other parameters.
    pub fn begin_again(&mut self) {
        self.close_what_is_open();
        self.frame.slots.copy_from_slice(&self.program.slots);
        for (memory, object) in self.frame.objects.iter_mut().zip(&self.program.objects) {
            *memory = Memory::for_object(object);
        }
        (self.at, self.progress, self.deadline_ns) = (0, 0, 0);
        (self.id, self.group, self.token, self.timeout_ns) = (0, 0, 0, 0);
        (self.prospect, self.end, self.went_async) = (Prospect::Open, None, false);
        self.outlet = None;
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

    /// The index of the current atom.
    pub fn at(&self) -> u16 {
        self.at
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
        self.frame.bytes(&self.program, span)
    }

    /// The index of a span's first byte within its object.
    pub fn start_of(&self, span: Span) -> usize {
        if span.start == NONE { 0 } else { self.slot(span.start).max(0) as usize }
    }

    /// Take an object out of a run that has ended.
    pub fn take_object(&mut self, object: u16) -> Memory {
        std::mem::replace(&mut self.frame.objects[usize::from(object)], Memory::Missing)
    }

    /// Whether the current atom is to be tried where the run stands, by somebody who `tries` or not.
    #[inline]
    pub(crate) fn is_to_be_tried(&self, tries: bool) -> bool {
        match self.prospect {
            Prospect::Open => tries && !self.flags().has(Flags::ASYNC),
            Prospect::Ready => true,
            Prospect::Blocked => false,
        }
    }

    #[inline]
    pub(crate) fn flags(&self) -> Flags {
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

    /// The attempt at the current atom has shown that it blocks.
    pub(crate) fn note_blocked(&mut self) {
        self.prospect = Prospect::Blocked;
        self.settle_descriptors();
    }

    /// The current atom is worth another attempt: its descriptor is ready.
    pub(crate) fn note_ready(&mut self) {
        self.prospect = Prospect::Ready;
    }

    /// When the current time-out is due, in nanoseconds; the first question starts it.
    pub(crate) fn deadline_ns(&mut self, duration_ns: u64, now_ns: u64) -> u64 {
        if self.deadline_ns == 0 {
            self.deadline_ns = now_ns.saturating_add(duration_ns);
        }
        self.deadline_ns
    }

    /// Descriptors that we tried to open without blocking become what the program asked for.
    pub(crate) fn settle_descriptors(&mut self) {
        for opened in self.opened.iter_mut().filter(|it| it.is_tried) {
            syscall::make_blocking(opened.fd);
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

    /// What the current atom asks of the kernel now; an errno if it cannot be asked.
    pub(crate) fn prepare(&mut self) -> Result<Call, Errno> {
        let atom = self.program.atoms[usize::from(self.at)];
        let [a, b, c, d, e, f] = atom.words;
        let op = atom.op;
        let program = Arc::clone(&self.program);
        let slot = |run: &Self, slot: u16| run.frame.slot(slot) as u64;
        let path = |run: &Self, object: u16| run.frame.path(&program, object).map(|it| it as u64);
        Ok(match op {
            Op::Nop | Op::Add => Call::new(op, []),
            Op::Openat => {
                let flags = slot(self, c) | libc::O_CLOEXEC as u64;
                Call::new(op, [slot(self, a), path(self, b)?, flags, slot(self, d)])
            }
            Op::Openat2 => {
                let words = [slot(self, a), path(self, b)?];
                let (flags, mode, resolve) = (slot(self, c), slot(self, d), slot(self, e));
                let how = &mut self.details().how;
                how.flags = flags | libc::O_CLOEXEC as u64;
                (how.mode, how.resolve) = (mode, resolve);
                Call::new(op, [words[0], words[1], std::ptr::from_mut(how) as u64])
            }
            Op::Statx => {
                let words = [slot(self, a), path(self, b)?, slot(self, c), slot(self, d)];
                let target = &raw mut self.details().statx;
                Call::new(op, [words[0], words[1], words[2], words[3], target as u64])
            }
            Op::Read | Op::Write => self.prepare_transfer(op, [a, b, c, d], None)?,
            Op::Pread | Op::Pwrite => {
                let offset = self.frame.slot(e);
                if offset < 0 {
                    return Err(-libc::EINVAL);
                }
                self.prepare_transfer(op, [a, b, c, d], Some(offset))?
            }
            Op::Recv | Op::Send => {
                let call = self.prepare_transfer(op, [a, b, c, d], None)?;
                let flags = kernel_flags(slot(self, e))?;
                Call::new(op, [call.words[0], call.words[1], call.words[2], flags])
            }
            Op::Getdents => self.prepare_transfer(op, [a, b, c, d], None)?,
            Op::Readv | Op::Writev => {
                let (start, n_pieces) = self.vector(op, b)?;
                let offset = match self.frame.slot_if_any(c) {
                    offset if offset < 0 => -1,
                    offset => offset + self.progress as i64,
                };
                Call::new(op, [slot(self, a), start, n_pieces, offset as u64])
            }
            Op::Recvmsg | Op::Sendmsg => self.prepare_message(op, [a, b, c, d, e])?,
            Op::Unlinkat | Op::Mkdirat => {
                Call::new(op, [slot(self, a), path(self, b)?, slot(self, c)])
            }
            Op::Renameat | Op::Linkat => {
                let words = [slot(self, a), path(self, b)?, slot(self, c), path(self, d)?];
                Call::new(op, [words[0], words[1], words[2], words[3], slot(self, e)])
            }
            Op::Symlinkat => Call::new(op, [path(self, a)?, slot(self, b), path(self, c)?]),
            Op::Splice => {
                Call::new(op, [a, b, c, d, e, f].map(|it| self.frame.slot_if_any(it) as u64))
            }
            Op::Sendfile => self.prepare_conduit([a, b, c, d])?,
            Op::Connect => {
                let fd = slot(self, a);
                let address = self.frame.address(&program, b)?;
                let len = u64::from(address.len);
                Call::new(op, [fd, &raw mut address.storage as u64, len])
            }
            Op::Accept => {
                let (fd, flags) = (slot(self, a), slot(self, b) | libc::SOCK_CLOEXEC as u64);
                let (address, len) = if c == NONE { (0, 0) } else { self.address_room(c)? };
                Call::new(op, [fd, flags, address, len])
            }
            Op::Socket => {
                let kind = slot(self, b) | libc::SOCK_CLOEXEC as u64;
                Call::new(op, [slot(self, a), kind, slot(self, c)])
            }
            Op::Waitid => {
                let words = [a, b, c].map(|it| slot(self, it));
                let child = &raw mut self.details().child;
                Call::new(op, [words[0], words[1], words[2], child as u64])
            }
            Op::Timeout => Call::new(op, [self.frame.slot(a).max(0) as u64]),
            Op::Fsync | Op::Fdatasync | Op::Close => Call::new(op, [slot(self, a)]),
            Op::Ftruncate | Op::Shutdown | Op::Poll => {
                Call::new(op, [a, b].map(|it| slot(self, it)))
            }
            Op::Fallocate => Call::new(op, [a, b, c, d].map(|it| slot(self, it))),
        })
    }

    fn details(&mut self) -> &mut Details {
        // SAFETY: structures of numbers and null pointers.
        self.details.get_or_insert_with(|| Box::new(unsafe { std::mem::zeroed() }))
    }

    /// Descriptor, start, length and offset of a piece of memory, what is done already left out.
    fn prepare_transfer(
        &mut self,
        op: Op,
        [fd, object, start, length]: [u16; 4],
        offset: Option<i64>,
    ) -> Result<Call, Errno> {
        let reads = matches!(op, Op::Write | Op::Pwrite | Op::Send);
        let access = if reads { Access::ReadsFrom } else { Access::WritesTo };
        let span = Span { object, start, length };
        let memory = self.frame.resolve(&self.program, span, access, &self.pool)?;
        let start = memory.start.wrapping_add(self.progress) as u64;
        let len = memory.len.saturating_sub(self.progress) as u64;
        let offset = offset.map_or(-1, |it| it + self.progress as i64);
        Ok(Call::new(op, [self.frame.slot(fd) as u64, start, len, offset as u64]))
    }

    fn vector(&mut self, op: Op, object: u16) -> Result<(u64, u64), Errno> {
        let writes_to = matches!(op, Op::Readv | Op::Recvmsg);
        let access = if writes_to { Access::WritesTo } else { Access::ReadsFrom };
        let (program, progress) = (&self.program, self.progress);
        let vector = self.frame.resolve_vector(program, object, access, progress, &self.pool)?;
        Ok((vector.0 as u64, vector.1 as u64))
    }

    /// Room for an address, and for its length.
    fn address_room(&mut self, object: u16) -> Result<(u64, u64), Errno> {
        let address = self.frame.address(&self.program, object)?;
        address.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        Ok((&raw mut address.storage as u64, &raw mut address.len as u64))
    }

    fn prepare_message(
        &mut self,
        op: Op,
        [fd, vector, flags, control, address]: [u16; 5],
    ) -> Result<Call, Errno> {
        let (pieces, n_pieces) = self.vector(op, vector)?;
        let receives = op == Op::Recvmsg;
        let program = Arc::clone(&self.program);
        let (mut name, mut name_len) = (0, 0);
        if address != NONE {
            let it = self.frame.address(&program, address)?;
            if receives {
                it.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            }
            (name, name_len) = (&raw mut it.storage as u64, it.len);
        }
        let (mut control_start, mut control_len) = (std::ptr::null_mut(), 0);
        // What goes along goes once, with the first bytes.
        if control != NONE && self.progress == 0 {
            let span = Span { object: control, start: NONE, length: NONE };
            let access = if receives { Access::WritesTo } else { Access::ReadsFrom };
            let memory = self.frame.resolve(&program, span, access, &self.pool)?;
            (control_start, control_len) = (memory.start, memory.len);
        }
        let message = &mut self.details().message;
        message.msg_name = name as *mut libc::c_void;
        message.msg_namelen = name_len;
        message.msg_iov = pieces as *mut libc::iovec;
        message.msg_iovlen = n_pieces as usize;
        message.msg_control = control_start.cast();
        message.msg_controllen = control_len;
        message.msg_flags = 0;
        let message = &raw mut *message as u64;
        let flags = kernel_flags(self.frame.slot(flags) as u64)?;
        Ok(Call::new(op, [self.frame.slot(fd) as u64, message, flags]))
    }

    /// The next splice of a file that is sent: into the pipe, or out of it.
    fn prepare_conduit(&mut self, [to, from, offset, count]: [u16; 4]) -> Result<Call, Errno> {
        let (to, from) = (self.frame.slot(to) as u64, self.frame.slot(from) as u64);
        let (offset, count) = (self.frame.slot_if_any(offset), self.frame.slot(count));
        if count < 0 {
            return Err(-libc::EINVAL);
        }
        if self.conduit.is_none() {
            self.conduit = Some(Box::new(Conduit { ends: syscall::pipe()?, held: 0 }));
        }
        let Some(conduit) = &self.conduit else { unreachable!("it was made just now") };
        let nowhere = u64::MAX;
        let flags = libc::SPLICE_F_MOVE as u64;
        if conduit.held > 0 {
            let (held, from) = (conduit.held as u64, conduit.ends[0] as u64);
            return Ok(Call::new(Op::Splice, [from, nowhere, to, nowhere, held, flags]));
        }
        let rest = (count as usize).saturating_sub(self.progress).min(CONDUIT_BYTES) as u64;
        // Without an offset the file's position goes along by itself.
        let offset = if offset < 0 { nowhere } else { offset as u64 + self.progress as u64 };
        let into = conduit.ends[1] as u64;
        Ok(Call::new(Op::Splice, [from, offset, into, nowhere, rest, flags]))
    }

    /// A new descriptor is non-blocking, which the program did not ask for.
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

    /// Whether a read of `fd` that came up short may have been cut by what the cache holds rather
    /// than by the end of the file.
    pub(crate) fn is_cut_short(&self, call: &Call, n_read: i64) -> bool {
        const PAGE_MASK: i64 = 4095;
        if n_read <= 0 || n_read as usize >= call.room() {
            return false;
        }
        let end = match call.offset(3) {
            -1 => match self.opened.iter().find(|it| it.fd == call.int(0)) {
                Some(opened) if opened.position >= 0 => opened.position + n_read,
                Some(_) => return false,
                // Somebody else's: what stands nowhere gives what there is.
                None => match syscall::position(call.int(0)) {
                    Some(position) => position,
                    None => return false,
                },
            },
            offset => offset + n_read,
        };
        // Pipes and devices give what there is, wherever they stand.
        end & PAGE_MASK == 0 && syscall::is_file(call.int(0))
    }

    /// So many bytes of the current atom are done; the rest is still to come.
    pub(crate) fn note_progress(&mut self, n_bytes: i64) {
        self.progress += n_bytes as usize;
    }

    /// The current atom's call has returned: note what it did, and follow the flow.
    pub(crate) fn complete(&mut self, value: i64) -> Flow {
        let atom = self.program.atoms[usize::from(self.at)];
        let value = match atom.op {
            Op::Nop | Op::Add => value,
            Op::Sendfile => match self.advance_conduit(atom.words[3], value) {
                Some(value) => value,
                None => return self.again(),
            },
            op if value > 0 && (op.writes_all() || self.waits_for_all(&atom)) => {
                self.progress += value as usize;
                if self.has_more_to_move(&atom) {
                    return self.again();
                }
                self.progress as i64
            }
            _ if self.progress > 0 => {
                // What went well before the end, or before an error, counts.
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
            self.progress = 0;
            self.prospect = Prospect::Open;
            self.deadline_ns = 0;
        }
        if atom.result != NONE {
            self.frame.slots[usize::from(atom.result)] = value;
        }
        if atom.flags.stop_at(value) {
            let adjacent = self.at + 1;
            if atom.flags.has(Flags::SKIP_TO_NEXT_ON_STOP) {
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

    /// Whether a receive is to go on until the memory is full.
    fn waits_for_all(&self, atom: &Atom) -> bool {
        matches!(atom.op, Op::Recv | Op::Recvmsg)
            && self.message_flags(atom) & libc::MSG_WAITALL != 0
    }

    fn message_flags(&self, atom: &Atom) -> i32 {
        match atom.op {
            Op::Recv | Op::Send => self.frame.slot(atom.words[4]) as i32,
            Op::Recvmsg | Op::Sendmsg => self.frame.slot(atom.words[2]) as i32,
            _ => 0,
        }
    }

    /// Whether the atom has not moved all of its bytes yet, and may go on.
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

    /// The value of a file that was sent, once it is.
    fn advance_conduit(&mut self, count: u16, value: i64) -> Option<i64> {
        let Some(conduit) = &mut self.conduit else { return Some(value) };
        let sent = |progress: usize, value: i64| if progress > 0 { progress as i64 } else { value };
        if value <= 0 {
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
        let is_done = conduit.held == 0 && self.progress as i64 >= self.frame.slot(count);
        if is_done {
            let outcome = self.progress as i64;
            self.close_conduit();
            return Some(outcome);
        }
        None
    }

    fn close_conduit(&mut self) {
        if let Some(conduit) = self.conduit.take() {
            conduit.ends.into_iter().for_each(syscall::close);
        }
    }

    /// What an operation leaves behind, beside its value.
    fn note_effects(&mut self, op: Op, words: &[u16; 6], value: i64) {
        let span = Span { object: words[1], start: words[2], length: words[3] };
        match op {
            Op::Openat | Op::Openat2 | Op::Socket | Op::Accept if value >= 0 => {
                let is_file = matches!(op, Op::Openat | Op::Openat2);
                let flags = if is_file { self.frame.slot(words[2]) } else { 0 };
                let is_plain = is_file && flags & i64::from(libc::O_APPEND) == 0;
                let position = if is_plain { 0 } else { -1 };
                self.opened.push(Opened { fd: value as i32, is_tried: false, position });
            }
            // Whatever close(2) says, the number is free afterwards, unless there was nothing.
            Op::Close if value != -i64::from(libc::EBADF) => {
                let fd = self.frame.slot(words[0]) as i32;
                self.opened.retain(|it| it.fd != fd);
            }
            Op::Read | Op::Pread | Op::Recv | Op::Getdents if value > 0 => {
                self.frame.note_filled(span, value as usize);
                if op == Op::Read {
                    self.advance_position(words[0], value);
                }
            }
            Op::Write if value > 0 => self.advance_position(words[0], value),
            Op::Readv | Op::Recvmsg if value >= 0 => {
                self.frame.note_vector_filled(&self.program, words[1], value as usize);
                if op == Op::Recvmsg {
                    self.note_message(words);
                } else {
                    self.forget_position(words[0]);
                }
            }
            Op::Writev | Op::Splice | Op::Sendfile => {
                self.forget_position(words[0]);
                self.forget_position(words[2]);
            }
            Op::Statx if value >= 0 => self.note_stat(words[4]),
            // What an earlier one has told is not true of this one.
            Op::Statx => {
                let first = usize::from(words[4]);
                self.frame.slots[first..first + 16].fill(0);
            }
            Op::Waitid if value >= 0 => self.note_child(words[3]),
            _ => {}
        }
    }

    fn advance_position(&mut self, fd: u16, n_bytes: i64) {
        let fd = self.frame.slot(fd) as i32;
        if let Some(opened) = self.opened.iter_mut().find(|it| it.fd == fd && it.position >= 0) {
            opened.position += n_bytes;
        }
    }

    /// Something else than a read or write has moved the descriptor.
    fn forget_position(&mut self, fd: u16) {
        let fd = self.frame.slots.get(usize::from(fd)).map_or(-1, |it| *it as i32);
        if let Some(opened) = self.opened.iter_mut().find(|it| it.fd == fd) {
            opened.position = syscall::position(fd).unwrap_or(-1);
        }
    }

    fn note_message(&mut self, words: &[u16; 6]) {
        let Some(details) = &self.details else { return };
        let message = details.message;
        let first = usize::from(words[5]);
        self.frame.slots[first] = message.msg_controllen as i64;
        self.frame.slots[first + 1] = i64::from(message.msg_flags);
        if words[3] != NONE {
            let span = Span { object: words[3], start: NONE, length: NONE };
            self.frame.note_filled(span, message.msg_controllen);
        }
        if words[4] != NONE
            && let Memory::Address(address) = &mut self.frame.objects[usize::from(words[4])]
        {
            address.len = message.msg_namelen;
        }
    }

    fn note_stat(&mut self, first: u16) {
        let Some(details) = &self.details else { return };
        let it = &details.statx;
        let time = |it: libc::statx_timestamp| {
            it.tv_sec.wrapping_mul(1_000_000_000).wrapping_add(i64::from(it.tv_nsec))
        };
        let device = |major: u32, minor: u32| libc::makedev(major, minor) as i64;
        let fields = [
            i64::from(it.stx_mode),
            i64::from(it.stx_nlink),
            i64::from(it.stx_uid),
            i64::from(it.stx_gid),
            it.stx_ino as i64,
            it.stx_size as i64,
            it.stx_blocks as i64,
            i64::from(it.stx_blksize),
            time(it.stx_atime),
            time(it.stx_mtime),
            time(it.stx_ctime),
            time(it.stx_btime),
            device(it.stx_dev_major, it.stx_dev_minor),
            device(it.stx_rdev_major, it.stx_rdev_minor),
            it.stx_attributes as i64,
            it.stx_mnt_id as i64,
        ];
        let first = usize::from(first);
        self.frame.slots[first..first + fields.len()].copy_from_slice(&fields);
    }

    fn note_child(&mut self, first: u16) {
        let Some(details) = &self.details else { return };
        let child = &details.child;
        // SAFETY: waitid fills in these fields; a structure of zeros means that there was no child.
        let (pid, status) = unsafe { (child.si_pid(), child.si_status()) };
        let first = usize::from(first);
        let fields = [i64::from(pid), i64::from(status), i64::from(child.si_code)];
        self.frame.slots[first..first + 3].copy_from_slice(&fields);
    }

    /// End the run with this errno: it was cancelled, or its time is up.
    pub(crate) fn give_up(&mut self, errno: i32) {
        self.finish(-i64::from(errno), true);
    }

    fn finish(&mut self, value: i64, is_failure: bool) -> Flow {
        let is_failure = is_failure
            || value < 0 && self.op().is_io() && *self.program.outcome_at(self.at) == Outcome::Atom;
        self.end = Some(End { atom: self.at, value, is_failure });
        self.close_conduit();
        if !self.opened.is_empty() {
            self.close_leftovers(value, is_failure);
        }
        Flow::Ended
    }

    /// Close what the run has opened, but for what its outcome hands over.
    fn close_leftovers(&mut self, value: i64, is_failure: bool) {
        let mut handed_over = Vec::new();
        if !is_failure {
            let program = Arc::clone(&self.program);
            match program.outcome_at(self.at) {
                Outcome::Atom if self.op().opens() => handed_over.push(value as i32),
                outcome => self.collect_descriptors(outcome, &mut handed_over),
            }
        }
        self.settle_handed_over(&handed_over);
        self.opened.retain(|it| {
            let stays = handed_over.contains(&it.fd);
            if !stays {
                syscall::close(it.fd);
            }
            stays
        });
    }

    fn settle_handed_over(&mut self, handed_over: &[i32]) {
        for opened in self.opened.iter_mut().filter(|it| handed_over.contains(&it.fd)) {
            if opened.is_tried {
                syscall::make_blocking(opened.fd);
                opened.is_tried = false;
            }
        }
    }

    fn collect_descriptors(&self, outcome: &Outcome, into: &mut Vec<i32>) {
        match outcome {
            Outcome::Fd(slot) => into.push(self.frame.slot(*slot) as i32),
            Outcome::Tuple(parts) => {
                parts.iter().for_each(|part| self.collect_descriptors(part, into));
            }
            _ => {}
        }
    }

    /// The caller owns the descriptors of the outcome from now on.
    pub fn release_descriptors(&mut self) {
        self.opened.clear();
    }
}

/// The flags as the kernel is given them.
fn kernel_flags(flags: u64) -> Result<u64, Errno> {
    // The value would be no longer how much memory has been filled.
    if flags & libc::MSG_TRUNC as u64 != 0 {
        return Err(-libc::EINVAL);
    }
    // The run itself goes on until all is there.
    Ok(flags & !(libc::MSG_WAITALL as u64))
}

impl Run {
    fn close_what_is_open(&mut self) {
        self.close_conduit();
        for opened in self.opened.drain(..) {
            syscall::close(opened.fd);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.close_what_is_open();
    }
}
