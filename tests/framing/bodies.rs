//! One row a rule about the framing of a body: the bytes, and what they must be read as.

use crate::rows::*;
use canvas_cluster::http::head::Refusal::*;

#[test]
fn content_lengths() {
    accept(
        with_body("Content-Length: 5", "hello"),
        "POST / h keep length 5 hello",
    );
    accept(
        with_body("Content-Length:5", "hello"),
        "POST / h keep length 5 hello",
    );
    accept(with_body("Content-Length: 0", ""), "POST / h keep length 0");
    accept(
        with_body("Content-Length: 0000000000000000000000000000005", "hello"),
        "POST / h keep length 5 hello",
    );
    accept(
        with_body("Content-Length: 5\r\nCONTENT-LENGTH: 5", "hello"),
        "POST / h keep length 5 hello",
    );
    accept(
        with_body("Content-Length: 5, 5 ,5", "hello"),
        "POST / h keep length 5 hello",
    );
    accept(
        "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody",
        "GET / h keep length 4 body",
    );
    accept(
        "HEAD / HTTP/1.0\r\nContent-Length: 4\r\n\r\nbody",
        "HEAD / - close length 4 body",
    );
    accept("POST / HTTP/1.1\r\nHost: h\r\n\r\n", "POST / h keep none");
    for value in "| |+5|-5|5 5|5,|,5|5,,5|5, 6|5, 05|0x5|5a|5.0|5;|\"5\"|five|1e1|\u{665}|\
         18446744073709551616|99999999999999999999999"
        .split('|')
    {
        refuse(
            with_body(&format!("Content-Length: {value}"), "hello"),
            ContentLength,
        );
    }
    refuse(
        with_body("Content-Length: 5\r\nContent-Length: 6", "hello!"),
        ContentLength,
    );
    refuse(
        with_body("Content-Length: 5\r\nContent-Length:", "hello"),
        ContentLength,
    );
    refuse(with_body("Content-Length: 65537", ""), BodyTooLarge);
    refuse(
        with_body("Content-Length: 18446744073709551615", ""),
        BodyTooLarge,
    );
    let most = "x".repeat(65536);
    accept(
        with_body("Content-Length: 65536", &most),
        &format!("POST / h keep length 65536 {most}"),
    );
    wait(with_body("Content-Length: 5", "hell"));
}

#[test]
fn transfer_encodings() {
    accept(
        with_body("Transfer-Encoding: chunked", "0\r\n\r\n"),
        "POST / h keep chunked",
    );
    accept(
        with_body("transfer-encoding:CHUNKED ", "1\r\nx\r\n0\r\n\r\n"),
        "POST / h keep chunked x",
    );
    accept(
        "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "GET / h keep chunked x",
    );
    for value in "gzip|identity|gzip, chunked|x-chunked|chunked1|gzip, deflate".split('|') {
        refuse(
            with_body(&format!("Transfer-Encoding: {value}"), "0\r\n\r\n"),
            TransferCoding,
        );
    }
    refuse(
        with_body("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", ""),
        TransferCoding,
    );
    for value in
        "|,|chunked,|,chunked|chunked, chunked|chunked, gzip|gzip, chunked, chunked|chunked;x=1|\
         \"chunked\"|chunked chunked|gzip;q=1, chunked|chunked\u{a0}|chun ked|gzip,, chunked"
            .split('|')
    {
        refuse(
            with_body(&format!("Transfer-Encoding: {value}"), "0\r\n\r\n"),
            TransferEncoding,
        );
    }
    refuse(
        with_body(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "",
        ),
        TransferEncoding,
    );
    refuse(
        with_body(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "",
        ),
        TransferEncoding,
    );
    refuse(
        with_body("Transfer-Encoding: chunked\r\nTransfer-Encoding:", ""),
        TransferEncoding,
    );
    refuse(
        with_body(
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "0\r\n\r\n",
        ),
        TransferEncodingAndLength,
    );
    refuse(
        with_body("Content-Length: 5\r\nTransfer-Encoding: gzip", "0\r\n\r\n"),
        TransferEncodingAndLength,
    );
    refuse(
        with_body("Content-Length: 0\r\nTransfer-Encoding: x y", ""),
        TransferEncodingAndLength,
    );
    refuse(
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        TransferEncodingInHttp10,
    );
    refuse(
        "POST / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n\r\n",
        TransferEncodingInHttp10,
    );
    refuse(
        with_body("Transfer-Encoding : chunked", "0\r\n\r\n"),
        SpaceBeforeColon,
    );
    refuse(
        with_body("Transfer-Encoding: \x0bchunked", "0\r\n\r\n"),
        FieldValue,
    );
}

#[test]
fn chunks() {
    accept(
        chunked("5\r\nhello\r\n0\r\n\r\n"),
        "POST / h keep chunked hello",
    );
    accept(
        chunked("1\r\nh\r\n4\r\nello\r\n00\r\n\r\n"),
        "POST / h keep chunked hello",
    );
    accept(
        chunked("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
        "POST / h keep chunked 01234567890123456789",
    );
    accept(
        chunked("0000000000000005\r\nhello\r\n0\r\n\r\n"),
        "POST / h keep chunked hello",
    );
    accept(
        chunked("2\r\n\r\n\r\n0\r\n\r\n"),
        "POST / h keep chunked \r\n",
    );
    for extension in ";x|;x=y| ; x = y|\t;x=\"a;\\\"b\"|;|;;|;x=\u{e9}".split('|') {
        accept(
            chunked(&format!("5{extension}\r\nhello\r\n0{extension}\r\n\r\n")),
            "POST / h keep chunked hello",
        );
    }
    accept(
        chunked("0\r\nX: y\r\nContent-Length: 9\r\nEmpty:\r\n\r\n"),
        "POST / h keep chunked",
    );
    wait(chunked(""));
    wait(chunked("5\r\nhello\r\n0\r\n"));
    wait(chunked("5\r\nhello"));
    wait(chunked("0\r\nX: y\r\n"));

    for size in
        "\r\n| 5\r\n|+5\r\n|-5\r\n|0x5\r\n|5 \r\n|5\t\r\n|g\r\n|5\n|5\rx|;x\r\n|5 5\r\n|5 \n|\
         5h\r\n|00000000000000005\r\n|10000000000000000\r\n|fffffffffffffffff\r\n|5,\r\n|\
         \u{665}\r\n|5.\r\n|5\0\r\n"
            .split('|')
    {
        refuse(chunked(&format!("{size}hello\r\n0\r\n\r\n")), ChunkSize);
    }
    refuse(chunked("5;x\n"), ChunkExtension);
    refuse(chunked("5;x\0\r\n"), ChunkExtension);
    refuse(chunked("5;\x7f"), ChunkExtension);
    refuse(chunked("5;x\rx"), ChunkSize);
    refuse(chunked("5\r\nhelloX"), ChunkEnd);
    refuse(chunked("5\r\nhello\n"), ChunkEnd);
    refuse(chunked("5\r\nhello\rX"), ChunkEnd);
    refuse(chunked("5\r\nhello0\r\n\r\n"), ChunkEnd);
    refuse(chunked("4\r\nhello\r\n0\r\n\r\n"), ChunkEnd);
    refuse(chunked("6\r\nhello\r\n0\r\n\r\n"), ChunkEnd);
    refuse(chunked("0\r\nX\r\n"), Trailer);
    refuse(chunked("0\r\nX : y\r\n"), Trailer);
    refuse(chunked("0\r\n: y\r\n"), Trailer);
    refuse(chunked("0\r\n X: y\r\n"), Trailer);
    refuse(chunked("0\r\nX: y\r\n z"), Trailer);
    refuse(chunked("0\r\nX: y\n"), Trailer);
    refuse(chunked("0\r\nX: \0"), Trailer);
    refuse(chunked("0\r\nX: y\r\n\n"), Trailer);
    refuse(chunked("0\r\n\rX"), Trailer);
    refuse(chunked("0\r\n\n"), Trailer);
    refuse(chunked("ffffffffffffffff\r\n"), BodyTooLarge);
    refuse(chunked("10001\r\n"), BodyTooLarge);
    refuse(
        chunked(&format!("ffff\r\n{}\r\n2\r\n", "x".repeat(65535))),
        BodyTooLarge,
    );
}

#[test]
fn a_body_is_never_a_next_request() {
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let counted = with_body(&format!("Content-Length: {}", smuggled.len()), smuggled);
    accept(
        counted,
        &format!("POST / h keep length {} {smuggled}", smuggled.len()),
    );
    let chunk = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    accept(
        chunked(&chunk),
        &format!("POST / h keep chunked {smuggled}"),
    );
}
