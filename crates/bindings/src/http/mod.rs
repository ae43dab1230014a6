//! The HTTP server, between the dispatcher and applications.
//!
//! [`server`] has the connections and drives them as requests of the dispatcher. [`exchange`] is what an application
//! holds of a request: the native halves of ASGI's `receive` and `send`. [`scope`], [`messages`] and [`tls`] translate.

pub(crate) mod exchange;
pub(crate) mod server;

mod connections;
mod messages;
mod scope;
mod tls;
pub(crate) mod wsgi;
