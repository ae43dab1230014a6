//! ASGI's scope of a request.

use http::uri::PathAndQuery;
use http::{HeaderMap, Version, request};
use percent_encoding::percent_decode_str;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use threadlets_core::socket::Address;
use threadlets_http::tls::TlsInfo;

use super::tls;
use crate::py::address;

/// What the scopes of all requests of a server share.
#[derive(Debug)]
pub(super) struct Common {
    /// The root path, without a slash at its end.
    pub(super) root_path: Py<PyString>,
    /// `https` or `http`.
    pub(super) scheme: Py<PyString>,
    /// The lifespan's state; each scope has a shallow copy.
    pub(super) state: Option<Py<PyDict>>,
    /// ASGI's extensions.
    pub(super) extensions: Py<PyDict>,
    /// `{"version": "3.0", "spec_version": …}`
    pub(super) asgi: Py<PyDict>,
    /// The server's certificate as PEM, if it speaks TLS.
    pub(super) certificate: Option<Py<PyString>>,
}

/// Make the scope of a request of type "http".
pub(super) fn http<'py>(
    py: Python<'py>,
    common: &Common,
    head: &request::Parts,
    peer: &Address,
    server: &Py<PyAny>,
    tls: Option<&TlsInfo>,
) -> PyResult<Bound<'py, PyDict>> {
    let scope = PyDict::new(py);
    scope.set_item(intern!(py, "type"), intern!(py, "http"))?;
    add(&scope, common, head, peer, server)?;
    scope.set_item(intern!(py, "scheme"), &common.scheme)?;
    scope.set_item(intern!(py, "method"), method(py, head))?;
    let extensions = common.extensions.bind(py).copy()?;
    add_tls(&extensions, common, tls)?;
    scope.set_item(intern!(py, "extensions"), extensions)?;
    Ok(scope)
}

/// Make the scope of a request of type "websocket".
pub(super) fn websocket<'py>(
    py: Python<'py>,
    common: &Common,
    head: &request::Parts,
    peer: &Address,
    server: &Py<PyAny>,
    tls: Option<&TlsInfo>,
    subprotocols: Vec<String>,
) -> PyResult<Bound<'py, PyDict>> {
    let scope = PyDict::new(py);
    scope.set_item(intern!(py, "type"), intern!(py, "websocket"))?;
    add(&scope, common, head, peer, server)?;
    let is_secure = common.scheme.bind(py).to_str()? == "https";
    let scheme = if is_secure { intern!(py, "wss") } else { intern!(py, "ws") };
    scope.set_item(intern!(py, "scheme"), scheme)?;
    scope.set_item(intern!(py, "subprotocols"), subprotocols)?;
    let extensions = PyDict::new(py);
    extensions.set_item(intern!(py, "websocket.http.response"), PyDict::new(py))?;
    add_tls(&extensions, common, tls)?;
    scope.set_item(intern!(py, "extensions"), extensions)?;
    Ok(scope)
}

/// Add what is known of TLS, if the connection has it.
fn add_tls(extensions: &Bound<'_, PyDict>, common: &Common, tls: Option<&TlsInfo>) -> PyResult<()> {
    let Some(info) = tls else { return Ok(()) };
    let py = extensions.py();
    let extension = tls::extension(py, info, common.certificate.as_ref())?;
    extensions.set_item(intern!(py, "tls"), extension)
}

/// Add what the scopes of all requests have.
fn add(
    scope: &Bound<'_, PyDict>,
    common: &Common,
    head: &request::Parts,
    peer: &Address,
    server: &Py<PyAny>,
) -> PyResult<()> {
    let py = scope.py();
    scope.set_item(intern!(py, "asgi"), common.asgi.bind(py).copy()?)?;
    let version = match head.version {
        Version::HTTP_10 => intern!(py, "1.0"),
        Version::HTTP_2 => intern!(py, "2"),
        _ => intern!(py, "1.1"),
    };
    scope.set_item(intern!(py, "http_version"), version)?;
    scope.set_item(intern!(py, "server"), server)?;
    scope.set_item(intern!(py, "client"), client(py, peer)?)?;
    scope.set_item(intern!(py, "root_path"), &common.root_path)?;
    let target = head.uri.path_and_query();
    let (path, query) = match target {
        Some(target) => (target.path(), target.query().unwrap_or("")),
        None => ("/", ""),
    };
    scope.set_item(intern!(py, "path"), path_text(py, common, path)?)?;
    scope.set_item(intern!(py, "raw_path"), raw_path(py, target, path))?;
    scope.set_item(intern!(py, "query_string"), PyBytes::new(py, query.as_bytes()))?;
    scope.set_item(intern!(py, "headers"), fields(py, head)?)?;
    if let Some(state) = &common.state {
        scope.set_item(intern!(py, "state"), state.bind(py).copy()?)?;
    }
    Ok(())
}

fn method<'py>(py: Python<'py>, head: &request::Parts) -> Bound<'py, PyString> {
    match head.method.as_str() {
        "GET" => intern!(py, "GET").clone(),
        "POST" => intern!(py, "POST").clone(),
        "HEAD" => intern!(py, "HEAD").clone(),
        other => PyString::new(py, other),
    }
}

/// The path, decoded, with the root path in front of it.
fn path_text<'py>(py: Python<'py>, common: &Common, path: &str) -> PyResult<Bound<'py, PyString>> {
    let root = common.root_path.bind(py).to_str()?;
    if root.is_empty() && !path.contains('%') {
        return Ok(PyString::new(py, path));
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    Ok(PyString::new(py, &format!("{root}{decoded}")))
}

fn raw_path<'py>(
    py: Python<'py>,
    _target: Option<&PathAndQuery>,
    path: &str,
) -> Bound<'py, PyBytes> {
    PyBytes::new(py, path.as_bytes())
}

/// The peer as `(host, port)`; None if it has no Internet address.
fn client<'py>(py: Python<'py>, peer: &Address) -> PyResult<Option<Bound<'py, PyAny>>> {
    match peer {
        Address::Internet(peer) => {
            Ok(Some((peer.ip().to_string(), peer.port()).into_pyobject(py)?.into_any()))
        }
        _ => Ok(None),
    }
}

/// The address of a listening socket as ASGI has it: `(host, port)`, or `(path, None)`.
pub(super) fn server<'py>(py: Python<'py>, own: &Address) -> PyResult<Bound<'py, PyAny>> {
    match own {
        Address::Internet(own) => {
            Ok((own.ip().to_string(), own.port()).into_pyobject(py)?.into_any())
        }
        other => Ok((address::to_python(py, other)?, py.None()).into_pyobject(py)?.into_any()),
    }
}

/// The header fields as a list of pairs of byte strings.
fn fields<'py>(py: Python<'py>, head: &request::Parts) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    append_fields(py, &list, &head.headers)?;
    Ok(list)
}

/// Append header fields to a list, as pairs of byte strings.
pub(super) fn append_fields<'py>(
    py: Python<'py>,
    list: &Bound<'py, PyList>,
    headers: &HeaderMap,
) -> PyResult<()> {
    for (key, value) in headers {
        let pair = [name(py, key.as_str()), PyBytes::new(py, value.as_bytes())];
        list.append(PyTuple::new(py, pair)?)?;
    }
    Ok(())
}

/// The name of a header field; those that nearly every request has are made once.
fn name<'py>(py: Python<'py>, name: &str) -> Bound<'py, PyBytes> {
    const FREQUENT: [&str; 8] = [
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "accept-language",
        "connection",
        "content-type",
        "content-length",
    ];
    static MADE: [PyOnceLock<Py<PyBytes>>; FREQUENT.len()] = [const { PyOnceLock::new() }; 8];
    match FREQUENT.iter().position(|it| *it == name) {
        Some(at) => {
            let made = MADE[at].get_or_init(py, || PyBytes::new(py, name.as_bytes()).unbind());
            made.bind(py).clone()
        }
        None => PyBytes::new(py, name.as_bytes()),
    }
}
