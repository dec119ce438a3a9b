//! `src/http/mod.rs` for the fuzz targets: the pure half of that room.

#[path = "../../src/http/body.rs"]
pub mod body;
#[path = "../../src/http/head/mod.rs"]
pub mod head;
#[path = "../../src/http/limits.rs"]
pub mod limits;
#[path = "../../src/http/proxy.rs"]
pub mod proxy;
#[path = "../../src/http/target.rs"]
pub mod target;
