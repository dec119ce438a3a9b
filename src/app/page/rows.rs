//! What a page shows of a shoe's rows, read from the answer that the API gives. Called by the page's answers, on a coroutine:
//! nothing here recurses.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::store::{MEDIA_COLUMNS, Media};

/// How many of the columns are pictures; the others are clips.
const PICTURES: usize = 7;

/// The most that one page shows, whatever the database holds.
const MOST_PICTURES: usize = 98;
const MOST_CLIPS: usize = 28;

/// What a row has to show.
#[derive(Debug)]
pub(super) struct Row(Media);

/// The URLs of a shoe's pictures and clips, in the order of its rows and their columns.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) pictures: Vec<String>,
    pub(super) clips: Vec<String>,
}

/// Reads a shoe's rows: a JSON array of objects.
///
/// # Errors
/// It is something else.
pub(super) fn read(json: &[u8]) -> serde_json::Result<Vec<Row>> {
    serde_json::from_slice(json)
}

/// What can be shown of these rows. Columns are anybody's text: what is no URL of a picture or film is left out.
pub(super) fn show(rows: Vec<Row>) -> Shown {
    let mut shown = Shown::default();
    for Row(media) in rows {
        for (column, url) in media.into_iter().enumerate() {
            let (place, most) = match column < PICTURES {
                true => (&mut shown.pictures, MOST_PICTURES),
                false => (&mut shown.clips, MOST_CLIPS),
            };
            if let Some(url) = url.as_deref().map(str::trim).filter(|url| is_shown(url))
                && place.len() < most
            {
                place.push(url.to_owned());
            }
        }
    }
    shown
}

/// Whether a text is an absolute URL of the web's, or a path of this server. Nothing else may get into a page: not
/// `javascript:`, and not what a browser takes for another host's without saying so (`//host`, `/\host`).
fn is_shown(text: &str) -> bool {
    let begins = |scheme: &str| {
        let (start, rest) = text.split_at_checked(scheme.len()).unwrap_or_default();
        start.eq_ignore_ascii_case(scheme) && !rest.is_empty()
    };
    let path = text.starts_with('/') && !text[1..].starts_with(['/', '\\']);
    (path || begins("https://") || begins("http://")) && !text.contains(char::is_control)
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RowVisitor)
    }
}

struct RowVisitor;

impl<'de> Visitor<'de> for RowVisitor {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
        let mut media = Media::default();
        while let Some(name) = map.next_key::<&str>()? {
            match MEDIA_COLUMNS.iter().position(|column| *column == name) {
                Some(column) => media[column] = map.next_value()?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Row(media))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::images::render_rows;
    use crate::store::ShoeImages;

    fn row(media: &[(usize, &str)]) -> ShoeImages {
        let mut row = ShoeImages {
            id: 1.into(),
            shoe_id: Some(7),
            media: Media::default(),
        };
        for (column, text) in media {
            row.media[*column] = Some((*text).to_owned());
        }
        row
    }

    fn shown(rows: &[ShoeImages]) -> Shown {
        show(read(&render_rows(rows)).expect("what the API answers"))
    }

    #[test]
    fn what_the_api_answers_is_read_back_in_order() {
        let rows = [
            row(&[
                (0, "https://a/1"),
                (6, "/b \"c\" \u{1f45f}"),
                (8, "http://d/2.mp4"),
            ]),
            row(&[(2, " HTTPS://a/3 "), (7, "/e.mp4")]),
        ];
        let wanted = Shown {
            pictures: ["https://a/1", "/b \"c\" \u{1f45f}", "HTTPS://a/3"]
                .map(str::to_owned)
                .into(),
            clips: ["http://d/2.mp4", "/e.mp4"].map(str::to_owned).into(),
        };
        assert_eq!(shown(&rows), wanted);
        assert!(read(b"[]").expect("no rows").is_empty());
    }

    #[test]
    fn what_is_no_picture_of_the_web_is_left_out() {
        for text in [
            "",
            " ",
            "a.jpg",
            "//evil.example/x",
            "/\\evil.example/x",
            "\\x",
            "javascript:alert(1)",
            "JavaScript://x/%0aalert(1)",
            " javascript:alert(1)",
            "java\nscript:alert(1)",
            "data:text/html,x",
            "vbscript:x",
            "file:///etc/passwd",
            "ftp://a/b",
            "https:/a",
            "https:",
            "http://",
            "h\u{fc}ttp://a",
            "https://a/\n",
            "/a\tb",
            "blob:https://a/b",
        ] {
            // A line break at the end is trimmed.
            let expected = match text.trim() {
                "https://a/" => vec!["https://a/".to_owned()],
                _ => Vec::new(),
            };
            let shown = shown(&[row(&[(0, text), (7, text)])]);
            assert_eq!(
                (&shown.pictures, &shown.clips),
                (&expected, &expected),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_page_has_an_end() {
        let full: Vec<(usize, &str)> = (0..9).map(|column| (column, "/x")).collect();
        let rows: Vec<ShoeImages> = (0..50).map(|_| row(&full)).collect();
        let shown = shown(&rows);
        assert_eq!(
            (shown.pictures.len(), shown.clips.len()),
            (MOST_PICTURES, MOST_CLIPS)
        );
    }

    #[test]
    fn what_somebody_else_put_into_a_cache_is_an_error_and_costs_no_stack() {
        let deep = format!("[{{\"id\":{}", "[".repeat(100_000));
        for json in [
            "",
            "{}",
            "[1]",
            "[{\"img1\":1}]",
            "[{\"img1\":[]}]",
            "[{}",
            "[{}] x",
            &deep,
        ] {
            assert!(read(json.as_bytes()).is_err(), "{json:.60}");
        }
    }
}
