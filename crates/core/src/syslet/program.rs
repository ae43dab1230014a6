//! Programs: atoms in a flat table, whose operands are checked once.

use std::ffi::CString;

use super::op::{Op, Operand};

/// The index that names nothing.
pub const NONE: u16 = u16::MAX;

/// How an atom is executed, and where the flow goes after it.
///
/// The conditions look at the atom's own value. A stop ends the program, or continues with the adjacent
/// atom if `SKIP_TO_NEXT_ON_STOP` is set. Without a stop the flow follows `next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AtomFlags(u8);

impl AtomFlags {
    /// Queue at once, without trying first.
    pub const ASYNC: Self = Self(1);
    /// Never queue, even if it blocks. Not together with `ASYNC`.
    pub const SYNC: Self = Self(1 << 1);
    /// Make no entry in the completion ring when the program ends here.
    pub const NO_COMPLETE: Self = Self(1 << 2);
    /// Stop on any value but zero.
    pub const STOP_ON_NONZERO: Self = Self(1 << 3);
    /// Stop on zero.
    pub const STOP_ON_ZERO: Self = Self(1 << 4);
    /// Stop on a negative value.
    pub const STOP_ON_NEGATIVE: Self = Self(1 << 5);
    /// Stop on zero or a negative value.
    pub const STOP_ON_NON_POSITIVE: Self = Self(1 << 6);
    /// On a stop, continue with the adjacent atom: a branch.
    pub const SKIP_TO_NEXT_ON_STOP: Self = Self(1 << 7);

    /// The flags with these bits.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether all of `other` are set.
    #[inline]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the flow stops at an atom with this value.
    #[inline]
    pub fn stops_at(self, value: i64) -> bool {
        let stops = match value {
            0 => Self::STOP_ON_ZERO.0 | Self::STOP_ON_NON_POSITIVE.0,
            1.. => Self::STOP_ON_NONZERO.0,
            _ => Self::STOP_ON_NONZERO.0 | Self::STOP_ON_NEGATIVE.0 | Self::STOP_ON_NON_POSITIVE.0,
        };
        self.0 & stops != 0
    }
}

/// One operation of a program, as plain data.
#[derive(Debug, Clone, Copy)]
pub struct Atom {
    /// The operation.
    pub op: Op,
    /// The operands: indices of slots and of objects, in the order of [`Op::operands`].
    pub words: [u16; 6],
    /// The slot to which the value goes, or `NONE`.
    pub result: u16,
    /// The atom to continue with; `NONE` ends the program.
    pub next: u16,
    /// How to execute the atom, and when to stop.
    pub flags: AtomFlags,
    /// The result of a program that ends here, by its index among the outcomes.
    pub outcome: u16,
}

/// A piece of memory within an object: slots for the first byte and the count of bytes, or `NONE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The memory.
    pub object: u16,
    /// The slot with the first byte's index; absent: the beginning.
    pub start: u16,
    /// The slot with the count of bytes; absent: up to the end.
    pub length: u16,
}

/// An object of a program, before a run fills it.
#[derive(Debug, Clone)]
pub enum Object {
    /// A constant path.
    Path(CString),
    /// A path that each run is given.
    PathGiven,
    /// A constant socket address, in the kernel's format.
    Address(Box<[u8]>),
    /// A socket address that each run is given, or room for one that the kernel fills in.
    AddressGiven,
    /// Scratch memory; the slot has its size in bytes.
    Buffer(u16),
    /// The bytes that the last read into it gave; the read makes room for them.
    ReadBytes {
        /// The slot with the most bytes that a read is to give.
        size: u16,
        /// The slot with the read's value: how many bytes it gave, or a negative errno.
        length: u16,
    },
    /// Memory that reads append to.
    Growing {
        /// The slot with the most that it may hold, in bytes.
        limit: u16,
        /// The slot with the size to expect, or `NONE`.
        hint: u16,
    },
    /// Constant bytes.
    Data(Box<[u8]>),
    /// Memory that each run is given.
    Lent,
    /// Several pieces of memory.
    Vector(Box<[Span]>),
}

/// The result of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResultSpec {
    /// The value of its last atom.
    Atom,
    /// A variable.
    Int(u16),
    /// A variable that holds a descriptor, which is the caller's from then on.
    Fd(u16),
    /// Nothing.
    Nothing,
    /// A constant that only the program's owner knows, by number.
    Constant(usize),
    /// A copy of memory.
    Bytes(Span),
    /// The memory itself.
    Lease(Span),
    /// The fields of a statx, in the slots from this one on.
    Stat(u16),
    /// A socket address.
    Address(u16),
    /// Several of these.
    Tuple(Box<[ResultSpec]>),
}

/// A table that cannot be a program: which atom, object or outcome, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct MalformedProgram {
    /// Where the fault is.
    pub place: String,
    /// What is wrong there.
    pub reason: String,
}

/// A checked program, which any number of runs may execute at the same time.
#[derive(Debug)]
pub struct Program {
    pub(crate) atoms: Box<[Atom]>,
    pub(crate) slots: Box<[i64]>,
    pub(crate) objects: Box<[Object]>,
    pub(crate) outcomes: Box<[ResultSpec]>,
}

impl Program {
    /// Make a program of a table, in which every index is checked to name something of the right kind.
    pub fn new(
        atoms: Vec<Atom>,
        slots: Vec<i64>,
        objects: Vec<Object>,
        outcomes: Vec<ResultSpec>,
    ) -> Result<Self, MalformedProgram> {
        let program = Self {
            atoms: atoms.into(),
            slots: slots.into(),
            objects: objects.into(),
            outcomes: outcomes.into(),
        };
        program.check()?;
        Ok(program)
    }

    /// The atoms, in order.
    pub fn atoms(&self) -> &[Atom] {
        &self.atoms
    }

    /// The result of the program if it ends at this atom.
    pub fn outcome_at(&self, atom: u16) -> &ResultSpec {
        &self.outcomes[usize::from(self.atoms[usize::from(atom)].outcome)]
    }

    /// The bytes that an atom reads, if they are its value, rather than their number.
    pub fn bytes_read_by(&self, atom: u16) -> Option<Span> {
        let atom = &self.atoms[usize::from(atom)];
        if !matches!(atom.op, Op::Read | Op::Pread | Op::Recv | Op::Getdents) {
            return None;
        }
        let object = atom.words[1];
        matches!(self.objects[usize::from(object)], Object::ReadBytes { .. }).then_some(Span {
            object,
            start: NONE,
            length: NONE,
        })
    }

    /// Whether an atom may block the thread that executes it, because the program says so.
    pub fn may_block(&self) -> bool {
        self.atoms.iter().any(|atom| atom.flags.has(AtomFlags::SYNC))
    }

    /// The objects, as they are before a run.
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// Whether an atom writes to an object.
    pub fn writes_to(&self, object: u16) -> bool {
        self.atoms.iter().any(|atom| {
            let mut words = atom.words.iter();
            atom.op.operands().iter().any(|operand| {
                let word = words.next().copied().unwrap_or(NONE);
                for _ in 1..operand.n_words() {
                    words.next();
                }
                match operand {
                    Operand::Into => word == object,
                    Operand::ControlIfAny => word == object && atom.op == Op::Recvmsg,
                    Operand::Vector if matches!(atom.op, Op::Readv | Op::Recvmsg) => {
                        match self.objects.get(usize::from(word)) {
                            Some(Object::Vector(spans)) => {
                                spans.iter().any(|span| span.object == object)
                            }
                            _ => false,
                        }
                    }
                    _ => false,
                }
            })
        })
    }

    fn check(&self) -> Result<(), MalformedProgram> {
        if self.atoms.is_empty() {
            return Err(malformed("the program", "has no atoms"));
        }
        let limit = usize::from(NONE);
        if self.atoms.len() >= limit || self.slots.len() >= limit || self.objects.len() >= limit {
            return Err(malformed("the program", "has more than 65534 atoms, slots or objects"));
        }
        for (idx, atom) in self.atoms.iter().enumerate() {
            self.check_atom(atom)
                .map_err(|reason| malformed(&format!("atom {idx} ({})", atom.op), &reason))?;
        }
        for (idx, object) in self.objects.iter().enumerate() {
            self.check_object(object)
                .map_err(|reason| malformed(&format!("object {idx}"), &reason))?;
        }
        for (idx, outcome) in self.outcomes.iter().enumerate() {
            self.check_outcome(outcome)
                .map_err(|reason| malformed(&format!("outcome {idx}"), &reason))?;
        }
        self.check_loops()
    }

    fn check_atom(&self, atom: &Atom) -> Result<(), String> {
        let mut words = atom.words.iter().copied();
        for operand in atom.op.operands() {
            let mut word = || words.next().unwrap_or(NONE);
            match operand {
                Operand::Slot => self.check_slot(word())?,
                Operand::SlotIfAny => match word() {
                    NONE => {}
                    slot => self.check_slot(slot)?,
                },
                Operand::Path => self.check_kind(word(), "a path", |it| {
                    matches!(it, Object::Path(_) | Object::PathGiven)
                })?,
                Operand::Into | Operand::From => {
                    let span = Span { object: word(), start: word(), length: word() };
                    self.check_span(span, *operand == Operand::Into)?;
                }
                Operand::Vector => {
                    let object = word();
                    self.check_kind(object, "a vector", |it| matches!(it, Object::Vector(_)))?;
                    let writes_to = matches!(atom.op, Op::Readv | Op::Recvmsg);
                    let Object::Vector(spans) = &self.objects[usize::from(object)] else {
                        continue;
                    };
                    for &span in spans {
                        self.check_span(span, writes_to)?;
                        let object = &self.objects[usize::from(span.object)];
                        if writes_to && matches!(object, Object::Growing { .. }) {
                            return Err("reads into growing memory, to which reads append, among \
                                        other memory; read into it alone"
                                .to_owned());
                        }
                    }
                }
                Operand::Address => self.check_address(word())?,
                Operand::AddressIfAny => match word() {
                    NONE => {}
                    object => self.check_address(object)?,
                },
                Operand::ControlIfAny => match word() {
                    NONE => {}
                    object => {
                        let span = Span { object, start: NONE, length: NONE };
                        self.check_span(span, atom.op == Op::Recvmsg)?;
                    }
                },
                Operand::Fields(n_slots) => {
                    let first = usize::from(word());
                    if first + usize::from(*n_slots) > self.slots.len() {
                        return Err(format!("there are no {n_slots} slots from {first} on"));
                    }
                }
            }
        }
        if atom.result != NONE {
            self.check_slot(atom.result)?;
        }
        if atom.next != NONE && usize::from(atom.next) >= self.atoms.len() {
            return Err(format!("the next atom, {}, does not exist", atom.next));
        }
        if usize::from(atom.outcome) >= self.outcomes.len() {
            return Err(format!("outcome {} does not exist", atom.outcome));
        }
        if atom.flags.has(AtomFlags::ASYNC) && atom.flags.has(AtomFlags::SYNC) {
            return Err("is to be queued always and never; leave out ASYNC or SYNC".to_owned());
        }
        Ok(())
    }

    fn check_slot(&self, slot: u16) -> Result<(), String> {
        if usize::from(slot) >= self.slots.len() {
            return Err(format!("slot {slot} does not exist"));
        }
        Ok(())
    }

    fn check_kind(
        &self,
        object: u16,
        wanted: &str,
        is_wanted: impl FnOnce(&Object) -> bool,
    ) -> Result<(), String> {
        match self.objects.get(usize::from(object)) {
            Some(it) if is_wanted(it) => Ok(()),
            Some(_) => Err(format!("object {object} is not {wanted}")),
            None => Err(format!("object {object} does not exist")),
        }
    }

    fn check_address(&self, object: u16) -> Result<(), String> {
        self.check_kind(object, "an address", |it| {
            matches!(it, Object::Address(_) | Object::AddressGiven)
        })
    }

    fn check_span(&self, span: Span, writes_to: bool) -> Result<(), String> {
        let wanted = if writes_to { "memory that can be written to" } else { "memory" };
        self.check_kind(span.object, wanted, |it| match it {
            Object::Buffer(_)
            | Object::ReadBytes { .. }
            | Object::Growing { .. }
            | Object::Lent => true,
            Object::Data(_) => !writes_to,
            _ => false,
        })?;
        for slot in [span.start, span.length] {
            if slot != NONE {
                self.check_slot(slot)?;
            }
        }
        Ok(())
    }

    fn check_object(&self, object: &Object) -> Result<(), String> {
        match object {
            Object::Buffer(size) => self.check_slot(*size),
            Object::ReadBytes { size, length } => {
                self.check_slot(*size)?;
                self.check_slot(*length)
            }
            Object::Growing { limit, hint } => {
                self.check_slot(*limit)?;
                if *hint == NONE { Ok(()) } else { self.check_slot(*hint) }
            }
            Object::Address(bytes) if bytes.len() > size_of::<libc::sockaddr_storage>() => {
                Err("is too long for a socket address".to_owned())
            }
            // The spans of a vector are checked with the atoms that use it.
            _ => Ok(()),
        }
    }

    fn check_outcome(&self, outcome: &ResultSpec) -> Result<(), String> {
        match outcome {
            ResultSpec::Atom | ResultSpec::Nothing | ResultSpec::Constant(_) => Ok(()),
            ResultSpec::Int(slot) | ResultSpec::Fd(slot) => self.check_slot(*slot),
            ResultSpec::Bytes(span) | ResultSpec::Lease(span) => self.check_span(*span, false),
            ResultSpec::Stat(first) => {
                if usize::from(*first) + 16 > self.slots.len() {
                    return Err(format!("there are no 16 slots from {first} on"));
                }
                Ok(())
            }
            ResultSpec::Address(object) => self.check_address(*object),
            ResultSpec::Tuple(parts) => parts.iter().try_for_each(|part| self.check_outcome(part)),
        }
    }

    /// Refuse a loop without I/O: it would keep its thread busy without any effect.
    fn check_loops(&self) -> Result<(), MalformedProgram> {
        // Find a cycle among the atoms that do no I/O: take away, again and again, those of which no
        // successor is left.
        let mut is_left: Vec<bool> = self.atoms.iter().map(|it| !it.op.is_io()).collect();
        loop {
            let mut has_changed = false;
            for idx in (0..self.atoms.len()).rev() {
                let has_successor_left = self.successors(idx).any(|successor| is_left[successor]);
                if is_left[idx] && !has_successor_left {
                    is_left[idx] = false;
                    has_changed = true;
                }
            }
            if !has_changed {
                break;
            }
        }
        // Each atom that is left leads into a cycle, or is part of one.
        match is_left.iter().position(|&it| it) {
            Some(idx) => Err(malformed(
                &format!("atom {idx} ({})", self.atoms[idx].op),
                "leads into a loop that does no I/O",
            )),
            None => Ok(()),
        }
    }

    fn successors(&self, idx: usize) -> impl Iterator<Item = usize> {
        let atom = &self.atoms[idx];
        let next = (atom.next != NONE).then_some(usize::from(atom.next));
        let adjacent = Some(idx + 1)
            .filter(|&it| atom.flags.has(AtomFlags::SKIP_TO_NEXT_ON_STOP) && it < self.atoms.len());
        next.into_iter().chain(adjacent)
    }
}

fn malformed(place: &str, reason: &str) -> MalformedProgram {
    MalformedProgram { place: place.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nop(next: u16, flags: AtomFlags) -> Atom {
        Atom { op: Op::Nop, words: [NONE; 6], result: NONE, next, flags, outcome: 0 }
    }

    fn build(atoms: Vec<Atom>) -> Result<Program, MalformedProgram> {
        Program::new(atoms, vec![0], vec![], vec![ResultSpec::Atom])
    }

    #[test]
    fn stops_follow_the_sign_of_the_value() {
        let cases = [
            (AtomFlags::STOP_ON_NONZERO, [true, false, true]),
            (AtomFlags::STOP_ON_ZERO, [false, true, false]),
            (AtomFlags::STOP_ON_NEGATIVE, [true, false, false]),
            (AtomFlags::STOP_ON_NON_POSITIVE, [true, true, false]),
            (AtomFlags::default(), [false, false, false]),
        ];
        for (flags, expected) in cases {
            assert_eq!(expected, [-1, 0, 1].map(|value| flags.stops_at(value)), "{flags:?}");
        }
    }

    #[test]
    fn a_loop_without_io_is_refused() {
        let error =
            build(vec![nop(1, AtomFlags::default()), nop(0, AtomFlags::default())]).unwrap_err();
        assert_eq!("atom 0 (nop): leads into a loop that does no I/O", error.to_string());
        let branch = AtomFlags::SKIP_TO_NEXT_ON_STOP;
        assert!(build(vec![nop(NONE, branch), nop(0, AtomFlags::default())]).is_err());
        assert!(build(vec![nop(1, branch), nop(NONE, AtomFlags::default())]).is_ok());
    }

    #[test]
    fn an_index_that_names_nothing_is_reported() {
        let mut atom = nop(NONE, AtomFlags::default());
        atom.result = 1;
        assert_eq!(
            "atom 0 (nop): slot 1 does not exist",
            build(vec![atom]).unwrap_err().to_string()
        );
        assert_eq!(
            "atom 0 (nop): the next atom, 7, does not exist",
            build(vec![nop(7, AtomFlags::default())]).unwrap_err().to_string()
        );
    }
}
