//! A closed-loop load: some clients, each sending its next request as soon as the last is answered. It counts
//! what became of every request and stops by itself after three minutes at the latest.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::http::{Client, Request, Trouble};
use super::wait::{PATIENCE, wait_until};

/// No load runs longer than this.
const LIMIT: Duration = Duration::from_secs(180);

/// What a paced client lets pass after each answer.
const PAUSE: Duration = Duration::from_millis(5);

/// How clients use connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One connection a client, replaced when the server announces that it closes it or when it breaks.
    KeepAlive,
    /// The same, with a pause behind each answer: for tests in which others need the processors more than the load does.
    Paced,
    /// A new connection for each request.
    ConnectionPerRequest,
}

/// Where a request failed: on a connection just made, or on one that had answered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum On {
    Fresh,
    Reused,
}

/// What became of the requests.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Answers with a status of 2xx.
    pub ok: u64,
    /// Other answers, by status.
    pub other: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub trouble: BTreeMap<(On, Trouble), u64>,
    /// The clients' ports of the connections that those requests were sent on.
    pub lost_on: Vec<u16>,
}

pub struct Load {
    clients: Vec<JoinHandle<Tally>>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
}

impl Load {
    /// Starts `clients` threads; each sends the requests in turn, every one from a different place in the list.
    pub fn start(
        address: SocketAddr,
        style: Style,
        clients: usize,
        requests: Vec<Request>,
    ) -> Load {
        assert!(!requests.is_empty());
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicU64::new(0));
        let requests = Arc::new(requests);
        let clients = (0..clients)
            .map(|number| {
                let (stop, answers, requests) = (stop.clone(), answers.clone(), requests.clone());
                thread::spawn(move || {
                    run_client(address, style, number, &requests, &stop, &answers)
                })
            })
            .collect();
        Load {
            clients,
            stop,
            answers,
        }
    }

    /// Waits until `count` more requests have been answered, which shows that the load is under way.
    #[track_caller]
    pub fn wait_for_answers(&self, count: u64) {
        let goal = self.answers.load(Ordering::Relaxed) + count;
        wait_until(
            PATIENCE,
            &format!("{count} more answers under load"),
            || self.answers.load(Ordering::Relaxed) >= goal,
        );
    }

    /// Waits until every client has given up by itself.
    #[track_caller]
    pub fn wait_for_end(&self) {
        wait_until(LIMIT + PATIENCE, "the load to end by itself", || {
            self.clients.iter().all(JoinHandle::is_finished)
        });
    }

    /// Lets each client finish the request it is at, and adds up.
    pub fn stop(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for client in self.clients.drain(..) {
            sum.add(client.join().expect("a client never panics"));
        }
        sum
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A failing test leaves its load behind; the threads end with their next answer.
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    /// True if every request got an answer of 2xx.
    pub fn all_ok(&self) -> bool {
        self.ok > 0 && self.other.is_empty() && self.trouble.is_empty()
    }

    #[track_caller]
    pub fn assert_all_ok(&self) {
        assert!(self.all_ok(), "requests were lost: {self:?}");
    }

    /// The requests without an answer on connections of this kind.
    pub fn troubled(&self, on: On) -> u64 {
        self.trouble
            .iter()
            .filter(|((place, _), _)| *place == on)
            .map(|(_, count)| count)
            .sum()
    }

    /// Prints what was sent and lost, which `--nocapture` shows.
    pub fn report(&self, what: &str) {
        let lost: u64 = self.trouble.values().sum();
        println!(
            "{what}: {} requests sent, {} answered otherwise than with 2xx, {lost} lost",
            self.sent(),
            self.other.values().sum::<u64>(),
        );
    }

    /// How many requests were made.
    pub fn sent(&self) -> u64 {
        self.ok + self.other.values().sum::<u64>() + self.trouble.values().sum::<u64>()
    }

    pub fn add(&mut self, other: Tally) {
        self.ok += other.ok;
        self.lost_on.extend(other.lost_on);
        for (status, count) in other.other {
            *self.other.entry(status).or_default() += count;
        }
        for (key, count) in other.trouble {
            *self.trouble.entry(key).or_default() += count;
        }
    }
}

fn run_client(
    address: SocketAddr,
    style: Style,
    number: usize,
    requests: &[Request],
    stop: &AtomicBool,
    answers: &AtomicU64,
) -> Tally {
    let end = Instant::now() + LIMIT;
    let mut tally = Tally::default();
    let mut connection: Option<Client> = None;
    // Clients start at different places, so that they don't march in step.
    let mut turn = number * requests.len() / 7;
    while !stop.load(Ordering::Relaxed) && Instant::now() < end {
        let request = &requests[turn % requests.len()];
        turn += 1;
        let on = if connection.is_some() {
            On::Reused
        } else {
            On::Fresh
        };
        let answer = call(&mut connection, address, request);
        match answer {
            Ok(status) if (200..300).contains(&status) => tally.ok += 1,
            Ok(status) => *tally.other.entry(status).or_default() += 1,
            Err(trouble) => {
                *tally.trouble.entry((on, trouble)).or_default() += 1;
                // There is none where connecting failed.
                let port = connection
                    .as_ref()
                    .map(|client| client.local_address().port());
                tally.lost_on.extend(port);
            }
        }
        if answer.is_ok() {
            answers.fetch_add(1, Ordering::Relaxed);
        }
        let spent = connection
            .as_ref()
            .is_none_or(|client| client.told_to_close);
        if style == Style::Paced {
            thread::sleep(PAUSE);
        }
        if style == Style::ConnectionPerRequest || answer.is_err() || spent {
            connection = None;
        }
        // A refused connect answers at once: without this a client would spin through the limit.
        if matches!(answer, Err(Trouble::Refused)) && tally.troubled(On::Fresh) >= 1000 {
            break;
        }
    }
    tally
}

fn call(
    connection: &mut Option<Client>,
    address: SocketAddr,
    request: &Request,
) -> Result<u16, Trouble> {
    let client = match connection {
        Some(client) => client,
        None => connection.insert(Client::connect(address)?),
    };
    client.call(request).map(|response| response.status)
}
