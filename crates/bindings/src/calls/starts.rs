//! Where a call starts, inline or beside the dispatcher: the history of its function decides, unless its pool
//! does. Inside another inline call it is inline in any case (`CallObject::start`).

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use threadlets_core::{EntryPoint, Start};

use super::pool::Pool;
use crate::dispatcher::Dispatcher;
use crate::dispatcher::worker::Worker;
use crate::workers::bound;

/// Choose where a call starts; `name` gives the name of its function if that is not known yet.
#[inline]
pub(crate) fn choose(
    slf: &Bound<'_, Dispatcher>,
    worker: &Worker,
    function: EntryPoint,
    pool: Option<&Bound<'_, Pool>>,
    name: impl FnOnce() -> Option<Py<PyString>>,
) -> Start {
    let py = slf.py();
    let this = slf.get();
    let must = pool
        .and_then(|it| it.get().start())
        .or_else(|| this.start.get(py))
        .or_else(|| (!bound::may_block(&this.workers, py, worker.id)).then_some(Start::Beside));
    let start = this.histories.with(py, |histories| histories.start(function, must));
    start.unwrap_or_else(|| meet(this, py, function, must, name()))
}

/// Whether a call without a pool would start inline, as far as is known.
pub(crate) fn is_inline(
    slf: &Bound<'_, Dispatcher>,
    worker: &Worker,
    function: EntryPoint,
) -> bool {
    let py = slf.py();
    let this = slf.get();
    let may_block = bound::may_block(&this.workers, py, worker.id);
    let known = || {
        this.histories.with(py, |histories| histories.get_mut(function).map(|it| it.next_start()))
    };
    let start = match this.start.get(py) {
        None if may_block => known(),
        None => Some(Start::Beside),
        forced => forced,
    };
    start == Some(Start::Inline)
}

#[cold]
#[inline(never)]
fn meet(
    dispatcher: &Dispatcher,
    py: Python<'_>,
    function: EntryPoint,
    must: Option<Start>,
    name: Option<Py<PyString>>,
) -> Start {
    let forgotten = dispatcher.histories.with(py, |histories| histories.remember(function, name));
    drop(forgotten);
    let start = dispatcher.histories.with(py, |histories| histories.start(function, must));
    start.unwrap_or(Start::Beside)
}

/// Record that an inline call has blocked, or kept other requests waiting for long.
#[cold]
pub(crate) fn note_mistake(dispatcher: &Dispatcher, py: Python<'_>, function: EntryPoint) {
    dispatcher
        .histories
        .with(py, |histories| histories.get_mut(function).map(|it| it.note_mistake()));
}

/// Add the counts of calls to the statistics.
pub(crate) fn add_counts(dispatcher: &Dispatcher, stats: &Bound<'_, PyDict>) -> PyResult<()> {
    let py = stats.py();
    let totals = dispatcher.histories.with(py, |histories| histories.totals());
    stats.set_item("calls_inline", totals.n_inline)?;
    stats.set_item("calls_beside", totals.n_beside)?;
    stats.set_item("mistakes", totals.n_mistakes)?;
    stats.set_item("functions", functions(dispatcher, py, None)?)
}

/// Record that an inline call did not start: it waits for a worker that could take over from it.
#[cold]
pub(crate) fn note_not_started(dispatcher: &Dispatcher, py: Python<'_>, function: EntryPoint) {
    dispatcher
        .histories
        .with(py, |histories| histories.get_mut(function).map(|it| it.note_not_started()));
}

/// List the functions that were called, in this pool or in any, with their histories.
pub(crate) fn functions<'py>(
    dispatcher: &Dispatcher,
    py: Python<'py>,
    pool: Option<usize>,
) -> PyResult<Bound<'py, PyList>> {
    let known: Vec<_> = dispatcher.histories.with(py, |histories| {
        let all = histories.all().filter(|(it, ..)| pool.is_none_or(|pool| it.pool == pool));
        all.map(|(_, history, name)| (history, name.as_ref().map(|it| it.clone_ref(py)))).collect()
    });
    let rows = known.into_iter().map(|(history, name)| {
        let row = PyDict::new(py);
        let start = match history.next_start() {
            Start::Inline => "inline",
            Start::Beside => "beside",
        };
        row.set_item("function", name)?;
        row.set_item("start", start)?;
        row.set_item("inline", history.n_inline())?;
        row.set_item("beside", history.n_beside())?;
        row.set_item("mistakes", history.n_mistakes())?;
        Ok(row)
    });
    PyList::new(py, rows.collect::<PyResult<Vec<_>>>()?)
}

/// Parse where calls start: `None` ("auto") leaves it to the history of each function.
pub(crate) fn parse(start: &str) -> PyResult<Option<Start>> {
    match start {
        "auto" => Ok(None),
        "inline" => Ok(Some(Start::Inline)),
        "beside" => Ok(Some(Start::Beside)),
        other => Err(PyValueError::new_err(format!(
            "start is {other:?}; it must be 'auto', 'inline' or 'beside'"
        ))),
    }
}
