//! Queries of a connection: its names, its state, its unsent bytes, its water marks.

use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use super::stream::Stream;
use crate::py::address;

#[pymethods]
impl Stream {
    /// The context that was given to the connection; None: its callbacks run in a copy of another.
    fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.context.as_given(py)
    }

    /// The number of the descriptor.
    fn fileno(&self, py: Python<'_>) -> i32 {
        self.state.with(py, |state| state.io.fd().raw())
    }

    /// The peer's address, of an accepted connection.
    fn peername<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.peer.as_ref().map(|peer| address::to_python(py, peer)).transpose()
    }

    /// Whether data is received.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.io.is_reading())
    }

    /// Whether the connection is closing or over.
    fn is_closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.io.is_closing())
    }

    /// Whether reading was paused, and more could come.
    fn is_reading_paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.io.is_reading_paused())
    }

    /// Whether the writing half was ended.
    fn is_writing_ended(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.io.is_writing_ended())
    }

    /// 0 until the connection is over; then 1, and one more for each write that came too late.
    fn n_lost(&self, py: Python<'_>) -> u32 {
        self.state.with(py, |state| u32::from(state.io.is_over()) + state.n_writes_lost)
    }

    /// A copy of the unsent bytes.
    fn unsent<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        let n_unsent = self.state.with(py, |state| state.io.n_unsent());
        PyByteArray::new_with(py, n_unsent, |copy| {
            let mut rest = &mut *copy;
            self.state.with(py, |state| {
                for chunk in state.io.unsent() {
                    let (piece, after) = rest.split_at_mut(chunk.len());
                    piece.copy_from_slice(chunk);
                    rest = after;
                }
            });
            Ok(())
        })
    }

    /// Whether the protocol was asked to pause writing.
    fn is_writing_paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.io.is_writing_paused())
    }

    /// The number of unsent bytes.
    fn get_write_buffer_size(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.io.n_unsent())
    }

    /// The water marks in bytes: low, high.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.state.with(py, |state| state.io.limits())
    }

    /// Set the water marks in bytes; return whether the protocol is to be paused now.
    fn set_write_buffer_limits(&self, py: Python<'_>, low: usize, high: usize) -> bool {
        self.state.with(py, |state| {
            state.io.set_limits(low, high);
            state.io.must_pause_writes()
        })
    }
}
