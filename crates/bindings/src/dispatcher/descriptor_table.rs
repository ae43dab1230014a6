//! The descriptors that the program registers, by number: their handlers, and the operations that wait on them.
//!
//! `net/descriptors.rs` registers them, and `net/sock_ops.rs` tries the operations.

use std::collections::{HashMap, VecDeque};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use threadlets_core::SourceKey;
use threadlets_core::descriptor::{Descriptor, Half};

use super::request::Direction;
use crate::py::byte_buffer::ByteBuffer;

/// The handler that is called when a descriptor is ready.
#[derive(Debug)]
pub(crate) enum Handler {
    /// An `asyncio.Handle`, called for as long as the descriptor is ready.
    Callback(Py<PyAny>),
    /// An `Acceptor`, which queues its own requests until nothing is left to accept.
    Acceptor(Py<PyAny>),
    /// A `Datagrams`, which queues its own requests until nothing is left to receive.
    Datagrams(Py<PyAny>),
}

impl Handler {
    pub(crate) fn object(&self) -> &Py<PyAny> {
        match self {
            Self::Callback(object) | Self::Acceptor(object) | Self::Datagrams(object) => object,
        }
    }
}

/// What an operation does, and with which memory.
#[derive(Debug)]
pub(crate) enum SockOpKind {
    Receive { n_bytes_max: usize },
    ReceiveInto { buffer: ByteBuffer },
    SendAll { buffer: ByteBuffer, n_sent: usize },
}

/// An operation that waits for its socket.
#[derive(Debug)]
pub(crate) struct SockOp {
    pub(crate) kind: SockOpKind,
    pub(crate) future: Py<PyAny>,
    /// Keeps the socket object, and with it the descriptor, while the operation waits.
    pub(crate) sock: Py<PyAny>,
}

#[derive(Debug)]
pub(crate) struct DescriptorEntry {
    pub(crate) key: SourceKey,
    pub(crate) descriptor: Descriptor<Handler, SockOp>,
    /// A weak reference to the socket object whose operations registered the descriptor. If
    /// another socket object has the same number, the number was closed and opened anew.
    pub(crate) owner: Option<Py<PyAny>>,
    /// The objects given to `add_reader` and to `add_writer`, if they were not numbers. The entry is
    /// found by them once they are closed and have no number any more.
    pub(crate) files: [Option<Py<PyAny>>; 2],
    /// The kernel refuses to watch the descriptor at present, and the loop has reported that.
    pub(crate) is_refused: bool,
}

impl DescriptorEntry {
    pub(crate) fn half(&mut self, direction: Direction) -> &mut Half<Handler, SockOp> {
        match direction {
            Direction::Read => &mut self.descriptor.read,
            Direction::Write => &mut self.descriptor.write,
        }
    }

    /// Remember the object that a handler was set for; returns the previous one.
    pub(crate) fn remember(&mut self, direction: Direction, file: Py<PyAny>) -> Option<Py<PyAny>> {
        self.files[direction as usize].replace(file)
    }

    /// Whether a handler was set for this very object.
    pub(crate) fn is_of(&self, file: &Bound<'_, PyAny>) -> bool {
        self.files.iter().flatten().any(|it| it.is(file))
    }
}

/// The descriptors of one loop, by number.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    pub(crate) by_fd: HashMap<i32, DescriptorEntry>,
    /// Descriptors whose readiness must be asked for again before the next poll, because a
    /// callback may not have taken everything.
    pub(crate) to_rearm: Vec<i32>,
}

/// A descriptor, its reader and its writer.
pub(crate) type Handlers = (i32, Option<Py<PyAny>>, Option<Py<PyAny>>);

impl Descriptors {
    /// The descriptors with a handler, each with its reader and its writer.
    pub(crate) fn handlers(&self, py: Python<'_>) -> Vec<Handlers> {
        let handler = |half: &Half<Handler, SockOp>| {
            half.handler.as_ref().map(|handler| handler.object().clone_ref(py))
        };
        let handled = self.by_fd.iter().filter(|(_, it)| !it.descriptor.is_unhandled());
        handled
            .map(|(fd, it)| (*fd, handler(&it.descriptor.read), handler(&it.descriptor.write)))
            .collect()
    }

    /// The waiting operations of one direction of a descriptor.
    pub(crate) fn operations(
        &mut self,
        fd: i32,
        direction: Direction,
    ) -> Option<&mut VecDeque<SockOp>> {
        self.by_fd.get_mut(&fd).map(|entry| &mut entry.half(direction).waiting)
    }

    pub(crate) fn entry(&mut self, fd: i32, key: SourceKey) -> &mut DescriptorEntry {
        self.by_fd.entry(fd).or_insert_with(|| DescriptorEntry {
            key,
            descriptor: Descriptor::new(fd),
            owner: None,
            files: [None, None],
            is_refused: false,
        })
    }

    /// How many entries nothing waits for: they were made for operations, and their sockets may be closed.
    pub(crate) fn n_unused(&self) -> usize {
        self.by_fd.values().filter(|it| it.descriptor.is_unused()).count()
    }

    /// Visit what the entries refer to, for the cycle collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for entry in self.by_fd.values() {
            for half in [&entry.descriptor.read, &entry.descriptor.write] {
                if let Some(handler) = &half.handler {
                    visit.call(handler.object())?;
                }
                half.waiting.iter().try_for_each(|operation| {
                    visit.call(&operation.future)?;
                    visit.call(&operation.sock)
                })?;
            }
            visit.call(&entry.owner)?;
            entry.files.iter().try_for_each(|it| visit.call(it))?;
        }
        Ok(())
    }
}
