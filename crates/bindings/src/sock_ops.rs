//! The `sock_*` operations that carry bulk data: tried at once, and queued only if they would block.

use std::collections::VecDeque;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyValueError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::op::{self, SocketFd};

use crate::byte_buffer::ByteBuffer;
use crate::descriptors::Descriptors;
use crate::dispatcher::Dispatcher;
use crate::error::to_python;
use crate::memory;
use crate::task::any_future;

/// Which readiness an operation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

/// What an operation does, and with which memory.
#[derive(Debug)]
enum SockOpKind {
    Receive { n_bytes_max: usize },
    ReceiveInto { buffer: ByteBuffer },
    SendAll { buffer: ByteBuffer, n_sent: usize },
}

/// An operation that waits for its socket.
#[derive(Debug)]
pub(crate) struct SockOp {
    kind: SockOpKind,
    future: Py<PyAny>,
    /// Keeps the socket object, and with it the descriptor, while the operation waits.
    sock: Py<PyAny>,
}

impl SockOp {
    /// Whether its socket still has the descriptor `fd`.
    pub(crate) fn is_open(&self, py: Python<'_>, fd: i32) -> PyResult<bool> {
        Ok(self.sock.bind(py).call_method0(intern!(py, "fileno"))?.extract::<i32>()? == fd)
    }

    /// Fail the operation of a socket that was closed.
    pub(crate) fn fail_closed(self, py: Python<'_>) -> PyResult<()> {
        let future = self.future.bind(py);
        any_future::settle(future, Err(to_python(threadlets_core::Error::bad_descriptor("fileno"))))
    }

    /// Visit what the operation refers to, for the cycle collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.future)?;
        visit.call(&self.sock)
    }
}

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
                    let n_received = op::recv(fd, &mut buffer[..n_wanted])?;
                    Ok(n_received.map(|n| memory::bytes(py, &buffer[..n])))
                });
                let data = received?.map_err(to_python)?;
                data.map(|data| data.map(Bound::into_any)).transpose()
            }
            Self::ReceiveInto { buffer } => {
                let n_received = op::recv(fd, buffer.bytes_mut(py)).map_err(to_python)?;
                n_received.map(|n| Ok(n.into_pyobject(py)?.into_any())).transpose()
            }
            Self::SendAll { buffer, n_sent } => {
                let memory = buffer.bytes(py);
                while *n_sent < memory.len() {
                    match op::send(fd, &memory[*n_sent..]).map_err(to_python)? {
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
fn start<'py>(
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
    slf.call_method1(intern!(py, "_ensure_fd_no_transport"), (fd,))?;
    Descriptors::register_for_operations(this, sock, fd)?;
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
        if !operation.is_open(py, fd)? {
            operation.fail_closed(py)?;
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

#[pymethods]
impl Dispatcher {
    /// Receive up to `n_bytes_max` bytes: `(True, bytes)`, or `(False, future)`.
    fn _sock_recv<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        n_bytes_max: isize,
    ) -> PyResult<(bool, Bound<'py, PyAny>)> {
        let n_bytes_max = usize::try_from(n_bytes_max)
            .map_err(|_| PyValueError::new_err("negative buffersize in recv"))?;
        start(slf, sock, SockOpKind::Receive { n_bytes_max })
    }

    /// Receive into a writable buffer: `(True, n_bytes)`, or `(False, future)`.
    fn _sock_recv_into<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        buffer: &Bound<'py, PyAny>,
    ) -> PyResult<(bool, Bound<'py, PyAny>)> {
        let buffer = ByteBuffer::writable(buffer)?;
        start(slf, sock, SockOpKind::ReceiveInto { buffer })
    }

    /// Send all of `data`: `(True, None)`, or `(False, future)`.
    fn _sock_sendall<'py>(
        slf: &Bound<'py, Self>,
        sock: &Bound<'py, PyAny>,
        data: &Bound<'py, PyAny>,
    ) -> PyResult<(bool, Bound<'py, PyAny>)> {
        let buffer = ByteBuffer::readable(data)?;
        start(slf, sock, SockOpKind::SendAll { buffer, n_sent: 0 })
    }

    /// Forget the operation of a future that was cancelled, and release its buffer.
    fn _sock_withdraw(&self, fd: i32, future: &Bound<'_, PyAny>) {
        let py = future.py();
        for direction in [Direction::Read, Direction::Write] {
            let withdrawn = self.descriptors.with(py, |descriptors| {
                let waiting = descriptors.operations(fd, direction)?;
                let at = waiting.iter().position(|it| it.future.is(future))?;
                waiting.remove(at)
            });
            drop(withdrawn);
        }
    }
}
