//! The live page, as it is in `web/live`, within the program.

use bytes::Bytes;

use crate::http::response::Response;

/// What the page may load and do: its own files, and to ask this listener.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Debug, PartialEq, Eq)]
pub struct File {
    path: &'static str,
    content_type: &'static str,
    content: &'static [u8],
}

static FILES: [File; 8] = [
    File {
        path: "/",
        content_type: "text/html; charset=utf-8",
        content: include_bytes!("../../web/live/index.html"),
    },
    File {
        path: "/live.css",
        content_type: "text/css; charset=utf-8",
        content: include_bytes!("../../web/live/live.css"),
    },
    File {
        path: "/icon.svg",
        content_type: "image/svg+xml",
        content: include_bytes!("../../web/live/icon.svg"),
    },
    File {
        path: "/live.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_bytes!("../../web/live/live.js"),
    },
    File {
        path: "/page.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_bytes!("../../web/live/page.js"),
    },
    File {
        path: "/chart.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_bytes!("../../web/live/chart.js"),
    },
    File {
        path: "/rates.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_bytes!("../../web/live/rates.js"),
    },
    File {
        path: "/words.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_bytes!("../../web/live/words.js"),
    },
];

/// The file at this path.
pub fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    pub fn response(&self) -> Response {
        Response::new(200)
            .body(self.content_type, Bytes::from_static(self.content))
            .header("Content-Security-Policy", POLICY)
            .header("Referrer-Policy", "no-referrer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy would forbid it: a page with a style attribute or a script of its own shows half of itself.
    #[test]
    fn the_page_obeys_its_policy() {
        let page = std::str::from_utf8(FILES[0].content).expect("UTF-8");
        for forbidden in [
            "style=",
            "<style",
            "onclick=",
            "onload=",
            "src=\"http",
            "javascript:",
        ] {
            assert!(!page.contains(forbidden), "{forbidden}");
        }
        for script in page.split("<script").skip(1) {
            let (tag, content) = script.split_once('>').expect("a tag");
            assert!(tag.contains("src="), "{tag}");
            assert!(content.starts_with("</script>"), "{content}");
        }
        for file in &FILES[1..] {
            assert!(page.contains(&file.path[1..]), "{} is used", file.path);
        }
    }
}
