//! C's `errno`: what the last system call of this thread left that failed.

/// Leave nothing: whoever runs next is not to find what another has failed with.
#[inline]
pub fn forget() {
    // SAFETY: the number is this thread's own, and lives as long as it.
    unsafe { *libc::__errno_location() = 0 }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn nothing_is_left_of_a_failure() {
        // SAFETY: no descriptor has this number.
        assert_eq!(-1, unsafe { libc::close(-1) });
        assert_eq!(Some(libc::EBADF), Error::last_os_error().raw_os_error());
        forget();
        assert_eq!(Some(0), Error::last_os_error().raw_os_error());
    }
}
