//! One row a rule about the head of a message: the bytes, and what they must be read as.

use crate::rows::*;
use canvas_cluster::http::head::Refusal::*;

#[test]
fn request_lines() {
    accept(with_line("GET / HTTP/1.1"), "GET / h keep none");
    accept(
        with_line("GET /api/images/?shoe_id=1&x HTTP/1.1"),
        "GET /api/images/?shoe_id=1&x h keep none",
    );
    accept(with_line("GET /a?b?c HTTP/1.1"), "GET /a?b?c h keep none");
    accept(with_line("GET /? HTTP/1.1"), "GET /? h keep none");
    accept(
        with_line("GET //x/../%2e%2F\\\"<>|^{}` HTTP/1.1"),
        "GET //x/../%2e%2F\\\"<>|^{}` h keep none",
    );
    accept(with_line("get / HTTP/1.1"), "get / h keep none");
    accept(with_line("BREW /pot HTTP/1.1"), "BREW /pot h keep none");
    accept(
        with_line("M!#$%&'*+-.^_`|~1 / HTTP/1.1"),
        "M!#$%&'*+-.^_`|~1 / h keep none",
    );
    for method in "HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE".split('|') {
        accept(
            with_line(&format!("{method} /x HTTP/1.1")),
            &format!("{method} /x h keep none"),
        );
    }

    refuse(with_line("GET  / HTTP/1.1"), RequestLine);
    refuse(with_line("GET /  HTTP/1.1"), RequestLine);
    refuse(with_line("GET / HTTP/1.1 "), RequestLine);
    refuse(with_line(" GET / HTTP/1.1"), RequestLine);
    refuse(with_line("GET /a b HTTP/1.1"), RequestLine);
    refuse(with_line("GET"), RequestLine);
    refuse(with_line("GET "), RequestLine);
    refuse(with_line("GET HTTP/1.1"), RequestLine);
    refuse(with_line("hello world"), RequestLine);
    refuse(with_line("GET / http/1.1"), RequestLine);
    refuse(with_line("GET / HTTP/1.10"), RequestLine);
    refuse(with_line("GET / HTTP/11"), RequestLine);
    refuse(with_line("GET / HTTP/a.b"), RequestLine);
    refuse(with_line("GET / ICAP/1.0"), RequestLine);
    refuse(with_line("GET\t/ HTTP/1.1"), Method);
    refuse(with_line("GE(T / HTTP/1.1"), Method);
    refuse(with_line("{\"a\":1}"), Method);
    refuse(with_line("G\u{c9}T / HTTP/1.1"), Method);
}

#[test]
fn versions() {
    refuse("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Version);
    refuse("GET /\r\n", Version);
    refuse("GET / HTTP/0.9\r\n", Version);
    refuse("GET / HTTP/1.2\r\n", Version);
    refuse("GET / HTTP/2.0\r\n", Version);
    refuse("GET / HTTP/3.0\r\n", Version);
    accept("GET / HTTP/1.0\r\n\r\n", "GET / - close none");
}

#[test]
fn noise_is_refused_at_once() {
    refuse(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Method); // a TLS ClientHello
    refuse(b"\x16", Method);
    refuse(b"\x00", Nul);
    refuse(b"\x80\x2e\x01", Method);
    refuse(b"GET\x00", Nul);
    refuse(b"(", Method);
    refuse(b" ", RequestLine);
    refuse("hello\r\n", RequestLine);
    refuse("GET / HTTP/9.9\r\n", Version);
}

#[test]
fn targets() {
    accept(with_line("OPTIONS * HTTP/1.1"), "OPTIONS * h keep none");
    accept(
        with_line("GET http://example:81/p?q HTTP/1.1"),
        "GET /p?q example:81 keep none",
    );
    accept(
        with_line("GET HTTPS://example HTTP/1.1"),
        "GET / example keep none",
    );
    accept(
        with_line("GET http://example?q=http://x/ HTTP/1.1"),
        "GET /?q=http://x/ example keep none",
    );
    accept(
        with_line("GET http://[::1]:8080/ HTTP/1.1"),
        "GET / [::1]:8080 keep none",
    );
    accept(
        with_line("OPTIONS http://example HTTP/1.1"),
        "OPTIONS * example keep none",
    );
    accept(
        with_line("OPTIONS http://example/ HTTP/1.1"),
        "OPTIONS / example keep none",
    );
    accept(
        with_line("CONNECT example:443 HTTP/1.1"),
        "CONNECT authority h keep none",
    );
    accept(
        "GET http://example/ HTTP/1.0\r\n\r\n",
        "GET / example close none",
    );

    for target in
        "*|x|example:443|/a#b|#|http:/x|http://|http:///x|http://user@example/|ftp://example/|\
         http://example:x/|http://example:99999/|://example/|/\u{e9}|/\x01|\
         /\x7f|http://ex\\ample/|?q|http://example#x"
            .split('|')
    {
        refuse(with_line(&format!("GET {target} HTTP/1.1")), Target);
    }
    refuse(with_line("GET http://exa mple/ HTTP/1.1"), RequestLine);
    for target in "example|example:|/x|*|http://example:443/|u@example:443|:443".split('|') {
        refuse(with_line(&format!("CONNECT {target} HTTP/1.1")), Target);
    }
    refuse("GET http://example/ HTTP/1.1\r\n\r\n", HostMissing);
    refuse(b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", Target);
}

#[test]
fn line_ends() {
    accept("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / h keep none");
    accept(
        "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / h keep none",
    );
    refuse("\r\n\r\n\r\n", BlankLines);
    refuse("\nGET / HTTP/1.1\r\n", BareLf);
    refuse("\rGET / HTTP/1.1\r\n", BareCr);
    refuse("GET / HTTP/1.1\n", BareLf);
    refuse("GET\n", BareLf);
    refuse("GET\rX", BareCr);
    refuse("GET / HTTP/1.1\r\r\n", BareCr);
    refuse("GET / HTTP/1.1\r\nHost: h\n", BareLf);
    refuse("GET / HTTP/1.1\r\nHost: h\r\n\n", BareLf);
    refuse("GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", BareCr);
    refuse("GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", Nul);
    wait("");
    wait("\r");
    wait("\r\n\r\n");
    wait("GET / HTTP/1.1\r\nHost: h\r\n\r");
    wait("GET / HTTP/1.1\r\nHost: h\r\n");
}

#[test]
fn field_lines() {
    for field in [
        "X:",
        "X:y",
        "X: y",
        "X:\t y \t",
        "X: a b",
        "X: \u{e9}",
        "!#$%&'*+-.^_`|~09azAZ: y",
        "X: :",
        "X: a\tb",
        "Cookie: a=b; c=\"d\"",
        "Upgrade: websocket\r\nConnection: Upgrade",
        "Upgrade: h2c",
        "X: y\r\nX: z",
        "Host-X: y",
        "Content-Lengt: 5",
        "Content_Length: 5",
        "TE: trailers",
        "Trailer: X",
        "Range: bytes=0-5",
        "Proxy-Connection: close",
    ] {
        accept(with_field(field), "GET / h keep none");
    }
    refuse(with_field("X : y"), SpaceBeforeColon);
    refuse(with_field("X\t : y"), SpaceBeforeColon);
    refuse(with_field("Content-Length : 5"), SpaceBeforeColon);
    refuse(with_field("X: a\r\n b"), ObsoleteFold);
    refuse(with_field("X: a\r\n\tb"), ObsoleteFold);
    refuse(with_field(" X: a"), ObsoleteFold);
    refuse("GET / HTTP/1.1\r\n Host: h\r\n\r\n", ObsoleteFold);
    refuse(with_field(": y"), FieldName);
    refuse(with_field("X"), FieldName);
    refuse(with_field("X y: z"), FieldName);
    refuse(with_field("X(: y"), FieldName);
    refuse(with_field("X\u{e9}: y"), FieldName);
    refuse(with_field("X\x0b: y"), FieldName);
    for control in (1..=31u8)
        .chain([127])
        .filter(|control| !b"\t\r\n".contains(control))
    {
        let field = format!("X: a{}b", char::from(control));
        refuse(with_field(&field), FieldValue);
    }
}

#[test]
fn hosts() {
    accept(
        "GET / HTTP/1.1\r\nhOST:\tEx.ample:8080 \r\n\r\n",
        "GET / Ex.ample:8080 keep none",
    );
    accept(
        "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
        "GET / [::1]:80 keep none",
    );
    accept("GET / HTTP/1.0\r\nHost: h\r\n\r\n", "GET / h close none");
    refuse("GET / HTTP/1.1\r\n\r\n", HostMissing);
    refuse("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", HostRepeated);
    refuse("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", HostRepeated);
    for host in
        "| |a b|a, b|a/b|u@a|a:b|a:80:80|::1|[::1|a\\b|http://a|\u{e9}|a:99999|%zz".split('|')
    {
        refuse(
            format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            HostInvalid,
        );
        refuse(
            format!("GET / HTTP/1.0\r\nHost: {host}\r\n\r\n"),
            HostInvalid,
        );
    }
}

#[test]
fn persistence_and_expectations() {
    accept(with_field("Connection: close"), "GET / h close none");
    accept(
        with_field("Connection: keep-alive, CLOSE"),
        "GET / h close none",
    );
    accept(
        with_field("Connection: x\r\nConnection: close\r\nConnection: keep-alive"),
        "GET / h close none",
    );
    accept(
        with_field("Connection: closed, close-x"),
        "GET / h keep none",
    );
    accept(with_field("Connection:"), "GET / h keep none");
    accept(
        "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
        "GET / - keep none",
    );
    accept(
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
        "GET / - close none",
    );

    accept(
        with_body("Expect: 100-Continue\r\nContent-Length: 1", "x"),
        "POST / h keep length 1 expects x",
    );
    accept(
        with_body(
            "Expect: 100-continue\r\nTransfer-Encoding: chunked",
            "0\r\n\r\n",
        ),
        "POST / h keep chunked expects",
    );
    accept(
        with_body("Expect: 100-continue\r\nContent-Length: 0", ""),
        "POST / h keep length 0",
    );
    accept(with_field("Expect: 100-continue"), "GET / h keep none");
    accept(
        "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        "POST / - close length 1 x",
    );
    accept(
        "POST / HTTP/1.0\r\nExpect: nonsense\r\n\r\n",
        "POST / - close none",
    );
    for value in "|100|100-continue, x|x, 100-continue|100-continue;q=1|200-ok".split('|') {
        refuse(with_field(&format!("Expect: {value}")), Expectation);
    }
}

#[test]
fn repeats() {
    for name in "Authorization|Content-Type|Origin|Access-Control-Request-Method".split('|') {
        accept(with_field(&format!("{name}: a")), "GET / h keep none");
        refuse(
            with_field(&format!("{name}: a\r\n{name}: a")),
            FieldRepeated,
        );
        refuse(with_field(&format!("{name}: \u{e9}")), FieldNotAscii);
    }
    for name in
        "If-None-Match|X-Forwarded-For|Forwarded|User-Agent|Referer|X-Request-Id|Traceparent|\
         Accept"
            .split('|')
    {
        accept(
            with_field(&format!("{name}: \u{e9}\r\n{name}: b")),
            "GET / h keep none",
        );
    }
}
