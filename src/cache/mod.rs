//! Caches of answers: the worker's own, and Redis, shared by hosts.

mod breaker;
mod debts;
pub mod invalidations;
pub mod l1;
mod link;
pub mod redis;
mod servers;
