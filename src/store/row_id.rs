//! The id of a row, as its store makes it: a number where the store numbers rows (SQLite, PostgreSQL), a text where whoever stores
//! a row names it. Used by every room that asks for a row; what no store can have made never becomes a [`RowId`].

use std::fmt;
use std::sync::Arc;

/// The id of a row, given by the store; all rows of one store have ids of one kind ([`IdKind`]). Ordered as the rows of a shoe are
/// answered: numbers by their size, texts by their bytes. Two words, and a number is copied without a look at the heap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowId {
    Number(i32),
    Text(TextId),
}

/// Which ids a store gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdKind {
    Number,
    Text,
}

/// An id that is a text: 1 to [`TextId::MAX_BYTES`] of the characters that a URL holds as they are (RFC 3986 section 2.3:
/// letters and digits of ASCII, `-`, `.`, `_` and `~`), of which the first is a letter or a digit. So it needs no escape in a path,
/// in JSON or in a log, and is neither a dot segment (`..`) nor one of the names that a store keeps for itself (`_design`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextId(Arc<str>);

impl TextId {
    /// The longest id, in bytes; a UUID has 36.
    pub const MAX_BYTES: usize = 64;

    /// The text as an id; `None` if it can't be one.
    pub fn parse(text: &str) -> Option<Self> {
        let begins_well = text.starts_with(|first: char| first.is_ascii_alphanumeric());
        let unreserved =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        (begins_well && text.len() <= Self::MAX_BYTES && text.bytes().all(unreserved))
            .then(|| TextId(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RowId {
    /// The number, in a store that numbers its rows.
    pub fn number(&self) -> Option<i32> {
        match self {
            RowId::Number(number) => Some(*number),
            RowId::Text(_) => None,
        }
    }

    /// The text, in a store whose ids are texts.
    pub fn text(&self) -> Option<&str> {
        match self {
            RowId::Number(_) => None,
            RowId::Text(text) => Some(text.as_str()),
        }
    }
}

impl From<i32> for RowId {
    fn from(number: i32) -> Self {
        RowId::Number(number)
    }
}

impl From<TextId> for RowId {
    fn from(text: TextId) -> Self {
        RowId::Text(text)
    }
}

/// As it stands in a path.
impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowId::Number(number) => number.fmt(f),
            RowId::Text(text) => text.fmt(f),
        }
    }
}

impl fmt::Display for TextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for TextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_an_id_if_a_path_holds_it_as_it_is() {
        let longest = "a".repeat(TextId::MAX_BYTES);
        for good in [
            "0",
            "7",
            "a",
            "018f4d1e-7b6a-7c3e-9f10-2a3b4c5d6e7f",
            "A.b_c~d-e",
            "a..b",
            &longest,
        ] {
            let id = TextId::parse(good).expect(good);
            assert_eq!((id.as_str(), id.to_string().as_str()), (good, good));
            assert_eq!(RowId::from(id).text(), Some(good));
        }
        let too_long = "a".repeat(TextId::MAX_BYTES + 1);
        for bad in [
            "",
            ".",
            "..",
            "-1",
            "_design",
            "_all_docs",
            "~a",
            " a",
            "a ",
            "a/b",
            "a%2Fb",
            "a?b",
            "a#b",
            "a:b",
            "a+b",
            "a\"b",
            "a\\b",
            "a\0",
            "a\n",
            "\u{e9}",
            "a\u{e9}",
            "a\u{661}",
            &too_long,
        ] {
            assert_eq!(TextId::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ids_are_small_and_in_order() {
        assert_eq!(size_of::<RowId>(), 2 * size_of::<usize>());
        let text = |text| RowId::from(TextId::parse(text).expect(text));
        assert!(RowId::from(-7) < RowId::from(2) && RowId::from(2) < RowId::from(10));
        assert!(text("10") < text("2") && text("A") < text("a"));
        assert_eq!(RowId::from(7).to_string(), "7");
        assert_ne!(RowId::from(7), text("7"));
        assert_eq!(
            (RowId::from(7).number(), RowId::from(7).text()),
            (Some(7), None)
        );
        assert_eq!((text("7").number(), text("7").text()), (None, Some("7")));
        assert_eq!(format!("{:?}", text("7")), "Text(\"7\")");
    }
}
