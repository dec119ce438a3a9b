//! A chunked body behind a head that is always the same, read in pieces and by the second parser. The first byte
//! chooses the limits and the cuts.

#![no_main]

use canvas_cluster::http::limits::Limits;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/framing/drive.rs"]
mod drive;
#[path = "../../tests/framing/naive.rs"]
mod naive;

const HEAD: &[u8] = b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";

fuzz_target!(|data: &[u8]| {
    let [choice, body @ ..] = data else { return };
    let tight = Limits {
        body: 16,
        chunk_overhead: 8,
        ..Limits::default()
    };
    let limits = if choice & 1 == 0 {
        Limits::default()
    } else {
        tight
    };
    let bytes = [HEAD, body].concat();
    let reading = drive::read_every_way(&bytes, u64::from(*choice), &limits);
    naive::agree(&reading, &bytes);
    for message in &reading.messages {
        assert!(message.content.len() <= limits.body);
    }
});
