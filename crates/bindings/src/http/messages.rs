//! ASGI's messages: those that an application sends, parsed, and those that it receives, made.

use std::os::fd::RawFd;
use std::path::PathBuf;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Response, StatusCode, response};
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};

use crate::py::byte_buffer::{Chunk, with_bytes};

/// Bodies up to this size are copied, which costs less than sharing them.
const COPIED_MAX: usize = 4096;

/// What an application sends.
pub(super) enum SentMessage {
    Start {
        head: response::Parts,
        trailers: bool,
    },
    Body {
        data: Bytes,
        more: bool,
    },
    Trailers(HeaderMap, bool),
    /// The file of this path is the whole body.
    Path(PathBuf),
    File(SentFile),
}

/// A part of an open file, as `http.response.zerocopysend` names it.
pub(super) struct SentFile {
    pub(super) fd: RawFd,
    pub(super) position: u64,
    pub(super) n_bytes: u64,
    pub(super) more: bool,
}

pub(super) fn parse<'py>(message: &Bound<'py, PyAny>) -> PyResult<SentMessage> {
    let py = message.py();
    let kind = item(message, intern!(py, "type"))?.ok_or_else(|| missing("type"))?;
    let is = |name: &Bound<'py, PyString>| kind.is(name) || kind.eq(name).unwrap_or(false);
    if is(intern!(py, "http.response.body")) {
        return parse_body(message);
    }
    if is(intern!(py, "http.response.start")) {
        return parse_start(message);
    }
    if is(intern!(py, "http.response.trailers")) {
        let mut trailers = HeaderMap::new();
        if let Some(headers) = item(message, intern!(py, "headers"))? {
            add_fields(&mut trailers, &headers)?;
        }
        return Ok(SentMessage::Trailers(trailers, flag(message, intern!(py, "more_trailers"))?));
    }
    if is(intern!(py, "http.response.pathsend")) {
        let path = item(message, intern!(py, "path"))?.ok_or_else(|| missing("path"))?;
        return Ok(SentMessage::Path(path.extract()?));
    }
    if is(intern!(py, "http.response.zerocopysend")) {
        return Ok(SentMessage::File(file_of(message)?));
    }
    Err(PyValueError::new_err(format!(
        "an application sent a message of type {}; a response consists of 'http.response.start', \
         'http.response.body', 'http.response.trailers', 'http.response.pathsend' and \
         'http.response.zerocopysend'",
        kind.repr()?
    )))
}

/// What `http.response.zerocopysend` sends. Without an offset it is read from the file's position, which moves on, as it
/// does by `os.sendfile`.
fn file_of(message: &Bound<'_, PyAny>) -> PyResult<SentFile> {
    let py = message.py();
    let given = |key| PyResult::Ok(item(message, key)?.filter(|it| !it.is_none()));
    let file = given(intern!(py, "file"))?.ok_or_else(|| missing("file"))?;
    let fd: RawFd = match file.extract() {
        Ok(fd) => fd,
        Err(_) => file.call_method0(intern!(py, "fileno"))?.extract()?,
    };
    let n_bytes = match given(intern!(py, "count"))? {
        Some(count) => count.extract()?,
        None => u64::MAX,
    };
    let more = flag(message, intern!(py, "more_body"))?;
    let offset = given(intern!(py, "offset"))?.map(|it| it.extract::<u64>()).transpose()?;
    if let Some(position) = offset {
        return Ok(SentFile { fd, position, n_bytes, more });
    }
    let seek = |whence: i32, to: i64| -> PyResult<u64> {
        let os = py.import(intern!(py, "os"))?;
        let found = match file.getattr_opt(intern!(py, "seek"))? {
            Some(seek) => seek.call1((to, whence))?,
            None => os.call_method1(intern!(py, "lseek"), (fd, to, whence))?,
        };
        found.extract()
    };
    const SEEK_SET: i32 = 0;
    const SEEK_CUR: i32 = 1;
    const SEEK_END: i32 = 2;
    let position = seek(SEEK_CUR, 0)?;
    let end = seek(SEEK_END, 0)?.min(position.saturating_add(n_bytes));
    seek(SEEK_SET, i64::try_from(end).unwrap_or(i64::MAX))?;
    Ok(SentFile { fd, position, n_bytes, more })
}

/// Parse the beginning of a response.
pub(super) fn parse_start(message: &Bound<'_, PyAny>) -> PyResult<SentMessage> {
    let py = message.py();
    let status = item(message, intern!(py, "status"))?.ok_or_else(|| missing("status"))?;
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status_of(&status)?;
    if let Some(headers) = item(message, intern!(py, "headers"))? {
        add_fields(&mut head.headers, &headers)?;
    }
    Ok(SentMessage::Start { head, trailers: flag(message, intern!(py, "trailers"))? })
}

/// Parse a part of a response's body.
pub(super) fn parse_body(message: &Bound<'_, PyAny>) -> PyResult<SentMessage> {
    let py = message.py();
    let data = match item(message, intern!(py, "body"))? {
        Some(body) => bytes_of(&body)?,
        None => Bytes::new(),
    };
    Ok(SentMessage::Body { data, more: flag(message, intern!(py, "more_body"))? })
}

/// An error that says that a message lacks a key.
pub(super) fn missing(key: &str) -> PyErr {
    PyKeyError::new_err(format!("a message to send() lacks {key:?}"))
}

/// The value of a key, if the message has it.
pub(super) fn item<'py>(
    message: &Bound<'py, PyAny>,
    key: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    match message.cast::<PyDict>() {
        Ok(dict) => dict.get_item(key),
        Err(_) => match message.get_item(key) {
            Err(error) if error.is_instance_of::<PyKeyError>(message.py()) => Ok(None),
            found => found.map(Some),
        },
    }
}

fn flag<'py>(message: &Bound<'py, PyAny>, key: &Bound<'py, PyString>) -> PyResult<bool> {
    item(message, key)?.map_or(Ok(false), |it| it.is_truthy())
}

/// The status of a response: an integer from 200 to 599.
fn status_of(status: &Bound<'_, PyAny>) -> PyResult<StatusCode> {
    let number: u16 = status.extract().map_err(|_| {
        PyTypeError::new_err(format!("the status of a response is {status}; it must be an integer"))
    })?;
    match StatusCode::from_u16(number) {
        Ok(status) if (200..1000).contains(&number) => Ok(status),
        _ => Err(PyValueError::new_err(format!(
            "the status of a response is {number}; it must be from 200 to 999"
        ))),
    }
}

/// Add header fields, pairs of byte strings, to a map.
pub(super) fn add_fields(map: &mut HeaderMap, fields: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut add = |field: Bound<'_, PyAny>| {
        let (name, value) = pair(&field)?;
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| {
            PyValueError::new_err(format!("{} is no name of a header field", name.as_any()))
        })?;
        // How the body is framed is decided where it is sent.
        if parsed == TRANSFER_ENCODING {
            return Ok(());
        }
        let value = HeaderValue::from_bytes(trimmed(value.as_bytes())).map_err(|_| {
            PyValueError::new_err(format!(
                "the value of the header field {parsed} is {}; it must not have control characters",
                value.as_any()
            ))
        })?;
        map.append(parsed, value);
        Ok::<_, PyErr>(())
    };
    if let Ok(list) = fields.cast::<PyList>() {
        return list.iter().try_for_each(&mut add);
    }
    fields.try_iter()?.try_for_each(|field| add(field?))
}

fn trimmed(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

fn pair<'py>(field: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let refused = || {
        PyTypeError::new_err(format!(
            "a header field is {field}; it must be a pair of byte strings, name and value"
        ))
    };
    let bytes = |it: Bound<'py, PyAny>| it.cast_into::<PyBytes>().map_err(|_| refused());
    if let Ok(tuple) = field.cast::<PyTuple>()
        && tuple.len() == 2
    {
        return Ok((bytes(tuple.get_item(0)?)?, bytes(tuple.get_item(1)?)?));
    }
    if let Ok(list) = field.cast::<PyList>()
        && list.len() == 2
    {
        return Ok((bytes(list.get_item(0)?)?, bytes(list.get_item(1)?)?));
    }
    Err(refused())
}

/// The bytes of a bytes-like object: shared if they are many and immutable, copied otherwise.
pub(super) fn bytes_of(body: &Bound<'_, PyAny>) -> PyResult<Bytes> {
    if let Ok(bytes) = body.cast_exact::<PyBytes>() {
        let slice = bytes.as_bytes();
        return Ok(if slice.len() <= COPIED_MAX {
            Bytes::copy_from_slice(slice)
        } else {
            Bytes::from_owner(Chunk::share(bytes))
        });
    }
    with_bytes(body, |slice| Ok(Bytes::from_owner(Chunk::copy(slice)?))).map_err(|error| {
        if !error.is_instance_of::<PyTypeError>(body.py()) {
            return error;
        }
        PyTypeError::new_err(format!("the body of a message to send() is {body}; it must be bytes"))
    })
}

/// `{"type": "http.request", "body": …, "more_body": …}`
pub(super) fn request<'py>(
    py: Python<'py>,
    data: &[u8],
    more: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let message = PyDict::new(py);
    message.set_item(intern!(py, "type"), intern!(py, "http.request"))?;
    message.set_item(intern!(py, "body"), PyBytes::new(py, data))?;
    message.set_item(intern!(py, "more_body"), more)?;
    Ok(message)
}

/// `{"type": "http.disconnect"}`
pub(super) fn disconnect(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let message = PyDict::new(py);
    message.set_item(intern!(py, "type"), intern!(py, "http.disconnect"))?;
    Ok(message)
}
