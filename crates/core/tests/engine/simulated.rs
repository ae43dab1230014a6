//! Simulations: the seed decides the order, and operations fail on purpose.

use std::fs;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use threadlets_core::syslet::program::NONE;
use threadlets_core::syslet::{Op, Program};

use crate::kit::*;
use std::sync::Arc;

/// Opens, reads, waits a while, and closes.
fn reading_and_waiting(idx: u64) -> Arc<Program> {
    let mut it = Builder::default();
    let fd = it.open("/proc/self/exe".as_ref(), libc::O_RDONLY);
    let (buffer, duration) = (it.buffer(512), it.slot((idx % 5) as i64 * 1_000_000));
    it.atom(Op::Read, &[fd, buffer, NONE, NONE], NONE, STOP);
    it.atom(Op::Timeout, &[duration], NONE, STOP);
    it.atom(Op::Close, &[fd], NONE, STOP);
    it.build()
}

fn order(seed: u64) -> Vec<(u64, i64)> {
    let engine = TestEngine::new(&simulated(seed, 0.1, 0.3));
    let runs = (0..50).map(|token| {
        let mut run = engine.prepare(&reading_and_waiting(token));
        run.token = token;
        run
    });
    engine.inner.submit_many(runs.collect()).map_err(|(error, _)| error).unwrap();
    let ended = (0..50).map(|_| {
        let run = engine.next();
        (run.token, run.end().unwrap().value)
    });
    ended.collect()
}

#[test]
fn the_seed_decides_the_order() {
    let _alone = alone();
    let orders = [1, 2, 3].map(order);
    assert_eq!(orders, [1, 2, 3].map(order));
    assert_ne!(orders[0], orders[1]);
    assert_ne!(orders[1], orders[2]);
}

#[test]
fn a_time_out_of_hours_ends_at_once() {
    let _alone = alone();
    let engine = TestEngine::new(&simulated(1, 0.0, 0.0));
    let started = std::time::Instant::now();
    assert_eq!(0, engine.value(&sleeping(Duration::from_secs(36_000))));
    assert!(started.elapsed() < RUN_TIMEOUT);
}

#[test]
fn injected_errors_leak_nothing() {
    let _alone = alone();
    for seed in 0..20 {
        let (engine, folder) = (TestEngine::new(&simulated(seed, 0.15, 0.5)), Folder::new());
        let bytes: Vec<u8> = (0..20_000u32).map(|it| (it % 251) as u8).collect();
        fs::write(folder.path("from"), &bytes).unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let before = descriptors();
        let mut runs = Vec::new();
        for idx in 0..40 {
            let to = folder.path(&format!("to-{idx}"));
            runs.push(engine.prepare(&copying(&folder.path("from"), &to, 4096)));
            let mut it = Builder::default();
            let from = it.open(&folder.path("from"), libc::O_RDONLY);
            let to = it.open(&folder.path(&format!("sent-{idx}")), libc::O_RDWR | libc::O_CREAT);
            let (offset, count) = (it.slot(0), it.slot(20_000));
            it.atom(Op::Sendfile, &[to, from, offset, count], NONE, STOP);
            runs.push(engine.prepare(&it.build()));
            let mut it = Builder::default();
            let (fd, data, flags) = (it.fd(&other), it.data(&bytes[..100]), it.slot(0));
            it.open("/dev/null".as_ref(), libc::O_RDONLY);
            it.atom(Op::Send, &[fd, data, NONE, NONE, flags], NONE, STOP);
            runs.push(engine.prepare(&it.build()));
            let mut run = engine.prepare(&receiving(&one, 10));
            run.group = 1;
            runs.push(run);
        }
        let n_runs = runs.len();
        engine.inner.submit_many(runs).map_err(|(error, _)| error).unwrap();
        // If sends fail, some of the receives would wait for ever.
        engine.inner.cancel_group(1);
        let mut n_failed = 0;
        for _ in 0..n_runs {
            let end = engine.next().end().unwrap();
            n_failed += i32::from(end.is_failure);
        }
        assert!(n_failed > 0);
        assert_eq!(before, descriptors());
        assert_eq!(0, engine.pool.in_use_bytes());
    }
}
