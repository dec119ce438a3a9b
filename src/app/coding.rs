//! Which content coding a client wants (RFC 9110 section 12.5.3). Called by `content`. Pure.

/// A coding in which content may be sent, the one of least preference first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coding {
    /// As it is.
    Identity,
    Gzip,
    Brotli,
}

impl Coding {
    /// As `Content-Encoding` has it.
    pub fn token(self) -> Option<&'static str> {
        match self {
            Coding::Identity => None,
            Coding::Gzip => Some("gzip"),
            Coding::Brotli => Some("br"),
        }
    }

    fn is_named(self, name: &[u8]) -> bool {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match self {
            Coding::Identity => is("identity"),
            // Section 8.4.1.3: x-gzip is the same.
            Coding::Gzip => is("gzip") || is("x-gzip"),
            Coding::Brotli => is("br"),
        }
    }
}

/// A weight in thousandths.
type Weight = u16;

/// What a client that says nothing of a coding thinks of the content as it is: it takes that, but likes whatever it names more.
const UNNAMED: Weight = 1;

/// The coding of those offered, or none, that these lines of Accept-Encoding weigh most; of equal ones the smaller. A client that
/// takes nothing of all that gets the content as it is, for it may know what to do with it.
pub fn choose<'l>(
    lines: impl Iterator<Item = &'l [u8]> + Clone,
    offered: impl Iterator<Item = Coding>,
) -> Coding {
    offered
        .chain([Coding::Identity])
        .map(|coding| (weight(lines.clone(), coding), coding))
        .filter(|(weight, _)| *weight > 0)
        .max()
        .map_or(Coding::Identity, |(_, coding)| coding)
}

/// What the lines say of a coding: by its name, else by `*`, else nothing.
fn weight<'l>(lines: impl Iterator<Item = &'l [u8]>, coding: Coding) -> Weight {
    let mut rest = None;
    let elements = lines.flat_map(|line| line.split(|byte| *byte == b','));
    // An element that can't be read is passed by: a client that errs in one did not mean the others less.
    for (name, weight) in elements.filter_map(read) {
        if coding.is_named(name) {
            return weight;
        }
        if name == b"*" {
            rest = rest.or(Some(weight));
        }
    }
    match (rest, coding) {
        (Some(weight), _) => weight,
        (None, Coding::Identity) => UNNAMED,
        (None, _) => 0,
    }
}

/// `NAME` or `NAME;q=WEIGHT`.
fn read(element: &[u8]) -> Option<(&[u8], Weight)> {
    let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().filter(|name| !name.is_empty())?;
    let weight = match (parts.next(), parts.next()) {
        (None, _) => 1000,
        (Some([b'q' | b'Q', b'=', value @ ..]), None) => read_weight(value)?,
        _ => return None,
    };
    Some((name, weight))
}

/// A `qvalue` (section 12.4.2): 0 to 1 with three digits at most.
fn read_weight(value: &[u8]) -> Option<Weight> {
    let (whole, fraction) = match value {
        [whole @ (b'0' | b'1')] => (*whole, &[][..]),
        [whole @ (b'0' | b'1'), b'.', fraction @ ..] if fraction.len() <= 3 => (*whole, fraction),
        _ => return None,
    };
    let mut weight = Weight::from(whole - b'0');
    for place in 0..3 {
        let digit = fraction.get(place).unwrap_or(&b'0');
        if !digit.is_ascii_digit() {
            return None;
        }
        weight = weight * 10 + Weight::from(digit - b'0');
    }
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chosen(lines: &[&str]) -> Coding {
        let lines = lines.iter().map(|line| line.as_bytes());
        choose(lines, [Coding::Brotli, Coding::Gzip].into_iter())
    }

    #[test]
    fn what_is_weighed_most_is_chosen() {
        use Coding::{Brotli, Gzip, Identity};
        for (lines, coding) in [
            (&[][..], Identity),
            (&[""], Identity),
            (&["gzip, deflate, br, zstd"], Brotli),
            (&["br;q=0.5, gzip"], Gzip),
            (&["br;q=0.5", "gzip;q=0.4"], Brotli),
            (&["GZIP"], Gzip),
            (&["x-gzip"], Gzip),
            (&["deflate"], Identity),
            (&["*"], Brotli),
            (&["*;q=0.1"], Brotli),
            (&["br;q=0, *"], Gzip),
            (&["identity;q=1, *;q=0"], Identity),
            (&["identity, gzip;q=0.5"], Identity),
            (&["gzip;q=0.001"], Gzip),
            (&["gzip;q=0"], Identity),
            (&["gzip ; q=0.2 , br ; Q=0.3"], Brotli),
            (&["*;q=0"], Identity),
            (&["identity;q=0"], Identity),
            // Not weights: the element is none.
            (&["br;q=1.1, gzip;q=0.1"], Gzip),
            (&["br;q=0.1234, gzip;q=0.1"], Gzip),
            (&["br;q=-1, gzip;q=0.1"], Gzip),
            (&["br;level=3, gzip"], Gzip),
            (&["br;q=, gzip"], Gzip),
            (&[";q=1,,gzip"], Gzip),
        ] {
            assert_eq!(chosen(lines), coding, "{lines:?}");
        }
    }

    #[test]
    fn only_what_is_offered_is_chosen() {
        let lines = || [&b"br, gzip;q=0.5"[..]].into_iter();
        assert_eq!(choose(lines(), [Coding::Gzip].into_iter()), Coding::Gzip);
        assert_eq!(choose(lines(), [].into_iter()), Coding::Identity);
    }

    proptest! {
        /// By a reading of its own: every weight in thousandths, the largest wins, of equal ones the smaller content.
        #[test]
        fn weights_are_compared_as_numbers(br in 0..=1000u16, gzip in 0..=1000u16, identity in 0..=1000u16) {
            let q = |weight: u16| format!("{}.{:03}", weight / 1000, weight % 1000);
            let line = format!("gzip;q={}, identity;q={},br;q={}", q(gzip), q(identity), q(br));
            let most = br.max(gzip).max(identity);
            let wanted = match most {
                0 => Coding::Identity,
                _ if br == most => Coding::Brotli,
                _ if gzip == most => Coding::Gzip,
                _ => Coding::Identity,
            };
            prop_assert_eq!(chosen(&[&line]), wanted, "{}", line);
        }

        #[test]
        fn whatever_is_sent_is_read(line in "([a-z*;=,q01. -]|br|gzip|;q=){0,20}") {
            chosen(&[&line]);
        }
    }
}
