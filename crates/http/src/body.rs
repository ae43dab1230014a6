//! Bodies of responses, as hyper takes them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io, mem};

use blocking::Task;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri, Version, request};
use http_body::{Body as HttpBody, Frame, SizeHint};
use threadlets_core::clock;

use crate::exchange::{Exchange, OutFrame};
use crate::link::HttpLink;
use crate::server::LogEntry;
use crate::static_files::FileBody;

/// The body of a response, and what is counted and logged when it ends.
#[derive(Debug)]
pub(crate) struct Body {
    content: Content,
    /// The application's response goes on after a file that it has sent.
    afterwards: Option<Arc<Exchange>>,
    delivery: Delivery,
}

#[derive(Debug)]
enum Content {
    Bytes(Bytes),
    Exchange(Arc<Exchange>),
    File(FileBody),
    /// A part of a file is being read by a thread that may wait for the disk.
    Cold(Task<(FileBody, io::Result<Bytes>)>, u64),
    /// Nothing more: everything was taken, or it broke off.
    Over,
}

/// How much of a file is read at a time.
const READ_BYTES: usize = 128 * 1024;

/// The rest of a response will not come: an application or a file has broken off.
#[derive(Debug)]
pub(crate) struct BrokenOff;

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the response breaks off")
    }
}

impl std::error::Error for BrokenOff {}

impl Body {
    fn new(content: Content, delivery: Delivery) -> Self {
        Self { content, afterwards: None, delivery }
    }

    pub(crate) fn bytes(bytes: Bytes, delivery: Delivery) -> Self {
        Self::new(Content::Bytes(bytes), delivery)
    }

    pub(crate) fn file(file: FileBody, delivery: Delivery) -> Self {
        Self::new(Content::File(file), delivery)
    }

    pub(crate) fn exchange(exchange: Arc<Exchange>, delivery: Delivery) -> Self {
        Self::new(Content::Exchange(exchange), delivery)
    }

    pub(crate) fn link(&self) -> &Arc<HttpLink> {
        &self.delivery.link
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.content {
            Content::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                self.delivery.n_bytes += bytes.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Content::Exchange(exchange) => {
                let Poll::Ready(frame) = exchange.poll_frame(cx) else { return Poll::Pending };
                match frame {
                    Ok(OutFrame::Data(data)) => self.took(data),
                    Ok(OutFrame::File(file)) => {
                        self.afterwards = Some(Arc::clone(exchange));
                        self.content = Content::File(file);
                        self.poll_next(cx)
                    }
                    Ok(OutFrame::Trailers(trailers)) => {
                        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                    }
                    Ok(OutFrame::End) => Poll::Ready(None),
                    Err(()) => Poll::Ready(Some(Err(BrokenOff))),
                }
            }
            Content::File(file) if file.is_empty() => match self.afterwards.take() {
                Some(exchange) => {
                    self.content = Content::Exchange(exchange);
                    self.poll_next(cx)
                }
                None => Poll::Ready(None),
            },
            Content::File(file) => match file.try_read(READ_BYTES) {
                Ok(Some(data)) => self.took(data),
                Err(_) => self.breaks_off(),
                Ok(None) => {
                    let Content::File(mut file) = mem::replace(&mut self.content, Content::Over)
                    else {
                        unreachable!("matched above")
                    };
                    let n_left = file.len();
                    let reading = blocking::unblock(move || {
                        let read = file.read(READ_BYTES);
                        (file, read)
                    });
                    self.content = Content::Cold(reading, n_left);
                    self.poll_next(cx)
                }
            },
            Content::Cold(reading, _) => {
                let Poll::Ready((file, read)) = Pin::new(reading).poll(cx) else {
                    return Poll::Pending;
                };
                self.content = Content::File(file);
                match read {
                    Ok(data) => self.took(data),
                    Err(_) => self.breaks_off(),
                }
            }
            Content::Over => Poll::Ready(None),
        }
    }

    /// A part of a file was read; an empty one is the end.
    fn took(&mut self, data: Bytes) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if data.is_empty() {
            return Poll::Ready(None);
        }
        self.delivery.n_bytes += data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    /// A file cannot be read to its end: it has shrunk, or its disk fails.
    fn breaks_off(&mut self) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.content = Content::Over;
        Poll::Ready(Some(Err(BrokenOff)))
    }

    fn n_left(&self) -> Option<u64> {
        let afterwards = match &self.afterwards {
            Some(exchange) => exchange.n_left()?,
            None => 0,
        };
        let n_left = self.n_left_of_content()?;
        Some(n_left + afterwards)
    }

    fn n_left_of_content(&self) -> Option<u64> {
        match &self.content {
            Content::File(file) => Some(file.len()),
            Content::Cold(_, n_left) => Some(*n_left),
            Content::Over => None,
            Content::Bytes(bytes) => Some(bytes.len() as u64),
            Content::Exchange(exchange) => exchange.n_left(),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.get_mut().poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.n_left() == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.n_left().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let is_all = self.n_left() == Some(0);
        self.delivery.is_complete |= is_all;
    }
}

/// The delivery of one response: it begins with the request, and ends when hyper has taken all or drops it.
pub(crate) struct Delivery {
    link: Arc<HttpLink>,
    exchange: Option<Arc<Exchange>>,
    started_ns: u64,
    status: Option<StatusCode>,
    n_bytes: u64,
    is_complete: bool,
    logged: Option<Box<LoggedRequest>>,
}

struct LoggedRequest {
    method: Method,
    uri: Uri,
    version: Version,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Delivery {
    /// Begin: a request has come.
    pub(crate) fn begin(link: &Arc<HttpLink>, request: &request::Parts) -> Self {
        link.request_begins();
        let logged = link.server.logs.then(|| {
            Box::new(LoggedRequest {
                method: request.method.clone(),
                uri: request.uri.clone(),
                version: request.version,
                headers: kept(&request.headers, &link.server.logged_headers),
            })
        });
        Self {
            link: Arc::clone(link),
            exchange: None,
            started_ns: clock::now_ns(),
            status: None,
            n_bytes: 0,
            is_complete: request.method == Method::HEAD,
            logged,
        }
    }

    /// An application answers.
    pub(crate) fn of(mut self, exchange: &Arc<Exchange>) -> Self {
        self.exchange = Some(Arc::clone(exchange));
        self
    }

    pub(crate) fn link(&self) -> &Arc<HttpLink> {
        &self.link
    }

    /// The response has begun.
    pub(crate) fn responds(&mut self, status: StatusCode) {
        self.status = Some(status);
        let has_no_body = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        self.is_complete |= has_no_body;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let link = &self.link;
        let server = &link.server;
        let took = Duration::from_nanos(clock::now_ns().saturating_sub(self.started_ns));
        // 499 is what logs write for a client that has left before there was a response.
        let left = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        let status = self.status.unwrap_or(left);
        server.metrics.responded(status, took);
        if !(self.is_complete && self.status.is_some()) {
            server.metrics.clients_left.count();
            link.n_left.store(link.n_left.load(Relaxed) + 1, Relaxed);
        }
        if let Some(logged) = self.logged.take() {
            server.log(LogEntry {
                connection: link.number,
                peer: link.peer.clone(),
                headers: logged.headers,
                method: logged.method,
                uri: logged.uri,
                version: logged.version,
                status,
                n_bytes: self.n_bytes,
                took,
            });
        }
        if let Some(exchange) = self.exchange.take() {
            exchange.delivery_ends();
        }
        link.request_ends();
    }
}

/// The fields of these names, one by one.
fn kept(headers: &HeaderMap, names: &[HeaderName]) -> Vec<(HeaderName, HeaderValue)> {
    let values =
        |name| headers.get_all(name).iter().map(move |it| (HeaderName::clone(name), it.clone()));
    names.iter().flat_map(values).collect()
}
