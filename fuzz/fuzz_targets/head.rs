//! A whole stream of requests, read in pieces and by the second parser. The first byte chooses the limits and the cuts.

#![no_main]

use canvas_cluster::http::limits::Limits;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/framing/drive.rs"]
mod drive;
#[path = "../../tests/framing/naive.rs"]
mod naive;

fuzz_target!(|data: &[u8]| {
    let [choice, bytes @ ..] = data else { return };
    let tight = Limits {
        request_line: 24,
        head: 96,
        fields: 3,
        body: 16,
        chunk_overhead: 8,
    };
    let limits = if choice & 1 == 0 {
        Limits::default()
    } else {
        tight
    };
    let reading = drive::read_every_way(bytes, u64::from(*choice), &limits);
    naive::agree(&reading, bytes);
});
