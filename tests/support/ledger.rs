//! What writers were told of each of their rows, held against what is stored. Each row has a name of its own, so it shows afterwards
//! what became of each request: what was acknowledged is there once, what was refused is not there, and only what was said to
//! be unknown may be either.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::http::Client;
use super::postgres::Database;
use super::server::Server;
use super::shoes::{draft, post};
use super::wait::until_done;

const WRITERS: usize = 8;

/// How soon a writer who was refused tries again.
const PACE: Duration = Duration::from_millis(2);

/// The shoe that all rows are of.
const SHOE: i64 = 1;

/// What came of each name: `201`, or the type of the problem.
pub struct Ledger(BTreeMap<String, String>);

impl Ledger {
    /// Lets writers write until `trouble` is over.
    pub fn keep(server: &Server, trouble: impl FnOnce()) -> Ledger {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let stop = &stop;
                    scope.spawn(move || write_until(server, writer, stop))
                })
                .collect();
            until_done(&stop, trouble);
            let told = writers
                .into_iter()
                .flat_map(|writer| writer.join().expect("no panic"));
            Ledger(told.collect())
        })
    }

    /// Checks all of it, and that not all went well: the trouble was none otherwise.
    #[track_caller]
    pub fn assert_true_of(&self, database: &Database) {
        let query = "SELECT img1, count(*) FROM shoe_images WHERE shoe_id = 1 GROUP BY img1";
        let rows = database.connect().query(query, &[]).expect("rows");
        let stored: BTreeMap<String, i64> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let mut wrong = Vec::new();
        for (name, answer) in &self.0 {
            let count = stored.get(name).copied().unwrap_or(0);
            let fits = match answer.as_str() {
                "201" => count == 1,
                "/problems/outcome-unknown" => count <= 1,
                _ => count == 0,
            };
            if !fits {
                wrong.push(format!("{name}: {answer}, and there {count} times"));
            }
        }
        let counted = |wanted: &str| self.0.values().filter(|answer| *answer == wanted).count();
        println!(
            "{} writes: {} acknowledged, {} unknown",
            self.0.len(),
            counted("201"),
            counted("/problems/outcome-unknown")
        );
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(
            counted("201") < self.0.len(),
            "nobody noticed that anything happened"
        );
    }
}

/// Writes rows of different names until it is told to stop; what came of each.
fn write_until(server: &Server, writer: usize, stop: &AtomicBool) -> Vec<(String, String)> {
    let mut client: Option<Client> = None;
    let mut told = Vec::new();
    for turn in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("{writer}-{turn}");
        let connection = client.get_or_insert_with(|| server.connect());
        let answer = connection
            .call(&post(draft(SHOE, &[("img1", &name)])))
            .expect("every request has an answer");
        if connection.told_to_close {
            client = None;
        }
        told.push(match answer.status {
            201 => (name, "201".to_owned()),
            status => {
                // As a client would that reads Retry-After, if not for so long.
                thread::sleep(PACE);
                (name, answer.problem(status).kind)
            }
        });
    }
    told
}
