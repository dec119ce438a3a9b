//! A PROXY protocol header: however it is cut it is read alike, and the address that comes out is the one that it spells.

#![no_main]

use std::net::IpAddr;

use canvas_cluster::http::proxy::{LONGEST, Malformed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match parse(input) {
        Ok(Some(header)) => {
            assert!(header.length <= input.len() && header.length <= LONGEST);
            let whole = &input[..header.length];
            assert_eq!(parse(whole), Ok(Some(header)), "bytes behind it changed it");
            for end in 0..header.length {
                assert_eq!(parse(&input[..end]), Ok(None), "cut at {end}");
            }
            assert_eq!(header.source, spelled(whole));
        }
        // What wants more is not full yet, and so was each of its beginnings.
        Ok(None) => {
            assert!(input.len() < LONGEST);
            for end in 0..input.len() {
                assert_eq!(parse(&input[..end]), Ok(None), "cut at {end}");
            }
        }
        // No more bytes can mend it.
        Err(Malformed) => {
            let more = [input, b"\r\n"].concat();
            assert_eq!(parse(&more), Err(Malformed));
        }
    }
});

/// The source in a header that was taken, read in another way.
fn spelled(header: &[u8]) -> Option<IpAddr> {
    let address = if header.starts_with(b"PROXY ") {
        let line = String::from_utf8_lossy(header);
        let mut words = line.split_whitespace().skip(1);
        match words.next() {
            Some("TCP4" | "TCP6") => words.next()?.parse().ok()?,
            _ => return None,
        }
    } else {
        let octets = |count: usize| header.get(16..16 + count);
        match (header[12], header[13]) {
            (0x21, 0x11) => IpAddr::from(<[u8; 4]>::try_from(octets(4)?).ok()?),
            (0x21, 0x21) => IpAddr::from(<[u8; 16]>::try_from(octets(16)?).ok()?),
            _ => return None,
        }
    };
    Some(address.to_canonical())
}
