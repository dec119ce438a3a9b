//! The workshop of the tests: private folders, real PostgreSQL and Redis servers, the real binary, a small
//! HTTP client, a load generator, and crowds of clients that misbehave. Everything a room here starts dies with the test process, waits on
//! events, and listens on loopback, or in network namespaces of its own, only.

pub mod backend;
pub mod bystander;
pub mod canvas;
pub mod checker;
pub mod cluster;
pub mod couchdb;
pub mod crowd;
pub mod dir;
pub mod exposition;
pub mod haproxy;
pub mod http;
pub mod ledger;
pub mod load;
pub mod locked;
pub mod log;
pub mod manager;
pub mod namespaces;
pub mod nginx;
pub mod pgbouncer;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod redis;
pub mod relay;
pub mod sentinels;
pub mod server;
pub mod shoes;
pub mod sockets;
pub mod vigil;
pub mod wait;
pub mod workshop;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use backend::Backend;
pub use canvas::Canvas;
pub use dir::Dir;
pub use http::Client;
pub use server::Server;
pub use wait::{PATIENCE, until_done, wait_until};

/// Holds the machine for one heavy test (a load, many processes) at a time, so that a small machine measures
/// the server and not the other tests.
pub fn alone() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs each body over PostgreSQL behind a PgBouncer in transaction mode.
macro_rules! through_pgbouncer {
    ($($body:ident),+ $(,)?) => {
        mod pgbouncer {
            $(#[test] fn $body() { $crate::support::pgbouncer::through(super::$body); })+
        }
    };
}
pub(crate) use through_pgbouncer;

/// Runs each body over PostgreSQL, with a Redis Cluster in front.
macro_rules! over_a_cluster {
    ($($body:ident),+ $(,)?) => {
        mod redis_cluster {
            $(#[test] fn $body() { $crate::support::cluster::on_a_cluster(super::$body); })+
        }
    };
}
pub(crate) use over_a_cluster;

/// Runs each body over CouchDB's stand-in.
macro_rules! over_couchdb {
    ($($body:ident),+ $(,)?) => {
        mod couchdb_redis {
            $(#[test] fn $body() { super::$body(&$crate::support::Backend::couchdb_redis()); })+
        }
    };
}
pub(crate) use over_couchdb;

/// Runs each body over both stores that speak SQL: `over_both_stores!(a, b)` makes the tests `sqlite::a`, `postgres_redis::a`
/// and so on from `fn a(backend: &Backend)`.
macro_rules! over_both_stores {
    ($($body:ident),+ $(,)?) => {
        mod sqlite {
            $(#[test] fn $body() { super::$body(&$crate::support::Backend::sqlite()); })+
        }
        mod postgres_redis {
            $(#[test] fn $body() { super::$body(&$crate::support::Backend::postgres_redis()); })+
        }
    };
}
pub(crate) use over_both_stores;
