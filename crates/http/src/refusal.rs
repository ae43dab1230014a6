//! Responses that the server gives by itself: short texts.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode, response};

/// The head and the body of a response that refuses; the connection is closed after it.
///
/// `None` is for statuses that have no text, which never happens for those that the server gives.
pub(crate) fn response(status: StatusCode) -> Option<(response::Parts, Bytes)> {
    let text = status.canonical_reason()?;
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    head.headers.insert(CONTENT_TYPE, plain);
    if closes(status) {
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        head.headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Some((head, Bytes::from_static(text.as_bytes())))
}

/// Whether what the client sends after such a request is not worth reading.
fn closes(status: StatusCode) -> bool {
    status.is_client_error()
        || matches!(status, StatusCode::NOT_IMPLEMENTED | StatusCode::SERVICE_UNAVAILABLE)
}
