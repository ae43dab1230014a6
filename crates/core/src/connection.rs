//! A connected stream socket: its unsent bytes, water marks and end.
//!
//! A connection calls no callbacks. Each method makes at most one system call (`flush`: more while
//! there is room) and says what the owner has to do: pass data on, ask for less, report the end. It
//! does not know the poller: its owner tells it when to try again.

use crate::error::Result;
use crate::socket::{self, SocketFd};
use crate::write_queue::WriteQueue;

/// The most unsent bytes before the owner is asked to pause, unless it sets a limit of its own.
const HIGH_WATER_BYTES: usize = 64 * 1024;

/// The outcome of a receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes were received.
    Data {
        /// How many bytes of the buffer were filled.
        n_bytes: usize,
        /// There may be more to receive at once: the buffer was filled, or the read may have been cut short.
        more: bool,
    },
    /// The peer has ended its half.
    End,
    /// Nothing to receive yet.
    Nothing,
}

/// The state of one connection; `C` owns or shares the bytes of one unsent chunk.
#[derive(Debug)]
pub struct Connection<C> {
    fd: SocketFd,
    unsent: WriteQueue<C>,
    low_water_bytes: usize,
    high_water_bytes: usize,
    /// The owner wants data. Never set while closing, nor after the peer's end.
    reading: bool,
    /// The peer has ended its half.
    reading_ended: bool,
    /// There may be something to read that no further edge reports.
    may_be_readable: bool,
    /// The owner was asked to write no more for now.
    writes_paused: bool,
    /// A short read need not be the last one: the peer's end or urgent data was announced, or
    /// descriptors that are sent along may have cut it short (Unix sockets).
    short_reads_mislead: bool,
    /// Nothing is written after the bytes that are unsent.
    writing_ended: bool,
    /// No more is received, and the connection ends when everything is sent.
    closing: bool,
    /// The connection is over, and the owner is told so. Implies `closing`, and that nothing is unsent.
    over: bool,
}

impl<C: AsRef<[u8]>> Connection<C> {
    /// The state of a connected, non-blocking socket, whose owner wants data.
    pub fn new(fd: SocketFd) -> Self {
        Self {
            fd,
            unsent: WriteQueue::default(),
            low_water_bytes: HIGH_WATER_BYTES / 4,
            high_water_bytes: HIGH_WATER_BYTES,
            reading: true,
            reading_ended: false,
            may_be_readable: false,
            writes_paused: false,
            short_reads_mislead: !socket::is_tcp(fd),
            writing_ended: false,
            closing: false,
            over: false,
        }
    }

    /// The socket.
    pub fn fd(&self) -> SocketFd {
        self.fd
    }

    /// Whether the owner wants data.
    pub fn is_reading(&self) -> bool {
        self.reading
    }

    /// Whether the owner wants no data although more could come.
    pub fn is_reading_paused(&self) -> bool {
        !(self.reading || self.reading_ended || self.closing)
    }

    /// Whether the connection is closing or over.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether the connection is over.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the writing half was ended.
    pub fn is_writing_ended(&self) -> bool {
        self.writing_ended
    }

    /// Whether the owner was asked to write no more for now.
    pub fn is_writing_paused(&self) -> bool {
        self.writes_paused
    }

    /// How many bytes are yet to be sent.
    pub fn n_unsent(&self) -> usize {
        self.unsent.n_bytes()
    }

    /// The bytes that are yet to be sent, as slices in order.
    pub fn unsent(&self) -> impl Iterator<Item = &[u8]> {
        self.unsent.slices()
    }

    /// Receive nothing until [`Connection::resume`]; false if reading was paused already.
    pub fn pause(&mut self) -> bool {
        std::mem::replace(&mut self.reading, false)
    }

    /// Do not take a short read for the last one from now on.
    pub fn distrust_short_reads(&mut self) {
        self.short_reads_mislead = true;
    }

    /// Remember that there may be something to read although reading is paused.
    pub fn note_missed_readiness(&mut self) {
        self.may_be_readable = true;
    }

    /// Whether readiness was missed since the last call of this method.
    pub fn take_missed_readiness(&mut self) -> bool {
        std::mem::replace(&mut self.may_be_readable, false)
    }

    /// Receive again; false if reading was not paused, or if nothing more can come.
    pub fn resume(&mut self) -> bool {
        let resumes = !self.reading && !self.reading_ended && !self.closing;
        self.reading |= resumes;
        resumes
    }

    /// Receive into `buffer`.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Received> {
        Ok(match socket::recv(self.fd, buffer)? {
            None => Received::Nothing,
            Some(0) => {
                self.reading = false;
                self.reading_ended = true;
                Received::End
            }
            Some(n_bytes) => {
                let more = n_bytes == buffer.len() || self.short_reads_mislead;
                Received::Data { n_bytes, more }
            }
        })
    }

    /// Send as much of `data` as there is room for now; the result is a count of bytes.
    ///
    /// Zero while older bytes are unsent, since bytes leave in order. The owner has to
    /// [`Connection::queue`] the rest.
    pub fn send(&mut self, data: &[u8]) -> Result<usize> {
        if !self.unsent.is_empty() {
            return Ok(0);
        }
        Ok(socket::send(self.fd, data)?.unwrap_or(0))
    }

    /// Keep a chunk, of which `n_sent` bytes are sent already, until there is room for it.
    pub fn queue(&mut self, chunk: C, n_sent: usize) {
        self.unsent.push(chunk, n_sent);
    }

    /// Send unsent bytes as far as there is room; true if nothing is left.
    pub fn flush(&mut self) -> Result<bool> {
        while !self.unsent.is_empty() {
            let fd = self.fd;
            let n_unsent = self.unsent.n_bytes();
            match self.unsent.send_with(|slices| socket::send_vectored(fd, slices))? {
                Some(n_sent) if n_sent > 0 => debug_assert!(self.unsent.n_bytes() < n_unsent),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Set the water marks, in bytes, between which the owner's writing is paused and resumed.
    pub fn set_limits(&mut self, low_water_bytes: usize, high_water_bytes: usize) {
        self.low_water_bytes = low_water_bytes;
        self.high_water_bytes = high_water_bytes;
    }

    /// The water marks: low, high.
    pub fn limits(&self) -> (usize, usize) {
        (self.low_water_bytes, self.high_water_bytes)
    }

    /// Whether the owner must be asked to pause writing: true once for each time that the unsent
    /// bytes pass the high-water mark.
    pub fn must_pause_writes(&mut self) -> bool {
        let pauses = !self.writes_paused && self.unsent.n_bytes() > self.high_water_bytes;
        self.writes_paused |= pauses;
        pauses
    }

    /// Whether the owner may resume writing: true once for each pause.
    pub fn may_resume_writes(&mut self) -> bool {
        let resumes = self.writes_paused && self.unsent.n_bytes() <= self.low_water_bytes;
        self.writes_paused &= !resumes;
        resumes
    }

    /// End the writing half once everything is sent.
    pub fn end_writing(&mut self) -> Result<()> {
        if self.writing_ended || self.closing {
            return Ok(());
        }
        self.writing_ended = true;
        if self.unsent.is_empty() { socket::shutdown_write(self.fd) } else { Ok(()) }
    }

    /// Close once everything is sent; true if the connection is over now, and the owner is to be told.
    pub fn close(&mut self) -> bool {
        if self.closing {
            return false;
        }
        self.closing = true;
        self.reading = false;
        self.over = self.unsent.is_empty();
        self.over
    }

    /// Close now and return the unsent bytes; `None` if the connection was over already.
    pub fn abort(&mut self) -> Option<WriteQueue<C>> {
        if self.over {
            return None;
        }
        self.closing = true;
        self.reading = false;
        self.over = true;
        Some(std::mem::take(&mut self.unsent))
    }

    /// End a closing connection that has nothing left to send; true if it is over now: its owner is to be told.
    pub fn end_if_drained(&mut self) -> bool {
        let ends = self.closing && !self.over && self.unsent.is_empty();
        self.over |= ends;
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, UnixStream, Connection<Vec<u8>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = Connection::new(SocketFd::new(ours.as_raw_fd()));
        (ours, theirs, stream)
    }

    /// Fill the socket until it has no room; returns how many bytes it took.
    fn fill(stream: &mut Connection<Vec<u8>>) -> usize {
        let data = vec![7; 4 << 20];
        let mut n_sent = 0;
        loop {
            match stream.send(&data).unwrap() {
                0 => return n_sent,
                n => n_sent += n,
            }
        }
    }

    #[test]
    fn what_finds_no_room_is_sent_by_a_later_flush() {
        let (_ours, mut theirs, mut stream) = pair();
        let n_sent = fill(&mut stream);
        stream.queue(b"tail".to_vec(), 0);
        assert_eq!(Ok(false), stream.flush());
        theirs.read_exact(&mut vec![0; n_sent]).unwrap();
        assert_eq!(Ok(true), stream.flush());
        let mut tail = [0; 4];
        theirs.read_exact(&mut tail).unwrap();
        assert_eq!(b"tail", &tail);
    }

    #[test]
    fn writers_are_paused_once_above_the_high_and_resumed_once_below_the_low_mark() {
        let (_ours, mut theirs, mut stream) = pair();
        let n_sent = fill(&mut stream);
        stream.set_limits(10, 100);
        stream.queue(vec![0; 100], 0);
        assert!(!stream.must_pause_writes());
        stream.queue(vec![0; 1], 0);
        assert_eq!((true, false), (stream.must_pause_writes(), stream.must_pause_writes()));
        assert!(!stream.may_resume_writes());
        theirs.read_exact(&mut vec![0; n_sent]).unwrap();
        stream.flush().unwrap();
        assert_eq!((true, false), (stream.may_resume_writes(), stream.may_resume_writes()));
    }

    #[test]
    fn a_closing_stream_ends_when_it_has_sent_everything() {
        let (_ours, mut theirs, mut stream) = pair();
        let n_sent = fill(&mut stream);
        stream.queue(b"tail".to_vec(), 0);
        assert!(!stream.close());
        assert!(!stream.end_if_drained());
        theirs.read_exact(&mut vec![0; n_sent]).unwrap();
        stream.flush().unwrap();
        assert_eq!((true, false), (stream.end_if_drained(), stream.end_if_drained()));
    }

    #[test]
    fn an_aborted_stream_drops_what_it_had_not_sent() {
        let (_ours, _theirs, mut stream) = pair();
        fill(&mut stream);
        stream.queue(b"tail".to_vec(), 0);
        stream.close();
        let unsent = stream.abort().expect("the connection was not over");
        assert_eq!((4, 0), (unsent.n_bytes(), stream.n_unsent()));
        assert!(stream.abort().is_none());
    }

    #[test]
    fn a_receive_tells_data_end_and_nothing_apart() {
        let (_ours, mut theirs, mut stream) = pair();
        let mut buffer = [0; 4];
        assert_eq!(Ok(Received::Nothing), stream.receive(&mut buffer));
        theirs.write_all(b"abcdef").unwrap();
        assert_eq!(Ok(Received::Data { n_bytes: 4, more: true }), stream.receive(&mut buffer));
        // On a Unix socket, a descriptor that is sent along could have cut this read short.
        assert_eq!(Ok(Received::Data { n_bytes: 2, more: true }), stream.receive(&mut buffer));
        drop(theirs);
        assert_eq!(Ok(Received::End), stream.receive(&mut buffer));
        assert!(!stream.resume());
    }

    #[test]
    fn a_short_read_from_tcp_is_the_last_one_unless_distrusted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut theirs = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let mut stream: Connection<Vec<u8>> = Connection::new(SocketFd::new(ours.as_raw_fd()));
        let mut buffer = [0; 4];
        theirs.write_all(b"ab").unwrap();
        rustix::event::poll(
            &mut [rustix::event::PollFd::new(&ours, rustix::event::PollFlags::IN)],
            None,
        )
        .unwrap();
        assert_eq!(Ok(Received::Data { n_bytes: 2, more: false }), stream.receive(&mut buffer));
        stream.distrust_short_reads();
        theirs.write_all(b"ab").unwrap();
        rustix::event::poll(
            &mut [rustix::event::PollFd::new(&ours, rustix::event::PollFlags::IN)],
            None,
        )
        .unwrap();
        assert_eq!(Ok(Received::Data { n_bytes: 2, more: true }), stream.receive(&mut buffer));
    }

    #[test]
    fn a_closing_stream_does_not_read_again() {
        let (_ours, _theirs, mut stream) = pair();
        assert_eq!((true, true), (stream.pause(), stream.resume()));
        assert!(stream.close());
        assert!(!stream.resume());
        assert!(!stream.is_reading());
    }
}
