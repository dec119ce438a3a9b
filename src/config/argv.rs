//! Passwords on the command line: where they stand, so that `main` can scrub argv, and the command line without them,
//! for usage errors. Pure.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use super::secret::{after_scheme, find_secrets};
use super::table::SETTINGS;

/// The bytes of the command line that are secret: (index of the argument, byte range in it). `main` overwrites
/// exactly these in argv, so that `ps` doesn't show them. `args` is the whole command line, program name included.
pub fn secret_spans(args: &[OsString]) -> Vec<(usize, Range<usize>)> {
    let mut spans = Vec::new();
    let mut value_of_secret = false;
    for (index, arg) in args.iter().enumerate() {
        let bytes = arg.as_bytes();
        let attached = bytes
            .iter()
            .position(|&b| b == b'=')
            .filter(|_| bytes.starts_with(b"--"));
        let (start, is_secret) = if value_of_secret {
            (0, true)
        } else {
            match attached {
                Some(at) => (at + 1, names_secret(&bytes[..at])),
                None => (0, false),
            }
        };
        value_of_secret = !value_of_secret && attached.is_none() && names_secret(bytes);
        spans.extend(
            spans_of(&bytes[start..], is_secret)
                .into_iter()
                .map(|s| (index, start + s.start..start + s.end)),
        );
    }
    spans
}

/// Whether any argument holds a password; see [`secret_spans`].
pub fn args_hold_secret(args: &[OsString]) -> bool {
    !secret_spans(args).is_empty()
}

/// The command line with every secret cut out, for messages that echo arguments.
pub(super) fn mask(args: &[OsString]) -> Vec<OsString> {
    let mut masked: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    // From the back, so that earlier ranges stay right.
    for (index, range) in secret_spans(args).into_iter().rev() {
        masked[index].splice(range, *b"***");
    }
    masked
        .iter()
        .map(|bytes| OsStr::from_bytes(bytes).to_owned())
        .collect()
}

fn names_secret(flag: &[u8]) -> bool {
    SETTINGS
        .iter()
        .any(|setting| setting.is_secret() && setting.flag().as_bytes() == flag)
}

/// The secret ranges of one value. `is_secret` says that it was given where a secret belongs; any other value is
/// searched too, for it may be a URL behind a mistyped flag.
fn spans_of(value: &[u8], is_secret: bool) -> Vec<Range<usize>> {
    match std::str::from_utf8(value) {
        Ok(text) if is_secret || text.contains("://") => find_secrets(text)
            .unwrap_or_else(|| std::iter::once(after_scheme(text)..text.len()).collect()),
        Ok(_) => Vec::new(),
        Err(_) if is_secret || value.windows(3).any(|w| w == b"://") => {
            std::iter::once(0..value.len()).collect()
        }
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn exactly_the_secret_bytes_of_argv_are_found() {
        let line = args(&[
            "c",
            "--database-url",
            "postgres://u:pw@h/d",
            "seed",
            "--redis-url=redis://:pwd@h",
            "--rows=5",
        ]);
        assert_eq!(secret_spans(&line), vec![(2, 13..15), (4, 21..24)]);
        assert!(args_hold_secret(&line));
        assert_eq!(mask(&line)[2], "postgres://u:***@h/d");

        assert!(!args_hold_secret(&args(&[
            "c",
            "--database-url",
            "sqlite:x.db",
            "--redis-url=redis://h"
        ])));
        // A form that we don't understand, and a URL behind a mistyped flag.
        assert_eq!(
            secret_spans(&args(&["c", "--database-url", "host=h password=p"])),
            vec![(2, 0..17)]
        );
        assert_eq!(
            secret_spans(&args(&["c", "--databse-url=postgres://u:p@h"])),
            vec![(1, 27..28)]
        );
        // A secret flag without its value: the next flag is taken for the value, as clap would.
        assert_eq!(secret_spans(&args(&["c", "--redis-url"])), vec![]);
    }

    #[test]
    fn arguments_that_are_not_utf8_are_hidden_whole() {
        use std::os::unix::ffi::OsStringExt;
        let line = vec![
            OsString::from("c"),
            OsString::from("--redis-url"),
            OsString::from_vec(b"redis://:pw\xff@h".to_vec()),
        ];
        assert_eq!(secret_spans(&line), vec![(2, 0..14)]);
    }
}
