//! The tick: poll, fire due timers, and run the requests that are ready, with a boundary after each at which the
//! role may pass to another thread.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::prelude::*;
use threadlets_core::{clock, fp};

use super::{poll, running};
use crate::dispatcher::Dispatcher;
use crate::dispatcher::replaced::{self, Replaced};
use crate::dispatcher::worker::Worker;
use crate::task::current;
use crate::workers::{greenlets, home, role, shutdown};

/// Why a worker stopped running ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The loop is to stop, or its ticks go on in a replaced `_run_once`; on the home thread alone.
    Stopped,
    /// Another worker has the role.
    RoleLost,
}

/// Run ticks until the loop is to stop or the role is lost.
///
/// Only the home thread stops the loop. While it is blocked in a function, other workers go on: what
/// the function waits for may need the loop.
pub(crate) fn dispatch(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<Ended> {
    let this = slf.get();
    loop {
        if !tick(slf, worker)? {
            return Ok(Ended::RoleLost);
        }
        let ends = this.stopping.load(Relaxed)
            || this.workers.has_pending(slf.py())
            || this.replaced.replaces_ticks();
        if worker.is_home() && ends {
            return Ok(Ended::Stopped);
        }
    }
}

/// Run one tick; whether this worker still has the role.
pub(crate) fn tick(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<bool> {
    let outcome = poll_and_run(slf, worker);
    match outcome {
        Ok(false) => current::leave(slf),
        _ => current::clear(slf),
    }
    outcome
}

fn poll_and_run(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<bool> {
    let py = slf.py();
    let this = slf.get();
    if !take_steps(slf, worker)? {
        return Ok(false);
    }
    let is_held = if Replaced::replaces_poll(slf)? {
        poll::poll_replaced(slf, worker)?
    } else {
        poll::poll(slf, worker)?
    };
    if !is_held {
        return Ok(false);
    }
    // Requests start in the default floating-point state, whatever ran on this thread before.
    if fp::State::read() != fp::State::DEFAULT {
        fp::State::DEFAULT.restore();
    }
    let due_ns = replaced::due_ns(slf)?;
    this.queues.with(py, |queues| queues.begin_tick(|| due_ns.unwrap_or_else(clock::now_ns)));
    let mut slice = this.slice.get(py);
    slice.begin_tick();
    this.slice.set(py, slice);
    // A callback may have emptied the queue, or may have been taken over; then another worker runs the
    // rest of the tick.
    while let Some(request) = this.queues.with(py, |queues| queues.next(clock::now_ns)) {
        this.n_requests.store(this.n_requests() + 1, Relaxed);
        running::run(slf, request)?;
        shutdown::end_if_over(slf)?;
        if greenlets::may_be_new(py) {
            greenlets::look(slf, worker);
        }
        if !this.workers.keeps_role(py, worker) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Take the steps that were handed over to this thread, which has the role; returns whether it still has.
#[inline]
fn take_steps(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<bool> {
    if slf.get().workers.n_handed_over.load(Relaxed) == 0 {
        return Ok(true);
    }
    take_own_steps(slf, worker)
}

#[cold]
fn take_own_steps(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<bool> {
    let py = slf.py();
    let workers = &slf.get().workers;
    let steps = workers.bound.with(py, |bound| bound.take_steps(worker.id));
    workers.n_handed_over.fetch_sub(steps.len(), Relaxed);
    let mut steps = steps.into_iter();
    let mut outcome = Ok(());
    while outcome.is_ok() && workers.role.is_held_by(worker.id) {
        let Some(step) = steps.next() else { return Ok(true) };
        outcome = running::run(slf, step).and_then(|()| shutdown::end_if_over(slf));
    }
    // The role went to another thread, or the loop ends: the steps that are left wait until the role is
    // here again.
    let left = steps.len();
    workers.bound.with(py, |bound| bound.put_back(worker.id, steps));
    workers.n_handed_over.fetch_add(left, Relaxed);
    outcome.map(|()| workers.role.is_held_by(worker.id))
}

/// Run ticks on the home thread until the loop is to stop.
pub(crate) fn run_home(slf: &Bound<'_, Dispatcher>) -> PyResult<()> {
    let py = slf.py();
    let workers = &slf.get().workers;
    home::at_home(slf, |worker| {
        loop {
            let ended = dispatch(slf, worker);
            if ended.is_err() && !workers.role.is_held_by(worker.id) {
                // The error ends the loop, but not while another thread runs it.
                role::get_role_back(slf, worker)?;
            }
            let ended = ended?;
            workers.take_pending(py)?;
            match ended {
                Ended::Stopped => return Ok(()),
                Ended::RoleLost => role::get_role_back(slf, worker)?,
            }
            workers.take_pending(py)?;
        }
    })
}

/// Run one tick, on the home thread.
pub(crate) fn run_once(slf: &Bound<'_, Dispatcher>) -> PyResult<()> {
    home::at_home(slf, |worker| {
        current::kept(slf, || {
            if !tick(slf, worker)? {
                role::get_role_back(slf, worker)?;
            }
            Ok(())
        })
    })
}
