//! Accepts connections, as long as there is room for them.
//!
//! Where connections are limited, clients beyond the limit wait in the kernel's backlog. A listener that has such
//! clients has paused: it goes on when a connection ends, and several take turns.

use pyo3::prelude::*;
use threadlets_core::backlog::AcceptedConnection;
use threadlets_core::{Backlog, SourceKey, clock};
use threadlets_http::HttpConnection;

use super::super::connections::CONNECTIONS_MAX;
use super::{HttpServer, LISTENERS, MADE_MAX};
use crate::dispatcher::hooks;
use crate::py::error::to_python;

/// A listening socket of a server, which its owner keeps open.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) backlog: Backlog,
    pub(super) key: SourceKey,
    pub(super) fd: i32,
    /// Its request is in the ready queue.
    pub(super) is_queued: bool,
    /// What scopes say of the server's own address.
    pub(super) own: Py<PyAny>,
}

/// What one call of accept has come to.
struct Accepted {
    taken: Vec<AcceptedConnection>,
    /// It has to be called again in the next tick.
    goes_on: bool,
    /// There is no room for the clients that wait.
    is_short_of_room: bool,
}

impl HttpServer {
    /// Accept connections, and serve some of them.
    pub(super) fn accept(slf: &Bound<'_, Self>, which: u32) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let room = this.room(py);
        let accepted = this.listeners.with(py, |listeners| {
            let Some(Some(listener)) = listeners.get_mut(which as usize) else { return Ok(None) };
            let backlog = &mut listener.backlog;
            listener.is_queued = false;
            let n_held = backlog.n_held();
            let may_be_more = backlog.accept_at_most(room)?;
            let has_room = backlog.n_held() - n_held < room;
            let taken: Vec<_> = std::iter::from_fn(|| backlog.take()).take(MADE_MAX).collect();
            let goes_on = backlog.n_held() > 0 || (may_be_more && has_room);
            let is_short_of_room = may_be_more && !has_room && backlog.has_waiting();
            listener.is_queued = goes_on;
            Ok(Some(Accepted { taken, goes_on, is_short_of_room }))
        });
        let accepted = match accepted {
            Ok(None) => return Ok(()),
            Ok(Some(accepted)) => accepted,
            Err(error) => return this.accept_failed(slf, which, to_python(error)),
        };
        if accepted.goes_on {
            Self::submit(slf, LISTENERS + which)?;
        }
        this.note_pause(py, which, accepted.is_short_of_room);
        for connection in accepted.taken {
            Self::make(slf, connection)?;
        }
        // It may have had fewer clients than there was room for.
        Self::resume_accepting(slf)
    }

    /// Note whether a listener has clients for whom there is no room.
    fn note_pause(&self, py: Python<'_>, which: u32, is_short_of_room: bool) {
        self.paused.with(py, |paused| {
            let was_paused = paused.contains(&which);
            if is_short_of_room && !was_paused {
                self.server.metrics.accepting_paused.count();
                paused.push_back(which);
            } else if was_paused && !is_short_of_room {
                paused.retain(|it| *it != which);
            }
        });
    }

    /// Have the listener that has paused for the longest time accept again, if there is room.
    pub(super) fn resume_accepting(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.paused.with(py, |paused| paused.is_empty()) || this.room(py) == 0 {
            return Ok(());
        }
        let Some(which) = this.paused.with(py, |paused| paused.pop_front()) else { return Ok(()) };
        if this.queues_listener(py, which) { Self::submit(slf, LISTENERS + which) } else { Ok(()) }
    }

    /// Note that the request of a listener is in the ready queue; whether it has to be put there, which it has not if it
    /// is there, or if the listener is gone.
    pub(super) fn queues_listener(&self, py: Python<'_>, which: u32) -> bool {
        self.listeners.with(py, |listeners| {
            let listener = listeners.get_mut(which as usize).and_then(Option::as_mut);
            listener.is_some_and(|it| !std::mem::replace(&mut it.is_queued, true))
        })
    }

    /// For how many more connections there is room.
    fn room(&self, py: Python<'_>) -> usize {
        let limit = self.server.limits.connections.unwrap_or(CONNECTIONS_MAX as usize);
        let n_held: usize = self
            .listeners
            .with(py, |listeners| listeners.iter().flatten().map(|it| it.backlog.n_held()).sum());
        limit.saturating_sub(n_held + self.connections.with(py, |it| it.len()))
    }

    /// Descriptors have run out, or the like: the owner tries again later.
    fn accept_failed(&self, slf: &Bound<'_, Self>, which: u32, error: PyErr) -> PyResult<()> {
        let py = slf.py();
        hooks::accept_failed(self.owner.bind(py), which as usize, error).map(drop)
    }

    /// Make a connection, and serve it: its client has usually sent a request already.
    pub(super) fn make(slf: &Bound<'_, Self>, (fd, peer): AcceptedConnection) -> PyResult<()> {
        let this = slf.get();
        let number = this.connections.with(slf.py(), |connections| {
            let number = connections.reserve();
            let made = HttpConnection::new(&this.server, number, fd, peer, clock::now_ns());
            if let Some(entry) = connections.get(number) {
                entry.connection = Some(Box::new(made));
            }
            number
        });
        Self::serve(slf, number)
    }
}
