//! Arguments of a run: converts Python objects to paths, numbers, addresses and lent memory.

use std::ffi::CString;
use std::net::SocketAddr;

use pyo3::exceptions::{PyBufferError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyTuple};
use threadlets_core::clock;
use threadlets_core::mpsc_queue::MpscQueue;
use threadlets_core::syslet::{Lent, Memory, Run, SocketAddress};

use crate::py::byte_buffer::ByteBuffer;
use crate::py::memory;

/// The kind of argument that a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParameterKind {
    Int,
    Fd,
    Seconds,
    Path,
    Readable,
    Writable,
    Address,
}

impl ParameterKind {
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "int" => Self::Int,
            "fd" => Self::Fd,
            "seconds" => Self::Seconds,
            "path" => Self::Path,
            "readable" => Self::Readable,
            "writable" => Self::Writable,
            "address" => Self::Address,
            _ => return None,
        })
    }

    /// Whether the parameter fills an object rather than a variable.
    pub(crate) fn is_object(self) -> bool {
        matches!(self, Self::Path | Self::Readable | Self::Writable | Self::Address)
    }
}

/// A parameter of a program, and the slot or object that its argument goes to.
#[derive(Debug)]
pub(crate) struct Parameter {
    pub(crate) name: Py<PyString>,
    pub(crate) kind: ParameterKind,
    pub(crate) index: u16,
    pub(crate) default: Option<Py<PyAny>>,
}

impl Parameter {
    /// Set the parameter's argument in a run.
    pub(crate) fn fill(&self, run: &mut Run, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = value.py();
        let filled = match self.kind {
            ParameterKind::Int => integer(value).map(|it| run.set_slot(self.index, it)),
            ParameterKind::Fd => {
                descriptor(value).map(|it| run.set_slot(self.index, i64::from(it)))
            }
            ParameterKind::Seconds => seconds(value).map(|it| run.set_slot(self.index, it)),
            ParameterKind::Path => {
                path(value).map(|it| run.set_object(self.index, Memory::Path(it)))
            }
            ParameterKind::Readable => lend(value, false).map(|it| run.set_object(self.index, it)),
            ParameterKind::Writable => lend(value, true).map(|it| run.set_object(self.index, it)),
            ParameterKind::Address => {
                address(value).map(|it| run.set_object(self.index, Memory::Address(Box::new(it))))
            }
        };
        filled.map_err(|error| self.name_argument(py, error))
    }

    /// Add the argument's name to an error.
    #[cold]
    fn name_argument(&self, py: Python<'_>, error: PyErr) -> PyErr {
        let its_type = error.get_type(py);
        let is_plain = its_type.is(py.get_type::<PyTypeError>())
            || its_type.is(py.get_type::<PyValueError>())
            || its_type.is(py.get_type::<PyOverflowError>())
            || its_type.is(py.get_type::<PyBufferError>());
        if !is_plain {
            return error;
        }
        let message = format!("argument '{}': {}", self.name.bind(py), error.value(py));
        let named = PyErr::from_type(its_type, (message,));
        named.set_cause(py, error.cause(py));
        named
    }
}

fn integer(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    value.extract::<i64>().map_err(|error| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            return error;
        }
        wrong_type("an int", value)
    })
}

#[cold]
fn wrong_type(wanted: &str, value: &Bound<'_, PyAny>) -> PyErr {
    let name = value.get_type().name().map_or_else(|_| "?".to_owned(), |it| it.to_string());
    PyTypeError::new_err(format!("expected {wanted}, not '{name}'"))
}

/// A descriptor's number, from an int or from an object with `fileno()`.
pub(crate) fn descriptor(value: &Bound<'_, PyAny>) -> PyResult<i32> {
    if let Ok(fd) = value.extract::<i32>() {
        return Ok(fd);
    }
    let Ok(method) = value.getattr(intern!(value.py(), "fileno")) else {
        return Err(wrong_type("a descriptor (an int or an object with fileno())", value));
    };
    method.call0()?.extract()
}

fn seconds(value: &Bound<'_, PyAny>) -> PyResult<i64> {
    let seconds: f64 = value.extract().map_err(|_| wrong_type("a number of seconds", value))?;
    if seconds.is_nan() {
        return Err(PyValueError::new_err("the number of seconds is not a number"));
    }
    Ok(i64::try_from(clock::deadline_ns(seconds)).unwrap_or(i64::MAX))
}

/// A path as the kernel reads it.
pub(crate) fn path(value: &Bound<'_, PyAny>) -> PyResult<CString> {
    // Not all strings are valid UTF-8: those that came from other bytes take the slow path, and so do those
    // with zeros in them, which it refuses.
    if let Ok(text) = value.cast_exact::<PyString>()
        && filesystem_is_utf8(value.py())
        && let Ok(text) = text.to_str()
        && !text.as_bytes().contains(&0)
    {
        return c_string(text.as_bytes());
    }
    let mut encoded: *mut ffi::PyObject = std::ptr::null_mut();
    // SAFETY: the converter leaves a new reference to a bytes object, or an exception.
    let encoded = unsafe {
        if ffi::PyUnicode_FSConverter(value.as_ptr(), (&raw mut encoded).cast()) == 0 {
            return Err(PyErr::fetch(value.py()));
        }
        Bound::from_owned_ptr(value.py(), encoded).cast_into_unchecked::<PyBytes>()
    };
    c_string(encoded.as_bytes())
}

/// A copy of the bytes, with a zero after them.
fn c_string(bytes: &[u8]) -> PyResult<CString> {
    let copy = memory::copy(bytes, 1)?;
    CString::new(copy).map_err(|_| PyValueError::new_err("embedded null byte"))
}

fn filesystem_is_utf8(py: Python<'_>) -> bool {
    static IS_UTF8: pyo3::sync::PyOnceLock<bool> = pyo3::sync::PyOnceLock::new();
    *IS_UTF8.get_or_init(py, || {
        let name = py.import("sys").and_then(|sys| sys.call_method0("getfilesystemencoding"));
        name.and_then(|it| it.extract::<String>()).is_ok_and(|it| it == "utf-8")
    })
}

/// Lend an object's memory to a run.
fn lend(value: &Bound<'_, PyAny>, writable: bool) -> PyResult<Memory> {
    let buffer = if writable { ByteBuffer::writable(value) } else { ByteBuffer::readable(value) };
    let buffer = buffer.map_err(|error| {
        if has_buffer(value) {
            return error;
        }
        match (writable, value.is_instance_of::<PyInt>()) {
            (true, true) => PyTypeError::new_err(
                "expected writable memory to read into, not 'int'; for a size, annotate the \
                 parameter of the syslet with `: int`",
            ),
            (true, false) => wrong_type("writable memory", value),
            (false, _) => wrong_type("a bytes-like object", value),
        }
    })?;
    let (start, len) = buffer.memory();
    // SAFETY: the buffer keeps the memory exported, and `writable` is what the program asks for. Other
    // Python code may see or make changes meanwhile, as with any buffer that is read into.
    Ok(Memory::Lent(unsafe { Lent::new(start, len, Box::new(Kept(Some(buffer)))) }))
}

/// Whether the object has the buffer protocol at all.
fn has_buffer(value: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the object is alive; only its type is read.
    unsafe { ffi::PyObject_CheckBuffer(value.as_ptr()) != 0 }
}

/// Exported memory that a thread without the GIL may drop.
struct Kept(Option<ByteBuffer>);

/// Buffers that threads without the GIL have dropped. Without a lock: a thread that pushes may be missing
/// in the child of a fork.
static DROPPED_BUFFERS: MpscQueue<ByteBuffer> = MpscQueue::new();

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: any thread may ask whether it holds the GIL.
        if unsafe { ffi::PyGILState_Check() } == 0
            && let Some(buffer) = self.0.take()
        {
            // It cannot fail: the queue is never closed.
            let _ = DROPPED_BUFFERS.push(buffer);
        }
    }
}

/// Release the buffers that threads without the GIL have dropped.
pub(crate) fn release_dropped_buffers(_py: Python<'_>) {
    drop(DROPPED_BUFFERS.take());
}

/// A socket address as the kernel reads it: `(host, port, …)` with a literal host, or the path of a
/// Unix socket.
pub(crate) fn address(value: &Bound<'_, PyAny>) -> PyResult<SocketAddress> {
    let Ok(tuple) = value.cast::<PyTuple>() else {
        return unix_address(value);
    };
    let (host, port) = match tuple.len() {
        2..=4 => (tuple.get_item(0)?, tuple.get_item(1)?),
        _ => return Err(wrong_type("an address (a tuple of host and port, or a path)", value)),
    };
    let (host, port): (String, u16) = (host.extract()?, port.extract()?);
    let ip: std::net::IpAddr = host.parse().map_err(|_| {
        PyValueError::new_err(format!(
            "'{host}' is not an IP address, and programs look up no names; use socket.getaddrinfo()"
        ))
    })?;
    let optional = |idx: usize| match tuple.get_item(idx) {
        Ok(number) => number.extract::<u32>(),
        Err(_) => Ok(0),
    };
    let (flowinfo, scope_id) = (optional(2)?, optional(3)?);
    let address = match SocketAddr::new(ip, port) {
        SocketAddr::V6(mut address) => {
            address.set_flowinfo(flowinfo.to_be());
            address.set_scope_id(scope_id);
            SocketAddr::V6(address)
        }
        address => address,
    };
    Ok(SocketAddress::from_internet(&address))
}

fn unix_address(value: &Bound<'_, PyAny>) -> PyResult<SocketAddress> {
    let is_path = value.is_instance_of::<PyString>() || value.is_instance_of::<PyBytes>();
    if !is_path && !value.hasattr(intern!(value.py(), "__fspath__"))? {
        return Err(wrong_type("an address (a tuple of host and port, or a path)", value));
    }
    let name = match value.cast::<PyBytes>() {
        // A name in the abstract namespace begins with a zero byte.
        Ok(bytes) => memory::copy(bytes.as_bytes(), 0)?,
        Err(_) => path(value)?.into_bytes(),
    };
    SocketAddress::from_unix(&name).ok_or_else(|| PyValueError::new_err("AF_UNIX path too long"))
}
