//! An architecture whose registers are not known: every state is the default, nothing is compared, and
//! no flag is ever raised. `fp::IS_KNOWN` is false here.

use super::Rounding;

pub(super) const IS_KNOWN: bool = false;

pub(super) const DEFAULT: u64 = 0;

pub(super) fn read() -> u64 {
    DEFAULT
}

pub(super) fn write(_bits: u64) {}

pub(super) fn rounding(_bits: u64) -> Rounding {
    Rounding::Nearest
}

pub(super) fn with_rounding(bits: u64, _rounding: Rounding) -> u64 {
    bits
}

pub(super) fn flushes_to_zero(_bits: u64) -> bool {
    false
}

pub(super) fn with_flush_to_zero(bits: u64, _flushes: bool) -> u64 {
    bits
}

pub(super) fn takes_denormals_as_zero(_bits: u64) -> bool {
    false
}

pub(super) fn with_denormals_as_zero(bits: u64, _are_zero: bool) -> u64 {
    bits
}

pub(super) fn describe_rest(_found: u64, _expected: u64, _words: &mut Vec<String>) {}

pub(super) fn read_flags() -> u8 {
    0
}

pub(super) fn clear_flags() {}

pub(super) fn raise_flags(_flags: u8) {}
