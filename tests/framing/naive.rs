//! A second parser, for tests only: the grammar of RFC 9112 read off the page, with strings, splits and heaps of
//! allocation, and on purpose nothing like the one it judges. It knows no limits and never refuses early.
//! Shared by the property tests and the fuzz targets.

use crate::drive::{Message, Reading};
use canvas_cluster::http::head::Refusal;

/// How the naive parser ends a stream.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Refused,
    Incomplete,
}
use End::{Incomplete, Refused};

/// Asserts that `reading` of `bytes` is how the naive parser reads them: every message accepted by either is
/// framed alike by both, except that limits may end the reading early.
pub fn agree(reading: &Reading, bytes: &[u8]) {
    // Each byte becomes the character of the same number, so that the grammar can be written on text.
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let (messages, end) = read(&text);
    let seen = reading.messages.len();
    assert_eq!(
        reading.messages,
        messages[..seen.min(messages.len())],
        "messages, then naive {end:?}"
    );
    match reading.refusal {
        Some(Refusal::RequestLineTooLong | Refusal::HeadTooLarge | Refusal::TooManyFields) => {}
        Some(Refusal::BodyTooLarge | Refusal::ChunkOverhead) => {}
        Some(early) => assert_eq!(
            messages.len(),
            seen,
            "refused ({early:?}) what the naive parser takes"
        ),
        None => assert_eq!(
            (messages.len(), end),
            (seen, Incomplete),
            "waits where the naive parser refuses"
        ),
    }
}

fn read(text: &str) -> (Vec<Message>, End) {
    let mut messages = Vec::new();
    let mut rest = text;
    loop {
        match message(rest) {
            Ok((message, after)) => {
                messages.push(message);
                rest = after;
            }
            Err(end) => return (messages, end),
        }
    }
}

fn message(text: &str) -> Result<(Message, &str), End> {
    let mut start = text;
    for _ in 0..2 {
        start = start.strip_prefix("\r\n").unwrap_or(start);
    }
    let (head, rest) = start.split_once("\r\n\r\n").ok_or(Incomplete)?;
    let lines: Vec<&str> = head.split("\r\n").collect();
    let words: Vec<&str> = lines[0].split(' ').collect();
    let fields: Vec<(String, &str)> = lines[1..]
        .iter()
        .map(|line| field(line))
        .collect::<Result<_, _>>()?;
    let all = |name: &str| -> Vec<&str> {
        fields
            .iter()
            .filter(|field| field.0 == name)
            .map(|field| field.1)
            .collect()
    };
    let list = |name: &str| -> Vec<&str> {
        all(name)
            .into_iter()
            .flat_map(|line| line.split(','))
            .map(|word| word.trim_matches([' ', '\t']))
            .collect()
    };

    let [method, target, version] = words[..] else {
        return Err(Refused);
    };
    sure(is_token(method))?;
    let http11 = version == "HTTP/1.1";
    sure(http11 || version == "HTTP/1.0")?;
    sure(target.chars().all(|c| ('!'..='~').contains(&c) && c != '#'))?;
    let (target, authority) = target_of(method, target)?;

    let hosts = all("host");
    sure(hosts.len() == 1 || !http11 && hosts.is_empty())?;
    sure(hosts.iter().all(|host| is_host(host, false)))?;
    for name in [
        "authorization",
        "content-type",
        "origin",
        "access-control-request-method",
    ] {
        sure(all(name).len() < 2 && all(name).iter().all(|value| value.is_ascii()))?;
    }

    let (lengths, codings) = (list("content-length"), list("transfer-encoding"));
    let framing = match (&lengths[..], &codings[..]) {
        ([], []) => "none".to_owned(),
        ([], [coding]) if http11 && coding.eq_ignore_ascii_case("chunked") => "chunked".to_owned(),
        ([first, others @ ..], []) => {
            sure(others.iter().all(|other| other == first))?;
            sure(!first.is_empty() && first.chars().all(|c| c.is_ascii_digit()))?;
            let digits = first.trim_start_matches('0');
            sure(digits.len() <= 20)?;
            let length: u128 = if digits.is_empty() {
                0
            } else {
                digits.parse().unwrap()
            };
            sure(length < 1 << 64)?;
            format!("length {length}")
        }
        _ => return Err(Refused),
    };
    let expectations = list("expect");
    let continues = expectations
        .iter()
        .all(|word| word.eq_ignore_ascii_case("100-continue"));
    sure(continues || !http11)?;

    let (content, after) = match framing.split_once(' ') {
        Some((_, length)) => {
            let length = length.parse::<usize>().map_err(|_| Incomplete)?;
            take(rest, length)?
        }
        None if framing == "chunked" => chunks(rest)?,
        None => (String::new(), rest),
    };
    let options: Vec<String> = list("connection")
        .into_iter()
        .map(str::to_ascii_lowercase)
        .collect();
    let says = |option: &str| options.iter().any(|word| word == option);
    let message = Message {
        method: method.to_owned(),
        target,
        http11,
        host: authority.or(hosts.first().map(|&host| host.to_owned())),
        keep_alive: !says("close") && (http11 || says("keep-alive")),
        expect_continue: http11
            && !expectations.is_empty()
            && framing != "none"
            && framing != "length 0",
        framing,
        content: content.chars().map(|c| c as u8).collect(),
        size: text.chars().count() - after.chars().count(),
    };
    Ok((message, after))
}

fn sure(condition: bool) -> Result<(), End> {
    if condition { Ok(()) } else { Err(Refused) }
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

fn field(line: &str) -> Result<(String, &str), End> {
    let (name, value) = line.split_once(':').ok_or(Refused)?;
    sure(is_token(name))?;
    sure(value.chars().all(|c| c == '\t' || c >= ' ' && c != '\x7f'))?;
    Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])))
}

/// The target in [`Message`]'s words and the authority of an absolute-form.
fn target_of(method: &str, target: &str) -> Result<(String, Option<String>), End> {
    if method == "CONNECT" {
        sure(is_host(target, true))?;
        return Ok(("authority".to_owned(), None));
    }
    if target.starts_with('/') || target == "*" && method == "OPTIONS" {
        return Ok((target.to_owned(), None));
    }
    let (scheme, rest) = target.split_once("://").ok_or(Refused)?;
    sure(["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()))?;
    let authority: String = rest.chars().take_while(|c| !"/?".contains(*c)).collect();
    sure(is_host(&authority, false))?;
    let path = match &rest[authority.len()..] {
        "" if method == "OPTIONS" => "*".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        query => format!("/{query}"),
    };
    Ok((path, Some(authority)))
}

fn is_host(text: &str, needs_port: bool) -> bool {
    let colon = if text.ends_with(']') {
        None
    } else {
        text.rfind(':')
    };
    let (host, port) = colon.map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])));
    let port_fits = match port {
        None => !needs_port,
        Some("") => !needs_port,
        Some(port) => {
            port.chars().all(|c| c.is_ascii_digit())
                && port.parse::<u32>().is_ok_and(|port| port < 65536)
        }
    };
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    port_fits
        && match inner {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => is_name(host),
        }
}

fn is_name(name: &str) -> bool {
    let mut parts = name.split('%');
    let plain = |part: &str| {
        part.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=".contains(c))
    };
    let escaped =
        |part: &str| part.len() >= 2 && part.chars().take(2).all(|c| c.is_ascii_hexdigit());
    !name.is_empty()
        && parts.next().is_some_and(plain)
        && parts.all(|part| escaped(part) && plain(part))
}

/// The first `count` characters and the rest.
fn take(text: &str, count: usize) -> Result<(String, &str), End> {
    let taken: String = text.chars().take(count).collect();
    sure_or_incomplete(taken.chars().count() == count)?;
    let rest = &text[taken.len()..];
    Ok((taken, rest))
}

fn sure_or_incomplete(condition: bool) -> Result<(), End> {
    if condition { Ok(()) } else { Err(Incomplete) }
}

fn chunks(text: &str) -> Result<(String, &str), End> {
    let mut content = String::new();
    let mut rest = text;
    loop {
        let (line, after) = rest.split_once("\r\n").ok_or(Incomplete)?;
        let (size, extension) = match line.split_once(';') {
            Some((size, extension)) => (size.trim_end_matches([' ', '\t']), extension),
            None => (line, ""),
        };
        sure((1..=16).contains(&size.len()) && size.chars().all(|c| c.is_ascii_hexdigit()))?;
        sure(
            extension
                .chars()
                .all(|c| c == '\t' || c >= ' ' && c != '\x7f'),
        )?;
        let size = u64::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return Ok((content, trailers(after)?));
        }
        let (data, after) = take(after, usize::try_from(size).unwrap())?;
        content.push_str(&data);
        sure_or_incomplete(after.len() >= 2)?;
        rest = after.strip_prefix("\r\n").ok_or(Refused)?;
    }
}

fn trailers(text: &str) -> Result<&str, End> {
    let (line, rest) = text.split_once("\r\n").ok_or(Incomplete)?;
    if line.is_empty() {
        return Ok(rest);
    }
    field(line)?;
    trailers(rest)
}
