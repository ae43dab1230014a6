//! The tree of scopes: cancels a scope with those within it, and the task that runs its block.
//!
//! Each step may run a user's `cancel`, which may cancel a scope again, so nothing is assumed to stay.

use std::collections::BTreeMap;

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyBaseException, PyException};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::members::Members;
use crate::dispatcher::Dispatcher;
use crate::py::cast::known;
use crate::py::gil_cell::{GilCell, GilSlot};
use crate::task::task::{Shield, Task};

/// The message of a cancellation that a shield has held off.
const HELD_OFF: &str = "the enclosing scope was cancelled";

/// The scopes within a scope, in the order of entering, which is the order of cancelling.
#[derive(Debug, Default)]
struct Children {
    by_number: BTreeMap<u64, Py<Members>>,
    n_entered: u64,
}

/// A scope in the tree: what is around it and within it, and the task that runs its block.
pub(super) struct TreeNode {
    /// The task that runs the block; None once the scope is closed.
    host: GilSlot<Option<Py<PyAny>>>,
    /// The scopes that the host has entered, innermost last: a list that they share.
    entered: Py<PyList>,
    /// None for an outermost scope, and once the scope is closed.
    parent: GilSlot<Option<Py<Members>>>,
    /// Its number among the children of the parent.
    number: GilSlot<u64>,
    children: GilCell<Children>,
    /// Only the scope itself cancels its block and its members, not the scopes around it.
    is_shielded: bool,
    /// The block has ended: its task waits for the members, or does something else by now.
    has_left: GilSlot<bool>,
    n_cancels_of_host: GilSlot<u32>,
    /// The host is cancelled when the shielded scopes within have ended.
    must_cancel_host: GilSlot<bool>,
}

impl TreeNode {
    /// A scope within the one that the host has entered last, or that the host is a member of.
    pub(super) fn new(
        dispatcher: &Bound<'_, Dispatcher>,
        host: Bound<'_, PyAny>,
        entered: Bound<'_, PyList>,
        is_shielded: bool,
    ) -> PyResult<Self> {
        let py = dispatcher.py();
        let parent = match (entered.iter().next_back(), host.cast::<Task>()) {
            (Some(last), _) => Some(last.cast_into::<Members>()?.unbind()),
            (None, Ok(task)) => {
                let membership = &task.as_super().get().membership;
                let owner = dispatcher.get().requests.with(py, |it| it.owner_of(py, membership));
                owner.map(|it| known::<Members>(it.members(py).bind(py)).clone().unbind())
            }
            (None, Err(_)) => None,
        };
        Ok(Self {
            host: GilSlot::new(Some(host.unbind())),
            entered: entered.unbind(),
            parent: GilSlot::new(parent),
            number: GilSlot::new(0),
            children: GilCell::default(),
            is_shielded,
            has_left: GilSlot::new(false),
            n_cancels_of_host: GilSlot::new(0),
            must_cancel_host: GilSlot::new(false),
        })
    }

    /// Have the scopes around it know of a scope.
    pub(super) fn attach(scope: &Bound<'_, Members>) -> PyResult<()> {
        let py = scope.py();
        let this = &scope.get().node;
        this.entered.bind(py).append(scope)?;
        if let Some(parent) = this.parent(py) {
            let number = parent.get().node.children.with(py, |it| {
                it.n_entered += 1;
                it.by_number.insert(it.n_entered, scope.clone().unbind());
                it.n_entered
            });
            this.number.set(py, number);
        }
        if this.is_shielded
            && let Some(Ok(task)) = this.host(py).as_ref().map(|it| it.cast::<Task>())
            && task.get().shield.get(py) == Shield::Down
        {
            task.get().shield.set(py, Shield::Up);
        }
        Ok(())
    }

    /// Have the scopes around it forget a scope that is closed. If it was shielded, its host gets what the
    /// shield has held off.
    pub(super) fn detach(scope: &Bound<'_, Members>) -> PyResult<()> {
        let py = scope.py();
        let this = &scope.get().node;
        if let Some(parent) = this.parent.take(py) {
            let number = this.number.get(py);
            drop(parent.get().node.children.with(py, |it| it.by_number.remove(&number)));
        }
        let entered = this.entered.bind(py);
        entered.call_method1(intern!(py, "remove"), (scope,))?;
        match this.host.take(py) {
            Some(host) if this.is_shielded => Self::lift_shield(host.bind(py), entered),
            _ => Ok(()),
        }
    }

    /// Take one shield off the host, and cancel it if that was asked for meanwhile. `entered`: the scopes
    /// that it has entered and not left.
    fn lift_shield(host: &Bound<'_, PyAny>, entered: &Bound<'_, PyList>) -> PyResult<()> {
        let py = host.py();
        let scopes = entered.iter().map(|it| Ok(it.cast_into::<Members>()?));
        let scopes: Vec<Bound<'_, Members>> = scopes.collect::<PyResult<_>>()?;
        if !scopes.iter().any(|it| it.get().node.is_shielded)
            && let Ok(task) = host.cast::<Task>()
            && task.get().shield.replace(py, Shield::Down) == Shield::Hit
        {
            host.call_method1(intern!(py, "cancel"), (HELD_OFF,))?;
        }
        for scope in scopes {
            // If another shield is left within the scope, this is set again.
            if scope.get().node.must_cancel_host.replace(py, false) {
                Self::cancel_host(&scope, PyString::new(py, HELD_OFF).into_any().unbind())?;
            }
        }
        Ok(())
    }

    /// Cancel the task that runs a scope's block; later, if a scope within the block is shielded.
    fn cancel_host(scope: &Bound<'_, Members>, message: Py<PyAny>) -> PyResult<()> {
        let py = scope.py();
        let this = &scope.get().node;
        let Some(host) = this.host(py) else { return Ok(()) };
        let inner = this.entered.bind(py).iter().skip_while(|it| !it.is(scope)).skip(1);
        for scope in inner {
            if scope.cast::<Members>()?.get().node.is_shielded {
                this.must_cancel_host.set(py, true);
                return Ok(());
            }
        }
        // Each cancellation is counted, so that scopes within see it, and taken back when the scope is left.
        this.n_cancels_of_host.set(py, this.n_cancels_of_host.get(py) + 1);
        match host.cast::<Task>() {
            Ok(task) => Task::request_cancel(task, Some(&message), true).map(drop),
            Err(_) => host.call_method1(intern!(py, "cancel"), (message,)).map(drop),
        }
    }

    /// Note that the block has ended: the scope does not cancel its task any more. Returns how often it did.
    pub(super) fn leave(&self, py: Python<'_>) -> u32 {
        self.has_left.set(py, true);
        self.n_cancels_of_host.get(py)
    }

    fn host<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.host.with(py, |it| it.as_ref().map(|it| it.bind(py).clone()))
    }

    fn parent<'py>(&self, py: Python<'py>) -> Option<Bound<'py, Members>> {
        self.parent.with(py, |it| it.as_ref().map(|it| it.bind(py).clone()))
    }

    /// The scopes directly within, the last one first.
    fn children<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, Members>> {
        let bound = |it: &Py<Members>| it.bind(py).clone();
        self.children.with(py, |it| it.by_number.values().rev().map(bound).collect())
    }

    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.entered)?;
        self.host.traverse(visit, |it| visit.call(it))?;
        self.parent.traverse(visit, |it| visit.call(it))?;
        self.children.traverse(visit, |it| it.by_number.values().try_for_each(|it| visit.call(it)))
    }

    pub(super) fn clear(&self, py: Python<'_>) {
        let children = self.children.with(py, std::mem::take);
        drop((children, self.host.take(py), self.parent.take(py)));
    }
}

#[pymethods]
impl Members {
    /// Cancel all members, those of the scopes within that are not shielded from this one, and the task that
    /// runs the block; `again`: also what was cancelled before.
    fn cancel(slf: &Bound<'_, Self>, message: Py<PyAny>, again: bool) -> PyResult<()> {
        let py = slf.py();
        let mut scopes = vec![slf.clone()];
        while let Some(scope) = scopes.pop() {
            Self::cancel_members(&scope, message.clone_ref(py), again)?;
            let children = scope.get().node.children(py).into_iter();
            scopes.extend(children.filter(|it| !it.get().node.is_shielded));
        }
        let node = &slf.get().node;
        if !node.has_left.get(py) && (again || node.n_cancels_of_host.get(py) == 0) {
            TreeNode::cancel_host(slf, message)?;
        }
        Ok(())
    }

    /// Cancel the scope, unless it is cancelled already: something has ended with an exception, which the
    /// message shows after `what`.
    pub(super) fn cancel_for(
        slf: &Bound<'_, Self>,
        what: &str,
        error: &Bound<'_, PyBaseException>,
    ) -> PyResult<()> {
        let py = slf.py();
        if slf.get().is_cancelled(py) {
            return Ok(());
        }
        let message = format!("{what}{}", shown(error)?.to_string_lossy());
        Self::cancel(slf, PyString::new(py, &message).into_any().unbind(), false)
    }

    /// The scope and all those within it, shielded or not, in the order of entering.
    fn within<'py>(slf: &Bound<'py, Self>) -> Vec<Bound<'py, Self>> {
        let (mut found, mut scopes) = (Vec::new(), vec![slf.clone()]);
        while let Some(scope) = scopes.pop() {
            scopes.extend(scope.get().node.children(slf.py()));
            found.push(scope);
        }
        found
    }
}

/// The repr of an exception, or its type's name if that raises.
fn shown<'py>(error: &Bound<'py, PyBaseException>) -> PyResult<Bound<'py, PyString>> {
    match error.repr() {
        Err(failed) if failed.is_instance_of::<PyException>(error.py()) => error.get_type().name(),
        shown => shown,
    }
}
