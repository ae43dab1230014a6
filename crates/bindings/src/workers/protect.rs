//! Protects an inline call: while it runs, another worker can take over the role.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::ffi;
use pyo3::prelude::*;
use threadlets_core::PoolKey;
use threadlets_core::takeover::{Called, Monitoring, WakeReason};

use crate::dispatcher::Dispatcher;
use crate::dispatcher::worker::Worker;

/// How a protected call ended.
#[derive(Debug)]
pub(crate) enum Protected<R> {
    /// This worker still has the role.
    Kept(R),
    /// This worker still has the role, and the call kept other requests waiting for long.
    Slow(R),
    /// Another worker has the role.
    Lost(R),
    /// The function was not called: no thread is left that could take over.
    Full,
}

/// Call a function, by `call`, as a threadlet, from which the role can be taken over. Inside a
/// threadlet it is just called.
#[inline]
pub(crate) fn protect<R>(
    slf: &Bound<'_, Dispatcher>,
    worker: &Worker,
    callable: *mut ffi::PyObject,
    pool: Option<PoolKey>,
    future: *mut ffi::PyObject,
    call: impl FnOnce() -> R,
) -> Protected<R> {
    let workers = &slf.get().workers;
    let seq = match workers.role.enter(worker.id) {
        Called::Monitored(seq) => seq,
        Called::Unmonitored(seq) if ensure_monitor(slf) => seq,
        Called::Unmonitored(seq) => {
            workers.role.leave(worker.id, seq);
            return Protected::Full;
        }
        Called::Inside => return Protected::Kept(call()),
    };
    workers.calling.store(callable, Relaxed);
    workers.calling_pool.store(pool.map_or(0, |it| it.index() + 1), Relaxed);
    workers.calling_future.store(future, Relaxed);
    let result = call();
    if !workers.role.leave(worker.id, seq) {
        Protected::Lost(result)
    } else if workers.monitor.was_slow(seq) {
        Protected::Slow(result)
    } else {
        Protected::Kept(result)
    }
}

/// Make sure that there is a monitor, and that it is awake; `false`: no thread is left for it.
#[cold]
fn ensure_monitor(slf: &Bound<'_, Dispatcher>) -> bool {
    let py = slf.py();
    let workers = &slf.get().workers;
    match workers.registry.with(py, |registry| workers.role.ensure_monitor(registry)) {
        Monitoring::Monitored => true,
        Monitoring::Spawn(id) => {
            workers.monitor.start_idle_monitor();
            let spawned = (workers.spawn)(slf, id, WakeReason::MONITOR);
            if !spawned {
                workers.count_refused();
                workers.registry.with(py, |registry| workers.role.not_spawned(registry, id));
                // If there are other threads, calls can wait until one of them is idle.
                slf.get().hold_calls(py, workers.check_threads(py).is_ok());
            }
            spawned
        }
        Monitoring::Full => {
            workers.counts.n_full.fetch_add(1, Relaxed);
            slf.get().hold_calls(py, true);
            false
        }
    }
}
