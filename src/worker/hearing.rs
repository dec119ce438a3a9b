//! Writes that were made past every server, straight in the database: a thread that hears of them and has the caches forget
//! what they keep. While it hears nothing, for want of a connection, answers are as old as their time allows, and what was
//! missed is made good by forgetting everything once there is a connection: a first one that comes late is a return, too.

use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use crate::cache::redis::RedisCache;
use crate::scoreboard::Scoreboard;
use crate::scoreboard::buckets::Buckets;
use crate::scoreboard::generations::Entry;
use crate::store::notices::{Listener, Notice};

/// How long to leave the database alone after it could not be reached.
const PAUSE: Duration = Duration::from_millis(500);

/// Starts the thread. `speaks` is whether this worker says what concerns all of them.
///
/// # Errors
/// The kernel has no thread left for us.
pub fn start(
    mut listener: Listener,
    redis: Option<Arc<RedisCache>>,
    scoreboard: Scoreboard,
    speaks: bool,
) -> io::Result<()> {
    let hearing = Hearing { redis, scoreboard };
    thread::Builder::new()
        .name("notices".to_owned())
        .spawn(move || {
            let mut has_missed = false;
            let mut is_told = false;
            loop {
                match listener.connect() {
                    Ok(has_triggers) => {
                        // What was written right before is not told, and replicas must have it.
                        hearing.scoreboard.written().doubt();
                        if !has_triggers && speaks && !is_told {
                            is_told = true;
                            log::warn!(
                                "store: writes made past this server are not heard of, for the table has no triggers that \
                                 tell: `canvas-cluster migrate --with-notify` makes them"
                            );
                        }
                        if has_missed {
                            hearing.heed(&[Notice::Everything]);
                        }
                        while let Ok(notices) = listener.wait() {
                            hearing.heed(&notices);
                        }
                        has_missed = true;
                    }
                    // The lanes say that the database is away. Redis may answer meanwhile.
                    Err(error) => {
                        has_missed = true;
                        log::debug!("store: nothing is heard of other writers: {error}");
                    }
                }
                thread::sleep(PAUSE);
            }
        })
        .map(drop)
}

struct Hearing {
    redis: Option<Arc<RedisCache>>,
    scoreboard: Scoreboard,
}

impl Hearing {
    /// Redis first: what is asked of it between the two must be too old already.
    fn heed(&self, notices: &[Notice]) {
        let generations = self.scoreboard.generations();
        // A notice does not say how far its write is in the log. It comes once that is committed, so the primary knows.
        if !notices.is_empty() {
            self.scoreboard.written().doubt();
        }
        if notices.contains(&Notice::Everything) {
            if self.redis.is_some() {
                // A new epoch, which the clerk begins at once.
                self.scoreboard.marks().owe(Buckets::ALL);
            }
            generations.bump_all();
            return;
        }
        let shoe_ids: Vec<i32> = notices
            .iter()
            .filter_map(|notice| match notice {
                Notice::Shoe(shoe_id) => Some(*shoe_id),
                Notice::Everything => None,
            })
            .collect();
        // Those of servers that share our Redis have their tombstones there, which stay; of others it holds the old answer.
        if let Some(redis) = self.redis.as_ref().filter(|_| !shoe_ids.is_empty()) {
            redis.forget(&shoe_ids);
        }
        for shoe_id in shoe_ids {
            generations.bump(Entry::of_shoe(shoe_id));
        }
    }
}
