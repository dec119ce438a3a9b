//! canvas-cluster: a prefork server for a product page's images.
//!
//! The rooms, from the door down; who may call whom is `main → master → worker → {http, app} → {cache, store}`:
//! - [`config`]: the settings table, and a configuration that can't be wrong.
//! - [`master`]: one thread that owns the listeners and decides when workers live and die.
//! - [`ctl`]: what is asked of a running master, and the client that asks.
//! - [`status`]: how a server is, as a document, and who shows it; [`admin`]: who serves it, and the metrics.
//! - [`top`]: how a server is, in a terminal, again and again.
//! - [`worker`]: a process that serves: its clock, its acceptors, its lanes.
//! - [`http`]: HTTP/1.1 on a coroutine a connection; knows the service only as a trait.
//! - [`app`]: what each URL means.
//! - [`cache`]: answers that are kept, and when they may be believed.
//! - [`store`]: where shoes live for good: SQLite or PostgreSQL.
//! - [`seed`]: generated shoes, in bulk.
//! - [`tune`]: what the process may have of the host.
//! - [`scoreboard`], [`sys`], [`logging`], [`sabotage`] (faults for tests; empty in every other build): the ground floor, which
//!   imports nothing above.
//!
//! The two flows: a request is accepted by `worker::accept`, read and answered by `http::connection`, routed by
//! `app::routes`, and looked up by `worker::lanes` in `cache` and `store`. A signal reaches the master's one wait,
//! becomes an event, and `master::plan` answers it with actions: forks, orders to workers, an end.

pub mod admin;
pub mod app;
pub mod cache;
pub mod config;
pub mod ctl;
pub mod http;
pub mod logging;
pub mod master;
pub mod sabotage;
pub mod scoreboard;
pub mod seed;
pub mod status;
pub mod store;
pub mod sys;
pub mod top;
pub mod tune;
pub mod worker;
