//! What is known of the request at hand beside its head: its name, the trace that it belongs to, and where its time went. The
//! connection makes one for each request and lends it to the service, which notes what it has waited for.

use std::cell::Cell;
use std::time::Duration;

use super::head::Head;
use super::request_id::RequestId;
use super::trace::TraceParent;

/// One request. Lives on one coroutine.
#[derive(Debug, Default)]
pub struct Context {
    pub id: RequestId,
    /// Boxed: most requests have none.
    trace: Option<Box<TraceParent>>,
    spent: Cell<Spent>,
    /// The shoe that was asked for, once that is known to take more than a look into the worker's own cache.
    shoe_id: Cell<Option<i32>>,
}

impl Context {
    /// Of a request with this head.
    pub fn of(head: &Head<'_>) -> Self {
        Context {
            id: RequestId::given(head.request_id),
            trace: head.traceparent.and_then(TraceParent::parse).map(Box::new),
            ..Context::default()
        }
    }

    /// The valid `traceparent` that came with it.
    pub fn trace(&self) -> Option<&TraceParent> {
        self.trace.as_deref()
    }

    /// For a field of the log.
    pub fn trace_id(&self) -> Option<&str> {
        self.trace().map(TraceParent::trace_id)
    }

    /// Notes what waiting for an answer consisted of.
    pub fn spend(&self, spent: Spent) {
        let before = self.spent.get();
        self.spent.set(Spent {
            queue: before.queue + spent.queue,
            redis: before.redis + spent.redis,
            sql: before.sql + spent.sql,
        });
    }

    pub fn spent(&self) -> Spent {
        self.spent.get()
    }

    /// Notes which shoe it is about.
    pub fn concern(&self, shoe_id: i32) {
        self.shoe_id.set(Some(shoe_id));
    }

    pub fn shoe_id(&self) -> Option<i32> {
        self.shoe_id.get()
    }
}

/// What a request has waited for behind the service. The rest is the worker's own.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// For its turn, in the queues of the lanes.
    pub queue: Duration,
    /// For Redis: the look-up that it was part of, and what a write tells Redis.
    pub redis: Duration,
    /// For the database: the call that it was part of, the wait for a connection included.
    pub sql: Duration,
}

impl Spent {
    /// The part of it that falls into the last while: for who came when it had begun. The database is last, the queue before it.
    #[must_use]
    pub fn last(self, mut part: Duration) -> Spent {
        let mut take = |whole: Duration| {
            let taken = whole.min(part);
            part -= taken;
            taken
        };
        let sql = take(self.sql);
        let queue = take(self.queue);
        Spent {
            queue,
            redis: take(self.redis),
            sql,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_comes_late_has_waited_for_the_end_only() {
        let spent = |queue, redis, sql| Spent {
            queue: queue * MS,
            redis: redis * MS,
            sql: sql * MS,
        };
        let whole = spent(10, 20, 30);
        for (part, left) in [
            (0, spent(0, 0, 0)),
            (7, spent(0, 0, 7)),
            (35, spent(5, 0, 30)),
            (50, spent(10, 10, 30)),
            (1000, whole),
        ] {
            assert_eq!(whole.last(part * MS), left, "{part}");
        }
    }

    #[test]
    fn what_is_waited_for_in_turn_adds_up() {
        let context = Context::default();
        context.spend(Spent {
            sql: MS,
            ..Spent::default()
        });
        context.spend(Spent {
            sql: MS,
            queue: 3 * MS,
            ..Spent::default()
        });
        assert_eq!(context.spent().sql, 2 * MS);
        assert_eq!(context.spent().queue, 3 * MS);
    }
}
