//! The operations that atoms name, and what operands each takes.
//!
//! This is the only list: programs are checked against it, and every executor reads the operands of an
//! operation in this order.

use std::fmt;

/// The kind of an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// A variable, by the index of its slot.
    Slot,
    /// A variable, by the index of its slot, or absent: -1.
    SlotIfAny,
    /// A path, by the index of its object.
    Path,
    /// Three words: memory that is written to (by its object), the first byte (a slot, or absent),
    /// and the count of bytes (a slot, or absent).
    Into,
    /// Three words as for `Into`, of memory that is read from.
    From,
    /// Several pieces of memory, by the index of their object.
    Vector,
    /// A socket address, by the index of its object.
    Address,
    /// A socket address, by the index of its object, or absent.
    AddressIfAny,
    /// Memory for ancillary data, by the index of its object, or absent.
    ControlIfAny,
    /// The first of this many adjacent slots, to which details of the result go.
    Fields(u16),
}

impl Operand {
    /// How many of an atom's words the operand takes.
    pub fn n_words(self) -> usize {
        if matches!(self, Self::Into | Self::From) { 3 } else { 1 }
    }
}

macro_rules! operations {
    ($($(#[$doc:meta])* $variant:ident $name:literal [$($operand:expr),*];)*) => {
        /// The operation of an atom. The words of its operands have the order given here.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Op { $($(#[$doc])* $variant,)* }

        impl Op {
            /// Every operation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The operation's name, that of its system call where there is one.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The operands that the operation takes.
            pub fn operands(self) -> &'static [Operand] {
                use Operand::*;
                match self { $(Self::$variant => &[$($operand),*],)* }
            }
        }
    };
}

operations! {
    /// Do nothing.
    Nop "nop" [];
    /// base + amount × factor, wrapping.
    Add "add" [Slot, Slot, Slot];
    /// Folder, path, flags, mode.
    Openat "openat" [Slot, Path, Slot, Slot];
    /// Folder, path, flags, mode, how to resolve.
    Openat2 "openat2" [Slot, Path, Slot, Slot, Slot];
    /// Folder, path, flags, mask, and where the fields go.
    Statx "statx" [Slot, Path, Slot, Slot, Fields(16)];
    /// Descriptor, memory.
    Read "read" [Slot, Into];
    /// Descriptor, memory.
    Write "write" [Slot, From];
    /// Descriptor, memory, offset.
    Pread "pread" [Slot, Into, Slot];
    /// Descriptor, memory, offset.
    Pwrite "pwrite" [Slot, From, Slot];
    /// Descriptor, memory, offset or -1.
    Readv "readv" [Slot, Vector, SlotIfAny];
    /// Descriptor, memory, offset or -1.
    Writev "writev" [Slot, Vector, SlotIfAny];
    /// Descriptor.
    Fsync "fsync" [Slot];
    /// Descriptor.
    Fdatasync "fdatasync" [Slot];
    /// Descriptor, mode, offset, length.
    Fallocate "fallocate" [Slot, Slot, Slot, Slot];
    /// Descriptor, length.
    Ftruncate "ftruncate" [Slot, Slot];
    /// Descriptor.
    Close "close" [Slot];
    /// Folder, path, flags.
    Unlinkat "unlinkat" [Slot, Path, Slot];
    /// Folder and path, old and new; flags.
    Renameat "renameat" [Slot, Path, Slot, Path, Slot];
    /// Folder, path, mode.
    Mkdirat "mkdirat" [Slot, Path, Slot];
    /// Folder and path, old and new; flags.
    Linkat "linkat" [Slot, Path, Slot, Path, Slot];
    /// Target, folder, path.
    Symlinkat "symlinkat" [Path, Slot, Path];
    /// Descriptor of a folder, memory.
    Getdents "getdents" [Slot, Into];
    /// Descriptor and offset (or -1), in and out; length, flags.
    Splice "splice" [Slot, SlotIfAny, Slot, SlotIfAny, Slot, Slot];
    /// Descriptor out, descriptor in, offset, count.
    Sendfile "sendfile" [Slot, Slot, SlotIfAny, Slot];
    /// Domain, type, protocol.
    Socket "socket" [Slot, Slot, Slot];
    /// Descriptor, address.
    Connect "connect" [Slot, Address];
    /// Descriptor, flags, where the peer's address goes.
    Accept "accept" [Slot, Slot, AddressIfAny];
    /// Descriptor, memory, flags.
    Recv "recv" [Slot, Into, Slot];
    /// Descriptor, memory, flags.
    Send "send" [Slot, From, Slot];
    /// Descriptor, memory, flags, ancillary data, address, and where the fields go.
    Recvmsg "recvmsg" [Slot, Vector, Slot, ControlIfAny, AddressIfAny, Fields(2)];
    /// Descriptor, memory, flags, ancillary data, address.
    Sendmsg "sendmsg" [Slot, Vector, Slot, ControlIfAny, AddressIfAny];
    /// Descriptor, how.
    Shutdown "shutdown" [Slot, Slot];
    /// Descriptor, events.
    Poll "poll" [Slot, Slot];
    /// Nanoseconds.
    Timeout "timeout" [Slot];
    /// Kind of identity, identity, options, and where the fields go.
    Waitid "waitid" [Slot, Slot, Slot, Fields(3)];
}

impl Op {
    /// The operation with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|op| op.name() == name)
    }

    /// Whether the operation does I/O or waits; a loop needs one that does.
    pub fn is_io(self) -> bool {
        !matches!(self, Self::Nop | Self::Add)
    }

    /// Whether the operation's value is a new descriptor, when it is not negative.
    pub fn opens(self) -> bool {
        matches!(self, Self::Openat | Self::Openat2 | Self::Socket | Self::Accept)
    }

    /// Whether the operation continues until everything is written, as on a blocking descriptor.
    pub(crate) fn writes_all(self) -> bool {
        matches!(self, Self::Write | Self::Pwrite | Self::Writev | Self::Send | Self::Sendmsg)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_fits_into_an_atom() {
        for op in Op::ALL {
            let n_words: usize = op.operands().iter().map(|it| it.n_words()).sum();
            assert!(n_words <= 6, "{op} takes {n_words} words");
            assert_eq!(Some(*op), Op::by_name(op.name()));
        }
    }
}
