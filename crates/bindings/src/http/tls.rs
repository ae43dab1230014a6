//! TLS between Python and the server: its options, and ASGI's extension `tls`.

use std::path::PathBuf;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use threadlets_http::tls::{Tls, TlsInfo, TlsOptions};

/// TLS by its options: PEM as bytes, or the paths of files with it.
pub(super) fn tls(options: &Bound<'_, PyDict>) -> PyResult<Tls> {
    let mut found = TlsOptions::default();
    for (key, value) in options {
        let key = key.cast::<PyString>()?;
        match key.to_str()? {
            "certificates" => found.certificates = pem(&value)?,
            "key" => found.key = optional(&value, pem)?,
            "key_password" => found.key_password = optional(&value, password)?,
            "client_authorities" => found.client_authorities = optional(&value, pem)?,
            "requires_client_certificate" => found.requires_client_certificate = value.extract()?,
            other => {
                return Err(PyValueError::new_err(format!(
                    "there is no option of TLS named {other:?}"
                )));
            }
        }
    }
    Tls::new(&found).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn optional(
    value: &Bound<'_, PyAny>,
    read: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<Vec<u8>>,
) -> PyResult<Option<Vec<u8>>> {
    if value.is_none() { Ok(None) } else { read(value).map(Some) }
}

fn pem(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    let path: PathBuf = value.extract()?;
    std::fs::read(&path).map_err(|error| {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default().to_owned();
        PyOSError::new_err((error.raw_os_error(), text, path.clone()))
    })
}

fn password(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    match value.cast::<PyBytes>() {
        Ok(bytes) => Ok(bytes.as_bytes().to_vec()),
        Err(_) => Ok(value.cast::<PyString>()?.to_str()?.into()),
    }
}

/// What ASGI's extension `tls` says of a connection.
pub(super) fn extension<'py>(
    py: Python<'py>,
    info: &TlsInfo,
    certificate: Option<&Py<PyString>>,
) -> PyResult<Bound<'py, PyDict>> {
    let client = info.client();
    let chain: &[String] = client.map_or(&[], |it| &it.chain);
    let extension = PyDict::new(py);
    extension.set_item(intern!(py, "server_cert"), certificate)?;
    extension.set_item(intern!(py, "client_cert_chain"), PyList::new(py, chain)?)?;
    extension.set_item(intern!(py, "client_cert_name"), client.map(|it| &it.name))?;
    // A certificate that is not valid fails the handshake.
    extension.set_item(intern!(py, "client_cert_error"), py.None())?;
    extension.set_item(intern!(py, "tls_version"), info.version)?;
    extension.set_item(intern!(py, "cipher_suite"), info.cipher_suite)?;
    Ok(extension)
}
