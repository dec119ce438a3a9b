//! Caches of answers: the worker's own, and Redis, shared by hosts.

pub mod invalidations;
pub mod l1;
pub mod redis;
