//! The body of a response: bytes that are shared, parts of open files, or both in turn.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::Advice;

/// What one read returns at most, in bytes, whatever the caller asks for.
const READ_MAX: usize = 1 << 20;
/// How far a read that waits for the disk reads ahead, in bytes, so that the next ones need not wait.
const AHEAD: u64 = 1 << 20;

/// A part of a body.
#[derive(Debug)]
pub(super) enum FilePiece {
    Bytes(Bytes),
    /// From byte `at` to before byte `end`. The descriptor is shared by all who read the file.
    File {
        file: Arc<OwnedFd>,
        at: u64,
        end: u64,
    },
}

impl FilePiece {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { at, end, .. } => end - at,
        }
    }
}

/// A body of a known length: bytes that are shared, or a part of an open file, or several such parts.
///
/// A file that has become shorter is an error: since the length was promised, the connection has to be
/// aborted. A file that is replaced or deleted is read to its end as it was.
#[derive(Debug)]
pub struct FileBody {
    piece: FilePiece,
    later: vec::IntoIter<FilePiece>,
    left: u64,
}

impl FileBody {
    /// A body of these bytes.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self::from(FilePiece::Bytes(bytes))
    }

    /// A body of no bytes.
    pub fn empty() -> Self {
        Self::from_bytes(Bytes::new())
    }

    /// The rest of an open file, from byte `position` on; its descriptor stays the caller's. `None` if it is no
    /// regular file.
    ///
    /// # Errors
    /// What duplicating the descriptor and asking for its size report.
    pub fn rest_of(fd: RawFd, position: u64) -> io::Result<Option<Self>> {
        Self::part_of(fd, position, u64::MAX)
    }

    /// `n_bytes` of an open file from byte `position` on, or fewer where it ends before; as [`rest_of`](Self::rest_of).
    ///
    /// # Errors
    /// What duplicating the descriptor and asking for its size report.
    pub fn part_of(fd: RawFd, position: u64, n_bytes: u64) -> io::Result<Option<Self>> {
        // SAFETY: the number is used for one call, which fails with EBADF if it is no descriptor.
        let lent = unsafe { BorrowedFd::borrow_raw(fd.max(0)) };
        let stat = rustix::fs::fstat(lent)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Ok(None);
        }
        let file = Arc::new(lent.try_clone_to_owned()?);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let end = size.min(position.saturating_add(n_bytes)).max(position);
        Ok(Some(Self::from_pieces(vec![FilePiece::File { file, at: position, end }])))
    }

    pub(super) fn from_pieces(pieces: Vec<FilePiece>) -> Self {
        let left = pieces.iter().map(FilePiece::len).sum();
        Self { piece: FilePiece::Bytes(Bytes::new()), later: pieces.into_iter(), left }
    }

    /// What is left, in bytes.
    pub fn len(&self) -> u64 {
        self.left
    }

    /// Whether all has been read.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Reads at most `max` bytes, at least one. `None`: this would wait for the disk, so that
    /// [`read`](Self::read) has to be called by a thread that may. No bytes: the end.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file has become shorter; what the disk reports.
    pub fn try_read(&mut self, max: usize) -> io::Result<Option<Bytes>> {
        self.read_by(max, try_read_at)
    }

    /// Reads at most `max` bytes, at least one, and waits for the disk. No bytes: the end.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file has become shorter; what the disk reports.
    pub fn read(&mut self, max: usize) -> io::Result<Bytes> {
        let bytes = self.read_by(max, |file, at, n_bytes| {
            // The kernel fetches what comes next while this read waits and its bytes are sent: a reader
            // that was late once would otherwise be late each time.
            let _ = rustix::fs::fadvise(
                file,
                at,
                std::num::NonZeroU64::new(n_bytes as u64 + AHEAD),
                Advice::WillNeed,
            );
            read_at(file, at, n_bytes).map(Some)
        })?;
        Ok(bytes.expect("a read that may wait returns bytes"))
    }

    fn read_by(
        &mut self,
        max: usize,
        read_at: impl FnOnce(&OwnedFd, u64, usize) -> io::Result<Option<Vec<u8>>>,
    ) -> io::Result<Option<Bytes>> {
        while self.piece.len() == 0 {
            match self.later.next() {
                Some(piece) => self.piece = piece,
                None => return Ok(Some(Bytes::new())),
            }
        }
        let max = max.clamp(1, usize::MAX);
        let bytes = match &mut self.piece {
            FilePiece::Bytes(bytes) => bytes.split_to(max.min(bytes.len())),
            FilePiece::File { file, at, end } => {
                let n_bytes = (*end - *at).min(max.min(READ_MAX) as u64) as usize;
                let Some(mut bytes) = read_at(file, *at, n_bytes)? else {
                    return Ok(None);
                };
                if bytes.is_empty() {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "a file became shorter while it was sent, so that its response cannot be \
                         completed; replace files by renaming new ones over them",
                    ));
                }
                if bytes.len() < bytes.capacity() / 2 {
                    bytes.shrink_to_fit();
                }
                *at += bytes.len() as u64;
                Bytes::from(bytes)
            }
        };
        self.left -= bytes.len() as u64;
        Ok(Some(bytes))
    }
}

impl From<FilePiece> for FileBody {
    fn from(piece: FilePiece) -> Self {
        let left = piece.len();
        Self { piece, later: Vec::new().into_iter(), left }
    }
}

/// Reads what is there without waiting for a disk; `None` if nothing is. No bytes: the end of the file.
pub(super) fn try_read_at(file: &OwnedFd, at: u64, n_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes: Vec<u8> = Vec::with_capacity(n_bytes);
    let part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: n_bytes };
    // SAFETY: the one part is the vector's spare capacity, which is at least `n_bytes` long.
    let n_read =
        unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, at as libc::off_t, libc::RWF_NOWAIT) };
    if n_read >= 0 {
        // SAFETY: the kernel has filled as many bytes as it says.
        unsafe { bytes.set_len(n_read as usize) };
        return Ok(Some(bytes));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Some file systems cannot say whether they would wait (EOPNOTSUPP), nor can old kernels (ENOSYS).
        Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::EINTR) => {
            Ok(None)
        }
        _ => Err(error),
    }
}

pub(super) fn read_at(file: &OwnedFd, at: u64, n_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(n_bytes);
    // An allocator may give more than it was asked for; what lies there is not asked for, either.
    rustix::io::retry_on_intr(|| rustix::io::pread(file, spare_capacity(&mut bytes), at))?;
    bytes.truncate(n_bytes);
    Ok(bytes)
}
