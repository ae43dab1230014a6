//! The requests of a loop that have not ended, by the scopes that they belong to.
//!
//! A scope keeps its requests alive. The root, to which requests belong that were started in no scope, does
//! not: as in asyncio, a task lives only as long as it is referenced.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::ffi;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use threadlets_core::scopes::N_KINDS;
use threadlets_core::{MemberKey, ScopeKey, Scopes};

use crate::py::gil_cell::GilSlot;

/// The kinds of requests that scopes have, as the ledger counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberKind {
    Task = 0,
    Call = 1,
    Syslet = 2,
    Wait = 3,
}

impl MemberKind {
    /// The names of the kinds in a ledger.
    pub(crate) const NAMES: [&str; N_KINDS] = ["tasks", "calls", "syslets", "waits"];
}

/// What the loop's requests need of the scope that they belong to.
pub(crate) trait ScopeOwner: Send + Sync {
    /// Handle the end of a request that has left the scope; `is_last`: no other is left.
    fn request_ended(&self, request: &Bound<'_, PyAny>, is_last: bool) -> PyResult<()>;

    /// Whether the scope is cancelled, with all its requests.
    fn is_cancelled(&self, py: Python<'_>) -> bool;

    /// The scope's `Members`.
    fn members(&self, py: Python<'_>) -> Py<PyAny>;

    /// Visit what the owner refers to, for the cycle collector.
    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError>;
}

/// A request's key in its scope; `MemberKey::NONE` if it is in none.
pub(crate) type Membership = GilSlot<MemberKey>;

/// The requests of one loop, by their scopes.
#[derive(Default)]
pub(crate) struct Requests(Scopes<NonNull<ffi::PyObject>, Arc<dyn ScopeOwner>>);

// SAFETY: the pointers are used with the GIL held, and only while the requests are alive: a scope has a
// reference to each of its own, and a task of the root leaves before it is freed (`slots.rs`).
unsafe impl Send for Requests {}

/// A request that has left its scope.
pub(crate) struct Left {
    /// The scope's reference to the request, dropped with this; the root has none.
    _reference: Option<Py<PyAny>>,
    /// The owner of its scope, if that is to be told: the request has failed, or was the last one.
    pub(crate) owner: Option<Arc<dyn ScopeOwner>>,
    /// It was the last one of its scope.
    pub(crate) is_last: bool,
}

impl Requests {
    pub(crate) fn open(&mut self, owner: Arc<dyn ScopeOwner>) -> ScopeKey {
        self.0.open(owner)
    }

    /// Close a scope; returns its owner, and the requests that it kept alive.
    #[must_use = "dropping a reference may run Python code"]
    pub(crate) fn close(
        &mut self,
        py: Python<'_>,
        key: ScopeKey,
    ) -> (Option<Arc<dyn ScopeOwner>>, Vec<Py<PyAny>>) {
        let (owner, left) = self.0.close(key);
        (owner, left.into_iter().map(|it| owned(py, *self.0.value(it))).collect())
    }

    /// Add a new task to the root.
    pub(crate) fn join_root(&mut self, task: &Bound<'_, PyAny>, membership: &Membership) {
        let key = self.0.join(ScopeKey::ROOT, MemberKind::Task as usize, pointer(task));
        membership.set(task.py(), key);
    }

    /// Add a request that is in no scope to one, which keeps it alive.
    pub(crate) fn join(
        &mut self,
        scope: ScopeKey,
        kind: MemberKind,
        request: &Bound<'_, PyAny>,
        membership: &Membership,
    ) {
        let value = pointer(request);
        // SAFETY: the object is alive; `leave` and `close` give the reference back.
        unsafe { ffi::Py_INCREF(value.as_ptr()) };
        let key = self.0.join(scope, kind as usize, value);
        membership.set(request.py(), key);
    }

    /// Remove a request from its scope, if it has not left before; `has_failed`: with an exception.
    #[must_use = "dropping a reference may run Python code"]
    pub(crate) fn leave(
        &mut self,
        py: Python<'_>,
        membership: &Membership,
        has_failed: bool,
    ) -> Option<Left> {
        let key = membership.get(py);
        if key == MemberKey::NONE {
            return None;
        }
        membership.set(py, MemberKey::NONE);
        let (value, scope) = self.0.leave(key);
        if scope == ScopeKey::ROOT {
            return Some(Left { _reference: None, owner: None, is_last: false });
        }
        let is_last = self.0.is_empty(scope);
        let owner = self.0.owner(scope).filter(|_| has_failed || is_last).cloned();
        Some(Left { _reference: Some(owned(py, value)), owner, is_last })
    }

    /// The next request of a scope that was not cancelled yet; it counts as cancelled from now on.
    pub(crate) fn next_to_cancel<'py>(
        &mut self,
        py: Python<'py>,
        scope: ScopeKey,
    ) -> Option<Bound<'py, PyAny>> {
        self.0.next_to_cancel(scope).map(|&it| borrowed(py, it))
    }

    /// Note that a request was cancelled by other means than `next_to_cancel`.
    pub(crate) fn mark_cancelled(&mut self, py: Python<'_>, membership: &Membership) {
        let key = membership.get(py);
        if key != MemberKey::NONE {
            self.0.mark_cancelled(key);
        }
    }

    /// Have all requests of a scope count as not cancelled, so that they can be cancelled again.
    pub(crate) fn reset_cancelled(&mut self, scope: ScopeKey) {
        self.0.reset_cancelled(scope);
    }

    pub(crate) fn is_empty(&self, scope: ScopeKey) -> bool {
        self.0.is_empty(scope)
    }

    /// How many requests a scope has, or all scopes together, by kind.
    pub(crate) fn n_requests(&self, scope: Option<ScopeKey>) -> [usize; N_KINDS] {
        scope.map_or_else(|| self.0.n_all(), |scope| self.0.n_members(scope))
    }

    /// The requests of a scope, or of all.
    pub(crate) fn requests<'py>(
        &self,
        py: Python<'py>,
        scope: Option<ScopeKey>,
    ) -> Vec<Bound<'py, PyAny>> {
        match scope {
            Some(scope) => self.0.members(scope).map(|&it| borrowed(py, it)).collect(),
            None => self.0.all().map(|(_, &it)| borrowed(py, it)).collect(),
        }
    }

    /// The owner of the scope that a request belongs to; none for the root.
    pub(crate) fn owner_of(
        &self,
        py: Python<'_>,
        membership: &Membership,
    ) -> Option<Arc<dyn ScopeOwner>> {
        let key = membership.get(py);
        if key == MemberKey::NONE {
            return None;
        }
        self.0.owner(self.0.scope_of(key)).cloned()
    }

    /// Visit what is kept alive, for the cycle collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.owners().try_for_each(|it| it.visit(visit))?;
        let of_scopes = self.0.all().filter(|(scope, _)| *scope != ScopeKey::ROOT);
        for (_, &value) in of_scopes {
            // SAFETY: the scope has a reference, which this one stands for and does not give up. The
            // collector holds the GIL.
            let py = unsafe { Python::assume_attached() };
            // SAFETY: as above.
            let request =
                ManuallyDrop::new(unsafe { Bound::from_owned_ptr(py, value.as_ptr()).unbind() });
            visit.call(&*request)?;
        }
        Ok(())
    }
}

fn pointer(object: &Bound<'_, PyAny>) -> NonNull<ffi::PyObject> {
    NonNull::new(object.as_ptr()).expect("an object has an address")
}

/// A new reference to a request that is alive.
fn borrowed(py: Python<'_>, value: NonNull<ffi::PyObject>) -> Bound<'_, PyAny> {
    // SAFETY: a request that has joined is alive.
    unsafe { Bound::from_borrowed_ptr(py, value.as_ptr()) }
}

/// A scope's own reference to a request, which is given up.
fn owned(py: Python<'_>, value: NonNull<ffi::PyObject>) -> Py<PyAny> {
    // SAFETY: as in `borrowed`; the reference was made by `join`.
    unsafe { Bound::from_owned_ptr(py, value.as_ptr()).unbind() }
}

/// Counts of requests by the names of their kinds.
pub(crate) fn counts_by_name(
    py: Python<'_>,
    n_requests: [usize; MemberKind::NAMES.len()],
) -> PyResult<Bound<'_, PyDict>> {
    let counts = PyDict::new(py);
    for (name, n) in MemberKind::NAMES.into_iter().zip(n_requests) {
        counts.set_item(name, n)?;
    }
    Ok(counts)
}
