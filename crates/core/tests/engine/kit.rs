//! Helpers for the engine tests: programs built by hand, and engines that give runs back.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use threadlets_core::buffers::BufferPool;
use threadlets_core::engine::{Engine, EngineKind, Simulation, uring_refusal};
use threadlets_core::syslet::program::NONE;
use threadlets_core::syslet::{
    Atom, AtomFlags, CompletionSink, Object, Op, Program, ResultSpec, Run,
};

/// How long a test waits for a run before it fails.
pub(crate) const RUN_TIMEOUT: Duration = Duration::from_secs(20);

/// Keep other tests from running meanwhile: tests count the process's descriptors.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Every kind of engine that works here.
pub(crate) fn kinds() -> Vec<EngineKind> {
    let mut kinds = real_kinds();
    kinds.push(simulated(1, 0.0, 0.0));
    kinds.push(simulated(2, 0.0, 0.7));
    kinds
}

/// The kinds of engine whose clock is the real one; says so where io_uring is not among them.
pub(crate) fn real_kinds() -> Vec<EngineKind> {
    static SAID: Once = Once::new();
    let Some(refusal) = uring_refusal() else {
        return vec![EngineKind::Workers, EngineKind::Uring];
    };
    // Not by `eprintln!`, whose output is shown only if the test fails.
    SAID.call_once(|| {
        let _ = writeln!(io::stderr(), "\nIO_URING WAS NOT TESTED, other engines only: {refusal}");
    });
    vec![EngineKind::Workers]
}

pub(crate) fn simulated(seed: u64, error_rate: f64, short_rate: f64) -> EngineKind {
    EngineKind::Simulated(Simulation { seed, error_rate, short_rate })
}

/// The open descriptors of the process, and their targets.
pub(crate) fn descriptors() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().map(|entry| {
        let path = entry.unwrap().path();
        // One of them is that of the folder itself, which may be closed by now.
        let target = fs::read_link(&path).unwrap_or_default();
        format!("{} {}", path.file_name().unwrap().display(), target.display())
    });
    entries.collect()
}

/// A temporary folder, removed when it is dropped.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static N_FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let name = format!("engine-{}-{}", std::process::id(), N_FOLDERS.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Builds a program.
#[derive(Default)]
pub(crate) struct Builder {
    atoms: Vec<Atom>,
    slots: Vec<i64>,
    objects: Vec<Object>,
}

pub(crate) const STOP: AtomFlags = AtomFlags::STOP_ON_NEGATIVE;

impl Builder {
    pub(crate) fn slot(&mut self, value: i64) -> u16 {
        self.slots.push(value);
        (self.slots.len() - 1) as u16
    }

    pub(crate) fn fd(&mut self, fd: &impl AsRawFd) -> u16 {
        self.slot(i64::from(fd.as_raw_fd()))
    }

    /// Add `n_slots` slots; return the first.
    pub(crate) fn fields(&mut self, n_slots: usize) -> u16 {
        self.slots.extend(std::iter::repeat_n(0, n_slots));
        (self.slots.len() - n_slots) as u16
    }

    pub(crate) fn object(&mut self, object: Object) -> u16 {
        self.objects.push(object);
        (self.objects.len() - 1) as u16
    }

    pub(crate) fn path(&mut self, path: &Path) -> u16 {
        self.object(Object::Path(CString::new(path.as_os_str().as_bytes()).unwrap()))
    }

    pub(crate) fn buffer(&mut self, size: usize) -> u16 {
        let size = self.slot(size as i64);
        self.object(Object::Buffer(size))
    }

    pub(crate) fn data(&mut self, bytes: &[u8]) -> u16 {
        self.object(Object::Data(bytes.into()))
    }

    /// Add an atom that continues with the adjacent one; return its index.
    pub(crate) fn atom(&mut self, op: Op, operands: &[u16], result: u16, flags: AtomFlags) -> u16 {
        let mut words = [NONE; 6];
        words[..operands.len()].copy_from_slice(operands);
        let at = self.atoms.len() as u16;
        self.atoms.push(Atom { op, words, result, next: at + 1, flags, outcome: 0 });
        at
    }

    /// Have an atom continue with `next`.
    pub(crate) fn set_next(&mut self, atom: u16, next: u16) {
        self.atoms[usize::from(atom)].next = next;
    }

    pub(crate) fn open(&mut self, path: &Path, flags: i32) -> u16 {
        let (folder, path) = (self.slot(libc::AT_FDCWD.into()), self.path(path));
        let (flags, mode, fd) = (self.slot(flags.into()), self.slot(0o600), self.slot(-1));
        self.atom(Op::Openat, &[folder, path, flags, mode], fd, STOP);
        fd
    }

    /// Build the program, which ends with the last atom.
    pub(crate) fn build(mut self) -> Arc<Program> {
        self.atoms.last_mut().unwrap().next = NONE;
        self.build_as_is()
    }

    pub(crate) fn build_as_is(self) -> Arc<Program> {
        let outcomes = vec![ResultSpec::Atom];
        Arc::new(Program::new(self.atoms, self.slots, self.objects, outcomes).unwrap())
    }
}

/// Opens `from`, creates `to`, and copies through a buffer of `size` bytes.
pub(crate) fn copying(from: &Path, to: &Path, size: usize) -> Arc<Program> {
    let mut it = Builder::default();
    let source = it.open(from, libc::O_RDONLY);
    let target = it.open(to, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC);
    let (buffer, n_read) = (it.buffer(size), it.slot(0));
    let branch = AtomFlags::from_bits(0b1100_0000);
    assert!(
        branch.has(AtomFlags::STOP_ON_NON_POSITIVE) && branch.has(AtomFlags::SKIP_TO_NEXT_ON_STOP)
    );
    let read = it.atom(Op::Read, &[source, buffer, NONE, NONE], n_read, branch);
    let close = it.atom(Op::Close, &[target], NONE, AtomFlags::default());
    let write = it.atom(Op::Write, &[target, buffer, NONE, n_read], NONE, STOP);
    it.set_next(read, write);
    it.set_next(write, read);
    it.set_next(close, NONE);
    it.build_as_is()
}

struct ChannelSink(Mutex<Sender<Box<Run>>>);

impl CompletionSink for ChannelSink {
    fn deliver(&self, runs: &mut Vec<Box<Run>>) {
        let sender = self.0.lock().unwrap();
        for run in runs.drain(..) {
            // A test that has failed receives no more.
            let _ = sender.send(run);
        }
    }
}

/// An engine, with the pool and the sink of its runs.
pub(crate) struct TestEngine {
    pub(crate) inner: Engine,
    pub(crate) pool: Arc<BufferPool>,
    ended: Receiver<Box<Run>>,
    sink: Arc<ChannelSink>,
}

impl TestEngine {
    /// Create an engine that has a running thread.
    pub(crate) fn new(kind: &EngineKind) -> Self {
        let (sender, ended) = channel();
        let engine = Self {
            inner: Engine::new(kind.clone(), 1),
            pool: Arc::new(BufferPool::new(1 << 30)),
            ended,
            sink: Arc::new(ChannelSink(Mutex::new(sender))),
        };
        engine.sync();
        engine
    }

    /// Wait until the runs that were submitted before have taken part in a tick.
    pub(crate) fn sync(&self) {
        let mut it = Builder::default();
        it.atom(Op::Nop, &[], NONE, AtomFlags::default());
        let mut run = self.prepare(&it.build());
        run.token = u64::MAX;
        self.inner.submit(run).map_err(|(error, _)| error).unwrap();
        let run = self.next();
        assert_eq!(u64::MAX, run.token, "another run ended first: {run:?}");
    }

    pub(crate) fn prepare(&self, program: &Arc<Program>) -> Box<Run> {
        let mut run = Box::new(Run::new(Arc::clone(program), Arc::clone(&self.pool)));
        run.sink = Some(Arc::clone(&self.sink) as Arc<dyn CompletionSink>);
        run
    }

    pub(crate) fn submit(&self, program: &Arc<Program>, token: u64) -> u64 {
        let mut run = self.prepare(program);
        run.token = token;
        self.inner.submit(run).map_err(|(error, _)| error).unwrap()
    }

    /// The next run that ends.
    pub(crate) fn next(&self) -> Box<Run> {
        let run = self.ended.recv_timeout(RUN_TIMEOUT).expect("no run has ended in time");
        assert!(run.end().is_some());
        run
    }

    pub(crate) fn run(&self, program: &Arc<Program>) -> Box<Run> {
        self.submit(program, 0);
        self.next()
    }

    /// The value of a program's last atom.
    pub(crate) fn value(&self, program: &Arc<Program>) -> i64 {
        self.run(program).end().unwrap().value
    }
}

impl Drop for TestEngine {
    fn drop(&mut self) {
        self.inner.stop();
        if !std::thread::panicking() {
            assert_eq!(0, self.inner.n_in_flight());
            while self.ended.try_recv().is_ok() {}
            assert_eq!(0, self.pool.in_use_bytes());
        }
    }
}

pub(crate) fn errno(errno: i32) -> i64 {
    -i64::from(errno)
}

pub(crate) fn make_fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: a path that ends with a zero byte.
    assert_eq!(0, unsafe { libc::mkfifo(path.as_ptr(), 0o600) });
}

/// Receives up to `size` bytes.
pub(crate) fn receiving(fd: &impl AsRawFd, size: usize) -> Arc<Program> {
    let mut it = Builder::default();
    let (fd, buffer, flags) = (it.fd(fd), it.buffer(size), it.slot(0));
    it.atom(Op::Recv, &[fd, buffer, NONE, NONE, flags], NONE, STOP);
    it.build()
}

pub(crate) fn polling(fd: RawFd, events: i16) -> Arc<Program> {
    let mut it = Builder::default();
    let (fd, events) = (it.slot(fd.into()), it.slot(events.into()));
    it.atom(Op::Poll, &[fd, events], NONE, STOP);
    it.build()
}

pub(crate) fn sleeping(duration: Duration) -> Arc<Program> {
    let mut it = Builder::default();
    let duration = it.slot(i64::try_from(duration.as_nanos()).unwrap());
    it.atom(Op::Timeout, &[duration], NONE, STOP);
    it.build()
}

pub(crate) fn accepting(listener: &impl AsRawFd) -> Arc<Program> {
    let mut it = Builder::default();
    let (fd, flags) = (it.fd(listener), it.slot(0));
    it.atom(Op::Accept, &[fd, flags, NONE], NONE, STOP);
    it.build()
}

pub(crate) fn opening(path: &Path, flags: i32) -> Arc<Program> {
    let mut it = Builder::default();
    it.open(path, flags);
    it.build()
}

/// Waits for a child; the fields are in the slots 3 to 5.
pub(crate) fn waiting_for_child(pid: u32, options: i32) -> Arc<Program> {
    let mut it = Builder::default();
    let kind = it.slot(i64::from(libc::P_PID));
    let (id, options, fields) = (it.slot(pid.into()), it.slot(options.into()), it.fields(3));
    it.atom(Op::Waitid, &[kind, id, options, fields], NONE, STOP);
    it.build()
}

pub(crate) fn splicing(from: &impl AsRawFd, to: &impl AsRawFd, len: usize) -> Arc<Program> {
    let mut it = Builder::default();
    let (from, to, no_offset) = (it.fd(from), it.fd(to), it.slot(-1));
    let (len, flags) = (it.slot(len as i64), it.slot(0));
    it.atom(Op::Splice, &[from, no_offset, to, no_offset, len, flags], NONE, STOP);
    it.build()
}
