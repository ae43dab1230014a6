//! One connection and the one message it has under way. Knows nothing of time or of phases.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// A client that closes first leaves its port in TIME_WAIT. From one address, 14,000 connections
/// exhaust the ports that `connect` prefers and the search for the next one becomes the benchmark;
/// all of 127/8 is local, so connections take turns at this many addresses.
const N_SOURCES: usize = 64;

/// Buffers that every connection shares: a connection keeps only how far it has come.
pub(crate) struct Buffers {
    message: Vec<u8>,
    /// Larger than a message, so that a server that sends too much is noticed.
    inbox: Vec<u8>,
}

impl Buffers {
    pub(crate) fn new(message_size: usize) -> Self {
        let message = (0..message_size).map(|i| (i * 31 % 251) as u8).collect();
        Self { message, inbox: vec![0; message_size + 4096] }
    }

    /// The message number `sequence` of connection `idx`: no two are alike.
    fn stamped(&mut self, idx: usize, sequence: u64) -> &[u8] {
        self.message[..8].copy_from_slice(&(idx as u64).to_le_bytes());
        self.message[8..16].copy_from_slice(&sequence.to_le_bytes());
        &self.message
    }
}

#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Pending,
    /// The whole echo has come back, and it was the message that was sent.
    Echoed,
}

pub(crate) struct Exchange {
    stream: TcpStream,
    idx: usize,
    sequence: u64,
    sent: usize,
    received: usize,
}

impl Exchange {
    /// Start connecting. Readiness comes under `Token(idx)`; `turn` picks the source address.
    pub(crate) fn open(
        server: SocketAddr,
        idx: usize,
        turn: usize,
        registry: &Registry,
    ) -> io::Result<Self> {
        let mut stream = connect(server, turn, None)?;
        registry.register(&mut stream, Token(idx), Interest::READABLE | Interest::WRITABLE)?;
        // Before the handshake ends: Linux keeps the option for the connection to come.
        stream.set_nodelay(true)?;
        Ok(Self { stream, idx, sequence: 0, sent: 0, received: 0 })
    }

    /// Whether the message under way is the connection's first.
    pub(crate) fn is_first(&self) -> bool {
        self.sequence == 0
    }

    /// Send the next message; the previous echo is complete.
    pub(crate) fn send_next(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        self.sequence += 1;
        self.sent = 0;
        self.received = 0;
        self.send(buffers)
    }

    /// Take one readiness event. Never reads before the message is out: there is nothing to read.
    pub(crate) fn advance(
        &mut self,
        readable: bool,
        buffers: &mut Buffers,
    ) -> io::Result<Progress> {
        if self.sent < buffers.message.len() {
            self.send(buffers)?;
            // The echo raises an edge of its own.
            return Ok(Progress::Pending);
        }
        if readable {
            return self.receive(buffers);
        }
        Ok(Progress::Pending)
    }

    fn send(&mut self, buffers: &mut Buffers) -> io::Result<()> {
        let message = buffers.stamped(self.idx, self.sequence);
        while self.sent < message.len() {
            match self.stream.write(&message[self.sent..]) {
                Ok(n) => self.sent += n,
                // Not connected: the handshake is under way, a writable edge follows.
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) =>
                {
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self, buffers: &mut Buffers) -> io::Result<Progress> {
        let message_size = buffers.message.len();
        loop {
            let n = match self.stream.read(&mut buffers.inbox) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Progress::Pending);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            buffers.stamped(self.idx, self.sequence);
            let expected = buffers.message.get(self.received..self.received + n);
            if expected != Some(&buffers.inbox[..n]) {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "the echo is not what was sent",
                ));
            }
            self.received += n;
            if self.received == message_size {
                return Ok(Progress::Echoed);
            }
        }
    }
}

/// Start connecting, from the source address that `turn` picks.
pub(crate) fn connect(
    server: SocketAddr,
    turn: usize,
    receive_buffer: Option<usize>,
) -> io::Result<TcpStream> {
    let socket = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    // Ports in TIME_WAIT may be bound again; which of them can connect, the kernel checks.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if let Some(bytes) = receive_buffer {
        // Before the handshake, which tells the server the window.
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    let host = (turn % N_SOURCES + 1) as u8;
    let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), 0));
    rustix::net::bind(&socket, &source)?;
    match rustix::net::connect(&socket, &server) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(TcpStream::from_std(socket.into()))
}
