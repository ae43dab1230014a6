//! Connections with TLS and with HTTP/2, driven by hand: a client on the other end of a pair of sockets.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use rustix::event::{PollFd, PollFlags, poll};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use threadlets_core::{Readiness, clock, socket::Address};
use threadlets_http::exchange::ReceivedBody;
use threadlets_http::tls::{Tls, TlsOptions};
use threadlets_http::wakes::Wakes;
use threadlets_http::{Exchange, HttpConnection, Limits, Server, Target};

struct Certified {
    certificate: String,
    key: String,
}

fn certified() -> Certified {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    Certified { certificate: made.cert.pem(), key: made.signing_key.serialize_pem() }
}

fn tls(own: &Certified) -> Tls {
    Tls::new(&TlsOptions {
        certificates: own.certificate.clone().into_bytes(),
        key: Some(own.key.clone().into_bytes()),
        ..TlsOptions::default()
    })
    .expect("usable")
}

fn server(limits: Limits, tls: Option<Tls>) -> Arc<Server> {
    let mut server = Server::new(limits, Target::Application, Wakes::new(|| {}));
    server.tls = tls;
    Arc::new(server)
}

/// Answer with the length of the body.
fn answer(exchange: &Exchange, n_bytes: u64) {
    let (head, ()) = Response::new(()).into_parts();
    exchange.start(head);
    exchange.send(Bytes::from(n_bytes.to_string()), false).expect("no length was promised");
}

/// Serve one connection until it is closed, for some seconds at most; whether a body has broken off.
fn serve(server: &Arc<Server>, socket: UnixStream) -> bool {
    socket.set_nonblocking(true).expect("a socket");
    let watched = socket.as_fd().try_clone_to_owned().expect("a descriptor");
    let fd = OwnedFd::from(socket);
    let mut connection = HttpConnection::new(server, 0, fd, Address::Unnamed, clock::now_ns());
    let mut under_way: Vec<(Arc<Exchange>, u64)> = Vec::new();
    let mut has_broken = false;
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until {
        let progress = connection.drive(clock::now_ns());
        under_way.extend(connection.take_begun().into_iter().map(|it| (it, 0)));
        under_way.retain_mut(|(exchange, n_bytes)| {
            loop {
                match exchange.receive() {
                    ReceivedBody::Data { data, more } => {
                        *n_bytes += data.len() as u64;
                        if !more {
                            answer(exchange, *n_bytes);
                            return false;
                        }
                    }
                    ReceivedBody::End if exchange.is_client_gone() => {
                        has_broken = true;
                        return false;
                    }
                    ReceivedBody::End => {
                        answer(exchange, *n_bytes);
                        return false;
                    }
                    ReceivedBody::Nothing => return true,
                    ReceivedBody::Broken | ReceivedBody::TooLarge => {
                        has_broken = true;
                        exchange.abandon();
                        return false;
                    }
                }
            }
        });
        let is_open = match connection.check(clock::now_ns()) {
            Some(progress) => progress.is_open,
            None => progress.is_open,
        };
        if !is_open {
            return has_broken;
        }
        if server.wakes.take().is_empty() {
            let mut polled = [PollFd::new(&watched, PollFlags::IN)];
            let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
            poll(&mut polled, Some(&pause)).expect("a poll");
        }
        connection.note(Readiness {
            readable: true,
            writable: true,
            short_read_misleads: true,
            urgent: false,
        });
    }
    panic!("the connection was not closed");
}

type Secure = StreamOwned<ClientConnection, UnixStream>;

fn client(own: &Certified, protocols: &[&[u8]], socket: UnixStream) -> Secure {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(own.certificate.as_bytes()).expect("PEM");
    roots.add(certificate).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    StreamOwned::new(connection, socket)
}

/// Run a client beside a server; returns what the client does, and whether a body has broken off.
fn beside<R: Send>(server: &Arc<Server>, act: impl FnOnce(UnixStream) -> R + Send) -> (R, bool) {
    let (ours, theirs) = UnixStream::pair().expect("sockets");
    theirs.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket");
    thread::scope(|scope| {
        let serving = scope.spawn(|| serve(server, ours));
        let result = act(theirs);
        (result, serving.join().expect("the server did not panic"))
    })
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[test]
fn a_response_comes_through_tls_and_ends_in_order() {
    let own = certified();
    let server = server(Limits::default(), Some(tls(&own)));
    let (response, _) = beside(&server, |socket| {
        let mut stream = client(&own, &[b"http/1.1"], socket);
        stream.write_all(GET).expect("room");
        let mut response = String::new();
        // It is an error if there is no close_notify.
        stream.read_to_string(&mut response).expect("an end in order");
        assert_eq!(Some(&b"http/1.1"[..]), stream.conn.alpn_protocol());
        response
    });
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert_eq!(1, server.metrics.tls_handshakes.get());
    assert_eq!(0, server.metrics.tls_handshakes_failed.get());
}

#[test]
fn large_bodies_come_through_tls_whole() {
    let own = certified();
    let server = server(Limits::default(), Some(tls(&own)));
    let (response, has_broken) = beside(&server, |socket| {
        let mut stream = client(&own, &[], socket);
        stream
            .write_all(b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 5000000\r\n\r\n")
            .expect("room");
        stream.write_all(&vec![b'x'; 5_000_000]).expect("room");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("an end in order");
        response
    });
    assert!(response.ends_with("\r\n\r\n5000000"), "{response}");
    assert!(!has_broken);
}

#[test]
fn a_body_that_ends_without_close_notify_has_broken_off() {
    let own = certified();
    let server = server(Limits::default(), Some(tls(&own)));
    let ((), has_broken) = beside(&server, |socket| {
        let mut stream = client(&own, &[], socket);
        let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello";
        stream.write_all(head).expect("room");
        stream.flush().expect("room");
    });
    assert!(has_broken);
}

#[test]
fn http_without_tls_is_answered_in_plain() {
    let server = server(Limits::default(), Some(tls(&certified())));
    let (response, _) = beside(&server, |mut socket| {
        socket.write_all(GET).expect("room");
        let mut response = String::new();
        socket.read_to_string(&mut response).expect("an end");
        response
    });
    assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    assert_eq!(1, server.metrics.tls_handshakes_failed.get());
}

#[test]
fn half_a_handshake_is_closed_after_the_deadline_of_a_head() {
    let limits = Limits { head: Duration::from_millis(100), ..Limits::default() };
    let server = server(limits, Some(tls(&certified())));
    let (response, _) = beside(&server, |mut socket| {
        socket.write_all(b"\x16\x03\x01\x02\x00\x01").expect("room");
        let mut response = Vec::new();
        socket.read_to_end(&mut response).expect("an end");
        response
    });
    assert!(response.is_empty(), "{response:?}");
    assert_eq!(1, server.metrics.tls_handshakes_failed.get());
}

#[test]
fn alpn_chooses_http2() {
    let own = certified();
    let limits = Limits { keep_alive: Duration::from_millis(100), ..Limits::default() };
    let server = server(limits, Some(tls(&own)));
    let (frames, _) = beside(&server, |socket| {
        let mut stream = client(&own, &[b"h2", b"http/1.1"], socket);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("room");
        stream.write_all(&get(1)).expect("room");
        let mut frames = Vec::new();
        stream.read_to_end(&mut frames).expect("an end in order");
        assert_eq!(Some(&b"h2"[..]), stream.conn.alpn_protocol());
        frames
    });
    // SETTINGS come first, GOAWAY comes at last, since nothing follows.
    assert_eq!(4, frames[3]);
    assert!(kinds(&frames).contains(&7), "{:?}", kinds(&frames));
    assert_eq!(1, server.metrics.responses[2].get());
}

#[test]
fn a_preface_in_clear_text_chooses_http2_and_draining_sends_goaway() {
    let server = server(Limits::default(), None);
    let draining = Arc::clone(&server);
    let (frames, _) = beside(&server, |mut socket| {
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0" {
            socket.write_all(&[*byte]).expect("room");
        }
        socket.write_all(&get(1)).expect("room");
        let mut settings = [0; 9];
        socket.read_exact(&mut settings).expect("a frame");
        draining.drain(false);
        let mut frames = settings.to_vec();
        socket.read_to_end(&mut frames).expect("an end");
        frames
    });
    assert!(kinds(&frames).contains(&7), "{:?}", kinds(&frames));
}

/// A request as a HEADERS frame: by the static table GET, http, and /; an authority that is spelled.
fn get(stream: u8) -> Vec<u8> {
    let block = b"\x82\x86\x84\x41\x01a";
    let mut frame = vec![0, 0, block.len() as u8, 1, 5, 0, 0, 0, stream];
    frame.extend_from_slice(block);
    frame
}

fn kinds(mut frames: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        kinds.push(*kind);
        let n_bytes = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        frames = rest.get(n_bytes..).unwrap_or_default();
    }
    kinds
}

#[test]
fn keys_and_certificates_that_do_not_fit_are_refused() {
    let (one, other) = (certified(), certified());
    let refusal = |certificates: &str, key: Option<&str>| {
        let options = TlsOptions {
            certificates: certificates.into(),
            key: key.map(Into::into),
            ..TlsOptions::default()
        };
        Tls::new(&options).expect_err("refused").to_string()
    };
    let texts = [
        (refusal(&one.certificate, Some(&other.key)), "does not belong to the certificate"),
        (refusal(&one.certificate, None), "no private key"),
        (refusal("", None), "no certificate"),
        (refusal(&one.certificate, Some("-----BEGIN PRIVATE KEY-----\nx")), "cannot be read"),
        (
            refusal(
                &one.certificate,
                Some("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"),
            ),
            "openssl pkcs8",
        ),
        (
            refusal(
                &one.certificate,
                Some("-----BEGIN ENCRYPTED PRIVATE KEY-----\n-----END ENCRYPTED PRIVATE KEY-----"),
            ),
            "there is no password",
        ),
    ];
    for (text, expected) in texts {
        assert!(text.contains(expected), "{text}");
    }
}
