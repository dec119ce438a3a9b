//! Who asks, when a proxy asks for them. Pure: the peer's address and the fields of a head in, one address out. Called
//! when something wants to know (the access log), not for each request.
//!
//! A field is worth as much as who wrote it. So nothing is believed unless the peer is a trusted proxy, and then the
//! chain is walked from its end, which the nearest proxy wrote, for as long as those in it are trusted too: the first
//! who is not is the client, whatever stands before. What can't be read ends the walk at the last one that could.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::head::Head;

/// The longest chain that is walked. A longer one was made up.
const MOST_HOPS: usize = 32;

/// The networks whose word is taken.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts these; networks of IPv4-mapped addresses must have been written as IPv4.
    pub fn new(networks: Vec<IpNet>) -> Self {
        TrustedProxies(networks)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The address of the client whose request `peer` has sent: `peer` itself unless it is trusted. Of the two fields
    /// X-Forwarded-For counts; Forwarded (RFC 7239) only where there is no X-Forwarded-For, since a proxy that
    /// writes the one may let the other pass as the client made it up.
    pub fn client(&self, peer: IpAddr, head: &Head<'_>) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let lines = |name| head.values(name).collect::<Vec<_>>();
        match (head.x_forwarded_for, head.forwarded) {
            (Some(_), _) => self.walk(peer, from_the_right(&lines("X-Forwarded-For"))),
            (None, Some(_)) => self.walk(peer, forwarded_from_the_right(&lines("Forwarded"))),
            (None, None) => peer,
        }
    }

    /// `hops` begins with the nearest; `None` is one that can't be read.
    fn walk(&self, peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut last = peer;
        for hop in hops.take(MOST_HOPS) {
            match hop {
                Some(address) if self.trusts(address) => last = address,
                Some(address) => return address,
                None => return last,
            }
        }
        last
    }
}

/// The hops of X-Forwarded-For, whose lines are one list. Empty elements are no hops (RFC 9110 section 5.6.1.2).
fn from_the_right(lines: &[&[u8]]) -> impl Iterator<Item = Option<IpAddr>> {
    lines
        .iter()
        .rev()
        .flat_map(|line| line.rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
        .map(node)
}

/// The hops of Forwarded. Quotes can only be told from the left: one that never ends makes what is behind it, the
/// nearest proxy's own words, one element that can't be read.
fn forwarded_from_the_right(lines: &[&[u8]]) -> impl Iterator<Item = Option<IpAddr>> {
    lines.iter().rev().flat_map(|line| {
        let mut last = VecDeque::with_capacity(MOST_HOPS);
        for element in split_unquoted(line, b',').map(<[u8]>::trim_ascii) {
            if element.is_empty() {
                continue;
            }
            if last.len() == MOST_HOPS {
                last.pop_front();
            }
            last.push_back(element);
        }
        last.into_iter().rev().map(forwarded_for)
    })
}

/// The address in the one `for` of an element (RFC 7239 section 4).
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    for pair in split_unquoted(element, b';').map(<[u8]>::trim_ascii) {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (&pair[..at], &pair[at + 1..]);
        if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
    }
    let value = found?;
    let plain = |text: &[u8]| !text.iter().any(|byte| matches!(byte, b'"' | b'\\'));
    match value {
        [b'"', inner @ .., b'"'] if plain(inner) => node(inner),
        _ if plain(value) => node(value),
        _ => None,
    }
}

/// Divides at a separator that does not stand in a quoted string (RFC 9110 section 5.6.4).
fn split_unquoted(bytes: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    bytes.split(move |byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => return *byte == separator && !quoted,
        }
        false
    })
}

/// The address of a node: bare, in brackets, with a port. `None` for `unknown`, `_hidden` and whatever else.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let address = if let Ok(address) = text.parse::<IpAddr>() {
        address
    } else if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() {
            check_port(port.strip_prefix(':')?)?;
        }
        address.parse::<Ipv6Addr>().ok()?.into()
    } else {
        let (address, port) = text.split_once(':')?;
        check_port(port)?;
        address.parse::<Ipv4Addr>().ok()?.into()
    };
    Some(address.to_canonical())
}

/// A port, or one that the proxy hides behind a word (RFC 7239 section 6).
fn check_port(port: &str) -> Option<()> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good = match port.strip_prefix('_') {
        Some(hidden) => !hidden.is_empty() && hidden.chars().all(word),
        None => {
            (1..=5).contains(&port.len())
                && port.bytes().all(|b| b.is_ascii_digit())
                && port.parse::<u16>().is_ok()
        }
    };
    good.then_some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::head;
    use crate::http::limits::Limits;

    const PEER: &str = "10.0.0.1";

    fn trusted() -> TrustedProxies {
        let networks = ["10.0.0.0/8", "2001:db8:a::/48"];
        TrustedProxies::new(networks.map(|text| text.parse().unwrap()).to_vec())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn client_of(peer: &str, fields: &[u8]) -> IpAddr {
        let text = [b"GET / HTTP/1.1\r\nHost: h\r\n", fields, b"\r\n"].concat();
        let head = head::parse(&text, &Limits::default()).expect("a head");
        trusted().client(ip(peer), &head)
    }

    #[test]
    fn the_chain_is_walked_from_its_end() {
        for (fields, client) in [
            ("", PEER),
            ("X-Forwarded-For: 192.0.2.1\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\n", "192.0.2.1"),
            (
                "X-Forwarded-For: 6.6.6.6,192.0.2.1 ,10.1.1.1,\t10.2.2.2\r\n",
                "192.0.2.1",
            ),
            (
                "X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nX-Forwarded-For: 10.1.1.1\r\n",
                "192.0.2.1",
            ),
            (
                "X-Forwarded-For: 6.6.6.6\r\nA: b\r\nx-forwarded-for: 192.0.2.1\r\n",
                "192.0.2.1",
            ),
            ("X-Forwarded-For: 10.3.3.3, 10.1.1.1\r\n", "10.3.3.3"),
            // Ports, as some balancers add them, and every way to write IPv6.
            ("X-Forwarded-For: 192.0.2.1:443\r\n", "192.0.2.1"),
            ("X-Forwarded-For: 2001:db8::7\r\n", "2001:db8::7"),
            ("X-Forwarded-For: [2001:db8::7]\r\n", "2001:db8::7"),
            (
                "X-Forwarded-For: [2001:db8::7]:443, 2001:db8:a::1\r\n",
                "2001:db8::7",
            ),
            ("X-Forwarded-For: ::ffff:192.0.2.1\r\n", "192.0.2.1"),
            (
                "X-Forwarded-For: 192.0.2.1, ::ffff:10.1.1.1\r\n",
                "192.0.2.1",
            ),
            // Empty elements are no hops.
            (
                "X-Forwarded-For: 192.0.2.1, , 10.1.1.1,\r\nX-Forwarded-For:\r\n",
                "192.0.2.1",
            ),
            // What can't be read ends the walk at the last one that could.
            ("X-Forwarded-For: unknown\r\n", PEER),
            ("X-Forwarded-For: 192.0.2.1, unknown\r\n", PEER),
            (
                "X-Forwarded-For: 192.0.2.1, nonsense, 10.1.1.1\r\n",
                "10.1.1.1",
            ),
            ("X-Forwarded-For: 192.0.2.1:99999\r\n", PEER),
            ("X-Forwarded-For: 192.0.2.1:\r\n", PEER),
            ("X-Forwarded-For: 192.0.2.1:+80\r\n", PEER),
            ("X-Forwarded-For: [192.0.2.1]\r\n", PEER),
            ("X-Forwarded-For: [2001:db8::7\r\n", PEER),
            ("X-Forwarded-For: [2001:db8::7]443\r\n", PEER),
            ("X-Forwarded-For: fe80::1%eth0\r\n", PEER),
            ("X-Forwarded-For: 192.0.2.01\r\n", PEER),
            ("X-Forwarded-For: 192.0.2\r\n", PEER),
            ("X-Forwarded-For: \"192.0.2.1\"\r\n", PEER),
        ] {
            assert_eq!(client_of(PEER, fields.as_bytes()), ip(client), "{fields:?}");
        }
    }

    #[test]
    fn forwarded_is_read_where_there_is_no_x_forwarded_for() {
        for (fields, client) in [
            ("Forwarded: for=192.0.2.1\r\n", "192.0.2.1"),
            (
                "Forwarded: For=192.0.2.1;proto=https;by=10.0.0.1\r\n",
                "192.0.2.1",
            ),
            (
                "Forwarded: by=10.0.0.1; host=\"a;for=6.6.6.6,\"; for=192.0.2.1\r\n",
                "192.0.2.1",
            ),
            ("Forwarded: for=\"192.0.2.1:4711\"\r\n", "192.0.2.1"),
            ("Forwarded: for=\"192.0.2.1:_hidden\"\r\n", "192.0.2.1"),
            ("Forwarded: for=\"[2001:db8::7]\"\r\n", "2001:db8::7"),
            ("Forwarded: for=\"[2001:db8::7]:4711\"\r\n", "2001:db8::7"),
            (
                "Forwarded: for=6.6.6.6, for=192.0.2.1, for=10.1.1.1\r\n",
                "192.0.2.1",
            ),
            (
                "Forwarded: for=6.6.6.6\r\nForwarded: for=192.0.2.1\r\nForwarded: for=10.1.1.1\r\n",
                "192.0.2.1",
            ),
            (
                "Forwarded: for=192.0.2.1, for=\"[2001:db8:a::1]\"\r\n",
                "192.0.2.1",
            ),
            (
                "Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\n",
                "192.0.2.2",
            ),
            ("Forwarded: for=192.0.2.1\r\nX-Forwarded-For:\r\n", PEER),
            ("Forwarded: for=192.0.2.1, for=unknown\r\n", PEER),
            (
                "Forwarded: for=192.0.2.1, for=_hidden, for=10.1.1.1\r\n",
                "10.1.1.1",
            ),
            ("Forwarded: for=192.0.2.1, proto=https\r\n", PEER),
            ("Forwarded: for=192.0.2.1;for=192.0.2.2\r\n", PEER),
            ("Forwarded: for=\r\n", PEER),
            ("Forwarded: for\r\n", PEER),
            ("Forwarded: for=\"\"\r\n", PEER),
            ("Forwarded: for=\"192.0.2.\\1\"\r\n", PEER),
            // A quote that a client opens and leaves so can hide the proxy's words, but put none in their place.
            ("Forwarded: for=6.6.6.6, for=\", for=192.0.2.1\r\n", PEER),
            (
                "Forwarded: for=6.6.6.6, x=\"\\, for=\"192.0.2.1\"\r\n",
                PEER,
            ),
        ] {
            assert_eq!(client_of(PEER, fields.as_bytes()), ip(client), "{fields:?}");
        }
    }

    #[test]
    fn a_peer_that_is_not_trusted_is_the_client_whatever_it_says() {
        for peer in ["11.0.0.1", "2001:db8:b::1", "::ffff:11.0.0.1"] {
            for name in ["X-Forwarded-For: ", "Forwarded: for="] {
                let fields = format!("{name}192.0.2.1\r\n");
                assert_eq!(
                    client_of(peer, fields.as_bytes()),
                    ip(peer).to_canonical(),
                    "{peer}"
                );
            }
        }
        let mapped = client_of("::ffff:10.0.0.1", b"X-Forwarded-For: 192.0.2.1\r\n");
        assert_eq!(mapped, ip("192.0.2.1"));
    }

    #[test]
    fn a_chain_without_end_is_walked_no_further_than_the_bound() {
        let chain = |hops: usize| {
            let proxies = vec!["10.1.1.1"; hops].join(",");
            (
                format!("X-Forwarded-For: 192.0.2.1,{proxies}\r\n"),
                format!(
                    "Forwarded: for=192.0.2.1,for={}\r\n",
                    proxies.replace(',', ",for=")
                ),
            )
        };
        for (hops, client) in [(MOST_HOPS - 1, "192.0.2.1"), (MOST_HOPS, "10.1.1.1")] {
            let (x_forwarded_for, forwarded) = chain(hops);
            assert_eq!(client_of(PEER, x_forwarded_for.as_bytes()), ip(client));
            assert_eq!(client_of(PEER, forwarded.as_bytes()), ip(client));
        }
    }

    /// Every address that stands anywhere in a text.
    fn addresses_in(text: &[u8]) -> Vec<IpAddr> {
        String::from_utf8_lossy(text)
            .split(|c: char| !(c.is_ascii_hexdigit() || c == ':' || c == '.'))
            .flat_map(|word| {
                [
                    Some(word),
                    word.rsplit_once(':').map(|(address, _)| address),
                ]
            })
            .flatten()
            .filter_map(|word| word.parse::<IpAddr>().ok())
            .map(|address| address.to_canonical())
            .collect()
    }

    /// Pieces of which the fields are made, and noise.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            prop::sample::select(vec![
                "10.1.1.1",
                "192.0.2.1",
                "6.6.6.6:80",
                "2001:db8::7",
                "[2001:db8:a::1]",
                "[::1]:1",
                "for=",
                "FOR=\"",
                "proto=",
                ",",
                ", ",
                ";",
                "\"",
                "\\",
                "unknown",
                "_x",
                ":",
                "]",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            prop::collection::vec(
                any::<u8>().prop_filter("a field's byte", |byte| head::is_value_byte(*byte)),
                0..4
            ),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_client_is_the_peer_or_an_address_of_the_fields(
            name in prop::sample::select(vec!["X-Forwarded-For: ", "Forwarded: "]),
            lines in prop::collection::vec(value(), 0..4),
            trusted in any::<bool>(),
        ) {
            let mut fields = Vec::new();
            for line in &lines {
                fields.extend([name.as_bytes(), line, b"\r\n"].concat());
            }
            let peer = if trusted { PEER } else { "11.0.0.1" };
            let client = client_of(peer, &fields);
            let known = lines.iter().any(|line| addresses_in(line).contains(&client));
            prop_assert!(client == ip(peer) || (trusted && known), "{client} is not in {lines:?}");
        }

        #[test]
        fn a_client_cannot_get_past_what_its_proxy_appends(sent in value(), own_line in any::<bool>()) {
            let join = |between: &str, said: &str| match own_line {
                true => [b"", &sent[..], b"\r\n", between.as_bytes(), said.as_bytes(), b"\r\n"].concat(),
                false => [&sent[..], b", ", said.as_bytes(), b"\r\n"].concat(),
            };
            let fields = [b"X-Forwarded-For: ", &join("X-Forwarded-For: ", "198.51.100.7")[..]].concat();
            prop_assert_eq!(client_of(PEER, &fields), ip("198.51.100.7"));
            let fields = [b"Forwarded: ", &join("Forwarded: ", "for=198.51.100.7")[..]].concat();
            let client = client_of(PEER, &fields);
            let hidden = !own_line && client == ip(PEER);
            prop_assert!(hidden || client == ip("198.51.100.7"), "{client}");
        }
    }
}
