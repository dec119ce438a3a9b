//! The name of one request: the client's own if it sent a sane one, else made here. It stands in the answer to errors
//! and writes, in the access log, and in the server's log wherever that tells of one request.

use std::cell::OnceCell;
use std::fmt::{self, Write};
use std::hash::{BuildHasher, RandomState};

/// The longest id that is taken from a client, in bytes.
pub const LONGEST: usize = 128;

/// An id that is made when it is first asked for: most requests never need one.
#[derive(Debug, Default)]
pub struct RequestId(OnceCell<Box<str>>);

impl RequestId {
    /// The id of a request with this `X-Request-Id`. What is not sane counts as absent.
    pub fn given(by_client: Option<&str>) -> Self {
        match by_client.filter(|id| is_sane(id)) {
            Some(id) => RequestId(OnceCell::from(Box::from(id))),
            None => RequestId::default(),
        }
    }

    /// The id, the same each time: up to [`LONGEST`] letters, digits and `-_.:/+=`.
    pub fn as_str(&self) -> &str {
        self.0.get_or_init(make)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An id that can stand in a log line and a header as it is.
fn is_sane(id: &str) -> bool {
    (1..=LONGEST).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte))
}

/// 64 random bits in hexadecimal.
fn make() -> Box<str> {
    let mut id = String::with_capacity(16);
    // Writing to a String can't fail.
    let _ = write!(id, "{:016x}", RandomState::new().hash_one(0_u8));
    id.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_any_other_is_replaced() {
        let longest = "a".repeat(LONGEST);
        for sane in ["a", "0Z-_.:/+=", &longest] {
            assert_eq!(RequestId::given(Some(sane)).as_str(), sane);
        }
        let too_long = "a".repeat(LONGEST + 1);
        for odd in ["", " ", "a b", "a\"b", "a\\", "\u{e9}", "a\n", &too_long] {
            let made = RequestId::given(Some(odd));
            assert_ne!(made.as_str(), odd);
            assert!(is_sane(made.as_str()), "{odd:?} became {made}");
        }
    }

    #[test]
    fn ids_differ_and_each_stays_the_same() {
        let (one, other) = (RequestId::default(), RequestId::given(None));
        assert_ne!(one.as_str(), other.as_str());
        assert_eq!(one.as_str(), one.to_string());
        assert_eq!(one.as_str().len(), 16);
    }
}
