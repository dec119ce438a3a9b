//! Content that is there before anybody asks for it (an asset, a file of the operator's), and what a request gets of it: all,
//! a part, the news that nothing has changed, and in which coding (RFC 9110 sections 12.5.3, 13 and 14). Called by the
//! routes, with the request's head. Pure.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::coding::{self, Coding};
use super::manners::lists;
use super::range::{self, Asked};
use crate::http::head::{Head, Method};
use crate::http::response::Response;

/// What is served, in every form that it has.
#[derive(Debug, Clone)]
pub struct Content {
    pub content_type: &'static str,
    pub cached: Cached,
    /// Equal for equal content, and part of a strong validator: letters and digits.
    pub tag: Cow<'static, str>,
    pub modified: Option<Modified>,
    pub identity: Bytes,
    /// Where that is smaller.
    pub brotli: Option<Bytes>,
    pub gzip: Option<Bytes>,
}

/// How long caches may answer for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    /// The URL names this content and no other, ever.
    Forever,
    Month,
    Hour,
    /// Kept, but asked about each time.
    Checked,
}

impl Cached {
    /// As `Cache-Control` has it.
    pub fn rule(self) -> &'static str {
        match self {
            Cached::Forever => "public, max-age=31536000, immutable",
            Cached::Month => "public, max-age=2592000",
            Cached::Hour => "public, max-age=3600",
            Cached::Checked => "no-cache",
        }
    }
}

/// The second at which a file was changed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modified {
    second: SystemTime,
    /// As `Last-Modified` has it.
    text: String,
}

impl Modified {
    /// What a validator says of `at`: no later than `now` (RFC 9110 section 8.8.2.1), and no earlier than 1970, where the dates
    /// of HTTP begin.
    pub fn new(at: SystemTime, now: SystemTime) -> Self {
        let since = at.min(now).duration_since(SystemTime::UNIX_EPOCH);
        let whole = Duration::from_secs(since.unwrap_or_default().as_secs());
        let second = SystemTime::UNIX_EPOCH + whole;
        Modified {
            second,
            text: httpdate::fmt_http_date(second),
        }
    }
}

impl Content {
    /// The answer to a GET or HEAD of it.
    pub fn answer(&self, head: &Head<'_>) -> Response {
        let ranged = match head.method {
            // RFC 9110 section 14.2: of no other method.
            Method::Get => self.ranged(head),
            _ => None,
        };
        // Ranges are those of the content as it is: a part of what was compressed is of use to nobody.
        let coding = match ranged {
            Some(_) => Coding::Identity,
            None => self.choose(head),
        };
        let tag = self.tag(coding);
        if self.is_known(head, &tag) {
            return self.dress(Response::new(304), tag);
        }
        let whole = self.coded(coding);
        match ranged {
            Some(Asked::Part(part)) => {
                let place = format!("bytes {}-{}/{}", part.start, part.end - 1, whole.len());
                let part = Response::new(206).body(self.content_type, whole.slice(part));
                self.dress(part, tag).header("Content-Range", place)
            }
            Some(Asked::Beyond) => {
                Response::new(416).header("Content-Range", format!("bytes */{}", whole.len()))
            }
            Some(Asked::Whole) | None => {
                let response = Response::new(200).body(self.content_type, whole.clone());
                let response = self.dress(response, tag);
                match coding.token() {
                    Some(token) => response.header("Content-Encoding", token),
                    None => response,
                }
            }
        }
    }

    /// What goes with it, whole, in part or unchanged.
    fn dress(&self, response: Response, tag: String) -> Response {
        let mut response = response
            .header("ETag", tag)
            .header("Cache-Control", self.cached.rule())
            .header("Accept-Ranges", "bytes");
        if let Some(modified) = &self.modified {
            response = response.header("Last-Modified", modified.text.clone());
        }
        match self.brotli.is_some() || self.gzip.is_some() {
            true => response.header("Vary", "Accept-Encoding"),
            false => response,
        }
    }

    /// Each coding is a representation of its own, so it has a validator of its own (RFC 9110 section 8.8.3.3).
    fn tag(&self, coding: Coding) -> String {
        match coding {
            Coding::Identity => format!("\"{}\"", self.tag),
            Coding::Gzip => format!("\"{}-gzip\"", self.tag),
            Coding::Brotli => format!("\"{}-br\"", self.tag),
        }
    }

    fn choose(&self, head: &Head<'_>) -> Coding {
        let offered = [
            self.brotli.as_ref().map(|_| Coding::Brotli),
            self.gzip.as_ref().map(|_| Coding::Gzip),
        ];
        match offered {
            [None, None] => Coding::Identity,
            offered => coding::choose(
                head.values("Accept-Encoding"),
                offered.into_iter().flatten(),
            ),
        }
    }

    fn coded(&self, coding: Coding) -> &Bytes {
        match coding {
            Coding::Identity => &self.identity,
            Coding::Gzip => self.gzip.as_ref().unwrap_or(&self.identity),
            Coding::Brotli => self.brotli.as_ref().unwrap_or(&self.identity),
        }
    }

    /// Whether the client has it already (RFC 9110 section 13.2.2: a date only counts where there is no tag).
    fn is_known(&self, head: &Head<'_>, tag: &str) -> bool {
        if let Some(list) = head.if_none_match {
            return lists(list, tag);
        }
        let Some(modified) = &self.modified else {
            return false;
        };
        let since = only(head, "If-Modified-Since").and_then(date);
        since.is_some_and(|since| modified.second <= since)
    }

    /// The part that is asked for; `None` where none is, or only if it were part of something else.
    fn ranged(&self, head: &Head<'_>) -> Option<Asked> {
        let field = only(head, "Range")?;
        let mut conditions = head.values("If-Range");
        let same = match (conditions.next(), conditions.next()) {
            (None, _) => true,
            // RFC 9110 section 13.1.5: strong comparison of a tag, and of a date the very same.
            (Some(tag), None) if tag.ends_with(b"\"") => {
                tag == self.tag(Coding::Identity).as_bytes()
            }
            (Some(text), None) => match &self.modified {
                Some(modified) => date(text) == Some(modified.second),
                None => false,
            },
            (Some(_), Some(_)) => false,
        };
        same.then(|| range::read(field, self.identity.len()))
    }
}

/// The value of a field that must not be repeated.
fn only<'b>(head: &Head<'b>, name: &str) -> Option<&'b [u8]> {
    let mut values = head.values(name);
    values.next().filter(|_| values.next().is_none())
}

fn date(text: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head;
    use crate::http::limits::Limits;
    use crate::http::response::{Framing, Persistence};

    const SECOND: u64 = 784_111_777;

    fn film() -> Content {
        let at = SystemTime::UNIX_EPOCH + Duration::new(SECOND, 5);
        Content {
            content_type: "video/mp4",
            cached: Cached::Checked,
            tag: "abc".into(),
            modified: Some(Modified::new(at, SystemTime::now())),
            identity: Bytes::from_static(b"0123456789"),
            brotli: None,
            gzip: None,
        }
    }

    fn script() -> Content {
        Content {
            content_type: "text/javascript",
            cached: Cached::Forever,
            modified: None,
            brotli: Some(Bytes::from_static(b"br")),
            gzip: Some(Bytes::from_static(b"gzip")),
            ..film()
        }
    }

    /// The answer in the words of the wire, to a request with these fields.
    fn ask(content: &Content, method: &str, fields: &str) -> (u16, String) {
        let request = format!("{method} /x HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let head = head::parse(request.as_bytes(), &Limits::default()).expect("a good head");
        let response = content.answer(&head);
        let mut wire = Vec::new();
        let framing = Framing {
            date: b"Sun, 06 Nov 1994 08:49:37 GMT",
            head_only: method == "HEAD",
            connection: Persistence::KeepAlive,
        };
        response.encode(&framing, &mut wire);
        (response.status(), String::from_utf8(wire).expect("text"))
    }

    #[track_caller]
    fn assert_says(answer: &(u16, String), status: u16, lines: &[&str]) {
        assert_eq!(answer.0, status, "{}", answer.1);
        for line in lines {
            assert!(answer.1.contains(line), "`{line}` is not in {}", answer.1);
        }
    }

    #[test]
    fn the_coding_is_the_clients_choice() {
        for (fields, body, tag) in [
            ("", "\r\n\r\n0123456789", "ETag: \"abc\"\r\n"),
            (
                "Accept-Encoding: gzip, br\r\n",
                "\r\n\r\nbr",
                "ETag: \"abc-br\"\r\n",
            ),
            (
                "Accept-Encoding: gzip\r\nAccept-Encoding: br;q=0.5\r\n",
                "\r\n\r\ngzip",
                "ETag: \"abc-gzip\"\r\n",
            ),
        ] {
            let answer = ask(&script(), "GET", fields);
            assert_says(&answer, 200, &[body, tag, "Vary: Accept-Encoding\r\n"]);
        }
        assert!(
            !ask(&film(), "GET", "Accept-Encoding: br\r\n")
                .1
                .contains("Vary")
        );
    }

    #[test]
    fn a_client_that_has_it_is_told_so() {
        for fields in [
            "If-None-Match: \"abc\"\r\n",
            "If-None-Match: W/\"abc\"\r\n",
            "If-None-Match: *\r\nRange: bytes=0-1\r\n",
            "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
            "If-Modified-Since: Sat, 06 Nov 2094 08:49:37 GMT\r\n",
        ] {
            let answer = ask(&film(), "GET", fields);
            assert_says(
                &answer,
                304,
                &["ETag: \"abc\"\r\n", "Cache-Control: no-cache\r\n"],
            );
        }
        for fields in [
            "If-None-Match: \"other\"\r\nIf-Modified-Since: Sat, 06 Nov 2094 08:49:37 GMT\r\n",
            "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n",
            "If-Modified-Since: yesterday\r\n",
        ] {
            assert_says(&ask(&film(), "GET", fields), 200, &["\r\n\r\n0123456789"]);
        }
        let coded = "Accept-Encoding: br\r\nIf-None-Match: \"abc-br\"\r\n";
        assert_says(
            &ask(&script(), "GET", coded),
            304,
            &["Vary: Accept-Encoding\r\n"],
        );
        let other = "Accept-Encoding: br\r\nIf-None-Match: \"abc\"\r\n";
        assert_says(&ask(&script(), "GET", other), 200, &["\r\n\r\nbr"]);
    }

    #[test]
    fn a_part_is_a_part_of_the_content_as_it_is() {
        for (fields, place, body) in [
            ("Range: bytes=0-1\r\n", "bytes 0-1/10", "01"),
            (
                "Range: bytes=8-\r\nAccept-Encoding: br\r\n",
                "bytes 8-9/10",
                "89",
            ),
            (
                "Range: bytes=-3\r\nIf-Range: \"abc\"\r\n",
                "bytes 7-9/10",
                "789",
            ),
        ] {
            for content in [film(), script()] {
                let answer = ask(&content, "GET", fields);
                let place = format!("Content-Range: {place}\r\n");
                let body = format!("\r\n\r\n{body}");
                assert_says(&answer, 206, &[&place, &body, "ETag: \"abc\"\r\n"]);
                assert!(!answer.1.contains("Content-Encoding"), "{}", answer.1);
            }
        }
        let dated = "Range: bytes=0-0\r\nIf-Range: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        assert_says(&ask(&film(), "GET", dated), 206, &["\r\n\r\n0"]);
        assert_says(&ask(&script(), "GET", dated), 200, &["\r\n\r\n0123456789"]);
        let beyond = ask(&film(), "GET", "Range: bytes=10-\r\n");
        assert_says(&beyond, 416, &["Content-Range: bytes */10\r\n"]);
    }

    #[test]
    fn what_can_not_be_a_part_is_all_of_it() {
        for fields in [
            "Range: bytes=0-1\r\nIf-Range: \"other\"\r\n",
            "Range: bytes=0-1\r\nIf-Range: W/\"abc\"\r\n",
            "Range: bytes=0-1\r\nIf-Range: \"abc\"\r\nIf-Range: \"abc\"\r\n",
            "Range: bytes=0-1\r\nIf-Range: Sun, 06 Nov 1994 08:49:38 GMT\r\n",
            "Range: bytes=0-1\r\nRange: bytes=2-3\r\n",
            "Range: bytes=0-1,4-5\r\n",
            "Range: lines=0-1\r\n",
        ] {
            assert_says(
                &ask(&film(), "GET", fields),
                200,
                &["\r\n\r\n0123456789", "Accept-Ranges: bytes\r\n"],
            );
        }
        let head = ask(&film(), "HEAD", "Range: bytes=0-1\r\n");
        assert_says(&head, 200, &["Content-Length: 10\r\n"]);
        assert!(head.1.ends_with("\r\n\r\n"));
    }

    #[test]
    fn a_file_of_tomorrow_was_changed_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(SECOND);
        let tomorrow = now + Duration::from_secs(86_400);
        assert_eq!(Modified::new(tomorrow, now).second, now);
        let long_ago = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(
            Modified::new(long_ago, now).text,
            "Thu, 01 Jan 1970 00:00:00 GMT"
        );
    }
}
