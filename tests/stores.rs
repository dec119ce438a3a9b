//! The stores against real databases: SQLite files and private PostgreSQL servers, which these tests start
//! themselves. What the `Store` trait promises is tested by one body for both (`contract`).

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
