//! Connections, listening sockets, datagram sockets, and descriptors of the program's.

pub(crate) mod accept;
pub(crate) mod connection_context;
pub(crate) mod datagrams;
pub(crate) mod descriptors;
pub(crate) mod read_buffer;
pub(crate) mod sock_ops;
pub(crate) mod stream;
pub(crate) mod stream_state;
mod stream_view;
