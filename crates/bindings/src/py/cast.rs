//! Objects whose classes are known from where they are kept.

use pyo3::PyTypeCheck;
use pyo3::prelude::*;

/// The object as an instance of the class that it is known to have.
///
/// Panics if it has another: it was kept in the wrong place then.
#[inline]
pub(crate) fn known<'a, 'py, T: PyTypeCheck>(object: &'a Bound<'py, PyAny>) -> &'a Bound<'py, T> {
    object.cast().expect("an object is of the class that its place stands for")
}
