//! Tests that hold for every kind of engine: each executes the same program in the same way.

#[path = "engine/failures.rs"]
mod failures;
#[path = "engine/forks.rs"]
mod forks;
#[path = "engine/kit.rs"]
mod kit;
#[path = "engine/peers.rs"]
mod peers;
#[path = "engine/same.rs"]
mod same;
#[path = "engine/simulated.rs"]
mod simulated;

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kit::*;
use threadlets_core::syslet::program::NONE;
use threadlets_core::syslet::{AtomFlags, Object, Op, Span};

#[test]
fn a_loop_copies_a_file() {
    let _alone = alone();
    for kind in kinds() {
        let (engine, folder) = (TestEngine::new(&kind), Folder::new());
        let bytes: Vec<u8> = (0..300_017u32).map(|it| (it % 251) as u8).collect();
        fs::write(folder.path("from"), &bytes).unwrap();
        let before = descriptors();
        let run = engine.run(&copying(&folder.path("from"), &folder.path("to"), 64 * 1024));
        assert_eq!(0, run.end().unwrap().value, "{kind}");
        assert_eq!(bytes, fs::read(folder.path("to")).unwrap(), "{kind}");
        assert_eq!(before, descriptors(), "{kind}");
        assert_ne!(0, engine.pool.in_use_bytes());
        drop(run);
        assert_eq!(0, engine.pool.in_use_bytes(), "{kind}");
    }
}

#[test]
fn a_receive_waits_for_its_peer() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let (one, mut other) = UnixStream::pair().unwrap();
        engine.submit(&receiving(&one, 100), 1);
        engine.sync();
        other.write_all(b"hello").unwrap();
        let mut run = engine.next();
        let n_bytes = run.end().unwrap().value as usize;
        assert!((1..=5).contains(&n_bytes), "{kind}: {n_bytes}");
        let span = Span { object: 0, start: NONE, length: NONE };
        assert_eq!(b"hello"[..n_bytes], run.bytes(span)[..n_bytes], "{kind}");
    }
}

#[test]
fn timeouts_end_in_order_and_not_before_their_time() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let programs = [30, 10, 20].map(|ms| (ms, sleeping(Duration::from_millis(ms))));
        let runs = programs.iter().map(|(ms, program)| {
            let mut run = engine.prepare(program);
            run.token = *ms;
            run
        });
        let started = Instant::now();
        engine.inner.submit_many(runs.collect()).map_err(|(error, _)| error).unwrap();
        let order = [(); 3].map(|()| engine.next().token);
        assert_eq!([10, 20, 30], order, "{kind}");
        if kind.name() != "sim" {
            assert!(started.elapsed() >= Duration::from_millis(30), "{kind}");
        }
    }
}

#[test]
fn a_cancelled_run_ends_and_leaves_nothing_behind() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let (one, _other) = UnixStream::pair().unwrap();
        let mut it = Builder::default();
        it.open("/dev/null".as_ref(), libc::O_RDONLY);
        let (fd, buffer, flags) = (it.fd(&one), it.buffer(100), it.slot(0));
        it.atom(Op::Recv, &[fd, buffer, NONE, NONE, flags], NONE, STOP);
        let mut programs = vec![it.build(), polling(one.as_raw_fd(), libc::POLLIN)];
        if kind.name() != "sim" {
            // A simulation skips hours, so the run would end before it is cancelled.
            programs.push(sleeping(Duration::from_secs(3600)));
        }
        let before = descriptors();
        for (is_under_way, program) in
            [false, true].iter().flat_map(|it| programs.iter().map(move |program| (*it, program)))
        {
            let id = engine.submit(program, 0);
            if is_under_way {
                engine.sync();
            }
            engine.inner.cancel(id);
            let run = engine.next();
            let end = run.end().unwrap();
            assert_eq!((errno(libc::ECANCELED), true), (end.value, end.is_failure), "{kind}");
            assert_eq!(before, descriptors(), "{kind}");
            drop(run);
            assert_eq!(0, engine.pool.in_use_bytes(), "{kind}");
        }
    }
}

#[test]
fn a_group_is_cancelled_together() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let (one, mut other) = UnixStream::pair().unwrap();
        let mut runs = Vec::new();
        for token in 0..20 {
            let mut run = engine.prepare(&receiving(&one, 1));
            (run.group, run.token) = (1 + token % 2, token);
            runs.push(run);
        }
        engine.inner.submit_many(runs).map_err(|(error, _)| error).unwrap();
        engine.sync();
        engine.inner.cancel_group(2);
        for _ in 0..10 {
            let run = engine.next();
            assert_eq!((errno(libc::ECANCELED), 2), (run.end().unwrap().value, run.group));
        }
        other.write_all(&[0; 10]).unwrap();
        for _ in 0..10 {
            assert_eq!(1, engine.next().end().unwrap().value, "{kind}");
        }
    }
}

#[test]
fn runs_without_a_group_are_not_a_group() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let (one, mut other) = UnixStream::pair().unwrap();
        engine.submit(&receiving(&one, 1), 0);
        engine.inner.cancel_group(0);
        engine.sync();
        other.write_all(b"x").unwrap();
        assert_eq!(1, engine.next().end().unwrap().value, "{kind}");
    }
}

#[test]
fn many_runs_wait_at_once() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let pairs: Vec<_> = (0..200).map(|_| UnixStream::pair().unwrap()).collect();
        let mut runs: Vec<_> = (0..1000)
            .map(|idx| engine.prepare(&sleeping(Duration::from_micros(idx * 37 % 20_000))))
            .collect();
        runs.extend(pairs.iter().map(|(one, _)| engine.prepare(&receiving(one, 10))));
        engine.inner.submit_many(runs).map_err(|(error, _)| error).unwrap();
        for (_, other) in &pairs {
            (&*other).write_all(b"x").unwrap();
        }
        let mut values = [0; 2];
        for _ in 0..1200 {
            values[engine.next().end().unwrap().value as usize] += 1;
        }
        assert_eq!([1000, 200], values, "{kind}");
    }
}

#[test]
fn a_child_is_waited_for() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let mut child = Command::new("sh")
            .args(["-c", "read x; exit 7"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        engine.submit(&waiting_for_child(child.id(), libc::WEXITED), 0);
        engine.sync();
        drop(child.stdin.take());
        let run = engine.next();
        assert_eq!(0, run.end().unwrap().value, "{kind}");
        let fields = [3, 4, 5].map(|slot| run.slot(slot));
        assert_eq!([child.id().into(), 7, i64::from(libc::CLD_EXITED)], fields, "{kind}");
        let gone = waiting_for_child(child.id(), libc::WEXITED);
        assert_eq!(errno(libc::ECHILD), engine.value(&gone), "{kind}");
        // The engine has reaped the child, so the standard library cannot.
        assert!(child.wait().is_err());
    }
}

#[test]
fn a_child_that_stops_is_waited_for() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        engine.submit(&waiting_for_child(child.id(), libc::WSTOPPED), 0);
        engine.sync();
        // SAFETY: a child of ours that has not been reaped.
        unsafe { libc::kill(child.id() as i32, libc::SIGSTOP) };
        let run = engine.next();
        assert_eq!(i64::from(libc::CLD_STOPPED), run.slot(5), "{kind}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_write_larger_than_a_pipe_goes_on_until_it_is_done() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let (mut reader, writer) = std::io::pipe().unwrap();
        let bytes: Vec<u8> = (0..1_000_003u32).map(|it| (it % 241) as u8).collect();
        let expected = [&bytes[..], &bytes[..1], &bytes[..]].concat();
        let n_bytes = expected.len();
        let thread = std::thread::spawn(move || {
            let mut read = vec![0; n_bytes];
            reader.read_exact(&mut read).unwrap();
            read
        });
        let mut it = Builder::default();
        let (fd, data, one, no_offset) = (it.fd(&writer), it.data(&bytes), it.slot(1), it.slot(-1));
        let spans = [one, NONE].map(|length| Span { object: data, start: NONE, length });
        let vector = it.object(Object::Vector(spans.into()));
        it.atom(Op::Write, &[fd, data, NONE, NONE], NONE, STOP);
        it.atom(Op::Writev, &[fd, vector, no_offset], NONE, STOP);
        assert_eq!(bytes.len() as i64 + 1, engine.value(&it.build()), "{kind}");
        assert!(expected == thread.join().unwrap(), "{kind}");
    }
}

#[test]
fn errors_are_values() {
    let _alone = alone();
    for kind in kinds() {
        let (engine, folder) = (TestEngine::new(&kind), Folder::new());
        let missing = opening(&folder.path("missing"), libc::O_RDONLY);
        assert_eq!(errno(libc::ENOENT), engine.value(&missing), "{kind}");
        let read = |fd: &dyn Fn(&mut Builder) -> u16| {
            let mut it = Builder::default();
            let (fd, buffer) = (fd(&mut it), it.buffer(10));
            it.atom(Op::Read, &[fd, buffer, NONE, NONE], NONE, STOP);
            engine.value(&it.build())
        };
        let of_folder = read(&|it| it.open(&folder.path("."), libc::O_RDONLY));
        assert_eq!(errno(libc::EISDIR), of_folder, "{kind}");
        assert_eq!(errno(libc::EBADF), read(&|it| it.slot(-1)), "{kind}");
        assert_eq!(errno(libc::EBADF), engine.value(&polling(1_000_000, libc::POLLIN)), "{kind}");
        let file = fs::File::open("/dev/null").unwrap();
        assert_eq!(errno(libc::ENOTSOCK), engine.value(&receiving(&file, 1)), "{kind}");
        assert_eq!(errno(libc::ENOTSOCK), engine.value(&accepting(&file)), "{kind}");
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(errno(libc::EOPNOTSUPP), engine.value(&accepting(&datagrams)), "{kind}");
    }
}

#[test]
fn a_program_can_continue_after_an_error() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let mut it = Builder::default();
        let (fd, n) = (it.slot(-1), it.slot(0));
        it.atom(Op::Close, &[fd], n, AtomFlags::default());
        it.atom(Op::Nop, &[], NONE, AtomFlags::default());
        let run = engine.run(&it.build());
        let end = run.end().unwrap();
        assert_eq!((0, false, 1), (end.value, end.is_failure, end.atom), "{kind}");
        assert_eq!(errno(libc::EBADF), run.slot(n), "{kind}");
    }
}

#[test]
fn files_are_ready_for_reading_and_writing() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let file = fs::File::open("/proc/self/exe").unwrap();
        let program = polling(file.as_raw_fd(), libc::POLLIN);
        assert_eq!(i64::from(libc::POLLIN), engine.value(&program), "{kind}");
    }
}

#[test]
fn a_read_of_an_eventfd_returns_what_there_is() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let counter = rustix::event::eventfd(1, rustix::event::EventfdFlags::empty()).unwrap();
        let mut it = Builder::default();
        let (fd, buffer) = (it.fd(&counter), it.buffer(64));
        it.atom(Op::Read, &[fd, buffer, NONE, NONE], NONE, STOP);
        let program = it.build();
        assert_eq!(8, engine.value(&program), "{kind}");
        let id = engine.submit(&program, 0);
        engine.sync();
        engine.inner.cancel(id);
        assert_eq!(errno(libc::ECANCELED), engine.next().end().unwrap().value, "{kind}");
    }
}
