//! The poll: waits for events without the GIL, and queues the requests that they make ready.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::takeover::WakeReason;
use threadlets_core::{Readiness, clock};

use super::request_handle;
use crate::calls::beside;
use crate::dispatcher::replaced::{self, LIST, POLL};
use crate::dispatcher::worker::Worker;
use crate::dispatcher::{Dispatcher, Source, hooks};
use crate::http::server::HttpServer;
use crate::net::descriptors;
use crate::net::stream::Stream;
use crate::py::cast::known;
use crate::py::error::to_python;
use crate::py::interpreter;

/// How soon the kernel is asked again to watch a descriptor after it has refused.
const REARM: Duration = Duration::from_millis(50);
/// How long a poll waits at most where a debugger may have this process run a script.
const DEBUGGER_PATIENCE: Duration = Duration::from_secs(1);
/// The longest wait of a poll, as in asyncio.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);

/// How a wait for events has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waited {
    /// This worker still has the role.
    pub(crate) is_held: bool,
    /// It was ended by a wake-up or a message, rather than by a descriptor.
    pub(crate) is_woken: bool,
}

/// Poll, and wait if nothing is ready; whether this worker still has the role.
pub(crate) fn poll(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<bool> {
    let py = slf.py();
    let this = slf.get();
    // The byte that a signal writes ends only one wait, and another worker may have read it while this
    // thread was inside a function. Handlers have to run before the length of the wait is computed,
    // which they may change.
    py.check_signals()?;
    let patience = if worker.is_home() && this.stopping.load(Relaxed) {
        Some(Duration::ZERO)
    } else {
        this.queues.with(py, |queues| queues.timeout(clock::now_ns))
    };
    // `check_signals` also runs the script of a debugger, which does not wake the poll.
    let patience = if worker.is_home() && interpreter::obeys_debuggers(py) {
        Some(patience.map_or(DEBUGGER_PATIENCE, |it| it.min(DEBUGGER_PATIENCE)))
    } else {
        patience
    };
    let is_held = wait_and_deliver(slf, worker, patience, |_, _| ())?.is_held;
    if is_held {
        // Last: a signal handler may raise.
        py.check_signals()?;
    }
    Ok(is_held)
}

/// Wait for events, without the GIL, and queue the requests that they make ready; `observe` is called for
/// each event. The role can be taken meanwhile.
pub(crate) fn wait_and_deliver(
    slf: &Bound<'_, Dispatcher>,
    worker: &Worker,
    patience: Option<Duration>,
    mut observe: impl FnMut(&Source, Readiness),
) -> PyResult<Waited> {
    let py = slf.py();
    let this = slf.get();
    let poller = this.poller(py)?;
    let is_armed = descriptors::rearm(slf, py, &poller)?;
    let patience =
        if is_armed { patience } else { Some(patience.map_or(REARM, |it| it.min(REARM))) };
    // No thread may be queued for the role while we wait for events. Each request ends with a boundary,
    // but Python code also runs between requests: signal handlers, and the hooks of a new worker.
    if !this.workers.keeps_role(py, worker) {
        return Ok(Waited { is_held: false, is_woken: false });
    }
    this.workers.registry.with(py, |registry| registry.start_polling());
    // Set while the GIL is still held: the next thread that holds it has to know that it must wake us.
    this.sleeping.store(patience != Some(Duration::ZERO), Relaxed);
    this.is_being_woken.store(false, Relaxed);
    // Engines hold no GIL: check once more for messages that they sent before they knew that we wait.
    let patience = if this.completions.starts_waiting() { Some(Duration::ZERO) } else { patience };
    let (role, id) = (&this.workers.role, worker.id);
    let called = beside::take_called(this, py);
    let waited = py.detach(|| {
        if let Some(called) = called {
            role.slot(called).parker.unpark(WakeReason::WORK);
        }
        poller.wait(patience, || role.is_held_by(id))
    });
    let is_held = role.is_held_by(worker.id);
    if is_held {
        this.sleeping.store(false, Relaxed);
        this.completions.stops_waiting();
        this.workers.registry.with(py, |registry| registry.stop_polling());
    }
    waited.map_err(to_python)?;
    // Delivered even if the role was lost: an edge is not reported twice.
    let is_woken = this.queues.with(py, |queues| {
        this.sources.with(py, |sources| {
            this.descriptors.with(py, |table| {
                poller.deliver(|key, readiness| {
                    let Some(source) = sources.get(key) else { return };
                    observe(source, readiness);
                    match source {
                        Source::Stream(stream) => {
                            let stream = known(stream.bind(py));
                            if let Some(request) = Stream::note(stream, readiness) {
                                queues.submit(request);
                            }
                        }
                        Source::Http(server, number) => {
                            let server = known(server.bind(py));
                            if let Some(request) = HttpServer::note(server, *number, readiness) {
                                queues.submit(request);
                            }
                        }
                        Source::Descriptor(fd) => {
                            descriptors::became_ready(py, table, *fd, readiness, queues)
                        }
                    }
                })
            })
        })
    });
    let messages = this.completions.take();
    let is_woken = is_woken || !messages.is_empty();
    if !messages.is_empty() {
        this.queues.with(py, |queues| {
            messages.into_iter().for_each(|it| queues.submit(it.into()));
        });
    }
    if !is_held {
        // The worker that took the role may already wait for what we have just queued, and our wait may
        // have used up the wake-up that was to end that worker's.
        this.is_being_woken.store(false, Relaxed);
        this.wake_if_sleeping(py)?;
    }
    Ok(Waited { is_held, is_woken })
}

/// Poll through the replaced methods; whether this worker still has the role.
#[cold]
pub(crate) fn poll_replaced(slf: &Bound<'_, Dispatcher>, worker: &Worker) -> PyResult<bool> {
    let py = slf.py();
    let this = slf.get();
    // For the reason given in `poll`.
    py.check_signals()?;
    if this.replaced.has(LIST) {
        hooks::sync_timers(slf)?;
    }
    let now_ns = clock::deadline_ns(replaced::now(slf)?);
    let patience = if this.stopping.load(Relaxed) {
        Some(Duration::ZERO)
    } else {
        this.queues.with(py, |queues| queues.timeout(|| now_ns))
    };
    if !this.replaced.has(POLL) {
        return Ok(wait_and_deliver(slf, worker, patience, |_, _| ())?.is_held);
    }
    let timeout = match patience {
        // Computed in floats, as in asyncio: a virtual clock that advances by the time-out has to land
        // exactly on the timer.
        Some(patience) if !patience.is_zero() => {
            let until = first_deadline(slf)?
                .map(|when| Ok::<_, PyErr>(when - replaced::now(slf)?))
                .transpose()?;
            Some(until.unwrap_or(patience.as_secs_f64()).clamp(0.0, WAIT_MAX.as_secs_f64()))
        }
        patience => patience.map(|it| it.as_secs_f64()),
    };
    // A replaced `select` may wait without our poller, which would unpark this worker.
    if let Some(called) = beside::take_called(this, py) {
        this.workers.role.slot(called).parker.unpark(WakeReason::WORK);
    }
    let selector = slf.getattr(intern!(py, "_selector"))?;
    let events = selector.call_method1(intern!(py, "select"), (timeout,))?;
    hooks::process_events(slf, events)?;
    py.check_signals()?;
    Ok(this.workers.role.is_held_by(worker.id))
}

/// When the first timer is due, in seconds of the loop's time, to the precision in which it was given.
fn first_deadline(slf: &Bound<'_, Dispatcher>) -> PyResult<Option<f64>> {
    let py = slf.py();
    let first = slf.get().queues.with(py, |queues| {
        let first =
            queues.timers().min_by_key(|(deadline_ns, key, _)| (*deadline_ns, key.to_bits()));
        first.map(|(deadline_ns, _, request)| (deadline_ns, request_handle::handle_of(py, request)))
    });
    let Some((deadline_ns, handle)) = first else { return Ok(None) };
    match handle {
        Some(handle) => handle.bind(py).getattr(intern!(py, "_when"))?.extract().map(Some),
        None => Ok(Some(clock::to_seconds(deadline_ns))),
    }
}
