//! What is answered, by method, condition, range, coding and option.

use super::*;

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz";

/// Asks once for the tag and the date, so that conditions can name them.
fn validators(files: &StaticFiles, target: &str) -> (String, String) {
    let answer = get(files, target);
    let text = |name| answer.header(name).unwrap().to_owned();
    (text("etag"), text("last-modified"))
}

fn make_old(site: &Site, path: &str) {
    let file = fs::File::options().write(true).open(site.root().join(path)).unwrap();
    let date = std::time::UNIX_EPOCH + std::time::Duration::new(784_111_777, 123);
    file.set_modified(date).unwrap();
}

#[test]
fn get_has_the_headers_of_a_file() {
    let site = Site::new(&[("a.txt", ALPHABET)]);
    make_old(&site, "a.txt");
    let files = site.open_with(|options| {
        options.cache_control = Some(HeaderValue::from_static("max-age=60"));
    });
    let answer = get(&files, "/a.txt");
    assert_eq!(StatusCode::OK, answer.status);
    assert_eq!(ALPHABET, answer.body);
    for (name, expected) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "26"),
        ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("accept-ranges", "bytes"),
        ("cache-control", "max-age=60"),
        ("vary", "accept-encoding"),
    ] {
        assert_eq!(Some(expected), answer.header(name));
    }
    let etag = answer.header("etag").unwrap();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
}

#[test]
fn head_has_the_headers_of_get_and_no_body() {
    let site = Site::new(&[("a.txt", ALPHABET), ("empty", "")]);
    let files = site.open();
    for target in ["/a.txt", "/empty", "/missing", "/.."] {
        let (head, get) = (ask(&files, "HEAD", target, &[]), get(&files, target));
        assert_eq!(get.status, head.status, "{target}");
        assert_eq!(get.headers, head.headers, "{target}");
        assert_eq!("", head.body, "{target}");
    }
}

#[test]
fn other_methods_are_refused_and_options_answered() {
    let site = Site::new(&[("a.txt", ALPHABET)]);
    let files = site.open();
    for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW", "get"] {
        for target in ["/a.txt", "/missing"] {
            let answer = ask(&files, method, target, &[]);
            assert_eq!(StatusCode::METHOD_NOT_ALLOWED, answer.status);
            assert_eq!(Some("GET, HEAD, OPTIONS"), answer.header("allow"));
        }
    }
    for target in ["/a.txt", "*"] {
        let answer = ask(&files, "OPTIONS", target, &[]);
        assert_eq!(StatusCode::NO_CONTENT, answer.status);
        assert_eq!(Some("GET, HEAD, OPTIONS"), answer.header("allow"));
    }
}

#[test]
fn conditions_are_answered_with_what_a_client_keeps() {
    let site = Site::new(&[("a.txt", ALPHABET)]);
    make_old(&site, "a.txt");
    let files = site.open_with(|options| {
        options.cache_control = Some(HeaderValue::from_static("max-age=60"));
    });
    let (etag, date) = validators(&files, "/a.txt");
    for method in ["GET", "HEAD"] {
        for line in [("if-none-match", &etag), ("if-modified-since", &date)] {
            let answer = ask(&files, method, "/a.txt", &[(line.0, line.1)]);
            assert_eq!(StatusCode::NOT_MODIFIED, answer.status);
            assert_eq!(Some(&*etag), answer.header("etag"));
            assert_eq!(Some("max-age=60"), answer.header("cache-control"));
            assert_eq!(Some("accept-encoding"), answer.header("vary"));
            for name in ["content-length", "content-type", "last-modified"] {
                assert_eq!(None, answer.header(name));
            }
        }
        let answer = ask(&files, method, "/a.txt", &[("if-match", "\"x\"")]);
        assert_eq!(StatusCode::PRECONDITION_FAILED, answer.status);
    }
    // Conditions are for what would be answered 200.
    let answer = ask(&files, "GET", "/missing", &[("if-match", "\"x\""), ("if-none-match", "*")]);
    assert_eq!(StatusCode::NOT_FOUND, answer.status);
}

#[test]
fn one_range_is_a_part() {
    let site = Site::new(&[("a.txt", ALPHABET)]);
    let whole_and_on_disk = [1 << 20, 0];
    for cached_file_max in whole_and_on_disk {
        let files = site.open_with(|options| options.cached_file_max = cached_file_max);
        for (range, body, content_range) in [
            ("bytes=0-2", "abc", "bytes 0-2/26"),
            ("bytes=23-", "xyz", "bytes 23-25/26"),
            ("bytes=-2", "yz", "bytes 24-25/26"),
            ("bytes=0-", ALPHABET, "bytes 0-25/26"),
            ("bytes=0-2,10-12", "abcdefghijklm", "bytes 0-12/26"),
        ] {
            let answer = ask(&files, "GET", "/a.txt", &[("range", range)]);
            assert_eq!(StatusCode::PARTIAL_CONTENT, answer.status, "{range}");
            assert_eq!(Some(content_range), answer.header("content-range"), "{range}");
            assert_eq!(body, answer.body, "{range}");
            let whole = get(&files, "/a.txt");
            for name in ["etag", "last-modified", "vary", "content-type"] {
                assert_eq!(whole.header(name), answer.header(name), "{name}");
            }
        }
        for range in ["bytes=26-", "bytes=-0"] {
            let answer = ask(&files, "GET", "/a.txt", &[("range", range)]);
            assert_eq!(StatusCode::RANGE_NOT_SATISFIABLE, answer.status, "{range}");
            assert_eq!(Some("bytes */26"), answer.header("content-range"), "{range}");
        }
        for (method, range) in [("GET", "bytes=2-1"), ("GET", "lines=0-1"), ("HEAD", "bytes=0-1")] {
            let answer = ask(&files, method, "/a.txt", &[("range", range)]);
            assert_eq!(StatusCode::OK, answer.status, "{range}");
            assert_eq!(Some("26"), answer.header("content-length"), "{range}");
        }
    }
}

#[test]
fn several_ranges_are_parts_of_a_multipart_body() {
    let contents: String = ALPHABET.repeat(100);
    let site = Site::new(&[("a.txt", &contents)]);
    for cached_file_max in [1 << 20, 0] {
        let files = site.open_with(|options| options.cached_file_max = cached_file_max);
        let answer = ask(&files, "GET", "/a.txt", &[("range", "bytes=2598-,0-1,1300-1301")]);
        assert_eq!(StatusCode::PARTIAL_CONTENT, answer.status);
        assert_eq!(None, answer.header("content-range"));
        let content_type = answer.header("content-type").unwrap();
        let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let part = |range: &str, body: &str| {
            format!(
                "--{boundary}\r\ncontent-type: text/plain; charset=utf-8\r\n\
                 content-range: bytes {range}/2600\r\n\r\n{body}\r\n"
            )
        };
        let expected = [
            part("2598-2599", "yz"),
            part("0-1", "ab"),
            part("1300-1301", "ab"),
            format!("--{boundary}--\r\n"),
        ];
        assert_eq!(expected.concat(), answer.body);
        let again = ask(&files, "GET", "/a.txt", &[("range", "bytes=2598-,0-1")]);
        assert_ne!(Some(content_type), again.header("content-type"));
    }
}

#[test]
fn if_range_gives_the_part_of_the_same_file_alone() {
    let site = Site::new(&[("a.txt", ALPHABET)]);
    make_old(&site, "a.txt");
    let files = site.open();
    let (etag, date) = validators(&files, "/a.txt");
    let weak = format!("W/{etag}");
    let later = "Sun, 06 Nov 1994 08:49:38 GMT";
    for (validator, expected) in [
        (&*etag, StatusCode::PARTIAL_CONTENT),
        (&*date, StatusCode::PARTIAL_CONTENT),
        (&*weak, StatusCode::OK),
        ("\"x\"", StatusCode::OK),
        (later, StatusCode::OK),
    ] {
        let lines = [("range", "bytes=0-0"), ("if-range", validator)];
        assert_eq!(expected, ask(&files, "GET", "/a.txt", &lines).status, "{validator}");
        // Out of reach matters only if the range is looked at.
        let lines = [("range", "bytes=99-"), ("if-range", validator)];
        let expected = match expected {
            StatusCode::PARTIAL_CONTENT => StatusCode::RANGE_NOT_SATISFIABLE,
            other => other,
        };
        assert_eq!(expected, ask(&files, "GET", "/a.txt", &lines).status, "{validator}");
    }
}

#[test]
fn an_empty_file_is_whole() {
    let site = Site::new(&[("empty", "")]);
    let files = site.open();
    for (range, expected) in
        [("bytes=-5", StatusCode::OK), ("bytes=0-", StatusCode::RANGE_NOT_SATISFIABLE)]
    {
        assert_eq!(expected, ask(&files, "GET", "/empty", &[("range", range)]).status);
    }
    assert_eq!("", get(&files, "/empty").body);
}

#[test]
fn compressed_siblings_go_to_those_who_take_them() {
    let site = Site::new(&[
        ("a.js", "plain"),
        ("a.js.gz", "gzip"),
        ("a.js.br", "brotli"),
        ("b.js", "plain"),
        ("b.js.zst", "zstd"),
        ("c.js.gz", "no plain file"),
        ("d.png", "image"),
        ("d.png.gz", "gzip"),
    ]);
    let files = site.open();
    for (target, accepted, body, coding) in [
        ("/a.js", "gzip, br", "brotli", Some("br")),
        ("/a.js", "gzip, br;q=0.5", "gzip", Some("gzip")),
        ("/a.js", "zstd, gzip;q=0.1", "gzip", Some("gzip")),
        ("/a.js", "zstd", "plain", None),
        ("/a.js", "identity, gzip;q=0.1", "plain", None),
        ("/a.js", "", "plain", None),
        ("/b.js", "gzip, zstd, br", "zstd", Some("zstd")),
        ("/b.js", "gzip", "plain", None),
    ] {
        let answer = ask(&files, "GET", target, &[("accept-encoding", accepted)]);
        assert_eq!(StatusCode::OK, answer.status);
        assert_eq!(body, answer.body, "{target} {accepted}");
        assert_eq!(coding, answer.header("content-encoding"), "{target} {accepted}");
        assert_eq!(Some("text/javascript; charset=utf-8"), answer.header("content-type"));
        assert_eq!(Some("accept-encoding"), answer.header("vary"));
    }
    let answer = ask(&files, "GET", "/b.js", &[("accept-encoding", "gzip, identity;q=0")]);
    assert_eq!(StatusCode::NOT_ACCEPTABLE, answer.status);
    let answer = ask(&files, "GET", "/c.js", &[("accept-encoding", "gzip")]);
    assert_eq!(StatusCode::NOT_FOUND, answer.status);
    let answer = ask(&files, "GET", "/d.png", &[("accept-encoding", "gzip")]);
    assert_eq!((Some("image/png"), None), (answer.header("content-type"), answer.header("vary")));
    assert_eq!("image", answer.body);
    // Asked for by its own name, it is a file like others.
    let answer = ask(&files, "GET", "/a.js.gz", &[("accept-encoding", "gzip")]);
    assert_eq!(Some("application/gzip"), answer.header("content-type"));
    assert_eq!(None, answer.header("content-encoding"));

    let files = site.open_with(|options| options.precompressed = false);
    let answer = ask(&files, "GET", "/a.js", &[("accept-encoding", "gzip")]);
    assert_eq!(("plain", None), (&*answer.body, answer.header("vary")));
}

#[test]
fn tags_and_ranges_are_of_the_coding_that_is_sent() {
    let site = Site::new(&[("a.js", ALPHABET), ("a.js.gz", &"0123456789".repeat(100))]);
    let files = site.open();
    let gzip = ("accept-encoding", "gzip");
    let (plain, packed) = (get(&files, "/a.js"), ask(&files, "GET", "/a.js", &[gzip]));
    let etag = packed.header("etag").unwrap();
    assert_ne!(plain.header("etag"), Some(etag));

    let answer = ask(&files, "GET", "/a.js", &[gzip, ("range", "bytes=998-"), ("if-range", etag)]);
    assert_eq!(StatusCode::PARTIAL_CONTENT, answer.status);
    assert_eq!(Some("bytes 998-999/1000"), answer.header("content-range"));
    assert_eq!(Some("gzip"), answer.header("content-encoding"));
    assert_eq!("89", answer.body);
    let answer = ask(&files, "GET", "/a.js", &[gzip, ("range", "bytes=0-0,998-")]);
    assert_eq!(None, answer.header("content-encoding"));
    assert_eq!(2, answer.body.matches("content-encoding: gzip\r\n").count());

    let answer = ask(&files, "GET", "/a.js", &[gzip, ("if-none-match", etag)]);
    assert_eq!(StatusCode::NOT_MODIFIED, answer.status);
    let answer = ask(&files, "GET", "/a.js", &[("if-none-match", etag)]);
    assert_eq!(StatusCode::OK, answer.status);
}

#[test]
fn folders_are_answered_with_their_index() {
    let site =
        Site::new(&[("index.html", "root"), ("docs/index.html", "docs"), ("empty/x.txt", "")]);
    fs::create_dir_all(site.root().join("odd/index.html")).unwrap();
    let files = site.open();
    for (target, status, body) in [
        ("/", 200, "root"),
        ("/?a=b", 200, "root"),
        ("/docs/", 200, "docs"),
        ("/docs/index.html", 200, "docs"),
        ("/docs/index.html/", 404, "Not Found\n"),
        ("/empty/", 404, "Not Found\n"),
        ("/odd/", 404, "Not Found\n"),
        ("http://host/docs/", 200, "docs"),
    ] {
        let answer = get(&files, target);
        assert_eq!((status, body), (answer.status.as_u16(), &*answer.body), "{target}");
    }
    let files = site.open_with(|options| options.index = false);
    assert_eq!(StatusCode::NOT_FOUND, get(&files, "/").status);
}

#[test]
fn a_folder_without_its_slash_is_redirected_within_the_site() {
    let site = Site::new(&[
        ("docs/index.html", "docs"),
        ("a b/c/x", ""),
        ("host/x", ""),
        ("etc:80/x", ""),
    ]);
    let files = site.open();
    for (target, location) in [
        ("/docs", "/docs/"),
        ("/docs?a=b&c=//host", "/docs/?a=b&c=//host"),
        ("/docs?", "/docs/?"),
        ("/a%20b/c?q", "/a%20b/c/?q"),
        ("/etc:80", "/etc:80/"),
        ("http://host/docs?a", "/docs/?a"),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = ask(&files, method, target, &[]);
            assert_eq!(StatusCode::MOVED_PERMANENTLY, answer.status, "{target}");
            assert_eq!(Some(location), answer.header("location"), "{target}");
        }
    }
    for target in ["//host", "///host", "/%2fhost", "/\\host", "/%5chost", "//host/%2e%2e"] {
        let answer = get(&files, target);
        assert_eq!((StatusCode::NOT_FOUND, None), (answer.status, answer.header("location")));
    }
}

#[test]
fn folders_are_listed_if_asked_for_and_names_are_escaped() {
    let odd = "<b>&\"'.txt";
    let site = Site::new(&[
        ("list/b.txt", ""),
        ("list/a:c d%.txt", ""),
        (&format!("list/{odd}"), ""),
        ("list/z/x", ""),
        ("list/.hidden", ""),
        ("indexed/index.html", "index"),
    ]);
    std::os::unix::fs::symlink("b.txt", site.root().join("list/link")).unwrap();
    std::os::unix::fs::symlink(site.outside(), site.root().join("list/out")).unwrap();
    let files = site.open();
    assert_eq!(StatusCode::NOT_FOUND, get(&files, "/list/").status);

    let files = site.open_with(|options| options.listing = true);
    assert!(files.try_answer(&request("GET", "/list/", &[])).is_none());
    let answer = get(&files, "/list/");
    assert_eq!(Some("text/html; charset=utf-8"), answer.header("content-type"));
    let links: Vec<&str> =
        answer.body.lines().filter_map(|line| line.strip_prefix("<li><a href=")).collect();
    let expected = [
        "\"../\">../</a>",
        "\"./z/\">z/</a>",
        "\"./%3Cb%3E%26%22%27.txt\">&lt;b&gt;&amp;&quot;&#39;.txt</a>",
        "\"./a%3Ac%20d%25.txt\">a:c d%.txt</a>",
        "\"./b.txt\">b.txt</a>",
        "\"./link\">link</a>",
    ];
    assert_eq!(expected, links[..]);
    assert_eq!("index", get(&files, "/indexed/").body);
    assert_eq!(StatusCode::NOT_FOUND, get(&files, "/missing/").status);
    assert_eq!(StatusCode::NOT_FOUND, get(&files, "/list/b.txt/").status);
    assert_eq!("", ask(&files, "HEAD", "/list/", &[]).body);

    let files = site.open_with(|options| {
        options.listing = true;
        options.dot_files = true;
    });
    assert!(get(&files, "/list/").body.contains("./.hidden"));
}

#[test]
fn pages_of_an_application_are_answered_by_its_page() {
    let site = Site::new(&[("app/index.html", "app"), ("app.js", "js"), ("folder/x", "")]);
    let files = site.open_with(|options| {
        options.spa = Some("app/index.html".to_owned());
        options.cache_control = Some(HeaderValue::from_static("max-age=60"));
    });
    let html = ("accept", "text/html,*/*;q=0.8");
    for (method, target, line, status, body) in [
        ("GET", "/", html, 200, "app"),
        ("GET", "/users/1", html, 200, "app"),
        ("GET", "/users/", html, 200, "app"),
        ("GET", "/v1.2/users?q=a.b", html, 200, "app"),
        ("HEAD", "/users/1", html, 200, ""),
        ("GET", "/users/1", ("accept", "application/json"), 404, "Not Found\n"),
        ("GET", "/missing.js", html, 404, "Not Found\n"),
        ("GET", "/folder/", html, 200, "app"),
        ("POST", "/users/1", html, 405, "Method Not Allowed\n"),
        ("GET", "/.git/config", html, 404, "Not Found\n"),
        ("GET", "/a/../b", html, 404, "Not Found\n"),
        ("GET", "/a%00", html, 400, "Bad Request\n"),
    ] {
        let answer = ask(&files, method, target, &[line]);
        assert_eq!((status, body), (answer.status.as_u16(), &*answer.body), "{method} {target}");
    }
    let answer = ask(&files, "GET", "/users", &[html]);
    assert_eq!(Some("no-cache"), answer.header("cache-control"));
    let vary: Vec<_> = answer.headers.get_all("vary").iter().collect();
    assert_eq!(["accept-encoding", "accept"], vary[..]);
    assert_eq!(Some("max-age=60"), get(&files, "/app/index.html").header("cache-control"));
    assert_eq!("js", get(&files, "/app.js").body);
}

#[test]
fn a_page_that_is_missing_is_an_error_at_the_start() {
    let site = Site::new(&[]);
    for spa in ["index.html", "../secret.txt", "/etc/passwd", "", "a/../b"] {
        let options = StaticOptions { spa: Some(spa.to_owned()), ..StaticOptions::default() };
        let error = StaticFiles::open(&site.root(), options).err().unwrap();
        assert_eq!(io::ErrorKind::InvalidInput, error.kind(), "{spa}");
    }
    let missing = StaticFiles::open(&site.outside().join("no"), StaticOptions::default());
    assert_eq!(io::ErrorKind::NotFound, missing.err().unwrap().kind());
    let file = StaticFiles::open(&site.outside().join("secret.txt"), StaticOptions::default());
    assert_eq!(io::ErrorKind::NotADirectory, file.err().unwrap().kind());
}

#[test]
fn times_that_http_cannot_say_are_left_out() {
    let site = Site::new(&[("a.txt", ALPHABET)]);
    let hour = std::time::Duration::from_secs(3600);
    for time in [std::time::UNIX_EPOCH - hour, std::time::SystemTime::now() + hour] {
        let file = fs::File::options().write(true).open(site.root().join("a.txt")).unwrap();
        file.set_modified(time).unwrap();
        let answer = get(&site.open(), "/a.txt");
        assert_eq!((StatusCode::OK, None), (answer.status, answer.header("last-modified")));
        assert!(answer.header("etag").is_some());
    }
}
