//! The trace that a request belongs to: `traceparent` of the W3C Trace Context recommendation (section 3.2), read strictly. What is not
//! valid counts as absent, as the recommendation has it; so do two fields, which `head` sees to.

use std::ops::Range;

/// The length of what version 00 consists of: version, trace-id, parent-id and flags.
const LENGTH: usize = 55;

const TRACE_ID: Range<usize> = 3..35;
const PARENT_ID: Range<usize> = 36..52;

/// A valid `traceparent`. Of a version that is yet to come it holds the parts that are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent([u8; LENGTH]);

impl TraceParent {
    /// Reads a field's value.
    pub fn parse(value: &str) -> Option<Self> {
        let (known, more) = value.as_bytes().split_first_chunk::<LENGTH>()?;
        let shape = known.iter().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            // In lower case, and in no other.
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
        let version_fits = match &known[..2] {
            b"ff" => false,
            b"00" => more.is_empty(),
            // Parts that are not known yet come behind another dash.
            _ => more.is_empty() || more[0] == b'-',
        };
        let zero = |part: Range<usize>| known[part].iter().all(|byte| *byte == b'0');
        (shape && version_fits && !zero(TRACE_ID) && !zero(PARENT_ID))
            .then_some(TraceParent(*known))
    }

    /// Version, trace-id, parent-id and flags.
    pub fn as_str(&self) -> &str {
        // Hexadecimal digits and dashes.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The 32 hexadecimal digits that all parts of the trace share.
    pub fn trace_id(&self) -> &str {
        &self.as_str()[TRACE_ID]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_valid_is_read() {
        let read = TraceParent::parse(GOOD).expect("valid");
        assert_eq!(read.as_str(), GOOD);
        assert_eq!(read.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        // Flags that are not known yet are no reason to refuse.
        assert!(TraceParent::parse(&format!("{}ff", &GOOD[..53])).is_some());
    }

    #[test]
    fn versions_that_are_yet_to_come_are_read_as_far_as_they_are_known() {
        for (version, behind, valid) in [
            ("01", "", true),
            ("cc", "-what-the-future-will-be-like", true),
            ("cc", "-", true),
            ("cc", ".what-the-future-will-not-be-like", false),
            ("00", "-more", false),
            ("00", "-", false),
            ("ff", "", false),
        ] {
            let value = format!("{version}{}{behind}", &GOOD[2..]);
            let read = TraceParent::parse(&value);
            assert_eq!(read.is_some(), valid, "{value}");
            if let Some(read) = read {
                assert_eq!(read.as_str(), &value[..LENGTH]);
            }
        }
    }

    #[test]
    fn anything_else_is_absent() {
        let zeroes = |part: Range<usize>| {
            let mut text = GOOD.to_owned();
            text.replace_range(part.clone(), &"0".repeat(part.len()));
            text
        };
        let upper = GOOD.to_uppercase();
        for value in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}0"),
            &format!(" {GOOD}"),
            &format!("{GOOD} "),
            &format!("{GOOD},{GOOD}"),
            &zeroes(TRACE_ID),
            &zeroes(PARENT_ID),
            &upper,
            &GOOD.replace('-', "_"),
            &GOOD.replacen("4b", "4g", 1),
            &GOOD.replacen("00-", "0-0", 1),
            &GOOD.replacen("4bf", "4\u{e9}", 1),
        ] {
            assert_eq!(TraceParent::parse(value), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_can_stand_anywhere(value in "\\PC{0,70}|[0-9a-f-]{55}|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}") {
            if let Some(read) = TraceParent::parse(&value) {
                prop_assert!(read.as_str().bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'));
                prop_assert!(value.starts_with(read.as_str()) && read.trace_id().len() == 32);
            }
        }
    }
}
