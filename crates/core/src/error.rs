//! The one error type of the core: which operation failed, and the kernel's reason.

use rustix::io::Errno;

/// An operation that the kernel refused.
///
/// It carries the operation's name and the errno; the bindings turn it into the Python
/// `OSError` subclass that belongs to the errno, in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{operation}: {errno}")]
pub struct Error {
    /// The operation that was attempted, by its system call's name.
    pub operation: &'static str,
    /// Why the kernel refused it.
    pub errno: Errno,
}

/// What an operation of the core returns.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `operation` for the reason `errno`.
    pub fn new(operation: &'static str, errno: Errno) -> Self {
        Self { operation, errno }
    }

    /// The error of an operation on a descriptor that was closed.
    pub fn bad_descriptor(operation: &'static str) -> Self {
        Self::new(operation, Errno::BADF)
    }

    /// Whether the descriptor is not open, or cannot be watched: it was closed, and its number perhaps used
    /// again.
    pub fn is_gone(&self) -> bool {
        matches!(self.errno, Errno::BADF | Errno::NOENT | Errno::PERM)
    }

    /// An error of `operation` for the reason that a standard library error has.
    pub fn from_io(operation: &'static str, error: &std::io::Error) -> Self {
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        Self { operation, errno }
    }
}
