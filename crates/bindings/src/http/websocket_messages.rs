//! ASGI's messages of a websocket: those that an application sends, parsed, and those that it receives, made.

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use threadlets_http::websocket::{Closure, WebSocketMessage};

use super::messages::{self, add_fields, bytes_of, item, missing};

/// Bytes of the longest reason of a close frame.
const REASON_MAX: usize = 123;

/// What an application sends.
pub(super) enum SentToWebSocket<'py> {
    Accept {
        subprotocol: Option<HeaderValue>,
        headers: HeaderMap,
    },
    Text(Bound<'py, PyString>),
    Bytes(Bytes),
    /// See [`closure`].
    Close,
    /// A part of a response in the place of a websocket.
    Denial(messages::SentMessage),
}

pub(super) fn parse<'py>(message: &Bound<'py, PyAny>) -> PyResult<SentToWebSocket<'py>> {
    let py = message.py();
    let kind = item(message, intern!(py, "type"))?.ok_or_else(|| missing("type"))?;
    let is = |name: &Bound<'py, PyString>| kind.is(name) || kind.eq(name).unwrap_or(false);
    if is(intern!(py, "websocket.send")) {
        return parse_send(message);
    }
    if is(intern!(py, "websocket.accept")) {
        return parse_accept(message);
    }
    if is(intern!(py, "websocket.close")) {
        return Ok(SentToWebSocket::Close);
    }
    if is(intern!(py, "websocket.http.response.start")) {
        return messages::parse_start(message).map(SentToWebSocket::Denial);
    }
    if is(intern!(py, "websocket.http.response.body")) {
        return messages::parse_body(message).map(SentToWebSocket::Denial);
    }
    Err(PyValueError::new_err(format!(
        "an application sent a message of type {} on a websocket; it must be 'websocket.accept', \
         'websocket.send', 'websocket.close' or a 'websocket.http.response' in their place",
        kind.repr()?
    )))
}

/// The value of a key, unless that is None.
fn some<'py>(
    message: &Bound<'py, PyAny>,
    key: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(item(message, key)?.filter(|it| !it.is_none()))
}

fn parse_send<'py>(message: &Bound<'py, PyAny>) -> PyResult<SentToWebSocket<'py>> {
    let py = message.py();
    if let Some(text) = some(message, intern!(py, "text"))? {
        return match text.cast_into::<PyString>() {
            Ok(text) => Ok(SentToWebSocket::Text(text)),
            Err(error) => Err(PyTypeError::new_err(format!(
                "the text of a message to send() is {}; it must be a string",
                error.into_inner()
            ))),
        };
    }
    match some(message, intern!(py, "bytes"))? {
        Some(bytes) => bytes_of(&bytes).map(SentToWebSocket::Bytes),
        None => Err(PyValueError::new_err(
            "an application sent 'websocket.send' without data; it must have 'text' or 'bytes'",
        )),
    }
}

fn parse_accept<'py>(message: &Bound<'py, PyAny>) -> PyResult<SentToWebSocket<'py>> {
    let py = message.py();
    let subprotocol = some(message, intern!(py, "subprotocol"))?;
    let subprotocol = subprotocol
        .map(|it| {
            let text: String = it.extract()?;
            HeaderValue::try_from(&text).map_err(|_| {
                PyValueError::new_err(format!("{text:?} is no subprotocol; it must be a token"))
            })
        })
        .transpose()?;
    let mut headers = HeaderMap::new();
    if let Some(fields) = some(message, intern!(py, "headers"))? {
        add_fields(&mut headers, &fields)?;
    }
    if let Some(name) =
        [UPGRADE, CONNECTION, SEC_WEBSOCKET_ACCEPT].iter().find(|it| headers.contains_key(*it))
    {
        return Err(PyValueError::new_err(format!(
            "an application sent 'websocket.accept' with the header field {name}, which is the \
             server's; leave it out"
        )));
    }
    Ok(SentToWebSocket::Accept { subprotocol, headers })
}

/// Code and reason of a message that closes. They are looked at only if they are sent: a handshake is denied without
/// them, and FastAPI gives a list for a reason then.
pub(super) fn closure(message: &Bound<'_, PyAny>) -> PyResult<(u16, String)> {
    let py = message.py();
    let code = match some(message, intern!(py, "code"))? {
        Some(code) => code.extract()?,
        None => 1000,
    };
    let reason = match some(message, intern!(py, "reason"))? {
        Some(reason) => reason.extract::<String>()?,
        None => String::new(),
    };
    if !threadlets_http::websocket::may_be_sent(code) {
        return Err(PyValueError::new_err(format!(
            "an application closed a websocket with code {code}; codes are 1000 to 1003, 1007 to \
             1014 and 3000 to 4999"
        )));
    }
    if reason.len() > REASON_MAX {
        return Err(PyValueError::new_err(format!(
            "an application closed a websocket with a reason of {} bytes; the limit is \
             {REASON_MAX}",
            reason.len()
        )));
    }
    Ok((code, reason))
}

fn of_type<'py>(py: Python<'py>, its_type: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyDict>> {
    let message = PyDict::new(py);
    message.set_item(intern!(py, "type"), its_type)?;
    Ok(message)
}

/// `{"type": "websocket.connect"}`
pub(super) fn connect(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    of_type(py, intern!(py, "websocket.connect"))
}

/// `{"type": "websocket.receive", "text": …}`, or "bytes"
pub(super) fn receive<'py>(
    py: Python<'py>,
    message: WebSocketMessage,
) -> PyResult<Bound<'py, PyDict>> {
    let received = of_type(py, intern!(py, "websocket.receive"))?;
    match message {
        WebSocketMessage::Text(text) => received.set_item(intern!(py, "text"), text)?,
        WebSocketMessage::Binary(bytes) => {
            received.set_item(intern!(py, "bytes"), PyBytes::new(py, &bytes))?;
        }
    }
    Ok(received)
}

/// `{"type": "websocket.disconnect", "code": …, "reason": …}`
pub(super) fn disconnect(py: Python<'_>, closure: Option<Closure>) -> PyResult<Bound<'_, PyDict>> {
    let Closure { code, reason } =
        closure.unwrap_or_else(|| Closure { code: 1006, reason: String::new() });
    let message = of_type(py, intern!(py, "websocket.disconnect"))?;
    message.set_item(intern!(py, "code"), code)?;
    message.set_item(intern!(py, "reason"), reason)?;
    Ok(message)
}
