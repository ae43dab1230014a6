//! Accepts connections.

use pyo3::prelude::*;
use threadlets_core::backlog::AcceptedConnection;
use threadlets_core::clock;
use threadlets_http::HttpConnection;

use super::super::connections::CONNECTIONS_MAX;
use super::{HttpServer, LISTENERS, MADE_MAX};
use crate::dispatcher::hooks;
use crate::py::error::to_python;

impl HttpServer {
    /// Accept connections, and serve some of them.
    pub(super) fn accept(slf: &Bound<'_, Self>, which: usize) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let accepted = this.listeners.with(py, |listeners| {
            let Some(Some(listener)) = listeners.get_mut(which) else { return Ok(None) };
            listener.is_queued = false;
            let may_be_more = listener.backlog.accept()? || listener.backlog.n_held() > MADE_MAX;
            listener.is_queued = may_be_more;
            let taken: Vec<_> =
                std::iter::from_fn(|| listener.backlog.take()).take(MADE_MAX).collect();
            Ok(Some((taken, may_be_more)))
        });
        let (taken, may_be_more) = match accepted {
            Ok(None) => return Ok(()),
            Ok(Some(accepted)) => accepted,
            Err(error) => return this.accept_failed(slf, which, to_python(error)),
        };
        if may_be_more {
            Self::submit(slf, LISTENERS + which as u32)?;
        }
        for connection in taken {
            Self::make(slf, connection)?;
        }
        Ok(())
    }

    /// Descriptors have run out, or the like: the owner tries again later.
    fn accept_failed(&self, slf: &Bound<'_, Self>, which: usize, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        hooks::accept_failed(self.owner.bind(py), which, error).map(drop)
    }

    /// Make a connection, and serve it: its client has usually sent a request already.
    pub(super) fn make(slf: &Bound<'_, Self>, (fd, peer): AcceptedConnection) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let number = this.connections.with(py, |connections| {
            let limit = this.server.limits.connections.unwrap_or(CONNECTIONS_MAX as usize);
            if connections.len() >= limit {
                return None;
            }
            let number = connections.reserve();
            let made = HttpConnection::new(&this.server, number, fd, peer, clock::now_ns());
            if let Some(entry) = connections.get(number) {
                entry.connection = Some(Box::new(made));
            }
            Some(number)
        });
        match number {
            Some(number) => Self::serve(slf, number),
            None => {
                this.server.metrics.connections_refused.count();
                Ok(())
            }
        }
    }
}
