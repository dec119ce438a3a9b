//! Content types, told by the end of a file's name: for assets (build.rs reads this room as well) and for the operator's own
//! files. What is not listed is bytes that a browser saves and does not interpret.

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaType {
    /// As `Content-Type` has it.
    pub name: &'static str,
    /// Whether it is worth compressing: text is, pictures and films are compressed already.
    pub compressible: bool,
}

/// The types by extension, in lower case.
const TYPES: &[(&str, &str, bool)] = &[
    ("avif", "image/avif", false),
    ("css", "text/css; charset=utf-8", true),
    ("csv", "text/csv; charset=utf-8", true),
    ("gif", "image/gif", false),
    ("htm", "text/html; charset=utf-8", true),
    ("html", "text/html; charset=utf-8", true),
    ("ico", "image/x-icon", true),
    ("jpeg", "image/jpeg", false),
    ("jpg", "image/jpeg", false),
    ("js", "text/javascript; charset=utf-8", true),
    ("json", "application/json", true),
    ("map", "application/json", true),
    ("md", "text/markdown; charset=utf-8", true),
    ("mjs", "text/javascript; charset=utf-8", true),
    ("mp4", "video/mp4", false),
    ("pdf", "application/pdf", false),
    ("png", "image/png", false),
    ("svg", "image/svg+xml", true),
    ("txt", "text/plain; charset=utf-8", true),
    ("vtt", "text/vtt; charset=utf-8", true),
    ("wasm", "application/wasm", true),
    ("webm", "video/webm", false),
    ("webmanifest", "application/manifest+json", true),
    ("webp", "image/webp", false),
    ("woff2", "font/woff2", false),
    ("xml", "application/xml", true),
];

/// The type of the file with this name.
pub fn of(name: &str) -> MediaType {
    let extension = match name.rsplit_once('.') {
        Some((_, extension)) => extension.to_ascii_lowercase(),
        None => String::new(),
    };
    let known = TYPES.iter().find(|(known, _, _)| *known == extension);
    let (_, name, compressible) = *known.unwrap_or(&("", "application/octet-stream", false));
    MediaType { name, compressible }
}
