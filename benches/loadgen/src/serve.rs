//! The least an echo server can do: one thread, one poll, one read and one write per message. Its
//! figure shows how far the load itself is from being the limit.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::echo::ignore_interrupt;

const LISTENER: Token = Token(usize::MAX);

/// Listen on a free port, print `{"port": P}`, echo until killed.
pub(crate) fn run() -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    // Again, for the backlog: mio asks for 1024, a burst needs more.
    rustix::net::listen(&listener, 4096)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    println!("{{\"port\": {}}}", listener.local_addr()?.port());
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        poll.poll(&mut events, None).or_else(ignore_interrupt)?;
        for event in &events {
            let idx = event.token().0;
            if event.token() == LISTENER {
                accept_all(&listener, &poll, &mut connections, &mut free)?;
            } else if let Some(stream) = &mut connections[idx]
                && echo(stream, &mut buffer).is_err()
            {
                connections[idx] = None;
                free.push(idx);
            }
        }
    }
}

fn accept_all(
    listener: &TcpListener,
    poll: &Poll,
    connections: &mut Vec<Option<TcpStream>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        let idx = free.pop().unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        poll.registry().register(&mut stream, Token(idx), Interest::READABLE)?;
        connections[idx] = Some(stream);
    }
}

/// Echo what is there. One message is under way at most, so a short read has emptied the socket and
/// the socket's send buffer has room; an error ends the connection.
fn echo(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                stream.write_all(&buffer[..n])?;
                if n < buffer.len() {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
