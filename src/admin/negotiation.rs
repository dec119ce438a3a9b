//! Which of the two formats of metrics a client takes (RFC 9110 section 12.5.1). Pure.

/// A format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// OpenMetrics for who asks for it by name and likes nothing better, Prometheus' own format for everybody else.
pub fn choose(accept: Option<&[u8]>) -> Format {
    let accept = accept.and_then(|value| std::str::from_utf8(value).ok());
    let (mut open, mut plain) = (0, 0);
    for range in accept.unwrap_or_default().split(',') {
        let range = Range::read(range);
        match range.media_type.to_ascii_lowercase().as_str() {
            "application/openmetrics-text" if range.takes("1.0.0") => open = open.max(range.weight),
            "text/plain" if range.takes("0.0.4") => plain = plain.max(range.weight),
            "text/*" | "*/*" => plain = plain.max(range.weight),
            _ => {}
        }
    }
    match open > 0 && open >= plain {
        true => Format::OpenMetrics,
        false => Format::Prometheus,
    }
}

/// A media range with its parameters.
struct Range<'a> {
    media_type: &'a str,
    version: Option<&'a str>,
    /// In thousandths.
    weight: u32,
}

impl<'a> Range<'a> {
    fn read(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Range {
            media_type: parts.next().unwrap_or_default(),
            version: None,
            weight: 1000,
        };
        for part in parts {
            match part.split_once('=') {
                Some(("version", version)) => range.version = Some(version.trim_matches('"')),
                Some(("q" | "Q", weight)) => range.weight = thousandths(weight),
                _ => {}
            }
        }
        range
    }

    /// Whether it asks for this version, or does not care.
    fn takes(&self, version: &str) -> bool {
        self.version.is_none_or(|wanted| wanted == version)
    }
}

/// A weight from 0 to 1; what is none is 0.
fn thousandths(weight: &str) -> u32 {
    match weight.parse::<f32>() {
        Ok(weight) if (0.0..=1.0).contains(&weight) => (weight * 1000.0).round() as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_who_asks_for_it() {
        use Format::{OpenMetrics, Prometheus};
        for (accept, format) in [
            ("", Prometheus),
            ("*/*", Prometheus),
            ("text/html", Prometheus),
            ("application/openmetrics-text", OpenMetrics),
            ("application/openmetrics-text; version=1.0.0", OpenMetrics),
            ("application/openmetrics-text;version=0.0.1", Prometheus),
            (
                "Application/OpenMetrics-Text;version=\"1.0.0\"",
                OpenMetrics,
            ),
            ("application/openmetrics-text;q=0", Prometheus),
            (
                "application/openmetrics-text;q=0.5,text/plain;q=0.8",
                Prometheus,
            ),
            ("application/openmetrics-text;q=nan", Prometheus),
            // Prometheus 2.53 and 3.5.
            (
                "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                 text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
                OpenMetrics,
            ),
        ] {
            assert_eq!(choose(Some(accept.as_bytes())), format, "{accept}");
        }
        assert_eq!(choose(None), Prometheus);
        assert_eq!(choose(Some(b"\xff")), Prometheus);
    }
}
