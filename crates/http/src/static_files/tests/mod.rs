//! Claims about whole answers, for real files in a folder that is made for each test.

mod answers;
mod changes;
mod escapes;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use tempfile::TempDir;

use super::{FileBody, StaticFiles, StaticOptions};

/// A folder with files, and a place beside it that nobody may get at.
struct Site {
    place: TempDir,
}

impl Site {
    fn new(files: &[(&str, &str)]) -> Self {
        let site = Self { place: tempfile::tempdir().unwrap() };
        fs::create_dir(site.root()).unwrap();
        fs::write(site.outside().join("secret.txt"), "secret").unwrap();
        for (path, contents) in files {
            site.write(path, contents);
        }
        site
    }

    fn root(&self) -> PathBuf {
        self.place.path().join("root")
    }

    fn outside(&self) -> &Path {
        self.place.path()
    }

    fn write(&self, path: &str, contents: impl AsRef<[u8]>) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// Puts a file in the place of another one, as deployments do.
    fn replace(&self, path: &str, contents: impl AsRef<[u8]>) {
        self.write("new", contents);
        fs::rename(self.root().join("new"), self.root().join(path)).unwrap();
    }

    fn open(&self) -> StaticFiles {
        self.open_with(|_| ())
    }

    fn open_with(&self, change: impl FnOnce(&mut StaticOptions)) -> StaticFiles {
        let mut options = StaticOptions::default();
        change(&mut options);
        StaticFiles::open(&self.root(), options).unwrap()
    }
}

fn request(method: &str, target: &str, lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target);
    for &(name, value) in lines {
        request = request.header(name, value);
    }
    request.body(()).unwrap().into_parts().0
}

/// What a client sees.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

fn read_all(body: &mut FileBody) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let left = body.len();
        let bytes = match body.try_read(10_000)? {
            Some(bytes) => bytes,
            None => body.read(10_000)?,
        };
        assert!(bytes.len() <= 10_000);
        assert_eq!(left - bytes.len() as u64, body.len());
        if bytes.is_empty() {
            assert_eq!(0, left);
            return Ok(all);
        }
        all.extend_from_slice(&bytes);
    }
}

fn answer_of(response: Response<FileBody>, is_head: bool) -> Answer {
    let (parts, mut body) = response.into_parts();
    if !matches!(parts.status.as_u16(), 204 | 304) {
        let length = parts.headers["content-length"].to_str().unwrap().parse().unwrap();
        assert!(if is_head { body.is_empty() } else { body.len() == length }, "{parts:?}");
    }
    let body = String::from_utf8(read_all(&mut body).unwrap()).unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}

/// Asks both ways, which have to agree where the one that does not wait has an answer.
fn ask(files: &StaticFiles, method: &str, target: &str, lines: &[(&str, &str)]) -> Answer {
    let request = request(method, target, lines);
    let is_head = method == "HEAD";
    let tried = files.try_answer(&request).map(|response| answer_of(response, is_head));
    let answer = answer_of(files.answer(&request), is_head);
    if let Some(tried) = tried {
        assert_eq!(answer.status, tried.status);
        if answer.header("content-type").is_none_or(|value| !value.starts_with("multipart")) {
            assert_eq!(answer.headers, tried.headers);
            assert_eq!(answer.body, tried.body);
        }
    }
    answer
}

/// Waits for what has to come true within moments.
#[track_caller]
fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "still not true");
        std::thread::yield_now();
    }
}

/// Asks as the server does: the way that waits is taken if the other has no answer.
fn serve(files: &StaticFiles, target: &str) -> Answer {
    let request = request("GET", target, &[]);
    answer_of(files.try_answer(&request).unwrap_or_else(|| files.answer(&request)), false)
}

fn get(files: &StaticFiles, target: &str) -> Answer {
    ask(files, "GET", target, &[])
}
