//! The metrics: one table, a row a metric, from which come the exposition in both formats and README's list. Names and units
//! follow Prometheus' conventions; all start with `canvas_cluster_`.

use std::fmt::{Display, Write};

use super::negotiation::Format;
use super::snapshot::Snapshot;
use crate::scoreboard::counters::{Counter, REFUSALS};
use crate::scoreboard::histogram::{BOUNDS_US, Counts};
use crate::scoreboard::published::{ChangeKind, Outcome, WorkerState};

const PREFIX: &str = "canvas_cluster_";

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// A gauge of 1 whose labels are what it says.
    Info,
}

impl Kind {
    /// What the name of a sample ends with, that of the metric itself does not in OpenMetrics.
    fn suffix(self) -> &'static str {
        match self {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        }
    }

    fn name(self, format: Format) -> &'static str {
        match (self, format) {
            (Kind::Counter, _) => "counter",
            (Kind::Gauge, _) | (Kind::Info, Format::Prometheus) => "gauge",
            (Kind::Histogram, _) => "histogram",
            (Kind::Info, Format::OpenMetrics) => "info",
        }
    }
}

/// A metric.
struct Metric {
    /// Without the prefix, and without the suffix of its kind. Ends with its unit, if it has one.
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    /// One sentence without a full stop.
    help: &'static str,
    /// Writes its samples.
    samples: fn(&Snapshot, &mut Samples<'_>),
}

impl Metric {
    /// Its unit, as OpenMetrics wants it said.
    fn unit(&self) -> Option<&'static str> {
        let units = ["seconds", "bytes"];
        units.into_iter().find(|unit| self.name.ends_with(unit))
    }
}

/// All metrics, in the order in which they are told.
const METRICS: &[Metric] = &[
    Metric {
        name: "build",
        kind: Kind::Info,
        labels: &["version"],
        help: "The version of the worker that answers",
        samples: |_, samples| samples.with([("version", env!("CARGO_PKG_VERSION"))], 1),
    },
    Metric {
        name: "start_time_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When the server was first started, in Unix time; reloads and upgrades change nothing",
        samples: |snapshot, samples| samples.one(snapshot.published.started_ms as f64 / 1000.0),
    },
    Metric {
        name: "generation",
        kind: Kind::Gauge,
        labels: &[],
        help: "The number of the configuration that serves, from 1",
        samples: |snapshot, samples| samples.one(snapshot.published.generation),
    },
    Metric {
        name: "workers_wanted",
        kind: Kind::Gauge,
        labels: &[],
        help: "How many workers should serve",
        samples: |snapshot, samples| samples.one(snapshot.published.wanted),
    },
    Metric {
        name: "workers",
        kind: Kind::Gauge,
        labels: &["state"],
        help: "Worker processes, and slots that wait for one, by what they do",
        samples: |snapshot, samples| {
            for state in WorkerState::ALL {
                let posts = snapshot.published.posts.iter();
                let count = posts.filter(|post| post.state == state).count();
                samples.with([("state", state.name())], count);
            }
        },
    },
    Metric {
        name: "reloads",
        kind: Kind::Counter,
        labels: &["kind", "outcome"],
        help: "Reloads, upgrades and changes of the number of workers that are over",
        samples: |snapshot, samples| {
            for kind in ChangeKind::ALL {
                for outcome in Outcome::ALL {
                    let labels = [("kind", kind.name()), ("outcome", outcome.name())];
                    let counts = &snapshot.published.change_counts[kind as usize];
                    samples.with(labels, counts[outcome as usize]);
                }
            }
        },
    },
    Metric {
        name: "connections",
        kind: Kind::Gauge,
        labels: &["slot"],
        help: "Connections open now",
        samples: |snapshot, samples| {
            for slot in snapshot.slots() {
                let rows = snapshot
                    .posts_of(slot)
                    .filter_map(|post| snapshot.row(post));
                let open: u64 = rows.map(|row| row.open()).sum();
                samples.with([("slot", slot)], open);
            }
        },
    },
    Metric {
        name: "connections_accepted",
        kind: Kind::Counter,
        labels: &[],
        help: "Connections accepted and served",
        samples: |snapshot, samples| samples.counter(snapshot, Counter::Connections),
    },
    Metric {
        name: "connections_turned_away",
        kind: Kind::Counter,
        labels: &[],
        help: "Connections that got a 503 for want of room",
        samples: |snapshot, samples| samples.counter(snapshot, Counter::TurnedAway),
    },
    Metric {
        name: "connections_unintroduced",
        kind: Kind::Counter,
        labels: &[],
        help: "Connections closed for want of a PROXY header on a listener that declares it",
        samples: |snapshot, samples| samples.counter(snapshot, Counter::Unintroduced),
    },
    Metric {
        name: "accept_pauses",
        kind: Kind::Counter,
        labels: &[],
        help: "Times that accepting paused, for descriptors, memory or room had run out",
        samples: |snapshot, samples| samples.counter(snapshot, Counter::AcceptPauses),
    },
    Metric {
        name: "requests",
        kind: Kind::Counter,
        labels: &[],
        help: "Requests whose head was whole and well formed",
        samples: |snapshot, samples| samples.counter(snapshot, Counter::Requests),
    },
    Metric {
        name: "responses",
        kind: Kind::Counter,
        labels: &["class"],
        help: "Answers by the class of their status, refusals included",
        samples: |snapshot, samples| {
            for (class, counter) in [
                ("2xx", Counter::Successes),
                ("3xx", Counter::Redirections),
                ("4xx", Counter::ClientErrors),
                ("5xx", Counter::ServerErrors),
            ] {
                samples.with([("class", class)], snapshot.sums.counted(counter));
            }
        },
    },
    Metric {
        name: "request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["le"],
        help: "From a request's first bytes until its answer was ready to leave",
        samples: |snapshot, samples| samples.histogram(&snapshot.sums.latency),
    },
    Metric {
        name: "refused_requests",
        kind: Kind::Counter,
        labels: &["reason"],
        help: "Requests that are no good HTTP, or larger than the limits allow",
        samples: |snapshot, samples| {
            for (place, reason) in (0..).zip(REFUSALS) {
                let count = snapshot.sums.counted(Counter::Refused(place));
                samples.with([("reason", reason)], count);
            }
        },
    },
    Metric {
        name: "timeouts",
        kind: Kind::Counter,
        labels: &["kind"],
        help: "Connections ended since a head, a body, the reading of an answer, or the next request took too long",
        samples: |snapshot, samples| {
            for (kind, counter) in [
                ("head", Counter::HeadTimeouts),
                ("body", Counter::BodyTimeouts),
                ("write", Counter::WriteTimeouts),
                ("idle", Counter::IdleTimeouts),
            ] {
                samples.with([("kind", kind)], snapshot.sums.counted(counter));
            }
        },
    },
    Metric {
        name: "panics",
        kind: Kind::Counter,
        labels: &[],
        help: "Requests whose handling panicked",
        samples: |snapshot, samples| samples.counter(snapshot, Counter::Panics),
    },
    Metric {
        name: "cache_hits",
        kind: Kind::Counter,
        labels: &["layer"],
        help: "Lookups of a shoe that the worker's own cache (l1) or Redis had",
        samples: |snapshot, samples| {
            samples.with([("layer", "l1")], snapshot.sums.counted(Counter::L1Hits));
            samples.with(
                [("layer", "redis")],
                snapshot.sums.counted(Counter::RedisHits),
            );
        },
    },
    Metric {
        name: "cache_misses",
        kind: Kind::Counter,
        labels: &["layer"],
        help: "Lookups of a shoe that it had not; Redis has nothing while it can't be asked",
        samples: |snapshot, samples| {
            samples.with([("layer", "l1")], snapshot.sums.counted(Counter::L1Misses));
            samples.with(
                [("layer", "redis")],
                snapshot.sums.counted(Counter::RedisMisses),
            );
        },
    },
    Metric {
        name: "shed",
        kind: Kind::Counter,
        labels: &[],
        help: "Questions to Redis or the database that were refused, for too many waited",
        samples: |snapshot, samples| samples.counter(snapshot, Counter::Shed),
    },
    Metric {
        name: "lane_batches",
        kind: Kind::Counter,
        labels: &[],
        help: "Calls of Redis or the database, each for all the questions of a kind that waited",
        samples: |snapshot, samples| samples.counter(snapshot, Counter::LaneBatches),
    },
    Metric {
        name: "lane_queue_delay_seconds",
        kind: Kind::Histogram,
        labels: &["le"],
        help: "What a question to Redis or the database waited for a lane to take it",
        samples: |snapshot, samples| samples.histogram(&snapshot.sums.queue_delay),
    },
    Metric {
        name: "replica_reads",
        kind: Kind::Counter,
        labels: &["outcome"],
        help: "Calls of a PostgreSQL replica, by whether it answered, was behind what it had to have, or failed; the primary answers what no replica did",
        samples: |snapshot, samples| {
            for (outcome, counter) in [
                ("answered", Counter::ReplicaAnswers),
                ("behind", Counter::ReplicaBehind),
                ("failed", Counter::ReplicaFailures),
            ] {
                samples.with([("outcome", outcome)], snapshot.sums.counted(counter));
            }
        },
    },
    Metric {
        name: "replica_used",
        kind: Kind::Gauge,
        labels: &["replica"],
        help: "Whether the replica of this number, from 0 in the order of --database-read-url, is read from",
        samples: |snapshot, samples| {
            for (replica, state) in snapshot.replicas().iter().enumerate() {
                samples.with([("replica", replica)], u8::from(state.used));
            }
        },
    },
    Metric {
        name: "replica_lag_seconds",
        kind: Kind::Gauge,
        labels: &["replica"],
        help: "For how long the replica has not had all that the primary had, in steps of a quarter of --max-replica-lag; no sample while that is not known",
        samples: |snapshot, samples| {
            for (replica, state) in snapshot.replicas().iter().enumerate() {
                if let Some(lag) = state.lag {
                    samples.with([("replica", replica)], lag.as_secs_f64());
                }
            }
        },
    },
    Metric {
        name: "worker_cpu_seconds",
        kind: Kind::Counter,
        labels: &["slot"],
        help: "CPU time, user and system, of all workers that the slot ever had",
        samples: |snapshot, samples| {
            for slot in snapshot.slots() {
                samples.with([("slot", slot)], snapshot.cpu_of_slot(slot).as_secs_f64());
            }
        },
    },
    Metric {
        name: "worker_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: &["slot"],
        help: "Memory of the slot's workers that is in RAM",
        samples: |snapshot, samples| {
            for slot in snapshot.slots() {
                let posts = snapshot.posts_of(slot);
                let bytes: u64 = posts.filter_map(|post| snapshot.resident(post)).sum();
                samples.with([("slot", slot)], bytes);
            }
        },
    },
    Metric {
        name: "worker_heartbeat_age_seconds",
        kind: Kind::Gauge,
        labels: &["slot"],
        help: "How long ago the loop of the slot's worker last said that it moves, ten times a second if all is well; no sample while none serves",
        samples: |snapshot, samples| {
            for slot in snapshot.slots() {
                let serving = snapshot
                    .posts_of(slot)
                    .filter(|post| post.state == WorkerState::Ready);
                let ages = serving.filter_map(|post| snapshot.heartbeat_age(post));
                if let Some(age) = ages.max() {
                    samples.with([("slot", slot)], age as f64 / 1000.0);
                }
            }
        },
    },
    Metric {
        name: "admin_requests",
        kind: Kind::Counter,
        labels: &[],
        help: "Requests to the admin listener, which no other metric counts",
        samples: |snapshot, samples| samples.counter(snapshot, Counter::AdminRequests),
    },
];

/// Writes the samples of one metric.
struct Samples<'o> {
    out: &'o mut String,
    /// Their whole name.
    name: String,
}

impl Samples<'_> {
    /// The only one.
    fn one(&mut self, value: impl Display) {
        // Writing to a string can't fail.
        let _ = writeln!(self.out, "{} {value}", self.name);
    }

    /// What all workers have counted.
    fn counter(&mut self, snapshot: &Snapshot, counter: Counter) {
        self.one(snapshot.sums.counted(counter));
    }

    /// One with these labels. Their values are our own words and numbers, in which nothing is to be escaped.
    fn with<const N: usize>(&mut self, labels: [(&str, impl Display); N], value: impl Display) {
        let labels = labels.map(|(label, value)| format!("{label}=\"{value}\""));
        let _ = writeln!(self.out, "{}{{{}}} {value}", self.name, labels.join(","));
    }

    /// Buckets that count what is as long as their bound or shorter, the number of all, and their sum in seconds.
    fn histogram(&mut self, counts: &Counts) {
        let mut below = 0;
        // As floating point numbers, for so OpenMetrics writes them, and the series are the same in both formats.
        let bounds = BOUNDS_US
            .iter()
            .map(|micros| format!("{:?}", *micros as f64 / 1e6));
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(counts.buckets) {
            below += count;
            let _ = writeln!(self.out, "{}_bucket{{le=\"{bound}\"}} {below}", self.name);
        }
        let _ = writeln!(self.out, "{}_sum {}", self.name, counts.sum_ns as f64 / 1e9);
        let _ = writeln!(self.out, "{}_count {below}", self.name);
    }
}

/// All metrics in this format.
pub fn render(snapshot: &Snapshot, format: Format) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for metric in METRICS {
        let sample = format!("{PREFIX}{}{}", metric.name, metric.kind.suffix());
        let name = match format {
            Format::Prometheus => sample.clone(),
            Format::OpenMetrics => format!("{PREFIX}{}", metric.name),
        };
        let _ = writeln!(out, "# HELP {name} {}.", metric.help);
        let _ = writeln!(out, "# TYPE {name} {}", metric.kind.name(format));
        if let (Format::OpenMetrics, Some(unit)) = (format, metric.unit()) {
            let _ = writeln!(out, "# UNIT {name} {unit}");
        }
        let mut samples = Samples {
            out: &mut out,
            name: sample,
        };
        (metric.samples)(snapshot, &mut samples);
    }
    if format == Format::OpenMetrics {
        out += "# EOF\n";
    }
    out
}

/// README's table of metrics, in Markdown.
pub fn readme_table() -> String {
    let mut table =
        String::from("| Metric | Kind | Labels | What it tells |\n| --- | --- | --- | --- |\n");
    for metric in METRICS {
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        let _ = writeln!(
            table,
            "| `{PREFIX}{}{}` | {} | {} | {} |",
            metric.name,
            metric.kind.suffix(),
            metric.kind.name(Format::OpenMetrics),
            labels.join(", "),
            metric.help
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::snapshot::tests::board;
    use super::*;

    fn lines(format: Format) -> Vec<String> {
        let snapshot = Snapshot::take(board()).expect("published");
        let text = render(&snapshot, format);
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn samples_are_what_the_scoreboard_says() {
        let lines = lines(Format::Prometheus);
        for line in [
            "canvas_cluster_build_info{version=\"0.1.0\"} 1",
            "canvas_cluster_start_time_seconds 1700000000",
            "canvas_cluster_generation 3",
            "canvas_cluster_workers_wanted 2",
            "canvas_cluster_workers{state=\"ready\"} 1",
            "canvas_cluster_workers{state=\"backing_off\"} 1",
            "canvas_cluster_workers{state=\"draining\"} 0",
            "canvas_cluster_reloads_total{kind=\"reload\",outcome=\"done\"} 5",
            "canvas_cluster_reloads_total{kind=\"reload\",outcome=\"failed\"} 1",
            "canvas_cluster_reloads_total{kind=\"upgrade\",outcome=\"done\"} 2",
            "canvas_cluster_connections{slot=\"0\"} 20",
            "canvas_cluster_connections{slot=\"1\"} 0",
            "canvas_cluster_requests_total 2",
            "canvas_cluster_worker_cpu_seconds_total{slot=\"0\"} 1.5",
            "canvas_cluster_worker_resident_memory_bytes{slot=\"0\"} 4096",
            "# TYPE canvas_cluster_requests_total counter",
            "# TYPE canvas_cluster_build_info gauge",
        ] {
            assert!(
                lines.iter().any(|found| found == line),
                "{line}: {lines:#?}"
            );
        }
        assert!(
            !lines
                .iter()
                .any(|line| line.contains("EOF") || line.contains("UNIT"))
        );
    }

    #[test]
    fn openmetrics_names_families_units_and_an_end() {
        let lines = lines(Format::OpenMetrics);
        for line in [
            "# TYPE canvas_cluster_requests counter",
            "canvas_cluster_requests_total 2",
            "# TYPE canvas_cluster_build info",
            "canvas_cluster_build_info{version=\"0.1.0\"} 1",
            "# UNIT canvas_cluster_worker_cpu_seconds seconds",
            "# UNIT canvas_cluster_worker_resident_memory_bytes bytes",
            "# UNIT canvas_cluster_request_duration_seconds seconds",
        ] {
            assert!(
                lines.iter().any(|found| found == line),
                "{line}: {lines:#?}"
            );
        }
        assert_eq!(lines.last().map(String::as_str), Some("# EOF"));
        assert_eq!(lines.iter().filter(|line| *line == "# EOF").count(), 1);
    }

    #[test]
    fn buckets_are_cumulative_and_their_bounds_are_floating_point_numbers() {
        let mut out = String::new();
        let mut counts = Counts::default();
        (counts.buckets[0], counts.buckets[2], counts.sum_ns) = (3, 2, 1_500_000_000);
        let mut samples = Samples {
            out: &mut out,
            name: "x".to_owned(),
        };
        samples.histogram(&counts);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "x_bucket{le=\"0.0001\"} 3");
        assert_eq!(lines[1], "x_bucket{le=\"0.00025\"} 3");
        assert_eq!(lines[2], "x_bucket{le=\"0.0005\"} 5");
        assert_eq!(lines[12], "x_bucket{le=\"1.0\"} 5");
        assert_eq!(lines[13], "x_bucket{le=\"2.0\"} 5");
        assert_eq!(
            lines[14..],
            ["x_bucket{le=\"+Inf\"} 5", "x_sum 1.5", "x_count 5"]
        );
    }

    /// A counter that is added to the scoreboard is to be seen.
    #[test]
    fn every_counter_has_a_sample() {
        let board = board();
        // Numbers that nothing else has.
        let first = 1_000_003;
        for (number, counter) in (first..).zip(Counter::all()) {
            board.row(1).add(counter, number);
        }
        let snapshot = Snapshot::take(board).expect("published");
        let text = render(&snapshot, Format::Prometheus);
        let values: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.rsplit(' ').next())
            .collect();
        for counter in Counter::all() {
            let counted = snapshot.sums.counted(counter).to_string();
            assert!(values.contains(counted.as_str()), "{}", counter.name());
        }
    }

    #[test]
    fn names_and_help_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for metric in METRICS {
            assert!(names.insert(metric.name), "{} is there twice", metric.name);
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(metric.name.chars().all(plain), "{}", metric.name);
            assert!(!metric.name.ends_with("_total") && !metric.name.ends_with("_info"));
            assert!(!metric.help.ends_with('.') && !metric.help.contains(['\\', '\n', '|']));
            if metric.kind == Kind::Histogram {
                assert_eq!(metric.unit(), Some("seconds"));
            }
        }
    }
}
