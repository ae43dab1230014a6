//! The opening handshake: RFC 6455, 4.2.

use http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{Method, Response, StatusCode, Version, request, response};
use hyper::upgrade::OnUpgrade;
use tungstenite::handshake::derive_accept_key;

use super::deflate::Agreement;

/// Characters of a key: 16 bytes in base64.
const KEY_LEN: usize = 24;

/// What a client has asked for, as far as the response needs it.
#[derive(Debug)]
pub(super) struct Handshake {
    accept: String,
    pub(super) subprotocols: Vec<String>,
    pub(super) deflate: Option<Agreement>,
}

/// Whether a request asks for a websocket, be it in the right way or not.
pub(crate) fn is_handshake(request: &request::Parts) -> bool {
    request.version == Version::HTTP_11
        && request.extensions.get::<OnUpgrade>().is_some()
        && has_token(&request.headers, &UPGRADE, "websocket")
        && has_token(&request.headers, &CONNECTION, "upgrade")
}

/// Check a request for a websocket; the error is the status that refuses it.
pub(super) fn check(
    request: &request::Parts,
    has_body: bool,
    deflates: bool,
) -> Result<Handshake, StatusCode> {
    let headers = &request.headers;
    if only(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|it| it != "13") {
        return Err(StatusCode::UPGRADE_REQUIRED);
    }
    let key = only(headers, &SEC_WEBSOCKET_KEY).filter(|it| is_key(it.as_bytes()));
    let (Some(key), &Method::GET, false) = (key, &request.method, has_body) else {
        return Err(StatusCode::BAD_REQUEST);
    };
    let deflate = deflates.then(|| Agreement::of(values(headers, &SEC_WEBSOCKET_EXTENSIONS)));
    Ok(Handshake {
        accept: derive_accept_key(key.as_bytes()),
        subprotocols: tokens(headers, &SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect(),
        deflate: deflate.flatten(),
    })
}

impl Handshake {
    /// The head of the response that accepts; `headers` are those that the application adds.
    pub(super) fn response(
        &self,
        subprotocol: Option<HeaderValue>,
        mut headers: HeaderMap,
    ) -> response::Parts {
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = StatusCode::SWITCHING_PROTOCOLS;
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        if let Ok(accept) = HeaderValue::try_from(&self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        headers.remove(SEC_WEBSOCKET_EXTENSIONS);
        if let Some(deflate) = self.deflate
            && let Ok(answer) = HeaderValue::try_from(deflate.answer())
        {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, answer);
        }
        if let Some(subprotocol) = subprotocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        head.headers = headers;
        head
    }
}

/// The value of a field that comes once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn is_key(key: &[u8]) -> bool {
    let is_base64 = |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'+' | b'/');
    key.len() == KEY_LEN && key.ends_with(b"==") && key[..KEY_LEN - 2].iter().all(is_base64)
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).iter().filter_map(|it| it.to_str().ok())
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    values(headers, name).flat_map(|it| it.split(',')).map(str::trim).filter(|it| !it.is_empty())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|it| it.eq_ignore_ascii_case(token))
}
