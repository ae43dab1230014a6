//! Responses: of a file, whole or in part, and of what has no file.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::body::{FileBody, FilePiece};
use super::file::{FileSource, ServedFile};
use super::ranges::{self, Ranges};

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

pub(super) fn whole(file: &ServedFile, source: &FileSource) -> Response<FileBody> {
    let body = FileBody::from(source.piece(0..file.identity.size));
    with_headers(StatusCode::OK, file.headers.clone(), body)
}

/// What `HEAD` gets: the headers alone.
pub(super) fn head(file: &ServedFile) -> Response<FileBody> {
    with_headers(StatusCode::OK, file.headers.clone(), FileBody::empty())
}

pub(super) fn not_modified(file: &ServedFile) -> Response<FileBody> {
    with_headers(StatusCode::NOT_MODIFIED, file.kept_headers.clone(), FileBody::empty())
}

/// As the value of a `Range` header asks for.
pub(super) fn part(file: &ServedFile, source: &FileSource, range: &[u8]) -> Response<FileBody> {
    let size = file.identity.size;
    let ranges = match ranges::parse(range, size) {
        Ranges::Ignored => return whole(file, source),
        Ranges::Unsatisfiable => {
            let mut response = error(StatusCode::RANGE_NOT_SATISFIABLE, false);
            let headers = response.headers_mut();
            headers.insert(CONTENT_RANGE, value(format!("bytes */{size}")));
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
            return response;
        }
        Ranges::Some(ranges) => ranges,
    };
    let mut headers = file.headers.clone();
    let content_range =
        |range: &std::ops::Range<u64>| format!("bytes {}-{}/{size}", range.start, range.end - 1);
    let body = if let [range] = &ranges[..] {
        headers.insert(CONTENT_RANGE, value(content_range(range)));
        FileBody::from(source.piece(range.clone()))
    } else {
        // What describes a part, its coding included, stands at the part.
        let coding = headers.remove(CONTENT_ENCODING);
        let boundary = boundary();
        let content_type = format!("multipart/byteranges; boundary={boundary}");
        headers.insert(CONTENT_TYPE, value(content_type));
        let mut pieces = Vec::with_capacity(2 * ranges.len() + 1);
        for (index, range) in ranges.into_iter().enumerate() {
            let mut head = Vec::with_capacity(192);
            if index > 0 {
                head.extend_from_slice(b"\r\n");
            }
            head.extend_from_slice(format!("--{boundary}\r\ncontent-type: ").as_bytes());
            head.extend_from_slice(file.content_type.as_bytes());
            if let Some(coding) = &coding {
                head.extend_from_slice(b"\r\ncontent-encoding: ");
                head.extend_from_slice(coding.as_bytes());
            }
            let content_range = content_range(&range);
            head.extend_from_slice(
                format!("\r\ncontent-range: {content_range}\r\n\r\n").as_bytes(),
            );
            pieces.push(FilePiece::Bytes(Bytes::from(head)));
            pieces.push(source.piece(range));
        }
        pieces.push(FilePiece::Bytes(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
        FileBody::from_pieces(pieces)
    };
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    with_headers(StatusCode::PARTIAL_CONTENT, headers, body)
}

/// A response that says its status in words. With `is_head`, it has the headers of those words alone.
pub(super) fn error(status: StatusCode, is_head: bool) -> Response<FileBody> {
    let reason = status.canonical_reason().unwrap_or("Error");
    let mut response = text(PLAIN, Bytes::from(format!("{reason}\n")), is_head);
    *response.status_mut() = status;
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, ALLOWED);
    }
    response
}

pub(super) fn options() -> Response<FileBody> {
    let headers = HeaderMap::from_iter([(ALLOW, ALLOWED)]);
    with_headers(StatusCode::NO_CONTENT, headers, FileBody::empty())
}

/// To the same path with a slash behind it. `path` begins with one slash and no second one, so that
/// browsers do not take what follows for a server's name.
pub(super) fn redirect(path: &str, query: Option<&str>, is_head: bool) -> Response<FileBody> {
    debug_assert!(path.starts_with('/') && !path.starts_with("//"));
    let location = match query {
        Some(query) => format!("{path}/?{query}"),
        None => format!("{path}/"),
    };
    match HeaderValue::try_from(location) {
        Ok(location) => {
            let mut response = error(StatusCode::MOVED_PERMANENTLY, is_head);
            response.headers_mut().insert(LOCATION, location);
            response
        }
        Err(_) => error(StatusCode::BAD_REQUEST, is_head),
    }
}

pub(super) fn text(content_type: HeaderValue, body: Bytes, is_head: bool) -> Response<FileBody> {
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let body = if is_head { FileBody::empty() } else { FileBody::from_bytes(body) };
    with_headers(StatusCode::OK, headers, body)
}

fn with_headers(status: StatusCode, headers: HeaderMap, body: FileBody) -> Response<FileBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("what is made of names and numbers is a header's value")
}

/// What separates parts. It is new each time and cannot be foreseen, so that no file contains it, even if its author
/// wrote the file.
fn boundary() -> String {
    static KEYS: LazyLock<[RandomState; 2]> =
        LazyLock::new(|| [RandomState::new(), RandomState::new()]);
    static N_MADE: AtomicU64 = AtomicU64::new(0);
    let n_made = N_MADE.fetch_add(1, Ordering::Relaxed);
    let [high, low] = [0, 1].map(|key| KEYS[key].hash_one(n_made));
    format!("{high:016x}{low:016x}")
}
