//! Memory that Python lends: the bytes of any object with the buffer protocol, for one operation
//! (`ByteBuffer`) or until they are sent (`Chunk`).

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use super::memory;

/// An exported, contiguous buffer, seen as bytes.
///
/// Slices of it live only while the GIL is held and no Python code runs, so that nothing else can
/// write to the memory meanwhile.
#[derive(Debug)]
pub(crate) struct ByteBuffer(PyUntypedBuffer);

impl ByteBuffer {
    /// The buffer of `object`, for reading.
    pub(crate) fn readable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("the buffer is not contiguous; pass bytes(buffer)"));
        }
        Ok(Self(buffer))
    }

    /// The buffer of `object`, for reading and writing.
    pub(crate) fn writable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = Self::readable(object)?;
        if buffer.0.readonly() {
            return Err(PyTypeError::new_err("the buffer is read-only; pass a writable one"));
        }
        Ok(buffer)
    }

    /// Where the bytes are, and how many.
    pub(crate) fn memory(&self) -> (*mut u8, usize) {
        (self.0.buf_ptr().cast(), self.0.len_bytes())
    }

    /// The bytes.
    pub(crate) fn bytes<'a>(&'a self, _py: Python<'a>) -> &'a [u8] {
        if self.0.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the memory is contiguous (checked when made), exported for as long as `self`
        // lives, and not written to while the holder of this slice holds the GIL.
        unsafe { std::slice::from_raw_parts(self.0.buf_ptr().cast::<u8>(), self.0.len_bytes()) }
    }

    /// The bytes, to be filled.
    pub(crate) fn bytes_mut<'a>(&'a mut self, _py: Python<'a>) -> &'a mut [u8] {
        if self.0.readonly() || self.0.len_bytes() == 0 {
            return &mut [];
        }
        // SAFETY: as above; the memory is writable, and the exclusive borrow keeps this slice the
        // only one that we hand out.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf_ptr().cast::<u8>(), self.0.len_bytes()) }
    }
}

/// Unsent bytes: shared if they are immutable, copied otherwise.
#[derive(Debug)]
pub(crate) enum Chunk {
    Shared(PyBackedBytes),
    Copied(Vec<u8>),
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Copied(bytes) => bytes,
        }
    }
}

impl Chunk {
    /// A chunk that shares immutable bytes.
    pub(crate) fn share(bytes: &Bound<'_, PyBytes>) -> Self {
        Self::Shared(PyBackedBytes::from(bytes.clone()))
    }

    /// A chunk with a copy of the bytes: their owner may change them as soon as the call returns.
    pub(crate) fn copy(bytes: &[u8]) -> PyResult<Self> {
        memory::copy(bytes, 0).map(Self::Copied)
    }
}

/// Pass the bytes of a bytes-like object to `use_bytes`.
pub(crate) fn with_bytes<R>(
    data: &Bound<'_, PyAny>,
    use_bytes: impl FnOnce(&[u8]) -> PyResult<R>,
) -> PyResult<R> {
    if let Ok(buffer) = ByteBuffer::readable(data) {
        return use_bytes(buffer.bytes(data.py()));
    }
    // Either a memoryview with steps, which is not contiguous, or an object without a buffer, which is
    // refused here.
    let copy = PyMemoryView::from(data)?.call_method0(intern!(data.py(), "tobytes"))?;
    use_bytes(copy.cast::<PyBytes>()?.as_bytes())
}

/// Raise a `TypeError` unless `data` is bytes, bytearray or a memoryview, as transports write them.
pub(crate) fn check_bytes_like(data: &Bound<'_, PyAny>) -> PyResult<()> {
    let is_bytes_like = data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>();
    if is_bytes_like {
        return Ok(());
    }
    let name = data.get_type().name()?;
    let message = format!("data argument must be a bytes-like object, not '{name}'");
    Err(PyTypeError::new_err(message))
}
