//! Cells that the GIL guards.

use std::cell::{Cell, RefCell};
use std::{fmt, mem};

use pyo3::PyTraverseError;
use pyo3::Python;
use pyo3::gc::PyVisit;

/// State that any thread reads and writes while it holds the GIL.
///
/// Inside [`GilCell::with`] no Python code may run and no reference may be dropped whose finalizer could
/// run Python code: that code could ask for the same state. A violation panics instead of corrupting
/// anything. Return a value that has to be dropped from the closure, and drop it outside.
#[derive(Debug)]
pub(crate) struct GilCell<T>(RefCell<T>);

// SAFETY: every access needs a `Python` token, which only the thread that holds the GIL has, and a borrow
// does not outlive the call it was made for. Were the GIL released within a borrow, the borrow flag would
// still refuse any other borrow.
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
    /// A state in use is skipped: the collector then takes its referents for reachable, which is safe, and
    /// visits them the next time.
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

/// One value that is copied, replaced or taken with the GIL held, and never borrowed: it costs no
/// more memory than the value, and cannot be in use twice.
///
/// Methods return the previous value, for the caller to drop once nothing depends on the slot.
#[derive(Default)]
#[repr(transparent)]
pub(crate) struct GilSlot<T>(Cell<T>);

impl<T> fmt::Debug for GilSlot<T> {
    /// Omits the value, which can only be read with the GIL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GilSlot").finish_non_exhaustive()
    }
}

// SAFETY: as for `GilCell`; a value is either in the slot, or owned by the caller that took it.
unsafe impl<T: Send> Sync for GilSlot<T> {}

impl<T> GilSlot<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Cell::new(value))
    }

    /// Replace the value; returns the previous one.
    #[inline]
    pub(crate) fn replace(&self, _py: Python<'_>, value: T) -> T {
        self.0.replace(value)
    }
}

impl<T: Copy> GilSlot<T> {
    #[inline]
    pub(crate) fn get(&self, _py: Python<'_>) -> T {
        self.0.get()
    }

    #[inline]
    pub(crate) fn set(&self, _py: Python<'_>, value: T) {
        self.0.set(value);
    }
}

impl<T: Default> GilSlot<T> {
    #[inline]
    pub(crate) fn take(&self, _py: Python<'_>) -> T {
        self.0.take()
    }

    /// Look at the value, or change it. A nested access finds the default meanwhile.
    #[inline]
    pub(crate) fn with<R>(&self, _py: Python<'_>, look: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.0.take();
        let result = look(&mut value);
        let meanwhile = self.0.replace(value);
        // A value that was put in meanwhile would be lost.
        assert_eq!(
            mem::discriminant(&T::default()),
            mem::discriminant(&meanwhile),
            "a value was put into a slot during `with`",
        );
        result
    }

    /// Visit what the value refers to, for the cycle collector.
    pub(crate) fn traverse(
        &self,
        _visit: &PyVisit<'_>,
        visit_value: impl FnOnce(&T) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        // Taken out and put back, as in `with`; the collector holds the GIL but has no token.
        let value = self.0.take();
        let result = visit_value(&value);
        drop(self.0.replace(value));
        result
    }
}
