//! The workshop works: what the other tests lean on is tested first, without the server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::thread;

use nix::sys::signal::Signal;

use crate::support::http::{Request, Trouble};
use crate::support::load::{Load, On, Style};
use crate::support::postgres::{PASSWORD_ENCODED, Postgres};
use crate::support::process::{free_port, guarded, wait_for_exit};
use crate::support::redis::{self, Redis};
use crate::support::{Client, Dir, PATIENCE};

#[test]
fn a_folder_is_deleted_with_its_test_and_kept_when_it_fails() {
    let passed = Dir::new().path().to_owned();
    assert!(!passed.exists());

    let (tell, told) = channel();
    let failed = thread::Builder::new()
        .name("failing".into())
        .spawn(move || {
            let dir = Dir::new();
            tell.send(dir.path().to_owned()).unwrap();
            // Not panic!: its message in the output of a run that passes would frighten the reader.
            std::panic::resume_unwind(Box::new("on purpose"));
        });
    assert!(failed.unwrap().join().is_err());
    let kept = told.recv().unwrap();
    assert!(kept.is_dir());
    std::fs::remove_dir_all(kept).unwrap();
}

#[test]
fn a_guarded_process_dies_with_whoever_started_it() {
    // The guard is tied to the spawning thread, so a thread that ends stands for a test binary that is killed.
    let mut child = thread::spawn(|| {
        let mut command = guarded("cat", Signal::SIGKILL, None);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cat");
        // An echo shows that setpriv is done and cat runs.
        child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        child
    })
    .join()
    .unwrap();
    let status = wait_for_exit(&mut child, PATIENCE, "cat");
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
}

#[test]
fn a_private_postgres_stops_dies_freezes_and_comes_back() {
    let postgres = Postgres::private();
    let database = postgres.database();
    let count = || {
        database
            .connect()
            .query_one("SELECT count(*) FROM kept", &[])
            .unwrap()
            .get::<_, i64>(0)
    };
    database
        .connect()
        .batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)")
        .unwrap();

    let refused = database.url_with("wrong");
    assert!(
        ::postgres::Client::connect(&refused, ::postgres::NoTls).is_err(),
        "any password lets in"
    );
    assert!(database.url().contains(PASSWORD_ENCODED));
    assert!(::postgres::Client::connect(&database.url(), ::postgres::NoTls).is_ok());

    postgres.stop();
    assert!(TcpStream::connect(("127.0.0.1", postgres.port())).is_err());
    postgres.start();
    assert_eq!(count(), 1);
    postgres.kill();
    postgres.start();
    assert_eq!(count(), 1);

    let mut connection = database.connect();
    postgres.freeze();
    let frozen = thread::spawn(move || {
        connection
            .query_one("SELECT 1", &[])
            .map(|row| row.get::<_, i32>(0))
    });
    assert!(!frozen.is_finished());
    postgres.thaw();
    assert_eq!(frozen.join().unwrap().unwrap(), 1);
}

#[test]
fn each_test_has_its_own_database_on_the_shared_postgres() {
    let (one, other) = (Postgres::shared().database(), Postgres::shared().database());
    one.connect()
        .batch_execute("CREATE TABLE mine (id int)")
        .unwrap();
    assert!(other.connect().batch_execute("SELECT * FROM mine").is_err());
}

#[test]
fn a_private_redis_dies_freezes_and_comes_back() {
    let redis = Redis::private();
    let url = redis.url();
    assert!(
        redis::connect(&url.replace("Giraffe9", "Giraffe8")).is_err(),
        "any password lets in"
    );
    let set = |url: &str| {
        ::redis::cmd("SET")
            .arg("k")
            .arg("v")
            .exec(&mut redis::connect(url).unwrap())
            .unwrap()
    };
    set(&url);
    assert_eq!(redis::keys(&url), ["k"]);
    assert!(
        redis::keys(&redis.url()).is_empty(),
        "tests share a database"
    );
    redis.kill();
    assert!(redis::connect(&url).is_err());
    redis.start();
    assert!(redis::keys(&url).is_empty());
    redis.freeze();
    redis.thaw();
    set(&url);
}

/// Answers each connection by `answer` until the listener's thread ends with the test binary.
fn serve(answer: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().flatten().for_each(answer));
    address
}

/// Reads one request without a body.
fn read_request(stream: &mut TcpStream) -> bool {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => seen.push(byte[0]),
            _ => return false,
        }
    }
    true
}

#[test]
fn the_client_reads_answers_that_follow_each_other() {
    let address = serve(|mut stream| {
        read_request(&mut stream);
        let answers = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi\
                       HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.write_all(answers.as_bytes()).unwrap();
    });
    let mut client = Client::connect(address).unwrap();
    let first = client.get("/").unwrap().expect(200);
    assert_eq!((first.text(), client.told_to_close), ("hi", false));
    client.receive(true).unwrap().expect(404);
    assert!(client.told_to_close);
    assert!(client.ends());
}

#[test]
fn a_load_counts_what_became_of_every_request() {
    let get = || vec![Request::new("GET", "/")];

    let well = serve(|mut stream| {
        thread::spawn(move || {
            while read_request(&mut stream) {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .unwrap();
            }
        });
    });
    for style in [Style::KeepAlive, Style::ConnectionPerRequest] {
        let load = Load::start(well, style, 2, get());
        load.wait_for_answers(20);
        let tally = load.stop();
        tally.assert_all_ok();
        assert!(tally.ok >= 20);
    }

    let badly = serve(|mut stream| {
        read_request(&mut stream);
        stream
            .write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        // The second request of the connection is dropped without an answer.
        read_request(&mut stream);
    });
    let load = Load::start(badly, Style::KeepAlive, 1, get());
    load.wait_for_answers(3);
    let tally = load.stop();
    assert!(tally.other[&503] >= 3 && !tally.all_ok(), "{tally:?}");
    assert!(
        tally.trouble[&(On::Reused, Trouble::Closed)] >= 2,
        "{tally:?}"
    );

    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let tally = {
        let load = Load::start(nobody, Style::KeepAlive, 1, get());
        load.wait_for_end();
        load.stop()
    };
    assert_eq!(
        tally.troubled(On::Fresh),
        tally.trouble[&(On::Fresh, Trouble::Refused)]
    );
}
