//! A system call, ready to be made: an atom whose operands have been looked up in a run.

use super::op::Op;

/// An operation with its operands as the kernel takes them: numbers, and addresses within the run.
///
/// The words, by operation (`Read` and `Pread`, `Write` and `Pwrite` differ only in their offset):
///
/// | operation | words |
/// |---|---|
/// | openat | folder, path, flags, mode |
/// | openat2 | folder, path, `open_how` |
/// | statx | folder, path, flags, mask, `statx` |
/// | read, write | descriptor, start, length, offset, whether the position is the run's own |
/// | readv, writev | descriptor, `iovec`s, count, offset, whether the position is the run's own |
/// | fallocate | descriptor, mode, offset, length |
/// | getdents | descriptor, start, length |
/// | splice | descriptor and offset in, descriptor and offset out, length, flags |
/// | connect | descriptor, address, its length |
/// | accept | descriptor, flags, address, address of its length |
/// | recv, send | descriptor, start, length, flags |
/// | recvmsg, sendmsg | descriptor, `msghdr`, flags |
/// | waitid | kind of identity, identity, options, `siginfo_t` |
/// | timeout | duration in nanoseconds; for `syscall::perform`, the deadline in nanoseconds |
/// | others | as in [`Op::operands`] |
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub(crate) op: Op,
    pub(crate) words: [u64; 6],
}

impl Call {
    pub(crate) fn new<const N: usize>(op: Op, words: [u64; N]) -> Self {
        let mut all = [0; 6];
        all[..N].copy_from_slice(&words);
        Self { op, words: all }
    }

    /// The operation.
    pub fn op(&self) -> Op {
        self.op
    }

    /// How many bytes the call may move, if one of its words says so; otherwise 0.
    #[inline]
    pub(crate) fn n_bytes(&self) -> usize {
        match self.op {
            Op::Read | Op::Pread | Op::Write | Op::Pwrite | Op::Recv | Op::Send => self.len(2),
            _ => 0,
        }
    }

    /// Whether the call moves a file position that is not the run's own.
    pub(crate) fn moves_shared_position(&self) -> bool {
        matches!(self.op, Op::Read | Op::Write | Op::Readv | Op::Writev)
            && self.offset(3) == -1
            && self.words[4] == 0
    }

    /// Return the call with one word replaced.
    pub(crate) fn with(mut self, idx: usize, word: u64) -> Self {
        self.words[idx] = word;
        self
    }

    /// How many bytes a read may return at most.
    ///
    /// # Safety
    /// The addresses of the call's `iovec`s, if it has any, are valid.
    pub(crate) unsafe fn n_bytes_max(&self) -> usize {
        if self.op != Op::Readv || self.len(2) == 0 {
            return self.len(2);
        }
        // SAFETY: guaranteed by the caller.
        let pieces = unsafe {
            std::slice::from_raw_parts(self.address::<libc::iovec>(1).cast_const(), self.len(2))
        };
        pieces.iter().map(|it| it.iov_len).sum()
    }

    /// A word that is a descriptor, or a flag of 32 bits.
    #[inline]
    pub(crate) fn int(&self, idx: usize) -> i32 {
        self.words[idx] as i32
    }

    /// A word that is an offset.
    #[inline]
    pub(crate) fn offset(&self, idx: usize) -> i64 {
        self.words[idx] as i64
    }

    /// A word that is a length.
    #[inline]
    pub(crate) fn len(&self, idx: usize) -> usize {
        self.words[idx] as usize
    }

    /// A word that is an address.
    #[inline]
    pub(crate) fn address<T>(&self, idx: usize) -> *mut T {
        self.words[idx] as *mut T
    }
}
