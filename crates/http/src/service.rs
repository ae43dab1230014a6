//! The service under hyper: what each request is answered with.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use blocking::Task;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Version, request, response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::service::Service;

use crate::body::{Body, BrokenOff, Delivery};
use crate::exchange::Exchange;
use crate::framing::Announced;
use crate::http2;
use crate::link::HttpLink;
use crate::refusal;
use crate::server::{Server, Target};
use crate::static_files::FileBody;
use crate::validity;
use crate::websocket;

/// Answers the requests of one connection.
#[derive(Debug, Clone)]
pub(crate) struct RequestService(pub(crate) Arc<HttpLink>);

impl Service<Request<Incoming>> for RequestService {
    type Response = Response<Body>;
    type Error = BrokenOff;
    type Future = Reply;

    fn call(&self, request: Request<Incoming>) -> Reply {
        let (mut parts, incoming) = request.into_parts();
        let link = &self.0;
        let server = &link.server;
        link.leaves_body.store(!incoming.is_end_stream(), Relaxed);
        let delivery = Delivery::begin(link, &parts);
        let version = parts.version;
        if version < Version::HTTP_2 && !incoming.is_end_stream() {
            link.announce(announced(&parts, &incoming));
        }
        let checked = match link.is_misread.load(Relaxed) {
            // It may stand where others see no request.
            true => Err(StatusCode::BAD_REQUEST),
            false => check(server, &parts, &incoming),
        };
        if let Err(status) = checked {
            link.leave(incoming);
            return match refusal::response(status) {
                Some((head, body)) => Reply::ready(server, head, version, delivery, |delivery| {
                    Body::bytes(body, delivery)
                }),
                None => Reply(Answer::Given(None)),
            };
        }
        if version == Version::HTTP_2 {
            http2::adapt_fields(&mut parts);
        }
        match &server.target {
            Target::Files(files) if !server.is_internal(&parts.uri) => {
                link.leave(incoming);
                match files.try_answer(&parts) {
                    Some(response) => {
                        let (head, file) = response.into_parts();
                        Reply::ready(server, head, version, delivery, |it| Body::file(file, it))
                    }
                    None => {
                        let (files, link) = (Arc::clone(files), Arc::clone(link));
                        let answer = blocking::unblock(move || files.answer(&parts));
                        Reply(Answer::Cold { answer, link, delivery: Some(delivery), version })
                    }
                }
            }
            _ => {
                let asks = server.websockets.is_some()
                    && !server.is_internal(&parts.uri)
                    && websocket::is_handshake(&parts);
                let websocket = match asks.then(|| websocket::open(link, &parts, &incoming)) {
                    Some(Err(refusal)) => {
                        let (head, body) = *refusal;
                        let body = |delivery| Body::bytes(body, delivery);
                        link.leave(incoming);
                        return Reply::ready(server, head, version, delivery, body);
                    }
                    Some(Ok(websocket)) => Some(websocket),
                    None => None,
                };
                let mut exchange = Exchange::new(Arc::clone(link), parts, incoming);
                if let Some(websocket) = websocket {
                    *link.websocket() = Some(Arc::clone(&websocket));
                    exchange = exchange.for_websocket(websocket);
                }
                let exchange = Arc::new(exchange);
                link.begin(Arc::clone(&exchange));
                let delivery = delivery.of(&exchange);
                Reply(Answer::Awaited { exchange, delivery: Some(delivery), version })
            }
        }
    }
}

/// The response, once there is one.
#[derive(Debug)]
pub(crate) struct Reply(Answer);

#[derive(Debug)]
enum Answer {
    Given(Option<Response<Body>>),
    /// A file whose data or name is on a disk.
    Cold {
        answer: Task<Response<FileBody>>,
        link: Arc<HttpLink>,
        delivery: Option<Delivery>,
        version: Version,
    },
    Awaited {
        exchange: Arc<Exchange>,
        delivery: Option<Delivery>,
        version: Version,
    },
}

impl Reply {
    fn ready(
        server: &Server,
        head: response::Parts,
        version: Version,
        delivery: Delivery,
        body: impl FnOnce(Delivery) -> Body,
    ) -> Self {
        Self(Answer::Given(Some(respond(server, head, version, delivery, body))))
    }
}

/// A response with the fields that every response has.
fn respond(
    server: &Server,
    mut head: response::Parts,
    version: Version,
    mut delivery: Delivery,
    body: impl FnOnce(Delivery) -> Body,
) -> Response<Body> {
    delivery.responds(head.status);
    for (name, value) in &server.headers {
        if !head.headers.contains_key(name) {
            head.headers.append(name, value.clone());
        }
    }
    let upgrades = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let is_last = server.is_draining() || delivery.link().is_misread.load(Relaxed);
    if is_last && version < Version::HTTP_2 && !upgrades {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Response::from_parts(head, body(delivery))
}

impl Future for Reply {
    type Output = Result<Response<Body>, BrokenOff>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Answer::Given(response) => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                None => Poll::Pending,
            },
            Answer::Cold { answer, link, delivery, version } => {
                let Poll::Ready(response) = Pin::new(answer).poll(cx) else { return Poll::Pending };
                let Some(delivery) = delivery.take() else { return Poll::Pending };
                let (head, file) = response.into_parts();
                let body = |delivery| Body::file(file, delivery);
                Poll::Ready(Ok(respond(&link.server, head, *version, delivery, body)))
            }
            Answer::Awaited { exchange, delivery, version } => {
                let Poll::Ready(head) = exchange.poll_head(cx) else { return Poll::Pending };
                let Some(delivery) = delivery.take() else { return Poll::Pending };
                let server = Arc::clone(&exchange.link().server);
                Poll::Ready(match head {
                    Some(mut head) => {
                        if *version < Version::HTTP_2 && exchange.leaves_much() {
                            let close = HeaderValue::from_static("close");
                            head.headers.insert(header::CONNECTION, close);
                        }
                        Ok(respond(&server, head, *version, delivery, |delivery| {
                            Body::exchange(Arc::clone(exchange), delivery)
                        }))
                    }
                    None => Err(BrokenOff),
                })
            }
        }
    }
}

/// The body that hyper expects of a request that has one.
fn announced(request: &request::Parts, body: &Incoming) -> Announced {
    match body.size_hint().exact() {
        Some(n_bytes) if !request.headers.contains_key(header::TRANSFER_ENCODING) => {
            Announced::Length(n_bytes)
        }
        _ => Announced::Chunks,
    }
}

/// Refuse what no target should see; the error is the status.
fn check(server: &Server, request: &request::Parts, body: &Incoming) -> Result<(), StatusCode> {
    let (limits, metrics) = (&server.limits, &server.metrics);
    validity::check(request, limits.request_line)
        .inspect_err(|_| metrics.refused_malformed.count())?;
    if request.headers.len() > limits.request_headers {
        metrics.refused_head_too_large.count();
        return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    if let Some(expected) = request.headers.get(header::EXPECT)
        && !expected.as_bytes().eq_ignore_ascii_case(b"100-continue")
    {
        return Err(StatusCode::EXPECTATION_FAILED);
    }
    let n_announced = body.size_hint().lower();
    if limits.request_body.is_some_and(|limit| n_announced > limit) {
        metrics.refused_body_too_large.count();
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    if limits.concurrency.is_some_and(|limit| server.n_in_flight() > limit) {
        metrics.refused_busy.count();
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    Ok(())
}
