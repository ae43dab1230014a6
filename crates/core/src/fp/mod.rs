//! The floating-point state of a thread: its rounding, its treatment of denormals, its traps; and the flags
//! of the exceptions that have occurred.
//!
//! A [`State`] is the contents of the control registers, and nothing else: on x86-64 of MXCSR and the x87
//! control word, on aarch64 of FPCR. [`FlagBits`] are the sticky bits beside them. Both belong to the thread
//! that runs; a new thread inherits them from the thread that made it, which is why every thread of this
//! library begins with [`begin_thread`].
//!
//! This module does not know requests: its callers decide which state is in force when.

use std::fmt;

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod arch;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "the floating-point registers of this architecture are not known: add a file to fp/"
);

/// How results that cannot be represented are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To the nearest number, ties to the even one.
    Nearest,
    /// Towards minus infinity.
    Downward,
    /// Towards plus infinity.
    Upward,
    /// Towards zero.
    TowardZero,
}

impl Rounding {
    /// All roundings, with the names that users know them by.
    pub const NAMES: [(&str, Self); 4] = [
        ("nearest", Self::Nearest),
        ("downward", Self::Downward),
        ("upward", Self::Upward),
        ("toward-zero", Self::TowardZero),
    ];

    /// The name that users know the rounding by.
    pub fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(_, it)| *it == self);
        named.map_or("?", |(name, _)| name)
    }
}

/// The contents of the control registers, without the flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(u64);

impl State {
    /// The state that the ABI promises to every function: rounding to nearest, no exception trapped,
    /// denormals not replaced by zero, and the x87 unit at its full precision.
    pub const DEFAULT: Self = Self(arch::DEFAULT);

    /// The state of this thread.
    #[inline]
    pub fn read() -> Self {
        Self(arch::read())
    }

    /// Put this thread into the state. Flags stay as they are.
    #[inline]
    pub fn restore(self) {
        arch::write(self.0);
    }

    /// How results are rounded.
    pub fn rounding(self) -> Rounding {
        arch::rounding(self.0)
    }

    /// Whether results that are denormal become zero.
    pub fn flushes_to_zero(self) -> bool {
        arch::flushes_to_zero(self.0)
    }

    /// Whether operands that are denormal count as zero.
    pub fn takes_denormals_as_zero(self) -> bool {
        arch::takes_denormals_as_zero(self.0)
    }

    /// The same state with another rounding, on every unit.
    #[must_use]
    pub fn with_rounding(self, rounding: Rounding) -> Self {
        Self(arch::with_rounding(self.0, rounding))
    }

    /// The same state, with denormal results replaced by zero or not. On aarch64 one bit decides for
    /// results and operands alike.
    #[must_use]
    pub fn with_flush_to_zero(self, flushes: bool) -> Self {
        Self(arch::with_flush_to_zero(self.0, flushes))
    }

    /// The same state, with denormal operands counting as zero or not; see
    /// [`Self::with_flush_to_zero`].
    #[must_use]
    pub fn with_denormals_as_zero(self, are_zero: bool) -> Self {
        Self(arch::with_denormals_as_zero(self.0, are_zero))
    }

    /// Describe the differences from `expected` in words: "rounding upward, flush-to-zero".
    pub fn changes_from(self, expected: Self) -> Changes {
        Changes { found: self, expected }
    }
}

/// The differences between two states, in words.
#[derive(Debug, Clone, Copy)]
pub struct Changes {
    found: State,
    expected: State,
}

impl fmt::Display for Changes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { found, expected } = *self;
        let mut words = Vec::new();
        if found.rounding() != expected.rounding() {
            words.push(match found.rounding() {
                Rounding::Nearest => "rounding to nearest".to_owned(),
                Rounding::TowardZero => "rounding toward zero".to_owned(),
                other => format!("rounding {}", other.name()),
            });
        }
        for (was, is, name) in [
            (expected.flushes_to_zero(), found.flushes_to_zero(), "flush-to-zero"),
            (
                expected.takes_denormals_as_zero(),
                found.takes_denormals_as_zero(),
                "denormals-are-zero",
            ),
        ] {
            if was != is {
                words.push(if is { name.to_owned() } else { format!("no {name}") });
            }
        }
        arch::describe_rest(found.0, expected.0, &mut words);
        if words.is_empty() {
            words.push("nothing".to_owned());
        }
        formatter.write_str(&words.join(", "))
    }
}

/// The flags of the exceptions that have occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlagBits(u8);

impl FlagBits {
    /// No exception.
    pub const NONE: Self = Self(0);
    /// Operands that are numbers had a result that is not a number.
    pub const INVALID: Self = Self(1);
    /// Finite operands had a result that is exactly infinite.
    pub const DIVIDE_BY_ZERO: Self = Self(2);
    /// A result was too large.
    pub const OVERFLOW: Self = Self(4);
    /// A result was so small that it lost precision.
    pub const UNDERFLOW: Self = Self(8);
    /// A result was rounded.
    pub const INEXACT: Self = Self(16);

    /// All flags, with the names that users know them by.
    pub const NAMES: [(&str, Self); 5] = [
        ("invalid", Self::INVALID),
        ("divide-by-zero", Self::DIVIDE_BY_ZERO),
        ("overflow", Self::OVERFLOW),
        ("underflow", Self::UNDERFLOW),
        ("inexact", Self::INEXACT),
    ];

    /// The flags of this thread.
    pub fn read() -> Self {
        Self(arch::read_flags())
    }

    /// Lower all flags of this thread.
    pub fn clear_all() {
        arch::clear_flags();
    }

    /// Run `work`, and put the flags of this thread back as they were before.
    pub fn preserving<R>(work: impl FnOnce() -> R) -> R {
        let before = Self::read();
        let result = work();
        Self::clear_all();
        before.raise();
        result
    }

    /// Raise these flags in this thread, beside those that are raised.
    pub fn raise(self) {
        arch::raise_flags(self.0);
    }

    /// These flags and `others`.
    #[must_use]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether all of `flags` are among these.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// The flags as a number, for an atomic.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// The flags with the number that [`Self::bits`] gave.
    pub fn from_bits(bits: u8) -> Self {
        Self(bits & 31)
    }
}

/// Put a new thread into the default state: it has inherited the state of the thread that made it.
pub fn begin_thread() {
    State::DEFAULT.restore();
    FlagBits::clear_all();
}

#[cfg(test)]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tests {
    use std::hint::black_box;

    use super::*;

    /// Run `body` in a state, and restore the default, which the test harness expects.
    ///
    /// The compiler takes arithmetic for independent of the registers and would move it, if it were not in
    /// a function that the compiler cannot see into.
    fn within<R>(state: State, body: impl Fn() -> R) -> R {
        let body: &dyn Fn() -> R = &body;
        state.restore();
        let result = black_box(black_box(body)());
        State::DEFAULT.restore();
        result
    }

    #[inline(never)]
    fn third() -> f64 {
        black_box(1.0) / black_box(3.0)
    }

    #[test]
    fn a_thread_starts_in_the_default_state() {
        assert_eq!(State::DEFAULT, State::read());
        assert_eq!(Rounding::Nearest, State::DEFAULT.rounding());
        assert!(!State::DEFAULT.flushes_to_zero());
        assert!(!State::DEFAULT.takes_denormals_as_zero());
    }

    #[test]
    fn every_rounding_reads_back_and_rounds() {
        for (_, rounding) in Rounding::NAMES {
            let state = State::DEFAULT.with_rounding(rounding);
            let (read, result) = within(state, || (State::read(), third()));
            assert_eq!(state, read);
            assert_eq!(rounding, read.rounding());
            let expected: f64 = match rounding {
                Rounding::Upward => 0.333_333_333_333_333_37,
                _ => 0.333_333_333_333_333_3,
            };
            assert_eq!(expected.to_bits(), result.to_bits(), "{rounding:?}");
        }
    }

    #[test]
    fn directed_roundings_enclose_the_negative_result_too() {
        let minus_third = || black_box(-1.0_f64) / black_box(3.0);
        let of = |rounding| within(State::DEFAULT.with_rounding(rounding), minus_third);
        assert!(of(Rounding::Downward) < of(Rounding::Upward));
        assert_eq!(of(Rounding::Upward), of(Rounding::TowardZero));
    }

    #[test]
    fn denormal_results_become_zero_only_where_it_is_asked_for() {
        let half_of_least_normal = || black_box(f64::MIN_POSITIVE) / black_box(2.0);
        assert!(half_of_least_normal() > 0.0);
        let state = State::DEFAULT.with_flush_to_zero(true);
        assert_eq!(0.0, within(state, half_of_least_normal));
    }

    #[test]
    fn denormal_operands_count_as_zero_only_where_it_is_asked_for() {
        let denormal = f64::from_bits(1);
        let grown = || black_box(denormal) * black_box(f64::MAX);
        assert!(grown() > 0.0);
        assert_eq!(0.0, within(State::DEFAULT.with_denormals_as_zero(true), grown));
    }

    #[test]
    fn changes_are_said_in_words() {
        let changed = State::DEFAULT.with_rounding(Rounding::Upward).with_flush_to_zero(true);
        let words = changed.changes_from(State::DEFAULT).to_string();
        assert!(words.starts_with("rounding upward, flush-to-zero"), "{words}");
        let words = State::DEFAULT.changes_from(changed).to_string();
        assert!(words.starts_with("rounding to nearest, no flush-to-zero"), "{words}");
        assert_eq!("nothing", changed.changes_from(changed).to_string());
    }

    #[test]
    fn flags_say_which_exceptions_there_were() {
        let cases: [(fn() -> f64, FlagBits); 5] = [
            (|| black_box(f64::INFINITY) - black_box(f64::INFINITY), FlagBits::INVALID),
            (|| black_box(1.0) / black_box(0.0), FlagBits::DIVIDE_BY_ZERO),
            (|| black_box(f64::MAX) * black_box(2.0), FlagBits::OVERFLOW.and(FlagBits::INEXACT)),
            (
                || black_box(f64::MIN_POSITIVE) / black_box(3.0),
                FlagBits::UNDERFLOW.and(FlagBits::INEXACT),
            ),
            (third, FlagBits::INEXACT),
        ];
        for (compute, expected) in cases {
            FlagBits::clear_all();
            assert_eq!(FlagBits::NONE, FlagBits::read());
            black_box(compute());
            assert_eq!(expected, FlagBits::read());
        }
        FlagBits::clear_all();
    }

    #[test]
    fn flags_and_state_leave_each_other_alone() {
        FlagBits::clear_all();
        FlagBits::OVERFLOW.raise();
        FlagBits::INVALID.raise();
        let raised = FlagBits::OVERFLOW.and(FlagBits::INVALID);
        let upward = State::DEFAULT.with_rounding(Rounding::Upward);
        let (flags, state) = within(upward, || (FlagBits::read(), State::read()));
        assert_eq!((raised, upward), (flags, state));
        let (flags, state) = within(upward, || {
            FlagBits::clear_all();
            (FlagBits::read(), State::read())
        });
        assert_eq!((FlagBits::NONE, upward), (flags, state));
    }

    #[test]
    fn a_new_thread_inherits_until_it_begins() {
        State::DEFAULT.with_rounding(Rounding::Upward).restore();
        let thread = std::thread::spawn(|| {
            let inherited = State::read();
            begin_thread();
            (inherited, State::read(), FlagBits::read())
        });
        State::DEFAULT.restore();
        let (inherited, begun, flags) = thread.join().expect("the thread ends");
        assert_eq!(Rounding::Upward, inherited.rounding());
        assert_eq!((State::DEFAULT, FlagBits::NONE), (begun, flags));
    }
}
