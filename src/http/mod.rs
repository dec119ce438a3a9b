//! HTTP/1.1: the worker's connection loop and the messages it hands to the service.
//!
//! `head`, `body` and `target` read bytes and know no socket; `connection` drives them on a coroutine, over a `wire`
//! whose deadlines the `watch` keeps. `access` notes what was asked and answered, if anybody wants to know.

pub mod access;
pub mod body;
pub mod buffer;
pub mod client;
pub mod connection;
pub mod head;
pub mod limits;
pub mod lobby;
pub mod proxy;
pub mod request_id;
pub mod response;
pub mod service;
mod stopwatch;
pub mod target;
pub mod turnstile;
pub mod watch;
pub mod wire;
