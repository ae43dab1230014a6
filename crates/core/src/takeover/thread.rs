//! What one thread can learn of another without its help: whether it holds the host lock, on which
//! CPU it runs, whether it sleeps.
//!
//! A thread leaves traces while it can be the dispatcher, and they are wiped before it or what its host
//! knows it by ends; a reader says that it reads, and the wiping waits for that.

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering::SeqCst};

/// Asks whether a thread of the host holds the host lock.
///
/// # Safety
/// The function is called with what [`Traces::appear`] was given, from any thread and without the
/// lock, until `vanish` returns.
pub type HostProbe = unsafe fn(NonNull<c_void>) -> bool;

/// Where to look what a thread does.
#[derive(Debug, Default)]
pub struct Traces {
    /// What the host knows the thread by; null while there are no traces.
    host: AtomicPtr<c_void>,
    /// Where the kernel keeps the number of the thread's CPU; null where it does not.
    cpu: AtomicPtr<u32>,
    /// The kernel's number of the thread.
    tid: AtomicI32,
    /// The process of the thread, and of those that read.
    pid: AtomicU32,
    n_readers: AtomicU32,
}

impl Traces {
    /// Leave traces; called by the thread itself.
    pub fn appear(&self, host: NonNull<c_void>) {
        self.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), SeqCst);
        self.pid.store(std::process::id(), SeqCst);
        self.cpu.store(rseq::cpu_of_this_thread(), SeqCst);
        self.host.store(host.as_ptr(), SeqCst);
    }

    /// Wipe the traces, before the thread or its host's thread state ends.
    pub fn vanish(&self) {
        self.wipe();
        // A reader needs some nanoseconds, unless it was preempted. In the child of a fork there is none.
        while self.n_readers.load(SeqCst) != 0 && self.pid.load(SeqCst) == std::process::id() {
            std::thread::yield_now();
        }
    }

    fn wipe(&self) {
        self.host.store(null_mut(), SeqCst);
        self.cpu.store(null_mut(), SeqCst);
    }

    /// Whether the thread holds the host lock; `None` without traces.
    pub fn holds_lock(&self, probe: HostProbe) -> Option<bool> {
        self.read(|| {
            let host = NonNull::new(self.host.load(SeqCst))?;
            // SAFETY: `vanish` wipes the pointer and then waits for readers, of which we are one: it
            // has not returned.
            Some(unsafe { probe(host) })
        })
    }

    /// The CPU on which the thread runs or ran last; `None` without traces, or where the kernel
    /// does not tell.
    pub fn cpu(&self) -> Option<u32> {
        self.read(|| {
            let cpu = NonNull::new(self.cpu.load(SeqCst))?;
            // SAFETY: the thread lives until `vanish` has returned, which waits for readers; its
            // kernel writes the word whole.
            Some(unsafe { cpu.as_ptr().read_volatile() })
        })
    }

    /// Whether the thread runs or could run, by the kernel's word; `None` if it does not say.
    pub fn is_running(&self) -> Option<bool> {
        let stat = std::fs::read(format!("/proc/self/task/{}/stat", self.tid.load(SeqCst))).ok()?;
        // The name is in parentheses and may hold anything; the state follows it.
        let name_end = stat.iter().rposition(|&byte| byte == b')')?;
        Some(*stat.get(name_end + 2)? == b'R')
    }

    /// In the child of a fork: nobody reads, and the thread is the one that forked, or not there.
    pub(super) fn reset(&self, is_here: bool) {
        if !is_here {
            self.wipe();
        }
        self.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), SeqCst);
        self.pid.store(std::process::id(), SeqCst);
        self.n_readers.store(0, SeqCst);
    }

    fn read<R>(&self, look: impl FnOnce() -> Option<R>) -> Option<R> {
        self.n_readers.fetch_add(1, SeqCst);
        let seen = look();
        self.n_readers.fetch_sub(1, SeqCst);
        seen
    }
}

/// How a thread asks the kernel to be treated.
#[derive(Debug)]
pub struct ThreadTraits;

impl ThreadTraits {
    /// Run this thread only where a CPU would be idle; `false`: not allowed.
    pub fn run_when_idle() -> bool {
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: a system call on this thread; the parameters live as long as it.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) == 0 }
    }

    /// Keep this thread on one CPU; `false`: not allowed.
    pub fn stay_on(cpu: u32) -> bool {
        let mut set = rustix::thread::CpuSet::new();
        if cpu as usize >= rustix::thread::CpuSet::MAX_CPU {
            return false;
        }
        set.set(cpu as usize);
        rustix::thread::sched_setaffinity(None, &set).is_ok()
    }

    /// Leave all signals to the other threads.
    pub fn block_signals() {
        // SAFETY: plain calls on a set of our own and on this thread's mask.
        unsafe {
            let mut all = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, null_mut());
        }
    }
}

/// Restartable sequences: the kernel writes the number of a thread's CPU into the thread's memory.
mod rseq {
    use std::ptr::null_mut;
    use std::sync::OnceLock;

    /// Where `cpu_id` stands in `struct rseq`.
    const CPU_ID_OFFSET: isize = 4;
    /// "Not registered": -1 and -2 as unsigned.
    const UNREGISTERED_MIN: u32 = u32::MAX - 1;

    pub(super) fn cpu_of_this_thread() -> *mut u32 {
        static OFFSET: OnceLock<Option<isize>> = OnceLock::new();
        let Some(offset) = *OFFSET.get_or_init(offset_of_area) else { return null_mut() };
        let cpu = thread_pointer().wrapping_byte_offset(offset + CPU_ID_OFFSET).cast::<u32>();
        // SAFETY: the C library keeps its area at this offset from the thread pointer.
        if unsafe { cpu.read_volatile() } >= UNREGISTERED_MIN { null_mut() } else { cpu }
    }

    /// The C library's word for where its area is, from the thread pointer.
    fn offset_of_area() -> Option<isize> {
        // SAFETY: looks up a name; both variables are constants once the program runs.
        unsafe {
            let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()).cast::<isize>();
            let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()).cast::<u32>();
            (!offset.is_null() && !size.is_null() && *size > 0).then(|| *offset)
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn thread_pointer() -> *mut u8 {
        let pointer: *mut u8;
        // SAFETY: the ABI keeps the thread pointer's own value at its first word.
        unsafe {
            std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags));
        }
        pointer
    }

    #[cfg(target_arch = "aarch64")]
    fn thread_pointer() -> *mut u8 {
        let pointer: *mut u8;
        // SAFETY: reads a register.
        unsafe {
            std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, nomem, preserves_flags));
        }
        pointer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe fn says_yes(_host: NonNull<c_void>) -> bool {
        true
    }

    #[test]
    fn traces_are_there_until_they_are_wiped() {
        let traces = Traces::default();
        assert_eq!(None, traces.holds_lock(says_yes));
        traces.appear(NonNull::dangling());
        assert_eq!(Some(true), traces.holds_lock(says_yes));
        assert_eq!(Some(true), traces.is_running());
        if let Some(cpu) = traces.cpu() {
            assert!(cpu < 4096, "{cpu} is no CPU");
        }
        traces.vanish();
        assert_eq!((None, None), (traces.holds_lock(says_yes), traces.cpu()));
    }

    #[test]
    fn in_the_child_of_a_fork_only_the_thread_that_forked_leaves_traces() {
        let traces = Traces::default();
        traces.appear(NonNull::dangling());
        traces.reset(true);
        assert_eq!(Some(true), traces.holds_lock(says_yes));
        traces.reset(false);
        assert_eq!((None, None), (traces.holds_lock(says_yes), traces.cpu()));
    }

    #[test]
    fn wiping_in_the_child_of_a_fork_does_not_wait_for_the_readers_of_the_parent() {
        let traces = Traces::default();
        traces.appear(NonNull::dangling());
        traces.n_readers.store(1, SeqCst);
        // What `appear` has written is the parent's.
        traces.pid.store(0, SeqCst);
        traces.vanish();
        assert_eq!(None, traces.holds_lock(says_yes));
    }

    #[test]
    fn a_sleeping_thread_does_not_run() {
        let traces = Traces::default();
        let asleep = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                traces.appear(NonNull::dangling());
                asleep.wait();
                asleep.wait();
                traces.vanish();
            });
            asleep.wait();
            // It goes to sleep within its second wait.
            while traces.is_running() == Some(true) {
                std::thread::yield_now();
            }
            assert_eq!(Some(false), traces.is_running());
            asleep.wait();
        });
    }
}
