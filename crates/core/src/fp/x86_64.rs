//! x86-64: MXCSR for SSE and AVX, the control and status words of the x87 unit for `long double`.
//!
//! A state has MXCSR's control bits in its lower half and the x87 control word's in its upper half.
//! Reserved bits are left out, so that states compare as numbers.

use std::arch::asm;

use super::Rounding;

const MXCSR_FLAGS: u32 = 0x003F;
/// Without the bits above, which differ between processors.
const MXCSR_CONTROL: u32 = 0xFFC0;
const DENORMALS_ARE_ZERO: u32 = 0x0040;
const FLUSH_TO_ZERO: u32 = 0x8000;
const MXCSR_ROUNDING_SHIFT: u32 = 13;
const MXCSR_MASKS_SHIFT: u32 = 7;

/// Masks, precision, rounding; without the bits that are fixed or without meaning.
const X87_CONTROL: u16 = 0x0F3F;
/// A bit that reads as one whatever is written.
const X87_FIXED: u16 = 0x0040;
const X87_ROUNDING_SHIFT: u32 = 10;
const X87_PRECISION_SHIFT: u32 = 8;

pub(super) const DEFAULT: u64 = pack(0x1F80, 0x037F);

const fn pack(mxcsr: u32, x87: u16) -> u64 {
    (mxcsr & MXCSR_CONTROL) as u64 | ((x87 & X87_CONTROL) as u64) << 32
}

fn mxcsr_of(bits: u64) -> u32 {
    bits as u32
}

fn x87_of(bits: u64) -> u16 {
    (bits >> 32) as u16
}

#[inline]
fn read_mxcsr() -> u32 {
    let mut mxcsr = 0_u32;
    // SAFETY: stores a register into the variable.
    unsafe {
        asm!("stmxcsr [{}]", in(reg) &raw mut mxcsr, options(nostack, preserves_flags));
    }
    mxcsr
}

#[inline]
fn write_mxcsr(mxcsr: u32) {
    // SAFETY: `mxcsr` was read from the register, and only control bits and flags that every x86-64
    // processor has were changed in it. No code compiled here relies on a rounding of its own: the
    // dispatcher's code runs in the default state.
    unsafe {
        asm!("ldmxcsr [{}]", in(reg) &raw const mxcsr, options(nostack, preserves_flags, readonly));
    }
}

#[inline]
fn read_x87() -> u16 {
    let mut word = 0_u16;
    // SAFETY: stores a register into the variable.
    unsafe {
        asm!("fnstcw [{}]", in(reg) &raw mut word, options(nostack, preserves_flags));
    }
    word
}

fn write_x87(word: u16) {
    // SAFETY: loads a control word from the variable; no floating-point register is touched.
    unsafe {
        asm!("fldcw [{}]", in(reg) &raw const word, options(nostack, preserves_flags, readonly));
    }
}

fn read_x87_flags() -> u16 {
    let mut status = 0_u16;
    // SAFETY: stores a register into the variable.
    unsafe {
        asm!("fnstsw [{}]", in(reg) &raw mut status, options(nostack, preserves_flags));
    }
    status & MXCSR_FLAGS as u16
}

#[inline]
pub(super) fn read() -> u64 {
    pack(read_mxcsr(), read_x87())
}

#[inline]
pub(super) fn write(bits: u64) {
    let mxcsr = read_mxcsr();
    write_mxcsr((mxcsr & !MXCSR_CONTROL) | mxcsr_of(bits));
    // The control word is slower to load than to read, and programs hardly ever change it.
    if read_x87() & X87_CONTROL != x87_of(bits) {
        write_x87(x87_of(bits) | X87_FIXED);
    }
}

pub(super) fn rounding(bits: u64) -> Rounding {
    rounding_of_mode(mxcsr_of(bits) >> MXCSR_ROUNDING_SHIFT)
}

fn rounding_of_mode(mode: u32) -> Rounding {
    match mode & 3 {
        0 => Rounding::Nearest,
        1 => Rounding::Downward,
        2 => Rounding::Upward,
        _ => Rounding::TowardZero,
    }
}

pub(super) fn with_rounding(bits: u64, rounding: Rounding) -> u64 {
    let mode = match rounding {
        Rounding::Nearest => 0,
        Rounding::Downward => 1,
        Rounding::Upward => 2,
        Rounding::TowardZero => 3,
    };
    let mxcsr = mxcsr_of(bits) & !(3 << MXCSR_ROUNDING_SHIFT);
    let x87 = x87_of(bits) & !(3 << X87_ROUNDING_SHIFT);
    pack(mxcsr | mode << MXCSR_ROUNDING_SHIFT, x87 | (mode as u16) << X87_ROUNDING_SHIFT)
}

pub(super) fn flushes_to_zero(bits: u64) -> bool {
    mxcsr_of(bits) & FLUSH_TO_ZERO != 0
}

pub(super) fn with_flush_to_zero(bits: u64, flushes: bool) -> u64 {
    bits & !u64::from(FLUSH_TO_ZERO) | if flushes { u64::from(FLUSH_TO_ZERO) } else { 0 }
}

pub(super) fn takes_denormals_as_zero(bits: u64) -> bool {
    mxcsr_of(bits) & DENORMALS_ARE_ZERO != 0
}

pub(super) fn with_denormals_as_zero(bits: u64, are_zero: bool) -> u64 {
    bits & !u64::from(DENORMALS_ARE_ZERO) | if are_zero { u64::from(DENORMALS_ARE_ZERO) } else { 0 }
}

pub(super) fn describe_rest(found: u64, expected: u64, words: &mut Vec<String>) {
    let masks = (mxcsr_of(found) >> MXCSR_MASKS_SHIFT, mxcsr_of(expected) >> MXCSR_MASKS_SHIFT);
    describe_masks("", masks.0, masks.1, words);
    let sse_mode = mxcsr_of(found) >> MXCSR_ROUNDING_SHIFT & 3;
    let (found, expected) = (u32::from(x87_of(found)), u32::from(x87_of(expected)));
    let modes = (found >> X87_ROUNDING_SHIFT & 3, expected >> X87_ROUNDING_SHIFT & 3);
    // Both units are mostly set together; then the rounding is named once.
    if modes.0 != modes.1 && modes.0 != sse_mode {
        words.push(format!("x87 rounding {}", rounding_of_mode(modes.0).name()));
    }
    let precision = |word: u32| word >> X87_PRECISION_SHIFT & 3;
    if precision(found) != precision(expected) {
        words.push(
            match precision(found) {
                0 => "x87 precision single",
                2 => "x87 precision double",
                3 => "x87 precision extended",
                _ => "x87 precision reserved",
            }
            .to_owned(),
        );
    }
    describe_masks("x87 ", found, expected, words);
}

/// Name the exceptions whose masks differ; an exception whose mask is not set traps.
fn describe_masks(unit: &str, found: u32, expected: u32, words: &mut Vec<String>) {
    const NAMES: [&str; 6] =
        ["invalid", "denormal", "divide-by-zero", "overflow", "underflow", "inexact"];
    for (idx, name) in NAMES.iter().enumerate() {
        let (found, expected) = (found >> idx & 1, expected >> idx & 1);
        if found != expected {
            let verb = if found == 0 { "trapping" } else { "not trapping" };
            words.push(format!("{unit}{verb} {name}"));
        }
    }
}

/// Convert the processor's order of flags to that of `FlagBits`, which has none for denormal operands.
fn to_flags(bits: u32) -> u8 {
    (bits & 1 | bits >> 1 & 0b1_1110) as u8
}

fn from_flags(flags: u8) -> u32 {
    u32::from(flags & 1) | u32::from(flags & 0b1_1110) << 1
}

pub(super) fn read_flags() -> u8 {
    to_flags(read_mxcsr() & MXCSR_FLAGS | u32::from(read_x87_flags()))
}

pub(super) fn clear_flags() {
    let mxcsr = read_mxcsr();
    if mxcsr & MXCSR_FLAGS != 0 {
        write_mxcsr(mxcsr & !MXCSR_FLAGS);
    }
    if read_x87_flags() != 0 {
        // SAFETY: lowers flags of the status word.
        unsafe {
            asm!("fnclex", options(nomem, nostack, preserves_flags));
        }
    }
}

pub(super) fn raise_flags(flags: u8) {
    write_mxcsr(read_mxcsr() | from_flags(flags));
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn the_default_is_that_of_the_abi() {
        assert_eq!((0x1F80, 0x033F), (mxcsr_of(DEFAULT), x87_of(DEFAULT)));
    }

    #[test]
    fn the_x87_unit_and_traps_are_named() {
        let double = State(pack(0x1F80, 0x027F));
        let words = |state: State| state.changes_from(State::DEFAULT).to_string();
        assert_eq!("x87 precision double", words(double));
        assert_eq!("x87 rounding upward", words(State(pack(0x1F80, 0x0B7F))));
        assert_eq!("trapping divide-by-zero", words(State(pack(0x1D80, 0x037F))));
        assert_eq!("x87 trapping invalid", words(State(pack(0x1F80, 0x037E))));
    }

    #[test]
    fn the_x87_control_word_is_restored() {
        write_x87(0x027F);
        let found = read();
        write(DEFAULT);
        assert_eq!((pack(0x1F80, 0x027F), DEFAULT), (found, read()));
        assert_eq!(0x037F, read_x87());
    }
}
