//! The `sock_*` operations that carry bulk data: tried at once, and queued only if they would block.

use std::collections::VecDeque;

use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::socket::{self, SocketFd};

use super::descriptors;
use crate::dispatcher::descriptor_table::{SockOp, SockOpKind};
use crate::dispatcher::request::Direction;
use crate::dispatcher::{Dispatcher, hooks};
use crate::py::error::to_python;
use crate::py::memory;
use crate::task::any_future;

impl SockOpKind {
    fn direction(&self) -> Direction {
        match self {
            Self::Receive { .. } | Self::ReceiveInto { .. } => Direction::Read,
            Self::SendAll { .. } => Direction::Write,
        }
    }

    /// Try the operation; `None` when it would block.
    fn attempt<'py>(
        &mut self,
        py: Python<'py>,
        dispatcher: &Dispatcher,
        fd: SocketFd,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self {
            Self::Receive { n_bytes_max } => {
                let received = dispatcher.with_receive_buffer(py, |buffer| {
                    let n_wanted = buffer.len().min(*n_bytes_max);
                    let n_received = socket::recv(fd, &mut buffer[..n_wanted])?;
                    Ok(n_received.map(|n| memory::bytes(py, &buffer[..n])))
                });
                let data = received?.map_err(to_python)?;
                data.map(|data| data.map(Bound::into_any)).transpose()
            }
            Self::ReceiveInto { buffer } => {
                let n_received = socket::recv(fd, buffer.bytes_mut(py)).map_err(to_python)?;
                n_received.map(|n| Ok(n.into_pyobject(py)?.into_any())).transpose()
            }
            Self::SendAll { buffer, n_sent } => {
                let memory = buffer.bytes(py);
                while *n_sent < memory.len() {
                    match socket::send(fd, &memory[*n_sent..]).map_err(to_python)? {
                        Some(n) => *n_sent += n,
                        None => return Ok(None),
                    }
                }
                Ok(Some(py.None().into_bound(py)))
            }
        }
    }
}

/// Try a new operation: `(true, result)`, or `(false, future)` if it would block.
pub(crate) fn start<'py>(
    slf: &Bound<'py, Dispatcher>,
    sock: &Bound<'py, PyAny>,
    mut kind: SockOpKind,
) -> PyResult<(bool, Bound<'py, PyAny>)> {
    let py = slf.py();
    let this = slf.get();
    this.check_closed()?;
    let fd: i32 = sock.call_method0(intern!(py, "fileno"))?.extract()?;
    if fd < 0 {
        return Err(to_python(threadlets_core::Error::bad_descriptor("fileno")));
    }
    let direction = kind.direction();
    // Operations of one direction are served in order: a new one does not overtake.
    let would_overtake = this.descriptors.with(py, |descriptors| {
        descriptors.operations(fd, direction).is_some_and(|waiting| !waiting.is_empty())
    });
    if !would_overtake && let Some(result) = kind.attempt(py, this, SocketFd::new(fd))? {
        return Ok((true, result));
    }
    hooks::ensure_fd_no_transport(slf, fd)?;
    descriptors::register_for_operations(this, sock, fd)?;
    let future = any_future::make(slf)?;
    let operation = SockOp { kind, future: future.clone().unbind(), sock: sock.clone().unbind() };
    this.descriptors.with(py, |descriptors| {
        if let Some(waiting) = descriptors.operations(fd, direction) {
            waiting.push_back(operation);
        }
    });
    Ok((false, future))
}

/// Try the operations that wait on a descriptor again, in order, until one would block.
pub(crate) fn retry(slf: &Bound<'_, Dispatcher>, fd: i32, direction: Direction) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let next = || {
        this.descriptors.with(py, |it| it.operations(fd, direction).and_then(VecDeque::pop_front))
    };
    while let Some(mut operation) = next() {
        let future = operation.future.bind(py).clone();
        if any_future::is_done(&future)? {
            continue;
        }
        // The descriptor may have been closed since, and its number used again.
        if !descriptors::is_open(py, &operation, fd)? {
            descriptors::fail_operation(py, operation)?;
            continue;
        }
        match operation.kind.attempt(py, this, SocketFd::new(fd)) {
            Ok(Some(result)) => any_future::settle(&future, Ok(result.unbind()))?,
            Err(error) => any_future::settle(&future, Err(error))?,
            Ok(None) => {
                this.descriptors.with(py, |descriptors| {
                    if let Some(waiting) = descriptors.operations(fd, direction) {
                        waiting.push_front(operation);
                    }
                });
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Forget the operation of a future that was cancelled, and release its buffer.
pub(crate) fn withdraw(dispatcher: &Dispatcher, fd: i32, future: &Bound<'_, PyAny>) {
    let py = future.py();
    for direction in [Direction::Read, Direction::Write] {
        let withdrawn = dispatcher.descriptors.with(py, |descriptors| {
            let waiting = descriptors.operations(fd, direction)?;
            let at = waiting.iter().position(|it| it.future.is(future))?;
            waiting.remove(at)
        });
        drop(withdrawn);
    }
}
