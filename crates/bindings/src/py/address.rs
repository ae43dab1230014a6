//! Socket addresses as Python's `socket` module writes them.

use std::net::SocketAddr;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use threadlets_core::socket::{self, Address, SocketFd};

use super::error;

/// `(host, port)`, `(host, port, flowinfo, scope_id)`, a path, or the bytes of an abstract name.
pub(crate) fn to_python<'py>(py: Python<'py>, address: &Address) -> PyResult<Bound<'py, PyAny>> {
    Ok(match address {
        Address::Internet(SocketAddr::V4(address)) => {
            (address.ip().to_string(), address.port()).into_pyobject(py)?.into_any()
        }
        Address::Internet(SocketAddr::V6(address)) => {
            let (host, port) = (address.ip().to_string(), address.port());
            // The kernel keeps the flow label in network order; Python shows it in the host's.
            let flowinfo = u32::from_be(address.flowinfo());
            (host, port, flowinfo, address.scope_id()).into_pyobject(py)?.into_any()
        }
        Address::Path(path) => {
            py.import("os")?.call_method1("fsdecode", (PyBytes::new(py, path),))?
        }
        Address::Abstract(name) => {
            let with_zero: Vec<u8> = std::iter::once(0).chain(name.iter().copied()).collect();
            PyBytes::new(py, &with_zero).into_any()
        }
        Address::Unnamed => PyString::new(py, "").into_any(),
    })
}

/// The address to which the socket `fd` is bound, as `socket.getsockname()` gives it.
#[pyfunction]
pub(crate) fn sockname(py: Python<'_>, fd: i32) -> PyResult<Bound<'_, PyAny>> {
    named(py, fd, "getsockname", socket::local_address)
}

/// The address to which the socket `fd` is connected, as `socket.getpeername()` gives it.
#[pyfunction]
pub(crate) fn peername(py: Python<'_>, fd: i32) -> PyResult<Bound<'_, PyAny>> {
    named(py, fd, "getpeername", socket::peer_address)
}

fn named<'py>(
    py: Python<'py>,
    fd: i32,
    operation: &'static str,
    ask: impl FnOnce(SocketFd) -> threadlets_core::Result<Address>,
) -> PyResult<Bound<'py, PyAny>> {
    if fd < 0 {
        return Err(error::to_python(threadlets_core::Error::bad_descriptor(operation)));
    }
    to_python(py, &ask(SocketFd::new(fd)).map_err(error::to_python)?)
}
