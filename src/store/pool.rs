//! Handing connections out. An r2d2 pool retries a failed connection for ever and lets its callers wait
//! for their whole timeout meanwhile. The [`Gate`] in front of it makes that bearable: while a server is
//! down there is one attempt at a time with growing, jittered pauses, and callers are told at once.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use r2d2::{ManageConnection, Pool, PooledConnection};

use super::{Deadline, StoreError};

/// The pause after a first failed attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// How long a probe may hang before it keeps no other from trying.
const NEXT_PROBE: Duration = Duration::from_millis(700);
/// r2d2 retries at half of this at the latest. Its callers never wait by it: they bring their deadline.
const R2D2_TIMEOUT: Duration = Duration::from_millis(200);

/// Lets attempts to connect through, or holds them back after a failure.
pub(super) struct Gate {
    /// What lies behind, for the log: a URL without its password, or a path.
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Failed attempts since the last success.
    failures: u32,
    last_error: String,
    /// No attempt before this; unset while all is well.
    next_attempt: Option<Instant>,
    /// Attempts of an unwell gate that are under way, and when the last of them began.
    probes: u32,
    last_probe: Option<Instant>,
}

impl Gate {
    pub(super) fn new(name: String) -> Self {
        Gate {
            name,
            state: Mutex::default(),
        }
    }

    /// Runs one attempt to connect, or answers with the last error if it is too early for another.
    pub(super) fn attempt<T>(
        &self,
        connect: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        let probe = self.enter()?;
        let result = connect();
        match &result {
            Ok(_) => self.succeed(),
            Err(why) => self.fail(why, probe.is_some()),
        }
        result
    }

    /// Lets any number of attempts in while all is well, else one at a time, the probe; and another beside one that hangs.
    fn enter(&self) -> Result<Option<Probe<'_>>, String> {
        let mut state = self.state();
        if state.failures == 0 {
            return Ok(None);
        }
        let early = state
            .next_attempt
            .is_some_and(|moment| Instant::now() < moment);
        // One that hangs would keep everybody out after the server is back, for as long as it hangs.
        let hangs = state
            .last_probe
            .is_none_or(|began| began.elapsed() >= NEXT_PROBE);
        if early || (state.probes > 0 && !hangs) {
            return Err(state.last_error.clone());
        }
        state.probes += 1;
        state.last_probe = Some(Instant::now());
        Ok(Some(Probe(self)))
    }

    fn succeed(&self) {
        let mut state = self.state();
        if state.failures > 0 {
            log::info!("{} is back", self.name);
        }
        let probes = state.probes;
        *state = State {
            probes,
            ..State::default()
        };
    }

    fn fail(&self, why: &str, probe: bool) {
        let mut state = self.state();
        let first = state.failures == 0;
        // Another got in meanwhile: this one tells of the past.
        if first && probe {
            return;
        }
        if first {
            log::warn!("{} is not available, retrying: {why}", self.name);
        }
        state.last_error = why.to_owned();
        // Attempts that began together before the first failure fail together: they count as one.
        if first || probe {
            state.failures = state.failures.saturating_add(1);
            let pause = LONGEST_PAUSE.min(FIRST_PAUSE * (1 << (state.failures - 1).min(8)));
            state.next_attempt = Some(Instant::now() + jittered(pause));
        }
    }

    /// Why the last attempt failed, if none has succeeded since.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.state();
        (state.failures > 0).then(|| state.last_error.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while holding the lock, and the state would still be sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that an unwell gate has let in. Dropped at its end, however it ends.
struct Probe<'a>(&'a Gate);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.probes = state.probes.saturating_sub(1);
    }
}

/// Between half of `pause` and all of it, so that many workers don't come back in step.
fn jittered(pause: Duration) -> Duration {
    // A fresh RandomState hashes with fresh keys: randomness enough, without a crate for it.
    let dice = RandomState::new().hash_one(0_u8) % 1024;
    pause / 2 + pause.mul_f64(dice as f64 / 2048.0)
}

/// A pool that opens nothing before it is asked, and never fails to be built.
pub(super) fn build<M: ManageConnection>(manager: M, max_size: u32) -> Pool<M> {
    Pool::builder()
        .max_size(max_size.max(1))
        .min_idle(Some(0))
        .test_on_check_out(false)
        .connection_timeout(R2D2_TIMEOUT)
        // The gate has already logged what is worth logging.
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build_unchecked(manager)
}

/// A connection, by the deadline.
///
/// # Errors
/// [`StoreError::Unavailable`] at once if there is no connection and the last attempt to open one failed,
/// or at the deadline if all connections are busy; [`StoreError::TimedOut`] if it has passed already.
pub(super) fn checkout<M: ManageConnection>(
    pool: &Pool<M>,
    gate: &Gate,
    deadline: Deadline,
) -> Result<PooledConnection<M>, StoreError> {
    if deadline.passed() {
        return Err(StoreError::TimedOut);
    }
    // r2d2 wakes a waiting caller when a connection comes, but not when an attempt fails: wait in slices.
    let mut slice = Duration::from_millis(10);
    loop {
        if let Some(connection) = pool.try_get() {
            return Ok(connection);
        }
        // With connections left, one of them may soon be free; without, only the gate's prober helps.
        if pool.state().connections == 0
            && let Some(why) = gate.trouble()
        {
            return Err(StoreError::Unavailable(why));
        }
        if let Ok(connection) = pool.get_timeout(slice.min(deadline.left())) {
            return Ok(connection);
        }
        if deadline.passed() {
            let why = gate
                .trouble()
                .unwrap_or_else(|| match pool.state().connections {
                    0 => "no connection could be opened in time".to_owned(),
                    n => format!("all {n} connections were busy"),
                });
            return Err(StoreError::Unavailable(why));
        }
        slice *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_attempts_back_after_a_failure_and_forgets_after_a_success() {
        let gate = Gate::new("test".to_owned());
        assert_eq!(gate.attempt(|| Ok(1)), Ok(1));
        assert_eq!(
            gate.attempt(|| Err::<i32, _>("down".to_owned())),
            Err("down".to_owned())
        );
        assert_eq!(gate.trouble().as_deref(), Some("down"));

        let mut reached = false;
        let held = gate.attempt(|| {
            reached = true;
            Ok(())
        });
        assert!(
            held.is_err() && !reached,
            "an attempt right after a failure reached the server"
        );

        let moment = gate.state().next_attempt.expect("a pause");
        let pause = moment.saturating_duration_since(Instant::now());
        assert!(pause <= LONGEST_PAUSE, "{pause:?}");
        std::thread::sleep(pause);
        assert_eq!(gate.attempt(|| Ok(2)), Ok(2));
        assert_eq!(gate.trouble(), None);
    }

    /// A network once swallowed the packets of one attempt, and came back right after: the pool stayed empty until
    /// that attempt had waited its whole time out.
    #[test]
    fn an_attempt_that_hangs_keeps_no_later_one_out() {
        let gate = Gate::new("test".to_owned());
        let _ = gate.attempt(|| Err::<(), _>("down".to_owned()));
        gate.state().next_attempt = None;
        let outcome = gate.attempt(|| {
            assert!(gate.attempt(|| Ok(1)).is_err(), "two probes at once");
            let long_ago = Instant::now().checked_sub(NEXT_PROBE);
            gate.state().last_probe = Some(long_ago.expect("an uptime"));
            assert_eq!(gate.attempt(|| Ok(2)), Ok(2));
            Err::<i32, _>("timed out".to_owned())
        });
        assert!(outcome.is_err());
        assert_eq!(gate.trouble(), None, "what is past counts no more");
        assert_eq!(gate.state().probes, 0);
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let gate = Gate::new("test".to_owned());
        for _ in 0..40 {
            gate.state().next_attempt = None;
            let _ = gate.attempt(|| Err::<(), _>("down".to_owned()));
            let moment = gate.state().next_attempt.expect("a pause");
            assert!(moment <= Instant::now() + LONGEST_PAUSE);
        }
        assert!(
            (0..99).all(|_| (LONGEST_PAUSE / 2..=LONGEST_PAUSE).contains(&jittered(LONGEST_PAUSE)))
        );
    }
}
