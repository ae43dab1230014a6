//! Signals: threads that leave them to the host's, and interim actions, set while the only thread that may
//! change the host's handlers is blocked.
//!
//! The host keeps a table of signal handlers. Until the thread that may change it can do so, this module sets
//! an action with the kernel: the signal writes its number to a descriptor, or has its default action. The
//! host's own handler is not called meanwhile, so it gets no signal for which its table has another handler,
//! or none.
//!
//! All functions but [`block`] and the signal handlers themselves are called with the host's lock held.

use std::mem::{transmute, zeroed};
use std::os::fd::RawFd;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};

use libc::{SA_ONSTACK, SA_RESTART, SA_SIGINFO, SIG_DFL, SIG_IGN, c_int, sigaction, sighandler_t};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Signal numbers are less than this.
const N_SIGNALS: usize = 65;

static INTERIM: [Interim; N_SIGNALS] = [const { Interim::new() }; N_SIGNALS];

/// The action of one signal that is set with the kernel, and that the host does not know yet.
struct Interim {
    is_set: AtomicBool,
    /// The address of the handler that was set.
    handler: AtomicUsize,
    /// The descriptor to which a handler writes the signal's number; -1 for none.
    fd: AtomicI32,
    /// The previous handler, which is the host's, and its flags.
    host_handler: AtomicUsize,
    host_flags: AtomicI32,
    /// The signal has arrived, and was passed to the host's handler.
    is_passed: AtomicBool,
}

/// Block signals on this thread, so that the host's threads handle them.
pub(crate) fn block() {
    // SAFETY: a set of all signals, made and used here.
    unsafe {
        let mut all: libc::sigset_t = zeroed();
        libc::sigfillset(&raw mut all);
        // Faults of the thread itself end the process, and the host may have handlers that report them.
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
            libc::sigdelset(&raw mut all, fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, null_mut());
    }
}

/// Have a signal write its number to a non-blocking descriptor.
pub fn write_number(number: c_int, fd: RawFd) -> Result<()> {
    let interim = Interim::begin(number)?;
    interim.fd.store(fd, SeqCst);
    // A system call that the signal interrupts is restarted.
    interim.set(number, write_handler(), SA_ONSTACK | SA_RESTART)
}

/// Give a signal its default action.
pub fn use_default(number: c_int) -> Result<()> {
    Interim::begin(number)?.set(number, SIG_DFL, 0)
}

/// Have a signal call the host's previous handler again, if there was one; [`take_passed`] tells whether it
/// was called.
pub fn pass_to_host(number: c_int) -> Result<()> {
    let interim = Interim::begin(number)?;
    let (handler, flags) = (interim.host_handler.load(SeqCst), interim.host_flags.load(SeqCst));
    if handler == SIG_DFL || handler == SIG_IGN || flags & SA_SIGINFO != 0 {
        return interim.set(number, handler, flags);
    }
    interim.set(number, pass_handler(), flags)
}

/// Whether a signal was passed to the host's handler since the last call of this function.
pub fn take_passed(number: c_int) -> bool {
    Interim::get(number).is_some_and(|it| it.is_passed.swap(false, SeqCst))
}

/// Whether a signal still has the action that was set here, and no other code has set one since.
pub fn is_interim(number: c_int) -> bool {
    Interim::get(number).is_some_and(|it| {
        it.is_set.load(SeqCst)
            && action(number).is_ok_and(|now| now.sa_sigaction == it.handler.load(SeqCst))
    })
}

/// End the interim action of a signal: the host knows its handler now.
pub fn end(number: c_int) {
    if let Some(interim) = Interim::get(number) {
        interim.is_set.store(false, SeqCst);
        interim.is_passed.store(false, SeqCst);
    }
}

/// Have no handler write to this descriptor any more: it is about to be closed. Other code that has replaced
/// a handler of this module may still call it.
pub fn forget(fd: RawFd) {
    for interim in &INTERIM {
        let _ = interim.fd.compare_exchange(fd, -1, SeqCst, SeqCst);
    }
}

impl Interim {
    const fn new() -> Self {
        Self {
            is_set: AtomicBool::new(false),
            handler: AtomicUsize::new(SIG_DFL),
            fd: AtomicI32::new(-1),
            host_handler: AtomicUsize::new(SIG_DFL),
            host_flags: AtomicI32::new(0),
            is_passed: AtomicBool::new(false),
        }
    }

    fn get(number: c_int) -> Option<&'static Self> {
        INTERIM.get(usize::try_from(number).ok()?)
    }

    /// Remember the current handler as the host's, unless it was set here.
    fn begin(number: c_int) -> Result<&'static Self> {
        let it = Self::get(number).ok_or_else(|| Error::new("sigaction", Errno::INVAL))?;
        let now = action(number)?;
        if now.sa_sigaction != write_handler()
            && now.sa_sigaction != pass_handler()
            && !is_interim(number)
        {
            it.host_handler.store(now.sa_sigaction, SeqCst);
            it.host_flags.store(now.sa_flags, SeqCst);
        }
        Ok(it)
    }

    fn set(&self, number: c_int, handler: sighandler_t, flags: c_int) -> Result<()> {
        // SAFETY: all zeroes are a valid action: the default one, with an empty mask and no flags.
        let mut action: sigaction = unsafe { zeroed() };
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        // SAFETY: the action is alive. Its handler is one of those below, which only do what a signal handler
        // may do, or one that was set for this signal before with these flags.
        if unsafe { libc::sigaction(number, &raw const action, null_mut()) } != 0 {
            return Err(last_error());
        }
        self.handler.store(handler, SeqCst);
        self.is_set.store(true, SeqCst);
        Ok(())
    }
}

/// The current action of a signal.
fn action(number: c_int) -> Result<sigaction> {
    // SAFETY: as in `set`.
    let mut action: sigaction = unsafe { zeroed() };
    // SAFETY: the kernel writes an action there, and changes nothing else.
    if unsafe { libc::sigaction(number, null(), &raw mut action) } != 0 {
        return Err(last_error());
    }
    Ok(action)
}

fn last_error() -> Error {
    Error::from_io("sigaction", &std::io::Error::last_os_error())
}

fn write_handler() -> sighandler_t {
    on_signal_write as *const () as sighandler_t
}

fn pass_handler() -> sighandler_t {
    on_signal_pass as *const () as sighandler_t
}

/// Signal handler that writes the signal's number. Runs on any thread, between any two of its instructions.
extern "C" fn on_signal_write(number: c_int) {
    let Some(interim) = Interim::get(number) else { return };
    let fd = interim.fd.load(SeqCst);
    if fd < 0 {
        return;
    }
    let byte = number as u8;
    // SAFETY: `errno` is this thread's own, and is restored; `write` is allowed in a signal handler, and the
    // byte is alive.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        while libc::write(fd, (&raw const byte).cast(), 1) < 0 && *errno == libc::EINTR {}
        *errno = before;
    }
}

/// Signal handler that calls the host's. Runs on any thread, like the one above.
extern "C" fn on_signal_pass(number: c_int) {
    let Some(interim) = Interim::get(number) else { return };
    interim.is_passed.store(true, SeqCst);
    let handler = interim.host_handler.load(SeqCst) as *const ();
    // SAFETY: `pass_to_host` has checked that it is a function of this type, which handled this signal.
    let handler: extern "C" fn(c_int) = unsafe { transmute(handler) };
    handler(number);
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicU32;

    use super::*;

    static N_CALLS: AtomicU32 = AtomicU32::new(0);

    extern "C" fn host_handler(_number: c_int) {
        N_CALLS.fetch_add(1, SeqCst);
    }

    fn raise(number: c_int) {
        // SAFETY: the signal has a handler.
        assert_eq!(0, unsafe { libc::raise(number) });
    }

    fn set_host_handler(number: c_int) {
        // SAFETY: the handler only counts, which a signal handler may do.
        unsafe { libc::signal(number, host_handler as *const () as sighandler_t) };
    }

    #[test]
    fn a_signal_writes_its_number_and_then_goes_to_the_host() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        set_host_handler(libc::SIGUSR1);
        write_number(libc::SIGUSR1, writer.as_raw_fd()).unwrap();
        write_number(libc::SIGUSR1, writer.as_raw_fd()).unwrap();
        raise(libc::SIGUSR1);
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!((libc::SIGUSR1 as u8, 0), (byte[0], N_CALLS.load(SeqCst)));
        assert!(!take_passed(libc::SIGUSR1));
        pass_to_host(libc::SIGUSR1).unwrap();
        raise(libc::SIGUSR1);
        assert_eq!(1, N_CALLS.load(SeqCst));
        assert!(take_passed(libc::SIGUSR1) && !take_passed(libc::SIGUSR1));
    }

    #[test]
    fn what_other_code_sets_is_not_ours() {
        assert!(!is_interim(libc::SIGUSR2));
        use_default(libc::SIGUSR2).unwrap();
        assert!(is_interim(libc::SIGUSR2));
        set_host_handler(libc::SIGUSR2);
        assert!(!is_interim(libc::SIGUSR2));
        use_default(libc::SIGUSR2).unwrap();
        end(libc::SIGUSR2);
        assert!(!is_interim(libc::SIGUSR2));
    }

    #[test]
    fn a_handler_that_other_code_calls_writes_until_its_descriptor_is_closed() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        reader.set_nonblocking(true).unwrap();
        write_number(libc::SIGURG, writer.as_raw_fd()).unwrap();
        end(libc::SIGURG);
        raise(libc::SIGURG);
        assert_eq!(1, reader.read(&mut [0; 2]).unwrap());
        // The handler before is not the host's, so nothing is passed to it.
        pass_to_host(libc::SIGURG).unwrap();
        raise(libc::SIGURG);
        write_number(libc::SIGURG, writer.as_raw_fd()).unwrap();
        forget(writer.as_raw_fd());
        raise(libc::SIGURG);
        assert!(reader.read(&mut [0; 2]).is_err());
    }

    #[test]
    fn what_cannot_be_handled_is_refused() {
        for number in [-1, 0, 65, libc::SIGKILL, libc::SIGSTOP] {
            assert_eq!(Errno::INVAL, write_number(number, 0).unwrap_err().errno);
            assert!(!is_interim(number));
        }
    }
}
