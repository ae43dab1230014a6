//! Memory that a run's atoms read and write: paths, socket addresses, buffers. None of it moves while
//! an operation is in flight.

use std::any::Any;
use std::ffi::CString;
use std::net::SocketAddr;
use std::sync::Arc;

use libc::{c_void, iovec, sockaddr_storage, socklen_t};

use super::program::{NONE, Object, Program, Span};
use crate::buffers::{BufferPool, Lease};
use crate::socket::Address;

/// How many bytes a growing buffer makes room for, at least, if the size to expect is not known.
const GROWTH_MIN_BYTES: usize = 4096;

/// The most that one system call moves, in bytes.
const TRANSFER_MAX_BYTES: usize = 0x7fff_f000;

/// A negative errno, the value of an atom that failed.
pub(crate) type NegativeErrno = i32;

/// Memory that a run was given, with the owner that keeps it alive.
pub struct Lent {
    start: *mut u8,
    len: usize,
    /// Keeps the memory alive; dropped after its last use.
    _owner: Box<dyn Any + Send>,
}

// SAFETY: the memory belongs to no thread; the owner is `Send`.
unsafe impl Send for Lent {}

impl Lent {
    /// Wrap `len` bytes of memory that live as long as `owner`.
    ///
    /// # Safety
    /// `start` is valid for reads of `len` bytes until `owner` is dropped, and for writes too if the
    /// program that it is given to writes to it.
    pub unsafe fn new(start: *mut u8, len: usize, owner: Box<dyn Any + Send>) -> Self {
        Self { start, len, _owner: owner }
    }
}

impl std::fmt::Debug for Lent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lent({} bytes)", self.len)
    }
}

/// A socket address, or room for one.
#[derive(Clone)]
pub struct SocketAddress {
    pub(crate) storage: sockaddr_storage,
    pub(crate) len: socklen_t,
}

impl SocketAddress {
    /// Room for an address.
    pub fn room() -> Self {
        // SAFETY: an address of no family is all zeros.
        let storage = unsafe { std::mem::zeroed() };
        Self { storage, len: size_of::<sockaddr_storage>() as socklen_t }
    }

    /// The address with these bytes, in the kernel's format; `None` if they are too many.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut address = Self::room();
        if bytes.len() > size_of::<sockaddr_storage>() {
            return None;
        }
        // SAFETY: the storage is plain memory, at least as long as the bytes.
        unsafe {
            let start = (&raw mut address.storage).cast::<u8>();
            start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        address.len = bytes.len() as socklen_t;
        Some(address)
    }

    /// An Internet address and port.
    pub fn from_internet(address: &SocketAddr) -> Self {
        let mut it = Self::room();
        match address {
            SocketAddr::V4(address) => {
                let name = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
                    sin_zero: [0; 8],
                };
                it.put(name);
            }
            SocketAddr::V6(address) => {
                let name = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                it.put(name);
            }
        }
        it
    }

    /// The address of a Unix socket with this path, or abstract name, which begins with a zero byte;
    /// `None` if it is too long.
    pub fn from_unix(name: &[u8]) -> Option<Self> {
        // SAFETY: a structure of numbers.
        let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        // A zero byte ends a path; the address's length ends a name in the abstract namespace.
        let is_abstract = name.first() == Some(&0);
        let room = address.sun_path.len() - usize::from(!is_abstract);
        if name.len() > room {
            return None;
        }
        for (to, from) in address.sun_path.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        let mut it = Self::room();
        it.put(address);
        let path_offset = std::mem::offset_of!(libc::sockaddr_un, sun_path);
        it.len = (path_offset + name.len() + usize::from(!is_abstract)) as socklen_t;
        Some(it)
    }

    fn put<T>(&mut self, address: T) {
        const { assert!(size_of::<T>() <= size_of::<sockaddr_storage>()) };
        // SAFETY: the storage is large enough (checked above) and aligned for every kind of address.
        unsafe { (&raw mut self.storage).cast::<T>().write(address) };
        self.len = size_of::<T>() as socklen_t;
    }

    /// The address as `socket.getsockname()` returns it.
    pub fn to_address(&self) -> Address {
        Address::from_kernel_bytes(self.bytes())
    }

    /// The address in the kernel's format.
    pub fn bytes(&self) -> &[u8] {
        let len = (self.len as usize).min(size_of::<sockaddr_storage>());
        // SAFETY: the storage is plain memory, initialised as a whole.
        unsafe { std::slice::from_raw_parts((&raw const self.storage).cast(), len) }
    }
}

impl std::fmt::Debug for SocketAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SocketAddress({:?})", self.bytes())
    }
}

/// An object of a run.
#[derive(Debug)]
pub enum Memory {
    /// The program's constant, which is not copied.
    Constant,
    /// Not set yet: a parameter is to set it.
    Unset,
    /// A path that was given.
    Path(CString),
    /// An address that was given, or room for one.
    Address(Box<SocketAddress>),
    /// Scratch memory that has not been used, and so not been allocated.
    Unallocated,
    /// Scratch memory, and how much of it the run has filled.
    Buffer {
        /// The memory.
        lease: Lease,
        /// How many bytes are the run's own; the rest may hold an earlier user's data.
        filled: usize,
    },
    /// What a read into it gave.
    ReadBytes {
        /// The memory; `None`: nothing was read.
        lease: Option<Lease>,
        /// How many bytes are the run's own; the rest may hold an earlier user's data.
        filled: usize,
    },
    /// Memory that reads append to.
    Growing(Vec<u8>),
    /// Memory that was given.
    Lent(Lent),
    /// Several pieces in the kernel's format; listed anew for each operation.
    Vector(Vec<Piece>),
}

/// An `iovec` that may move to another thread with the run whose memory it names.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub struct Piece(pub(crate) iovec);

// SAFETY: the pointer is into memory of the same run, which moves along.
unsafe impl Send for Piece {}

impl Memory {
    /// The memory of an object when a run begins.
    pub(crate) fn for_object(object: &Object) -> Self {
        match object {
            Object::Path(_) | Object::Address(_) | Object::Data(_) => Self::Constant,
            Object::PathGiven | Object::Lent => Self::Unset,
            Object::AddressGiven => Self::Address(Box::new(SocketAddress::room())),
            Object::Buffer(_) => Self::Unallocated,
            Object::ReadBytes { .. } => Self::ReadBytes { lease: None, filled: 0 },
            Object::Growing { .. } => Self::Growing(Vec::new()),
            Object::Vector(_) => Self::Vector(Vec::new()),
        }
    }
}

/// Whether an operation writes to memory or reads from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    WritesTo,
    ReadsFrom,
}

/// A piece of memory, by its address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawMemory {
    pub(crate) start: *mut u8,
    pub(crate) len: usize,
}

/// The variables and objects of a run.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) slots: Box<[i64]>,
    pub(crate) objects: Box<[Memory]>,
}

impl Frame {
    pub(crate) fn new(program: &Program) -> Self {
        let objects = program.objects.iter().map(Memory::for_object).collect();
        Self { slots: program.slots.clone(), objects }
    }

    /// The value of a variable; -1 if the operand is absent.
    pub(crate) fn slot_if_any(&self, slot: u16) -> i64 {
        if slot == NONE { -1 } else { self.slot(slot) }
    }

    #[inline]
    pub(crate) fn slot(&self, slot: u16) -> i64 {
        self.slots[usize::from(slot)]
    }

    /// The index of a span's first byte within its object.
    pub(crate) fn start_of(&self, span: Span) -> usize {
        if span.start == NONE { 0 } else { self.slot(span.start).max(0) as usize }
    }

    /// The address of a path.
    pub(crate) fn path(&self, program: &Program, object: u16) -> Result<*const u8, NegativeErrno> {
        let idx = usize::from(object);
        match (&self.objects[idx], &program.objects[idx]) {
            (Memory::Path(path), _) | (Memory::Constant, Object::Path(path)) => {
                Ok(path.as_ptr().cast())
            }
            _ => Err(-libc::EFAULT),
        }
    }

    /// The run's socket address; a constant one is copied first.
    pub(crate) fn address(
        &mut self,
        program: &Program,
        object: u16,
    ) -> Result<&mut SocketAddress, NegativeErrno> {
        let idx = usize::from(object);
        if let (memory @ Memory::Constant, Object::Address(bytes)) =
            (&mut self.objects[idx], &program.objects[idx])
        {
            let address = SocketAddress::from_bytes(bytes).ok_or(-libc::EINVAL)?;
            *memory = Memory::Address(Box::new(address));
        }
        match &mut self.objects[idx] {
            Memory::Address(address) => Ok(address),
            _ => Err(-libc::EFAULT),
        }
    }

    /// The memory of a span; scratch memory is allocated, growing memory grows.
    pub(crate) fn resolve(
        &mut self,
        program: &Program,
        span: Span,
        access: Access,
        pool: &Arc<BufferPool>,
    ) -> Result<RawMemory, NegativeErrno> {
        let idx = usize::from(span.object);
        let start = if span.start == NONE { 0 } else { self.slot(span.start) };
        let length = if span.length == NONE { None } else { Some(self.slot(span.length)) };
        if start < 0 || length.is_some_and(|it| it < 0) {
            return Err(-libc::EFAULT);
        }
        let (start, length) = (start as usize, length.map(|it| it as usize));
        if matches!(self.objects[idx], Memory::Unallocated) {
            self.allocate_buffer(program, idx, pool)?;
        }
        let base = match &mut self.objects[idx] {
            Memory::Buffer { lease, filled } => {
                if access == Access::ReadsFrom {
                    let end = length.map_or(lease.len(), |it| (start + it).min(lease.len()));
                    wipe(lease, filled, end);
                } else if start > *filled {
                    // The gap before the span counts as filled once the span is, so wipe it now.
                    let end = start.min(lease.len());
                    wipe(lease, filled, end);
                }
                RawMemory { start: lease.as_mut_ptr(), len: lease.len() }
            }
            Memory::Lent(lent) => RawMemory { start: lent.start, len: lent.len },
            Memory::Growing(bytes) if access == Access::ReadsFrom => {
                RawMemory { start: bytes.as_mut_ptr(), len: bytes.len() }
            }
            Memory::Growing(_) => return self.grow(program, idx, length),
            Memory::ReadBytes { .. } if access == Access::WritesTo => {
                return self.make_room_for_read(program, idx, pool);
            }
            Memory::ReadBytes { .. } => {
                let bytes = self.bytes(program, span);
                let len = bytes.len().min(TRANSFER_MAX_BYTES);
                return Ok(RawMemory { start: bytes.as_ptr().cast_mut(), len });
            }
            Memory::Constant => match &program.objects[idx] {
                Object::Data(bytes) => {
                    RawMemory { start: bytes.as_ptr().cast_mut(), len: bytes.len() }
                }
                _ => return Err(-libc::EFAULT),
            },
            _ => return Err(-libc::EFAULT),
        };
        let rest = base.len.checked_sub(start).ok_or(-libc::EFAULT)?;
        let len = length.unwrap_or(rest);
        if len > rest {
            return Err(-libc::EFAULT);
        }
        Ok(RawMemory { start: base.start.wrapping_add(start), len: len.min(TRANSFER_MAX_BYTES) })
    }

    fn allocate_buffer(
        &mut self,
        program: &Program,
        idx: usize,
        pool: &Arc<BufferPool>,
    ) -> Result<(), NegativeErrno> {
        let Object::Buffer(size) = program.objects[idx] else { return Err(-libc::EFAULT) };
        let size = usize::try_from(self.slot(size)).map_err(|_| -libc::EINVAL)?;
        let lease = pool.lease(size).map_err(|refusal| -refusal.errno())?;
        self.objects[idx] = Memory::Buffer { lease, filled: 0 };
        Ok(())
    }

    /// Make room for what a read is to give; what an earlier read gave is gone.
    fn make_room_for_read(
        &mut self,
        program: &Program,
        idx: usize,
        pool: &Arc<BufferPool>,
    ) -> Result<RawMemory, NegativeErrno> {
        let Object::ReadBytes { size, .. } = program.objects[idx] else {
            return Err(-libc::EFAULT);
        };
        let size = usize::try_from(self.slot(size)).map_err(|_| -libc::EINVAL)?;
        let Memory::ReadBytes { lease, filled } = &mut self.objects[idx] else {
            return Err(-libc::EFAULT);
        };
        if !lease.as_mut().is_some_and(|it| it.resize(size)) {
            // The memory that is too small goes back before there is more.
            (*lease, *filled) = (None, 0);
            *lease = Some(pool.lease(size).map_err(|refusal| -refusal.errno())?);
        }
        let Some(lease) = lease else { return Err(-libc::EFAULT) };
        Ok(RawMemory { start: lease.as_mut_ptr(), len: size.min(TRANSFER_MAX_BYTES) })
    }

    /// Make room at the end of a growing buffer, for one read.
    fn grow(
        &mut self,
        program: &Program,
        idx: usize,
        wanted: Option<usize>,
    ) -> Result<RawMemory, NegativeErrno> {
        let Object::Growing { limit, hint } = program.objects[idx] else {
            return Err(-libc::EFAULT);
        };
        let limit = usize::try_from(self.slot(limit)).map_err(|_| -libc::EINVAL)?;
        let hint = if hint == NONE { 0 } else { self.slot(hint) };
        let Memory::Growing(bytes) = &mut self.objects[idx] else { return Err(-libc::EFAULT) };
        // Full memory gets room for one byte more, to find the end of the file, which is no error.
        let room = limit.saturating_sub(bytes.len()).max(1);
        // One byte more than expected, so that the read that finds the end has room too.
        let expected = usize::try_from(hint).unwrap_or(0).saturating_add(1);
        let wanted = match wanted {
            Some(wanted) => wanted,
            None if bytes.len() < expected && hint > 0 => expected - bytes.len(),
            None => bytes.len().max(GROWTH_MIN_BYTES),
        };
        let wanted = wanted.min(room);
        bytes.try_reserve(wanted).map_err(|_| -libc::ENOMEM)?;
        let start = bytes.spare_capacity_mut().as_mut_ptr().cast();
        Ok(RawMemory { start, len: wanted.min(TRANSFER_MAX_BYTES) })
    }

    /// Whether `n_bytes` more bytes exceed the limit of growing memory.
    pub(crate) fn overflows(&self, program: &Program, object: u16, n_bytes: usize) -> bool {
        let idx = usize::from(object);
        match (&self.objects[idx], &program.objects[idx]) {
            (Memory::Growing(bytes), Object::Growing { limit, .. }) => {
                bytes.len() + n_bytes > usize::try_from(self.slot(*limit)).unwrap_or(0)
            }
            _ => false,
        }
    }

    /// The address and count of the `iovec`s of several spans, without the first `skipped` bytes.
    pub(crate) fn resolve_vector(
        &mut self,
        program: &Program,
        object: u16,
        access: Access,
        mut skipped: usize,
        pool: &Arc<BufferPool>,
    ) -> Result<(*const iovec, usize), NegativeErrno> {
        let idx = usize::from(object);
        let Object::Vector(spans) = &program.objects[idx] else { return Err(-libc::EFAULT) };
        let mut pieces = match std::mem::replace(&mut self.objects[idx], Memory::Constant) {
            Memory::Vector(pieces) => pieces,
            _ => Vec::new(),
        };
        pieces.clear();
        let mut outcome = Ok(());
        for &span in spans {
            match self.resolve(program, span, access, pool) {
                Ok(it) => {
                    let n_skipped = skipped.min(it.len);
                    skipped -= n_skipped;
                    let start = it.start.wrapping_add(n_skipped).cast::<c_void>();
                    let piece = iovec { iov_base: start, iov_len: it.len - n_skipped };
                    pieces.push(Piece(piece));
                }
                Err(errno) => outcome = Err(errno),
            }
        }
        let (start, n_pieces) = (pieces.as_ptr().cast(), pieces.len());
        self.objects[idx] = Memory::Vector(pieces);
        outcome.map(|()| (start, n_pieces))
    }

    /// Note that `n_bytes` bytes were written to a span, from its start on.
    pub(crate) fn note_filled(&mut self, span: Span, n_bytes: usize) {
        let start = self.start_of(span);
        match &mut self.objects[usize::from(span.object)] {
            Memory::Buffer { lease, filled } => {
                *filled = (*filled).max(start + n_bytes).min(lease.len());
            }
            Memory::ReadBytes { lease: Some(lease), filled } => {
                *filled = (*filled).max(n_bytes).min(lease.capacity());
            }
            Memory::Growing(bytes) => {
                let len = bytes.len() + n_bytes;
                assert!(len <= bytes.capacity(), "a read has overrun its room");
                // SAFETY: the kernel has just written that many bytes, where `grow` made room.
                unsafe { bytes.set_len(len) };
            }
            _ => {}
        }
    }

    /// Note that `n_bytes` bytes were written to the spans of a vector, one after the other.
    pub(crate) fn note_vector_filled(&mut self, program: &Program, object: u16, n_bytes: usize) {
        let idx = usize::from(object);
        let Object::Vector(spans) = &program.objects[idx] else { return };
        let Memory::Vector(pieces) = &self.objects[idx] else { return };
        let lens: Vec<usize> = pieces.iter().map(|it| it.0.iov_len).collect();
        let mut left = n_bytes;
        for (&span, len) in spans.iter().zip(lens) {
            self.note_filled(span, left.min(len));
            left -= left.min(len);
        }
    }

    /// The bytes of a span, for a run's outcome; those outside of the object are left out.
    pub(crate) fn bytes<'a>(&'a mut self, program: &'a Program, span: Span) -> &'a [u8] {
        let start = self.start_of(span);
        let length = if span.length == NONE { None } else { Some(self.slot(span.length).max(0)) };
        let idx = usize::from(span.object);
        let all: &[u8] = match &mut self.objects[idx] {
            Memory::Buffer { lease, filled } => {
                let len = lease.len();
                let end = length.map_or(len, |it| start.saturating_add(it as usize).min(len));
                wipe(lease, filled, end);
                lease
            }
            Memory::ReadBytes { lease: Some(lease), filled } => match program.objects[idx] {
                Object::ReadBytes { length, .. } => {
                    // A read that failed gave nothing.
                    let n_read = usize::try_from(self.slots[usize::from(length)]).unwrap_or(0);
                    &lease[..n_read.min(*filled).min(lease.len())]
                }
                _ => &[],
            },
            Memory::Growing(bytes) => bytes,
            // SAFETY: valid for reads of that length while the owner lives, which `self` holds.
            Memory::Lent(lent) => unsafe { std::slice::from_raw_parts(lent.start, lent.len) },
            Memory::Constant => match &program.objects[idx] {
                Object::Data(bytes) => bytes,
                _ => &[],
            },
            _ => &[],
        };
        let rest = all.get(start..).unwrap_or(&[]);
        length.map_or(rest, |it| &rest[..(it as usize).min(rest.len())])
    }
}

/// Make the bytes up to `end` the run's own: zero what an earlier user has left there.
fn wipe(lease: &mut Lease, filled: &mut usize, end: usize) {
    if *filled < end {
        lease[*filled..end].fill(0);
        *filled = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syslet::op::Op;
    use crate::syslet::program::{Atom, AtomFlags, ResultSpec};

    const BYTES: Span = Span { object: 0, start: NONE, length: NONE };

    /// A program with an object for what is read: slot 0 is the size, slot 1 the length.
    fn program() -> Program {
        let words = [NONE; 6];
        let flags = AtomFlags::default();
        let atom = Atom { op: Op::Nop, words, result: NONE, next: NONE, flags, outcome: 0 };
        let object = Object::ReadBytes { size: 0, length: 1 };
        Program::new(vec![atom], vec![0, 0], vec![object], vec![ResultSpec::Bytes(BYTES)]).unwrap()
    }

    #[test]
    fn what_a_read_gave_is_shown_and_nothing_else() {
        let (program, pool) = (program(), Arc::new(BufferPool::new(4096)));
        pool.lease(1000).unwrap().fill(7);
        let mut frame = Frame::new(&program);
        assert_eq!(b"", frame.bytes(&program, BYTES));
        // A length without a read, as of a table that is not ours, shows no earlier user's data.
        frame.slots[..2].copy_from_slice(&[1000, 600]);
        let room = frame.resolve(&program, BYTES, Access::WritesTo, &pool).unwrap();
        assert_eq!((1000, b"".as_slice()), (room.len, frame.bytes(&program, BYTES)));
        frame.note_filled(BYTES, 3);
        frame.slots[1] = 3;
        assert_eq!([7; 3], frame.bytes(&program, BYTES));
        let source = frame.resolve(&program, BYTES, Access::ReadsFrom, &pool).unwrap();
        assert_eq!((room.start, 3), (source.start, source.len));
        frame.slots[1] = -i64::from(libc::EIO);
        assert_eq!(b"", frame.bytes(&program, BYTES));
    }

    #[test]
    fn room_for_a_read_has_the_size_of_the_moment() {
        let (program, pool) = (program(), Arc::new(BufferPool::new(4096)));
        let mut frame = Frame::new(&program);
        for (size, in_use) in [(1000, 1024), (10, 1024), (4096, 4096)] {
            frame.slots[0] = size;
            let room = frame.resolve(&program, BYTES, Access::WritesTo, &pool).unwrap();
            assert_eq!((size as usize, in_use), (room.len, pool.in_use_bytes()));
        }
        for (size, errno) in [(-1, libc::EINVAL), (4097, libc::ENOBUFS)] {
            frame.slots[0] = size;
            let refused = frame.resolve(&program, BYTES, Access::WritesTo, &pool);
            assert_eq!(-errno, refused.unwrap_err());
        }
        assert_eq!(0, pool.in_use_bytes());
    }
}
