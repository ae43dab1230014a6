//! What an `asyncio.StreamReader` has received and not handed out yet, and the future of the coroutine that
//! waits for more.
//!
//! It knows the reader's transport, but neither the reader nor its protocol: `_aio/streams.py` gives it to
//! both. It keeps the values of the reader's attributes, and does what asyncio's reader does with them.

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyAssertionError, PyNotImplementedError, PyOverflowError, PyRuntimeError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

use super::stream::Stream;
use crate::dispatcher::Dispatcher;
use crate::py::byte_buffer::ByteBuffer;
use crate::py::gil_cell::GilCell;
use crate::py::memory;
use crate::task::future::Future;
use crate::task::{any_future, making};

/// The native half of a stream reader.
#[pyclass(frozen, module = "threadlets._core")]
#[derive(Debug)]
pub struct ReadBuffer {
    dispatcher: Py<Dispatcher>,
    contents: GilCell<Contents>,
}

#[derive(Debug)]
struct Contents {
    /// Received bytes, as they were received; then `bytes` is empty.
    chunk: Option<Py<PyBytes>>,
    /// How many bytes of the chunk were handed out.
    n_taken: usize,
    /// The reader's `_buffer`. It is filled when a second chunk comes, or when a program asks for it.
    bytes: Py<PyByteArray>,
    limit: usize,
    eof: bool,
    exception: Option<Py<PyAny>>,
    /// The future that the reading coroutine awaits.
    waiter: Option<Py<PyAny>>,
    /// A waiter of before, to be awaited again once nobody else refers to it.
    spare: Option<Py<PyAny>>,
    transport: Option<Py<PyAny>>,
    /// The native half of the transport, while it fills this buffer.
    stream: Option<Py<Stream>>,
    /// The transport was asked to pause reading.
    paused: bool,
}

impl Contents {
    /// How many bytes of the chunk are not handed out yet.
    fn n_left_of_chunk(&self, py: Python<'_>) -> usize {
        self.chunk.as_ref().map_or(0, |it| it.as_bytes(py).len() - self.n_taken)
    }

    fn n_bytes(&self, py: Python<'_>) -> usize {
        self.n_left_of_chunk(py) + self.bytes.bind(py).len()
    }
}

impl ReadBuffer {
    /// Name the stream that fills the buffer from now on, if any does.
    pub(crate) fn set_stream(&self, py: Python<'_>, stream: Option<Py<Stream>>) {
        drop(self.contents.with(py, |it| std::mem::replace(&mut it.stream, stream)));
    }

    /// Add what was received, wake the coroutine that waits for it, and pause the transport if this is more
    /// than twice the limit: what `feed_data` does.
    pub(crate) fn feed(&self, data: Bound<'_, PyBytes>) -> PyResult<()> {
        let py = data.py();
        if self.contents.with(py, |it| it.eof) {
            return Err(PyAssertionError::new_err("feed_data after feed_eof"));
        }
        let second = self.contents.with(py, |it| {
            if it.n_bytes(py) > 0 {
                return Some(data);
            }
            it.n_taken = 0;
            it.chunk = Some(data.unbind());
            None
        });
        if let Some(second) = second {
            self.merged(py)?.call_method1(intern!(py, "extend"), (second,))?;
        }
        self.wake(py)?;
        self.pause_if_full(py)
    }

    /// All bytes, in the reader's `_buffer`.
    fn merged<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        let (bytes, chunk, n_taken) = self.contents.with(py, |it| {
            let chunk = it.chunk.as_ref().map(|chunk| chunk.bind(py).clone());
            (it.bytes.bind(py).clone(), chunk, it.n_taken)
        });
        let Some(chunk) = chunk else { return Ok(bytes) };
        let left = memory::bytes(py, &chunk.as_bytes()[n_taken..])?;
        bytes.call_method1(intern!(py, "extend"), (left,))?;
        drop(self.contents.with(py, |it| it.chunk.take()));
        Ok(bytes)
    }

    fn wake(&self, py: Python<'_>) -> PyResult<()> {
        let Some(waiter) = self.contents.with(py, |it| it.waiter.take()) else { return Ok(()) };
        any_future::settle(waiter.bind(py), Ok(py.None()))?;
        drop(self.contents.with(py, |it| it.spare.replace(waiter)));
        Ok(())
    }

    fn pause_if_full(&self, py: Python<'_>) -> PyResult<()> {
        let pauses = self.contents.with(py, |it| {
            let transport = it.transport.as_ref()?;
            let is_full = it.n_bytes(py) > it.limit.saturating_mul(2);
            (is_full && !it.paused).then(|| transport.bind(py).clone())
        });
        let Some(transport) = pauses else { return Ok(()) };
        match transport.call_method0(intern!(py, "pause_reading")) {
            Ok(_) => {
                self.contents.with(py, |it| it.paused = true);
                Ok(())
            }
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                // It cannot be paused, and is not asked again.
                drop(self.contents.with(py, |it| it.transport.take()));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Have a paused transport resume if `may_resume`.
    fn resume_if(
        &self,
        py: Python<'_>,
        may_resume: impl FnOnce(&Contents) -> bool,
    ) -> PyResult<()> {
        let transport = self.contents.with(py, |it| {
            if !it.paused || !may_resume(it) {
                return None;
            }
            it.paused = false;
            it.transport.as_ref().map(|it| it.bind(py).clone())
        });
        let Some(transport) = transport else { return Ok(()) };
        transport.call_method0(intern!(py, "resume_reading")).map(drop)
    }

    /// Fail if reads do.
    fn check(&self, py: Python<'_>, again: bool) -> PyResult<()> {
        if again {
            return Ok(());
        }
        match self.contents.with(py, |it| it.exception.as_ref().map(|it| it.clone_ref(py))) {
            Some(exception) => Err(PyErr::from_value(exception.into_bound(py))),
            None => Ok(()),
        }
    }

    /// A future that is done when more has come, or the end; a paused transport resumes.
    fn wait<'py>(&self, py: Python<'py>, func_name: &str) -> PyResult<Bound<'py, PyAny>> {
        if self.contents.with(py, |it| it.waiter.is_some()) {
            return Err(PyRuntimeError::new_err(format!(
                "{func_name}() called while another coroutine is already waiting for incoming data"
            )));
        }
        self.resume_if(py, |_| true)?;
        let spare = self.contents.with(py, |it| it.spare.take());
        let waiter = match spare.filter(|it| Future::renew(it, py)) {
            Some(renewed) => renewed.into_bound(py),
            None => making::create_future(self.dispatcher.bind(py))?,
        };
        drop(self.contents.with(py, |it| it.waiter.replace(waiter.clone().unbind())));
        Ok(waiter)
    }

    /// Hand out the first `n_bytes`, of which there are as many.
    fn split<'py>(&self, py: Python<'py>, n_bytes: usize) -> PyResult<Bound<'py, PyBytes>> {
        let chunk = self.contents.with(py, |it| {
            let chunk = it.chunk.as_ref()?;
            if it.n_taken == 0 && n_bytes == chunk.as_bytes(py).len() {
                return Some((it.chunk.take()?.into_bound(py), 0));
            }
            Some((chunk.bind(py).clone(), it.n_taken))
        });
        let data = if let Some((chunk, n_taken)) = chunk {
            let all = chunk.as_bytes();
            if n_taken == 0 && n_bytes == all.len() {
                chunk
            } else {
                let data = memory::bytes(py, &all[n_taken..n_taken + n_bytes])?;
                let spent = self.contents.with(py, |it| {
                    it.n_taken = n_taken + n_bytes;
                    if it.n_taken == all.len() { it.chunk.take() } else { None }
                });
                drop(spent);
                data
            }
        } else {
            let bytes = self.contents.with(py, |it| it.bytes.bind(py).clone());
            let data = {
                let lent = ByteBuffer::readable(&bytes)?;
                memory::bytes(py, &lent.bytes(py)[..n_bytes])?
            };
            memory::remove_front(&bytes, n_bytes)?;
            data
        };
        self.resume_if(py, |it| it.n_bytes(py) <= it.limit)?;
        Ok(data)
    }
}

/// A count of bytes that a program has asked for, as an index of what there is.
fn count(n_bytes: &Bound<'_, PyAny>) -> PyResult<usize> {
    match n_bytes.extract() {
        Ok(n_bytes) => Ok(n_bytes),
        Err(error) if error.is_instance_of::<PyOverflowError>(n_bytes.py()) => Ok(usize::MAX),
        Err(error) => Err(error),
    }
}

#[pymethods]
impl ReadBuffer {
    #[new]
    fn new(
        dispatcher: Py<Dispatcher>,
        buffer: Py<PyByteArray>,
        limit: usize,
        transport: Option<Py<PyAny>>,
    ) -> Self {
        let contents = Contents {
            chunk: None,
            n_taken: 0,
            bytes: buffer,
            limit,
            eof: false,
            exception: None,
            waiter: None,
            spare: None,
            transport,
            stream: None,
            paused: false,
        };
        Self { dispatcher, contents: GilCell::new(contents) }
    }

    /// Whether reads do not fail, and the transport is open and has room for more to be sent.
    fn has_room(&self, py: Python<'_>) -> bool {
        let stream = self.contents.with(py, |it| {
            let stream = it.stream.as_ref().filter(|_| it.exception.is_none());
            stream.map(|it| it.clone_ref(py))
        });
        stream.is_some_and(|it| it.get().state.with(py, |it| it.has_room()))
    }

    /// Take up to `n` bytes; empty bytes: none will come. Returns a future to be awaited if there are none
    /// yet. The exception that was set is raised unless this is done `again`, for the same read.
    fn read<'py>(
        slf: &Bound<'py, Self>,
        n: &Bound<'py, PyAny>,
        again: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let this = slf.get();
        this.check(py, again)?;
        let n_asked = count(n)?;
        let (n_bytes, eof) = this.contents.with(py, |it| (it.n_bytes(py), it.eof));
        if n_bytes > 0 || eof {
            return this.split(py, n_bytes.min(n_asked)).map(Bound::into_any);
        }
        this.wait(py, "read")
    }

    /// Take exactly `n` bytes, as `read` does; None: the end has come before.
    fn read_exactly<'py>(
        slf: &Bound<'py, Self>,
        n: &Bound<'py, PyAny>,
        again: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        let this = slf.get();
        this.check(py, again)?;
        let n_asked = count(n)?;
        let (n_bytes, eof) = this.contents.with(py, |it| (it.n_bytes(py), it.eof));
        if n_bytes >= n_asked {
            return this.split(py, n_asked).map(|it| Some(it.into_any()));
        }
        if eof { Ok(None) } else { this.wait(py, "readexactly").map(Some) }
    }

    /// Take all bytes up to and with a separator that is not within the first `offset` bytes, as `read`
    /// does; None: the end has come before, or the line is longer than the limit.
    fn read_until<'py>(
        slf: &Bound<'py, Self>,
        separator: &Bound<'py, PyBytes>,
        offset: usize,
        again: bool,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = slf.py();
        let this = slf.get();
        this.check(py, again)?;
        let (searched, n_taken) = this.contents.with(py, |it| match &it.chunk {
            Some(chunk) => (chunk.bind(py).clone().into_any(), it.n_taken),
            None => (it.bytes.bind(py).clone().into_any(), 0),
        });
        let found: isize = searched
            .call_method1(intern!(py, "find"), (separator, n_taken.saturating_add(offset)))?
            .extract()?;
        let found = usize::try_from(found).ok().map(|it| it - n_taken);
        let (n_bytes, limit, eof) = this.contents.with(py, |it| (it.n_bytes(py), it.limit, it.eof));
        let n_separator = separator.as_bytes().len();
        match found {
            Some(start) if start > limit => Ok(None),
            Some(start) => this.split(py, start + n_separator).map(|it| Some(it.into_any())),
            None if eof || n_bytes >= limit.saturating_add(n_separator) => Ok(None),
            None => this.wait(py, "readuntil").map(Some),
        }
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.contents.with(py, |it| it.n_bytes(py))
    }

    /// The bytes; a program may change them.
    #[getter]
    fn buffer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        self.merged(py)
    }

    #[setter]
    fn set_buffer(&self, py: Python<'_>, value: Py<PyByteArray>) {
        let dropped =
            self.contents.with(py, |it| (it.chunk.take(), std::mem::replace(&mut it.bytes, value)));
        drop(dropped);
    }

    /// The most bytes of a line, without its separator.
    #[getter]
    fn limit(&self, py: Python<'_>) -> usize {
        self.contents.with(py, |it| it.limit)
    }

    #[setter]
    fn set_limit(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let limit = count(value)?;
        self.contents.with(py, |it| it.limit = limit);
        Ok(())
    }

    /// Whether nothing more will come.
    #[getter]
    fn eof(&self, py: Python<'_>) -> bool {
        self.contents.with(py, |it| it.eof)
    }

    #[setter]
    fn set_eof(&self, py: Python<'_>, value: bool) {
        self.contents.with(py, |it| it.eof = value);
    }

    /// The exception that reads raise.
    #[getter]
    fn exception(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.contents.with(py, |it| it.exception.as_ref().map(|it| it.clone_ref(py)))
    }

    #[setter]
    fn set_exception(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        drop(self.contents.with(py, |it| std::mem::replace(&mut it.exception, value)));
    }

    /// The future of the coroutine that waits for data.
    #[getter]
    fn waiter(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.contents.with(py, |it| it.waiter.as_ref().map(|it| it.clone_ref(py)))
    }

    #[setter]
    fn set_waiter(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        drop(self.contents.with(py, |it| std::mem::replace(&mut it.waiter, value)));
    }

    /// The transport that is paused and resumed.
    #[getter]
    fn transport(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.contents.with(py, |it| it.transport.as_ref().map(|it| it.clone_ref(py)))
    }

    #[setter]
    fn set_transport(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        drop(self.contents.with(py, |it| std::mem::replace(&mut it.transport, value)));
    }

    /// Whether the transport was asked to pause reading.
    #[getter]
    fn paused(&self, py: Python<'_>) -> bool {
        self.contents.with(py, |it| it.paused)
    }

    #[setter]
    fn set_paused(&self, py: Python<'_>, value: bool) {
        self.contents.with(py, |it| it.paused = value);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.dispatcher)?;
        self.contents.traverse(&visit, |it| {
            visit.call(&it.exception)?;
            visit.call(&it.waiter)?;
            visit.call(&it.spare)?;
            visit.call(&it.transport)?;
            visit.call(&it.stream)
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        let cleared = self.contents.with(py, |it| {
            let waiters = (it.waiter.take(), it.spare.take());
            (it.exception.take(), waiters, it.transport.take(), it.stream.take())
        });
        drop(cleared);
    }
}
