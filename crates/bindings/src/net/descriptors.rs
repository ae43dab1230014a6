//! Descriptors that belong to the program: `add_reader` and `add_writer`, acceptors, datagram
//! sockets, and the operations of `sock_ops` that wait.

use std::collections::VecDeque;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyTuple, PyType};
use threadlets_core::{Interest, Poller, Readiness, SourceKey};

use super::accept::Acceptor;
use super::datagrams::Datagrams;
use crate::dispatcher::descriptor_table::{Descriptors, Handler, SockOp};
use crate::dispatcher::request::{Direction, Request};
use crate::dispatcher::{Dispatcher, Source, hooks};
use crate::py::cast::known;
use crate::py::error::to_python;
use crate::task::any_future;

/// The request to queue for a handler; `None` if it is queued already.
fn request_of(py: Python<'_>, handler: &Handler) -> Option<Request> {
    match handler {
        Handler::Callback(handle) => Some(Request::Foreign(handle.clone_ref(py))),
        Handler::Acceptor(acceptor) => Acceptor::request(known(acceptor.bind(py))),
        Handler::Datagrams(datagrams) => Datagrams::request(known(datagrams.bind(py))),
    }
}

/// Retire a handler that was taken out, so that no queued call of it runs; returns whether there was one.
fn retire(py: Python<'_>, handler: Option<Handler>) -> PyResult<bool> {
    match handler {
        None => return Ok(false),
        Some(Handler::Callback(handle)) => {
            handle.call_method0(py, intern!(py, "cancel"))?;
        }
        Some(Handler::Acceptor(acceptor)) => known::<Acceptor>(acceptor.bind(py)).get().retire(py),
        Some(Handler::Datagrams(datagrams)) => {
            known::<Datagrams>(datagrams.bind(py)).get().retire()
        }
    }
    Ok(true)
}

/// Refuse the connections that acceptors hold: the loop is closed, but may have acceptors that live on.
pub(crate) fn refuse_connections(py: Python<'_>, descriptors: &Descriptors) {
    for entry in descriptors.by_fd.values() {
        if let Some(Handler::Acceptor(acceptor)) = &entry.descriptor.read.handler {
            known::<Acceptor>(acceptor.bind(py)).get().give_up(py);
        }
    }
}

/// Queue the requests for which a descriptor's readiness is reported.
pub(crate) fn became_ready(
    py: Python<'_>,
    descriptors: &mut Descriptors,
    fd: i32,
    readiness: Readiness,
    queues: &mut threadlets_core::Scheduler<Request>,
) {
    let Some(entry) = descriptors.by_fd.get(&fd) else { return };
    let mut wants_level = false;
    for (is_ready, half, direction) in [
        (readiness.readable, &entry.descriptor.read, Direction::Read),
        (readiness.writable, &entry.descriptor.write, Direction::Write),
    ] {
        if !is_ready {
            continue;
        }
        if let Some(handler) = &half.handler {
            if let Some(request) = request_of(py, handler) {
                queues.submit(request);
            }
            wants_level |= matches!(handler, Handler::Callback(_));
        }
        if !half.waiting.is_empty() {
            queues.submit(Request::Operations(fd, direction));
        }
    }
    if wants_level {
        descriptors.to_rearm.push(fd);
    }
}

/// Ask again for the readiness of the descriptors whose callbacks were called; returns whether
/// the kernel watches all of them. A refused descriptor is tried again before the next poll, and
/// reported to the loop's exception handler once.
pub(crate) fn rearm(
    slf: &Bound<'_, Dispatcher>,
    py: Python<'_>,
    poller: &Poller,
) -> PyResult<bool> {
    let refused = slf.get().descriptors.with(py, |descriptors| {
        let mut refused = Vec::new();
        for fd in std::mem::take(&mut descriptors.to_rearm) {
            if let Some(entry) = descriptors.by_fd.get_mut(&fd)
                && !entry.descriptor.is_unhandled()
            {
                let asked = poller.modify(fd, entry.key, entry.descriptor.interest());
                // A descriptor that was closed with its callback set is not reported, as in select loops.
                let error = asked.err().filter(|it| !it.is_gone());
                let was_refused = std::mem::replace(&mut entry.is_refused, error.is_some());
                if let Some(error) = error {
                    descriptors.to_rearm.push(fd);
                    refused.extend((!was_refused).then_some((fd, error)));
                }
            }
        }
        refused
    });
    for (fd, error) in refused {
        hooks::descriptor_refused(slf, fd, to_python(error))?;
    }
    Ok(slf.get().descriptors.with(py, |descriptors| descriptors.to_rearm.is_empty()))
}

/// Register a descriptor of a stream, for reading.
pub(crate) fn add_source(
    dispatcher: &Dispatcher,
    py: Python<'_>,
    fd: i32,
    source: Source,
) -> PyResult<SourceKey> {
    register_source(dispatcher, py, fd, source, Interest::READABLE_OR_URGENT)
}

/// Register a descriptor whose owner is told of its readiness.
pub(crate) fn register_source(
    dispatcher: &Dispatcher,
    py: Python<'_>,
    fd: i32,
    source: Source,
    interest: Interest,
) -> PyResult<SourceKey> {
    let poller = dispatcher.poller(py)?;
    evict(dispatcher, py, fd)?;
    let key = dispatcher.sources.with(py, |sources| sources.insert(source));
    match poller.register(fd, key, interest) {
        Ok(()) => Ok(key),
        Err(error) => {
            drop(dispatcher.sources.with(py, |sources| sources.remove(key)));
            Err(to_python(error))
        }
    }
}

/// Remove the entry of a number that was opened anew: its file was closed unnoticed.
fn evict(dispatcher: &Dispatcher, py: Python<'_>, fd: i32) -> PyResult<()> {
    fail_closed(dispatcher, py, fd)?;
    if let Some(entry) = dispatcher.descriptors.with(py, |it| it.by_fd.remove(&fd)) {
        drop(dispatcher.sources.with(py, |sources| sources.remove(entry.key)));
    }
    Ok(())
}

/// Set the handler of one direction; returns the previous one.
fn set_handler(
    dispatcher: &Dispatcher,
    py: Python<'_>,
    fd: i32,
    direction: Direction,
    handler: Handler,
) -> PyResult<Option<Handler>> {
    let poller = dispatcher.poller(py)?;
    let key = key_of(dispatcher, py, fd);
    let (previous, outcome) = dispatcher.descriptors.with(py, |descriptors| {
        let entry = descriptors.entry(fd, key);
        let was_idle = entry.descriptor.is_idle();
        let previous = entry.half(direction).handler.replace(handler);
        let interest = entry.descriptor.interest();
        let outcome = if was_idle {
            poller.register(fd, key, interest)
        } else {
            poller.modify(fd, key, interest)
        };
        (previous, outcome)
    });
    let Err(error) = outcome else { return Ok(previous) };
    // Put the previous handler back.
    let refused = dispatcher.descriptors.with(py, |descriptors| match previous {
        Some(previous) => descriptors.entry(fd, key).half(direction).handler.replace(previous),
        None => None,
    });
    if refused.is_none() {
        drop(remove_handler(dispatcher, py, fd, direction));
    }
    drop(refused);
    Err(to_python(error))
}

/// Remove the handler of one direction, and the entry with its last handler.
pub(crate) fn remove_handler(
    dispatcher: &Dispatcher,
    py: Python<'_>,
    fd: i32,
    direction: Direction,
) -> Option<Handler> {
    let (handler, idle, files) = dispatcher.descriptors.with(py, |descriptors| {
        let Some(entry) = descriptors.by_fd.get_mut(&fd) else { return Default::default() };
        let handler = entry.half(direction).handler.take();
        // Operations may keep the entry, which holds on to no object without a handler.
        let is_unhandled = entry.descriptor.is_unhandled();
        let files = is_unhandled.then(|| std::mem::take(&mut entry.files));
        let idle = entry.descriptor.is_idle().then(|| descriptors.by_fd.remove(&fd)).flatten();
        (handler, idle, files)
    });
    drop(files);
    if let Some(entry) = idle {
        // The caller may have closed the descriptor already; then there is nothing to undo.
        let _ = dispatcher.poller(py).map(|poller| poller.deregister(fd));
        drop(dispatcher.sources.with(py, |sources| sources.remove(entry.key)));
    }
    handler
}

/// Keep the descriptor of `sock` registered for both directions, so that operations can wait on it.
pub(crate) fn register_for_operations(
    dispatcher: &Dispatcher,
    sock: &Bound<'_, PyAny>,
    fd: i32,
) -> PyResult<()> {
    let py = sock.py();
    let known = dispatcher.descriptors.with(py, |descriptors| {
        descriptors.by_fd.get(&fd).and_then(|it| it.owner.as_ref()).map(|it| it.clone_ref(py))
    });
    if let Some(owner) = known
        && owner.bind(py).call0()?.is(sock)
    {
        return Ok(());
    }
    let weakref = py.import(intern!(py, "weakref"))?.getattr(intern!(py, "ref"))?;
    let owner = weakref.call1((sock,))?.unbind();
    fail_closed(dispatcher, py, fd)?;
    let poller = dispatcher.poller(py)?;
    let key = key_of(dispatcher, py, fd);
    let (previous, outcome) = dispatcher.descriptors.with(py, |descriptors| {
        let entry = descriptors.entry(fd, key);
        entry.descriptor.keeps_registration = true;
        let outcome = poller.modify(fd, key, entry.descriptor.interest());
        // Without an owner the next operation registers again: on an unregistered descriptor it would
        // wait for ever.
        let owner = outcome.is_ok().then_some(owner);
        (std::mem::replace(&mut entry.owner, owner), outcome)
    });
    drop(previous);
    outcome.map_err(to_python)
}

/// Whether an operation's socket still has the descriptor `fd`.
pub(crate) fn is_open(py: Python<'_>, operation: &SockOp, fd: i32) -> PyResult<bool> {
    Ok(operation.sock.bind(py).call_method0(intern!(py, "fileno"))?.extract::<i32>()? == fd)
}

/// Fail the operation of a socket that was closed.
pub(crate) fn fail_operation(py: Python<'_>, operation: SockOp) -> PyResult<()> {
    let future = operation.future.bind(py);
    any_future::settle(future, Err(to_python(threadlets_core::Error::bad_descriptor("fileno"))))
}

/// Fail the operations whose sockets were closed while they waited for `fd`.
fn fail_closed(dispatcher: &Dispatcher, py: Python<'_>, fd: i32) -> PyResult<()> {
    for direction in [Direction::Read, Direction::Write] {
        let waiting = dispatcher.descriptors.with(py, |descriptors| {
            descriptors.operations(fd, direction).map(std::mem::take).unwrap_or_default()
        });
        let mut open = VecDeque::new();
        for operation in waiting {
            if is_open(py, &operation, fd)? {
                open.push_back(operation);
            } else {
                fail_operation(py, operation)?;
            }
        }
        dispatcher.descriptors.with(py, |descriptors| {
            if let Some(waiting) = descriptors.operations(fd, direction) {
                waiting.append(&mut open);
            }
        });
    }
    Ok(())
}

fn key_of(dispatcher: &Dispatcher, py: Python<'_>, fd: i32) -> SourceKey {
    let known = dispatcher.descriptors.with(py, |it| it.by_fd.get(&fd).map(|it| it.key));
    known.unwrap_or_else(|| {
        dispatcher.sources.with(py, |sources| sources.insert(Source::Descriptor(fd)))
    })
}

/// The arguments of `asyncio.Handle`: callback, arguments, loop, context.
type HandleArgs<'a, 'py> =
    (Bound<'py, PyAny>, Bound<'py, PyTuple>, &'a Bound<'py, Dispatcher>, Option<Bound<'py, PyAny>>);

pub(crate) fn add_handler<'py>(
    slf: &Bound<'py, Dispatcher>,
    fd: &Bound<'py, PyAny>,
    direction: Direction,
    handle: HandleArgs<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    static HANDLE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let py = slf.py();
    slf.get().check_closed()?;
    Dispatcher::check_thread(slf)?;
    let file = (!fd.is_instance_of::<PyInt>()).then(|| fd.clone().unbind());
    let fd = fileno(fd)?;
    let handle = HANDLE.import(py, "asyncio", "Handle")?.call1(handle)?;
    let handler = Handler::Callback(handle.clone().unbind());
    replace_handler(slf, fd, direction, handler)?;
    // A number that comes later does not take an object away, as in asyncio's selectors.
    if let Some(file) = file {
        let previous = slf.get().descriptors.with(py, |descriptors| {
            descriptors.by_fd.get_mut(&fd).and_then(|entry| entry.remember(direction, file))
        });
        drop(previous);
    }
    Ok(handle)
}

/// Have an acceptor read a listening socket.
pub(crate) fn add_acceptor(
    slf: &Bound<'_, Dispatcher>,
    fd: &Bound<'_, PyAny>,
    on_connection: Py<PyAny>,
    on_error: Py<PyAny>,
    context: Option<Py<PyAny>>,
) -> PyResult<()> {
    let py = slf.py();
    slf.get().check_closed()?;
    let fd = fileno(fd)?;
    let acceptor = Py::new(py, Acceptor::new(py, fd, on_connection, on_error, context)?)?;
    replace_handler(slf, fd, Direction::Read, Handler::Acceptor(acceptor.into_any()))
}

/// Have the datagrams of a socket passed to a protocol.
pub(crate) fn add_datagrams(
    slf: &Bound<'_, Dispatcher>,
    fd: &Bound<'_, PyAny>,
    protocol: Py<PyAny>,
) -> PyResult<Py<Datagrams>> {
    let py = slf.py();
    slf.get().check_closed()?;
    let fd = fileno(fd)?;
    let datagrams = Py::new(py, Datagrams::new(py, fd, protocol)?)?;
    let handler = Handler::Datagrams(datagrams.clone_ref(py).into_any());
    replace_handler(slf, fd, Direction::Read, handler)?;
    Ok(datagrams)
}

/// Set the handler of one direction and retire the previous one.
fn replace_handler(
    slf: &Bound<'_, Dispatcher>,
    fd: i32,
    direction: Direction,
    handler: Handler,
) -> PyResult<()> {
    let py = slf.py();
    let previous = set_handler(slf.get(), py, fd, direction, handler)?;
    retire(py, previous).map(drop)
}

pub(crate) fn remove(
    slf: &Bound<'_, Dispatcher>,
    fd: &Bound<'_, PyAny>,
    direction: Direction,
) -> PyResult<bool> {
    let py = fd.py();
    let dispatcher = slf.get();
    if dispatcher.check_closed().is_err() {
        return Ok(false);
    }
    Dispatcher::check_thread(slf)?;
    let fd = fileno(fd).or_else(|error| {
        let closed = dispatcher.descriptors.with(py, |descriptors| {
            descriptors.by_fd.iter().find(|(_, entry)| entry.is_of(fd)).map(|(fd, _)| *fd)
        });
        closed.ok_or(error)
    })?;
    retire(py, remove_handler(dispatcher, py, fd, direction))
}

/// The number of a descriptor, given as a number or as an object with a `fileno()`.
fn fileno(fd: &Bound<'_, PyAny>) -> PyResult<i32> {
    if let Ok(fd) = fd.extract::<i32>() {
        return check_fileno(fd, || fd.to_string());
    }
    let invalid = || {
        let description = fd.repr().map_or_else(|_| "?".to_owned(), |it| it.to_string());
        pyo3::exceptions::PyValueError::new_err(format!("Invalid file object: {description}"))
    };
    let number = fd.call_method0(intern!(fd.py(), "fileno")).map_err(|_| invalid())?;
    check_fileno(number.extract::<i32>().map_err(|_| invalid())?, || number.to_string())
}

fn check_fileno(fd: i32, describe: impl FnOnce() -> String) -> PyResult<i32> {
    if fd >= 0 {
        return Ok(fd);
    }
    let message = format!("Invalid file descriptor: {}", describe());
    Err(pyo3::exceptions::PyValueError::new_err(message))
}
