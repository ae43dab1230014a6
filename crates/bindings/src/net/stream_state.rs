//! The state of a connection's native half, guarded by the GIL.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use threadlets_core::socket::SocketFd;
use threadlets_core::{Readiness, SourceKey};

use crate::py::byte_buffer::Chunk;

#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) io: threadlets_core::Connection<Chunk>,
    /// Set from the start of reading until the connection is released.
    pub(crate) key: Option<SourceKey>,
    /// The transport that users see; None before it has taken the connection over, and after the release.
    pub(crate) transport: Option<Py<PyAny>>,
    pub(crate) protocol: Option<Py<PyAny>>,
    /// The protocol lends its own buffers (`asyncio.BufferedProtocol`).
    pub(crate) protocol_lends: bool,
    /// The readiness for which the stream is queued; None when it is not queued. It is served once per
    /// tick, however often readiness is noted, so that callbacks keep pace with what is received.
    pub(crate) noted: Option<Readiness>,
    /// Its protocol is being called. Other requests see this set only if a threadlet has lost the role
    /// inside that call.
    pub(crate) is_served: bool,
    /// Its request ran meanwhile, and has to run again.
    pub(crate) is_deferred: bool,
    /// Registered for writing too: a write has found no room before.
    pub(crate) registered_for_write: bool,
    /// `sendfile` writes to the socket once everything is sent.
    pub(crate) lent: bool,
    /// How many writes came after the connection was over.
    pub(crate) n_writes_lost: u32,
}

impl StreamState {
    pub(crate) fn new(fd: SocketFd) -> Self {
        Self {
            io: threadlets_core::Connection::new(fd),
            key: None,
            transport: None,
            protocol: None,
            protocol_lends: false,
            noted: None,
            is_served: false,
            is_deferred: false,
            registered_for_write: false,
            lent: false,
            n_writes_lost: 0,
        }
    }

    /// Fail if writing was ended, or the socket is lent.
    pub(crate) fn check_writable(&self, method: &str) -> PyResult<()> {
        if self.io.is_writing_ended() {
            let message = format!("Cannot call {method}() after write_eof()");
            return Err(PyRuntimeError::new_err(message));
        }
        if self.lent {
            let message = format!("unable to {method}; sendfile is in progress");
            return Err(PyRuntimeError::new_err(message));
        }
        Ok(())
    }
}
