//! What a page may load, and which pages may embed it (Content Security Policy, level 3). Called by the page's answers.

/// Everything comes from this server, except pictures and films, which may be anywhere: their URLs are what the database holds.
/// No style and no script stands in a page itself, so one that somebody else brings in is neither applied nor run.
const SOURCES: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https: http: data:; \
                       media-src 'self' https: http:; connect-src 'self'; form-action 'self'; base-uri 'none'";

/// The values of `Content-Security-Policy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    /// Of what the configured pages may embed.
    pub(super) shared: String,
    /// Of what nobody may.
    pub(super) alone: String,
}

impl Policy {
    /// `ancestors` as `--frame-ancestors` names them: origins, `self`, `none` or `*`.
    pub(super) fn new(ancestors: &[String]) -> Self {
        let quoted = |ancestor: &String| match ancestor.as_str() {
            word @ ("self" | "none") => format!("'{word}'"),
            origin => origin.to_owned(),
        };
        let ancestors: Vec<String> = ancestors.iter().map(quoted).collect();
        Policy {
            shared: format!("{SOURCES}; frame-ancestors {}", ancestors.join(" ")),
            alone: format!("{SOURCES}; frame-ancestors 'none'"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_and_origins_are_not() {
        let policy = |ancestors: &[&str]| {
            let ancestors: Vec<String> = ancestors.iter().map(|&text| text.to_owned()).collect();
            Policy::new(&ancestors).shared
        };
        assert!(policy(&["self"]).ends_with("; frame-ancestors 'self'"));
        assert!(policy(&["none"]).ends_with("; frame-ancestors 'none'"));
        assert!(policy(&["*"]).ends_with("; frame-ancestors *"));
        let shops = policy(&["self", "https://shop.example", "http://[::1]:8080"]);
        assert!(shops.ends_with("; frame-ancestors 'self' https://shop.example http://[::1]:8080"));
    }
}
