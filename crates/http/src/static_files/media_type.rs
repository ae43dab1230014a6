//! The media type of a file by its name.

use http::HeaderValue;

/// Where the registry has moved on since `mime_guess` was published, or where a browser is meant.
const CORRECTIONS: [(&str, &str); 14] = [
    ("cjs", "text/javascript"),
    ("js", "text/javascript"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("map", "application/json"),
    ("mjs", "text/javascript"),
    ("otf", "font/otf"),
    ("toml", "application/toml"),
    ("ts", "video/mp2t"),
    ("ttf", "font/ttf"),
    // The document says its encoding itself.
    ("xml", "application/xml"),
    ("xsl", "application/xml"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zst", "application/zstd"),
];

/// The media type that belongs to the name at the end of `path`; text is said to be UTF-8.
pub(super) fn of(path: &[u8]) -> HeaderValue {
    let media_type = essence(path);
    if media_type.starts_with("text/") {
        let value = format!("{media_type}; charset=utf-8");
        HeaderValue::try_from(value).expect("a media type is a header's value")
    } else {
        HeaderValue::from_static(media_type)
    }
}

/// Whether compression helps such a file, so that it is worth looking for compressed siblings.
pub(super) fn is_compressible(path: &[u8]) -> bool {
    let media_type = essence(path);
    match media_type.split_once('/') {
        Some(("image", kind)) => matches!(kind, "svg+xml" | "bmp" | "x-icon"),
        Some(("audio" | "video", _)) => false,
        Some(("font", kind)) => !kind.starts_with("woff"),
        Some(("application", kind)) => !matches!(
            kind,
            "zip"
                | "gzip"
                | "zstd"
                | "pdf"
                | "x-7z-compressed"
                | "x-bzip2"
                | "x-xz"
                | "x-rar-compressed"
        ),
        _ => true,
    }
}

fn essence(path: &[u8]) -> &'static str {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let Some(at) = name.iter().rposition(|&byte| byte == b'.') else {
        return "application/octet-stream";
    };
    let extension = String::from_utf8_lossy(&name[at + 1..]);
    CORRECTIONS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(&extension))
        .map(|&(_, media_type)| media_type)
        .or_else(|| mime_guess::from_ext(&extension).first_raw())
        .unwrap_or("application/octet-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_type_that_a_browser_expects() {
        for (path, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/b.htm", "text/html; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("A.JS", "text/javascript; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.js.map", "application/json"),
            ("a.wasm", "application/wasm"),
            ("a.svg", "image/svg+xml"),
            ("a.png", "image/png"),
            ("a.webp", "image/webp"),
            ("a.avif", "image/avif"),
            ("favicon.ico", "image/x-icon"),
            ("a.woff2", "font/woff2"),
            ("a.ttf", "font/ttf"),
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.md", "text/markdown; charset=utf-8"),
            ("a.csv", "text/csv; charset=utf-8"),
            ("a.xml", "application/xml"),
            ("a.pdf", "application/pdf"),
            ("a.tar.gz", "application/gzip"),
            ("a.webmanifest", "application/manifest+json"),
            ("a.mp4", "video/mp4"),
            ("a", "application/octet-stream"),
            ("a.", "application/octet-stream"),
            ("a.b/c", "application/octet-stream"),
            ("a.qqq", "application/octet-stream"),
        ] {
            assert_eq!(expected, of(path.as_bytes()), "{path}");
        }
        assert_eq!("application/octet-stream", of(b"a.\xff\xfe"));
    }

    #[test]
    fn what_is_compressed_has_no_compressed_siblings() {
        for (path, expected) in [
            ("a.html", true),
            ("a.js", true),
            ("a.svg", true),
            ("a.wasm", true),
            ("a.ttf", true),
            ("a", true),
            ("a.png", false),
            ("a.woff2", false),
            ("a.mp4", false),
            ("a.gz", false),
            ("a.zst", false),
            ("a.zip", false),
        ] {
            assert_eq!(expected, is_compressible(path.as_bytes()), "{path}");
        }
    }
}
