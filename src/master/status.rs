//! What the service manager sees of the master: a status line, signs of life while somebody serves, and the listening
//! sockets that it keeps over a restart.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::Master;
use super::children::Child;
use super::listeners::{is_kept_name, kept_name};
use crate::scoreboard::counters::Counter;
use crate::scoreboard::{Scoreboard, moment};

/// How often the status line is made anew.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// The shortest silence of a worker's loop that means anything: it ticks ten times a second.
const SILENCE: Duration = Duration::from_secs(1);

/// How many requests a second there were when the status line was last made.
pub(super) struct Pace {
    /// How many there had been by then.
    requests: u64,
    since: Instant,
    a_second: u64,
}

impl Pace {
    /// From so many requests on.
    pub(super) fn from(requests: u64, now: Instant) -> Self {
        Pace {
            requests,
            since: now,
            a_second: 0,
        }
    }

    fn measure(&mut self, requests: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        let made = requests.saturating_sub(self.requests) as f64;
        *self = Pace {
            requests,
            since: now,
            a_second: (made / passed).round() as u64,
        };
    }
}

impl Master {
    /// Tells the service manager how it goes, if it is time to, and gives a sign of life, if there is life: one worker at
    /// least that serves and whose loop moves. A server that stops has deadlines of its own.
    pub(super) fn look_after_manager(&mut self) {
        if !self.manager.is_there() {
            return;
        }
        let now = Instant::now();
        if now.saturating_duration_since(self.pace.since) >= STATUS_EVERY {
            self.pace.measure(self.counted(Counter::Requests), now);
            let status = self.status();
            self.manager.show(&status);
        }
        let stopping = self.plan.is_stopping();
        let (children, scoreboard) = (&self.children, self.scoreboard);
        self.manager.live(now, |patience| {
            stopping || somebody_moves(children.values(), scoreboard, patience)
        });
    }

    /// `4/4 workers ready, 9,981 req/s, generation 3`, and what is wrong, if something is.
    pub(super) fn status(&self) -> String {
        let (ready, wanted) = (self.plan.ready(), self.plan.wanted());
        if self.plan.is_stopping() {
            return format!("stopping: {} workers finish", self.children.len());
        }
        let mut status = format!(
            "{ready}/{wanted} workers ready, {} req/s, generation {}",
            with_commas(self.pace.a_second),
            self.generation
        );
        if self.plan.is_leaving() {
            status += ", about to stop";
        }
        if self.plan.is_rolling() {
            status += ", replacing workers";
        }
        let degraded: Vec<String> = self.plan.degraded().map(|slot| slot.to_string()).collect();
        if !degraded.is_empty() {
            status += &format!("; degraded: slot {}", degraded.join(", "));
        }
        // A change that is under way may mend it.
        if self.change.under_way.is_none()
            && let Some(trouble) = self.history.trouble()
        {
            status += &format!("; {trouble}");
        }
        status
    }

    /// Has the service manager keep every socket that it does not have yet.
    pub(super) fn keep_sockets(&mut self) {
        let manager = &self.manager;
        if manager.is_there() {
            self.listeners
                .hand_over(|name, socket| manager.keep(name, socket.as_fd()));
        }
    }

    /// Has the sockets of slots that are new listen, whose workers are there now.
    pub(super) fn open_sockets(&mut self) {
        if let Err(error) = self.listeners.open() {
            log::error!("master: can't listen for the slots that are new: {error}");
        }
        self.keep_sockets();
    }

    /// Closes the addresses that the configuration does not want any more, here and in the service manager.
    pub(super) fn give_up_addresses(&mut self) {
        for name in self.listeners.retain(&self.config.listen) {
            self.manager.let_go(&name);
        }
    }

    /// The same, and what a change that came to nothing has made.
    pub(super) fn withdraw_addresses(&mut self) {
        for name in self.listeners.withdraw(&self.config.listen) {
            self.manager.let_go(&name);
        }
    }

    /// Closes what the service manager passed for addresses that the configuration does not name.
    pub(super) fn decline_offers(&mut self) {
        for (address, name) in self.listeners.decline() {
            if is_kept_name(&name) {
                log::info!("master: {address} is not listened on any more");
                self.manager.let_go(&kept_name(address));
            } else {
                log::warn!(
                    "master: the service manager passes a socket for {address} ({name}), which --listen does not name"
                );
            }
        }
    }
}

/// Whether one of these workers serves and its loop has moved in so long a time.
pub(super) fn somebody_moves<'c>(
    mut children: impl Iterator<Item = &'c Child>,
    scoreboard: Scoreboard,
    patience: Duration,
) -> bool {
    let beaten = moment();
    let fresh = patience.max(SILENCE).as_millis() as u64;
    let moves = |row: usize| beaten.saturating_sub(scoreboard.row(row).last_beat()) < fresh;
    children.any(|child| child.ready && child.row.is_none_or(moves))
}

/// `9,981`
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_by_people() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (9981, "9,981"),
            (1_234_567, "1,234,567"),
        ];
        for (number, text) in cases {
            assert_eq!(with_commas(number), text);
        }
    }
}
