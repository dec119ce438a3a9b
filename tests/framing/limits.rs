//! The limits, each to the byte.

use crate::drive::read;
use crate::rows::*;
use canvas_cluster::http::head::Refusal::*;
use canvas_cluster::http::limits::Limits;

#[test]
fn limits_to_the_byte() {
    let line = |size: usize| {
        format!(
            "GET /{} HTTP/1.1",
            "x".repeat(size - "GET / HTTP/1.1".len())
        )
    };
    let target = "x".repeat(8192 - "GET / HTTP/1.1".len());
    accept(
        with_line(&line(8192)),
        &format!("GET /{target} h keep none"),
    );
    refuse(with_line(&line(8193)), RequestLineTooLong);
    refuse("x".repeat(8193), RequestLineTooLong);
    wait("x".repeat(8192));
    refuse(&with_line(&line(9000))[..8193], RequestLineTooLong);
    refuse(format!("\r\n\r\n{}", "x".repeat(8193)), RequestLineTooLong);

    let head = |size: usize| {
        let empty = with_field("X: ");
        with_field(&format!("X: {}", "y".repeat(size - empty.len())))
    };
    accept(head(16384), "GET / h keep none");
    refuse(head(16385), HeadTooLarge);
    refuse(head(20000), HeadTooLarge);
    wait(&head(20000)[..16384]);
    refuse(&head(20000)[..16385], HeadTooLarge);

    let fields = |count: usize| with_field(&vec!["A: b"; count - 1].join("\r\n"));
    accept(fields(64), "GET / h keep none");
    refuse(fields(65), TooManyFields);
    refuse(fields(66).trim_end(), TooManyFields);

    let trailer = |size: usize| chunked(&format!("0\r\nX:{}\r\n\r\n", "y".repeat(size - 4)));
    accept(trailer(16384), "POST / h keep chunked");
    refuse(trailer(16385), ChunkOverhead);
    let extension = |size: usize| chunked(&format!("1;{}\r\nx\r\n0\r\n\r\n", "y".repeat(size - 1)));
    accept(extension(16384), "POST / h keep chunked x");
    refuse(extension(16385), ChunkOverhead);
    let zeros = |chunks: usize| {
        chunked(&format!(
            "{}0\r\n\r\n",
            "0000000000000001\r\nx\r\n".repeat(chunks)
        ))
    };
    refuse(zeros(1100), ChunkOverhead);
    let crumbs = chunked(&format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(65536)));
    accept(
        crumbs,
        &format!("POST / h keep chunked {}", "x".repeat(65536)),
    );
}

#[test]
fn fields_up_to_the_hard_limit() {
    let many = |count: usize| with_field(&vec!["A: b"; count - 1].join("\r\n"));
    let limits = Limits {
        fields: 1000,
        ..Limits::default()
    };
    assert_eq!(read([many(128).as_bytes()], &limits).messages.len(), 1);
    assert_eq!(
        read([many(129).as_bytes()], &limits).refusal,
        Some(TooManyFields)
    );
}
