//! One file as it is served: its headers, made once, and its contents or how to get them.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    LAST_MODIFIED, VARY,
};
use http::{HeaderMap, HeaderValue};
use rustix::fs::Advice;
use rustix::time::{ClockId, clock_gettime};

use super::body::{self, FilePiece};
use super::folder::{Folder, Identity, Miss, Patience, Time, regular_file};
use super::media_type;
use super::negotiation::Coding;
use crate::sealed;

/// How often a file is read again that is written meanwhile.
const N_TRIES: usize = 3;
/// Files larger than this are left to a thread that may wait, in bytes, even if they are in memory: to copy
/// one takes 0.1 ms.
const TRY_MAX: u64 = 256 << 10;
/// The last second of the year 9999, behind which HTTP has no dates.
const DATE_MAX_S: i64 = 253_402_300_799;

pub(super) struct ServedFile {
    pub(super) identity: Identity,
    /// The headers of the whole file's response.
    pub(super) headers: HeaderMap,
    /// Those that a response has that says "not modified", too.
    pub(super) kept_headers: HeaderMap,
    pub(super) content_type: HeaderValue,
    pub(super) etag: HeaderValue,
    /// What `Last-Modified` says, in seconds since 1970.
    pub(super) modified_s: Option<u64>,
    contents: Contents,
    /// Other codings may be there.
    pub(super) varies: bool,
    /// A change after this was made would have shown in `identity`.
    pub(super) is_settled: bool,
}

enum Contents {
    /// All of them, shared by all who read them.
    Whole(Bytes),
    /// In the file, whose descriptor is shared by those who read it now, and closed after them.
    OnDisk(Mutex<Weak<OwnedFd>>),
}

/// How a file is to be served.
pub(super) struct Manner<'a> {
    /// The path of the plain file.
    pub(super) path: &'a [u8],
    pub(super) coding: Coding,
    /// Other codings may be there, so that responses depend on `Accept-Encoding`.
    pub(super) varies: bool,
    pub(super) cache_control: Option<&'a HeaderValue>,
    /// Larger files are not kept in memory; in bytes.
    pub(super) whole_max: usize,
}

impl ServedFile {
    /// Opens the file and reads it if it is small. The second result, the descriptor, keeps the file that
    /// was found open until a body has it.
    pub(super) fn open(
        folder: &Folder,
        path: &[u8],
        manner: &Manner<'_>,
        patience: Patience,
    ) -> Result<(Self, Arc<OwnedFd>), Miss> {
        let (file, mut identity) = folder.find(path, patience)?;
        let mut contents = None;
        for _ in 0..N_TRIES {
            if identity.size > manner.whole_max as u64 {
                break;
            }
            if identity.size > TRY_MAX && patience == Patience::None {
                return Err(Miss::WouldWait);
            }
            let read_at = now();
            let whole = read_whole(&file, identity.size as usize, patience)?;
            // What is written while it is read may be half of the old and half of the new.
            let later = regular_file(&file)?;
            if whole.len() as u64 == identity.size && later == identity {
                contents = Some((Contents::Whole(whole), identity.is_settled(read_at)));
                break;
            }
            if patience == Patience::None {
                return Err(Miss::WouldWait);
            }
            identity = later;
        }
        let file = Arc::new(file);
        let (contents, is_settled) = contents.unwrap_or_else(|| {
            // Readers go from the file's start to its end: the kernel may read further ahead.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
            (Contents::OnDisk(Mutex::new(Arc::downgrade(&file))), true)
        });
        Ok((Self::new(identity, contents, is_settled, manner), file))
    }

    fn new(identity: Identity, contents: Contents, is_settled: bool, manner: &Manner<'_>) -> Self {
        let etag = etag(&identity);
        let content_type = media_type::of(manner.path);
        let modified_s = last_modified_s(identity.modified, now());

        let mut kept_headers = HeaderMap::new();
        kept_headers.insert(ETAG, etag.clone());
        if let Some(cache_control) = manner.cache_control {
            kept_headers.insert(CACHE_CONTROL, cache_control.clone());
        }
        if manner.varies {
            kept_headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        }

        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(CONTENT_TYPE, content_type.clone());
        headers.insert(CONTENT_LENGTH, HeaderValue::from(identity.size));
        if let Some(modified_s) = modified_s {
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(modified_s));
            headers.insert(LAST_MODIFIED, HeaderValue::try_from(date).expect("a date is a value"));
        }
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(coding) = manner.coding.header() {
            headers.insert(CONTENT_ENCODING, coding);
        }
        headers.extend(kept_headers.clone());
        Self {
            identity,
            headers,
            kept_headers,
            content_type,
            etag,
            modified_s,
            contents,
            varies: manner.varies,
            is_settled,
        }
    }

    /// What the cache holds of the contents, in bytes.
    pub(super) fn cached_bytes(&self) -> usize {
        match &self.contents {
            Contents::Whole(bytes) => bytes.len(),
            Contents::OnDisk(_) => 0,
        }
    }

    /// How to get at the contents. `None`: they have to be read from a descriptor that nobody has.
    pub(super) fn source(&self) -> Option<FileSource> {
        match &self.contents {
            Contents::Whole(bytes) => Some(FileSource::Whole(bytes.clone())),
            Contents::OnDisk(file) => lock(file).upgrade().map(FileSource::OnDisk),
        }
    }

    /// Opens the file once more. `NotFound` if another one is there by now.
    pub(super) fn reopen(
        &self,
        folder: &Folder,
        path: &[u8],
        patience: Patience,
    ) -> Result<FileSource, Miss> {
        let (file, identity) = folder.find(path, patience)?;
        if identity != self.identity {
            return Err(Miss::NotFound);
        }
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        let file = Arc::new(file);
        if let Contents::OnDisk(shared) = &self.contents {
            *lock(shared) = Arc::downgrade(&file);
        }
        Ok(FileSource::OnDisk(file))
    }
}

/// Where the bytes of a response come from.
pub(super) enum FileSource {
    Whole(Bytes),
    OnDisk(Arc<OwnedFd>),
}

impl FileSource {
    pub(super) fn piece(&self, range: std::ops::Range<u64>) -> FilePiece {
        match self {
            Self::Whole(bytes) => {
                FilePiece::Bytes(bytes.slice(range.start as usize..range.end as usize))
            }
            Self::OnDisk(file) => {
                FilePiece::File { file: Arc::clone(file), at: range.start, end: range.end }
            }
        }
    }
}

fn lock(file: &Mutex<Weak<OwnedFd>>) -> std::sync::MutexGuard<'_, Weak<OwnedFd>> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_whole(file: &OwnedFd, size: usize, patience: Patience) -> Result<Bytes, Miss> {
    let mut whole = Vec::new();
    while whole.len() < size {
        let (at, n_bytes) = (whole.len() as u64, size - whole.len());
        let bytes = match patience {
            Patience::None => match body::try_read_at(file, at, n_bytes) {
                Ok(bytes) => bytes.ok_or(Miss::WouldWait)?,
                Err(_) => return Err(Miss::Broken),
            },
            Patience::Disk => body::read_at(file, at, n_bytes).map_err(|_| Miss::Broken)?,
        };
        if bytes.is_empty() {
            break;
        }
        if whole.is_empty() {
            whole = bytes;
        } else {
            whole.extend_from_slice(&bytes);
        }
    }
    whole.shrink_to_fit();
    Ok(sealed::shared(whole))
}

/// A strong tag: responses with one tag have the same bytes. A file that is replaced by renaming another
/// over it, as it should be, has another inode; one that is written in place has another time of
/// modification, in nanoseconds, and mostly another size. Two writes within one tick of the file system's
/// clock (10 ms at most on Linux, and none since 6.13 if the tag was made between them) that leave the size
/// as it was are the exception, and are taken for one. The contents are not hashed: that would need all of
/// a large file for the first byte. The tag of a compressed sibling is its own, since it is a file of its
/// own. Processes on one machine make the same tags; copies on several machines have several.
fn etag(identity: &Identity) -> HeaderValue {
    let Time { s, ns } = identity.modified;
    let modified_ns = s.wrapping_mul(1_000_000_000).wrapping_add(i64::from(ns));
    let tag = format!("\"{:x}-{:x}-{modified_ns:x}\"", identity.inode, identity.size);
    HeaderValue::try_from(tag).expect("a tag is a header's value")
}

/// Nothing for a time that HTTP cannot say, or that is still to come: RFC 9110, section 8.8.2.1, forbids a
/// `Last-Modified` that is later than the response.
fn last_modified_s(modified: Time, now: Time) -> Option<u64> {
    let is_past = modified.s <= now.s && modified.s <= DATE_MAX_S;
    u64::try_from(modified.s).ok().filter(|_| is_past)
}

/// By the clock that file systems use.
fn now() -> Time {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    Time { s: now.tv_sec, ns: now.tv_nsec as u32 }
}
