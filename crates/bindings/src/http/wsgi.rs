//! WSGI: each request is one call of the application, inline until it blocks.
//!
//! The call is queued like any function's (`calls/queued_call.rs`): where it starts depends on what its application has
//! done before, and if it blocks inline, another worker takes over.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::{HeaderMap, Response, StatusCode, Version, request, response};
use percent_encoding::percent_decode_str;
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyAssertionError, PyTypeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple, PyType};
use threadlets_core::socket::Address;
use threadlets_http::ReasonPhrase;
use threadlets_http::exchange::ReceivedBody;
use threadlets_http::static_files::FileBody;

use super::exchange::HttpExchange;
use super::messages::bytes_of;
use crate::contract::in_context;
use crate::py::gil_cell::GilCell;

/// What the environs of all requests of a server share.
#[derive(Debug)]
pub(super) struct CommonEnviron(Py<PyDict>);

impl CommonEnviron {
    /// `base` has what does not depend on the request.
    pub(super) fn new(base: Py<PyDict>) -> Self {
        Self(base)
    }

    pub(super) fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }

    /// The environ of a request, PEP 3333's: text is Latin-1.
    fn of<'py>(
        &self,
        py: Python<'py>,
        head: &request::Parts,
        peer: &Address,
    ) -> PyResult<Bound<'py, PyDict>> {
        let environ = self.0.bind(py).copy()?;
        environ.set_item(intern!(py, "REQUEST_METHOD"), head.method.as_str())?;
        let path = percent_decode_str(head.uri.path());
        let path: Vec<u8> = path.collect();
        environ.set_item(intern!(py, "PATH_INFO"), latin1(py, &path))?;
        environ.set_item(intern!(py, "QUERY_STRING"), head.uri.query().unwrap_or(""))?;
        let version = match head.version {
            Version::HTTP_10 => intern!(py, "HTTP/1.0"),
            Version::HTTP_2 => intern!(py, "HTTP/2"),
            _ => intern!(py, "HTTP/1.1"),
        };
        environ.set_item(intern!(py, "SERVER_PROTOCOL"), version)?;
        if let Address::Internet(peer) = peer {
            environ.set_item(intern!(py, "REMOTE_ADDR"), peer.ip().to_string())?;
            environ.set_item(intern!(py, "REMOTE_PORT"), peer.port().to_string())?;
        }
        if let Some(authority) = head.uri.authority() {
            environ.set_item(intern!(py, "HTTP_HOST"), authority.as_str())?;
        }
        add_fields(&environ, &head.headers)?;
        Ok(environ)
    }
}

fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    if bytes.is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return PyString::new(py, unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    PyString::new(py, &bytes.iter().map(|&byte| char::from(byte)).collect::<String>())
}

/// Add a request's header fields; several of one name are joined. Names with an underscore are left out: they
/// could pass for names with a hyphen, which a proxy in front may have set.
fn add_fields(environ: &Bound<'_, PyDict>, headers: &HeaderMap) -> PyResult<()> {
    let py = environ.py();
    for name in headers.keys() {
        let mut values = headers.get_all(name).iter();
        let Some(first) = values.next() else { continue };
        let joined;
        let value = match values.next() {
            None => first.as_bytes(),
            Some(second) => {
                let separator: &[u8] = if *name == COOKIE { b"; " } else { b"," };
                let all = [first, second].into_iter().chain(values);
                joined = all.map(HeaderValue::as_bytes).collect::<Vec<_>>().join(separator);
                &joined
            }
        };
        let value = latin1(py, value);
        match *name {
            CONTENT_TYPE => environ.set_item(intern!(py, "CONTENT_TYPE"), value)?,
            CONTENT_LENGTH => environ.set_item(intern!(py, "CONTENT_LENGTH"), value)?,
            http::header::HOST => environ.set_item(intern!(py, "HTTP_HOST"), value)?,
            _ if name.as_str().contains('_') => {}
            _ => environ.set_item(variable(py, name), value)?,
        }
    }
    Ok(())
}

/// `HTTP_ACCEPT_ENCODING` for `accept-encoding`.
fn variable<'py>(py: Python<'py>, name: &HeaderName) -> Bound<'py, PyString> {
    let mut variable = String::with_capacity(5 + name.as_str().len());
    variable.push_str("HTTP_");
    variable.extend(name.as_str().chars().map(|it| match it {
        '-' => '_',
        other => other.to_ascii_uppercase(),
    }));
    PyString::intern(py, &variable)
}

/// One request to a WSGI application: calling it answers the request.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct WsgiRequest {
    exchange: Py<HttpExchange>,
    application: Py<PyAny>,
    environ: GilCell<Option<Py<PyDict>>>,
    context: Py<PyAny>,
}

impl WsgiRequest {
    pub(super) fn new(
        exchange: &Bound<'_, HttpExchange>,
        application: &Py<PyAny>,
        common: &CommonEnviron,
        head: &request::Parts,
        context: Py<PyAny>,
    ) -> PyResult<Self> {
        let py = exchange.py();
        let environ = common.of(py, head, exchange.get().exchange().peer())?;
        let input = WsgiInput { exchange: exchange.clone().unbind(), state: GilCell::default() };
        environ.set_item(intern!(py, "wsgi.input"), Py::new(py, input)?)?;
        Ok(Self {
            exchange: exchange.clone().unbind(),
            application: application.clone_ref(py),
            environ: GilCell::new(Some(environ.unbind())),
            context,
        })
    }

    fn answer(&self, py: Python<'_>) -> PyResult<()> {
        let Some(environ) = self.environ.with(py, Option::take) else { return Ok(()) };
        let exchange = self.exchange.bind(py);
        let started =
            StartResponse { exchange: exchange.clone().unbind(), head: GilCell::default() };
        let started = Bound::new(py, started)?;
        let iterable = self.application.bind(py).call1((environ, &started))?;
        let sent = send_all(&started, &iterable);
        let closed = match iterable.getattr_opt(intern!(py, "close"))? {
            Some(close) => close.call0().map(drop),
            None => Ok(()),
        };
        sent.and(closed)
    }
}

#[pymethods]
impl WsgiRequest {
    /// Call the application, and send what it returns. Its failure is reported, and raised nowhere.
    fn __call__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let exchange = this.exchange.bind(py);
        let answered = in_context(py, &this.context, || this.answer(py));
        HttpExchange::end_blocking(exchange, answered.err())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.exchange)?;
        visit.call(&self.application)?;
        visit.call(&self.context)?;
        self.environ.traverse(&visit, |it| visit.call(it))
    }
}

/// Send the parts of a response as they come.
fn send_all(started: &Bound<'_, StartResponse>, iterable: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = started.py();
    let this = started.get();
    if let Some(only) = only_item(iterable)? {
        // With the only part at hand, the length is known.
        let data = part(&only)?;
        this.begin(py)?;
        return HttpExchange::send_blocking(this.exchange.bind(py), data, false);
    }
    if let Ok(file) = iterable.cast_exact::<FileWrapper>()
        && let Some((fd, position)) = file.get().position(py)?
        && FileBody::part_of(fd, position, 0)?.is_some()
    {
        this.begin(py)?;
        // The head may announce fewer bytes than the file has.
        let n_bytes = this.exchange.bind(py).get().exchange().n_announced_left();
        if let Some(body) = FileBody::part_of(fd, position, n_bytes.unwrap_or(u64::MAX))? {
            return HttpExchange::send_file(this.exchange.bind(py), body);
        }
    }
    for item in iterable.try_iter()? {
        let data = part(&item?)?;
        if data.is_empty() {
            continue;
        }
        this.begin(py)?;
        HttpExchange::send_blocking(this.exchange.bind(py), data, true)?;
    }
    this.begin(py)?;
    HttpExchange::send_blocking(this.exchange.bind(py), Bytes::new(), false)
}

/// The item of a list or tuple that has only one.
fn only_item<'py>(iterable: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Ok(list) = iterable.cast_exact::<PyList>() {
        return if list.len() == 1 { list.get_item(0).map(Some) } else { Ok(None) };
    }
    match iterable.cast_exact::<PyTuple>() {
        Ok(tuple) if tuple.len() == 1 => tuple.get_item(0).map(Some),
        _ => Ok(None),
    }
}

fn part(item: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if !item.is_instance_of::<PyBytes>() {
        return Err(PyTypeError::new_err(format!(
            "the application's iterable yielded {}, of type {}; its parts must be bytes",
            item.repr()?,
            item.get_type().name()?
        )));
    }
    bytes_of(item)
}

/// WSGI's `start_response`.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct StartResponse {
    exchange: Py<HttpExchange>,
    /// The head, until it is sent.
    head: GilCell<Option<response::Parts>>,
}

impl StartResponse {
    /// Begin the response, before its first part.
    fn begin(&self, py: Python<'_>) -> PyResult<()> {
        let exchange = self.exchange.bind(py).get().exchange();
        match self.head.with(py, Option::take) {
            Some(head) => {
                exchange.start(head);
                Ok(())
            }
            None if exchange.has_started() => Ok(()),
            None => Err(PyAssertionError::new_err(
                "the application returned before it called start_response(); call it first",
            )),
        }
    }
}

#[pymethods]
impl StartResponse {
    /// Give status and header fields, text; return the function `write`.
    #[pyo3(signature = (status, response_headers, /, exc_info=None))]
    fn __call__(
        slf: &Bound<'_, Self>,
        status: &Bound<'_, PyAny>,
        response_headers: &Bound<'_, PyAny>,
        exc_info: Option<&Bound<'_, PyTuple>>,
    ) -> PyResult<Py<WsgiWrite>> {
        let py = slf.py();
        let this = slf.get();
        let exchange = this.exchange.bind(py).get().exchange();
        let was_called = exchange.has_started() || this.head.with(py, |it| it.is_some());
        match exc_info {
            Some(info) if exchange.has_started() => {
                return Err(PyErr::from_value(info.get_item(1)?));
            }
            None if was_called => {
                return Err(PyAssertionError::new_err(
                    "start_response() was called again without exc_info",
                ));
            }
            _ => {}
        }
        let head = parse_head(status, response_headers)?;
        drop(this.head.with(py, |it| it.replace(head)));
        Py::new(py, WsgiWrite(slf.clone().unbind()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.exchange)
    }
}

fn parse_head(status: &Bound<'_, PyAny>, fields: &Bound<'_, PyAny>) -> PyResult<response::Parts> {
    let text = status.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("the status is {status}; it must be text such as '200 OK'"))
    })?;
    let (mut head, ()) = Response::new(()).into_parts();
    let text = text.to_str()?;
    head.status = text
        .get(..3)
        .filter(|_| text.len() == 3 || text.as_bytes().get(3) == Some(&b' '))
        .and_then(|code| code.parse().ok())
        .filter(|code: &StatusCode| code.as_u16() >= 200)
        .ok_or_else(|| {
            let message = "it must be three digits from 200 on, a space and a reason";
            PyValueError::new_err(format!("the status is {text:?}; {message}"))
        })?;
    let reason = text.get(4..).unwrap_or("");
    // One that cannot be sent is of no consequence: the number says it all.
    if Some(reason) != head.status.canonical_reason()
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        head.extensions.insert(reason);
    }
    for field in fields.try_iter()? {
        let field = field?;
        let refused = || {
            PyTypeError::new_err(format!("a header field is {field}; it must be a pair of texts"))
        };
        let pair = field.cast::<PyTuple>().ok().filter(|it| it.len() == 2).ok_or_else(refused)?;
        let (name, value) = (pair.get_item(0)?, pair.get_item(1)?);
        let name = name.cast::<PyString>().map_err(|_| refused())?;
        let value = value.cast::<PyString>().map_err(|_| refused())?;
        let parsed = HeaderName::from_bytes(name.to_str()?.as_bytes())
            .map_err(|_| PyValueError::new_err(format!("{name:?} is no name of a header field")))?;
        if parsed == TRANSFER_ENCODING || is_hop_by_hop(&parsed) {
            continue;
        }
        let value = latin1_bytes(value)?;
        let value = HeaderValue::from_bytes(value.trim_ascii()).map_err(|_| {
            let message = "it must not have control characters";
            PyValueError::new_err(format!("the value of the field {parsed}: {message}"))
        })?;
        head.headers.append(parsed, value);
    }
    Ok(head)
}

/// Fields that are the server's business, not the application's.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(name.as_str(), "keep-alive" | "proxy-connection" | "te" | "trailer" | "upgrade")
}

fn latin1_bytes(text: &Bound<'_, PyString>) -> PyResult<Vec<u8>> {
    let refused = || {
        PyValueError::new_err(format!(
            "the value of a header field is {text:?}; it must be text of Latin-1"
        ))
    };
    text.to_str()?.chars().map(|it| u8::try_from(it).map_err(|_| refused())).collect()
}

/// The function `write` that `start_response` returns.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct WsgiWrite(Py<StartResponse>);

#[pymethods]
impl WsgiWrite {
    /// Send bytes before those that the application returns.
    fn __call__(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        let data = part(data)?;
        let started = self.0.get();
        started.begin(py)?;
        HttpExchange::send_blocking(started.exchange.bind(py), data, true)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

/// `wsgi.input`: the body of the request, as a file that is read.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct WsgiInput {
    exchange: Py<HttpExchange>,
    state: GilCell<InputState>,
}

#[derive(Debug, Default)]
struct InputState {
    buffer: BytesMut,
    is_over: bool,
}

impl WsgiInput {
    /// Receive until `enough` says so, or the body ends; blocks for what has not come.
    fn fill(&self, py: Python<'_>, mut enough: impl FnMut(&[u8]) -> bool) -> PyResult<()> {
        loop {
            let has_enough = self.state.with(py, |it| enough(&it.buffer) || it.is_over);
            if has_enough {
                return Ok(());
            }
            match HttpExchange::receive_blocking(self.exchange.bind(py))? {
                ReceivedBody::Data { data, more } => self.state.with(py, |state| {
                    state.buffer.extend_from_slice(&data);
                    state.is_over = !more;
                }),
                _ => self.state.with(py, |it| it.is_over = true),
            }
        }
    }

    fn take<'py>(&self, py: Python<'py>, n: usize) -> Bound<'py, PyBytes> {
        self.state.with(py, |state| {
            let n = n.min(state.buffer.len());
            let taken = PyBytes::new(py, &state.buffer[..n]);
            state.buffer.advance(n);
            taken
        })
    }

    fn line<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyBytes>> {
        // Each byte is looked at once, however long the line is.
        let (mut n_seen, mut end) = (0, None);
        self.fill(py, |it| {
            let found = it.get(n_seen..).and_then(|it| it.iter().position(|&it| it == b'\n'));
            end = found.map(|at| n_seen + at + 1);
            n_seen = it.len();
            end.is_some() || n_seen >= limit
        })?;
        Ok(self.take(py, end.unwrap_or(n_seen).min(limit)))
    }
}

/// A size as files take it: None and negative numbers mean all.
fn size(given: Option<isize>) -> usize {
    given.and_then(|it| usize::try_from(it).ok()).unwrap_or(usize::MAX)
}

#[pymethods]
impl WsgiInput {
    /// Read `size` bytes, fewer at the end; all without a size.
    #[pyo3(signature = (size=None, /))]
    fn read<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        let n = self::size(size);
        self.fill(py, |it| it.len() >= n)?;
        Ok(self.take(py, n))
    }

    /// Read a line with its end, of `size` bytes at most.
    #[pyo3(signature = (size=None, /))]
    fn readline<'py>(&self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.line(py, self::size(size))
    }

    /// Read the lines that are left; with a hint, those with about so many bytes.
    #[pyo3(signature = (hint=None, /))]
    fn readlines<'py>(&self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let lines = PyList::empty(py);
        let (mut n_bytes, enough) = (0, self::size(hint.filter(|&it| it > 0)));
        while n_bytes < enough {
            let line = self.line(py, usize::MAX)?;
            if line.as_bytes().is_empty() {
                break;
            }
            n_bytes += line.as_bytes().len();
            lines.append(line)?;
        }
        Ok(lines)
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.line(py, usize::MAX)?;
        Ok((!line.as_bytes().is_empty()).then_some(line))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.exchange)
    }
}

/// `wsgi.file_wrapper`: a file whose bytes are the response; one of the file system is sent without Python.
#[pyclass(frozen, module = "threadlets._core")]
pub(crate) struct FileWrapper {
    file: Py<PyAny>,
    block_size: usize,
}

impl FileWrapper {
    /// The file's descriptor and position; `None` if what it reads need not be what its descriptor has.
    fn position(&self, py: Python<'_>) -> PyResult<Option<(i32, u64)>> {
        static RAW: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        static BUFFERED: [PyOnceLock<Py<PyType>>; 2] = [const { PyOnceLock::new() }; 2];
        static TEMPORARY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let mut file = self.file.bind(py).clone();
        if file.get_type().is(TEMPORARY.import(py, "tempfile", "_TemporaryFileWrapper")?) {
            file = file.getattr(intern!(py, "file"))?;
        }
        let its_type = file.get_type();
        let raw = if its_type.is(BUFFERED[0].import(py, "io", "BufferedReader")?)
            || its_type.is(BUFFERED[1].import(py, "io", "BufferedRandom")?)
        {
            file.getattr(intern!(py, "raw"))?
        } else {
            file.clone()
        };
        if !raw.get_type().is(RAW.import(py, "io", "FileIO")?) {
            return Ok(None);
        }
        // A pipe has no position.
        let Ok(position) = file.call_method0(intern!(py, "tell")) else { return Ok(None) };
        Ok(Some((raw.call_method0(intern!(py, "fileno"))?.extract()?, position.extract()?)))
    }
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, block_size=8192, /))]
    fn new(filelike: Py<PyAny>, block_size: usize) -> Self {
        Self { file: filelike, block_size }
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let data = self.file.bind(py).call_method1(intern!(py, "read"), (self.block_size,))?;
        Ok(data.is_truthy()?.then_some(data))
    }

    /// Close the file.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.file.bind(py).getattr_opt(intern!(py, "close"))? {
            Some(close) => close.call0().map(drop),
            None => Ok(()),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.file)
    }
}
