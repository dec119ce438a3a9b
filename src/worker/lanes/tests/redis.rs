//! Lanes with a Redis of which the test sees every command, and no thread of their own: the test does their work.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

/// What the stub was asked, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Values,
    Leases,
    /// Of so many keys.
    Fill(usize),
    Other,
}

/// A Redis that holds nothing but an epoch, does not tell which process it is, and grants every lease.
fn stub(see: impl Fn(Asked) + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let see = see.clone();
            thread::spawn(move || converse(client, see));
        }
    });
    format!("redis://{address}")
}

fn converse(client: TcpStream, see: impl Fn(Asked)) {
    let mut reader = BufReader::new(client.try_clone().expect("another handle"));
    let mut writer = client;
    while let Some(words) = read_command(&mut reader) {
        let keys = words.get(2).and_then(|count| count.parse().ok());
        let (asked, answer) = match (words[0].as_str(), words.get(1)) {
            ("INFO", _) => (Asked::Other, "$0\r\n\r\n".to_owned()),
            ("MGET", _) => {
                let nothing = "$-1\r\n".repeat(words.len() - 2);
                let values = format!("*{}\r\n$2\r\n1@\r\n{nothing}", words.len() - 1);
                (Asked::Values, values)
            }
            ("EVAL", Some(script)) if script.contains("got") => {
                let keys = keys.unwrap_or(0);
                (
                    Asked::Leases,
                    format!("*{keys}\r\n{}", ":1\r\n".repeat(keys)),
                )
            }
            ("EVAL", _) => (Asked::Fill(keys.unwrap_or(0)), "$-1\r\n".to_owned()),
            _ => (Asked::Other, "+OK\r\n".to_owned()),
        };
        see(asked);
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// An array of bulk strings, as every client sends its commands.
fn read_command(reader: &mut impl BufRead) -> Option<Vec<String>> {
    let count = read_number(reader)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let mut word = vec![0; read_number(reader)? + 2];
        reader.read_exact(&mut word).ok()?;
        words.push(String::from_utf8_lossy(&word).trim_end().to_owned());
    }
    Some(words)
}

fn read_number(reader: &mut impl BufRead) -> Option<usize> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    line.get(1..)?.trim().parse().ok()
}

/// Lanes whose work the test does.
fn idle_lanes(store: Arc<dyn Store>, url: &str) -> Lanes {
    may::config().set_workers(1).set_worker_pin(false);
    let board = Scoreboard::new().expect("shared memory");
    let redis = RedisCache::new(url, "", PATIENCE, 1, PATIENCE, board).expect("a URL");
    let share = Share {
        lanes: 1,
        workers: 1,
        others: 0,
        speaks: false,
    };
    let lanes = Lanes::new(
        store,
        Some(Arc::new(redis)),
        board,
        board.row(0),
        PATIENCE,
        share,
    );
    lock(&lanes.under_way).push(At::Rest);
    lanes
}

/// Has a coroutine ask for a shoe, and looks that up in Redis. Nobody waits for the answer.
fn look_up(lanes: &Arc<Lanes>, shoe_id: i32) {
    let asking = lanes.clone();
    on_coroutine(move || asking.ask_shoe(shoe_id).map(drop))
        .recv_timeout(PATIENCE)
        .expect("no panic on the coroutine")
        .expect("room in the queue");
    let jobs = lock(&lanes.queues).take_lookups(Instant::now(), &mut Vec::new());
    assert_eq!(jobs.len(), 1, "nothing waits for Redis");
    lanes.look_up_batch(jobs);
    lock(&lanes.queues).ended(Kind::Lookups);
}

fn answered(lanes: &Lanes) -> usize {
    lock(&lanes.answered).len()
}

/// Each lookup that a batch came from once cost a round trip of its own, and everybody waited for all of them; later a command of
/// its own, each of which a silent Redis was waited for.
#[test]
fn answers_wait_for_no_fill_and_fills_share_a_command() {
    let filled: Arc<OnceLock<Arc<Lanes>>> = Arc::default();
    let (seen, fills) = mpsc::channel();
    let lanes = filled.clone();
    let url = stub(move |asked| {
        if let (Asked::Fill(keys), Some(lanes)) = (asked, lanes.get()) {
            let rests = matches!(lock(&lanes.under_way)[0], At::Rest);
            seen.send((keys, answered(lanes), rests))
                .expect("the test listens");
        }
    });
    let lanes = Arc::new(idle_lanes(Arc::new(Scripted::default()), &url));
    assert!(filled.set(lanes.clone()).is_ok());
    look_up(&lanes, 7);
    look_up(&lanes, 8);
    let mut refused = Vec::new();
    let now = Instant::now();
    let batch = lock(&lanes.queues).take(now, Kind::Shoes, Grouping::All, &mut refused);
    assert_eq!((refused.len(), answered(&lanes)), (0, 0));
    lanes.carry_out(0, batch);
    let (keys, answered, rests) = fills.recv_timeout(PATIENCE).expect("a fill");
    assert_eq!(keys, 2, "each lookup is filled by itself");
    assert_eq!(answered, 2, "who asked waits for Redis");
    assert!(rests, "a slow Redis would pass for a stuck database");
}

/// A lease on what is refused anyway would keep everybody from that shoe for seconds, when the store is back.
#[test]
fn nobody_takes_a_lease_while_the_store_would_refuse() {
    let (seen, asked) = mpsc::channel();
    let url = stub(move |asked| seen.send(asked).expect("the test listens"));
    let lanes = Arc::new(idle_lanes(Arc::new(Scripted::default()), &url));
    let asked_for = |shoe_id| -> Vec<Asked> {
        look_up(&lanes, shoe_id);
        asked
            .try_iter()
            .filter(|asked| *asked != Asked::Other)
            .collect()
    };
    assert_eq!(asked_for(7), [Asked::Values, Asked::Leases]);
    let now = Instant::now();
    let mut queues = lock(&lanes.queues);
    queues.breaker.note(false);
    assert!(queues.breaker.claim_probe(now));
    let away = Err(Arc::new(StoreError::TimedOut));
    queues.breaker.probed(now, away, 0.0);
    drop(queues);
    assert_eq!(asked_for(8), [Asked::Values]);
    assert_eq!(answered(&lanes), 1, "it was refused");
}
