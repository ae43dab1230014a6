//! An exchange: one request, and the response that an application gives to it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, request, response};
use http_body::Body as _;
use hyper::body::Incoming;
use threadlets_core::socket::Address;

use crate::link::HttpLink;
use crate::response_length::{LengthMismatch, ResponseLength};
use crate::static_files::FileBody;
use crate::tls::TlsInfo;
use crate::websocket::WebSocket;

/// What an application gets when it asks for its request's body.
#[derive(Debug, PartialEq, Eq)]
pub enum ReceivedBody {
    /// A piece of the body; `more`: another one may follow.
    Data {
        /// The bytes.
        data: Bytes,
        /// Whether the body may go on.
        more: bool,
    },
    /// Nothing is here yet; the connection's number is among the woken ones when there is.
    Nothing,
    /// The whole body was received before.
    End,
    /// The body breaks off: the client has left or has sent nonsense.
    Broken,
    /// The body is longer than the server allows; the client was told so, if that was possible.
    TooLarge,
}

/// One request that an application answers, between hyper and that application.
#[derive(Debug)]
pub struct Exchange {
    link: Arc<HttpLink>,
    websocket: Option<Arc<WebSocket>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    head: Option<request::Parts>,
    incoming: Option<Incoming>,
    /// The application has got something of the body, if only its end.
    has_given_body: bool,
    /// The rest of the body was given up before the application had it.
    is_body_left: bool,
    /// Bytes of the body so far.
    n_body_bytes: u64,
    trailers: Option<HeaderMap>,

    response: ResponseHead,
    /// The request is for the head of a response alone.
    asks_for_head: bool,
    length: ResponseLength,
    /// The server answers in the application's place.
    is_refused: bool,
    /// What the application has sent and hyper has not taken.
    frames: VecDeque<Piece>,
    n_queued_bytes: usize,
    /// Bytes of files among them, which are in no memory.
    n_queued_file_bytes: u64,
    response_trailers: Option<HeaderMap>,
    /// The application has sent a piece of the body, if an empty one: the head may leave.
    has_piece: bool,
    /// The application has sent everything.
    is_complete: bool,
    /// The rest of the response will not come.
    is_abandoned: bool,
    /// Nobody takes the response any more: it was taken as a whole, or the client has left.
    is_over: bool,
    /// The application is told that the client has left, though its response might still be sent.
    is_given_up: bool,
    /// Wakes the task that polls the response.
    waker: Option<Waker>,
}

/// A piece of a response's body.
#[derive(Debug)]
enum Piece {
    Data(Bytes),
    File(FileBody),
}

#[derive(Debug)]
enum ResponseHead {
    Awaited,
    Ready(Box<response::Parts>),
    Taken,
}

impl Exchange {
    pub(crate) fn new(link: Arc<HttpLink>, head: request::Parts, incoming: Incoming) -> Self {
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        if incoming.is_some() {
            link.n_bodies.fetch_add(1, Relaxed);
        }
        let state = State {
            asks_for_head: head.method == Method::HEAD,
            head: Some(head),
            incoming,
            has_given_body: false,
            is_body_left: false,
            n_body_bytes: 0,
            trailers: None,
            response: ResponseHead::Awaited,
            length: ResponseLength::default(),
            is_refused: false,
            frames: VecDeque::new(),
            n_queued_bytes: 0,
            n_queued_file_bytes: 0,
            response_trailers: None,
            has_piece: false,
            is_complete: false,
            is_abandoned: false,
            is_over: false,
            is_given_up: false,
            waker: None,
        };
        Self { link, websocket: None, state: Mutex::new(state) }
    }

    /// An exchange that asks for a websocket: its response accepts or denies.
    pub(crate) fn for_websocket(mut self, websocket: Arc<WebSocket>) -> Self {
        self.websocket = Some(websocket);
        self
    }

    /// The websocket that the request asks for.
    pub fn websocket(&self) -> Option<&Arc<WebSocket>> {
        self.websocket.as_ref()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link(&self) -> &Arc<HttpLink> {
        &self.link
    }

    /// The number of its connection.
    pub fn connection(&self) -> u32 {
        self.link.number
    }

    /// The peer of its connection.
    pub fn peer(&self) -> &Address {
        &self.link.peer
    }

    /// What the TLS session of its connection has agreed on; `None` without TLS.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.link.tls.get().map(Box::as_ref)
    }

    /// Take the request's head; `None` the second time.
    pub fn take_head(&self) -> Option<request::Parts> {
        self.state().head.take()
    }

    /// Whether the request has no body, or all of it was received.
    pub fn is_body_over(&self) -> bool {
        self.state().incoming.is_none()
    }

    /// Whether the request came without a body; `true` once only.
    pub fn take_empty_body(&self) -> bool {
        let mut state = self.state();
        state.incoming.is_none()
            && !state.is_body_left
            && !std::mem::replace(&mut state.has_given_body, true)
    }

    /// Receive the next piece of the request's body.
    pub fn receive(&self) -> ReceivedBody {
        let mut state = self.state();
        state.has_given_body |= state.incoming.is_some();
        let waker = Waker::from(Arc::clone(&self.link));
        let mut context = Context::from_waker(&waker);
        if state.incoming.is_some() && self.link.is_misread.load(Relaxed) {
            self.leave_body(&mut state);
            return ReceivedBody::Broken;
        }
        loop {
            let is_left = state.is_body_left;
            let Some(incoming) = &mut state.incoming else {
                return if is_left { ReceivedBody::Broken } else { ReceivedBody::End };
            };
            match Pin::new(incoming).poll_frame(&mut context) {
                Poll::Pending => return ReceivedBody::Nothing,
                Poll::Ready(None) => {
                    self.end_body(&mut state);
                    return ReceivedBody::Data { data: Bytes::new(), more: false };
                }
                Poll::Ready(Some(Err(_))) => {
                    self.end_body(&mut state);
                    return ReceivedBody::Broken;
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        state.n_body_bytes += data.len() as u64;
                        let limit = self.link.server.limits.request_body;
                        if limit.is_some_and(|limit| state.n_body_bytes > limit) {
                            self.leave_body(&mut state);
                            return ReceivedBody::TooLarge;
                        }
                        let more = !state.incoming.as_ref().is_some_and(Incoming::is_end_stream);
                        if !more {
                            self.end_body(&mut state);
                        }
                        return ReceivedBody::Data { data, more };
                    }
                    Err(frame) => state.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }

    /// The body is over, whether in order or not.
    fn end_body(&self, state: &mut State) {
        if state.incoming.take().is_some() {
            self.link.leaves_body.store(false, Relaxed);
            self.link.n_bodies.fetch_sub(1, Relaxed);
        }
    }

    /// Give up the rest of the body: an application that asks for it later is told that it breaks off.
    fn leave_body(&self, state: &mut State) {
        if let Some(body) = state.incoming.take() {
            state.is_body_left = true;
            self.link.n_bodies.fetch_sub(1, Relaxed);
            self.link.leave(body);
        }
    }

    /// Whether the application has sent all it will, and has left a large part of the request's body, which the
    /// connection is not worth.
    pub(crate) fn leaves_much(&self) -> bool {
        // hyper reads what is left of a body if that has come.
        const LEFT_MAX: u64 = 64 * 1024;
        let state = self.state();
        state.is_complete
            && state.incoming.as_ref().is_some_and(|it| it.size_hint().lower() > LEFT_MAX)
    }

    /// The trailers of the request, once its body was received.
    pub fn take_trailers(&self) -> Option<HeaderMap> {
        self.state().trailers.take()
    }

    /// Begin the response; `false`: it has begun before.
    pub fn start(&self, mut head: response::Parts) -> bool {
        let mut state = self.state();
        if !matches!(state.response, ResponseHead::Awaited) {
            return false;
        }
        state.length = ResponseLength::of(&mut head, state.asks_for_head);
        state.response = ResponseHead::Ready(Box::new(head));
        true
    }

    /// Whether the response has begun.
    pub fn has_started(&self) -> bool {
        !matches!(self.state().response, ResponseHead::Awaited)
    }

    /// How many bytes of the response's body are still to be sent, if its head has announced that.
    pub fn n_announced_left(&self) -> Option<u64> {
        self.state().length.n_left()
    }

    /// Whether a file is queued for which the connection had no turn yet.
    pub fn has_queued_file(&self) -> bool {
        self.state().n_queued_file_bytes > 0
    }

    /// Whether the application has sent the whole response.
    pub fn is_complete(&self) -> bool {
        self.state().is_complete
    }

    /// Send a piece of the response's body; without `more` it is the last.
    ///
    /// Nothing leaves before the connection is driven, so that what is sent in one go leaves in one. A piece after which
    /// the body is not as long as was announced is not sent: the response is to be broken off.
    pub fn send(&self, data: Bytes, more: bool) -> Result<(), LengthMismatch> {
        let waker = {
            let mut state = self.state();
            let goes_out = state.length.note(data.len() as u64, more)?;
            if goes_out && !data.is_empty() && !state.is_over {
                state.n_queued_bytes += data.len();
                state.frames.push_back(Piece::Data(data));
            }
            state.has_piece |= goes_out;
            state.is_complete |= !more;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Send a part of a file as a piece of the response's body, as `send` sends bytes.
    pub fn send_file(&self, file: FileBody, more: bool) -> Result<(), LengthMismatch> {
        {
            let mut state = self.state();
            let goes_out = state.length.note(file.len(), true)?;
            if goes_out && !file.is_empty() && !state.is_over {
                state.n_queued_file_bytes += file.len();
                state.frames.push_back(Piece::File(file));
            }
        }
        self.send(Bytes::new(), more)
    }

    /// Send trailers; without `more` they end the response.
    pub fn send_trailers(&self, trailers: HeaderMap, more: bool) -> Result<(), LengthMismatch> {
        self.state().response_trailers.get_or_insert_default().extend(trailers);
        self.send(Bytes::new(), more)
    }

    /// Break the response off: its client learns that it is not all.
    pub fn abandon(&self) {
        let waker = {
            let mut state = self.state();
            state.is_abandoned = !state.is_complete;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the server has answered in the application's place: what that sends is of no interest any more.
    pub fn is_refused(&self) -> bool {
        self.state().is_refused
    }

    /// How many bytes of the response are not sent, as far as this connection knows.
    pub fn n_unsent(&self) -> usize {
        self.state().n_queued_bytes + self.link.n_in_hyper.load(Relaxed) as usize
    }

    /// Whether the client has left, or has all of the response.
    pub fn is_over(&self) -> bool {
        let state = self.state();
        state.is_over || state.is_given_up
    }

    /// Whether the client has left before the application has sent the whole response.
    pub fn is_client_gone(&self) -> bool {
        let state = self.state();
        (state.is_over || state.is_given_up) && !state.is_complete
    }

    /// Whether nothing that is sent reaches the client any more, though its response is not whole.
    pub fn is_cut_off(&self) -> bool {
        let state = self.state();
        state.is_over && !state.is_complete
    }

    /// Tell the application that the client has left; a response is sent all the same.
    pub fn give_up(&self) {
        self.state().is_given_up = true;
    }

    /// The response is delivered or cannot be.
    pub(crate) fn delivery_ends(&self) {
        let mut state = self.state();
        state.is_over = true;
        state.waker = None;
        state.n_queued_bytes = 0;
        let frames = std::mem::take(&mut state.frames);
        self.leave_body(&mut state);
        drop((state, frames));
    }

    /// The head of the response, once it has begun; `None` if the application has broken it off before.
    pub(crate) fn poll_head(&self, context: &Context<'_>) -> Poll<Option<response::Parts>> {
        let mut state = self.state();
        // A head alone is not taken: its first piece, or its end, follows and leaves with it.
        let is_followed = state.is_complete || state.has_piece;
        if state.is_abandoned && !is_followed {
            return Poll::Ready(None);
        }
        if !is_followed || matches!(state.response, ResponseHead::Awaited) {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut state.response, ResponseHead::Taken) {
            ResponseHead::Ready(head) => Poll::Ready(Some(*head)),
            _ => Poll::Ready(None),
        }
    }

    /// The next frame of the response's body; `Err` if it is broken off.
    pub(crate) fn poll_frame(&self, context: &Context<'_>) -> Poll<Result<OutFrame, ()>> {
        let mut state = self.state();
        if let Some(piece) = state.frames.pop_front() {
            let data = match piece {
                Piece::Data(data) => data,
                Piece::File(file) => {
                    state.n_queued_file_bytes -= file.len();
                    return Poll::Ready(Ok(OutFrame::File(file)));
                }
            };
            state.n_queued_bytes -= data.len();
            let in_hyper = self.link.n_in_hyper.load(Relaxed);
            self.link.n_in_hyper.store(in_hyper + data.len() as u64, Relaxed);
            return Poll::Ready(Ok(OutFrame::Data(data)));
        }
        if state.is_abandoned {
            return Poll::Ready(Err(()));
        }
        if state.is_complete {
            return Poll::Ready(Ok(match state.response_trailers.take() {
                Some(trailers) => OutFrame::Trailers(trailers),
                None => OutFrame::End,
            }));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// The number of bytes that are still to come, if all of them are there.
    pub(crate) fn n_left(&self) -> Option<u64> {
        let state = self.state();
        (state.is_complete && state.response_trailers.is_none() && !state.is_abandoned)
            .then_some(state.n_queued_bytes as u64 + state.n_queued_file_bytes)
    }

    /// Answer in the application's place; `false`: its response has begun.
    pub fn refuse(&self, status: StatusCode) -> bool {
        let Some((head, body)) = crate::refusal::response(status) else { return false };
        let is_first = self.start(head);
        if is_first {
            self.state().is_refused = true;
            let sent = self.send(body, false);
            debug_assert!(sent.is_ok(), "a refusal announces no length");
        }
        is_first
    }
}

/// What hyper gets of a response's body.
pub(crate) enum OutFrame {
    Data(Bytes),
    File(FileBody),
    Trailers(HeaderMap),
    End,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.state();
        self.leave_body(&mut state);
        drop(state);
    }
}
