//! Files beneath one folder, and nothing else: no links out of it, no devices, no pipes, no sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// How often a path is looked up again that somebody renames meanwhile.
const N_TRIES: usize = 16;

/// Whether the caller's thread may wait for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    None,
    Disk,
}

/// Why there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// Only a thread that may wait can say.
    WouldWait,
    IsFolder,
    /// Nothing is there, or nothing that is served.
    NotFound,
    Forbidden,
    /// Descriptors or memory have run out.
    Exhausted,
    /// The disk reports an error.
    Broken,
}

/// What tells one state of a file from another. With the time of the last change, which no program can set,
/// a file is noticed that is written again with its old size and time of modification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) size: u64,
    pub(super) inode: u64,
    pub(super) modified: Time,
    changed: Time,
    device: u64,
}

/// Since 1970 by the file system's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time {
    pub(super) s: i64,
    pub(super) ns: u32,
}

impl Identity {
    fn new(stat: &Stat) -> Self {
        Self {
            size: stat.st_size as u64,
            inode: stat.st_ino,
            modified: Time { s: stat.st_mtime, ns: stat.st_mtime_nsec as u32 },
            changed: Time { s: stat.st_ctime, ns: stat.st_ctime_nsec as u32 },
            device: stat.st_dev,
        }
    }

    /// Whether the file may change once more without a difference that shows here: clocks of file systems
    /// tick, ten milliseconds apart or, where there are only seconds, two seconds.
    pub(super) fn is_settled(&self, now: Time) -> bool {
        let at = self.changed.max(self.modified);
        let margin_ns = if at.ns == 0 { 2_000_000_000 } else { 20_000_000 };
        let age_ns =
            i128::from(now.s - at.s) * 1_000_000_000 + i128::from(now.ns) - i128::from(at.ns);
        age_ns > margin_ns
    }
}

/// How paths are kept beneath the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lookup {
    /// openat2(2) with RESOLVE_BENEATH: links work that stay inside.
    Beneath { can_say_would_wait: bool },
    /// Segment by segment, for kernels (before 5.6) and sandboxes without openat2: no links at all.
    Stepwise,
}

#[derive(Debug)]
pub(super) struct Folder {
    root: OwnedFd,
    lookup: Lookup,
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);
/// O_NONBLOCK does nothing to a regular file, and keeps the open from waiting for what took its place.
const READING: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const LOOKING: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

impl Folder {
    /// `path` is looked up once: a link that is changed later, as deployments do, is followed by the next
    /// `Folder` alone.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::openat(CWD, path, LOOKING | OFlags::DIRECTORY, Mode::empty())?;
        let works =
            |resolve| rustix::fs::openat2(&root, ".", LOOKING, Mode::empty(), resolve).is_ok();
        let lookup = if works(BENEATH) {
            Lookup::Beneath { can_say_would_wait: works(BENEATH | ResolveFlags::CACHED) }
        } else {
            Lookup::Stepwise
        };
        Ok(Self { root, lookup })
    }

    #[cfg(test)]
    pub(super) fn look_up_stepwise(&mut self) {
        self.lookup = Lookup::Stepwise;
    }

    /// The state of the file at `path`, whatever it is and wherever links lead: to be compared with that of
    /// a file that [`find`](Self::find) found, never to be served. It does not wait if the path was in use
    /// a moment ago.
    pub(super) fn identity(&self, path: &[u8]) -> Option<Identity> {
        let stat = rustix::fs::statat(&self.root, path, AtFlags::NO_AUTOMOUNT).ok()?;
        Some(Identity::new(&stat))
    }

    /// Opens the file at `path`, which is relative and has no `..`, for reading.
    pub(super) fn find(
        &self,
        path: &[u8],
        patience: Patience,
    ) -> Result<(OwnedFd, Identity), Miss> {
        let path = or_itself(path);
        // What has no contents of its own is not even opened: opening alone rewinds tapes, and wakes those
        // who wait to write to a pipe.
        let looked = self.open_beneath(path, LOOKING, patience)?;
        regular_file(&looked)?;
        drop(looked);
        let file = self.open_beneath(path, READING, patience)?;
        let identity = regular_file(&file)?;
        Ok((file, identity))
    }

    /// Whether the path leads to a folder (`true`) or a file (`false`).
    pub(super) fn is_folder(&self, path: &[u8]) -> Result<bool, Miss> {
        let looked = self.open_beneath(path, LOOKING, Patience::Disk)?;
        match regular_file(&looked) {
            Ok(_) => Ok(false),
            Err(Miss::IsFolder) => Ok(true),
            Err(miss) => Err(miss),
        }
    }

    /// Opens the folder at `path` in order to list it.
    pub(super) fn open_folder(&self, path: &[u8]) -> Result<OwnedFd, Miss> {
        self.open_beneath(or_itself(path), READING | OFlags::DIRECTORY, Patience::Disk)
    }

    fn open_beneath(
        &self,
        path: &[u8],
        flags: OFlags,
        patience: Patience,
    ) -> Result<OwnedFd, Miss> {
        let mut resolve = BENEATH;
        match (self.lookup, patience) {
            (Lookup::Stepwise, Patience::Disk) => return self.open_stepwise(path, flags),
            (Lookup::Beneath { can_say_would_wait: true }, Patience::None) => {
                resolve |= ResolveFlags::CACHED;
            }
            (Lookup::Beneath { .. }, Patience::Disk) => {}
            (_, Patience::None) => return Err(Miss::WouldWait),
        }
        for _ in 0..N_TRIES {
            match rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Ok(file) => return Ok(file),
                Err(Errno::AGAIN) if patience == Patience::None => return Err(Miss::WouldWait),
                // Somebody renamed a folder of the path: the kernel cannot say whether it is beneath.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(miss(errno)),
            }
        }
        Err(Miss::Exhausted)
    }

    fn open_stepwise(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Miss> {
        let (folders, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let mut folder: Option<OwnedFd> = None;
        let step = |folder: &Option<OwnedFd>, name: &[u8], flags| {
            let parent = folder.as_ref().map_or(self.root.as_fd(), |folder| folder.as_fd());
            rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(miss)
        };
        for segment in folders.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty()) {
            folder = Some(step(&folder, segment, LOOKING | OFlags::DIRECTORY)?);
        }
        step(&folder, name, flags)
    }
}

fn or_itself(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

/// The state of an open file, which has to be a regular one.
pub(super) fn regular_file(file: &OwnedFd) -> Result<Identity, Miss> {
    let stat = rustix::fs::fstat(file).map_err(miss)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Identity::new(&stat)),
        FileType::Directory => Err(Miss::IsFolder),
        _ => Err(Miss::NotFound),
    }
}

fn miss(errno: Errno) -> Miss {
    match errno {
        Errno::ACCESS | Errno::PERM => Miss::Forbidden,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => Miss::Exhausted,
        // A link out of the folder (EXDEV) is treated as if it were not there: what is outside is nobody's
        // business. So are loops of links, names that are too long, and sockets (ENXIO).
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::XDEV
        | Errno::LOOP
        | Errno::NAMETOOLONG
        | Errno::NXIO
        | Errno::NODEV
        | Errno::INVAL
        | Errno::ILSEQ => Miss::NotFound,
        _ => Miss::Broken,
    }
}
