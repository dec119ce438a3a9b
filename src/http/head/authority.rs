//! `uri-host [ ":" port ]`: the value of Host (RFC 9110 section 7.2) and the authority of a request-target.
//! Called by the request line and the fields; promises that what it passes can be put in a URL or a log.

use std::net::Ipv6Addr;

use super::request_line::table;

/// Whether this is a host that isn't empty, with or without a port. An IPv6 address stands in brackets and has no
/// zone; a name is any `reg-name` of RFC 3986. The port is at most 65535, and may be empty as in `host:`.
pub(super) fn is_valid(authority: &[u8]) -> bool {
    matches!(after_host(authority), Some(rest) if rest.is_empty() || is_port(rest))
}

/// The same for the authority-form of CONNECT, where the port must be there (RFC 9112 section 3.2.3).
pub(super) fn is_valid_with_port(authority: &[u8]) -> bool {
    matches!(after_host(authority), Some(rest) if rest.len() > 1 && is_port(rest))
}

fn after_host(authority: &[u8]) -> Option<&[u8]> {
    match authority {
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|&byte| byte == b']')?;
            let address = str::from_utf8(&rest[..end]).ok()?;
            address.parse::<Ipv6Addr>().ok().map(|_| &rest[end + 1..])
        }
        _ => after_name(authority).filter(|rest| rest.len() < authority.len()),
    }
}

fn after_name(authority: &[u8]) -> Option<&[u8]> {
    let mut rest = authority;
    while let Some(odd) = rest.iter().position(|&byte| !NAME_BYTES[usize::from(byte)]) {
        rest = match &rest[odd..] {
            [b'%', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                after
            }
            port @ [b':', ..] => return Some(port),
            _ => return None,
        };
    }
    Some(&[])
}

/// Whether this is `":" port`.
fn is_port(rest: &[u8]) -> bool {
    let add = |port: u16, digit: &u8| match digit {
        b'0'..=b'9' => port.checked_mul(10)?.checked_add(u16::from(digit - b'0')),
        _ => None,
    };
    matches!(rest, [b':', port @ ..] if port.iter().try_fold(0, add).is_some())
}

/// `unreserved` and `sub-delims` of RFC 3986; most requests bring such a name, so this is a table.
static NAME_BYTES: [bool; 256] = table(b"-._~!$&'()*+,;=");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "localhost",
            "localhost:8080",
            "a.example",
            "a_b.example",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:443",
            "host:",
            "[::ffff:1.2.3.4]:1",
            "x%20y",
            "xn--bcher-kva.example",
            "h:65535",
            "h:0",
            "(a)",
            "A",
        ] {
            assert!(is_valid(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a/b",
            "a?b",
            "a@b",
            "u:p@h",
            "h:x",
            "h:+1",
            "h:65536",
            "h:80:80",
            "[::1",
            "::1",
            "[::1]x",
            "[]",
            "[g::]",
            "[fe80::1%25eth0]",
            "[1.2.3.4]",
            "h%2",
            "h%zz",
            "h\u{e9}",
            "a\\b",
            "a\"b",
            "h:-1",
            "[::1]:99999",
            "a b:80",
            "h: 80",
        ] {
            assert!(!is_valid(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn connect_needs_a_port() {
        assert!(is_valid_with_port(b"h:443") && is_valid_with_port(b"[::1]:443"));
        for bad in ["h", "h:", "/", "", ":443", "[::1]", "[::1]:"] {
            assert!(!is_valid_with_port(bad.as_bytes()), "{bad}");
        }
    }
}
