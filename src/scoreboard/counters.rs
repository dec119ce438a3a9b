//! What is counted, by name. The names are metrics' and logs', the places are the scoreboard's: both are fixed here, so
//! that any process can name what any other has counted.

/// A thing that happens to connections and requests, counted since the server's first start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counter {
    /// Connections accepted and served.
    Connections,
    /// Connections that got a 503 for want of room.
    TurnedAway,
    /// Times that accepting paused: descriptors, memory or room had run out.
    AcceptPauses,
    /// Requests whose head was whole and well formed.
    Requests,
    /// Answers of the classes 2xx to 5xx, refusals included.
    Successes,
    Redirections,
    ClientErrors,
    ServerErrors,
    /// Connections ended since a request's head, its body, or the reading of an answer took too long, or since no
    /// request came.
    HeadTimeouts,
    BodyTimeouts,
    WriteTimeouts,
    IdleTimeouts,
    /// Requests whose handling panicked.
    Panics,
    /// Connections closed for want of a PROXY header on a listener that declares it.
    Unintroduced,
    /// Answers that the worker's own cache had, and had not.
    L1Hits,
    L1Misses,
    /// Shoes that Redis was asked for, and had and had not; it has none while it can't be asked.
    RedisHits,
    RedisMisses,
    /// Questions to Redis or the database that were refused, for too many waited.
    Shed,
    /// Calls of Redis or the database, each for all the questions of a kind that waited.
    LaneBatches,
    /// Requests to the admin listener, which are counted here and nowhere else.
    AdminRequests,
    /// Batches of questions to the database that a replica answered; that it could not, for it had not replayed enough; and that
    /// got no answer of it.
    ReplicaAnswers,
    ReplicaBehind,
    ReplicaFailures,
    /// Messages refused for the reason of this place in [`REFUSALS`].
    Refused(u8),
}

/// The names of the reasons to refuse a message, in the order of the refusals that `http` knows.
pub const REFUSALS: [&str; 32] = [
    "blank_lines",
    "bare_cr",
    "bare_lf",
    "nul",
    "request_line_too_long",
    "head_too_large",
    "too_many_fields",
    "method",
    "request_line",
    "version",
    "target",
    "field_name",
    "space_before_colon",
    "obsolete_fold",
    "field_value",
    "host_missing",
    "host_repeated",
    "host_invalid",
    "field_repeated",
    "field_not_ascii",
    "content_length",
    "transfer_encoding",
    "transfer_coding",
    "transfer_encoding_and_length",
    "transfer_encoding_in_http10",
    "expectation",
    "body_too_large",
    "chunk_size",
    "chunk_extension",
    "chunk_end",
    "trailer",
    "chunk_overhead",
];

/// The counters without a number of their own, in the order of their places.
const PLAIN: [(Counter, &str); 24] = [
    (Counter::Connections, "connections"),
    (Counter::TurnedAway, "turned_away"),
    (Counter::AcceptPauses, "accept_pauses"),
    (Counter::Requests, "requests"),
    (Counter::Successes, "answers_2xx"),
    (Counter::Redirections, "answers_3xx"),
    (Counter::ClientErrors, "answers_4xx"),
    (Counter::ServerErrors, "answers_5xx"),
    (Counter::HeadTimeouts, "head_timeouts"),
    (Counter::BodyTimeouts, "body_timeouts"),
    (Counter::WriteTimeouts, "write_timeouts"),
    (Counter::IdleTimeouts, "idle_timeouts"),
    (Counter::Panics, "panics"),
    (Counter::Unintroduced, "unintroduced"),
    (Counter::L1Hits, "l1_hits"),
    (Counter::L1Misses, "l1_misses"),
    (Counter::RedisHits, "redis_hits"),
    (Counter::RedisMisses, "redis_misses"),
    (Counter::Shed, "shed"),
    (Counter::LaneBatches, "lane_batches"),
    (Counter::AdminRequests, "admin_requests"),
    (Counter::ReplicaAnswers, "replica_answers"),
    (Counter::ReplicaBehind, "replica_behind"),
    (Counter::ReplicaFailures, "replica_failures"),
];

impl Counter {
    /// How many there are.
    pub const COUNT: usize = PLAIN.len() + REFUSALS.len();

    /// All of them, in the order of their places.
    pub fn all() -> impl Iterator<Item = Counter> {
        let refused = (0..REFUSALS.len() as u8).map(Counter::Refused);
        PLAIN.into_iter().map(|(counter, _)| counter).chain(refused)
    }

    /// The counter of an answer, by its status; none for an interim one.
    pub const fn of_status(status: u16) -> Option<Counter> {
        match status / 100 {
            2 => Some(Counter::Successes),
            3 => Some(Counter::Redirections),
            4 => Some(Counter::ClientErrors),
            5 => Some(Counter::ServerErrors),
            _ => None,
        }
    }

    /// Lower case, words joined by `_`, unique; refusals have `refused_` before the reason.
    pub fn name(self) -> String {
        match self {
            Counter::Refused(at) => format!("refused_{}", REFUSALS[usize::from(at)]),
            plain => PLAIN[plain.place()].1.to_owned(),
        }
    }

    /// Where it is kept in a worker's row.
    pub(super) const fn place(self) -> usize {
        match self {
            Counter::Connections => 0,
            Counter::TurnedAway => 1,
            Counter::AcceptPauses => 2,
            Counter::Requests => 3,
            Counter::Successes => 4,
            Counter::Redirections => 5,
            Counter::ClientErrors => 6,
            Counter::ServerErrors => 7,
            Counter::HeadTimeouts => 8,
            Counter::BodyTimeouts => 9,
            Counter::WriteTimeouts => 10,
            Counter::IdleTimeouts => 11,
            Counter::Panics => 12,
            Counter::Unintroduced => 13,
            Counter::L1Hits => 14,
            Counter::L1Misses => 15,
            Counter::RedisHits => 16,
            Counter::RedisMisses => 17,
            Counter::Shed => 18,
            Counter::LaneBatches => 19,
            Counter::AdminRequests => 20,
            Counter::ReplicaAnswers => 21,
            Counter::ReplicaBehind => 22,
            Counter::ReplicaFailures => 23,
            Counter::Refused(at) => PLAIN.len() + at as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_counter_has_its_own_place_and_name() {
        let places: Vec<usize> = Counter::all().map(Counter::place).collect();
        assert_eq!(places, (0..Counter::COUNT).collect::<Vec<_>>());
        let names: BTreeSet<String> = Counter::all().map(Counter::name).collect();
        assert_eq!(names.len(), Counter::COUNT);
    }
}
