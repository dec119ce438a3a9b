//! Raw bytes in, raw bytes out: the connection loop on a real socket and the real coroutine runtime, over a service
//! that echoes. What the API means is tested elsewhere; here it is only framing, limits, deadlines and panics.

mod deadlines;
mod framing;
mod panics;
mod proxied;
mod support;
mod timing;
