//! Programs of file atoms do the same on an engine as on the calling thread.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use threadlets_core::syslet::inline::perform_one;
use threadlets_core::syslet::program::NONE;
use threadlets_core::syslet::{AtomFlags, End, Flow, Object, Op, Program, Run, Span};

use crate::kit::*;

/// What a random atom does, with a file or a name among three of each.
#[derive(Debug, Clone)]
enum FileOperation {
    Open { file: usize, name: usize, flags: i32 },
    Read { file: usize, len: usize },
    Pread { file: usize, offset: i64, len: usize },
    Write { file: usize, len: usize },
    Pwrite { file: usize, offset: i64, len: usize },
    Readv { file: usize, offset: i64 },
    Writev { file: usize, offset: i64 },
    Truncate { file: usize, len: i64 },
    Allocate { file: usize, len: i64 },
    Sync { file: usize },
    Close { file: usize },
    Send { from: usize, to: usize, offset: i64, count: i64 },
    Splice { from: usize, to: usize },
    Unlink { name: usize },
    Rename { from: usize, to: usize },
    Link { from: usize, to: usize },
    MakeFolder { name: usize },
    Size { name: usize },
}

const MEMORY_BYTES: usize = 10_000;

fn operations() -> impl Strategy<Value = Vec<(FileOperation, bool, bool)>> {
    let (file, name) = (0..3usize, 0..3usize);
    let len = 0..MEMORY_BYTES;
    // Offsets around zero come more often than by chance.
    let offset = prop_oneof![1 => -1..2i64, 4 => -1..20_000i64].boxed();
    let flags = prop::sample::select(vec![
        libc::O_RDONLY,
        libc::O_WRONLY | libc::O_CREAT,
        libc::O_RDWR | libc::O_CREAT,
        libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC,
        libc::O_WRONLY | libc::O_APPEND,
        libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
        libc::O_RDONLY | libc::O_DIRECTORY,
    ]);
    let operation = prop_oneof![
        6 => (file.clone(), name.clone(), flags)
            .prop_map(|(file, name, flags)| FileOperation::Open { file, name, flags }),
        3 => (file.clone(), len.clone()).prop_map(|(file, len)| FileOperation::Read { file, len }),
        2 => (file.clone(), offset.clone(), len.clone())
            .prop_map(|(file, offset, len)| FileOperation::Pread { file, offset, len }),
        3 => (file.clone(), len.clone()).prop_map(|(file, len)| FileOperation::Write { file, len }),
        2 => (file.clone(), offset.clone(), len.clone())
            .prop_map(|(file, offset, len)| FileOperation::Pwrite { file, offset, len }),
        1 => (file.clone(), offset.clone())
            .prop_map(|(file, offset)| FileOperation::Readv { file, offset }),
        1 => (file.clone(), offset.clone())
            .prop_map(|(file, offset)| FileOperation::Writev { file, offset }),
        1 => (file.clone(), offset.clone()).prop_map(|(file, len)| FileOperation::Truncate { file, len }),
        1 => (file.clone(), offset.clone()).prop_map(|(file, len)| FileOperation::Allocate { file, len }),
        1 => file.clone().prop_map(|file| FileOperation::Sync { file }),
        2 => file.clone().prop_map(|file| FileOperation::Close { file }),
        2 => (file.clone(), file.clone(), offset.clone(), 1..20_000i64)
            .prop_map(|(from, to, offset, count)| FileOperation::Send { from, to, offset, count }),
        1 => (file.clone(), file).prop_map(|(from, to)| FileOperation::Splice { from, to }),
        1 => name.clone().prop_map(|name| FileOperation::Unlink { name }),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| FileOperation::Rename { from, to }),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| FileOperation::Link { from, to }),
        1 => name.clone().prop_map(|name| FileOperation::MakeFolder { name }),
        2 => name.prop_map(|name| FileOperation::Size { name }),
    ];
    prop::collection::vec((operation, prop::bool::weighted(0.15), prop::bool::weighted(0.1)), 1..25)
}

/// A program, and its slots whose values are the same wherever it runs.
struct FileProgram {
    program: Arc<Program>,
    results: Vec<u16>,
    files: [u16; 3],
    memory: u16,
}

fn make_program(operations: &[(FileOperation, bool, bool)], folder: &Path) -> FileProgram {
    let mut it = Builder::default();
    let files = [(); 3].map(|()| it.slot(-1));
    let names = [0, 1, 2].map(|idx| it.path(&folder.join(format!("name-{idx}"))));
    let (here, zero, nothing) = (it.slot(libc::AT_FDCWD.into()), it.slot(0), it.slot(-1));
    let (one, mode) = (it.slot(1), it.slot(0o600));
    let memory = it.buffer(MEMORY_BYTES);
    let pattern: Vec<u8> = (0..MEMORY_BYTES).map(|it| (it % 253) as u8 + 1).collect();
    let data = it.data(&pattern);
    let stat = it.fields(16);
    let mut results = vec![stat + 5];
    for (operation, stops, is_async) in operations {
        let result = it.slot(0);
        let flags = match (stops, is_async) {
            (true, _) => AtomFlags::STOP_ON_NEGATIVE,
            (_, true) => AtomFlags::ASYNC,
            _ => AtomFlags::default(),
        };
        let mut is_open = false;
        match *operation {
            FileOperation::Open { file, name, flags: open_flags } => {
                // Do not leak the descriptor that the slot had before.
                it.atom(Op::Close, &[files[file]], NONE, AtomFlags::default());
                let open_flags = it.slot(open_flags.into());
                let operands = [here, names[name], open_flags, mode];
                it.atom(Op::Openat, &operands, files[file], flags);
                is_open = true;
            }
            FileOperation::Read { file, len } => {
                let len = it.slot(len as i64);
                it.atom(Op::Read, &[files[file], memory, NONE, len], result, flags);
            }
            FileOperation::Pread { file, offset, len } => {
                let (offset, len) = (it.slot(offset), it.slot(len as i64));
                it.atom(Op::Pread, &[files[file], memory, NONE, len, offset], result, flags);
            }
            FileOperation::Write { file, len } => {
                let len = it.slot(len as i64);
                it.atom(Op::Write, &[files[file], data, NONE, len], result, flags);
            }
            FileOperation::Pwrite { file, offset, len } => {
                let (offset, len) = (it.slot(offset), it.slot(len as i64));
                it.atom(Op::Pwrite, &[files[file], data, NONE, len, offset], result, flags);
            }
            FileOperation::Readv { file, offset } | FileOperation::Writev { file, offset } => {
                let reads = matches!(operation, FileOperation::Readv { .. });
                let object = if reads { memory } else { data };
                let (offset, middle) = (it.slot(offset), it.slot(100));
                let spans = [
                    Span { object, start: NONE, length: middle },
                    Span { object, start: middle, length: NONE },
                ];
                let vector = it.object(Object::Vector(spans.into()));
                let op = if reads { Op::Readv } else { Op::Writev };
                it.atom(op, &[files[file], vector, offset], result, flags);
            }
            FileOperation::Truncate { file, len } => {
                let len = it.slot(len);
                it.atom(Op::Ftruncate, &[files[file], len], result, flags);
            }
            FileOperation::Allocate { file, len } => {
                let len = it.slot(len);
                it.atom(Op::Fallocate, &[files[file], zero, zero, len], result, flags);
            }
            FileOperation::Sync { file } => {
                it.atom(Op::Fdatasync, &[files[file]], result, flags);
            }
            FileOperation::Close { file } => {
                it.atom(Op::Close, &[files[file]], result, AtomFlags::default());
                // Forget the number, which is soon used for another descriptor.
                it.atom(Op::Add, &[nothing, zero, one], files[file], AtomFlags::default());
            }
            FileOperation::Send { from, to, offset, count } => {
                let (offset, count) = (it.slot(offset), it.slot(count));
                it.atom(Op::Sendfile, &[files[to], files[from], offset, count], result, flags);
            }
            FileOperation::Splice { from, to } => {
                let operands = [files[from], nothing, files[to], nothing, one, zero];
                it.atom(Op::Splice, &operands, result, flags);
            }
            FileOperation::Unlink { name } => {
                it.atom(Op::Unlinkat, &[here, names[name], zero], result, flags);
            }
            FileOperation::Rename { from, to } | FileOperation::Link { from, to } => {
                let is_link = matches!(operation, FileOperation::Link { .. });
                let op = if is_link { Op::Linkat } else { Op::Renameat };
                it.atom(op, &[here, names[from], here, names[to], zero], result, flags);
            }
            FileOperation::MakeFolder { name } => {
                it.atom(Op::Mkdirat, &[here, names[name], mode], result, flags);
            }
            FileOperation::Size { name } => {
                let mask = it.slot(i64::from(libc::STATX_SIZE | libc::STATX_TYPE));
                it.atom(Op::Statx, &[here, names[name], zero, mask, stat], result, flags);
            }
        }
        if !is_open {
            results.push(result);
        }
    }
    it.atom(Op::Nop, &[], NONE, AtomFlags::default());
    FileProgram { program: it.build(), results, files, memory }
}

/// The length and a hash of bytes that are too many to print.
type Digest = (usize, u64);

fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    (bytes.len(), hasher.finish())
}

/// The value, with `EBADF` for `EINVAL`: of a call with two faults, either may be reported.
fn normalized(value: i64) -> i64 {
    if value == errno(libc::EINVAL) { errno(libc::EBADF) } else { value }
}

/// All effects of a run.
#[derive(Debug, PartialEq)]
struct Effects {
    end: End,
    results: Vec<i64>,
    files: Vec<bool>,
    memory: Digest,
    folder: BTreeMap<String, Option<Digest>>,
}

fn collect_effects(program: &FileProgram, run: &mut Run, folder: &Path) -> Effects {
    let span = Span { object: program.memory, start: NONE, length: NONE };
    let entries = fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (
            entry.file_name().into_string().unwrap(),
            fs::read(entry.path()).ok().map(|it| digest(&it)),
        )
    });
    let end = run.end().unwrap();
    Effects {
        end: End { value: normalized(end.value), ..end },
        results: program.results.iter().map(|&slot| normalized(run.slot(slot))).collect(),
        files: program.files.iter().map(|&slot| run.slot(slot) >= 0).collect(),
        memory: digest(run.bytes(span)),
        folder: entries.collect(),
    }
}

fn run_here(engine: &TestEngine, operations: &[(FileOperation, bool, bool)]) -> Effects {
    let folder = Folder::new();
    fs::write(folder.path("name-0"), [9; 9000]).unwrap();
    let program = make_program(operations, &folder.path("."));
    let mut run = engine.prepare(&program.program);
    run.sink = None;
    while perform_one(&mut run) == Flow::Continues {}
    collect_effects(&program, &mut run, &folder.path("."))
}

fn run_on_engine(engine: &TestEngine, operations: &[(FileOperation, bool, bool)]) -> Effects {
    let folder = Folder::new();
    fs::write(folder.path("name-0"), [9; 9000]).unwrap();
    let program = make_program(operations, &folder.path("."));
    let mut run = engine.run(&program.program);
    collect_effects(&program, &mut run, &folder.path("."))
}

#[test]
fn programs_do_the_same_on_an_engine_as_on_the_calling_thread() {
    let _alone = alone();
    let mut kinds = real_kinds();
    kinds.push(simulated(3, 0.0, 0.0));
    let engines: Vec<TestEngine> = kinds.iter().map(TestEngine::new).collect();
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() };
    let before = descriptors();
    proptest!(config, |(operations in operations())| {
        let expected = run_here(&engines[0], &operations);
        for engine in &engines {
            let actual = run_on_engine(engine, &operations);
            prop_assert_eq!(&expected, &actual, "{}", engine.inner.kind());
        }
        prop_assert_eq!(&before, &descriptors());
    });
}
