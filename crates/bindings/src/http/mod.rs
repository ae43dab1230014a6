//! The HTTP server, between the dispatcher and applications.
//!
//! [`server`] has the connections and drives them as requests of the dispatcher. [`exchange`] is what an application
//! holds of a request, [`websocket`] of a websocket: the native halves of ASGI's `receive` and `send`. [`scope`],
//! [`messages`], [`websocket_messages`], [`options`] and [`tls`] translate. [`counts`] is what was counted.

pub(crate) mod counts;
pub(crate) mod exchange;
pub(crate) mod server;
pub(crate) mod websocket;
pub(crate) mod wsgi;

mod answering;
mod connections;
mod messages;
mod options;
mod receivers;
mod scope;
mod tls;
mod websocket_messages;
