//! Prepares the call of a run's current atom: looks its operands up, and fills structures in.

use super::call::Call;
use super::fd;
use super::memory::{Access, NegativeErrno};
use super::op::Op;
use super::program::{NONE, Span};
use super::run::{KernelStructs, Run, SendfilePipe};

/// How many bytes of a file that is sent go through its pipe at a time: as many as a pipe holds.
const SENDFILE_PIPE_BYTES: usize = 64 * 1024;

impl Run {
    /// The call that the current atom has to make now; an errno if its operands are not valid.
    pub(crate) fn prepare(&mut self) -> Result<Call, NegativeErrno> {
        let atom = self.program.atoms[usize::from(self.atom_idx)];
        let [a, b, c, d, e, f] = atom.words;
        let op = atom.op;
        let slot = |run: &Self, slot: u16| run.frame.slot(slot) as u64;
        let path =
            |run: &Self, object: u16| run.frame.path(&run.program, object).map(|it| it as u64);
        Ok(match op {
            Op::Nop | Op::Add => Call::new(op, []),
            Op::Openat => {
                let flags = slot(self, c) | libc::O_CLOEXEC as u64;
                Call::new(op, [slot(self, a), path(self, b)?, flags, slot(self, d)])
            }
            Op::Openat2 => {
                let words = [slot(self, a), path(self, b)?];
                let (flags, mode, resolve) = (slot(self, c), slot(self, d), slot(self, e));
                let how = &mut self.structs().how;
                how.flags = flags | libc::O_CLOEXEC as u64;
                (how.mode, how.resolve) = (mode, resolve);
                Call::new(op, [words[0], words[1], std::ptr::from_mut(how) as u64])
            }
            Op::Statx => {
                let words = [slot(self, a), path(self, b)?, slot(self, c), slot(self, d)];
                let target = &raw mut self.structs().statx;
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
                let (start, n_pieces) = self.prepare_vector(op, b)?;
                let fd = slot(self, a);
                let (offset, is_own) = match self.frame.slot_if_any(c) {
                    offset if offset < 0 => self.own_position(fd as i32),
                    offset => (offset + self.progress as i64, false),
                };
                Call::new(op, [fd, start, n_pieces, offset as u64, u64::from(is_own)])
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
                for (fd, offset) in [(a, b), (c, d)] {
                    if self.frame.slot_if_any(offset) < 0 {
                        self.sync_position(fd);
                    }
                }
                Call::new(op, [a, b, c, d, e, f].map(|it| self.frame.slot_if_any(it) as u64))
            }
            Op::Sendfile => self.prepare_sendfile([a, b, c, d])?,
            Op::Connect => {
                let fd = slot(self, a);
                let address = self.frame.address(&self.program, b)?;
                let len = u64::from(address.len);
                Call::new(op, [fd, &raw mut address.storage as u64, len])
            }
            Op::Accept => {
                let (fd, flags) = (slot(self, a), slot(self, b) | libc::SOCK_CLOEXEC as u64);
                let (address, len) = if c == NONE { (0, 0) } else { self.prepare_address_room(c)? };
                Call::new(op, [fd, flags, address, len])
            }
            Op::Socket => {
                let kind = slot(self, b) | libc::SOCK_CLOEXEC as u64;
                Call::new(op, [slot(self, a), kind, slot(self, c)])
            }
            Op::Waitid => {
                let words = [a, b, c].map(|it| slot(self, it));
                let child = &raw mut self.structs().child;
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

    fn structs(&mut self) -> &mut KernelStructs {
        // SAFETY: structures of numbers and null pointers.
        self.structs.get_or_insert_with(|| Box::new(unsafe { std::mem::zeroed() }))
    }

    /// A transfer between a descriptor and memory, without the bytes that are done already.
    fn prepare_transfer(
        &mut self,
        op: Op,
        [fd, object, start, length]: [u16; 4],
        offset: Option<i64>,
    ) -> Result<Call, NegativeErrno> {
        let reads_memory = matches!(op, Op::Write | Op::Pwrite | Op::Send);
        let access = if reads_memory { Access::ReadsFrom } else { Access::WritesTo };
        let span = Span { object, start, length };
        let memory = self.frame.resolve(&self.program, span, access, &self.pool)?;
        let start = memory.start.wrapping_add(self.progress) as u64;
        let len = memory.len.saturating_sub(self.progress) as u64;
        let fd = self.frame.slot(fd);
        let (offset, is_own) = match (offset, op) {
            (Some(offset), _) => (offset + self.progress as i64, false),
            (None, Op::Read | Op::Write) => self.own_position(fd as i32),
            _ => (-1, false),
        };
        Ok(Call::new(op, [fd as u64, start, len, offset as u64, u64::from(is_own)]))
    }

    pub(super) fn prepare_vector(
        &mut self,
        op: Op,
        object: u16,
    ) -> Result<(u64, u64), NegativeErrno> {
        let writes_to = matches!(op, Op::Readv | Op::Recvmsg);
        let access = if writes_to { Access::WritesTo } else { Access::ReadsFrom };
        let (program, progress) = (&self.program, self.progress);
        let vector = self.frame.resolve_vector(program, object, access, progress, &self.pool)?;
        Ok((vector.0 as u64, vector.1 as u64))
    }

    /// The addresses of the room for a socket address and for its length.
    fn prepare_address_room(&mut self, object: u16) -> Result<(u64, u64), NegativeErrno> {
        let address = self.frame.address(&self.program, object)?;
        address.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        Ok((&raw mut address.storage as u64, &raw mut address.len as u64))
    }

    fn prepare_message(
        &mut self,
        op: Op,
        [fd, vector, flags, control, address]: [u16; 5],
    ) -> Result<Call, NegativeErrno> {
        let (pieces, n_pieces) = self.prepare_vector(op, vector)?;
        let receives = op == Op::Recvmsg;
        let (mut name, mut name_len) = (0, 0);
        if address != NONE {
            let it = self.frame.address(&self.program, address)?;
            if receives {
                it.len = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            }
            (name, name_len) = (&raw mut it.storage as u64, it.len);
        }
        let (mut control_start, mut control_len) = (std::ptr::null_mut(), 0);
        // Ancillary data goes once, with the first bytes.
        if control != NONE && self.progress == 0 {
            let span = Span { object: control, start: NONE, length: NONE };
            let access = if receives { Access::WritesTo } else { Access::ReadsFrom };
            let memory = self.frame.resolve(&self.program, span, access, &self.pool)?;
            (control_start, control_len) = (memory.start, memory.len);
        }
        let message = &mut self.structs().message;
        message.msg_name = name as *mut libc::c_void;
        message.msg_namelen = name_len;
        message.msg_iov = pieces as *mut libc::iovec;
        message.msg_iovlen = n_pieces as _;
        message.msg_control = control_start.cast();
        message.msg_controllen = control_len as _;
        message.msg_flags = 0;
        let message = &raw mut *message as u64;
        let flags = kernel_flags(self.frame.slot(flags) as u64)?;
        Ok(Call::new(op, [self.frame.slot(fd) as u64, message, flags]))
    }

    /// The next splice of a file that is sent: into its pipe, or out of it.
    fn prepare_sendfile(
        &mut self,
        [to_slot, from_slot, offset, count]: [u16; 4],
    ) -> Result<Call, NegativeErrno> {
        let (to, from) = (self.frame.slot(to_slot) as u64, self.frame.slot(from_slot) as u64);
        let (offset, count) = (self.frame.slot_if_any(offset), self.frame.slot(count));
        if count < 0 {
            return Err(-libc::EINVAL);
        }
        if self.sendfile_pipe.is_none() {
            self.sync_position(to_slot);
            self.sync_position(from_slot);
            let source_to_rewind = (offset < 0).then_some(from as i32);
            self.sendfile_pipe =
                Some(Box::new(SendfilePipe { ends: fd::pipe()?, n_held: 0, source_to_rewind }));
        }
        let Some(pipe) = &self.sendfile_pipe else { unreachable!("the pipe was made just now") };
        let no_offset = u64::MAX;
        let flags = libc::SPLICE_F_MOVE as u64;
        if pipe.n_held > 0 {
            let (n_held, from) = (pipe.n_held as u64, pipe.ends[0] as u64);
            return Ok(Call::new(Op::Splice, [from, no_offset, to, no_offset, n_held, flags]));
        }
        let rest = (count as usize).saturating_sub(self.progress).min(SENDFILE_PIPE_BYTES) as u64;
        // Without an offset the kernel moves the file's position.
        let offset = if offset < 0 { no_offset } else { offset as u64 + self.progress as u64 };
        let into = pipe.ends[1] as u64;
        Ok(Call::new(Op::Splice, [from, offset, into, no_offset, rest, flags]))
    }
}

/// The flags of a message as the kernel is given them.
fn kernel_flags(flags: u64) -> Result<u64, NegativeErrno> {
    // With MSG_TRUNC the value would not be the number of bytes filled.
    if flags & libc::MSG_TRUNC as u64 != 0 {
        return Err(-libc::EINVAL);
    }
    // The run itself continues until everything has arrived.
    Ok(flags & !(libc::MSG_WAITALL as u64))
}
