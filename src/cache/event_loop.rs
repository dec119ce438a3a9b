//! Exchanges with Redis, one or several at once, each of which ends by its deadline.
//!
//! Why not `redis::Connection`: its time-outs are those of single system calls, so a Redis, or a network, that lets a byte
//! through now and then holds a lane for as long as it likes. As with `store::postgres::session`, the thread that asks runs
//! the crate's asynchronous connection and a timer, and whichever is first ends the exchange.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{RedisError, RedisResult};
use tokio::runtime::{Builder, Runtime};

use crate::store::Deadline;

/// How long one exchange with Redis may take, whatever it consists of. It is a cache on the same network: slower than this is
/// down.
pub(super) const IO_TIMEOUT: Duration = Duration::from_millis(250);

/// What a connection's bytes move on, while the thread that waits for them is here.
pub(super) struct EventLoop(Option<Runtime>);

impl EventLoop {
    /// # Errors
    /// The kernel has no descriptors left for us.
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(EventLoop(Some(runtime)))
    }

    /// Runs several to their ends or to the deadline, in the order in which they are given.
    ///
    /// # Errors
    /// Of each its own; a time-out of ours, where its end did not come first.
    pub(super) fn gather<T>(
        &self,
        deadline: Deadline,
        exchanges: impl Iterator<Item = impl Future<Output = RedisResult<T>>>,
    ) -> Vec<RedisResult<T>> {
        let mut answers = Vec::new();
        let mut pending = FuturesUnordered::new();
        for (place, exchange) in exchanges.enumerate() {
            answers.push(None);
            pending.push(async move { (place, exchange.await) });
        }
        // Its failure is that of those that have no answer.
        let _ = self.run(deadline, async {
            while let Some((place, answer)) = pending.next().await {
                answers[place] = Some(answer);
            }
            Ok(())
        });
        let answers = answers.into_iter();
        answers
            .map(|answer| answer.unwrap_or_else(|| Err(timed_out())))
            .collect()
    }

    /// Runs an exchange to its end or to the deadline, whichever is first, however its bytes come.
    ///
    /// # Errors
    /// Those of the exchange; a time-out of ours is one of the connection's.
    pub(super) fn run<T>(
        &self,
        deadline: Deadline,
        exchange: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let Some(runtime) = &self.0 else {
            return Err(io::Error::from(ErrorKind::NotConnected).into());
        };
        runtime.block_on(async {
            match tokio::time::timeout(deadline.left(), exchange).await {
                Ok(outcome) => outcome,
                Err(_) => Err(timed_out()),
            }
        })
    }
}

/// What comes of an exchange that does not end in time.
pub(super) fn timed_out() -> RedisError {
    io::Error::from(ErrorKind::TimedOut).into()
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A name look-up may still be under way in a thread of the runtime: don't wait for it.
            runtime.shutdown_background();
        }
    }
}
