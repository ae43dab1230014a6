//! A folder's files as HTTP responses, by RFC 9110, without a thread or a runtime of their own.
//!
//! Reading order: `target` (an address becomes a path), `folder` (a path becomes a file of the folder and of
//! nothing outside it), `file` (a file with its headers), `cache`, `negotiation` (which coding),
//! `conditions` and `ranges` (how much of it), `reply` (the response), [`FileBody`] (its bytes).

mod body;
mod cache;
mod conditions;
mod file;
mod folder;
mod listing;
mod media_type;
mod negotiation;
mod ranges;
mod reply;
mod target;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{CACHE_CONTROL, VARY};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use rustix::time::{ClockId, clock_gettime};

pub use self::body::FileBody;
use self::cache::{Cache, Cached};
use self::conditions::{Validators, Verdict};
use self::file::{FileSource, Manner, ServedFile};
use self::folder::{Folder, Miss, Patience};
use self::negotiation::{Coding, accepted_codings, accepts_html};
use self::target::FileTarget;

/// How often an answer is begun again because a file was replaced meanwhile.
const N_TRIES: usize = 3;

/// What [`StaticFiles`] serves of its folder, and how.
#[derive(Debug, Clone)]
pub struct StaticOptions {
    /// Answer for a folder with its `index.html`.
    pub index: bool,
    /// A file, as a path in the folder, that answers for addresses without a file if they look like pages:
    /// no extension, and a client that takes HTML.
    pub spa: Option<String>,
    /// Answer for a folder without an `index.html` with a list of its files.
    pub listing: bool,
    /// Serve files whose name, or a folder's name on their path, begins with a dot. `/.well-known/` is
    /// served in any case.
    pub dot_files: bool,
    /// The `Cache-Control` of files. The page that `spa` names is always `no-cache` where it answers for
    /// another address.
    pub cache_control: Option<HeaderValue>,
    /// Look for compressed siblings: `app.js.br`, `app.js.zst`, `app.js.gz`.
    pub precompressed: bool,
    /// How much of the files is kept in memory, in bytes.
    pub cache_bytes: usize,
    /// How large a file is kept in memory at most, in bytes.
    pub cached_file_max: usize,
}

impl Default for StaticOptions {
    fn default() -> Self {
        Self {
            index: true,
            spa: None,
            listing: false,
            dot_files: false,
            cache_control: None,
            precompressed: true,
            cache_bytes: 64 << 20,
            cached_file_max: 1 << 20,
        }
    }
}

/// Serves the files of one folder.
///
/// A change of a file shows after a millisecond or a tick of the kernel's clock (1 to 10 ms), whichever is
/// longer; a compressed sibling that is new, after a second.
pub struct StaticFiles {
    folder: Folder,
    cache: Cache,
    options: StaticOptions,
}

impl std::fmt::Debug for StaticFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StaticFiles").finish_non_exhaustive()
    }
}

impl StaticFiles {
    /// Opens the folder at `root`. A link at `root` is followed once, now.
    ///
    /// # Errors
    /// What opening `root` reports; `InvalidInput` if `options.spa` is not a file of the folder.
    pub fn open(root: &Path, options: StaticOptions) -> io::Result<Self> {
        let folder = Folder::open(root)?;
        let cache = Cache::new(options.cache_bytes);
        let files = Self { folder, cache, options };
        if let Some(spa) = &files.options.spa {
            let is_segment = |segment: &str| !matches!(segment, "" | "." | "..");
            if !spa.split('/').all(is_segment)
                || files.folder.find(spa.as_bytes(), Patience::Disk).is_err()
            {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "the page for addresses without a file, {spa:?}, is not a file of {root:?}; \
                         name one by its path there, without a slash in front"
                    ),
                ));
            }
        }
        Ok(files)
    }

    /// Answers if that needs no waiting for a disk, otherwise `None`: then a thread that may wait calls
    /// [`answer`](Self::answer).
    pub fn try_answer(&self, request: &Parts) -> Option<Response<FileBody>> {
        self.respond(request, Patience::None)
    }

    /// Answers, and waits for the disk where that is needed.
    pub fn answer(&self, request: &Parts) -> Response<FileBody> {
        let is_head = request.method == Method::HEAD;
        self.respond(request, Patience::Disk)
            .unwrap_or_else(|| reply::error(StatusCode::SERVICE_UNAVAILABLE, is_head))
    }

    /// `None` if this would wait and may not.
    fn respond(&self, request: &Parts, patience: Patience) -> Option<Response<FileBody>> {
        let is_head = match request.method {
            Method::GET => false,
            Method::HEAD => true,
            Method::OPTIONS => return Some(reply::options()),
            _ => return Some(reply::error(StatusCode::METHOD_NOT_ALLOWED, false)),
        };
        let address = request.uri.path();
        let target = match FileTarget::parse(address, self.options.dot_files) {
            Ok(target) => target,
            Err(status) => return Some(reply::error(status, is_head)),
        };
        let found = if !target.is_folder {
            self.send(request, &target.path, patience)
        } else if self.options.index {
            let path = match &target.path[..] {
                b"" => b"index.html".to_vec(),
                path => [path, b"/index.html"].concat(),
            };
            match self.send(request, &path, patience) {
                // A folder with the name of an index is no index.
                Err(Miss::IsFolder) => Err(Miss::NotFound),
                found => found,
            }
        } else {
            Err(Miss::NotFound)
        };
        let status = match found {
            Ok(response) => return Some(response),
            Err(Miss::WouldWait) => return None,
            Err(Miss::IsFolder) => {
                return Some(reply::redirect(address, request.uri.query(), is_head));
            }
            Err(Miss::NotFound) => return self.instead(request, &target, patience),
            Err(miss) => status(miss),
        };
        Some(reply::error(status, is_head))
    }

    /// Answers for an address without a file.
    fn instead(
        &self,
        request: &Parts,
        target: &FileTarget<'_>,
        patience: Patience,
    ) -> Option<Response<FileBody>> {
        let is_head = request.method == Method::HEAD;
        if target.is_folder && self.options.listing {
            if patience == Patience::None {
                return None;
            }
            match listing::page(&self.folder, &target.path, self.options.dot_files) {
                Ok(page) => {
                    let html = HeaderValue::from_static("text/html; charset=utf-8");
                    let mut response = reply::text(html, page, is_head);
                    let no_cache = HeaderValue::from_static("no-cache");
                    response.headers_mut().insert(CACHE_CONTROL, no_cache);
                    return Some(response);
                }
                Err(Miss::NotFound | Miss::IsFolder) => {}
                Err(miss) => return Some(reply::error(status(miss), is_head)),
            }
        }
        let Some(spa) = self.options.spa.as_ref().filter(|_| !target.has_extension()) else {
            return Some(reply::error(StatusCode::NOT_FOUND, is_head));
        };
        let mut response = if accepts_html(&request.headers) {
            match self.send(request, spa.as_bytes(), patience) {
                Ok(response) => response,
                Err(Miss::WouldWait) => return None,
                Err(Miss::IsFolder) => reply::error(StatusCode::NOT_FOUND, is_head),
                Err(miss) => reply::error(status(miss), is_head),
            }
        } else {
            reply::error(StatusCode::NOT_FOUND, is_head)
        };
        // The address may get a file of its own, and it is `Accept` that decides until then.
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.append(VARY, HeaderValue::from_static("accept"));
        Some(response)
    }

    /// Answers with the file at `path`, in the best coding that the client takes.
    fn send(
        &self,
        request: &Parts,
        path: &[u8],
        patience: Patience,
    ) -> Result<Response<FileBody>, Miss> {
        for _ in 0..N_TRIES {
            match self.send_once(request, path, patience) {
                Ok(Some(response)) => return Ok(response),
                Ok(None) => {}
                Err(miss) => return Err(miss),
            }
        }
        Err(Miss::Exhausted)
    }

    /// `None` if the file was replaced meanwhile.
    fn send_once(
        &self,
        request: &Parts,
        path: &[u8],
        patience: Patience,
    ) -> Result<Option<Response<FileBody>>, Miss> {
        let is_head = request.method == Method::HEAD;
        // The plain file is looked for in any case: what is compressed is served in its place alone.
        let (plain, plain_source) = self.file(path, Coding::Identity, patience)?;
        let mut chosen = None;
        if plain.varies {
            for coding in accepted_codings(&request.headers) {
                if coding == Coding::Identity {
                    chosen = Some((Coding::Identity, Arc::clone(&plain), None));
                    break;
                }
                match self.file(path, coding, patience) {
                    Ok((file, source)) => {
                        chosen = Some((coding, file, source));
                        break;
                    }
                    Err(Miss::WouldWait) => return Err(Miss::WouldWait),
                    Err(_) => {}
                }
            }
            if chosen.is_none() {
                return Ok(Some(reply::error(StatusCode::NOT_ACCEPTABLE, is_head)));
            }
        }
        let (coding, file, source) = match chosen {
            None | Some((Coding::Identity, ..)) => (Coding::Identity, plain, plain_source),
            Some(chosen) => chosen,
        };
        let validators = Validators { etag: file.etag.as_bytes(), modified_s: file.modified_s };
        let verdict = validators.judge(&request.headers, !is_head, SystemTime::now);
        match verdict {
            Verdict::NotModified => return Ok(Some(reply::not_modified(&file))),
            Verdict::Failed => {
                return Ok(Some(reply::error(StatusCode::PRECONDITION_FAILED, is_head)));
            }
            Verdict::Whole if is_head => return Ok(Some(reply::head(&file))),
            _ => {}
        }
        let source = match source.or_else(|| file.source()) {
            Some(source) => source,
            None => match file.reopen(&self.folder, &with_suffix(path, coding), patience) {
                Ok(source) => source,
                Err(Miss::NotFound | Miss::IsFolder) => {
                    self.cache.forget(path);
                    return Ok(None);
                }
                Err(miss) => return Err(miss),
            },
        };
        Ok(Some(match verdict {
            Verdict::Part(range) => reply::part(&file, &source, range),
            _ => reply::whole(&file, &source),
        }))
    }

    /// The file at `path` in a coding, from the cache if it is there and unchanged; with an open descriptor,
    /// if it was just opened.
    fn file(
        &self,
        path: &[u8],
        coding: Coding,
        patience: Patience,
    ) -> Result<(Arc<ServedFile>, Option<FileSource>), Miss> {
        let now_ns = coarse_ns();
        let (cache, folder) = (&self.cache, &self.folder);
        match cache.look(path, coding, now_ns) {
            Cached::Fresh(file) => return Ok((file, None)),
            Cached::Missing => return Err(Miss::NotFound),
            Cached::Stale(file) if file.is_settled => {
                if folder.identity(&with_suffix(path, coding)) == Some(file.identity) {
                    cache.confirm(path, coding, &file, now_ns);
                    return Ok((file, None));
                }
            }
            Cached::Stale(_) | Cached::Unknown => {}
        }
        let manner = Manner {
            path,
            coding,
            varies: self.options.precompressed && media_type::is_compressible(path),
            cache_control: self.options.cache_control.as_ref(),
            whole_max: self.options.cached_file_max.min(self.options.cache_bytes),
        };
        match ServedFile::open(folder, &with_suffix(path, coding), &manner, patience) {
            Ok((file, opened)) => {
                let file = Arc::new(file);
                cache.put(path, coding, Some(&file), now_ns);
                let source = file.source().unwrap_or(FileSource::OnDisk(opened));
                Ok((file, Some(source)))
            }
            Err(Miss::WouldWait) => Err(Miss::WouldWait),
            Err(miss) => {
                cache.put(path, coding, None, now_ns);
                Err(miss)
            }
        }
    }
}

fn with_suffix(path: &[u8], coding: Coding) -> std::borrow::Cow<'_, [u8]> {
    match coding {
        Coding::Identity => path.into(),
        _ => [path, coding.suffix().as_bytes()].concat().into(),
    }
}

fn status(miss: Miss) -> StatusCode {
    match miss {
        Miss::Forbidden => StatusCode::FORBIDDEN,
        Miss::NotFound | Miss::IsFolder => StatusCode::NOT_FOUND,
        Miss::Exhausted | Miss::WouldWait => StatusCode::SERVICE_UNAVAILABLE,
        Miss::Broken => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The cheapest clock: it is read without a system call and without the counter of the CPU.
fn coarse_ns() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
