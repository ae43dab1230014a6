//! Failures within an engine are contained: its runs come out, others continue, threads end.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use threadlets_core::engine::{Engine, EngineKind};
use threadlets_core::syslet::{CompletionSink, Run};

use crate::kit::*;

struct PanickingSink;

impl CompletionSink for PanickingSink {
    fn deliver(&self, _runs: &mut Vec<Box<Run>>) {
        panic!("the sink panics, as the test wants");
    }
}

#[test]
fn other_sinks_get_their_runs_when_one_panics() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let (one, mut other) = UnixStream::pair().unwrap();
        let mut runs: Vec<_> = (0..4).map(|_| engine.prepare(&receiving(&one, 1))).collect();
        for idx in [0, 2] {
            runs[idx].sink = Some(Arc::new(PanickingSink));
        }
        engine.inner.submit_many(runs).map_err(|(error, _)| error).unwrap();
        other.write_all(b"1234").unwrap();
        for _ in 0..2 {
            assert_eq!(1, engine.next().end().unwrap().value, "{kind}");
        }
        assert_eq!(0, engine.value(&sleeping(Duration::ZERO)), "{kind}");
    }
}

#[test]
fn the_runs_of_a_broken_ring_end_and_later_runs_get_another_ring() {
    let _alone = alone();
    if real_kinds().iter().all(|it| it.name() != "uring") {
        return;
    }
    let engine = TestEngine::new(&EngineKind::Uring);
    let (one, _other) = UnixStream::pair().unwrap();
    engine.submit(&polling(one.as_raw_fd(), libc::POLLIN), 1);
    engine.sync();
    let nothing = fs::File::open("/dev/null").unwrap();
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        if fs::read_link(&path).is_ok_and(|it| it.to_string_lossy().contains("io_uring")) {
            let number = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            // SAFETY: the ring belongs to the engine, whose thread is meant to fail.
            unsafe { libc::dup2(nothing.as_raw_fd(), number) };
        }
    }
    engine.submit(&sleeping(Duration::from_secs(3600)), 2);
    let mut runs = [engine.next(), engine.next()];
    runs.sort_by_key(|it| it.token);
    assert_eq!([1, 2], [runs[0].token, runs[1].token]);
    for run in runs {
        let end = run.end().unwrap();
        assert_eq!((errno(libc::EIO), true), (end.value, end.is_failure));
    }
    assert_eq!(0, engine.value(&sleeping(Duration::from_millis(1))));
    assert_eq!((0, 1), (engine.inner.n_in_flight(), engine.inner.n_failures()));
}

#[test]
fn an_engine_that_is_dropped_ends_its_runs_and_its_threads() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let (one, _other) = UnixStream::pair().unwrap();
        let before = descriptors();
        let dropped = Engine::new(kind.clone(), 2);
        let runs = (0..200).map(|_| engine.prepare(&receiving(&one, 1))).collect();
        dropped.submit_many(runs).map_err(|(error, _)| error).unwrap();
        drop(dropped);
        for _ in 0..200 {
            assert_eq!(errno(libc::ECANCELED), engine.next().end().unwrap().value, "{kind}");
        }
        assert_eq!(before, descriptors(), "{kind}");
    }
}
