//! What people see: pages, assets, files of the operator's, and what a hostile row, path or page can do with them (nothing).

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::http::{Request, Response};
use crate::support::shoes::{create, delete, draft, put};
use crate::support::{Backend, Canvas, Dir, Server, over_both_stores};

const HTML: Option<&str> = Some("text/html; charset=utf-8");

over_both_stores!(
    a_shoe_has_a_page_at_two_places,
    a_page_shows_what_was_written_last,
);

/// Asks with these fields.
fn ask(server: &Server, method: &str, target: &str, fields: &[(&str, &str)]) -> Response {
    let request = Request::new(method, target);
    let add = |request: Request, field: &(&str, &str)| request.header(field.0, field.1);
    server.call(&fields.iter().fold(request, add))
}

/// A page, checked for what every page has.
#[track_caller]
fn page(response: Response, status: u16) -> Response {
    let response = response.expect(status);
    assert_eq!(response.header("content-type"), HTML, "{response}");
    let policy = response
        .header("content-security-policy")
        .expect("a policy");
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(rule), "{rule} is not in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    assert!(response.header("referrer-policy").is_some());
    response
}

/// The paths that a page leads to below this one.
fn links<'p>(page: &'p Response, below: &str) -> Vec<&'p str> {
    let words = page.text().split('"');
    let mut links: Vec<&str> = words.filter(|word| word.starts_with(below)).collect();
    links.sort_unstable();
    links.dedup();
    links
}

fn a_shoe_has_a_page_at_two_places(backend: &Backend) {
    let server = backend.serve(2);
    create(
        &server,
        7,
        &[
            ("img1", "https://cdn.example/side.jpg"),
            ("vid1", "/turn.mp4"),
        ],
    );
    create(&server, 7, &[("img7", "/sole.png")]);
    let first = page(server.get("/shoes/7"), 200);
    for shown in ["https://cdn.example/side.jpg", "/turn.mp4", "/sole.png"] {
        assert!(first.text().contains(shown), "{shown}: {first}");
    }
    for other in [
        "/?shoe_id=7",
        "/shoes/7/",
        "/?utm_source=mail&shoe_id=%37&x",
    ] {
        assert_eq!(page(server.get(other), 200).text(), first.text(), "{other}");
    }
    let head = page(ask(&server, "HEAD", "/shoes/7", &[]), 200);
    assert_eq!(
        head.header("content-length"),
        Some(first.body.len().to_string().as_str())
    );
    let etag = first.header("etag").expect("a validator");
    let again = ask(&server, "GET", "/shoes/7", &[("If-None-Match", etag)]).expect(304);
    assert_eq!((again.text(), again.header("etag")), ("", Some(etag)));
    assert_eq!(first.header("cache-control"), Some("no-cache"));
}

fn a_page_shows_what_was_written_last(backend: &Backend) {
    let server = backend.serve(2);
    let id = create(&server, 7, &[("img1", "/old.png")]);
    for (_, mut client) in server.one_client_per_worker() {
        let page = client.get("/shoes/7").expect("an answer").expect(200);
        assert!(page.text().contains("/old.png"));
    }
    server
        .call(&put(id, draft(7, &[("img1", "/new.png")])))
        .expect(200);
    for (_, mut client) in server.one_client_per_worker() {
        let page = client.get("/shoes/7").expect("an answer").expect(200);
        assert!(page.text().contains("/new.png") && !page.text().contains("/old.png"));
    }
    server.call(&delete(id)).expect(204);
    for (_, mut client) in server.one_client_per_worker() {
        page(client.get("/shoes/7").expect("an answer"), 404);
    }
}

#[test]
fn what_is_no_shoe_is_told_in_a_page() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    for unknown in [
        "/shoes/8",
        "/?shoe_id=8",
        "/shoes/-1",
        "/shoes/2147483647?embed=1",
    ] {
        page(server.get(unknown), 404);
    }
    for bad in [
        "/shoes/seven",
        "/shoes/",
        "/shoes/7.0",
        "/?shoe_id=",
        "/?shoe_id=2147483648",
        "/?shoe_id=7&shoe_id=7",
        "/?shoe_id=%",
    ] {
        page(server.get(bad), 400);
    }
    for other in [
        "/shoes",
        "/shoes/7/8",
        "/nowhere",
        "/assets/",
        "/demo/shoes/1/8.svg",
    ] {
        server.get(other).problem(404);
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let refused = ask(&server, method, "/shoes/7", &[]);
        refused.problem(405);
        assert_eq!(refused.header("allow"), Some("GET, HEAD, OPTIONS"));
    }
}

#[test]
fn a_database_that_is_away_is_told_in_a_page() {
    let backend = Backend::unmigrated_sqlite();
    let server = backend.serve(1);
    let answer = page(server.get("/shoes/7"), 503);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    // What needs no database is there.
    page(server.get("/"), 200);
    page(server.get("/admin"), 200);
}

#[test]
fn hostile_text_in_rows_stays_text() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    let hostile = [
        ("img1", "https://a.example/\"><script>alert(1)</script>"),
        ("img2", "javascript:alert(2)"),
        ("img3", " JavaScript:alert(3)"),
        ("img4", "//evil.example/4"),
        ("img5", "data:text/html,<script>alert(5)</script>"),
        ("img6", ""),
        ("vid1", "/v.mp4' onerror='alert(8)\" onerror=\"alert(9)"),
        ("vid2", "java\nscript:alert(10)"),
    ];
    create(&server, 7, &hostile);
    for target in ["/shoes/7", "/shoes/7?embed=1"] {
        let shown = page(server.get(target), 200);
        let text = shown.text().to_lowercase();
        for word in [
            "<script>",
            "javascript:",
            "evil.example",
            "data:text",
            "\" onerror",
            "' onerror",
            "alert(10)",
        ] {
            assert!(!text.contains(word), "{word}: {shown}");
        }
        assert!(text.contains("https://a.example/"), "{shown}");
    }
    // A shoe of which nothing can be shown is a shoe all the same, and so is one of films alone.
    create(&server, 8, &[("img1", "javascript:alert(1)")]);
    page(server.get("/shoes/8"), 200);
    create(&server, 9, &[("vid2", "/v.mp4")]);
    assert!(page(server.get("/shoes/9"), 200).text().contains("/v.mp4"));
}

#[test]
fn every_asset_that_a_page_names_is_there_for_ever() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    create(&server, 7, &[("img1", "/a.png")]);
    let mut checked = 0;
    for target in ["/", "/shoes/7", "/shoes/8", "/admin"] {
        let shown = server.get(target);
        for link in links(&shown, "/assets/") {
            check_asset(&server, link);
            checked += 1;
        }
    }
    assert!(checked >= 8, "{checked} assets");
}

fn check_asset(server: &Server, link: &str) {
    let plain = server.get(link).expect(200);
    assert_eq!(
        plain.header("cache-control"),
        Some("public, max-age=31536000, immutable"),
        "{link}"
    );
    assert_eq!(plain.header("content-encoding"), None, "{link}");
    let length = plain.body.len().to_string();
    let head = ask(server, "HEAD", link, &[]).expect(200);
    assert_eq!(
        head.header("content-length"),
        Some(length.as_str()),
        "{link}"
    );
    let etag = plain.header("etag").expect("a validator");
    ask(server, "GET", link, &[("If-None-Match", etag)]).expect(304);
    // The name of another version leads nowhere.
    let (stem, rest) = link.split_once('.').expect("a fingerprint");
    let (_, extension) = rest.split_once('.').expect("an extension");
    server
        .get(&format!("{stem}.0123456789abcdef.{extension}"))
        .problem(404);
    server.get(&format!("{stem}.{extension}")).problem(404);
    if extension == "css" || extension == "js" {
        let coded =
            |accepted| ask(server, "GET", link, &[("Accept-Encoding", accepted)]).expect(200);
        let (brotli, gzip) = (coded("gzip, deflate, br"), coded("gzip, br;q=0"));
        assert_eq!(brotli.header("content-encoding"), Some("br"), "{link}");
        assert_eq!(gzip.header("content-encoding"), Some("gzip"), "{link}");
        assert_eq!(coded("identity").body, plain.body, "{link}");
        for smaller in [&brotli, &gzip] {
            assert!(smaller.body.len() < plain.body.len(), "{link}");
            assert_eq!(smaller.header("vary"), Some("Accept-Encoding"), "{link}");
            assert_ne!(smaller.header("etag"), Some(etag), "{link}");
        }
        let mut text = Vec::new();
        brotli::BrotliDecompress(&mut &brotli.body[..], &mut text).expect("brotli");
        assert_eq!(text, plain.body, "{link}");
    }
}

#[test]
fn the_demo_catalogue_has_pictures_of_its_own() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    let drawn = server.get("/demo/shoes/7/1.svg").expect(200);
    assert_eq!(drawn.header("content-type"), Some("image/svg+xml"));
    assert!(drawn.text().contains("<svg"));
    assert_eq!(server.get("/demo/shoes/7/1.svg").body, drawn.body);
    let etag = drawn.header("etag").expect("a validator");
    ask(
        &server,
        "GET",
        "/demo/shoes/7/1.svg",
        &[("If-None-Match", etag)],
    )
    .expect(304);
    for other in ["/demo/shoes/7/2.svg", "/demo/shoes/8/1.svg"] {
        assert_ne!(server.get(other).expect(200).body, drawn.body, "{other}");
    }
    for shoe in ["-2147483648", "0", "2147483647"] {
        server.get(&format!("/demo/shoes/{shoe}/7.svg")).expect(200);
    }
}

#[test]
fn crawlers_and_tabs_find_what_they_ask_for() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    let robots = server.get("/robots.txt").expect(200);
    assert_eq!(robots.text(), "User-agent: *\nAllow: /\n");
    let icon = server.get("/favicon.ico").expect(200);
    assert_eq!(icon.header("content-type"), Some("image/svg+xml"));
    let editor = page(server.get("/admin"), 200);
    assert_eq!(editor.header("x-robots-tag"), Some("noindex"));
}

#[track_caller]
fn ancestors(server: &Server, target: &str) -> String {
    let response = server.get(target);
    let policy = response
        .header("content-security-policy")
        .expect("a policy");
    let (_, ancestors) = policy.split_once("frame-ancestors ").expect("the rule");
    ancestors.to_owned()
}

#[test]
fn only_pages_that_are_let_in_may_embed() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    assert_eq!(ancestors(&server, "/shoes/7?embed=1"), "'self'");
    drop(server);
    for (setting, rule) in [
        ("self,https://shop.example", "'self' https://shop.example"),
        ("*", "*"),
        ("none", "'none'"),
    ] {
        let server = backend
            .canvas()
            .workers(1)
            .args(["--frame-ancestors", setting])
            .start();
        assert_eq!(ancestors(&server, "/"), rule);
        assert_eq!(ancestors(&server, "/admin"), "'none'");
    }
    let dir = Dir::new();
    for bad in [
        "https://a.example; script-src *",
        "*,self",
        "shop.example",
        "",
    ] {
        let canvas = Canvas::new(dir.path()).env("CANVAS_LISTEN", "127.0.0.1:0");
        canvas
            .arg(format!("--frame-ancestors={bad}"))
            .run()
            .expect(100)
            .naming(&["--frame-ancestors"]);
    }
}

#[test]
fn an_embedded_page_is_the_gallery_alone() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    create(&server, 7, &[("img1", "/a.png")]);
    let whole = page(server.get("/shoes/7"), 200);
    let part = page(server.get("/shoes/7?embed=1"), 200);
    assert_eq!(
        page(server.get("/?embed=1&shoe_id=7"), 200).text(),
        part.text()
    );
    assert!(whole.text().contains("<footer") && !part.text().contains("<footer"));
    assert!(part.text().contains("/a.png"));
    let script = server.get("/embed.js").expect(200);
    assert_eq!(
        script.header("content-type"),
        Some("text/javascript; charset=utf-8")
    );
    assert_eq!(script.header("cache-control"), Some("public, max-age=3600"));
    let etag = script.header("etag").expect("a validator");
    ask(&server, "GET", "/embed.js", &[("If-None-Match", etag)]).expect(304);
}

/// A folder with a file of each kind, and a server of it.
fn serve_files(backend: &Backend, folder: &Path) -> Server {
    let canvas = backend.canvas().workers(1).arg("--static-dir").arg(folder);
    canvas.start()
}

#[test]
fn files_of_the_operators_are_served_and_nothing_beside_them() {
    let backend = Backend::sqlite();
    backend.dir.write("secret.txt", "secret");
    let root = backend.dir.join("public");
    std::fs::create_dir_all(root.join("sub/.git")).unwrap();
    for (name, text) in [
        ("plain.txt", "plain"),
        ("sub/page.html", "<p>sub</p>"),
        ("sub/.git/config", "secret"),
        (".env", "secret"),
        ("robots.txt", "mine"),
        ("with space.txt", "space"),
        ("admin", "never"),
    ] {
        std::fs::write(root.join(name), text).unwrap();
    }
    symlink("../secret.txt", root.join("link.txt")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink("plain.txt", root.join("same.txt")).unwrap();
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let server = serve_files(&backend, &root);

    let plain = server.get("/plain.txt").expect(200);
    assert_eq!(plain.text(), "plain");
    assert_eq!(
        plain.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(plain.header("x-content-type-options"), Some("nosniff"));
    let (etag, changed) = (
        plain.header("etag").unwrap(),
        plain.header("last-modified").unwrap(),
    );
    ask(&server, "GET", "/plain.txt", &[("If-None-Match", etag)]).expect(304);
    ask(
        &server,
        "GET",
        "/plain.txt",
        &[("If-Modified-Since", changed)],
    )
    .expect(304);
    let head = ask(&server, "HEAD", "/plain.txt", &[]).expect(200);
    assert_eq!(
        (head.text(), head.header("content-length")),
        ("", Some("5"))
    );
    for (path, text) in [
        ("/sub/page.html", "<p>sub</p>"),
        ("/with%20space.txt", "space"),
        ("/robots.txt", "mine"),
        ("/pl%61in.txt?v=1", "plain"),
    ] {
        assert_eq!(server.get(path).expect(200).text(), text, "{path}");
    }
    page(server.get("/admin"), 200);
    for path in [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/%2E%2E%2Fsecret.txt",
        "/..%2fsecret.txt",
        "/sub/../../secret.txt",
        "/sub/%2e%2e/%2e%2e/secret.txt",
        "/..%5csecret.txt",
        "/..\\secret.txt",
        "//secret.txt",
        "/.env",
        "/%2eenv",
        "/sub/.git/config",
        "/link.txt",
        "/up/secret.txt",
        "/same.txt",
        "/pipe",
        "/sub",
        "/sub/",
        "/plain.txt/",
        "/sub%2fpage.html",
        "/plain.txt%00",
        "/./plain.txt",
        "/%252e%252e/secret.txt",
    ] {
        let status = server.get(path).status;
        assert!(status == 404 || status == 400, "{status} for {path}");
    }
    // What is left out is told, once and not by each worker.
    for left_out in [
        "/link.txt: it is a symbolic link",
        "/up: it is a symbolic link",
        "/pipe: it is no regular file",
    ] {
        assert_eq!(server.lines_with(left_out).len(), 1, "{left_out}");
    }
    assert!(server.lines_with("secret").is_empty());
}

#[test]
fn a_film_is_served_in_parts_and_a_large_one_whole() {
    let backend = Backend::sqlite();
    let root = backend.dir.join("public");
    std::fs::create_dir(&root).unwrap();
    let film: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(root.join("film.mp4"), &film).unwrap();
    let server = serve_files(&backend, &root);
    let mut client = server.connect();
    // What follows a large answer on its connection is not cut, nor mixed with it.
    for _ in 0..3 {
        let whole = client.get("/film.mp4").expect("an answer").expect(200);
        assert!(whole.body == film && whole.header("accept-ranges") == Some("bytes"));
        client.get("/healthz").expect("an answer").expect(200);
    }
    let mut head = ask(&server, "HEAD", "/film.mp4", &[]).expect(200);
    assert_eq!(head.header("content-length"), Some("3000000"));
    // Pipelined: the large one between two small ones.
    let [small, large] = ["/healthz", "/film.mp4"].map(|path| Request::new("GET", path).bytes());
    client
        .send_raw(&[&small[..], &large, &small].concat())
        .expect("three requests");
    for length in [18, film.len(), 18] {
        head = client.receive(true).expect("an answer").expect(200);
        assert_eq!(head.body.len(), length);
    }
    let etag = server.get("/film.mp4").header("etag").unwrap().to_owned();
    for (range, from, to) in [
        ("bytes=0-1", 0, 2),
        ("bytes=2999999-", 2_999_999, 3_000_000),
        ("bytes=-100000", 2_900_000, 3_000_000),
        ("bytes=0-9999999", 0, 3_000_000),
    ] {
        let part = ask(
            &server,
            "GET",
            "/film.mp4",
            &[("Range", range), ("If-Range", &etag)],
        )
        .expect(206);
        let place = format!("bytes {from}-{}/3000000", to - 1);
        assert_eq!(part.header("content-range"), Some(place.as_str()));
        assert!(part.body == film[from..to], "{range}");
    }
    let beyond = ask(&server, "GET", "/film.mp4", &[("Range", "bytes=3000000-")]).expect(416);
    assert_eq!(beyond.header("content-range"), Some("bytes */3000000"));
    for fields in [
        [("Range", "bytes=0-1"), ("If-Range", "\"other\"")],
        [("Range", "bytes=0-1,5-6"), ("X", "")],
    ] {
        assert_eq!(
            ask(&server, "GET", "/film.mp4", &fields)
                .expect(200)
                .body
                .len(),
            film.len()
        );
    }
}

#[test]
fn a_reload_serves_the_files_of_now_and_refuses_a_folder_that_is_gone() {
    let backend = Backend::sqlite();
    let root = backend.dir.join("public");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("a.txt"), "old").unwrap();
    let mut server = serve_files(&backend, &root);
    std::fs::write(root.join("a.txt"), "new").unwrap();
    assert_eq!(server.get("/a.txt").expect(200).text(), "old");
    server.reload(1);
    assert_eq!(server.get("/a.txt").expect(200).text(), "new");

    server.allow("static_dir");
    server.allow("reload");
    let worker = server.only_worker();
    std::fs::rename(&root, backend.dir.join("elsewhere")).unwrap();
    server.signal(nix::sys::signal::Signal::SIGHUP);
    server.wait_for_line("static_dir: can't read the folder");
    // The child that has found it out is gone, too.
    server.wait_for_line("what workers need could not be prepared");
    assert_eq!(server.get("/a.txt").expect(200).text(), "new");
    assert_eq!(server.only_worker(), worker);
    drop(server);
    let refused = backend
        .canvas()
        .arg("--listen=127.0.0.1:0")
        .arg("--static-dir")
        .arg(&root);
    refused.run().expect(111).naming(&["static_dir", "public"]);
}

#[test]
fn the_token_of_loader_io_is_where_it_looks() {
    let token = "loaderio-0123456789abcdef0123456789abcdef";
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .args(["--loaderio-token", token])
        .start();
    for tail in ["/", ".txt", ".html", ""] {
        let proof = server.get(&format!("/{token}{tail}")).expect(200);
        assert_eq!(proof.text(), token);
        assert_eq!(
            proof.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
    }
    server.get("/loaderio-0/").problem(404);
    let dir = Dir::new();
    for bad in ["loaderio-", "loaderio-XYZ", "0123", "loaderio-../etc"] {
        let canvas = Canvas::new(dir.path()).env("CANVAS_LISTEN", "127.0.0.1:0");
        canvas
            .args(["--loaderio-token", bad])
            .run()
            .expect(100)
            .naming(&["--loaderio-token"]);
    }
}
