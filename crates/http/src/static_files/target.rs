//! The path of a request as the path of a file in the folder, or why it cannot be one.
//!
//! What comes out of here has no `.`, `..` or empty segment, no NUL and no backslash. It is decoded once.
//! Links are not this module's concern: see `folder`.

use std::borrow::Cow;

use http::StatusCode;

/// Linux's limit for a path, in bytes with the NUL at its end.
const PATH_MAX: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileTarget<'a> {
    /// Relative to the folder, without a slash at either end. Names are bytes on Linux, so these are, too.
    pub(super) path: Cow<'a, [u8]>,
    /// The address ends with a slash: it names a folder.
    pub(super) is_folder: bool,
}

impl<'a> FileTarget<'a> {
    /// Errors are the status to answer with: 400 for what is no path, 404 for what no file here can have as
    /// its address, 414 for what is longer than a path can be.
    pub(super) fn parse(path: &'a str, dot_files: bool) -> Result<Self, StatusCode> {
        let path = path.strip_prefix('/').ok_or(StatusCode::BAD_REQUEST)?;
        if path.is_empty() {
            return Ok(Self { path: Cow::Borrowed(b""), is_folder: true });
        }
        let (path, is_folder) = match path.strip_suffix('/') {
            Some(path) => (path, true),
            None => (path, false),
        };
        let path = decode(path.as_bytes())?;
        if path.len() >= PATH_MAX {
            return Err(StatusCode::URI_TOO_LONG);
        }
        for (index, segment) in path.split(|&byte| byte == b'/').enumerate() {
            if !may_be_served(index, segment, dot_files) {
                return Err(StatusCode::NOT_FOUND);
            }
        }
        Ok(Self { path, is_folder })
    }

    /// Whether the last segment has an extension, as files have and the pages of an application have not.
    pub(super) fn has_extension(&self) -> bool {
        let name = self.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        name.contains(&b'.')
    }
}

/// Whether the name begins with a dot, save for the folder that RFC 8615 puts at the root.
pub(super) fn is_hidden(is_at_root: bool, name: &[u8]) -> bool {
    name.first() == Some(&b'.') && !(is_at_root && name == b".well-known")
}

/// `index` counts the segments from the root. An empty segment is refused, not skipped: a file has one
/// address, and `//host/` never gets as far as a redirect, where a browser would take `host` for a server.
/// So is a backslash, which some clients and proxies take for a slash.
fn may_be_served(index: usize, segment: &[u8], dot_files: bool) -> bool {
    match segment {
        b"" | b"." | b".." => false,
        _ if segment.contains(&b'\\') => false,
        _ => dot_files || !is_hidden(index == 0, segment),
    }
}

/// Undoes percent-encoding, once. An encoded slash is no separator (RFC 3986, section 2.2), and no name
/// contains one; an encoded NUL would end the path for the kernel.
fn decode(encoded: &[u8]) -> Result<Cow<'_, [u8]>, StatusCode> {
    if !encoded.iter().any(|&byte| byte == b'%' || byte == 0) {
        return Ok(Cow::Borrowed(encoded));
    }
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(&byte) = rest.next() {
        let byte = if byte == b'%' {
            let high = rest.next().and_then(hex_digit).ok_or(StatusCode::BAD_REQUEST)?;
            let low = rest.next().and_then(hex_digit).ok_or(StatusCode::BAD_REQUEST)?;
            match high << 4 | low {
                b'/' => return Err(StatusCode::NOT_FOUND),
                byte => byte,
            }
        } else {
            byte
        };
        if byte == 0 {
            return Err(StatusCode::BAD_REQUEST);
        }
        decoded.push(byte);
    }
    Ok(Cow::Owned(decoded))
}

fn hex_digit(byte: &u8) -> Option<u8> {
    char::from(*byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        for (path, expected, is_folder) in [
            ("/", "", true),
            ("/a", "a", false),
            ("/a/", "a", true),
            ("/a/b.txt", "a/b.txt", false),
            ("/a%20b", "a b", false),
            ("/%61", "a", false),
            ("/%2561", "%61", false),
            ("/%252e%252e/a", "%2e%2e/a", false),
            ("/caf%C3%A9", "café", false),
            ("/a..b", "a..b", false),
            ("/a.", "a.", false),
            ("/.well-known/x", ".well-known/x", false),
            ("/a;b=c:d@e", "a;b=c:d@e", false),
        ] {
            let target = FileTarget { path: Cow::Borrowed(expected.as_bytes()), is_folder };
            assert_eq!(Ok(target), FileTarget::parse(path, false), "{path}");
        }
    }

    #[test]
    fn escapes_are_refused() {
        const BAD: StatusCode = StatusCode::BAD_REQUEST;
        const NO: StatusCode = StatusCode::NOT_FOUND;
        for dot_files in [false, true] {
            for (path, expected) in [
                ("", BAD),
                ("*", BAD),
                ("a", BAD),
                ("//", NO),
                ("///", NO),
                ("//host", NO),
                ("//host/..", NO),
                ("/a//b", NO),
                ("/a//", NO),
                ("/.", NO),
                ("/..", NO),
                ("/../", NO),
                ("/./a", NO),
                ("/a/.", NO),
                ("/a/..", NO),
                ("/a/../b", NO),
                ("/../etc/passwd", NO),
                ("/%2e", NO),
                ("/%2e%2e", NO),
                ("/%2E%2E/etc/passwd", NO),
                ("/.%2e/etc/passwd", NO),
                ("/%2e./etc/passwd", NO),
                ("/..%2fetc/passwd", NO),
                ("/..%2Fetc", NO),
                ("/%2fetc/passwd", NO),
                ("/%2f%2fhost", NO),
                ("/a%2fb", NO),
                ("/a/%2e%2e/b", NO),
                ("/..\\etc", NO),
                ("/\\host", NO),
                ("/%5chost", NO),
                ("/..%5c..%5cetc", NO),
                ("/a\\..\\b", NO),
                ("/a%00", BAD),
                ("/a%00.txt", BAD),
                ("/%00", BAD),
                ("/a\0b", BAD),
                ("/%", BAD),
                ("/a%", BAD),
                ("/a%2", BAD),
                ("/a%2/", BAD),
                ("/%zz", BAD),
                ("/%+1", BAD),
                ("/%u002e", BAD),
            ] {
                assert_eq!(Err(expected), FileTarget::parse(path, dot_files), "{path}");
            }
        }
    }

    #[test]
    fn names_with_a_dot_are_hidden_unless_asked_for() {
        for path in [
            "/.env",
            "/.git/config",
            "/a/.b/c",
            "/a/.b",
            "/%2eenv",
            "/...",
            "/..a",
            "/a/.well-known/b",
            "/.well-known/.a",
            "/.well-known2",
        ] {
            assert_eq!(Err(StatusCode::NOT_FOUND), FileTarget::parse(path, false), "{path}");
            assert!(FileTarget::parse(path, true).is_ok(), "{path}");
        }
    }

    #[test]
    fn overlong_utf8_is_no_dot_and_no_slash() {
        for path in ["/%c0%ae%c0%ae/a", "/%e0%80%ae/a", "/..%c0%af", "/%c0%2e"] {
            if let Ok(target) = FileTarget::parse(path, true) {
                assert!(target.path.split(|&b| b == b'/').all(|s| s != b".."), "{path}");
                assert!(std::str::from_utf8(&target.path).is_err(), "{path}");
            }
        }
    }

    #[test]
    fn a_path_too_long_for_the_kernel_is_414() {
        let path = format!("/{}", "a/".repeat(2100));
        assert_eq!(Err(StatusCode::URI_TOO_LONG), FileTarget::parse(&path, false));
    }

    #[test]
    fn extensions_are_of_the_last_segment() {
        for (path, expected) in
            [("/a", false), ("/a.b", true), ("/a.b/c", false), ("/a.b/c/", false), ("/", false)]
        {
            let has_extension = FileTarget::parse(path, false).unwrap().has_extension();
            assert_eq!(expected, has_extension, "{path}");
        }
    }
}
