//! aarch64: FPCR, whose default is zero, and the flags of FPSR.
//!
//! One bit (FZ) makes denormals zero, in operands and results alike.

use std::arch::asm;

use super::Rounding;

pub(super) const DEFAULT: u64 = 0;

const ROUNDING_SHIFT: u32 = 22;
const FLUSH_TO_ZERO: u64 = 1 << 24;
/// The control bits that are named, beside rounding and FZ.
const NAMES: [(u64, &str); 7] = [
    (1 << 26, "alternative half precision"),
    (1 << 25, "default NaN"),
    (1 << 19, "flush-to-zero of half precision"),
    (1 << 15, "trapping denormal"),
    (1 << 2, "elements merged"),
    (1 << 1, "alternate handling"),
    (1, "inputs flushed to zero"),
];
/// The exceptions that can be trapped, in the order of the flags.
const TRAPS: [&str; 5] = ["invalid", "divide-by-zero", "overflow", "underflow", "inexact"];
const TRAPS_SHIFT: u32 = 8;
/// All control bits above, without those that are reserved or that set the length of vectors.
const CONTROL: u64 = 3 << ROUNDING_SHIFT
    | FLUSH_TO_ZERO
    | 31 << TRAPS_SHIFT
    | 1 << 26
    | 1 << 25
    | 1 << 19
    | 1 << 15
    | 7;
/// The flags in FPSR, which are in the order of `FlagBits`.
const FLAGS: u64 = 31;

#[inline]
fn read_fpcr() -> u64 {
    let fpcr: u64;
    // SAFETY: reads a register.
    unsafe {
        asm!("mrs {}, fpcr", out(reg) fpcr, options(nomem, nostack, preserves_flags));
    }
    fpcr
}

fn read_fpsr() -> u64 {
    let fpsr: u64;
    // SAFETY: reads a register.
    unsafe {
        asm!("mrs {}, fpsr", out(reg) fpsr, options(nomem, nostack, preserves_flags));
    }
    fpsr
}

fn write_fpsr(fpsr: u64) {
    // SAFETY: raises or lowers flags, on which no code compiled here depends.
    unsafe {
        asm!("msr fpsr, {}", in(reg) fpsr, options(nomem, nostack, preserves_flags));
    }
}

#[inline]
pub(super) fn read() -> u64 {
    read_fpcr() & CONTROL
}

#[inline]
pub(super) fn write(bits: u64) {
    let fpcr = (read_fpcr() & !CONTROL) | bits;
    // SAFETY: only control bits are changed; writes to those that the processor lacks are ignored. No code
    // compiled here relies on a rounding of its own: the dispatcher's code runs in the default state.
    unsafe {
        asm!("msr fpcr, {}", in(reg) fpcr, options(nomem, nostack, preserves_flags));
    }
}

pub(super) fn rounding(bits: u64) -> Rounding {
    match bits >> ROUNDING_SHIFT & 3 {
        0 => Rounding::Nearest,
        1 => Rounding::Upward,
        2 => Rounding::Downward,
        _ => Rounding::TowardZero,
    }
}

pub(super) fn with_rounding(bits: u64, rounding: Rounding) -> u64 {
    let mode = match rounding {
        Rounding::Nearest => 0,
        Rounding::Upward => 1,
        Rounding::Downward => 2,
        Rounding::TowardZero => 3,
    };
    bits & !(3 << ROUNDING_SHIFT) | mode << ROUNDING_SHIFT
}

pub(super) fn flushes_to_zero(bits: u64) -> bool {
    bits & FLUSH_TO_ZERO != 0
}

pub(super) fn with_flush_to_zero(bits: u64, flushes: bool) -> u64 {
    bits & !FLUSH_TO_ZERO | if flushes { FLUSH_TO_ZERO } else { 0 }
}

pub(super) fn takes_denormals_as_zero(bits: u64) -> bool {
    flushes_to_zero(bits)
}

pub(super) fn with_denormals_as_zero(bits: u64, are_zero: bool) -> u64 {
    with_flush_to_zero(bits, are_zero)
}

pub(super) fn describe_rest(found: u64, expected: u64, words: &mut Vec<String>) {
    for (bit, name) in NAMES {
        if (found ^ expected) & bit != 0 {
            words.push(if found & bit != 0 { name.to_owned() } else { format!("no {name}") });
        }
    }
    for (idx, name) in TRAPS.iter().enumerate() {
        let bit = 1 << (TRAPS_SHIFT as usize + idx);
        if (found ^ expected) & bit != 0 {
            let verb = if found & bit != 0 { "trapping" } else { "not trapping" };
            words.push(format!("{verb} {name}"));
        }
    }
}

pub(super) fn read_flags() -> u8 {
    (read_fpsr() & FLAGS) as u8
}

pub(super) fn clear_flags() {
    write_fpsr(read_fpsr() & !FLAGS);
}

pub(super) fn raise_flags(flags: u8) {
    write_fpsr(read_fpsr() | u64::from(flags));
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn bits_of_this_architecture_alone_are_named() {
        let words = |bits| State(bits).changes_from(State::DEFAULT).to_string();
        assert_eq!("default NaN", words(1 << 25));
        assert_eq!("trapping divide-by-zero", words(1 << 9));
    }

    #[test]
    fn default_nan_is_restored() {
        write(1 << 25);
        let found = read();
        write(DEFAULT);
        assert_eq!((1 << 25, DEFAULT), (found, read()));
    }
}
