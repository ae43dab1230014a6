//! Conditional requests: RFC 9110, section 13, for GET and HEAD.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use http::{HeaderMap, HeaderName};

/// What conditions are compared with.
pub(super) struct Validators<'a> {
    /// A strong tag in its quotes.
    pub(super) etag: &'a [u8],
    /// What `Last-Modified` says, in seconds since 1970.
    pub(super) modified_s: Option<u64>,
}

/// How a request that would be answered 200 is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<'a> {
    Whole,
    /// As this `Range` asks for.
    Part(&'a [u8]),
    NotModified,
    Failed,
}

impl Validators<'_> {
    /// In the order of section 13.2.2. `takes_range`: the method is GET, the only one that has ranges.
    pub(super) fn judge<'h>(
        &self,
        headers: &'h HeaderMap,
        takes_range: bool,
        now: impl FnOnce() -> SystemTime,
    ) -> Verdict<'h> {
        if headers.contains_key(IF_MATCH) {
            if !self.is_named(headers, IF_MATCH, Comparison::Strong) {
                return Verdict::Failed;
            }
        } else if let (Some(date_s), Some(modified_s)) =
            (date(headers, IF_UNMODIFIED_SINCE), self.modified_s)
            && modified_s > date_s
        {
            return Verdict::Failed;
        }
        if headers.contains_key(IF_NONE_MATCH) {
            if self.is_named(headers, IF_NONE_MATCH, Comparison::Weak) {
                return Verdict::NotModified;
            }
        } else if let (Some(date_s), Some(modified_s)) =
            (date(headers, IF_MODIFIED_SINCE), self.modified_s)
            && modified_s <= date_s
        {
            return Verdict::NotModified;
        }
        match only(headers, RANGE) {
            Some(range) if takes_range && self.is_same(headers, now) => Verdict::Part(range),
            _ => Verdict::Whole,
        }
    }

    /// Whether a list of tags has this file's, or is `*`: any file.
    fn is_named(&self, headers: &HeaderMap, name: HeaderName, comparison: Comparison) -> bool {
        headers.get_all(name).into_iter().any(|value| {
            value.as_bytes().trim_ascii() == b"*"
                || Tags(value.as_bytes()).any(|(is_weak, tag)| {
                    tag == self.etag && (comparison == Comparison::Weak || !is_weak)
                })
        })
    }

    /// Whether `If-Range`, if it is there, says that the client's part is of this very file.
    fn is_same(&self, headers: &HeaderMap, now: impl FnOnce() -> SystemTime) -> bool {
        if !headers.contains_key(IF_RANGE) {
            return true;
        }
        let Some(value) = only(headers, IF_RANGE) else {
            return false;
        };
        if let [b'"', ..] | [b'W', b'/', ..] = value {
            // A weak tag never matches.
            return value == self.etag;
        }
        // A date tells files apart, provided that the file was not changed once more within its second:
        // that is known when the second has passed (section 8.8.2.2).
        match (parse_date(value), self.modified_s) {
            (Some(date_s), Some(modified_s)) => {
                let second_is_over = UNIX_EPOCH + Duration::from_secs(modified_s + 1) <= now();
                date_s == modified_s && second_is_over
            }
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// The tags of a list, in their quotes, each with whether it is weak; the list ends where it is malformed.
/// Commas may be part of a tag, so that the list cannot just be split.
struct Tags<'a>(&'a [u8]);

impl<'a> Iterator for Tags<'a> {
    type Item = (bool, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.0.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b','))?;
        let rest = &self.0[start..];
        let (is_weak, rest) = match rest.strip_prefix(b"W/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let inner = rest.strip_prefix(b"\"")?;
        let end = inner.iter().position(|&byte| byte == b'"')? + 2;
        let (tag, rest) = rest.split_at(end);
        // Behind a tag comes a comma or the end.
        match rest.trim_ascii_start().first() {
            None | Some(b',') => {}
            Some(_) => return None,
        }
        self.0 = rest;
        Some((is_weak, tag))
    }
}

/// The value of a header that may be there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next()?;
    values.next().is_none().then_some(value.as_bytes())
}

/// Seconds since 1970; nothing for what is no date, which RFC 9110 has us ignore.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    parse_date(only(headers, name)?)
}

fn parse_date(value: &[u8]) -> Option<u64> {
    let date = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    date.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    // 1994-11-06 08:49:37, the date of RFC 9110.
    const MODIFIED_S: u64 = 784_111_777;
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";
    const PART: Verdict<'static> = Verdict::Part(b"bytes=0-0");

    fn judge(lines: &[(&'static str, &'static str)], takes_range: bool) -> String {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        let validators = Validators { etag: b"\"a,b\"", modified_s: Some(MODIFIED_S) };
        format!("{:?}", validators.judge(&headers, takes_range, SystemTime::now))
    }

    #[test]
    fn conditions_are_judged_in_the_order_of_rfc_9110() {
        use Verdict::{Failed, NotModified, Whole};
        let range = ("range", "bytes=0-0");
        let table: &[(&[(&'static str, &'static str)], Verdict<'static>)] = &[
            (&[], Whole),
            // If-None-Match: weak comparison, lists, `*`.
            (&[("if-none-match", r#""a,b""#)], NotModified),
            (&[("if-none-match", r#"W/"a,b""#)], NotModified),
            (&[("if-none-match", r#""x", W/"y" , "a,b""#)], NotModified),
            (&[("if-none-match", r#""x""#), ("if-none-match", r#""a,b""#)], NotModified),
            (&[("if-none-match", "*")], NotModified),
            (&[("if-none-match", r#""a", "b""#)], Whole),
            (&[("if-none-match", r#"a,b"#)], Whole),
            (&[("if-none-match", r#""a,b"#)], Whole),
            (&[("if-none-match", r#""x"y, "a,b""#)], Whole),
            (&[("if-none-match", r#"w/"a,b""#)], Whole),
            (&[("if-none-match", "")], Whole),
            // If-Modified-Since, in each of the three formats, and ignored if it is none of them.
            (&[("if-modified-since", SAME)], NotModified),
            (&[("if-modified-since", LATER)], NotModified),
            (&[("if-modified-since", EARLIER)], Whole),
            (&[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")], NotModified),
            (&[("if-modified-since", "Sun Nov  6 08:49:37 1994")], NotModified),
            (&[("if-modified-since", "yesterday")], Whole),
            (&[("if-modified-since", "784111777")], Whole),
            (&[("if-modified-since", SAME), ("if-modified-since", SAME)], Whole),
            // If-None-Match has precedence over If-Modified-Since, either way.
            (&[("if-none-match", r#""x""#), ("if-modified-since", LATER)], Whole),
            (&[("if-none-match", r#""a,b""#), ("if-modified-since", EARLIER)], NotModified),
            // If-Match: strong comparison.
            (&[("if-match", r#""a,b""#)], Whole),
            (&[("if-match", "*")], Whole),
            (&[("if-match", r#""x", "a,b""#)], Whole),
            (&[("if-match", r#"W/"a,b""#)], Failed),
            (&[("if-match", r#""x""#)], Failed),
            (&[("if-match", "")], Failed),
            // If-Unmodified-Since.
            (&[("if-unmodified-since", SAME)], Whole),
            (&[("if-unmodified-since", LATER)], Whole),
            (&[("if-unmodified-since", EARLIER)], Failed),
            (&[("if-unmodified-since", "no date")], Whole),
            // If-Match has precedence over If-Unmodified-Since, either way.
            (&[("if-match", r#""a,b""#), ("if-unmodified-since", EARLIER)], Whole),
            (&[("if-match", r#""x""#), ("if-unmodified-since", LATER)], Failed),
            // Both steps are taken.
            (&[("if-match", "*"), ("if-none-match", r#""a,b""#)], NotModified),
            (&[("if-match", r#""x""#), ("if-none-match", r#""a,b""#)], Failed),
            (&[("if-unmodified-since", SAME), ("if-modified-since", SAME)], NotModified),
            // Range, after the conditions.
            (&[range], PART),
            (&[range, range], Whole),
            (&[range, ("if-none-match", r#""a,b""#)], NotModified),
            (&[range, ("if-match", r#""x""#)], Failed),
            (&[range, ("if-match", r#""a,b""#)], PART),
            // If-Range: strong comparison, one tag or a date that is the same.
            (&[range, ("if-range", r#""a,b""#)], PART),
            (&[range, ("if-range", r#"W/"a,b""#)], Whole),
            (&[range, ("if-range", r#""x""#)], Whole),
            (&[range, ("if-range", r#""x", "a,b""#)], Whole),
            (&[range, ("if-range", "*")], Whole),
            (&[range, ("if-range", SAME)], PART),
            (&[range, ("if-range", EARLIER)], Whole),
            (&[range, ("if-range", LATER)], Whole),
            (&[range, ("if-range", "no date")], Whole),
            (&[range, ("if-range", SAME), ("if-range", SAME)], Whole),
            (&[("if-range", r#""a,b""#)], Whole),
        ];
        for (lines, expected) in table {
            assert_eq!(format!("{expected:?}"), judge(lines, true), "{lines:?}");
            let expected = if *expected == PART { &Whole } else { expected };
            assert_eq!(format!("{expected:?}"), judge(lines, false), "{lines:?} without ranges");
        }
    }

    #[test]
    fn a_date_is_no_strong_validator_within_its_second() {
        let mut headers = HeaderMap::new();
        headers.append(RANGE, HeaderValue::from_static("bytes=0-0"));
        headers.append(IF_RANGE, HeaderValue::from_static(SAME));
        let validators = Validators { etag: b"\"a\"", modified_s: Some(MODIFIED_S) };
        let at = |ms| move || UNIX_EPOCH + Duration::from_millis(MODIFIED_S * 1000 + ms);
        assert_eq!(Verdict::Whole, validators.judge(&headers, true, at(999)));
        assert_eq!(PART, validators.judge(&headers, true, at(1000)));
    }

    #[test]
    fn dates_say_nothing_of_a_file_without_a_date() {
        for name in [IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE] {
            let mut headers = HeaderMap::new();
            headers.append(name, HeaderValue::from_static(EARLIER));
            let validators = Validators { etag: b"\"a\"", modified_s: None };
            assert_eq!(Verdict::Whole, validators.judge(&headers, true, SystemTime::now));
        }
    }
}
