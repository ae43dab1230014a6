//! A connected stream socket between the dispatcher and a protocol.
//!
//! This module does what happens once per message: receive and call the protocol, send or queue, flush. The
//! transport, in Python, does what happens once per connection: how it opens, fails and ends.

use std::os::fd::AsRawFd;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use threadlets_core::connection::Received;
use threadlets_core::socket::{Address, SocketFd, is_readable};
use threadlets_core::{Error, Interest, Readiness};

use super::connection_context::ConnectionContext;
use super::descriptors;
use super::read_buffer::ReadBuffer;
use super::stream_state::StreamState;
use crate::contract::in_context;
use crate::dispatcher::request::Request;
use crate::dispatcher::{Dispatcher, Source, hooks};
use crate::py::byte_buffer::{ByteBuffer, Chunk, check_bytes_like, with_bytes};
use crate::py::error::{ends_the_loop, to_python};
use crate::py::gil_cell::GilCell;
use crate::py::memory;

/// The native half of a socket transport.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub struct Stream {
    dispatcher: Py<Dispatcher>,
    /// Its protocol is called in this context.
    pub(super) context: ConnectionContext,
    /// The peer of an accepted connection, converted when `peername` is called.
    pub(super) peer: Option<Address>,
    pub(crate) state: GilCell<StreamState>,
}

/// The outcome of a write, which says what the transport has to do.
enum Written {
    Done,
    Queued {
        pauses: bool,
    },
    Lost {
        n_writes_lost: u32,
    },
    Failed(Error),
    /// A part was sent, and there was no memory for the rest.
    NotKept(PyErr),
}

const READ_FAILED: &str = "Fatal read error on socket transport";
const WRITE_FAILED: &str = "Fatal write error on socket transport";

impl Stream {
    /// A connection that a server has accepted; a transport takes it over, with its descriptor.
    pub(crate) fn accepted(
        dispatcher: &Bound<'_, Dispatcher>,
        fd: &impl AsRawFd,
        peer: Address,
        context: ConnectionContext,
    ) -> PyResult<Py<Self>> {
        let py = dispatcher.py();
        let state = StreamState::new(SocketFd::new(fd.as_raw_fd()));
        Py::new(py, Self::from_parts(dispatcher.clone().unbind(), context, Some(peer), state))
    }

    fn from_parts(
        dispatcher: Py<Dispatcher>,
        context: ConnectionContext,
        peer: Option<Address>,
        state: StreamState,
    ) -> Self {
        Self { dispatcher, context, peer, state: GilCell::new(state) }
    }

    /// Note a connection's readiness; returns its request, to be queued, unless it is queued already.
    pub(crate) fn note(slf: &Bound<'_, Self>, readiness: Readiness) -> Option<Request> {
        let noted = slf.get().state.with(slf.py(), |state| {
            let noted = state.noted;
            state.noted = Some(noted.map_or(readiness, |noted| noted | readiness));
            noted
        });
        noted.is_none().then(|| Request::Stream(slf.clone().into_any().unbind()))
    }

    /// The protocol, until the connection is released.
    pub(crate) fn protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |it| it.protocol.as_ref().map(|it| it.bind(py).clone()))
    }

    /// The descriptor.
    pub(crate) fn fd(&self, py: Python<'_>) -> i32 {
        self.state.with(py, |state| state.io.fd().raw())
    }

    /// Serve the connection's noted readiness.
    pub(crate) fn serve(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let readiness = this.state.with(py, |state| {
            if state.is_served {
                // A protocol is called by one thread at a time.
                state.is_deferred = true;
                return None;
            }
            let readiness = state.noted.take();
            state.is_served = readiness.is_some();
            readiness
        });
        let Some(readiness) = readiness else { return Ok(()) };
        let served = this.context.own(py).and_then(|context| {
            in_context(py, &context, || {
                if readiness.readable {
                    Self::receive(slf, readiness)?;
                }
                if readiness.writable { this.flush(py) } else { Ok(()) }
            })
        });
        let is_deferred = this.state.with(py, |state| {
            state.is_served = false;
            std::mem::take(&mut state.is_deferred)
        });
        if is_deferred {
            let request = Request::Stream(slf.clone().into_any().unbind());
            this.dispatcher.get().submit(py, request)?;
        }
        if served.is_err() {
            // Readiness comes as edges: what was not read or written is not reported again.
            Self::try_again(slf, Readiness { writable: true, ..Readiness::READABLE })?;
        }
        served
    }

    /// Queue another attempt, for the next tick.
    fn try_again(slf: &Bound<'_, Self>, readiness: Readiness) -> PyResult<()> {
        let py = slf.py();
        let Some(request) = Self::note(slf, readiness) else { return Ok(()) };
        slf.get().dispatcher.get().submit(py, request)
    }

    /// Receive once and call the protocol; if more may be left, queue another attempt.
    fn receive(slf: &Bound<'_, Self>, readiness: Readiness) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let receiver = this.state.with(py, |state| {
            if readiness.short_read_misleads {
                state.io.distrust_short_reads();
            }
            if !state.io.is_reading() {
                state.io.note_missed_readiness();
                return None;
            }
            // Urgent data alone is nothing to read: a protocol is not asked for a buffer in vain.
            if readiness.urgent && !is_readable(state.io.fd()) {
                return None;
            }
            let protocol = state.protocol.as_ref()?.clone_ref(py);
            Some((protocol, state.protocol_lends, state.live_read_buffer(py)))
        });
        // A paused connection is tried again when it resumes.
        let Some((protocol, lends, read_buffer)) = receiver else { return Ok(()) };
        let protocol = protocol.bind(py);
        let received = if lends {
            this.receive_lent(py, protocol)
        } else {
            this.receive_data(py, |data| match read_buffer {
                Some(buffer) => buffer.get().feed(data),
                None => protocol.call_method1(intern!(py, "data_received"), (data,)).map(drop),
            })
        };
        match received {
            Ok(Received::Nothing) => Ok(()),
            Ok(Received::End) => this.tell_transport(py, hooks::received_end),
            Ok(Received::Data { more: false, .. }) => Ok(()),
            Ok(Received::Data { more: true, .. }) => Self::try_again(slf, Readiness::READABLE),
            Err(error) => Err(error),
        }
    }

    fn receive_data<'py>(
        &self,
        py: Python<'py>,
        pass_on: impl FnOnce(Bound<'py, PyBytes>) -> PyResult<()>,
    ) -> PyResult<Received> {
        let received = self.dispatcher.get().with_receive_buffer(py, |buffer| {
            let received = self.state.with(py, |state| state.io.receive(buffer));
            let data = match received {
                Ok(Received::Data { n_bytes, .. }) => Some(memory::bytes(py, &buffer[..n_bytes])),
                _ => None,
            };
            (received, data)
        });
        let (received, data) = match received {
            Ok((received, data)) => (received, data.transpose()),
            Err(error) => (Ok(Received::Nothing), Err(error)),
        };
        match data {
            Ok(None) => {}
            Ok(Some(data)) => {
                if let Err(error) = pass_on(data) {
                    let message = "Fatal error: protocol.data_received() call failed.";
                    self.fail(py, error, message)?;
                }
            }
            // The received bytes are lost, and a stream cannot go on without them.
            Err(error) => self.fail(py, error, READ_FAILED)?,
        }
        self.received(py, received)
    }

    fn receive_lent(&self, py: Python<'_>, protocol: &Bound<'_, PyAny>) -> PyResult<Received> {
        let lent = protocol
            .call_method1(intern!(py, "get_buffer"), (-1,))
            .and_then(|buffer| ByteBuffer::writable(&buffer));
        let buffer = match lent {
            Ok(buffer) if buffer.bytes(py).is_empty() => {
                Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"))
            }
            other => other,
        };
        let mut buffer = match buffer {
            Ok(buffer) => buffer,
            Err(error) => {
                self.fail(py, error, "Fatal error: protocol.get_buffer() call failed.")?;
                return Ok(Received::Nothing);
            }
        };
        let received = self.state.with(py, |state| state.io.receive(buffer.bytes_mut(py)));
        drop(buffer);
        if let Ok(Received::Data { n_bytes, .. }) = received
            && let Err(error) = protocol.call_method1(intern!(py, "buffer_updated"), (n_bytes,))
        {
            self.fail(py, error, "Fatal error: protocol.buffer_updated() call failed.")?;
        }
        self.received(py, received)
    }

    /// Pass a receive's outcome on; the transport handles a failure.
    fn received(
        &self,
        py: Python<'_>,
        received: threadlets_core::Result<Received>,
    ) -> PyResult<Received> {
        received.or_else(|error| {
            self.fail(py, to_python(error), READ_FAILED)?;
            Ok(Received::Nothing)
        })
    }

    /// Send unsent bytes, and call the methods of the transport that follow from it.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let flushed = self.state.with(py, |state| {
            if state.io.n_unsent() == 0 {
                return None;
            }
            let flushed = state.io.flush();
            Some(flushed.map(|_| state.io.may_resume_writes()))
        });
        match flushed {
            None => return Ok(()),
            Some(Ok(false)) => {}
            Some(Ok(true)) => self.tell_transport(py, hooks::resume_protocol)?,
            Some(Err(error)) => {
                return self.fail(py, to_python(error), WRITE_FAILED);
            }
        }
        // Look again: a protocol that was resumed may have written more.
        let (drained, lent, ends, ended) = self.state.with(py, |state| {
            let drained = state.io.n_unsent() == 0;
            (drained, state.lent, state.io.end_if_drained(), state.io.is_writing_ended())
        });
        if !drained {
            return Ok(());
        }
        if lent {
            self.tell_transport(py, hooks::drained)?;
        }
        if ends {
            return self.tell_transport(py, |it| hooks::lose(it, py.None()));
        }
        if ended {
            let fd = self.state.with(py, |state| state.io.fd());
            if let Err(error) = threadlets_core::socket::shutdown_write(fd) {
                return self.fail(py, to_python(error), WRITE_FAILED);
            }
        }
        Ok(())
    }

    fn write_slice(
        &self,
        py: Python<'_>,
        data: &[u8],
        keep: impl FnOnce() -> PyResult<Chunk>,
    ) -> PyResult<Written> {
        self.state.with(py, |state| {
            state.check_writable("write")?;
            if data.is_empty() {
                return Ok(Written::Done);
            }
            if state.io.is_over() {
                state.n_writes_lost += 1;
                return Ok(Written::Lost { n_writes_lost: state.n_writes_lost });
            }
            Ok(match state.io.send(data) {
                Ok(n_sent) if n_sent == data.len() => Written::Done,
                Ok(n_sent) => match keep() {
                    Ok(chunk) => {
                        state.io.queue(chunk, n_sent);
                        Written::Queued { pauses: state.io.must_pause_writes() }
                    }
                    Err(error) if n_sent == 0 => return Err(error),
                    Err(error) => Written::NotKept(error),
                },
                Err(error) => Written::Failed(error),
            })
        })
    }

    /// Register for writing too once something is unsent, and for good: a connection that was too slow once
    /// will be again.
    fn await_room(&self, py: Python<'_>) -> PyResult<()> {
        let registration = self.state.with(py, |state| {
            let key =
                state.key.filter(|_| !state.registered_for_write && state.io.n_unsent() > 0)?;
            state.registered_for_write = true;
            Some((state.io.fd().raw(), key))
        });
        let Some((fd, key)) = registration else { return Ok(()) };
        self.dispatcher.get().poller(py)?.modify(fd, key, Interest::ALL).map_err(to_python)
    }

    fn wrote(&self, py: Python<'_>, written: Written) -> PyResult<()> {
        match written {
            Written::Done => Ok(()),
            Written::Queued { pauses } => {
                self.await_room(py)?;
                if pauses { self.tell_transport(py, hooks::pause_protocol) } else { Ok(()) }
            }
            Written::Lost { n_writes_lost } => {
                hooks::lost_write(self.dispatcher.bind(py), n_writes_lost).map(drop)
            }
            Written::Failed(error) => self.fail(py, to_python(error), WRITE_FAILED),
            Written::NotKept(error) => {
                // A stream cannot go on with a part of it missing.
                self.fail(py, error.clone_ref(py), WRITE_FAILED)?;
                Err(error)
            }
        }
    }

    fn leave_read_buffer(&self, py: Python<'_>) {
        if let Some(left) = self.state.with(py, |it| it.read_buffer.take()) {
            left.get().set_stream(py, None);
        }
    }

    fn transport<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.state.with(py, |it| it.transport.as_ref().map(|it| it.bind(py).clone()))
    }

    /// Call a method of the transport, if the stream is still attached to one.
    fn tell_transport<'py>(
        &self,
        py: Python<'py>,
        hook: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        self.transport(py).map_or(Ok(()), |transport| hook(&transport).map(drop))
    }

    /// Give an error to the transport, which ends the connection; an error that ends the loop is returned.
    fn fail(&self, py: Python<'_>, error: PyErr, message: &str) -> PyResult<()> {
        if ends_the_loop(py, &error) {
            return Err(error);
        }
        let Some(transport) = self.transport(py) else { return Ok(()) };
        hooks::fatal_error(&transport, error, message).map(drop)
    }
}

#[pymethods]
impl Stream {
    #[new]
    #[pyo3(signature = (dispatcher, fd, transport, context=None))]
    fn new(
        dispatcher: Py<Dispatcher>,
        fd: i32,
        transport: Bound<'_, PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        if fd < 0 {
            return Err(to_python(Error::bad_descriptor("fileno")));
        }
        let context = match context {
            Some(context) => ConnectionContext::given(context),
            None => ConnectionContext::present(transport.py())?,
        };
        let state = StreamState {
            transport: Some(transport.unbind()),
            ..StreamState::new(SocketFd::new(fd))
        };
        Ok(Self::from_parts(dispatcher, context, None, state))
    }

    /// Attach the stream to a transport, until the connection is released.
    fn set_transport(&self, py: Python<'_>, transport: Py<PyAny>) {
        drop(self.state.with(py, |state| state.transport.replace(transport)));
    }

    /// Deliver received data to `protocol` from now on; `lends`: into the protocol's own buffers.
    /// `read_buffer` is that of the protocol's stream reader, and gets the data without the protocol.
    fn set_protocol(
        slf: &Bound<'_, Self>,
        protocol: Py<PyAny>,
        lends: bool,
        read_buffer: Option<Py<ReadBuffer>>,
    ) {
        let py = slf.py();
        let this = slf.get();
        this.leave_read_buffer(py);
        if let Some(read_buffer) = &read_buffer {
            read_buffer.get().set_stream(py, Some(slf.clone().unbind()));
        }
        let previous = this.state.with(py, |state| {
            state.protocol_lends = lends;
            state.read_buffer = read_buffer;
            state.protocol.replace(protocol)
        });
        drop(previous);
    }

    /// Register with the poller, and read unless paused or closed meanwhile.
    fn start(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let (is_over, fd) = this.state.with(py, |it| (it.io.is_over(), it.io.fd().raw()));
        if is_over {
            return Ok(());
        }
        let source = Source::Stream(slf.clone().into_any().unbind());
        let key = descriptors::add_source(this.dispatcher.get(), py, fd, source)?;
        this.state.with(py, |state| state.key = Some(key));
        this.await_room(py)
    }

    /// Stop receiving until `resume`; return whether that changes anything.
    fn pause(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.io.pause())
    }

    /// Receive again; return whether that changes anything.
    fn resume(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        let (resumes, missed) = this.state.with(py, |state| {
            let resumes = state.io.resume();
            (resumes, resumes && state.io.take_missed_readiness())
        });
        if missed {
            Self::try_again(slf, Readiness::READABLE)?;
        }
        Ok(resumes)
    }

    /// Send `data`, a bytes-like object: at once as far as there is room, the rest later.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        Dispatcher::check_thread(self.dispatcher.bind(py))?;
        let written = if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            self.write_slice(py, bytes.as_bytes(), || Ok(Chunk::share(bytes)))
        } else {
            check_bytes_like(data)?;
            with_bytes(data, |slice| self.write_slice(py, slice, || Chunk::copy(slice)))
        };
        self.wrote(py, written?)
    }

    /// Send a list of bytes-like objects as if they were one.
    fn writelines(&self, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = list_of_data.py();
        Dispatcher::check_thread(self.dispatcher.bind(py))?;
        self.state.with(py, |state| state.check_writable("writelines"))?;
        let mut chunks = Vec::new();
        for data in list_of_data.try_iter()? {
            let data = data?;
            match data.cast_exact::<PyBytes>() {
                Ok(bytes) => chunks.push(Chunk::share(bytes)),
                Err(_) => with_bytes(&data, |slice| {
                    chunks.push(Chunk::copy(slice)?);
                    Ok(())
                })?,
            }
        }
        let written = self.state.with(py, |state| {
            if chunks.iter().all(|chunk| chunk.as_ref().is_empty()) {
                return Written::Done;
            }
            if state.io.is_over() {
                state.n_writes_lost += 1;
                return Written::Lost { n_writes_lost: state.n_writes_lost };
            }
            let was_waiting = state.io.n_unsent() > 0;
            for chunk in chunks {
                state.io.queue(chunk, 0);
            }
            let flushed = if was_waiting { Ok(false) } else { state.io.flush() };
            match flushed {
                Err(error) => Written::Failed(error),
                Ok(true) => Written::Done,
                Ok(false) => Written::Queued { pauses: state.io.must_pause_writes() },
            }
        });
        self.wrote(py, written)
    }

    /// Shut the writing half down once everything is sent.
    fn write_eof(&self, py: Python<'_>) -> PyResult<()> {
        self.state.with(py, |state| state.io.end_writing()).map_err(to_python)
    }

    /// Close once everything is sent; return whether that is now, and the loss is to be reported.
    fn close(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.io.close())
    }

    /// Close now and drop unsent bytes; return whether the loss is to be reported.
    fn abort(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.io.abort()).is_some()
    }

    /// Deregister from the poller, and forget transport and protocol; the socket may be closed after this.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.leave_read_buffer(py);
        let (key, fd, dropped) = self.state.with(py, |state| {
            let dropped = (state.io.abort(), state.transport.take(), state.protocol.take());
            (state.key.take(), state.io.fd().raw(), dropped)
        });
        drop(dropped);
        let Some(key) = key else { return Ok(()) };
        let dispatcher = self.dispatcher.get();
        drop(dispatcher.sources.with(py, |sources| sources.remove(key)));
        // Closing the socket does not deregister it while a child process holds a duplicate. A closed loop
        // has no poller.
        dispatcher.poller(py).map_or(Ok(()), |poller| poller.deregister(fd)).map_err(to_python)
    }

    /// Refuse writes, and call the transport's `_drained` once all is sent; return whether some is unsent.
    fn lend(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| {
            state.lent = true;
            state.io.n_unsent() > 0
        })
    }

    /// End what `lend` began: accept writes, and restore the registration, which may have changed since.
    fn take_back(&self, py: Python<'_>) -> PyResult<()> {
        let (key, fd, interest) = self.state.with(py, |state| {
            state.lent = false;
            let interest = if state.registered_for_write {
                Interest::ALL
            } else {
                Interest::READABLE_OR_URGENT
            };
            (state.key, state.io.fd().raw(), interest)
        });
        let Some(key) = key else { return Ok(()) };
        self.dispatcher.get().poller(py)?.modify(fd, key, interest).map_err(to_python)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.dispatcher)?;
        self.context.traverse(&visit)?;
        self.state.traverse(&visit, |state| {
            visit.call(&state.transport)?;
            visit.call(&state.protocol)?;
            visit.call(&state.read_buffer)
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = self
            .state
            .with(py, |it| (it.transport.take(), it.protocol.take(), it.read_buffer.take()));
        drop(cleared);
    }
}
