//! The HTTP server: what happens between a socket and an application, without Python.
//!
//! hyper parses and writes HTTP. Nothing here waits and nothing here has a thread or a runtime: the owner of a
//! [`HttpConnection`] calls [`HttpConnection::drive`] when its socket is ready or when its application has sent something,
//! and starts the application for each [`Exchange`] that has begun.
//!
//! In reading order: [`connection`], `service` (what each request is answered with), [`exchange`] (a request that an
//! application answers), [`static_files`] (those that a folder answers), [`websocket`], `body` (what responses are made of),
//! `http2` (many requests at a time), `first_line` and `framing` (what hyper is too strict or too lenient about), `socket`
//! (hyper's reads and writes), `session` and [`tls`], [`wakes`].

pub mod connection;
pub mod exchange;
pub mod limits;
pub mod metrics;
pub mod server;
pub mod static_files;
pub mod tls;
pub mod wakes;
pub mod websocket;

mod body;
mod first_line;
mod framing;
mod http2;
mod link;
mod refusal;
mod response_length;
mod sealed;
mod service;
mod session;
mod socket;
mod validity;

pub use connection::{HttpConnection, Progress};
pub use exchange::Exchange;
/// The reason of a status, among a response's extensions: it is sent in the place of the usual one.
pub use hyper::ext::ReasonPhrase;
pub use limits::Limits;
pub use metrics::Metrics;
pub use response_length::LengthMismatch;
pub use server::{Server, Target};
pub use websocket::WebSocket;
