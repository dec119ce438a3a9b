//! Who may write: everyone on loopback without a token, the bearer of the token with one, and nobody unasked on a
//! public address.

use std::path::PathBuf;

use crate::support::http::Request;
use crate::support::shoes::{Id, create, draft, list_target, post};
use crate::support::{Backend, Client};

const TOKEN: &str = "correct-horse-battery-staple-0123456789";

fn token_file(backend: &Backend) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = backend.dir.write("token", &format!("{TOKEN}\n"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .expect("chmod of our own file");
    path
}

/// One write of each kind, to the row with this id.
fn writes(id: Id) -> Vec<(Request, u16)> {
    let target = format!("/api/images/{id}");
    vec![
        (post(draft(7, &[])), 201),
        (
            Request::new("PUT", &target).json(draft(7, &[("img1", "b")])),
            200,
        ),
        (Request::new("DELETE", &target), 204),
    ]
}

#[test]
fn writes_are_open_on_loopback_without_a_token() {
    let backend = Backend::sqlite();
    let server = backend.serve(1);
    let id = create(&server, 7, &[]);
    for (request, status) in writes(id) {
        server.call(&request).expect(status);
        // A token that nobody asked for harms nothing.
    }
    server
        .call(&post(draft(7, &[])).header("Authorization", "Bearer whatever"))
        .expect(201);
}

#[test]
fn writes_need_the_token_and_reads_do_not() {
    let backend = Backend::sqlite();
    let open = backend.serve(1);
    let id = create(&open, 7, &[("img1", "a")]);
    open.stop();
    let server = backend
        .canvas()
        .workers(2)
        .arg("--write-token-file")
        .arg(token_file(&backend))
        .start();
    for target in [
        list_target(7),
        format!("/api/images/{id}"),
        "/healthz".into(),
        "/readyz".into(),
    ] {
        server.get(&target).expect(200);
    }
    for (request, _) in writes(id) {
        let answer = server.call(&request);
        answer.problem(401);
        let challenge = answer
            .header("www-authenticate")
            .unwrap_or_else(|| panic!("no challenge: {answer}"));
        assert!(challenge.starts_with("Bearer"), "{challenge}");
        let basic = format!("Basic {TOKEN}");
        for malformed in ["", "Bearer", "Bearer ", &basic, TOKEN] {
            let answer = server.call(&request.clone().header("Authorization", malformed));
            assert_eq!(answer.status, 401, "with {malformed:?}: {answer}");
            answer.problem(401);
            assert!(
                answer
                    .header("www-authenticate")
                    .is_some_and(|value| value.starts_with("Bearer"))
            );
        }
        let (longer, shorter) = (format!("{TOKEN}x"), &TOKEN[..TOKEN.len() - 1]);
        let other_case = TOKEN.to_uppercase();
        for wrong in ["x", longer.as_str(), shorter, &other_case] {
            let request = request
                .clone()
                .header("Authorization", &format!("Bearer {wrong}"));
            server.call(&request).problem(403);
        }
    }
    let twice = post(draft(7, &[]))
        .header("Authorization", "Bearer x")
        .header("Authorization", &format!("Bearer {TOKEN}"));
    assert!(matches!(server.call(&twice).status, 400 | 401 | 403));
    assert_eq!(
        backend.count("SELECT count(*) FROM shoe_images WHERE img1 = 'a'"),
        1,
        "a refused write was done"
    );
    assert_eq!(
        backend.count("SELECT count(*) FROM shoe_images"),
        1,
        "a refused write was done"
    );
    // The scheme's name is case-insensitive (RFC 9110 section 11.1).
    for ((request, status), scheme) in writes(id).into_iter().zip(["Bearer", "bearer", "BEARER"]) {
        server
            .call(&request.header("Authorization", &format!("{scheme} {TOKEN}")))
            .expect(status);
    }
    assert_eq!(backend.count("SELECT count(*) FROM shoe_images"), 1);
}

#[test]
fn a_token_is_asked_for_before_anything_else_is_told() {
    let backend = Backend::sqlite();
    let server = backend
        .canvas()
        .workers(1)
        .arg("--write-token-file")
        .arg(token_file(&backend))
        .start();
    // Without the token nobody learns which rows there are, nor what is wrong with a body.
    server
        .call(&Request::new("DELETE", "/api/images/999"))
        .problem(401);
    server.call(&post("{")).problem(401);
}

#[test]
fn a_public_address_needs_a_token_or_a_word() {
    let backend = Backend::sqlite();
    let public = || backend.canvas().workers(1).args(["--listen", "0.0.0.0:0"]);
    public().run().expect(100).naming(&[
        "0.0.0.0",
        "--write-token-file",
        "--allow-anonymous-writes",
    ]);
    public()
        .arg("check")
        .run()
        .expect(100)
        .naming(&["--write-token-file"]);
    backend
        .canvas()
        .workers(1)
        .args(["--listen", "[::]:0"])
        .run()
        .expect(100);
    // One public address among loopback ones is enough.
    public().args(["--listen", "127.0.0.1:0"]).run().expect(100);

    for (canvas, status) in [
        (public().arg("--allow-anonymous-writes"), 201),
        (
            public().arg("--write-token-file").arg(token_file(&backend)),
            401,
        ),
    ] {
        let mut server = canvas.launch_as_it_is();
        server.wait_until_ready();
        let port = server.address().port();
        let mut client = Client::connect(([127, 0, 0, 1], port).into()).expect("a connection");
        client
            .call(&post(draft(7, &[])))
            .expect("an answer")
            .expect(status);
    }
}

#[test]
fn a_token_that_is_no_token_is_refused_at_the_start() {
    let backend = Backend::sqlite();
    let empty = backend.dir.write("empty", "\n");
    let missing = backend.dir.join("missing");
    for path in [empty, missing] {
        let named = path.file_name().unwrap().to_string_lossy().into_owned();
        let canvas = backend.canvas().arg("--write-token-file").arg(&path);
        canvas
            .args(["--listen", "127.0.0.1:0"])
            .run()
            .expect(100)
            .naming(&[&named]);
    }
}
