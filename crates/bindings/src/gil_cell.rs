//! A cell whose lock is the GIL.

use std::cell::RefCell;

use pyo3::PyTraverseError;
use pyo3::Python;
use pyo3::gc::PyVisit;

/// State that is read and written with the GIL held, from whichever thread holds it.
///
/// Inside [`GilCell::with`] no Python code may run and no reference may be dropped whose
/// finalizer could run Python code: that code could ask for the same state. A violation panics
/// instead of corrupting anything. What is to be dropped is returned out of the closure.
#[derive(Debug)]
pub(crate) struct GilCell<T>(RefCell<T>);

// SAFETY: every access needs a `Python` token, which only the thread that holds the GIL has, and
// a borrow does not outlive the call it was made for. Were the GIL released within a borrow, the
// borrow flag would still turn everybody else away.
unsafe impl<T: Send> Sync for GilCell<T> {}

impl<T: Default> Default for GilCell<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> GilCell<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Use the state.
    pub(crate) fn with<R>(&self, _py: Python<'_>, use_state: impl FnOnce(&mut T) -> R) -> R {
        use_state(&mut self.0.borrow_mut())
    }

    /// Visit what the state refers to, for the cycle collector.
    ///
    /// A state in use is skipped: the collector then takes its referents for reachable, which is
    /// safe, and finds them the next time.
    pub(crate) fn traverse(
        &self,
        _visit: &PyVisit<'_>,
        visit_state: impl FnOnce(&T) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        // The collector runs with the GIL held; it has no token because it must not call Python.
        match self.0.try_borrow() {
            Ok(state) => visit_state(&state),
            Err(_) => Ok(()),
        }
    }
}
