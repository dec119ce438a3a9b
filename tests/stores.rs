//! The stores against real databases: SQLite files, private PostgreSQL servers and a stand-in for CouchDB, which these tests start
//! themselves. What the `Store` trait promises is tested by one body for all (`contract`).

#[path = "stores/contract.rs"]
mod contract;
#[path = "stores/fixture.rs"]
mod fixture;
#[path = "stores/outage.rs"]
mod outage;
#[path = "stores/schema.rs"]
mod schema;
#[path = "stores/seed.rs"]
mod seed;
#[path = "stores/server.rs"]
mod server;
#[path = "stores/sqlite.rs"]
mod sqlite;
#[path = "stores/tls.rs"]
mod tls;

/// Of the other binary's workshop, what its CouchDB needs.
#[allow(dead_code)]
mod support {
    #[path = "../support/couchdb.rs"]
    pub mod couchdb;
    #[path = "../support/dir.rs"]
    pub mod dir;
    #[path = "../support/process.rs"]
    pub mod process;
    #[path = "../support/wait.rs"]
    pub mod wait;
}
