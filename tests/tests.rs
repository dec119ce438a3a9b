//! The tests of the whole program, against real processes and real servers. One binary, so that it links once and
//! shares one PostgreSQL; a module for each thing that is promised:
//!
//! - `access_log`: a line a request, never forged, lost in silence, or waited for.
//! - `admin`: metrics, status and the live page; `canvas-cluster status`.
//! - `api`: the API table, row by row, over every store.
//! - `balancers`: several hosts behind nginx and HAProxy are restarted, upgraded, killed and cut off.
//! - `cache`: Redis is filled, dropped, distrusted and never needed.
//! - `checker`: no reader sees less than was acknowledged, while workers, connections and Redis die.
//! - `coherence`: a write is visible to every worker once it is answered.
//! - `configuration`: where settings come from, and how a wrong one is refused.
//! - `control`: the control socket and `canvas-cluster ctl`.
//! - `couchdb`: revisions, lost answers, documents of others, and outages of CouchDB; seeding and migrating it.
//! - `counters`: what happens to connections and requests is counted, and told at the end.
//! - `crowd`: many connections at once, idle or too many for the descriptors.
//! - `degraded`: a slot whose workers don't get ready.
//! - `failover`: another database server takes over.
//! - `floods`: clients that drip, don't read, come in floods or talk rubbish harm nobody but themselves.
//! - `harness`: the workshop itself works (folders, PostgreSQL, Redis, load).
//! - `hosts`: servers that share a database and a Redis see what each of them writes.
//! - `house`: rooms call only the rooms that they may, and `unsafe` stays in its file.
//! - `lanes`: what a worker asks its stores for: once, together, and not for ever.
//! - `last_words`: a worker that is aborted or crashes tells where it stood.
//! - `logging`: the log's formats, slow requests, traces in logs and in SQL, and `Server-Timing`.
//! - `limits`: what the host does not allow is told, and a worker takes no more than is reckoned.
//! - `monitoring`: the alert rules and the dashboard in `monitoring`, asked of a real Prometheus that scrapes a real server.
//! - `networks`: what lies between the server and its database breaks; no write is lost or made twice.
//! - `openapi`: the API's document declares every answer that the server gives, and no other.
//! - `outages`: PostgreSQL and Redis go and come back.
//! - `overload`: more is asked for than the database can do.
//! - `page`: what people see, the operator's files, and what hostile rows, paths and pages can do with them.
//! - `privileges`: as whom workers run, and what they may do to the host.
//! - `problems`: what is refused, and how it is said.
//! - `processes`: master and workers live and die.
//! - `proxies`: whom a server behind a proxy takes for its client.
//! - `redis_cluster`: masters of a Redis Cluster give way, fall silent and die, and slots move, under load; TLS and users.
//! - `redis_sentinel`: the master of Redis dies, falls silent or gives way under load, as Sentinels see to; TLS and users.
//! - `relief`: a worker that is told to finish by a signal of its own.
//! - `reload`: SIGHUP, and no client notices.
//! - `replicas`: reads go to replicas that are close enough, and never show less than was acknowledged; PgBouncer in between.
//! - `report`: README claims nothing that was not measured.
//! - `sabotage`: the checker notices a server that is broken on purpose, and the master a loop that stands still (feature
//!   `sabotage` only).
//! - `scale`: what ARCHITECTURE reckons of many hosts is made of simulated caches that answer as the real ones do.
//! - `secrets`: passwords and tokens are in no log, no output and no `ps`.
//! - `service`: what a service manager is told, and the sockets that it passes and keeps.
//! - `soak`: hundreds of reloads, changes and deaths in a row, under load; every request that is lost is accounted for, and nobody
//!   is kept waiting.
//! - `stacks`: what a coroutine's stack must hold, and what happens when there is none to be had.
//! - `stopping`: TERM and QUIT lose nothing, INT and a second TERM wait for nothing.
//! - `syscalls`: the system calls that workers are refused, and that they do without.
//! - `taken_back`: a reload that fails late, and what served before is back.
//! - `tokens`: who may write.
//! - `tools`: `migrate`, `seed`, and databases that were there before us.
//! - `top`: the live view, in a terminal.
//! - `upgrade`: SIGUSR2, and no client notices; a program that can't take over changes nothing.
//! - `upgrade_outcomes`: `canvas-cluster ctl upgrade` tells what came of it, and nobody who waits is forgotten.
//! - `workers`: what becomes of connections when a worker hangs, keeps dying, or is relieved; signals that mean nothing.

mod access_log;
mod admin;
mod api;
mod balancers;
mod cache;
mod checker;
mod coherence;
mod configuration;
mod control;
mod couchdb;
mod counters;
mod crowd;
mod degraded;
mod failover;
mod floods;
mod handoff;
mod harness;
mod hosts;
mod house;
mod lanes;
mod last_words;
mod limits;
mod logging;
mod manners;
mod monitoring;
mod networks;
mod openapi;
mod outages;
mod overload;
mod page;
mod privileges;
mod problems;
mod processes;
mod proxies;
mod redis_cluster;
mod redis_sentinel;
mod relief;
mod reload;
mod replicas;
mod report;
#[cfg(feature = "sabotage")]
mod sabotage;
mod scale;
mod secrets;
mod service;
mod soak;
mod stacks;
mod stopping;
mod support;
mod syscalls;
mod taken_back;
mod tokens;
mod tools;
mod top;
mod upgrade;
mod upgrade_outcomes;
mod workers;
