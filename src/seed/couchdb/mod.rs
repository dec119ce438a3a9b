//! Seeding CouchDB: chunks of documents through `_bulk_docs`, over several connections at once. No transaction holds them
//! together, so the ids of a seed begin alike, and a *mark* tells how until it is done.
//!
//! 1. Create the database and its view; remove what an interrupted seed has left.
//! 2. Write the mark: "ids that begin so are being seeded". Others' ids never do, for a seed takes them of one UUID.
//! 3. Load the documents; meanwhile the mark is written anew every second, which is how another seed sees that this one lives.
//! 4. Have the index built, and remove the mark.

mod mark;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use self::mark::{BEAT, Mark};
use super::{Mode, Phase, Progress, SeedError, Summary, generate, last_of};
use crate::store::couchdb::{
    CallError, Client, DESIGN, Document, Question, Unwritten, VIEW, ViewAnswer, Written, new, post,
};
use crate::store::schema::couchdb::{build_index, ensure_database};
use crate::store::url::CouchUrl;
use crate::store::{Deadline, PoolOptions, StoreError};

/// Documents in one request: some 250 KiB.
const CHUNK: u32 = 500;

/// How long the server may take for one request.
const PATIENCE: Duration = Duration::from_secs(120);

fn patience() -> Deadline {
    Deadline::after(PATIENCE)
}

pub(super) fn run(
    url: &CouchUrl,
    rows: u32,
    mode: Mode,
    streams: u32,
    progress: impl Fn(Progress),
) -> Result<Summary, SeedError> {
    let begun = Instant::now();
    let report = |phase, done: u32| {
        progress(Progress {
            phase,
            done: done.into(),
            rows: rows.into(),
        })
    };
    let options = PoolOptions {
        max_size: streams + 1,
        ..PoolOptions::default()
    };
    let client = Client::open(url, options)?;
    ensure_database(&client)?;
    let swept = mark::sweep(&client, || report(Phase::Cleaning, 0))?;
    match mode {
        Mode::Fill => {
            let there = mark::count(&client)?;
            if there > 0 {
                return Err(SeedError::NotEmpty { rows: there });
            }
        }
        Mode::Truncate => {
            report(Phase::Cleaning, 0);
            mark::remove_all(&client, || report(Phase::Cleaning, 0))?;
        }
        Mode::Append => {}
    }
    let last = last_of(greatest_shoe(&client)?, rows)?;
    let first_shoe_id = last.wrapping_sub_unsigned(rows).wrapping_add(1);
    let mut mark = Mark::set(&client)?;

    let loading = Instant::now();
    let loaded = load(&client, &mut mark, first_shoe_id, rows, streams, |done| {
        report(Phase::Loading, done);
    });
    if let Err(error) = loaded {
        // What can't be tidied up now, with the server gone or full, the next seed tidies up.
        report(Phase::Cleaning, 0);
        let _ = mark
            .remove_rows(&client, || report(Phase::Cleaning, 0))
            .and_then(|_| mark.clear(&client));
        return Err(error.into());
    }
    let loading = loading.elapsed();

    report(Phase::Indexing, rows);
    build_index(&client)?;
    mark.clear(&client)?;
    Ok(Summary {
        rows,
        first_shoe_id,
        swept,
        loading,
        total: begun.elapsed(),
    })
}

/// 0 if there is none above it.
fn greatest_shoe(client: &Client) -> Result<i64, StoreError> {
    let path = format!("{DESIGN}/_view/{VIEW}?descending=true&limit=1");
    let answer = client.read(&Question::get(&path), patience());
    let answer: ViewAnswer = answer
        .and_then(|answer| answer.json())
        .map_err(CallError::into_store_error)?;
    // A shoe that is no whole number is not ours.
    Ok(answer.rows.first().map_or(0, |row| row.key.max(0.0) as i64))
}

/// Step 3. The rows go out in chunks; who loads takes the next one that nobody has.
fn load(
    client: &Client,
    mark: &mut Mark,
    first_shoe_id: i32,
    rows: u32,
    streams: u32,
    report: impl Fn(u32),
) -> Result<(), StoreError> {
    report(0);
    let next = AtomicU32::new(0);
    let stop = AtomicBool::new(false);
    let base = mark.base();
    let chunks = rows.div_ceil(CHUNK);
    thread::scope(|scope| {
        let (tell, told) = channel();
        for _ in 0..streams.min(chunks.max(1)) {
            let tell: Sender<Result<u32, StoreError>> = tell.clone();
            let (next, stop) = (&next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let chunk = next.fetch_add(1, Ordering::Relaxed);
                    if chunk >= chunks {
                        return;
                    }
                    let numbers = chunk * CHUNK..rows.min((chunk + 1).saturating_mul(CHUNK));
                    let count = numbers.end - numbers.start;
                    let documents: Vec<Document> = numbers
                        .map(|n| {
                            new(
                                &base.id(n),
                                &generate(first_shoe_id.wrapping_add_unsigned(n)),
                            )
                        })
                        .collect();
                    let loaded = store_all(client, &documents).map(|()| count);
                    if tell.send(loaded).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        let mut done = 0;
        let mut beaten = Instant::now();
        let outcome = loop {
            match told.recv_timeout(BEAT) {
                Ok(Ok(count)) => {
                    done += count;
                    report(done);
                }
                Ok(Err(error)) => break Err(error),
                Err(RecvTimeoutError::Timeout) => report(done),
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            }
            if beaten.elapsed() >= BEAT {
                beaten = Instant::now();
                if let Err(error) = mark.beat(client) {
                    break Err(error);
                }
            }
        };
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Stores a chunk, all of it or it is an error.
fn store_all(client: &Client, documents: &[Document]) -> Result<(), StoreError> {
    let written = post(client, documents, patience()).map_err(|unwritten| match unwritten {
        Unwritten::Certainly(error) => error,
        Unwritten::Perhaps(why) => StoreError::Unavailable(why),
    })?;
    for outcome in written {
        match outcome {
            Written::Stored => {}
            Written::Not(error) => return Err(error),
            Written::Conflict => {
                return Err(StoreError::Failed("an id of the seed is taken".to_owned()));
            }
            Written::Unknown(why) | Written::Doubtful(why) => {
                return Err(StoreError::Unavailable(why));
            }
        }
    }
    Ok(())
}
