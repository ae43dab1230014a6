//! The state of a connection's native half, guarded by the GIL.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use threadlets_core::socket::SocketFd;
use threadlets_core::{Readiness, SourceKey};

use super::read_buffer::ReadBuffer;
use crate::py::byte_buffer::Chunk;
use crate::py::interpreter;

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
    /// Where received data goes instead of to the protocol: the buffer of the protocol's stream reader.
    pub(crate) read_buffer: Option<Py<ReadBuffer>>,
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
            read_buffer: None,
            noted: None,
            is_served: false,
            is_deferred: false,
            registered_for_write: false,
            lent: false,
            n_writes_lost: 0,
        }
    }

    /// Whether the connection is open, and its owner may write more.
    pub(crate) fn has_room(&self) -> bool {
        !self.io.is_closing() && !self.io.is_writing_paused()
    }

    /// Where received data goes, if that is to a reader's buffer; none once the reader is gone.
    pub(crate) fn live_read_buffer(&self, py: Python<'_>) -> Option<Py<ReadBuffer>> {
        let buffer = self.read_buffer.as_ref()?;
        // The reader has the other reference.
        (!interpreter::is_last_reference(buffer.as_any())).then(|| buffer.clone_ref(py))
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
