//! How a value is written: durations, sizes, counts, switches, listen addresses. Called by `kind`, which checks
//! ranges and phrases refusals. Pure; whatever is read can be shown again in the same notation.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::Listen;
use super::secret::quote;

/// Units of a duration, the longest first, in milliseconds.
const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads `500ms`, `2s`, `1m30s`, `1h`; a bare number is seconds. Units go from long to short, each once.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if let Some(seconds) = count(text) {
        return Some(Duration::from_secs(u64::try_from(seconds).ok()?));
    }
    let mut units = TIME_UNITS.iter();
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (number, unit, tail) = split_unit(rest);
        let (_, length) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(u64::try_from(count(number)?).ok()?.checked_mul(*length)?)?;
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// `1m30s` → (`1`, `m`, `30s`).
fn split_unit(text: &str) -> (&str, &str, &str) {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let letters = rest
        .find(|c: char| c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(letters);
    (number, unit, tail)
}

/// Writes a duration the way [`duration`] reads it, to the millisecond.
pub(super) fn show_duration(time: Duration) -> String {
    let mut left = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut shown = String::new();
    for (unit, length) in TIME_UNITS {
        if left >= length {
            shown += &format!("{}{unit}", left / length);
            left %= length;
        }
    }
    if shown.is_empty() {
        "0s".to_owned()
    } else {
        shown
    }
}

/// Reads a number of bytes: `65536`, `64KiB`, `64k`, `1MiB`, `1m`. As in nginx `k` is 1024; `KB`, which some read
/// as 1000, is not taken.
pub(super) fn size(text: &str) -> Option<usize> {
    let (number, unit, tail) = split_unit(text);
    let factor: usize = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return None,
    };
    if !tail.is_empty() {
        return None;
    }
    count(number)?.checked_mul(factor)
}

/// Writes a size the way [`size`] reads it.
pub(super) fn show_size(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        b if b.is_multiple_of(1 << 20) => format!("{}MiB", b >> 20),
        b if b.is_multiple_of(1 << 10) => format!("{}KiB", b >> 10),
        b => b.to_string(),
    }
}

/// Reads a whole number: digits and nothing else.
pub(super) fn count(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Reads true/false, yes/no, 1/0 in any case.
pub(super) fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Some(true),
        "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// What stands before the path of a Unix socket where an address could stand.
pub(super) const UNIX: &str = "unix:";

/// What stands before an address whose connections begin with a PROXY header.
pub(super) const PROXIED: &str = "proxy+";

/// Reads addresses separated by commas, such as `127.0.0.1:1121,proxy+[::1]:1121`. Port 0 asks the kernel for a free
/// port and may be given more than once.
///
/// # Errors
/// A text that goes on from "`--listen`: ", with a hint at what was probably meant.
pub(super) fn listen(text: &str) -> Result<Vec<Listen>, String> {
    let mut addresses: Vec<Listen> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (part, proxied) = match part.strip_prefix(PROXIED) {
            Some(rest) => (rest, true),
            None => (part, false),
        };
        let address = address(part)?;
        // One address speaks one protocol.
        let given = |other: &Listen| other.address == address;
        if address.port() != 0 && addresses.iter().any(given) {
            return Err(format!("{address} is given twice"));
        }
        addresses.push(Listen { address, proxied });
    }
    Ok(addresses)
}

/// Reads one address, such as `127.0.0.1:1121`.
///
/// # Errors
/// As [`listen`].
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{} is not an address with a port{}",
            quote(text),
            hint(text)
        )
    })
}

fn hint(part: &str) -> String {
    if part.parse::<std::net::Ipv6Addr>().is_ok() {
        return format!(
            "; write an IPv6 address in brackets and add a port, such as [{part}]:1121"
        );
    }
    if part.parse::<IpAddr>().is_ok() {
        return format!("; add a port, such as {part}:1121");
    }
    let Some((host, port)) = part.rsplit_once(':') else {
        return match count(part) {
            Some(_) => format!(
                "; write 127.0.0.1:{part} for this host only, 0.0.0.0:{part} for every address"
            ),
            None => "; write one such as 127.0.0.1:1121 or [::1]:1121".to_owned(),
        };
    };
    if port.parse::<u16>().is_err() {
        return "; a port is a number from 0 to 65535".to_owned();
    }
    match host {
        "" | "*" => format!("; for every address write 0.0.0.0:{port} or [::]:{port}"),
        "localhost" => format!("; localhost is a name, write 127.0.0.1:{port} or [::1]:{port}"),
        _ if host.parse::<std::net::Ipv6Addr>().is_ok() => {
            format!("; write an IPv6 address in brackets, such as [{host}]:{port}")
        }
        _ => "; names are not looked up, write the address itself".to_owned(),
    }
}

/// Whether only this host can reach the address: 127.0.0.0/8, ::1 and ::ffff:127.0.0.0/104.
pub(super) fn is_loopback(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// A network in CIDR notation (RFC 4632, RFC 4291 section 2.3), or one address. IPv4-mapped ones are written as IPv4,
/// as all addresses are that they are compared with.
pub(super) fn network(text: &str) -> Option<IpNet> {
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    let mapped = match (network.addr().to_canonical(), network) {
        (IpAddr::V4(address), IpNet::V6(network)) => network
            .prefix_len()
            .checked_sub(96)
            .and_then(|prefix| IpNet::new(address.into(), prefix).ok()),
        _ => None,
    };
    Some(mapped.unwrap_or(network).trunc())
}

/// An origin as browsers send it (RFC 6454 section 6.2): scheme, host in lower case, and a port unless it is the
/// scheme's own. `*` stands for all.
pub(super) fn origin(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b);
    (!host.is_empty() && host.bytes().all(plain)).then(|| text.to_owned())
}

/// Whose pages may embed ours (CSP level 3, section 6.4.2): origins and `self`, or `*` or `none` alone. The words may have the
/// quotes that they have in the policy itself.
pub(super) fn ancestors(text: &str) -> Option<Vec<String>> {
    let one = |part: &str| match part {
        "self" | "'self'" => Some("self".to_owned()),
        "none" | "'none'" => Some("none".to_owned()),
        _ => origin(part),
    };
    let ancestors: Vec<String> = text
        .split(',')
        .map(|part| one(part.trim()))
        .collect::<Option<_>>()?;
    let alone = |ancestor: &String| ancestor == "*" || ancestor == "none";
    (ancestors.len() == 1 || !ancestors.iter().any(alone)).then_some(ancestors)
}

/// A token as loader.io gives them.
pub(super) fn loaderio_token(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("loaderio-")?;
    let good = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    ((1..=64).contains(&digits.len()) && digits.bytes().all(good)).then_some(text)
}

/// The name of a user or group, as useradd(8) bounds it and getpwnam(3) can be asked for.
pub(super) fn name(text: &str) -> Option<&str> {
    let good = |b: u8| b.is_ascii_graphic() && !b":,/".contains(&b);
    let bounded = (1..=64).contains(&text.len());
    (bounded && !text.starts_with('-') && text.bytes().all(good)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_shown() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("::1", "::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            let read = network(text).map(|network| network.to_string());
            assert_eq!(read.as_deref(), Some(shown), "{text}");
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "localhost",
            "[::1]",
            "10.0.0.1:80",
            "10.0.0.0/",
            "/8",
        ] {
            assert_eq!(network(bad), None, "{bad}");
        }
    }

    #[test]
    fn origins_are_what_browsers_send() {
        for good in [
            "*",
            "https://shop.example",
            "http://localhost:3000",
            "http://[::1]:8080",
        ] {
            assert_eq!(origin(good).as_deref(), Some(good));
        }
        for bad in [
            "",
            "shop.example",
            "https://",
            "https://Shop.example",
            "https://a/",
            "ftp://a",
            "null",
        ] {
            assert_eq!(origin(bad), None, "{bad}");
        }
    }

    #[test]
    fn ancestors_are_origins_and_words_that_do_not_contradict() {
        let read = |text: &str| ancestors(text).map(|ancestors| ancestors.join(" "));
        for (text, shown) in [
            ("self", "self"),
            ("'self'", "self"),
            ("none", "none"),
            ("*", "*"),
            (
                "self, https://shop.example,http://localhost:3000",
                "self https://shop.example http://localhost:3000",
            ),
        ] {
            assert_eq!(read(text).as_deref(), Some(shown), "{text}");
        }
        for bad in [
            "",
            "self,",
            "*,self",
            "self,none",
            "none,none",
            "shop.example",
            "https://shop.example; script-src *",
            "https://shop.example/page",
            "Self",
            "'strict-dynamic'",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn tokens_of_loader_io_are_hexadecimal() {
        for good in ["loaderio-0", "loaderio-0123456789abcdef0123456789abcdef"] {
            assert_eq!(loaderio_token(good), Some(good));
        }
        let long = format!("loaderio-{}", "a".repeat(65));
        for bad in [
            "",
            "loaderio-",
            "loaderio-A",
            "loaderio-x",
            "loaderio-../a",
            "0123",
            &long,
        ] {
            assert_eq!(loaderio_token(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_read_and_shown() {
        for (text, ms, shown) in [
            ("500ms", 500, "500ms"),
            ("2s", 2_000, "2s"),
            ("2", 2_000, "2s"),
            ("90", 90_000, "1m30s"),
            ("1m30s", 90_000, "1m30s"),
            ("1h", 3_600_000, "1h"),
            ("1d", 86_400_000, "1d"),
            ("1s500ms", 1_500, "1s500ms"),
            ("0", 0, "0s"),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
            assert_eq!(show_duration(Duration::from_millis(ms)), shown);
        }
        for bad in [
            "",
            "s",
            "1.5s",
            "-1s",
            "1 s",
            "30s1m",
            "1s1s",
            "1x",
            "1m30",
            "99999999999999999999",
            "99999999999999999d",
            "٣s",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("64KiB", 65_536, "64KiB"),
            ("64k", 65_536, "64KiB"),
            ("65536", 65_536, "64KiB"),
            ("1m", 1 << 20, "1MiB"),
            ("1MiB", 1 << 20, "1MiB"),
            ("1000B", 1000, "1000"),
            ("0", 0, "0"),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
            assert_eq!(show_size(bytes), shown);
        }
        for bad in [
            "",
            "k",
            "1KB",
            "1.5k",
            "-1",
            "1k1",
            "99999999999999999999",
            "99999999999999g",
        ] {
            assert_eq!(size(bad), None, "{bad}");
        }
    }

    #[test]
    fn listen_addresses_are_read() {
        let two = listen("127.0.0.1:1121, [::1]:0").unwrap();
        let plain = |text: &str| Listen {
            address: text.parse().unwrap(),
            proxied: false,
        };
        assert_eq!(two, [plain("127.0.0.1:1121"), plain("[::1]:0")]);
        let mixed = listen("proxy+127.0.0.1:0,127.0.0.1:0,proxy+[::1]:1121").unwrap();
        assert_eq!(
            mixed.iter().map(|l| l.proxied).collect::<Vec<_>>(),
            [true, false, true]
        );
        assert_eq!(mixed[2].to_string(), "proxy+[::1]:1121");
        assert_eq!(listen("127.0.0.1:0,127.0.0.1:0").unwrap().len(), 2);
        for (bad, says) in [
            ("localhost:80", "write 127.0.0.1:80 or [::1]:80"),
            ("example.com:80", "names are not looked up"),
            ("::1:80", "brackets"),
            ("::1", "[::1]:1121"),
            ("0.0.0.0", "0.0.0.0:1121"),
            ("8080", "127.0.0.1:8080"),
            (":80", "0.0.0.0:80"),
            ("*:80", "[::]:80"),
            ("1.2.3.4:99999", "65535"),
            ("", "is not an address"),
            ("127.0.0.1:1,", "is not an address"),
            ("1.1.1.1:1,1.1.1.1:1", "twice"),
            ("1.1.1.1:1,proxy+1.1.1.1:1", "twice"),
            ("proxy+localhost:80", "localhost is a name"),
            ("proxy+", "is not an address"),
            ("tls+1.1.1.1:1", "is not an address"),
        ] {
            let error = listen(bad).unwrap_err();
            assert!(error.contains(says), "{bad}: {error}");
        }
    }

    #[test]
    fn loopback_is_what_only_this_host_can_reach() {
        for (address, loopback) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("[::ffff:10.0.0.1]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(
                is_loopback(&address.parse().unwrap()),
                loopback,
                "{address}"
            );
        }
    }

    #[test]
    fn switches_and_counts_are_read() {
        assert_eq!(
            (switch("YES"), switch("0"), switch("on"), switch("")),
            (Some(true), Some(false), None, None)
        );
        assert_eq!(
            (count("12"), count("+1"), count("0x1"), count("")),
            (Some(12), None, None, None)
        );
    }
}
