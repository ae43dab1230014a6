//! C's `errno`: the number of the last error of a system call in this thread.

/// Set `errno` to zero: the code that runs next must not find another's error.
#[inline]
pub fn clear() {
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
        clear();
        assert_eq!(Some(0), Error::last_os_error().raw_os_error());
    }
}
