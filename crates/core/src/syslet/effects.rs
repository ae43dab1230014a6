//! Effects of an operation beside its value: descriptors, positions, filled memory, details.

use super::call::Call;
use super::fd;
use super::memory::{Access, Memory};
use super::op::Op;
use super::program::{NONE, Span};
use super::run::{OpenedDescriptor, Run};

impl Run {
    /// Whether a read that came up short may have been cut by what the page cache holds rather than by
    /// the end of the file.
    ///
    /// # Safety
    /// The call's addresses are valid.
    pub(crate) unsafe fn may_be_cut_by_cache(&self, call: &Call, n_read: i64) -> bool {
        const PAGE_MASK: i64 = 4095;
        // SAFETY: guaranteed by the caller.
        if n_read <= 0 || n_read as usize >= unsafe { call.n_bytes_max() } {
            return false;
        }
        let end = match call.offset(3) {
            -1 => match self.opened.iter().find(|it| it.fd == call.int(0)) {
                Some(opened) if opened.position >= 0 => opened.position + n_read,
                // It appends, or the run has not opened it. Without a position, reads return what there is.
                _ => match fd::position(call.int(0)) {
                    Some(position) => position,
                    None => return false,
                },
            },
            offset => offset + n_read,
        };
        // The cache cuts at a page. Pipes and devices return what there is, at any position.
        end & PAGE_MASK == 0 && fd::is_file(call.int(0))
    }

    /// Note the effects of an operation beside its value.
    pub(super) fn note_effects(&mut self, op: Op, words: &[u16; 6], value: i64) {
        let span = Span { object: words[1], start: words[2], length: words[3] };
        match op {
            Op::Openat | Op::Openat2 | Op::Socket | Op::Accept if value >= 0 => {
                let is_file = matches!(op, Op::Openat | Op::Openat2);
                let flags = if is_file { self.frame.slot(words[2]) } else { 0 };
                let counts_position = is_file && flags & i64::from(libc::O_APPEND) == 0;
                let position = if counts_position { 0 } else { -1 };
                let fd = value as i32;
                self.opened.push(OpenedDescriptor {
                    fd,
                    must_become_blocking: false,
                    position,
                    is_file: false,
                });
            }
            // Even a close(2) that fails frees the number, unless the number was not open, or the call was
            // cancelled before it began.
            Op::Close if ![libc::EBADF, libc::ECANCELED].contains(&(-value as i32)) => {
                let fd = self.frame.slot(words[0]) as i32;
                self.opened.retain(|it| it.fd != fd);
            }
            Op::Read | Op::Pread | Op::Recv | Op::Getdents if value > 0 => {
                self.frame.note_filled(span, value as usize);
            }
            Op::Readv | Op::Recvmsg if value >= 0 => {
                // The pieces of the last call leave out what earlier calls have moved: list all of them.
                let access = Access::WritesTo;
                let vector =
                    self.frame.resolve_vector(&self.program, words[1], access, 0, &self.pool);
                if vector.is_ok() {
                    self.frame.note_vector_filled(&self.program, words[1], value as usize);
                }
                if op == Op::Recvmsg && self.progress == 0 {
                    self.note_message(words);
                }
            }
            Op::Splice => [words[0], words[2]].into_iter().for_each(|it| self.reload_position(it)),
            Op::Sendfile => {
                [words[0], words[1]].into_iter().for_each(|it| self.reload_position(it))
            }
            Op::Statx if value >= 0 => self.note_stat(words[4]),
            // A failed statx must not leave an earlier one's fields.
            Op::Statx => {
                let first = usize::from(words[4]);
                self.frame.slots[first..first + 16].fill(0);
            }
            Op::Waitid if value >= 0 => self.note_child(words[3]),
            _ => {}
        }
    }

    /// Note that a call of the current atom has moved `n_bytes` bytes.
    pub(super) fn note_moved(&mut self, n_bytes: i64) {
        let atom = &self.program.atoms[usize::from(self.atom_idx)];
        let moves_position = match atom.op {
            Op::Read | Op::Write => true,
            Op::Readv | Op::Writev => self.frame.slot_if_any(atom.words[2]) < 0,
            _ => false,
        };
        if moves_position && !self.opened.is_empty() {
            let fd = self.frame.slot(atom.words[0]) as i32;
            let mut opened = self.opened.iter_mut();
            if let Some(opened) = opened.find(|it| it.fd == fd && it.position >= 0) {
                opened.position += n_bytes;
            }
        }
    }

    /// The offset for a read or write of `fd` that has none, and whether the position is the run's own.
    /// The offset -1 leaves it to the kernel.
    ///
    /// The run counts a position that is its own: after a transfer that an error cut short, the kernel's
    /// position depends on the backend that made the call (see `uring.rs`). Whether there is a position
    /// at all is looked up once, and not before it matters: most files are read with one call.
    pub(super) fn own_position(&mut self, fd: i32) -> (i64, bool) {
        match self.opened.iter_mut().find(|it| it.fd == fd && it.position >= 0) {
            None => (-1, false),
            // No byte has moved, so the kernel's position is still right.
            Some(opened) if opened.position == 0 => (-1, true),
            Some(opened) => {
                opened.is_file = opened.is_file || fd::has_position(fd);
                if opened.is_file {
                    return (opened.position, true);
                }
                opened.position = -1;
                (-1, false)
            }
        }
    }

    /// Set the kernel's position of the descriptor in this slot, since the next call uses it.
    pub(super) fn sync_position(&self, fd: u16) {
        let fd = self.frame.slot(fd) as i32;
        self.opened.iter().filter(|it| it.fd == fd).for_each(OpenedDescriptor::sync_position);
    }

    /// Ask the kernel for the position of the descriptor in this slot, after a splice or sendfile.
    fn reload_position(&mut self, fd: u16) {
        let fd = self.frame.slot(fd) as i32;
        if let Some(opened) = self.opened.iter_mut().find(|it| it.fd == fd) {
            opened.position = fd::position(fd).unwrap_or(-1);
        }
    }

    pub(super) fn note_message(&mut self, words: &[u16; 6]) {
        let Some(structs) = &self.structs else { return };
        let message = structs.message;
        let first = usize::from(words[5]);
        self.frame.slots[first] = message.msg_controllen as i64;
        self.frame.slots[first + 1] = i64::from(message.msg_flags);
        if words[3] != NONE {
            let span = Span { object: words[3], start: NONE, length: NONE };
            #[allow(clippy::unnecessary_cast)] // musl has a narrower one.
            self.frame.note_filled(span, message.msg_controllen as usize);
        }
        if words[4] != NONE
            && let Memory::Address(address) = &mut self.frame.objects[usize::from(words[4])]
        {
            address.len = message.msg_namelen;
        }
    }

    fn note_stat(&mut self, first: u16) {
        let Some(structs) = &self.structs else { return };
        let it = &structs.statx;
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
        let Some(structs) = &self.structs else { return };
        let child = &structs.child;
        // SAFETY: waitid fills in these fields; a structure of zeros means that there was no child.
        let (pid, status) = unsafe { (child.si_pid(), child.si_status()) };
        let first = usize::from(first);
        let fields = [i64::from(pid), i64::from(status), i64::from(child.si_code)];
        self.frame.slots[first..first + 3].copy_from_slice(&fields);
    }
}

impl OpenedDescriptor {
    /// Set the kernel's position to the one that the run has counted.
    pub(super) fn sync_position(&self) {
        if self.position > 0 {
            fd::set_position(self.fd, self.position);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::sync::Arc;

    use super::*;
    use crate::buffers::BufferPool;
    use crate::syslet::program::{Atom, AtomFlags, Object, Program, ResultSpec};
    use crate::syslet::run::OpenedDescriptor;

    /// A run of one atom that has opened these descriptors and has counted these positions.
    fn run(op: Op, operands: &[u16], slots: &[i64], opened: &[(i32, i64)]) -> Run {
        let mut words = [NONE; 6];
        words[..operands.len()].copy_from_slice(operands);
        let atom =
            Atom { op, words, result: NONE, next: NONE, flags: AtomFlags::default(), outcome: 0 };
        let piece = Span { object: 0, start: NONE, length: NONE };
        let objects = vec![Object::Data([7; 10].into()), Object::Vector([piece].into())];
        let program = Program::new(vec![atom], slots.to_vec(), objects, vec![ResultSpec::Atom]);
        let mut run = Run::new(Arc::new(program.unwrap()), Arc::new(BufferPool::new(1 << 20)));
        let opened = opened.iter().map(|&(fd, position)| OpenedDescriptor {
            fd,
            must_become_blocking: false,
            position,
            is_file: false,
        });
        run.opened = opened.collect();
        run
    }

    #[test]
    fn an_offset_is_not_taken_for_a_descriptor() {
        for (op, operands) in [(Op::Writev, &[0u16, 1, 1][..]), (Op::Sendfile, &[0, 0, 1, 1])] {
            let (target, other) = (File::open("/dev/null").unwrap(), tempfile().into_raw_fd());
            let slots = [i64::from(target.as_raw_fd()), i64::from(other)];
            // -1: the position of a file that appends is not known.
            let mut run = run(op, operands, &slots, &[(other, -1)]);
            let words = run.program.atoms()[0].words;
            run.note_effects(op, &words, 10);
            assert_eq!(-1, run.opened[0].position, "{op}");
        }
    }

    #[test]
    fn sending_a_file_moves_its_position() {
        let (target, source) = (File::open("/dev/null").unwrap(), tempfile());
        let fd = source.into_raw_fd();
        fd::move_position(fd, 10);
        let slots = [i64::from(target.as_raw_fd()), i64::from(fd), 10];
        let mut run = run(Op::Sendfile, &[0, 1, NONE, 2], &slots, &[(fd, 0)]);
        let words = run.program.atoms()[0].words;
        run.note_effects(Op::Sendfile, &words, 10);
        assert_eq!(10, run.opened[0].position);
    }

    #[test]
    fn a_run_counts_the_position_of_its_own_file_and_of_nothing_else() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let (fd, pipe) = (tempfile().into_raw_fd(), reader.into_raw_fd());
        let slots = [i64::from(fd), 0];
        let mut run = run(Op::Write, &[0, 0, NONE, NONE], &slots, &[(fd, 0), (pipe, 0)]);
        assert_eq!((-1, true), run.own_position(fd));
        run.note_moved(3);
        assert_eq!((3, true), run.own_position(fd));
        run.opened[1].position = 3;
        assert_eq!((-1, false), run.own_position(pipe));
        assert_eq!((-1, false), run.own_position(0));
        // The kernel has not been told the position yet.
        assert_eq!(Some(0), fd::position(fd));
        run.sync_position(0);
        assert_eq!(Some(3), fd::position(fd));
    }

    #[test]
    fn the_end_tells_how_many_bytes_an_atom_has_moved() {
        let slots = [i64::from(tempfile().into_raw_fd()), 0];
        let words = &[0, 0, NONE, NONE];
        let mut failed = run(Op::Write, words, &slots, &[]);
        failed.complete(3);
        failed.complete(-i64::from(libc::ENOSPC));
        let mut cancelled = run(Op::Write, words, &slots, &[]);
        cancelled.complete(3);
        let replacement = cancelled.make_replacement(libc::EIO);
        cancelled.abort(libc::ECANCELED);
        for run in [failed, cancelled, *replacement] {
            assert_eq!(3, run.end().unwrap().progress);
        }
    }

    /// A file without a name.
    fn tempfile() -> File {
        let path = std::env::temp_dir().join(format!("effects-{:?}", std::thread::current().id()));
        let options =
            File::options().read(true).write(true).create(true).truncate(true).open(&path);
        std::fs::remove_file(path).unwrap();
        options.unwrap()
    }
}
