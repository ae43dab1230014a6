//! Memory that Python lends: contiguous bytes of any object with the buffer protocol.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;

/// An exported, contiguous buffer, seen as bytes.
///
/// Slices of it live only while the GIL is held and no Python code runs: nobody else can write
/// to the memory meanwhile.
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

    /// The bytes.
    pub(crate) fn bytes<'a>(&'a self, _py: Python<'a>) -> &'a [u8] {
        if self.0.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the memory is contiguous (checked when made), exported for as long as `self`
        // lives, and not written to while the GIL is held by whoever holds this slice.
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
