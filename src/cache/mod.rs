//! Caches of answers: the worker's own, and Redis, shared by hosts.

mod breaker;
mod cluster;
mod debts;
pub mod invalidations;
pub mod l1;
mod link;
mod nodes;
pub mod redis;
mod sentinels;
mod servers;
mod shards;
