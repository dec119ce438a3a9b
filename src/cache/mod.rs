//! Caches of answers: the worker's own, and Redis, shared by hosts.

mod breaker;
mod cluster;
mod debts;
mod event_loop;
mod invalidations;
pub mod l1;
mod link;
mod lookups;
mod nodes;
mod peer;
pub mod redis;
mod scripts;
mod sentinels;
mod servers;
mod shards;
mod subscriptions;
pub mod trust;
