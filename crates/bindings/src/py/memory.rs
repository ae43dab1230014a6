//! Allocations of a size that a peer or a program chooses: without enough memory the caller gets a
//! `MemoryError`, and the loop goes on.
//!
//! PyO3's constructors of bytes and lists panic instead, and Rust's collections abort the process.

use pyo3::exceptions::PyMemoryError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList};

/// A bytes object with this content.
pub(crate) fn bytes<'py>(py: Python<'py>, content: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    // SAFETY: the GIL is held, and `content` has the bytes that are copied. The result is a new reference
    // to a bytes object, or null with an exception set. (A slice has no more than `isize::MAX` bytes.)
    unsafe {
        let start = content.as_ptr().cast();
        let made = ffi::PyBytes_FromStringAndSize(start, content.len() as ffi::Py_ssize_t);
        Ok(Bound::from_owned_ptr_or_err(py, made)?.cast_into_unchecked())
    }
}

/// Remove the first `n_bytes` of a bytearray, which has as many; what is left is not moved.
pub(crate) fn remove_front(bytes: &Bound<'_, PyByteArray>, n_bytes: usize) -> PyResult<()> {
    // SAFETY: the GIL is held, and the object is alive. Fails with an exception set.
    let failed =
        unsafe { ffi::PySequence_DelSlice(bytes.as_ptr(), 0, n_bytes as ffi::Py_ssize_t) } < 0;
    if failed { Err(PyErr::fetch(bytes.py())) } else { Ok(()) }
}

/// A list of these items.
pub(crate) fn list<'py, T: IntoPyObject<'py>>(
    py: Python<'py>,
    items: impl IntoIterator<Item = T>,
) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    items.into_iter().try_for_each(|it| list.append(it))?;
    Ok(list)
}

/// A copy of these items, with room for `n_more`.
pub(crate) fn copy<T: Copy>(items: &[T], n_more: usize) -> PyResult<Vec<T>> {
    let mut copy = room(items.len().saturating_add(n_more))?;
    copy.extend_from_slice(items);
    Ok(copy)
}

/// An empty vector with room for `n` items.
pub(crate) fn room<T>(n: usize) -> PyResult<Vec<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(n).map_err(|_| no_memory())?;
    Ok(room)
}

/// A `MemoryError`.
pub(crate) fn no_memory() -> PyErr {
    PyMemoryError::new_err(())
}
