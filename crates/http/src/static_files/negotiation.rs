//! What a client accepts: codings (RFC 9110, section 12.5.3), and pages (section 12.5.1).

use http::header::{ACCEPT, ACCEPT_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const N_CODINGS: usize = 4;

/// A content coding, the one that a server prefers first, the plain file last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Brotli,
    Zstd,
    Gzip,
    Identity,
}

impl Coding {
    pub(super) const ALL: [Self; N_CODINGS] =
        [Self::Brotli, Self::Zstd, Self::Gzip, Self::Identity];

    /// What the name of a file has at its end.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Zstd => ".zst",
            Self::Gzip => ".gz",
            Self::Identity => "",
        }
    }

    pub(super) fn header(self) -> Option<HeaderValue> {
        match self {
            Self::Brotli => Some(HeaderValue::from_static("br")),
            Self::Zstd => Some(HeaderValue::from_static("zstd")),
            Self::Gzip => Some(HeaderValue::from_static("gzip")),
            Self::Identity => None,
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        const NAMES: [(&[u8], Coding); 5] = [
            (b"gzip", Coding::Gzip),
            (b"br", Coding::Brotli),
            (b"zstd", Coding::Zstd),
            (b"identity", Coding::Identity),
            (b"x-gzip", Coding::Gzip),
        ];
        let is_it = |known: &&(&[u8], Self)| known.0.eq_ignore_ascii_case(name);
        NAMES.iter().find(is_it).map(|&(_, coding)| coding)
    }
}

/// The codings that a client accepts, the best first. Those behind `Identity` are left out, since the plain
/// file is always there; without `Identity`, the client refuses it.
pub(super) fn accepted_codings(headers: &HeaderMap) -> impl Iterator<Item = Coding> {
    let mut weights: [Option<u16>; N_CODINGS] = [None; N_CODINGS];
    let mut others = None;
    for (name, weight) in members(headers, ACCEPT_ENCODING) {
        if name == b"*" {
            others = Some(weight);
        } else if let Some(coding) = Coding::named(name) {
            weights[coding as usize] = Some(weight);
        }
    }
    // A coding that is not named is refused, but the plain file is not.
    let plain = weights[Coding::Identity as usize].or(others);
    let weight = |coding: Coding| match coding {
        Coding::Identity => plain.unwrap_or(1),
        _ => weights[coding as usize].or(others).unwrap_or(0),
    };
    let floor = plain.unwrap_or(1).max(1);
    let mut order = Coding::ALL.map(|coding| (weight(coding), coding));
    // A stable sort: those of one weight stay in the server's order, and the plain file last.
    order.sort_by_key(|&(weight, _)| std::cmp::Reverse(weight));
    order.into_iter().filter(move |&(weight, _)| weight >= floor).map(|(_, coding)| coding)
}

/// Whether the client takes a page of HTML. One that does not say takes everything.
pub(super) fn accepts_html(headers: &HeaderMap) -> bool {
    if !headers.contains_key(ACCEPT) {
        return true;
    }
    // The most specific member decides.
    let mut best = (0, 0);
    for (range, weight) in members(headers, ACCEPT) {
        let precision = if range.eq_ignore_ascii_case(b"text/html") {
            3
        } else if range.eq_ignore_ascii_case(b"text/*") {
            2
        } else if range == b"*/*" {
            1
        } else {
            continue;
        };
        best = best.max((precision, weight));
    }
    best.1 > 0
}

/// The members of a list with their weights in thousandths. What is malformed is left out.
fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = (&[u8], u16)> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.as_bytes().split(|&byte| byte == b',')).filter_map(|member| {
        let mut parts = member.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().filter(|name| !name.is_empty())?;
        let mut weight = 1000;
        for parameter in parts {
            if let [b'q' | b'Q', b'=', digits @ ..] = parameter {
                weight = thousandths(digits)?;
            }
        }
        Some((name, weight))
    })
}

/// `0`, `0.5`, `1.000`: a weight of RFC 9110, section 12.4.2.
fn thousandths(digits: &[u8]) -> Option<u16> {
    let (&whole, rest) = digits.split_first()?;
    let decimals = match rest {
        [] => rest,
        [b'.', decimals @ ..] if decimals.len() <= 3 => decimals,
        _ => return None,
    };
    let mut value = 0;
    for index in 0..3 {
        let digit = decimals.get(index).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + u16::from(digit - b'0');
    }
    match whole {
        b'0' => Some(value),
        b'1' if value == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn codings_are_tried_by_weight_and_then_by_our_preference() {
        use Coding::{Brotli, Gzip, Identity, Zstd};
        let table: &[(&[&str], &[Coding])] = &[
            (&[], &[Identity]),
            (&[""], &[Identity]),
            (&["gzip"], &[Gzip, Identity]),
            (&["gzip, deflate, br, zstd"], &[Brotli, Zstd, Gzip, Identity]),
            (&["gzip", "br"], &[Brotli, Gzip, Identity]),
            (&["GZIP;Q=0.5, br;q=0.25"], &[Gzip, Brotli, Identity]),
            (&["gzip ; q=1.000 , br ; q=0"], &[Gzip, Identity]),
            (&["x-gzip"], &[Gzip, Identity]),
            (&["*"], &[Brotli, Zstd, Gzip, Identity]),
            (&["*;q=0"], &[]),
            (&["gzip, *;q=0"], &[Gzip]),
            (&["gzip, identity;q=0"], &[Gzip]),
            (&["identity;q=0"], &[]),
            (&["identity"], &[Identity]),
            (&["identity, gzip;q=0.5"], &[Identity]),
            (&["identity;q=0.5, gzip;q=0.5"], &[Gzip, Identity]),
            (&["gzip;q=0.3, *"], &[Brotli, Zstd, Identity]),
            (&["gzip;q=0.001"], &[Gzip, Identity]),
            (&["gzip;q=1.001, br;q=x, zstd;q="], &[Identity]),
            (&["deflate, compress"], &[Identity]),
            (&[",, ,gzip,"], &[Gzip, Identity]),
        ];
        for (values, expected) in table {
            let accepted: Vec<_> = accepted_codings(&headers(ACCEPT_ENCODING, values)).collect();
            assert_eq!(*expected, accepted, "{values:?}");
        }
    }

    #[test]
    fn pages_go_to_those_who_accept_them() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let table: &[(&[&str], bool)] = &[
            (&[], true),
            (&[browser], true),
            (&["*/*"], true),
            (&["text/*"], true),
            (&["application/json"], false),
            (&["application/json, */*;q=0.1"], true),
            (&["text/html;q=0, */*"], false),
            (&["text/*;q=0", "*/*"], false),
            (&["Text/HTML;level=1"], true),
            (&["image/png"], false),
        ];
        for (values, expected) in table {
            assert_eq!(*expected, accepts_html(&headers(ACCEPT, values)), "{values:?}");
        }
    }
}
