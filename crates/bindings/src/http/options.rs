//! The options of a server, by their names in Python.

use std::time::Duration;

use http::header::HeaderValue;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use threadlets_http::static_files::StaticOptions;
use threadlets_http::{Limits, websocket};

/// The limits by their names in Python; what is not given has its default.
pub(super) fn limits_of(options: &Bound<'_, PyDict>) -> PyResult<Limits> {
    let mut limits = Limits::default();
    let seconds = |value: &Bound<'_, PyAny>| -> PyResult<Duration> {
        Duration::try_from_secs_f64(value.extract()?)
            .map_err(|error| PyValueError::new_err(error.to_string()))
    };
    for (key, value) in options {
        let key = key.cast::<PyString>()?;
        match key.to_str()? {
            "concurrency" => limits.concurrency = value.extract()?,
            "connections" => limits.connections = value.extract()?,
            "request_line" => limits.request_line = value.extract()?,
            "request_headers" => limits.request_headers = value.extract()?,
            "request_head" => limits.request_head = value.extract()?,
            "request_body" => limits.request_body = value.extract()?,
            "keep_alive" => limits.keep_alive = seconds(&value)?,
            "head" => limits.head = seconds(&value)?,
            "body" => limits.body = seconds(&value)?,
            "response" => limits.response = seconds(&value)?,
            "send_high_water" => limits.send_high_water = value.extract()?,
            other => {
                return Err(PyValueError::new_err(format!("there is no limit named {other:?}")));
            }
        }
    }
    Ok(limits)
}

/// What websockets do, by the names of their options in Python; what is not given has its default.
pub(super) fn websocket_options(options: &Bound<'_, PyDict>) -> PyResult<websocket::Options> {
    let mut found = websocket::Options::default();
    // Zero is for ever.
    let seconds = |value: &Bound<'_, PyAny>| -> PyResult<Option<Duration>> {
        Duration::try_from_secs_f64(value.extract()?)
            .map(|it| Some(it).filter(|it| !it.is_zero()))
            .map_err(|error| PyValueError::new_err(error.to_string()))
    };
    for (key, value) in options {
        let key = key.cast::<PyString>()?;
        match key.to_str()? {
            "max_size" => found.max_size = value.extract()?,
            "ping_interval" => found.ping_interval = seconds(&value)?,
            "ping_timeout" => found.ping_timeout = seconds(&value)?,
            "per_message_deflate" => found.per_message_deflate = value.extract()?,
            other => {
                return Err(PyValueError::new_err(format!(
                    "websockets have no option named {other:?}"
                )));
            }
        }
    }
    Ok(found)
}

/// What is served of a folder, by the names of its options in Python; what is not given has its default.
pub(super) fn static_options(options: &Bound<'_, PyDict>) -> PyResult<StaticOptions> {
    let mut found = StaticOptions::default();
    for (key, value) in options {
        let key = key.cast::<PyString>()?;
        match key.to_str()? {
            "index" => found.index = value.extract()?,
            "spa" => found.spa = value.extract()?,
            "listing" => found.listing = value.extract()?,
            "dot_files" => found.dot_files = value.extract()?,
            "precompressed" => found.precompressed = value.extract()?,
            "cache_bytes" => found.cache_bytes = value.extract()?,
            "cached_file_max" => found.cached_file_max = value.extract()?,
            "cache_control" => {
                let value: Option<String> = value.extract()?;
                let value = value.map(HeaderValue::try_from).transpose();
                found.cache_control = value
                    .map_err(|_| PyValueError::new_err("cache_control is no value of a field"))?;
            }
            other => {
                return Err(PyValueError::new_err(format!("there is no option named {other:?}")));
            }
        }
    }
    Ok(found)
}
