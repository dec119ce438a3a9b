//! Framing: what a stream of bytes is read as. The vectors are written by hand, the properties make up their own
//! streams, and both are read whole, in pieces and by a second parser. No sockets: see `tests/tests.rs` for those.

mod bodies;
mod drive;
mod heads;
mod limits;
mod naive;
mod properties;
mod rows;
