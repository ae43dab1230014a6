//! Forks: the child's own engine does not wait for threads of the parent's engine.

use std::io::Write;
use std::os::fd::AsRawFd;

use threadlets_core::engine::EngineKind;
use threadlets_core::syslet::Op;
use threadlets_core::syslet::program::NONE;

use crate::kit::*;

/// The wait status of a forked child that checks `claim`: 0 if it holds. A child that hangs is killed.
fn in_a_child(claim: impl FnOnce() -> bool) -> i32 {
    let mut status = 0;
    // SAFETY: tests run one at a time, so no other test holds what the child needs; it never returns.
    unsafe {
        match libc::fork() {
            0 => {
                libc::alarm(5);
                libc::_exit(i32::from(!claim()));
            }
            pid => assert_eq!(pid, libc::waitpid(pid, &raw mut status, 0)),
        }
    }
    status
}

#[test]
fn the_childs_own_engine_waits_for_no_thread_of_the_parents() {
    let _alone = alone();
    let engine = TestEngine::new(&EngineKind::Workers);
    let (one, other) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    // A byte goes there and back for ever, so a thread of the parent holds a lock almost all the time.
    let mut it = Builder::default();
    let ends = [&one.0 as &dyn AsRawFd, &other.1, &other.0, &one.1].map(|it| it.as_raw_fd());
    let [from, to, back_from, back_to] = ends.map(|fd| it.slot(fd.into()));
    let (no_offset, len, flags) = (it.slot(-1), it.slot(1), it.slot(0));
    let there = it.atom(Op::Splice, &[from, no_offset, to, no_offset, len, flags], NONE, STOP);
    let back =
        it.atom(Op::Splice, &[back_from, no_offset, back_to, no_offset, len, flags], NONE, STOP);
    it.set_next(back, there);
    (&one.1).write_all(b"x").unwrap();
    engine.submit(&it.build_as_is(), 0);
    let outcomes = (0..60).map(|_| {
        in_a_child(|| {
            let engine = TestEngine::new(&EngineKind::Workers);
            // The numbers of 64 readers need all of the locks, so also the one that the parent held.
            (0..64).all(|_| {
                let (reader, writer) = std::io::pipe().unwrap();
                (&writer).write_all(b"x").unwrap();
                let target = std::io::pipe().unwrap();
                std::mem::forget(reader.try_clone().unwrap());
                let value = engine.value(&splicing(&reader, &target.1, 1));
                std::mem::forget((reader, writer, target));
                value == 1
            })
        })
    });
    assert_eq!(vec![0; 60], outcomes.collect::<Vec<_>>());
}
