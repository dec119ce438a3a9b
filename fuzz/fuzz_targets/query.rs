//! Paths and queries: what decodes, decodes as lenient decoders of others do, and no path that comes out can climb.

#![no_main]

use canvas_cluster::http::target::{TargetError, decode, path, query_pairs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &str| {
    let pairs: Result<Vec<_>, TargetError> = query_pairs(raw).collect();
    if let Ok(pairs) = pairs {
        let others: Vec<_> = form_urlencoded::parse(raw.as_bytes()).collect();
        assert_eq!(pairs, others);
    }
    let lenient = percent_encoding::percent_decode_str(raw).decode_utf8();
    match decode(raw) {
        Ok(text) => {
            assert_eq!(Ok(&text), lenient.as_ref());
            assert!(!text.contains('\0'));
        }
        Err(TargetError::NotUtf8) => assert!(lenient.is_err()),
        Err(_) => {}
    }
    if let Ok(path) = path(raw) {
        assert!(
            path.starts_with('/') && !path.contains("//") && !path.contains(['\\', '\0', '\n'])
        );
        assert!(
            !path
                .split('/')
                .any(|segment| segment == "." || segment == "..")
        );
        assert_eq!(path.matches('/').count(), raw.matches('/').count());
    }
});
