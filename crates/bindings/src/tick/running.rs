//! Runs a request, of whichever kind.

use pyo3::intern;
use pyo3::prelude::*;
use threadlets_core::clock;

use super::request_handle::{self, RequestHandle};
use crate::callbacks::handles::{Due, Handle, TimerHandle};
use crate::calls::beside;
use crate::calls::call_beside::CallBeside;
use crate::calls::queued_call::QueuedCall;
use crate::contract;
use crate::dispatcher::request::{DoneCallback, Request};
use crate::dispatcher::{Dispatcher, hooks};
use crate::http::server::HttpServer;
use crate::net::accept::{self, Acceptor};
use crate::net::datagrams::{self, Datagrams};
use crate::net::sock_ops;
use crate::net::stream::Stream;
use crate::py::cast::known;
use crate::py::error::ends_the_loop;
use crate::scope::members::Members;
use crate::scope::sleep::Sleep;
use crate::syslet::pending;
use crate::task::callback::Callback;
use crate::task::future::Future;
use crate::task::task::Task;
use crate::task::{current, step};

/// Run a request: in debug mode with checks before and afterwards.
pub(crate) fn run(slf: &Bound<'_, Dispatcher>, request: Request) -> PyResult<()> {
    if slf.get().is_debug() {
        return run_watched(slf, request);
    }
    run_unwatched(slf, request)
}

fn run_unwatched(slf: &Bound<'_, Dispatcher>, request: Request) -> PyResult<()> {
    let py = slf.py();
    if let Request::Step(task) = &request {
        let stepped = step::take(slf, known::<Task>(task.bind(py)));
        contract::check(slf, || Some(task.bind(py).clone()))?;
        return Dispatcher::outlive(slf, stepped);
    }
    current::clear(slf);
    match request {
        Request::Step(_) => unreachable!("taken above"),
        Request::Sleep(sleep) => Dispatcher::outlive(slf, Sleep::end(known(sleep.bind(py)))),
        Request::CancelMembers(members) => {
            Dispatcher::outlive(slf, Members::cancel_some(known(members.bind(py))))
        }
        Request::Done(callback) => run_done_callback(slf, *callback),
        Request::Callback(object) => {
            let handle = known::<Handle>(object.bind(py)).get();
            match handle.take(py) {
                Some(callback) => handle.during(slf, || {
                    run_callback(slf, callback, |callback| {
                        handle.put_back(py, callback);
                        Request::Callback(object.clone_ref(py))
                    })
                }),
                None => Ok(()),
            }
        }
        Request::Timer(object) => {
            let handle = known::<TimerHandle>(object.bind(py)).get();
            match handle.take(py) {
                Some(Due::Result(future, result)) => {
                    Dispatcher::outlive(slf, Future::resolve(future.bind(py), result))
                }
                Some(Due::Callback(callback)) => run_callback(slf, callback, |callback| {
                    handle.put_back(py, callback, slf.clone().unbind());
                    Request::Timer(object.clone_ref(py))
                }),
                None => Ok(()),
            }
        }
        Request::Foreign(handle) => run_foreign(slf, handle.bind(py)),
        Request::Stream(object) => {
            let stream = known::<Stream>(object.bind(py));
            let served = Stream::serve(stream);
            contract::check(slf, || stream.get().protocol(py))?;
            Dispatcher::outlive(slf, served)
        }
        Request::Accept(object) => {
            let acceptor = known::<Acceptor>(object.bind(py));
            let accepted = accept::run(slf, acceptor);
            contract::check(slf, || Some(acceptor.clone().into_any()))?;
            Dispatcher::outlive(slf, accepted)
        }
        Request::Datagrams(object) => {
            let datagrams = known::<Datagrams>(object.bind(py));
            let received = datagrams::run(slf, datagrams);
            contract::check(slf, || Some(datagrams.get().protocol(py)))?;
            Dispatcher::outlive(slf, received)
        }
        Request::Http(object, number) => {
            let server = known::<HttpServer>(object.bind(py));
            let served = HttpServer::run(server, number);
            contract::check(slf, || Some(server.clone().into_any()))?;
            Dispatcher::outlive(slf, served)
        }
        Request::Operations(fd, direction) => {
            let tried = sock_ops::retry(slf, fd, direction);
            contract::check(slf, || None)?;
            Dispatcher::outlive(slf, tried)
        }
        Request::Call(object) => {
            let call = known::<QueuedCall>(object.bind(py));
            let ran = QueuedCall::run(call, slf);
            contract::check(slf, || call.get().function(py))?;
            Dispatcher::outlive(slf, ran)
        }
        Request::Beside(object) => {
            let call = known::<CallBeside>(object.bind(py));
            beside::submit(slf, call.as_any());
            Ok(())
        }
        Request::Ended(run) => {
            let delivered = pending::deliver(slf, run.token as usize, Some(run));
            contract::check(slf, || None)?;
            Dispatcher::outlive(slf, delivered)
        }
        Request::Notified(token) => {
            let delivered = pending::deliver(slf, token as usize, None);
            contract::check(slf, || None)?;
            Dispatcher::outlive(slf, delivered)
        }
        Request::Held(object) => match known::<RequestHandle>(object.bind(py)).get().take(py) {
            Some(request) => run_unwatched(slf, request),
            None => Ok(()),
        },
        Request::Settle(settled) => {
            let (object, outcome) = *settled;
            let call = known::<QueuedCall>(object.bind(py)).get();
            let settled = call.settle(py, outcome);
            contract::check(slf, || call.function(py))?;
            Dispatcher::outlive(slf, settled)
        }
    }
}

/// Run a callback of a future that is done.
fn run_done_callback(slf: &Bound<'_, Dispatcher>, callback: DoneCallback) -> PyResult<()> {
    let py = slf.py();
    let ran = callback.run(py);
    contract::check(slf, || Some(callback.callable.bind(py).clone()))?;
    let Err(error) = ran else { return Ok(()) };
    let future = callback.future.clone_ref(py);
    report(slf, error, callback.into_callback(py)?, |it| {
        let (callable, context) = (it.callable, it.context);
        Request::Done(Box::new(DoneCallback { callable, future, context }))
    })
}

/// Run a request in debug mode, with checks before and afterwards.
fn run_watched(slf: &Bound<'_, Dispatcher>, request: Request) -> PyResult<()> {
    let py = slf.py();
    let what = request_handle::subject(py, &request);
    let before = match hooks::request_begins(slf, &what) {
        Ok(before) => before,
        // The request runs all the same.
        Err(error) => {
            Dispatcher::outlive(slf, Err(error))?;
            py.None().into_bound(py)
        }
    };
    let started_ns = clock::now_ns();
    let ran = contract::listening(slf, || run_unwatched(slf, request));
    // Taken before debug mode's own checks, which are not the request's time.
    let duration = clock::to_seconds(clock::now_ns() - started_ns);
    let ended = hooks::request_ended(slf, what, before, duration);
    ran.and(Dispatcher::outlive(slf, ended.map(drop)))
}

/// Run a callback; `put_back` makes it a request again if it has to wait.
fn run_callback(
    slf: &Bound<'_, Dispatcher>,
    callback: Callback,
    put_back: impl FnOnce(Callback) -> Request,
) -> PyResult<()> {
    let ran = callback.run(slf.py());
    contract::check(slf, || Some(callback.callable.bind(slf.py()).clone()))?;
    match ran {
        Ok(()) => Ok(()),
        Err(error) => report(slf, error, callback, put_back),
    }
}

#[cold]
fn report(
    slf: &Bound<'_, Dispatcher>,
    error: PyErr,
    callback: Callback,
    put_back: impl FnOnce(Callback) -> Request,
) -> PyResult<()> {
    let py = slf.py();
    let workers = &slf.get().workers;
    if ends_the_loop(py, &error) {
        return Err(error);
    }
    // The context is in use, so the callback has not run: if it had, its context would be free again.
    if workers.holds_context(callback.context.bind(py)) {
        workers.defer(py, put_back(callback));
        return Ok(());
    }
    let (callable, args, context) = (&callback.callable, &callback.args, &callback.context);
    hooks::callback_failed(slf, error, callable, args, context).map(drop)
}

/// Run an `asyncio.Handle`, which reports its own failures.
fn run_foreign(slf: &Bound<'_, Dispatcher>, handle: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = slf.py();
    if handle.getattr(intern!(py, "_cancelled"))?.is_truthy()? {
        return Ok(());
    }
    let context = handle.getattr(intern!(py, "_context"))?;
    if slf.get().workers.holds_context(&context) {
        slf.get().workers.defer(py, Request::Foreign(handle.clone().unbind()));
        return Ok(());
    }
    let callback = handle.getattr(intern!(py, "_callback"))?;
    let carried = contract::enter_of(&context);
    let ran = handle.call_method0(intern!(py, "_run")).map(drop);
    contract::leave_of(&context, carried);
    contract::check(slf, || Some(callback))?;
    ran
}
