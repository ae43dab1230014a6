//! Descriptors that belong to the program: `add_reader` and `add_writer`, acceptors, datagram
//! sockets, and the operations of `sock_ops` that wait.

use std::collections::{HashMap, VecDeque};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyInt, PyTuple, PyType};
use threadlets_core::descriptor::{Descriptor, Half};
use threadlets_core::{Poller, Readiness, SourceKey};

use crate::accept::Acceptor;
use crate::datagrams::Datagrams;
use crate::dispatcher::{Dispatcher, Source};
use crate::error::to_python;
use crate::request::Request;
use crate::sock_ops::{Direction, SockOp};

/// The handler that is called when a descriptor is ready.
#[derive(Debug)]
pub(crate) enum Handler {
    /// An `asyncio.Handle`, called for as long as the descriptor is ready.
    Callback(Py<PyAny>),
    /// An acceptor, which queues its own requests until nothing is left to accept.
    Acceptor(Py<Acceptor>),
    /// A datagram socket, which queues its own requests until nothing is left to receive.
    Datagrams(Py<Datagrams>),
}

impl Handler {
    /// The request to queue; `None` if it is queued already.
    fn request(&self, py: Python<'_>) -> Option<Request> {
        match self {
            Self::Callback(handle) => Some(Request::Foreign(handle.clone_ref(py))),
            Self::Acceptor(acceptor) => Acceptor::request(acceptor, py),
            Self::Datagrams(datagrams) => Datagrams::request(datagrams, py),
        }
    }

    fn object(&self, py: Python<'_>) -> Py<PyAny> {
        match self {
            Self::Callback(handle) => handle.clone_ref(py),
            Self::Acceptor(acceptor) => acceptor.clone_ref(py).into_any(),
            Self::Datagrams(datagrams) => datagrams.clone_ref(py).into_any(),
        }
    }

    /// Retire the handler: a call that is queued already must not take place.
    fn retire(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Callback(handle) => handle.call_method0(py, intern!(py, "cancel")).map(drop),
            Self::Acceptor(acceptor) => {
                acceptor.get().retire(py);
                Ok(())
            }
            Self::Datagrams(datagrams) => {
                datagrams.get().retire();
                Ok(())
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct DescriptorEntry {
    key: SourceKey,
    pub(crate) descriptor: Descriptor<Handler, SockOp>,
    /// A weak reference to the socket object whose operations registered the descriptor. If
    /// another socket object has the same number, the number was closed and opened anew.
    owner: Option<Py<PyAny>>,
    /// The object given to `add_reader` or `add_writer`, if it was not a number. The entry is
    /// found by it once the object is closed and has no number any more.
    file: Option<Py<PyAny>>,
    /// The kernel refuses to watch the descriptor at present, and the loop has reported that.
    is_refused: bool,
}

/// The descriptors of one loop, by number.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    by_fd: HashMap<i32, DescriptorEntry>,
    /// Descriptors whose readiness must be asked for again before the next poll, because a
    /// callback may not have taken everything.
    to_rearm: Vec<i32>,
}

impl Descriptors {
    /// The waiting operations of one direction of a descriptor.
    pub(crate) fn operations(
        &mut self,
        fd: i32,
        direction: Direction,
    ) -> Option<&mut VecDeque<SockOp>> {
        self.by_fd.get_mut(&fd).map(|entry| &mut entry.half(direction).waiting)
    }

    /// How many entries nothing waits for: they were made for operations, and their sockets may be closed.
    pub(crate) fn n_unused(&self) -> usize {
        self.by_fd.values().filter(|it| it.descriptor.is_unused()).count()
    }

    /// Refuse the connections that acceptors hold: the loop is closed, but may have acceptors that live on.
    pub(crate) fn refuse_connections(&self, py: Python<'_>) {
        for entry in self.by_fd.values() {
            if let Some(Handler::Acceptor(acceptor)) = &entry.descriptor.read.handler {
                acceptor.get().give_up(py);
            }
        }
    }

    /// Queue the requests for which a descriptor's readiness is reported.
    pub(crate) fn became_ready(
        &mut self,
        py: Python<'_>,
        fd: i32,
        readiness: Readiness,
        queues: &mut threadlets_core::Scheduler<Request>,
    ) {
        let Some(entry) = self.by_fd.get(&fd) else { return };
        let mut wants_level = false;
        for (is_ready, half, direction) in [
            (readiness.readable, &entry.descriptor.read, Direction::Read),
            (readiness.writable, &entry.descriptor.write, Direction::Write),
        ] {
            if !is_ready {
                continue;
            }
            if let Some(handler) = &half.handler {
                if let Some(request) = handler.request(py) {
                    queues.submit(request);
                }
                wants_level |= matches!(handler, Handler::Callback(_));
            }
            if !half.waiting.is_empty() {
                queues.submit(Request::Operations(fd, direction));
            }
        }
        if wants_level {
            self.to_rearm.push(fd);
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
            slf.call_method1(intern!(py, "_descriptor_refused"), (fd, to_python(error)))?;
        }
        Ok(slf.get().descriptors.with(py, |descriptors| descriptors.to_rearm.is_empty()))
    }

    /// Remove the entry of a number that was opened anew: its file was closed unnoticed.
    pub(crate) fn evict(dispatcher: &Dispatcher, py: Python<'_>, fd: i32) -> PyResult<()> {
        Self::fail_closed(dispatcher, py, fd)?;
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
        let key = Self::key_of(dispatcher, py, fd);
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
            drop(Self::remove_handler(dispatcher, py, fd, direction));
        }
        drop(refused);
        Err(to_python(error))
    }

    /// Remove the handler of one direction, and the entry with its last handler.
    fn remove_handler(
        dispatcher: &Dispatcher,
        py: Python<'_>,
        fd: i32,
        direction: Direction,
    ) -> Option<Handler> {
        let (handler, idle) = dispatcher.descriptors.with(py, |descriptors| {
            let Some(entry) = descriptors.by_fd.get_mut(&fd) else { return (None, None) };
            let handler = entry.half(direction).handler.take();
            let idle = entry.descriptor.is_idle().then(|| descriptors.by_fd.remove(&fd)).flatten();
            (handler, idle)
        });
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
        Self::fail_closed(dispatcher, py, fd)?;
        let poller = dispatcher.poller(py)?;
        let key = Self::key_of(dispatcher, py, fd);
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

    /// Fail the operations whose sockets were closed while they waited for `fd`.
    fn fail_closed(dispatcher: &Dispatcher, py: Python<'_>, fd: i32) -> PyResult<()> {
        for direction in [Direction::Read, Direction::Write] {
            let waiting = dispatcher.descriptors.with(py, |descriptors| {
                descriptors.operations(fd, direction).map(std::mem::take).unwrap_or_default()
            });
            let mut open = VecDeque::new();
            for operation in waiting {
                if operation.is_open(py, fd)? {
                    open.push_back(operation);
                } else {
                    operation.fail_closed(py)?;
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

    fn entry(&mut self, fd: i32, key: SourceKey) -> &mut DescriptorEntry {
        self.by_fd.entry(fd).or_insert_with(|| DescriptorEntry {
            key,
            descriptor: Descriptor::new(fd),
            owner: None,
            file: None,
            is_refused: false,
        })
    }

    /// Visit what the entries refer to, for the cycle collector.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for entry in self.by_fd.values() {
            for half in [&entry.descriptor.read, &entry.descriptor.write] {
                match &half.handler {
                    Some(Handler::Callback(handle)) => visit.call(handle)?,
                    Some(Handler::Acceptor(acceptor)) => visit.call(acceptor)?,
                    Some(Handler::Datagrams(datagrams)) => visit.call(datagrams)?,
                    None => {}
                }
                half.waiting.iter().try_for_each(|operation| operation.traverse(visit))?;
            }
            visit.call(&entry.owner)?;
            visit.call(&entry.file)?;
        }
        Ok(())
    }
}

impl DescriptorEntry {
    fn half(&mut self, direction: Direction) -> &mut Half<Handler, SockOp> {
        match direction {
            Direction::Read => &mut self.descriptor.read,
            Direction::Write => &mut self.descriptor.write,
        }
    }
}

/// A descriptor, its reader and its writer.
type Handlers = (i32, Option<Py<PyAny>>, Option<Py<PyAny>>);

#[pymethods]
impl Dispatcher {
    /// Call `callback(*args)` for as long as `fd` has something to read.
    #[pyo3(signature = (fd, callback, *args, context=None))]
    fn _add_reader<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        add_handler(slf, fd, Direction::Read, (callback, args, slf, context))
    }

    /// Call `callback(*args)` for as long as `fd` has room to write.
    #[pyo3(signature = (fd, callback, *args, context=None))]
    fn _add_writer<'py>(
        slf: &Bound<'py, Self>,
        fd: &Bound<'py, PyAny>,
        callback: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        context: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        add_handler(slf, fd, Direction::Write, (callback, args, slf, context))
    }

    /// Call `on_connection(stream)` for every connection that the listening socket `fd` accepts, and
    /// `on_error(exception)` when accepting fails, until `_remove_reader(fd)`. Each connection gets a copy of
    /// `context`.
    #[pyo3(signature = (fd, on_connection, on_error, context=None))]
    fn _add_acceptor(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        on_connection: Py<PyAny>,
        on_error: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        slf.get().check_closed()?;
        let fd = fileno(fd)?;
        let acceptor = Py::new(py, Acceptor::new(py, fd, on_connection, on_error, context)?)?;
        replace_handler(slf, fd, Direction::Read, Handler::Acceptor(acceptor))
    }

    /// Pass the datagrams that arrive on the socket `fd` to `protocol`, until `_remove_reader(fd)`.
    fn _add_datagrams(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        protocol: Py<PyAny>,
    ) -> PyResult<Py<Datagrams>> {
        let py = slf.py();
        slf.get().check_closed()?;
        let fd = fileno(fd)?;
        let datagrams = Py::new(py, Datagrams::new(py, fd, protocol)?)?;
        let handler = Handler::Datagrams(datagrams.clone_ref(py));
        replace_handler(slf, fd, Direction::Read, handler)?;
        Ok(datagrams)
    }

    /// Return the descriptors with a handler, each with its reader and its writer or None.
    fn _descriptors(&self, py: Python<'_>) -> Vec<Handlers> {
        self.descriptors.with(py, |descriptors| {
            let entry = descriptors.by_fd.iter().filter(|(_, it)| !it.descriptor.is_unhandled());
            let handler = |half: &Half<Handler, SockOp>| {
                half.handler.as_ref().map(|handler| handler.object(py))
            };
            entry
                .map(|(fd, it)| (*fd, handler(&it.descriptor.read), handler(&it.descriptor.write)))
                .collect()
        })
    }

    /// Stop calling the reader of `fd`; return whether there was one.
    fn _remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        remove(slf, fd, Direction::Read)
    }

    /// Stop calling the writer of `fd`; return whether there was one.
    fn _remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        remove(slf, fd, Direction::Write)
    }
}

/// The arguments of `asyncio.Handle`: callback, arguments, loop, context.
type HandleArgs<'a, 'py> =
    (Bound<'py, PyAny>, Bound<'py, PyTuple>, &'a Bound<'py, Dispatcher>, Option<Bound<'py, PyAny>>);

fn add_handler<'py>(
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
    let previous = slf.get().descriptors.with(py, |descriptors| {
        descriptors.by_fd.get_mut(&fd).and_then(|entry| std::mem::replace(&mut entry.file, file))
    });
    drop(previous);
    Ok(handle)
}

/// Set the handler of one direction and retire the previous one.
fn replace_handler(
    slf: &Bound<'_, Dispatcher>,
    fd: i32,
    direction: Direction,
    handler: Handler,
) -> PyResult<()> {
    let py = slf.py();
    let previous = Descriptors::set_handler(slf.get(), py, fd, direction, handler)?;
    retire(py, previous).map(drop)
}

fn remove(
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
            let is_its = |entry: &DescriptorEntry| entry.file.as_ref().is_some_and(|it| it.is(fd));
            descriptors.by_fd.iter().find(|(_, entry)| is_its(entry)).map(|(fd, _)| *fd)
        });
        closed.ok_or(error)
    })?;
    retire(py, Descriptors::remove_handler(dispatcher, py, fd, direction))
}

/// Retire a handler that was taken out, so that no queued call of it runs; returns whether there was one.
fn retire(py: Python<'_>, handler: Option<Handler>) -> PyResult<bool> {
    let Some(handler) = handler else { return Ok(false) };
    handler.retire(py).map(|()| true)
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
