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
enum Deed {
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

fn deeds() -> impl Strategy<Value = Vec<(Deed, bool, bool)>> {
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
    let deed = prop_oneof![
        6 => (file.clone(), name.clone(), flags)
            .prop_map(|(file, name, flags)| Deed::Open { file, name, flags }),
        3 => (file.clone(), len.clone()).prop_map(|(file, len)| Deed::Read { file, len }),
        2 => (file.clone(), offset.clone(), len.clone())
            .prop_map(|(file, offset, len)| Deed::Pread { file, offset, len }),
        3 => (file.clone(), len.clone()).prop_map(|(file, len)| Deed::Write { file, len }),
        2 => (file.clone(), offset.clone(), len.clone())
            .prop_map(|(file, offset, len)| Deed::Pwrite { file, offset, len }),
        1 => (file.clone(), offset.clone())
            .prop_map(|(file, offset)| Deed::Readv { file, offset }),
        1 => (file.clone(), offset.clone())
            .prop_map(|(file, offset)| Deed::Writev { file, offset }),
        1 => (file.clone(), offset.clone()).prop_map(|(file, len)| Deed::Truncate { file, len }),
        1 => (file.clone(), offset.clone()).prop_map(|(file, len)| Deed::Allocate { file, len }),
        1 => file.clone().prop_map(|file| Deed::Sync { file }),
        2 => file.clone().prop_map(|file| Deed::Close { file }),
        2 => (file.clone(), file.clone(), offset.clone(), 1..20_000i64)
            .prop_map(|(from, to, offset, count)| Deed::Send { from, to, offset, count }),
        1 => (file.clone(), file).prop_map(|(from, to)| Deed::Splice { from, to }),
        1 => name.clone().prop_map(|name| Deed::Unlink { name }),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| Deed::Rename { from, to }),
        1 => (name.clone(), name.clone()).prop_map(|(from, to)| Deed::Link { from, to }),
        1 => name.clone().prop_map(|name| Deed::MakeFolder { name }),
        2 => name.prop_map(|name| Deed::Size { name }),
    ];
    prop::collection::vec((deed, prop::bool::weighted(0.15), prop::bool::weighted(0.1)), 1..25)
}

/// A program, and its slots whose values are the same wherever it runs.
struct Made {
    program: Arc<Program>,
    results: Vec<u16>,
    files: [u16; 3],
    memory: u16,
}

fn make(deeds: &[(Deed, bool, bool)], folder: &Path) -> Made {
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
    for (deed, stops, is_async) in deeds {
        let result = it.slot(0);
        let flags = match (stops, is_async) {
            (true, _) => AtomFlags::STOP_ON_NEGATIVE,
            (_, true) => AtomFlags::ASYNC,
            _ => AtomFlags::default(),
        };
        let mut is_open = false;
        match *deed {
            Deed::Open { file, name, flags: open_flags } => {
                // Do not leak the descriptor that the slot had before.
                it.atom(Op::Close, &[files[file]], NONE, AtomFlags::default());
                let open_flags = it.slot(open_flags.into());
                let operands = [here, names[name], open_flags, mode];
                it.atom(Op::Openat, &operands, files[file], flags);
                is_open = true;
            }
            Deed::Read { file, len } => {
                let len = it.slot(len as i64);
                it.atom(Op::Read, &[files[file], memory, NONE, len], result, flags);
            }
            Deed::Pread { file, offset, len } => {
                let (offset, len) = (it.slot(offset), it.slot(len as i64));
                it.atom(Op::Pread, &[files[file], memory, NONE, len, offset], result, flags);
            }
            Deed::Write { file, len } => {
                let len = it.slot(len as i64);
                it.atom(Op::Write, &[files[file], data, NONE, len], result, flags);
            }
            Deed::Pwrite { file, offset, len } => {
                let (offset, len) = (it.slot(offset), it.slot(len as i64));
                it.atom(Op::Pwrite, &[files[file], data, NONE, len, offset], result, flags);
            }
            Deed::Readv { file, offset } | Deed::Writev { file, offset } => {
                let reads = matches!(deed, Deed::Readv { .. });
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
            Deed::Truncate { file, len } => {
                let len = it.slot(len);
                it.atom(Op::Ftruncate, &[files[file], len], result, flags);
            }
            Deed::Allocate { file, len } => {
                let len = it.slot(len);
                it.atom(Op::Fallocate, &[files[file], zero, zero, len], result, flags);
            }
            Deed::Sync { file } => {
                it.atom(Op::Fdatasync, &[files[file]], result, flags);
            }
            Deed::Close { file } => {
                it.atom(Op::Close, &[files[file]], result, AtomFlags::default());
                // Forget the number, which is soon used for another descriptor.
                it.atom(Op::Add, &[nothing, zero, one], files[file], AtomFlags::default());
            }
            Deed::Send { from, to, offset, count } => {
                let (offset, count) = (it.slot(offset), it.slot(count));
                it.atom(Op::Sendfile, &[files[to], files[from], offset, count], result, flags);
            }
            Deed::Splice { from, to } => {
                let operands = [files[from], nothing, files[to], nothing, one, zero];
                it.atom(Op::Splice, &operands, result, flags);
            }
            Deed::Unlink { name } => {
                it.atom(Op::Unlinkat, &[here, names[name], zero], result, flags);
            }
            Deed::Rename { from, to } | Deed::Link { from, to } => {
                let is_link = matches!(deed, Deed::Link { .. });
                let op = if is_link { Op::Linkat } else { Op::Renameat };
                it.atom(op, &[here, names[from], here, names[to], zero], result, flags);
            }
            Deed::MakeFolder { name } => {
                it.atom(Op::Mkdirat, &[here, names[name], mode], result, flags);
            }
            Deed::Size { name } => {
                let mask = it.slot(i64::from(libc::STATX_SIZE | libc::STATX_TYPE));
                it.atom(Op::Statx, &[here, names[name], zero, mask, stat], result, flags);
            }
        }
        if !is_open {
            results.push(result);
        }
    }
    it.atom(Op::Nop, &[], NONE, AtomFlags::default());
    Made { program: it.build(), results, files, memory }
}

/// The length and a hash of bytes that are too many to print.
type Digest = (usize, u64);

fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    (bytes.len(), hasher.finish())
}

/// The value, with `EBADF` for `EINVAL`: of a call with two faults, either may be reported.
fn result(value: i64) -> i64 {
    if value == errno(libc::EINVAL) { errno(libc::EBADF) } else { value }
}

/// All effects of a run.
#[derive(Debug, PartialEq)]
struct Traces {
    end: End,
    results: Vec<i64>,
    files: Vec<bool>,
    memory: Digest,
    folder: BTreeMap<String, Option<Digest>>,
}

fn traces(made: &Made, run: &mut Run, folder: &Path) -> Traces {
    let span = Span { object: made.memory, start: NONE, length: NONE };
    let entries = fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (
            entry.file_name().into_string().unwrap(),
            fs::read(entry.path()).ok().map(|it| digest(&it)),
        )
    });
    let end = run.end().unwrap();
    Traces {
        end: End { value: result(end.value), ..end },
        results: made.results.iter().map(|&slot| result(run.slot(slot))).collect(),
        files: made.files.iter().map(|&slot| run.slot(slot) >= 0).collect(),
        memory: digest(run.bytes(span)),
        folder: entries.collect(),
    }
}

fn where_it_stands(world: &World, deeds: &[(Deed, bool, bool)]) -> Traces {
    let folder = Folder::new();
    fs::write(folder.path("name-0"), [9; 9000]).unwrap();
    let made = make(deeds, &folder.path("."));
    let mut run = world.prepare(&made.program);
    run.sink = None;
    while perform_one(&mut run) == Flow::Continues {}
    traces(&made, &mut run, &folder.path("."))
}

fn on_an_engine(world: &World, deeds: &[(Deed, bool, bool)]) -> Traces {
    let folder = Folder::new();
    fs::write(folder.path("name-0"), [9; 9000]).unwrap();
    let made = make(deeds, &folder.path("."));
    let mut run = world.run(&made.program);
    traces(&made, &mut run, &folder.path("."))
}

#[test]
fn programs_do_the_same_on_an_engine_as_on_the_calling_thread() {
    let _alone = alone();
    let mut kinds = real_kinds();
    kinds.push(simulated(3, 0.0, 0.0));
    let worlds: Vec<World> = kinds.iter().map(World::new).collect();
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() };
    let before = descriptors();
    proptest!(config, |(deeds in deeds())| {
        let expected = where_it_stands(&worlds[0], &deeds);
        for world in &worlds {
            let actual = on_an_engine(world, &deeds);
            prop_assert_eq!(&expected, &actual, "{}", world.engine.kind());
        }
        prop_assert_eq!(&before, &descriptors());
    });
}
