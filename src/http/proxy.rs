//! The PROXY protocol, versions 1 and 2: the header that a proxy writes before everything else of a connection, to say
//! whose it is (<https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>). Pure: bytes in, an address out. Called
//! by the connection, on listeners that are declared to be behind such a proxy and on no other: the header is
//! never guessed, as the protocol demands, since any client could write one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::memchr;

/// The longest header of version 1, CRLF included.
const V1_MOST: usize = 107;

/// What a header of version 2 begins with: bytes that no request begins with.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The fixed part of version 2: the signature, version and command, family, length.
const V2_FIXED: usize = 16;

/// The most bytes that may follow it: addresses take 216 at most, the rest is for extensions (TLVs).
const V2_MOST: usize = 2048;

/// The longest header that is read, in bytes.
pub const LONGEST: usize = V2_FIXED + V2_MOST;

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whose connection it is; `None` for the proxy's own (a health check) and for those of whom it says nothing that
    /// has an IP address: then it belongs to the peer.
    pub source: Option<IpAddr>,
    /// How many bytes it takes; the first request begins right behind.
    pub length: usize,
}

/// The bytes are not the beginning of a header that this server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads the header at the front of `input`; `None` while it is not whole. After [`LONGEST`] bytes it always is, or is
/// malformed. IPv4-mapped addresses come out as IPv4.
///
/// # Errors
/// [`Malformed`] at the first byte that can't be part of one, and for addresses, lengths, versions, commands and
/// families that the protocol doesn't know.
pub fn parse(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let header = match input.first() {
        None => None,
        Some(b'P') => parse_v1(input)?,
        Some(_) => parse_v2(input)?,
    };
    Ok(header.map(|header| Header {
        source: header.source.map(|address| address.to_canonical()),
        ..header
    }))
}

/// `PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n` (section 2.1).
fn parse_v1(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let start = b"PROXY ";
    let known = input.len().min(start.len());
    if input[..known] != start[..known] {
        return Err(Malformed);
    }
    let window = &input[..input.len().min(V1_MOST)];
    let Some(end) = memchr(b'\r', window) else {
        return match window.len() < V1_MOST {
            true => Ok(None),
            false => Err(Malformed),
        };
    };
    match window.get(end + 1) {
        None if end + 1 < V1_MOST => return Ok(None),
        Some(b'\n') => {}
        _ => return Err(Malformed),
    }
    let line = window.get(start.len()..end).ok_or(Malformed)?;
    let line = str::from_utf8(line).map_err(|_| Malformed)?;
    let mut words = line.split(' ');
    let family = words.next().ok_or(Malformed)?;
    // What stands behind UNKNOWN is to be ignored.
    let source = match family {
        "UNKNOWN" => None,
        "TCP4" => Some(parse_v1_addresses::<Ipv4Addr>(words)?.into()),
        "TCP6" => Some(parse_v1_addresses::<Ipv6Addr>(words)?.into()),
        _ => return Err(Malformed),
    };
    Ok(Some(Header {
        source,
        length: end + 2,
    }))
}

/// Source, destination and their ports; nothing missing and nothing more.
fn parse_v1_addresses<'w, A: std::str::FromStr>(
    mut words: impl Iterator<Item = &'w str>,
) -> Result<A, Malformed> {
    let mut word = || words.next().ok_or(Malformed);
    let source = word()?.parse().map_err(|_| Malformed)?;
    let _: A = word()?.parse().map_err(|_| Malformed)?;
    check_port(word()?)?;
    check_port(word()?)?;
    match words.next() {
        None => Ok(source),
        Some(_) => Err(Malformed),
    }
}

/// A port has no sign and no leading zeros.
fn check_port(word: &str) -> Result<(), Malformed> {
    let plain =
        word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    match plain && word.parse::<u16>().is_ok() {
        true => Ok(()),
        false => Err(Malformed),
    }
}

/// The binary header (section 2.2).
fn parse_v2(input: &[u8]) -> Result<Option<Header>, Malformed> {
    let known = input.len().min(V2_SIGNATURE.len());
    if input[..known] != V2_SIGNATURE[..known] {
        return Err(Malformed);
    }
    // Each byte is judged when it comes: what can't become a header is not waited for.
    let local = match input.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(Malformed),
    };
    let family = match input.get(13) {
        None => return Ok(None),
        // A LOCAL connection's family is to be ignored.
        Some(_) if local => Family::Other,
        Some(0x11) => Family::Tcp4,
        Some(0x21) => Family::Tcp6,
        // Unspecified, UDP, Unix sockets: known, and nothing that a TCP client's address could be taken from.
        Some(0x00 | 0x12 | 0x22 | 0x31 | 0x32) => Family::Other,
        Some(_) => return Err(Malformed),
    };
    let Some(&[high, low]) = input
        .get(14..V2_FIXED)
        .and_then(|bytes| bytes.first_chunk())
    else {
        return Ok(None);
    };
    let follows = usize::from(u16::from_be_bytes([high, low]));
    // Two addresses and two ports.
    let least = match family {
        Family::Tcp4 => 12,
        Family::Tcp6 => 36,
        Family::Other => 0,
    };
    if !(least..=V2_MOST).contains(&follows) {
        return Err(Malformed);
    }
    let length = V2_FIXED + follows;
    let Some(block) = input.get(V2_FIXED..length) else {
        return Ok(None);
    };
    let source = match family {
        Family::Tcp4 => block.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        Family::Tcp6 => block.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        Family::Other => None,
    };
    Ok(Some(Header { source, length }))
}

/// What the addresses of version 2 are.
enum Family {
    Tcp4,
    Tcp6,
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header of version 2 with these addresses and extensions.
    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, block].concat()
    }

    fn v4_block() -> Vec<u8> {
        vec![192, 0, 2, 7, 192, 0, 2, 1, 0x12, 0x67, 0, 80]
    }

    fn v6_block(source: &str) -> Vec<u8> {
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        [&address(source)[..], &address("2001:db8::1"), &[0; 4]].concat()
    }

    /// Reads the header in every way to cut it, and with a request behind it.
    #[track_caller]
    fn read(header: &[u8]) -> Option<IpAddr> {
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(None), "cut at {end}");
        }
        let whole = parse(header).expect("a header").expect("a whole one");
        assert_eq!(whole.length, header.len());
        assert_eq!(
            parse(&[header, b"GET / HTTP/1.1\r\n"].concat()),
            Ok(Some(whole))
        );
        whole.source
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn version_1_is_read_however_it_is_cut() {
        assert_eq!(
            read(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n"),
            ip("192.0.2.7")
        );
        assert_eq!(
            read(b"PROXY TCP6 2001:db8::7 ::1 65535 0\r\n"),
            ip("2001:db8::7")
        );
        assert_eq!(
            read(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 1\r\n"),
            ip("192.0.2.7")
        );
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(read(b"PROXY UNKNOWN whatever  this is \xc3\xa9\r\n"), None);
        // The longest that the protocol knows, and one byte more.
        let longest = format!(
            "PROXY UNKNOWN {0} {0} 65535 65535\r\n",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        assert_eq!(longest.len(), V1_MOST);
        assert_eq!(read(longest.as_bytes()), None);
        let longer = longest.replace("UNKNOWN ", "UNKNOWN  ");
        assert_eq!(parse(longer.as_bytes()), Err(Malformed));
    }

    #[test]
    fn version_2_is_read_however_it_is_cut() {
        assert_eq!(read(&v2(0x21, 0x11, &v4_block())), ip("192.0.2.7"));
        assert_eq!(
            read(&v2(0x21, 0x21, &v6_block("2001:db8::7"))),
            ip("2001:db8::7")
        );
        assert_eq!(
            read(&v2(0x21, 0x21, &v6_block("::ffff:192.0.2.7"))),
            ip("192.0.2.7")
        );
        // Extensions are passed over.
        let extended = [v4_block(), vec![4, 0, 2, 1, 2]].concat();
        assert_eq!(read(&v2(0x21, 0x11, &extended)), ip("192.0.2.7"));
        let mut most = v4_block();
        most.resize(V2_MOST, 0);
        assert_eq!(read(&v2(0x21, 0x11, &most)), ip("192.0.2.7"));
        // The proxy's own connection, and addresses that are none of ours.
        assert_eq!(read(&v2(0x20, 0x00, &[])), None);
        assert_eq!(read(&v2(0x20, 0x11, &v4_block())), None);
        assert_eq!(read(&v2(0x20, 0xff, &[])), None);
        for family in [0x00, 0x12, 0x22, 0x31, 0x32] {
            assert_eq!(read(&v2(0x21, family, &[0; 216])), None, "{family:#x}");
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "POST / HTTP/1.1\r\n",
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY  TCP4 192.0.2.7 192.0.2.1 4711 80\r\n",
            "proxy TCP4 192.0.2.7 192.0.2.1 4711 80\r\n",
            "PROXY TCP5 192.0.2.7 192.0.2.1 4711 80\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4 2001:db8::7 192.0.2.1 4711 80\r\n",
            "PROXY TCP6 192.0.2.7 192.0.2.1 4711 80\r\n",
            "PROXY TCP4 192.0.2.7 2001:db8::7 4711 80\r\n",
            "PROXY TCP4 192.0.2.07 192.0.2.1 4711 80\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80 \r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80 1\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711  80\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 04711 80\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 +1 80\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 65536 80\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\rX",
            "\r\n\r\n\0\r\nQUIT\r",
            "\r\n\r\nGET / HTTP/1.1\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(Malformed), "{line:?}");
        }
        assert_eq!(
            parse(&[b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat()),
            Err(Malformed)
        );
        for (why, header) in [
            ("version 1 in binary", v2(0x11, 0x11, &v4_block())),
            ("an unknown command", v2(0x22, 0x11, &v4_block())),
            ("an unknown family", v2(0x21, 0x41, &v4_block())),
            ("an unknown transport", v2(0x21, 0x13, &v4_block())),
            ("half an IPv4 block", v2(0x21, 0x11, &v4_block()[..11])),
            ("half an IPv6 block", v2(0x21, 0x21, &v6_block("::1")[..35])),
            ("more than is read", v2(0x21, 0x11, &[0; V2_MOST + 1])),
        ] {
            assert_eq!(parse(&header[..V2_FIXED]), Err(Malformed), "{why}");
        }
    }
}
