//! Which part of some content a client wants (RFC 9110 section 14). Browsers play films by parts, and Safari plays no other way.
//! Called by `content`. Pure.

use std::ops::Range;

/// What a Range field asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// These bytes, at least one.
    Part(Range<usize>),
    /// Bytes that are not there: 416.
    Beyond,
    /// What is not understood, and what takes an answer in several parts, is answered as if it were not asked for
    /// (section 14.2 leaves that to a server).
    Whole,
}

/// Reads the field's value for content of this length.
pub fn read(field: &[u8], length: usize) -> Asked {
    spec(field, length).unwrap_or(Asked::Whole)
}

/// `None` for what is not one range of bytes.
fn spec(field: &[u8], length: usize) -> Option<Asked> {
    let equals = field.iter().position(|byte| *byte == b'=')?;
    let (unit, set) = (&field[..equals], &field[equals + 1..]);
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let mut elements = set
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty());
    let (one, another) = (elements.next()?, elements.next());
    if another.is_some() {
        return None;
    }
    let hyphen = one.iter().position(|byte| *byte == b'-')?;
    let part = match (&one[..hyphen], &one[hyphen + 1..]) {
        // The last so many.
        (b"", last) => length - number(last)?.min(length)..length,
        (first, b"") => number(first)?..length,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(length)
        }
    };
    Some(match part.start < part.end {
        true => Asked::Part(part),
        false => Asked::Beyond,
    })
}

/// Digits; a number beyond all content is as good as the largest.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: usize, digit: &u8| {
        sum.saturating_mul(10)
            .saturating_add(usize::from(digit - b'0'))
    };
    Some(digits.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_are_read() {
        for (field, asked) in [
            ("bytes=0-0", Asked::Part(0..1)),
            ("bytes=0-9", Asked::Part(0..10)),
            ("bytes=3-99999999999999999999999", Asked::Part(3..10)),
            ("bytes=9-", Asked::Part(9..10)),
            ("bytes=-1", Asked::Part(9..10)),
            ("bytes=-99", Asked::Part(0..10)),
            ("Bytes= 2-3 ,", Asked::Part(2..4)),
            ("bytes=10-", Asked::Beyond),
            ("bytes=10-20", Asked::Beyond),
            ("bytes=99999999999999999999999-", Asked::Beyond),
            ("bytes=-0", Asked::Beyond),
            ("bytes=3-2", Asked::Whole),
            ("bytes=0-1,3-4", Asked::Whole),
            ("bytes=", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=a-b", Asked::Whole),
            ("bytes=0x1-2", Asked::Whole),
            ("bytes=+1-2", Asked::Whole),
            ("bytes=1--2", Asked::Whole),
            ("bytes", Asked::Whole),
            ("bytes =0-1", Asked::Whole),
            ("seconds=0-1", Asked::Whole),
            ("", Asked::Whole),
        ] {
            assert_eq!(read(field.as_bytes(), 10), asked, "{field}");
        }
        for field in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            assert_eq!(
                read(field.as_bytes(), 0),
                Asked::Beyond,
                "{field} of nothing"
            );
        }
    }

    proptest! {
        /// Byte by byte, as section 14.1.2 says it: a byte is asked for if its place is one of the range's.
        #[test]
        fn the_part_holds_the_bytes_that_are_asked_for(first in 0..40usize, last in 0..40usize, length in 0..30usize, form in 0..3) {
            let (field, wanted): (String, Vec<usize>) = match form {
                0 => (format!("bytes={first}-{last}"), (0..length).filter(|at| (first..=last).contains(at)).collect()),
                1 => (format!("bytes={first}-"), (0..length).filter(|at| *at >= first).collect()),
                _ => (format!("bytes=-{last}"), (0..length).filter(|at| at + last >= length).collect()),
            };
            let asked = match read(field.as_bytes(), length) {
                Asked::Part(part) => part.collect(),
                Asked::Beyond => Vec::new(),
                Asked::Whole => {
                    prop_assert!(form == 0 && last < first, "{} of {}", field, length);
                    return Ok(());
                }
            };
            prop_assert_eq!(asked, wanted, "{} of {}", field, length);
        }

        #[test]
        fn a_part_lies_within_the_content(field in "(bytes=)?[0-9,= -]{0,30}", length in 0..100usize) {
            if let Asked::Part(part) = read(field.as_bytes(), length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}
