//! What one thread can learn of another without its help: whether it holds the host lock, on which
//! CPU it runs, whether it sleeps.
//!
//! A thread attaches its traces while it can be the dispatcher, and detaches them before it or its host's
//! thread state ends. Readers are counted while they read, and detaching waits for them.

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering::SeqCst};
use std::time::Duration;

/// How often a thread looks whether its ended child has been reaped.
const REAPING_CHECK_PERIOD: Duration = Duration::from_secs(1);

/// Tells whether a thread of the host holds the host lock.
///
/// # Safety
/// The function is called with what [`Traces::attach`] was given, from any thread and without the
/// lock, until [`Traces::detach`] returns.
pub type HostProbe = unsafe fn(NonNull<c_void>) -> bool;

/// How much a thread that gives way is nicer: it gets half of the CPU time of one that does not.
const NICE_INCREMENT: i32 = 3;

/// Where other threads look what a thread does.
#[derive(Debug, Default)]
pub struct Traces {
    /// What the host knows the thread by; null while no traces are attached.
    host: AtomicPtr<c_void>,
    /// Where the kernel keeps the number of the thread's CPU; null where it does not.
    cpu: AtomicPtr<u32>,
    /// The thread's kernel ID.
    tid: AtomicI32,
    /// The process of the thread, and of the readers that `n_readers` counts.
    pid: AtomicU32,
    n_readers: AtomicU32,
}

impl Traces {
    /// Attach the calling thread's traces.
    pub fn attach(&self, host: NonNull<c_void>) {
        self.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), SeqCst);
        self.pid.store(std::process::id(), SeqCst);
        self.cpu.store(rseq::cpu_of_this_thread(), SeqCst);
        self.host.store(host.as_ptr(), SeqCst);
    }

    /// Wipe the traces and wait for readers, before the thread or its host's thread state ends.
    pub fn detach(&self) {
        self.wipe();
        // A reader needs some nanoseconds, unless it was preempted. In the child of a fork there is no
        // reader: the count is the parent's.
        while self.n_readers.load(SeqCst) != 0 && self.pid.load(SeqCst) == std::process::id() {
            std::thread::yield_now();
        }
    }

    fn wipe(&self) {
        self.host.store(null_mut(), SeqCst);
        self.cpu.store(null_mut(), SeqCst);
    }

    /// Call `use_host` with what the host knows the thread by; `None` without traces.
    pub fn with_host<R>(&self, use_host: impl FnOnce(NonNull<c_void>) -> R) -> Option<R> {
        self.read(|| NonNull::new(self.host.load(SeqCst)).map(use_host))
    }

    /// Whether the thread holds the host lock; `None` without traces.
    pub fn holds_lock(&self, probe: HostProbe) -> Option<bool> {
        // SAFETY: `detach` wipes the pointer and then waits for readers; this thread is one, so `detach` has
        // not returned.
        self.with_host(|host| unsafe { probe(host) })
    }

    /// The CPU on which the thread runs or ran last; `None` without traces, or where the kernel
    /// does not tell.
    pub fn cpu(&self) -> Option<u32> {
        self.read(|| {
            let cpu = NonNull::new(self.cpu.load(SeqCst))?;
            // SAFETY: the thread lives until `detach` has returned, which waits for readers; the
            // kernel writes the word whole.
            Some(unsafe { cpu.as_ptr().read_volatile() })
        })
    }

    /// Whether the thread runs or could run; `None` if the kernel does not tell.
    pub fn is_running(&self) -> Option<bool> {
        let stat = std::fs::read(format!("/proc/self/task/{}/stat", self.tid.load(SeqCst))).ok()?;
        // The name is in parentheses and may hold anything; the state follows it.
        let name_end = stat.iter().rposition(|&byte| byte == b')')?;
        Some(*stat.get(name_end + 2)? == b'R')
    }

    /// CPU time of the thread since it began, in nanoseconds; `None` without a thread.
    pub fn cpu_ns(&self) -> Option<u64> {
        // To the kernel zero is the calling thread.
        let tid = Some(self.tid.load(SeqCst)).filter(|&it| it != 0)?;
        // The kernel's ID of the clock of a thread's CPU time (CPUCLOCK_SCHED, CPUCLOCK_PERTHREAD_MASK).
        let clock = (!tid << 3) | 0b110;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: writes to a local variable; a clock whose thread has ended is refused.
        let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
        (status == 0).then_some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }

    /// In the child of a fork: no thread reads. The traces stay if `is_here`: their thread is the one that
    /// forked.
    pub(super) fn reset(&self, is_here: bool) {
        if !is_here {
            self.wipe();
        }
        self.tid.store(rustix::thread::gettid().as_raw_nonzero().get(), SeqCst);
        self.pid.store(std::process::id(), SeqCst);
        self.n_readers.store(0, SeqCst);
    }

    fn read<R>(&self, access: impl FnOnce() -> Option<R>) -> Option<R> {
        self.n_readers.fetch_add(1, SeqCst);
        let seen = access();
        self.n_readers.fetch_sub(1, SeqCst);
        seen
    }
}

/// What a thread has used of the machine since it began.
#[derive(Debug, Clone, Copy)]
pub struct ThreadUsage {
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// How often it has waited for something: voluntary context switches.
    pub n_waits: u64,
}

impl ThreadUsage {
    /// Usage of the calling thread.
    pub fn of_this_thread() -> Self {
        // SAFETY: a plain structure, which the call fills.
        let usage = unsafe {
            let mut usage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
            usage
        };
        let ns = |it: libc::timeval| it.tv_sec as u64 * 1_000_000_000 + it.tv_usec as u64 * 1_000;
        Self { cpu_ns: ns(usage.ru_utime) + ns(usage.ru_stime), n_waits: usage.ru_nvcsw as u64 }
    }
}

/// How the kernel treats the calling thread: scheduling and signals.
#[derive(Debug)]
pub struct ThreadTraits;

impl ThreadTraits {
    /// Run this thread only where a CPU would be idle; `false`: not allowed.
    pub fn run_when_idle() -> bool {
        // The kernel's `sched_param`. Not by libc: musl's function refuses always, since POSIX wants another.
        let priority: libc::c_int = 0;
        // SAFETY: a system call on this thread; the number outlives it.
        unsafe {
            libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const priority)
                == 0
        }
    }

    /// Have this thread give way to others that want its CPU, or be their equal again. Many functions may
    /// return at once, and what else runs on the machine, the dispatcher included, must not wait for all of
    /// them. To be equal again needs a privilege; without it the thread goes on as it is.
    pub fn give_way(gives_way: bool) {
        // SAFETY: system calls with numbers. The process ID is that of its first thread, which never gives
        // way: its niceness is the process's own.
        unsafe {
            let base = libc::getpriority(libc::PRIO_PROCESS, libc::getpid() as u32);
            let nice = if gives_way { base + NICE_INCREMENT } else { base };
            libc::setpriority(libc::PRIO_PROCESS, 0, nice);
        }
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

    /// Return when all processes that this thread has made have ended and been reaped. It does nothing else
    /// meanwhile.
    ///
    /// The kernel sends a child's PR_SET_PDEATHSIG when the thread that has made the child ends.
    pub fn outlive_children() {
        crate::signals::block();
        let options = libc::WEXITED | libc::WNOWAIT | libc::__WALL | libc::__WNOTHREAD;
        // SAFETY: all zeroes are a `siginfo_t`; the kernel writes what fits there. WNOWAIT leaves the child
        // to those that wait for it.
        let has_ended = || unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_ALL, 0, &raw mut info, options) == 0
        };
        // `waitid` fails when there are no children. One that has ended is found again until it is reaped.
        while has_ended() {
            std::thread::sleep(REAPING_CHECK_PERIOD);
        }
    }
}

/// Restartable sequences: the kernel writes the number of a thread's CPU into the thread's memory.
mod rseq {
    use std::ptr::null_mut;
    use std::sync::OnceLock;

    /// Offset of `cpu_id` in `struct rseq`.
    const CPU_ID_OFFSET: isize = 4;
    /// `cpu_id` of a thread that is not registered: -1 or -2 as unsigned.
    const UNREGISTERED_MIN: u32 = u32::MAX - 1;

    pub(super) fn cpu_of_this_thread() -> *mut u32 {
        static OFFSET: OnceLock<Option<isize>> = OnceLock::new();
        let Some(offset) = *OFFSET.get_or_init(offset_of_area) else { return null_mut() };
        let cpu = thread_pointer().wrapping_byte_offset(offset + CPU_ID_OFFSET).cast::<u32>();
        // SAFETY: the C library keeps its area at this offset from the thread pointer.
        if unsafe { cpu.read_volatile() } >= UNREGISTERED_MIN { null_mut() } else { cpu }
    }

    /// Offset of the C library's `struct rseq` from the thread pointer, as the library tells it.
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
    use std::process::{Command, Stdio};
    use std::sync::mpsc;

    use super::*;

    unsafe fn says_yes(_host: NonNull<c_void>) -> bool {
        true
    }

    #[test]
    fn traces_are_there_until_they_are_wiped() {
        let traces = Traces::default();
        assert_eq!(None, traces.holds_lock(says_yes));
        traces.attach(NonNull::dangling());
        assert_eq!(Some(true), traces.holds_lock(says_yes));
        assert_eq!(Some(true), traces.is_running());
        if let Some(cpu) = traces.cpu() {
            assert!(cpu < 4096, "{cpu} is no CPU");
        }
        traces.detach();
        assert_eq!((None, None), (traces.holds_lock(says_yes), traces.cpu()));
    }

    #[test]
    fn a_thread_outlives_its_own_children_alone() {
        let cat = || Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let of_another = cat();
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            sender.send(cat()).unwrap();
            ThreadTraits::outlive_children();
        });
        let mut child = receiver.recv().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert!(!thread.is_finished());
        assert!(child.wait().unwrap().success());
        thread.join().unwrap();
        assert!(of_another.wait_with_output().unwrap().status.success());
    }

    #[test]
    fn in_the_child_of_a_fork_only_the_thread_that_forked_leaves_traces() {
        let traces = Traces::default();
        traces.attach(NonNull::dangling());
        traces.reset(true);
        assert_eq!(Some(true), traces.holds_lock(says_yes));
        traces.reset(false);
        assert_eq!((None, None), (traces.holds_lock(says_yes), traces.cpu()));
    }

    #[test]
    fn wiping_in_the_child_of_a_fork_does_not_wait_for_the_readers_of_the_parent() {
        let traces = Traces::default();
        traces.attach(NonNull::dangling());
        traces.n_readers.store(1, SeqCst);
        // As in a child: `attach` has written the parent's ID.
        traces.pid.store(0, SeqCst);
        traces.detach();
        assert_eq!(None, traces.holds_lock(says_yes));
    }

    #[test]
    fn a_thread_that_computes_uses_its_cpu_and_one_that_sleeps_waits() {
        let traces = Traces::default();
        traces.attach(NonNull::dangling());
        let (before, cpu_before) = (ThreadUsage::of_this_thread(), traces.cpu_ns().unwrap());
        while ThreadUsage::of_this_thread().cpu_ns < before.cpu_ns + 3_000_000 {}
        assert!(traces.cpu_ns().unwrap() >= cpu_before + 2_000_000);
        let before = ThreadUsage::of_this_thread();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(ThreadUsage::of_this_thread().n_waits > before.n_waits);
    }

    #[test]
    fn a_thread_that_gives_way_is_nicer_than_the_process() {
        // SAFETY: a system call with numbers.
        let nice = |id| unsafe { libc::getpriority(libc::PRIO_PROCESS, id) };
        let base = nice(std::process::id());
        std::thread::spawn(move || {
            ThreadTraits::give_way(true);
            assert_eq!((base + NICE_INCREMENT).min(19), nice(0));
            assert_eq!(base, nice(std::process::id()));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_sleeping_thread_does_not_run() {
        let traces = Traces::default();
        let asleep = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                traces.attach(NonNull::dangling());
                asleep.wait();
                asleep.wait();
                traces.detach();
            });
            asleep.wait();
            // The thread goes to sleep in its second wait.
            while traces.is_running() == Some(true) {
                std::thread::yield_now();
            }
            assert_eq!(Some(false), traces.is_running());
            asleep.wait();
        });
    }
}
