//! The `Range` header: RFC 9110, section 14.

use std::ops::Range;

/// How many ranges a request may ask for. One with more is answered with the whole file (section 14.2):
/// readers of documents ask for a few dozens.
const N_RANGES_MAX: usize = 64;
/// Ranges this near to each other are sent as one: the head of a part would be as long as the gap
/// (section 15.3.7.2).
const GAP: u64 = 128;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ranges {
    /// Malformed, of another unit, or too many: as if nothing had been asked for.
    Ignored,
    Unsatisfiable,
    /// Disjoint, not empty, within the file, and in the order in which they were asked for.
    Some(Vec<Range<u64>>),
}

/// What `value` asks for of a file of `size` bytes.
pub(super) fn parse(value: &[u8], size: u64) -> Ranges {
    let Some(specs) = strip_unit(value) else {
        return Ranges::Ignored;
    };
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut n_specs = 0;
    for spec in specs.split(|&byte| byte == b',').map(trim) {
        // A list may have empty members.
        if spec.is_empty() {
            continue;
        }
        n_specs += 1;
        let Some(range) = parse_one(spec, size).filter(|_| n_specs <= N_RANGES_MAX) else {
            return Ranges::Ignored;
        };
        if !range.is_empty() {
            ranges.push(range);
        } else if size == 0 && spec[0] == b'-' && spec != b"-0" {
            // The end of an empty file: satisfiable, but there are no words for it in Content-Range.
            return Ranges::Ignored;
        }
    }
    match (n_specs, ranges.len()) {
        (0, _) => Ranges::Ignored,
        (_, 0) => Ranges::Unsatisfiable,
        (_, 1) => Ranges::Some(ranges),
        _ => Ranges::Some(coalesce(ranges)),
    }
}

fn strip_unit(value: &[u8]) -> Option<&[u8]> {
    let (unit, specs) = value.split_at_checked(b"bytes=".len())?;
    unit.eq_ignore_ascii_case(b"bytes=").then_some(specs)
}

/// `None` if it is malformed; an empty range if the file does not reach as far.
fn parse_one(spec: &[u8], size: u64) -> Option<Range<u64>> {
    let dash = spec.iter().position(|&byte| byte == b'-')?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    match (first, last) {
        (b"", b"") => None,
        (b"", suffix) => Some(size - number(suffix)?.min(size)..size),
        (first, b"") => Some(number(first)?.min(size)..size),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(size)..last.saturating_add(1).min(size))
        }
    }
}

/// Numbers that are too large for any file are as good as the largest.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some(value.saturating_mul(10).saturating_add(digit))
    })
}

fn trim(mut spec: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = spec {
        spec = rest;
    }
    spec
}

/// Makes one of ranges that overlap or nearly touch; it takes the place of the first of them.
fn coalesce(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut by_start: Vec<(usize, Range<u64>)> = ranges.into_iter().enumerate().collect();
    by_start.sort_by_key(|(_, range)| range.start);
    let mut merged: Vec<(usize, Range<u64>)> = Vec::with_capacity(by_start.len());
    for (place, range) in by_start {
        match merged.last_mut() {
            Some((first_place, before)) if range.start <= before.end.saturating_add(GAP) => {
                before.end = before.end.max(range.end);
                *first_place = place.min(*first_place);
            }
            _ => merged.push((place, range)),
        }
    }
    merged.sort_by_key(|&(place, _)| place);
    merged.into_iter().map(|(_, range)| range).collect()
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges are meant, also of one")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        use Ranges::{Ignored, Unsatisfiable};
        let some = |ranges: &[Range<u64>]| Ranges::Some(ranges.to_vec());
        for (value, expected) in [
            // The examples of section 14.1.2, for a file of 10000 bytes.
            ("bytes=0-499", some(&[0..500])),
            ("bytes=500-999", some(&[500..1000])),
            ("bytes=-500", some(&[9500..10000])),
            ("bytes=9500-", some(&[9500..10000])),
            ("bytes=0-0,-1", some(&[0..1, 9999..10000])),
            ("bytes= 0-0, 4500-5499, -1000", some(&[0..1, 4500..5500, 9000..10000])),
            ("bytes=500-600,601-999", some(&[500..1000])),
            ("bytes=500-700,601-999", some(&[500..1000])),
            // Beyond the end.
            ("bytes=9999-", some(&[9999..10000])),
            ("bytes=9999-10000", some(&[9999..10000])),
            ("bytes=0-99999999999999999999999999", some(&[0..10000])),
            ("bytes=-10001", some(&[0..10000])),
            ("bytes=-99999999999999999999999999", some(&[0..10000])),
            ("bytes=10000-", Unsatisfiable),
            ("bytes=10000-10000", Unsatisfiable),
            ("bytes=99999999999999999999999999-", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=-0,10000-", Unsatisfiable),
            ("bytes=10000-,0-0", some(&[0..1])),
            // Lists with empty members and space.
            ("bytes=0-0,", some(&[0..1])),
            ("bytes=,\t,0-0 ,, 5000-5000\t", some(&[0..1, 5000..5001])),
            ("Bytes=0-0", some(&[0..1])),
            // The order asked for, unless they touch or nearly so.
            ("bytes=5000-5001,0-1", some(&[5000..5002, 0..2])),
            ("bytes=0-1,5000-5001,100-101", some(&[0..102, 5000..5002])),
            ("bytes=5000-5001,0-1,3000-3001,4990-5000", some(&[4990..5002, 0..2, 3000..3002])),
            ("bytes=0-,0-,0-,0-", some(&[0..10000])),
            ("bytes=0-9,0-9", some(&[0..10])),
            // Malformed: none of it counts.
            ("", Ignored),
            ("bytes", Ignored),
            ("bytes=", Ignored),
            ("bytes=,", Ignored),
            ("bytes=-", Ignored),
            ("bytes=1-0", Ignored),
            ("bytes=0-0,1-0", Ignored),
            ("bytes=a-b", Ignored),
            ("bytes=0-0-0", Ignored),
            ("bytes=--1", Ignored),
            ("bytes=0 -0", Ignored),
            ("bytes=0- 0", Ignored),
            ("bytes=+0-0", Ignored),
            ("bytes=0x0-1", Ignored),
            ("bytes=5", Ignored),
            ("bytes =0-0", Ignored),
            ("items=0-0", Ignored),
            ("bytes:0-0", Ignored),
            ("bytes=0-0;", Ignored),
        ] {
            assert_eq!(expected, parse(value.as_bytes(), 10000), "{value:?}");
        }
    }

    #[test]
    fn an_empty_file_has_no_ranges() {
        for (value, expected) in [
            ("bytes=0-", Ranges::Unsatisfiable),
            ("bytes=0-0", Ranges::Unsatisfiable),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=-1", Ranges::Ignored),
        ] {
            assert_eq!(expected, parse(value.as_bytes(), 0), "{value}");
        }
    }

    #[test]
    fn too_many_ranges_are_ignored() {
        let ranges = |n: usize| {
            let specs: Vec<String> = (0..n).map(|i| format!("{0}-{0}", i * 1000)).collect();
            parse(format!("bytes={}", specs.join(",")).as_bytes(), 1_000_000)
        };
        assert!(matches!(ranges(N_RANGES_MAX), Ranges::Some(all) if all.len() == N_RANGES_MAX));
        assert_eq!(Ranges::Ignored, ranges(N_RANGES_MAX + 1));
    }

    /// The bytes that a member of a list asks for, counted one by one; `None` if it is malformed.
    fn wanted(spec: &str, size: u64) -> Option<Vec<u64>> {
        let (first, last) = spec.split_once('-')?;
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(first) || !is_number(last) || (first.is_empty() && last.is_empty()) {
            return None;
        }
        // Beyond any file's size, one number is like another.
        let number = |text: &str| text.parse::<u128>().unwrap().min(u128::from(u64::MAX));
        let all = (0..size).map(u128::from);
        let wanted: Vec<u128> = if first.is_empty() {
            all.filter(|at| at + number(last) >= u128::from(size)).collect()
        } else if last.is_empty() {
            all.filter(|&at| at >= number(first)).collect()
        } else if number(first) > number(last) {
            return None;
        } else {
            all.filter(|&at| (number(first)..=number(last)).contains(&at)).collect()
        };
        Some(wanted.into_iter().map(|at| at as u64).collect())
    }

    fn spec() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            4 => (0_u64..1200).prop_map(|n| n.to_string()),
            1 => Just("18446744073709551615".to_owned()),
            1 => Just("18446744073709551616".to_owned()),
            1 => Just("0007".to_owned()),
        ];
        prop_oneof![
            4 => (number.clone(), number.clone()).prop_map(|(a, b)| format!("{a}-{b}")),
            2 => number.clone().prop_map(|a| format!("{a}-")),
            2 => number.prop_map(|a| format!("-{a}")),
            1 => "[-0-9a]{0,4}",
        ]
    }

    proptest! {
        #[test]
        fn ranges_are_those_of_the_reference(
            specs in prop::collection::vec(spec(), 1..6),
            size in 1_u64..1000,
        ) {
            let parsed = parse(format!("bytes={}", specs.join(",")).as_bytes(), size);
            let members: Vec<&String> = specs.iter().filter(|spec| !spec.is_empty()).collect();
            let wanted: Option<Vec<Vec<u64>>> =
                members.iter().map(|spec| wanted(spec, size)).collect();
            let Some(wanted) = wanted.filter(|_| !members.is_empty()) else {
                prop_assert_eq!(Ranges::Ignored, parsed);
                return Ok(());
            };
            let satisfiable: Vec<&Vec<u64>> = wanted.iter().filter(|all| !all.is_empty()).collect();
            if satisfiable.is_empty() {
                prop_assert_eq!(Ranges::Unsatisfiable, parsed);
                return Ok(());
            }
            let Ranges::Some(ranges) = parsed else {
                return Err(TestCaseError::fail(format!("{parsed:?}")));
            };
            // All that was asked for is there, and what was not is in small gaps.
            for at in satisfiable.iter().copied().flatten() {
                prop_assert!(ranges.iter().any(|range| range.contains(at)));
            }
            for range in &ranges {
                prop_assert!(range.start < range.end && range.end <= size);
                let asked = |at: &u64| satisfiable.iter().any(|all| all.contains(at));
                prop_assert!(asked(&range.start) && asked(&(range.end - 1)));
                let mut gap = 0;
                for at in range.clone() {
                    gap = if asked(&at) { 0 } else { gap + 1 };
                    prop_assert!(gap <= GAP);
                }
            }
            for (index, range) in ranges.iter().enumerate() {
                for other in &ranges[index + 1..] {
                    prop_assert!(range.end + GAP < other.start || other.end + GAP < range.start);
                }
            }
            // The order is that of the first members.
            let place = |range: &Range<u64>| satisfiable.iter().position(|all| range.contains(&all[0]));
            prop_assert!(ranges.iter().map(place).is_sorted());
        }

        #[test]
        fn no_value_panics(value in prop::collection::vec(any::<u8>(), 0..40), size: u64) {
            if let Ranges::Some(ranges) = parse(&[b"bytes=", &value[..]].concat(), size) {
                prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
            }
        }
    }
}
