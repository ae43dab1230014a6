//! The connections of a server: their numbers, their sources at the poller, and what answers them.

use slab::Slab;
use threadlets_core::{Readiness, SourceKey};
use threadlets_http::HttpConnection;

/// Numbers from here on are no connections: see `server.rs`.
pub(super) const CONNECTIONS_MAX: u32 = 0xF000_0000;

/// A connection, and what the bindings know of it. An `A` answers one of its requests.
#[derive(Debug)]
pub(super) struct Entry<A> {
    /// `None` while it is being made.
    pub(super) connection: Option<Box<HttpConnection>>,
    pub(super) key: Option<SourceKey>,
    pub(super) is_registered_for_room: bool,
    /// Its request is in the ready queue.
    pub(super) is_queued: bool,
    /// What answers its requests, as long as applications have not ended or still listen.
    pub(super) answering: Vec<A>,
}

/// All connections of a server, by number.
#[derive(Debug)]
pub(super) struct Connections<A> {
    pub(super) entries: Slab<Entry<A>>,
}

impl<A> Default for Connections<A> {
    fn default() -> Self {
        Self { entries: Slab::new() }
    }
}

impl<A> Connections<A> {
    /// Take a number for a connection that is about to be made.
    pub(super) fn reserve(&mut self) -> u32 {
        let entry = Entry {
            connection: None,
            key: None,
            is_registered_for_room: false,
            is_queued: false,
            answering: Vec::new(),
        };
        let number = self.entries.insert(entry) as u32;
        debug_assert!(number < CONNECTIONS_MAX);
        number
    }

    pub(super) fn get(&mut self, number: u32) -> Option<&mut Entry<A>> {
        self.entries.get_mut(number as usize)
    }

    /// Note the readiness of a connection; whether its request has to be queued.
    pub(super) fn note(&mut self, number: u32, readiness: Readiness) -> bool {
        let Some(entry) = self.get(number) else { return false };
        if let Some(connection) = &entry.connection {
            connection.note(readiness);
        }
        !std::mem::replace(&mut entry.is_queued, true)
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<Entry<A>> {
        self.entries.try_remove(number as usize)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
