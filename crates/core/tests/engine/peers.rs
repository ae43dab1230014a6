//! Runs that need another party (sockets, pipes, named pipes), and how they are cancelled.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use threadlets_core::syslet::inline::perform_one;
use threadlets_core::syslet::program::NONE;
use threadlets_core::syslet::{Flow, Object, Op, Program, Span};

use crate::kit::*;

/// Connects, says `hello`, and receives five bytes.
fn calling(listener: &TcpListener) -> Arc<Program> {
    let mut it = Builder::default();
    let (domain, kind) = (it.slot(libc::AF_INET.into()), it.slot(libc::SOCK_STREAM.into()));
    let (protocol, fd, all) = (it.slot(0), it.slot(-1), it.slot(libc::MSG_WAITALL.into()));
    let mut address = (libc::AF_INET as u16).to_ne_bytes().to_vec();
    address.extend(listener.local_addr().unwrap().port().to_be_bytes());
    address.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let address = it.object(Object::Address(address.into()));
    let (hello, buffer) = (it.data(b"hello"), it.buffer(5));
    it.atom(Op::Socket, &[domain, kind, protocol], fd, STOP);
    it.atom(Op::Connect, &[fd, address], NONE, STOP);
    it.atom(Op::Send, &[fd, hello, NONE, NONE, protocol], NONE, STOP);
    it.atom(Op::Recv, &[fd, buffer, NONE, NONE, all], NONE, STOP);
    it.build()
}

/// Accepts, receives five bytes, and sends them back.
fn answering(listener: &TcpListener) -> Arc<Program> {
    let mut it = Builder::default();
    let (listener, flags, fd) = (it.fd(listener), it.slot(0), it.slot(-1));
    let (buffer, all) = (it.buffer(5), it.slot(libc::MSG_WAITALL.into()));
    it.atom(Op::Accept, &[listener, flags, NONE], fd, STOP);
    it.atom(Op::Recv, &[fd, buffer, NONE, NONE, all], NONE, STOP);
    it.atom(Op::Send, &[fd, buffer, NONE, NONE, flags], NONE, STOP);
    it.build()
}

#[test]
fn runs_talk_to_each_other_over_loopback() {
    let _alone = alone();
    for (kind, is_blocking) in kinds().into_iter().flat_map(|it| [(it.clone(), true), (it, false)])
    {
        let engine = TestEngine::new(&kind);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(!is_blocking).unwrap();
        let before = descriptors();
        let (caller, answerer) = (calling(&listener), answering(&listener));
        for _ in 0..20 {
            engine.submit(&answerer, 0);
        }
        for _ in 0..20 {
            engine.submit(&caller, 1);
        }
        for _ in 0..40 {
            let mut run = engine.next();
            assert_eq!(5, run.end().unwrap().value, "{kind}: {}", run.token);
            let object = if run.token == 1 { 2 } else { 0 };
            assert_eq!(b"hello", run.bytes(Span { object, start: NONE, length: NONE }), "{kind}");
        }
        assert_eq!(before, descriptors(), "{kind}");
    }
}

#[test]
fn bytes_from_before_the_peer_closed_are_received() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let (one, mut other) = UnixStream::pair().unwrap();
        let mut it = Builder::default();
        let (fd, all) = (it.fd(&one), it.slot(libc::MSG_WAITALL.into()));
        let (first, second, fields) = (it.buffer(3), it.buffer(100), it.fields(2));
        let spans = [first, second].map(|object| Span { object, start: NONE, length: NONE });
        let vector = it.object(Object::Vector(spans.into()));
        it.atom(Op::Recvmsg, &[fd, vector, all, NONE, NONE, fields], NONE, STOP);
        engine.submit(&it.build(), 0);
        engine.sync();
        other.write_all(b"hello").unwrap();
        drop(other);
        let mut run = engine.next();
        assert_eq!(5, run.end().unwrap().value, "{kind}");
        assert_eq!(b"hel", run.bytes(spans[0]), "{kind}");
        assert_eq!(b"lo", &run.bytes(spans[1])[..2], "{kind}");
    }
}

#[test]
fn a_refused_connection_is_an_error() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let program = calling(&listener);
        drop(listener);
        assert_eq!(errno(libc::ECONNREFUSED), engine.value(&program), "{kind}");
    }
}

#[test]
fn a_file_is_sent_to_a_file_a_pipe_and_a_socket() {
    let _alone = alone();
    for (kind, is_blocking) in kinds().into_iter().flat_map(|it| [(it.clone(), true), (it, false)])
    {
        let (engine, folder) = (TestEngine::new(&kind), Folder::new());
        // More than a socket takes before its peer reads.
        let bytes: Vec<u8> = (0..1_500_001u32).map(|it| (it % 239) as u8).collect();
        fs::write(folder.path("from"), &bytes).unwrap();
        let sending = |target: &dyn Fn(&mut Builder) -> u16| {
            let mut it = Builder::default();
            let (to, from) = (target(&mut it), it.open(&folder.path("from"), libc::O_RDONLY));
            let (offset, count) = (it.slot(1), it.slot(2_000_000));
            it.atom(Op::Sendfile, &[to, from, offset, count], NONE, STOP);
            it.build()
        };
        let to_file = sending(&|it| it.open(&folder.path("to"), libc::O_WRONLY | libc::O_CREAT));
        let before = descriptors();
        assert_eq!(1_500_000, engine.value(&to_file), "{kind}");
        assert!(bytes[1..] == fs::read(folder.path("to")).unwrap(), "{kind}");
        assert_eq!(before, descriptors(), "{kind}");

        let (one, mut other) = UnixStream::pair().unwrap();
        one.set_nonblocking(!is_blocking).unwrap();
        engine.submit(&sending(&|it| it.fd(&one)), 0);
        engine.sync();
        let mut read = vec![0; 1_500_000];
        other.read_exact(&mut read).unwrap();
        assert_eq!(1_500_000, engine.next().end().unwrap().value, "{kind}");
        assert!(bytes[1..] == read, "{kind}");

        let (mut reader, writer) = std::io::pipe().unwrap();
        engine.submit(&sending(&|it| it.fd(&writer)), 0);
        engine.sync();
        reader.read_exact(&mut read).unwrap();
        assert_eq!(1_500_000, engine.next().end().unwrap().value, "{kind}");
        assert!(bytes[1..] == read, "{kind}");
    }
}

#[test]
fn a_file_is_sent_on_the_calling_thread() {
    let _alone = alone();
    let (engine, folder) = (TestEngine::new(&real_kinds()[0]), Folder::new());
    let bytes: Vec<u8> = (0..1_500_001u32).map(|it| (it % 239) as u8).collect();
    fs::write(folder.path("from"), &bytes).unwrap();
    let (one, mut other) = UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    let mut it = Builder::default();
    let (to, from) = (it.fd(&one), it.open(&folder.path("from"), libc::O_RDONLY));
    let (offset, count) = (it.slot(1), it.slot(2_000_000));
    it.atom(Op::Sendfile, &[to, from, offset, count], NONE, STOP);
    let mut run = engine.prepare(&it.build());
    let thread = std::thread::spawn(move || {
        while perform_one(&mut run) == Flow::Continues {}
        run.end().unwrap().value
    });
    let mut read = vec![0; 1_500_000];
    other.read_exact(&mut read).unwrap();
    assert_eq!(1_500_000, thread.join().unwrap());
    assert!(bytes[1..] == read);
}

#[test]
fn a_named_pipe_is_opened_when_its_other_end_is() {
    let _alone = alone();
    for kind in kinds() {
        let (engine, folder) = (TestEngine::new(&kind), Folder::new());
        let path = folder.path("pipe");
        make_fifo(&path);
        let mut it = Builder::default();
        let (fd, buffer) = (it.open(&path, libc::O_RDONLY), it.buffer(8192));
        it.atom(Op::Read, &[fd, buffer, NONE, NONE], NONE, STOP);
        let reading = it.build();
        // No more than a page, which is written at once: the reader reads only once.
        let mut it = Builder::default();
        let (fd, data) = (it.open(&path, libc::O_WRONLY), it.data(&[7; 4096]));
        it.atom(Op::Write, &[fd, data, NONE, NONE], NONE, STOP);
        let writing = it.build();
        let before = descriptors();
        for programs in [[&reading, &writing], [&writing, &reading]] {
            engine.submit(programs[0], 0);
            engine.sync();
            engine.submit(programs[1], 1);
            for _ in 0..2 {
                let n_bytes = engine.next().end().unwrap().value;
                assert!((1..=4096).contains(&n_bytes), "{kind}: {n_bytes}");
            }
        }
        // Another party, which blocks when it opens the other end.
        engine.submit(&reading, 0);
        engine.sync();
        let stranger = std::thread::spawn({
            let path = path.clone();
            move || fs::write(path, [7; 100]).unwrap()
        });
        assert!((1..=100).contains(&engine.next().end().unwrap().value), "{kind}");
        stranger.join().unwrap();
        assert_eq!(before, descriptors(), "{kind}");
    }
}

#[test]
fn the_only_connection_goes_to_one_and_the_others_can_be_cancelled() {
    let _alone = alone();
    for (kind, is_blocking) in kinds().into_iter().flat_map(|it| [(it.clone(), true), (it, false)])
    {
        let engine = TestEngine::new(&kind);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(!is_blocking).unwrap();
        let program = accepting(&listener);
        let ids = [1, 2, 3].map(|token| engine.submit(&program, token));
        engine.sync();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let first = engine.next();
        assert!(first.end().unwrap().value >= 0, "{kind}");
        ids.iter().for_each(|&id| engine.inner.cancel(id));
        for _ in 0..2 {
            assert_eq!(errno(libc::ECANCELED), engine.next().end().unwrap().value, "{kind}");
        }
    }
}

#[test]
fn a_descriptor_that_is_closed_meanwhile_can_be_waited_for_anew() {
    let _alone = alone();
    for kind in kinds() {
        let engine = TestEngine::new(&kind);
        let ((old, _old_writer), (new, mut writer)) =
            (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let old_id = engine.submit(&polling(old.as_raw_fd(), libc::POLLIN), 1);
        engine.sync();
        // SAFETY: both descriptors are the test's own.
        unsafe { libc::dup2(new.as_raw_fd(), old.as_raw_fd()) };
        engine.submit(&polling(old.as_raw_fd(), libc::POLLIN), 2);
        writer.write_all(b"x").unwrap();
        // A ring keeps waiting for the closed pipe, and a simulation polls the new one.
        let mut runs = vec![engine.next()];
        engine.inner.cancel(old_id);
        runs.push(engine.next());
        runs.sort_by_key(|it| it.token);
        let values = runs.iter().map(|it| it.end().unwrap().value).collect::<Vec<_>>();
        assert_eq!(i64::from(libc::POLLIN), values[1], "{kind}");
        let old_values = [errno(libc::EBADF), errno(libc::ECANCELED), libc::POLLIN.into()];
        assert!(old_values.contains(&values[0]), "{kind}: {}", values[0]);
    }
}

#[test]
fn stopping_ends_everything() {
    let _alone = alone();
    for kind in kinds() {
        let (engine, folder) = (TestEngine::new(&kind), Folder::new());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (one, other) = UnixStream::pair().unwrap();
        let ((reader, _writer), (_reader, writer)) =
            (std::io::pipe().unwrap(), std::io::pipe().unwrap());
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        make_fifo(&folder.path("pipe"));
        make_fifo(&folder.path("other pipe"));
        // Fill the socket, so that nothing more goes in.
        one.set_nonblocking(true).unwrap();
        while (&one).write(&[0; 4096]).is_ok() {}
        one.set_nonblocking(false).unwrap();
        fs::write(folder.path("file"), [0; 100_000]).unwrap();
        let mut it = Builder::default();
        let (to, from) = (it.fd(&one), it.open(&folder.path("file"), libc::O_RDONLY));
        let (offset, count) = (it.slot(0), it.slot(100_000));
        it.atom(Op::Sendfile, &[to, from, offset, count], NONE, STOP);
        let mut programs = vec![
            it.build(),
            receiving(&one, 10),
            accepting(&listener),
            accepting(&listener),
            polling(one.as_raw_fd(), libc::POLLIN),
            splicing(&reader, &writer, 100),
            waiting_for_child(child.id(), libc::WEXITED),
            opening(&folder.path("pipe"), libc::O_RDONLY),
            opening(&folder.path("other pipe"), libc::O_WRONLY),
        ];
        if kind.name() != "sim" {
            programs.push(sleeping(Duration::from_secs(3600)));
        }
        let before = descriptors();
        programs.iter().for_each(|program| {
            engine.submit(program, 0);
        });
        engine.sync();
        assert_eq!(programs.len(), engine.inner.n_in_flight());
        engine.inner.stop();
        for _ in &programs {
            let run = engine.next();
            assert_eq!(errno(libc::ECANCELED), run.end().unwrap().value, "{kind}: {run:?}");
        }
        let refused = engine.inner.submit(engine.prepare(&programs[0]));
        assert_eq!(rustix::io::Errno::SHUTDOWN, refused.unwrap_err().0.errno);
        assert!(descriptors().len() <= before.len(), "{kind}");
        drop(other);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
