//! HTTP/2 on one connection: hyper's connection, and the futures of its streams, which hyper leaves to others.

use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::header::{COOKIE, HOST, HeaderValue};
use http::{HeaderMap, Request, Response, request};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper::server::conn::http2;
use hyper::service::Service;

use crate::body::{Body, BrokenOff};
use crate::limits::Limits;
use crate::link::HttpLink;
use crate::service::{Reply, RequestService};
use crate::socket::Socket;

/// What a client says first that speaks HTTP/2.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Streams of one connection at the same time.
const STREAMS_MAX: u32 = 100;

/// How much a client may send of a request's body before the application has taken any of it, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;

/// The same for all requests of a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Streams that a client may reset before we have begun with them.
const EARLY_RESETS_MAX: usize = 20;

/// Streams that we may reset for a client's mistakes.
const MISTAKES_MAX: usize = 100;

/// Streams that clients may reset after all; then more than half of a connection's streams must not be reset.
const RESETS_MAX: u64 = 200;

/// HTTP/2 on a connection.
pub(crate) struct Http2 {
    connection: http2::Connection<Shared, Pieces, Executing>,
    streams: FuturesUnordered<StreamFuture>,
    begun: Executing,
    socket: Arc<Mutex<Socket>>,
    /// Since when the client was told to begin nothing more, in nanoseconds of the core's clock.
    pub(crate) goes_away_ns: Option<u64>,
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").field("n_streams", &self.streams.len()).finish_non_exhaustive()
    }
}

impl Http2 {
    pub(crate) fn new(mut socket: Socket, link: &Arc<HttpLink>) -> Self {
        socket.stop_following();
        link.is_http2.store(true, Relaxed);
        let begun = Executing::default();
        let socket = Arc::new(Mutex::new(socket));
        let requests = Pieces(RequestService(Arc::clone(link)));
        let shared = Shared(Arc::clone(&socket));
        let connection = builder(&begun, &link.server.limits).serve_connection(shared, requests);
        Self { connection, streams: FuturesUnordered::new(), begun, socket, goes_away_ns: None }
    }

    /// Go on with the connection and its streams; ready when the connection is over.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        let ended = Pin::new(&mut self.connection).poll(context);
        if ended.is_ready() {
            return ended;
        }
        self.streams.extend(mem::take(&mut *self.begun.futures()));
        while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(context) {}
        Poll::Pending
    }

    /// Tell the client to begin nothing more; what has begun goes on. It has to be polled.
    pub(crate) fn go_away(&mut self, now_ns: u64) {
        if self.goes_away_ns.is_none() {
            self.goes_away_ns = Some(now_ns);
            Pin::new(&mut self.connection).graceful_shutdown();
        }
    }

    /// Have the close reset the connection.
    pub(crate) fn reset_on_close(&self) {
        locked(&self.socket).reset_on_close();
    }

    pub(crate) fn rest(&self) {
        locked(&self.socket).rest();
    }

    /// Drop what hyper has; the socket is left.
    pub(crate) fn into_socket(self) -> Option<Socket> {
        let Self { connection, streams, begun, socket, .. } = self;
        drop((streams, begun, connection));
        Arc::into_inner(socket).map(|it| it.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a client resets so many of its streams that it cannot mean well.
pub(crate) fn resets_too_much(link: &HttpLink) -> bool {
    let n_resets = link.n_left.load(Relaxed);
    n_resets > RESETS_MAX && n_resets * 2 > link.n_requests.load(Relaxed)
}

/// Whether a connection has ended because its client has sent too much of what costs it little.
pub(crate) fn is_flood(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|it| it.downcast_ref::<h2::Error>());
    cause.and_then(h2::Error::reason) == Some(h2::Reason::ENHANCE_YOUR_CALM)
}

/// Give a request the fields that it would have in HTTP/1.1, for applications that know no other: `:authority` is the
/// host and comes first, and cookies, which clients may send one by one, are one field (RFC 9113, 8.2.3).
pub(crate) fn adapt_fields(request: &mut request::Parts) {
    let mut fields = HeaderMap::with_capacity(request.headers.len() + 1);
    let authority = request.uri.authority().map(|it| HeaderValue::from_str(it.as_str()));
    let knows_host = matches!(authority, Some(Ok(_)));
    if let Some(Ok(host)) = authority {
        fields.append(HOST, host);
    }
    for (name, value) in &request.headers {
        match fields.get_mut(COOKIE) {
            Some(before) if name == COOKIE => {
                let both = [before.as_bytes(), value.as_bytes()].join(&b"; "[..]);
                if let Ok(both) = HeaderValue::from_bytes(&both) {
                    *before = both;
                }
            }
            _ if name == HOST && knows_host => {}
            _ => drop(fields.append(name, value.clone())),
        }
    }
    request.headers = fields;
}

/// hyper's settings. A CONTINUATION flood is ended by h2, which bounds such frames by the size of the head.
fn builder(streams: &Executing, limits: &Limits) -> http2::Builder<Executing> {
    let mut http2 = http2::Builder::new(streams.clone());
    let n_bytes = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    http2
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(n_bytes(limits.request_head))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(EARLY_RESETS_MAX)
        .max_local_error_reset_streams(MISTAKES_MAX)
        .max_send_buf_size(limits.send_high_water.min(u32::MAX as usize))
        .keep_alive_interval(None);
    http2
}

type StreamFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes the futures of streams, for [`Http2::poll`].
#[derive(Clone, Default)]
pub(crate) struct Executing(Arc<Mutex<Vec<StreamFuture>>>);

impl Executing {
    fn futures(&self) -> MutexGuard<'_, Vec<StreamFuture>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Executing {
    fn execute(&self, future: F) {
        self.futures().push(Box::pin(future));
    }
}

/// The socket under hyper, which does not give it back; the driver has it, too.
pub(crate) struct Shared(Arc<Mutex<Socket>>);

fn locked(socket: &Mutex<Socket>) -> MutexGuard<'_, Socket> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Read for Shared {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *locked(&self.0)).poll_read(cx, buffer)
    }
}

impl Write for Shared {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *locked(&self.0)).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *locked(&self.0)).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *locked(&self.0)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *locked(&self.0)).poll_shutdown(cx)
    }
}

/// The service of a connection: its bodies are made of [`CountedPiece`]s.
#[derive(Debug)]
pub(crate) struct Pieces(RequestService);

impl Service<Request<Incoming>> for Pieces {
    type Response = Response<PieceBody>;
    type Error = BrokenOff;
    type Future = PieceReply;

    fn call(&self, request: Request<Incoming>) -> PieceReply {
        PieceReply(self.0.call(request))
    }
}

pub(crate) struct PieceReply(Reply);

impl Future for PieceReply {
    type Output = Result<Response<PieceBody>, BrokenOff>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_ok(|response| response.map(PieceBody))
    }
}

pub(crate) struct PieceBody(Body);

impl HttpBody for PieceBody {
    type Data = CountedPiece;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<CountedPiece>, BrokenOff>>> {
        let frame = Pin::new(&mut self.0).poll_frame(cx);
        let link = self.0.link();
        frame.map_ok(|frame| frame.map_data(|bytes| CountedPiece::new(bytes, link)))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A piece of a body that h2 has taken. It may wait there for its client to make room: the connection knows how much
/// of them waits, and when the last of it has moved.
#[derive(Debug)]
pub(crate) struct CountedPiece {
    bytes: Bytes,
    link: Arc<HttpLink>,
}

impl CountedPiece {
    fn new(bytes: Bytes, link: &Arc<HttpLink>) -> Self {
        let n_taken = link.n_pieces_taken.load(Relaxed);
        link.n_pieces_taken.store(n_taken + bytes.len() as u64, Relaxed);
        Self { bytes, link: Arc::clone(link) }
    }

    fn moves(&self, n_bytes: usize) {
        let n_moved = self.link.n_pieces_moved.load(Relaxed);
        self.link.n_pieces_moved.store(n_moved + n_bytes as u64, Relaxed);
    }
}

impl Buf for CountedPiece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, n: usize) {
        self.moves(n);
        self.bytes.advance(n);
    }
}

impl Drop for CountedPiece {
    fn drop(&mut self) {
        self.moves(self.bytes.len());
    }
}
