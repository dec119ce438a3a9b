//! Caches in front of the store. Today: Redis, shared by all workers and hosts.

pub mod redis;
