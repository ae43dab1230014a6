//! Memory that a run has filled, handed to Python without a copy.

use std::ffi::{c_int, c_void};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use threadlets_core::buffers::Lease;

use crate::py::gil_cell::GilCell;

enum LentMemory {
    Pooled(Lease),
    Grown(Vec<u8>),
}

/// Memory that a pool of buffers has lent, filled by a syslet. It goes back when it is not referenced any
/// more, or when it is released.
///
/// It has the buffer protocol: `memoryview(lease)`, `numpy.frombuffer(lease, …)`, `bytes(lease)`.
#[pyclass(frozen, module = "threadlets", name = "Lease")]
pub(crate) struct LeasedMemory {
    memory: GilCell<Option<LentMemory>>,
    start: usize,
    len: usize,
    n_exports: GilCell<usize>,
}

impl LeasedMemory {
    pub(crate) fn pooled(lease: Lease, start: usize, len: usize) -> Self {
        let start = start.min(lease.len());
        let room = lease.len() - start;
        Self::new(LentMemory::Pooled(lease), start, len.min(room))
    }

    pub(crate) fn grown(bytes: Vec<u8>, start: usize, len: usize) -> Self {
        let start = start.min(bytes.len());
        let room = bytes.len() - start;
        Self::new(LentMemory::Grown(bytes), start, len.min(room))
    }

    fn new(memory: LentMemory, start: usize, len: usize) -> Self {
        Self { memory: GilCell::new(Some(memory)), start, len, n_exports: GilCell::new(0) }
    }
}

#[pymethods]
impl LeasedMemory {
    /// Give the memory back now.
    ///
    /// Raises:
    ///     BufferError: a memoryview or an array of it is still there.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        if self.n_exports.with(py, |it| *it) > 0 {
            return Err(PyBufferError::new_err(
                "the lease is in use; release its memoryviews and arrays first",
            ));
        }
        drop(self.memory.with(py, Option::take));
        Ok(())
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _type: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        self.release(py)
    }

    fn __len__(&self) -> usize {
        self.len
    }

    fn __repr__(&self) -> String {
        format!("<Lease of {} bytes>", self.len)
    }

    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let start = this.memory.with(py, |memory| match memory {
            Some(LentMemory::Pooled(lease)) => Some(lease.as_mut_ptr()),
            Some(LentMemory::Grown(bytes)) => Some(bytes.as_mut_ptr()),
            None => None,
        });
        let start = start.ok_or_else(|| PyBufferError::new_err("the lease was released"))?;
        // SAFETY: the memory stays where it is while it is exported, which `n_exports` counts; the
        // interpreter passes a view to be filled in.
        let filled = unsafe {
            let start = start.add(this.start).cast::<c_void>();
            let len = this.len as ffi::Py_ssize_t;
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 0, flags)
        };
        if filled != 0 {
            return Err(PyErr::fetch(py));
        }
        this.n_exports.with(py, |it| *it += 1);
        Ok(())
    }

    unsafe fn __releasebuffer__(&self, py: Python<'_>, _view: *mut ffi::Py_buffer) {
        self.n_exports.with(py, |it| *it -= 1);
    }
}
