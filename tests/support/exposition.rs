//! A strict reader of metrics, in Prometheus' text format 0.0.4 and in OpenMetrics 1.0: what a forgiving scraper would take is
//! refused here.

use std::collections::{BTreeMap, BTreeSet};

/// The two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

/// A sample's name and labels, as they are written.
pub type Series = String;

/// What was exposed.
#[derive(Debug, Clone)]
pub struct Exposition {
    pub samples: BTreeMap<Series, f64>,
    /// The kind of each metric, by the name that its TYPE line has.
    pub kinds: BTreeMap<String, String>,
    /// Series that never go down.
    pub rising: BTreeSet<Series>,
}

impl Exposition {
    /// Reads a whole exposition. Panics at the first thing that is wrong.
    #[track_caller]
    pub fn read(text: &str, format: Format) -> Self {
        match Reader::new(format).read(text) {
            Ok(exposition) => exposition,
            Err(why) => panic!("{why} in:\n{text}"),
        }
    }

    /// The value of a series.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self
            .samples
            .get(series)
            .unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples))
    }

    /// The sum of all series of this name.
    pub fn sum(&self, name: &str) -> f64 {
        let of_name = |series: &str| {
            series == name
                || series
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('{'))
        };
        let samples = self.samples.iter();
        samples
            .filter(|(series, _)| of_name(series))
            .map(|(_, value)| value)
            .sum()
    }

    /// Fails if a series that never goes down has, since an earlier look.
    #[track_caller]
    pub fn assert_not_behind(&self, before: &Exposition) {
        for series in &before.rising {
            // Those of slots that are no more are gone.
            if let Some(now) = self.samples.get(series) {
                let then = before.value(series);
                assert!(*now >= then, "{series} went from {then} to {now}");
            }
        }
    }
}

/// A metric of which samples are read.
#[derive(Debug, Default)]
struct Family {
    name: String,
    kind: Option<String>,
    help: bool,
    unit: bool,
    sampled: bool,
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: bool,
}

struct Reader {
    format: Format,
    family: Family,
    closed: BTreeSet<String>,
    exposition: Exposition,
}

type Verdict<T = ()> = Result<T, String>;

impl Reader {
    fn new(format: Format) -> Self {
        Reader {
            format,
            family: Family::default(),
            closed: BTreeSet::new(),
            exposition: Exposition {
                samples: BTreeMap::new(),
                kinds: BTreeMap::new(),
                rising: BTreeSet::new(),
            },
        }
    }

    fn read(mut self, text: &str) -> Verdict<Exposition> {
        let body = match self.format {
            Format::OpenMetrics => text
                .strip_suffix("# EOF\n")
                .ok_or("OpenMetrics that does not end with # EOF")?,
            Format::Prometheus => text,
        };
        if !body.ends_with('\n') || body.contains('\r') {
            return Err("a last line without its end, or a CR".to_owned());
        }
        for line in body.lines() {
            self.line(line).map_err(|why| format!("{why}: {line:?}"))?;
        }
        self.close()?;
        Ok(self.exposition)
    }

    fn line(&mut self, line: &str) -> Verdict {
        let Some(comment) = line.strip_prefix("# ") else {
            return self.sample(line);
        };
        let mut words = comment.splitn(3, ' ');
        let (what, name, text) = (words.next(), words.next(), words.next());
        let (Some(what), Some(name), Some(text)) = (what, name, text) else {
            return Err("a comment that says nothing".to_owned());
        };
        if name != self.family.name {
            self.close()?;
            check_name(name)?;
            if self.closed.contains(name) {
                return Err("a metric in two pieces".to_owned());
            }
            self.family.name = name.to_owned();
        }
        if self.family.sampled {
            return Err("a comment behind samples".to_owned());
        }
        match what {
            "HELP" => set(&mut self.family.help)?,
            "UNIT" if self.format == Format::OpenMetrics => {
                set(&mut self.family.unit)?;
                if !name.ends_with(&format!("_{text}")) {
                    return Err("a name that does not end with its unit".to_owned());
                }
            }
            "TYPE" if self.family.kind.is_none() => {
                let known = match self.format {
                    Format::Prometheus => &["counter", "gauge", "histogram"][..],
                    Format::OpenMetrics => &["counter", "gauge", "histogram", "info"],
                };
                if !known.contains(&text) {
                    return Err("an unknown type".to_owned());
                }
                if text == "counter"
                    && name.ends_with("_total") != (self.format == Format::Prometheus)
                {
                    return Err("_total in the wrong place".to_owned());
                }
                self.family.kind = Some(text.to_owned());
            }
            _ => return Err("an unknown comment, or one twice".to_owned()),
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Verdict {
        let (series, value) = line.rsplit_once(' ').ok_or("no value")?;
        let (name, labels) = match series.split_once('{') {
            Some((name, rest)) => (name, read_labels(rest)?),
            None => (series, BTreeMap::new()),
        };
        check_name(name)?;
        let number: f64 = value.parse().map_err(|_| "no number".to_owned())?;
        if !number.is_finite() {
            return Err("no number".to_owned());
        }
        let family = &mut self.family;
        let kind = family.kind.clone().ok_or("a sample without a type")?;
        if !family.help {
            return Err("a sample without help".to_owned());
        }
        let tail = name
            .strip_prefix(family.name.as_str())
            .ok_or("a sample of another metric")?;
        let good = match (kind.as_str(), self.format) {
            ("gauge", _) | ("counter", Format::Prometheus) => tail.is_empty(),
            ("counter", Format::OpenMetrics) => tail == "_total",
            ("info", _) => tail == "_info" && number == 1.0,
            _ => ["_bucket", "_count", "_sum"].contains(&tail),
        };
        if !good {
            return Err(format!("a {kind} with such a sample"));
        }
        if kind == "histogram" {
            family.take(tail, &labels, number)?;
        }
        if kind != "gauge" && number < 0.0 {
            return Err("less than nothing".to_owned());
        }
        family.sampled = true;
        if kind == "counter" || kind == "histogram" {
            self.exposition.rising.insert(series.to_owned());
        }
        match self.exposition.samples.insert(series.to_owned(), number) {
            None => Ok(()),
            Some(_) => Err("a series twice".to_owned()),
        }
    }

    /// The family that was read is whole.
    fn close(&mut self) -> Verdict {
        let family = std::mem::take(&mut self.family);
        if family.name.is_empty() {
            return Ok(());
        }
        let kind = family
            .kind
            .clone()
            .ok_or(format!("{} has no type", family.name))?;
        if kind == "histogram" {
            family.check_histogram()?;
        }
        self.exposition.kinds.insert(family.name.clone(), kind);
        self.closed.insert(family.name);
        Ok(())
    }
}

impl Family {
    fn take(&mut self, tail: &str, labels: &BTreeMap<String, String>, number: f64) -> Verdict {
        match tail {
            "_bucket" => {
                let bound = labels.get("le").ok_or("a bucket without its bound")?;
                let bound = match bound.as_str() {
                    "+Inf" => f64::INFINITY,
                    // As OpenMetrics has it: a bound is a floating point number, and looks like one.
                    text if text.contains('.') => {
                        text.parse().map_err(|_| "no bound".to_owned())?
                    }
                    _ => return Err("a bound that is no floating point number".to_owned()),
                };
                self.buckets.push((bound, number));
            }
            "_count" => self.count = Some(number),
            _ => self.sum = true,
        }
        Ok(())
    }

    fn check_histogram(&self) -> Verdict {
        let rises = self
            .buckets
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        let last = self.buckets.last().copied();
        if !rises || last != self.count.map(|count| (f64::INFINITY, count)) || !self.sum {
            return Err(format!("{} is no histogram: {self:?}", self.name));
        }
        Ok(())
    }
}

fn set(flag: &mut bool) -> Verdict {
    match std::mem::replace(flag, true) {
        false => Ok(()),
        true => Err("a comment twice".to_owned()),
    }
}

fn check_name(name: &str) -> Verdict {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    match name.starts_with("canvas_cluster_") && name.bytes().all(good) {
        true => Ok(()),
        false => Err(format!("the name {name:?}")),
    }
}

/// Labels behind their opening brace. None of ours needs an escape.
fn read_labels(text: &str) -> Verdict<BTreeMap<String, String>> {
    let inner = text.strip_suffix('}').ok_or("labels without an end")?;
    let mut labels = BTreeMap::new();
    for pair in inner.split(',') {
        let (name, value) = pair.split_once('=').ok_or("a label without a value")?;
        let value = value
            .strip_prefix('"')
            .and_then(|value| value.strip_suffix('"'))
            .filter(|value| !value.is_empty() && !value.contains(['"', '\\']))
            .ok_or("a value without its quotes")?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(format!("the label {name:?}"));
        }
        if labels.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err("a label twice".to_owned());
        }
    }
    Ok(labels)
}
