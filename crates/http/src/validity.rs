//! What no application should see of a request, though its parser let it pass: RFC 9112, 3.2 and 6.1; RFC 9110, 7.2.

use std::net::Ipv6Addr;

use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode, Version, request};

/// Check target, host and transfer coding; the error is the status.
pub(crate) fn check(request: &request::Parts, target_max: usize) -> Result<(), StatusCode> {
    check_target(request, target_max)?;
    check_host(request)?;
    check_coding(request)
}

fn check_target(request: &request::Parts, target_max: usize) -> Result<(), StatusCode> {
    let uri = &request.uri;
    let n_target = uri.path_and_query().map_or(0, |it| it.as_str().len());
    if n_target > target_max {
        return Err(StatusCode::URI_TOO_LONG);
    }
    if request.method == Method::CONNECT {
        // No tunnels are made here.
        return Err(StatusCode::NOT_IMPLEMENTED);
    }
    let path = uri.path();
    let is_path = path.starts_with('/') || (path == "*" && request.method == Method::OPTIONS);
    let authority = uri.authority().map_or("", |it| it.as_str());
    // An authority alone is for CONNECT; users and passwords in it deceive those who read it.
    let is_authority_form = !authority.is_empty() && uri.scheme().is_none();
    if !is_path || is_authority_form || authority.contains('@') {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(())
}

fn check_host(request: &request::Parts) -> Result<(), StatusCode> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(StatusCode::BAD_REQUEST);
    }
    let authority = request.uri.authority().filter(|_| request.version == Version::HTTP_2);
    if let (Some(host), Some(authority)) = (host, authority)
        && !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())
    {
        // RFC 9113, 8.3.1: they have to name the same host.
        return Err(StatusCode::BAD_REQUEST);
    }
    match host {
        Some(host) if !is_host(host.as_bytes()) => Err(StatusCode::BAD_REQUEST),
        None if request.version == Version::HTTP_11 => Err(StatusCode::BAD_REQUEST),
        None if request.version == Version::HTTP_2 && authority.is_none() => {
            Err(StatusCode::BAD_REQUEST)
        }
        _ => Ok(()),
    }
}

/// Whether a value has the form of a host with an optional port (RFC 3986, 3.2.2); it may be empty.
fn is_host(value: &[u8]) -> bool {
    let (is_name, port) = match value.strip_prefix(b"[") {
        Some(literal) => {
            let Some(end) = literal.iter().position(|&it| it == b']') else { return false };
            let address = std::str::from_utf8(&literal[..end]).unwrap_or("");
            (address.parse::<Ipv6Addr>().is_ok(), &literal[end + 1..])
        }
        None => {
            let end = value.iter().position(|&it| it == b':').unwrap_or(value.len());
            (value[..end].iter().all(|&it| is_of_name(it)), &value[end..])
        }
    };
    is_name
        && match port.split_first() {
            None => true,
            Some((b':', digits)) => digits.iter().all(u8::is_ascii_digit),
            Some(_) => false,
        }
}

/// Whether a registered name may have this byte.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

/// Check that a body is chunked once and nothing else: another coding would be passed on to the application, which would
/// take what is coded for the body.
fn check_coding(request: &request::Parts) -> Result<(), StatusCode> {
    let mut values = request.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(first) = values.next() else { return Ok(()) };
    if first.as_bytes().eq_ignore_ascii_case(b"chunked") && values.next().is_none() {
        return Ok(());
    }
    let values = request.headers.get_all(TRANSFER_ENCODING);
    let codings: Vec<&[u8]> = values.iter().flat_map(codings).collect();
    let n_chunked = codings.iter().filter(|it| it.eq_ignore_ascii_case(b"chunked")).count();
    match (codings.len(), n_chunked) {
        (1, 1) => Ok(()),
        (n_codings, 1..) if n_codings == n_chunked => Err(StatusCode::BAD_REQUEST),
        _ => Err(StatusCode::NOT_IMPLEMENTED),
    }
}

/// The elements of a list, of which empty ones do not count.
fn codings(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&it| it == b',').map(<[u8]>::trim_ascii).filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<(), u16> {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("a request that can be made").into_parts();
        check(&parts, 100).map_err(|it| it.as_u16())
    }

    #[test]
    fn targets_are_paths_or_absolute() {
        let host = [("host", "a")];
        for target in ["/", "/x?y", "//x", "http://a/x", "http://a", "https://a:1/"] {
            assert_eq!(Ok(()), checked("GET", target, &host), "{target}");
        }
        for target in ["a:80", "x", "*", "http://u:p@a/"] {
            assert_eq!(Err(400), checked("GET", target, &host), "{target}");
        }
        assert_eq!(Ok(()), checked("OPTIONS", "*", &host));
        assert_eq!(Err(501), checked("CONNECT", "a:80", &host));
        assert_eq!(Err(414), checked("GET", &format!("/{}", "x".repeat(100)), &host));
    }

    #[test]
    fn there_is_one_host_and_it_has_the_form_of_one() {
        for host in ["", "a", "a:", "a:80", "A.b-c_d", "127.0.0.1:1", "[::1]", "[::1]:80", "a%41"] {
            assert_eq!(Ok(()), checked("GET", "/", &[("host", host)]), "{host}");
        }
        for host in
            ["a b", "a/b", "u@a", "a:b", "a:80:80", "::1", "[::1", "[::1]x", "[x]", "<a>", "\"a\""]
        {
            assert_eq!(Err(400), checked("GET", "/", &[("host", host)]), "{host}");
        }
        assert_eq!(Err(400), checked("GET", "/", &[]));
        assert_eq!(Err(400), checked("GET", "/", &[("host", "a"), ("host", "a")]));
    }

    #[test]
    fn chunked_is_the_only_coding_and_comes_once() {
        let with = |codings: &[&str]| {
            let fields: Vec<_> = std::iter::once(("host", "a"))
                .chain(codings.iter().map(|it| ("transfer-encoding", *it)))
                .collect();
            checked("POST", "/", &fields)
        };
        assert_eq!(Ok(()), with(&[]));
        assert_eq!(Ok(()), with(&["Chunked"]));
        assert_eq!(Ok(()), with(&[", chunked ,", ""]));
        assert_eq!(Err(400), with(&["chunked, chunked"]));
        assert_eq!(Err(400), with(&["chunked", "chunked"]));
        assert_eq!(Err(501), with(&["gzip, chunked"]));
        assert_eq!(Err(501), with(&["gzip", "chunked"]));
        assert_eq!(Err(501), with(&["identity"]));
    }
}
