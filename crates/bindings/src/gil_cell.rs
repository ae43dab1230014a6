//! Cells whose lock is the GIL.

use std::cell::{Cell, RefCell};
use std::{fmt, mem};

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

/// One value that is copied, replaced or taken with the GIL held, and never borrowed: it costs no
/// more memory than the value, and cannot be in use twice.
///
/// What was in it is returned, to be dropped when nothing depends on the slot any more.
#[derive(Default)]
#[repr(transparent)]
pub(crate) struct GilSlot<T>(Cell<T>);

impl<T> fmt::Debug for GilSlot<T> {
    /// What is in it may only be looked at with the GIL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GilSlot").finish_non_exhaustive()
    }
}

// SAFETY: as for `GilCell`; a value is in the slot, or somebody's own.
unsafe impl<T: Send> Sync for GilSlot<T> {}

impl<T> GilSlot<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Cell::new(value))
    }

    /// Put a value in the place of another.
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

    /// Look at the value, or change it. Whoever looks again meanwhile finds the default.
    #[inline]
    pub(crate) fn with<R>(&self, _py: Python<'_>, look: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.0.take();
        let result = look(&mut value);
        let meanwhile = self.0.replace(value);
        // It would be lost.
        assert_eq!(
            mem::discriminant(&T::default()),
            mem::discriminant(&meanwhile),
            "nobody may put a value into a slot that is being looked at",
        );
        result
    }

    /// Visit what the value refers to, for the cycle collector.
    pub(crate) fn traverse(
        &self,
        _visit: &PyVisit<'_>,
        visit_value: impl FnOnce(&T) -> Result<(), PyTraverseError>,
    ) -> Result<(), PyTraverseError> {
        // As in `with`; the collector holds the GIL and has no token.
        let value = self.0.take();
        let result = visit_value(&value);
        drop(self.0.replace(value));
        result
    }
}
