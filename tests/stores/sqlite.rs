//! What is particular to SQLite: files that are missing, read-only, full or damaged, and the demo database.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use canvas_cluster::seed::{Demo, create_demo};
use canvas_cluster::store::url::DatabaseUrl;
use canvas_cluster::store::{Change, Changed, NoFence, PoolOptions, StoreError, open, schema};

use super::fixture::{Fixture, bare, draft, soon, within};
use super::seed::{child, last_reported};

fn open_file(path: &Path) -> std::sync::Arc<dyn canvas_cluster::store::Store> {
    open(
        &DatabaseUrl::Sqlite(path.to_owned()),
        PoolOptions::default(),
    )
    .expect("a store")
}

#[test]
fn a_missing_file_is_not_created_and_is_used_as_soon_as_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.db");
    let store = open_file(&path);
    let begun = Instant::now();
    let error = store.ping(within(5000)).unwrap_err();
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let said = error.to_string();
    assert!(
        said.contains("none.db") && said.contains("canvas-cluster migrate"),
        "{said}"
    );
    assert!(!path.exists());

    schema::migrate(&DatabaseUrl::Sqlite(path.clone()), false).unwrap();
    let begun = Instant::now();
    while store.ping(within(1000)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn an_empty_file_and_a_foreign_one_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.db");
    fs::write(&empty, "").unwrap();
    let error = open_file(&empty).ping(within(3000)).unwrap_err();
    assert!(matches!(error, StoreError::Schema(_)), "{error:?}");

    let foreign = folder.path().join("foreign.db");
    fs::write(
        &foreign,
        "this is no database, but it is long enough to look like one".repeat(50),
    )
    .unwrap();
    let error = open_file(&foreign).ping(within(3000)).unwrap_err();
    assert!(error.to_string().contains("no SQLite database"), "{error}");
}

#[test]
fn a_damaged_file_is_reported_as_such() {
    let fixture = Fixture::sqlite();
    for n in 0..200 {
        fixture
            .store
            .insert(&draft(n, &"x".repeat(200)), &NoFence, soon())
            .unwrap();
    }
    let path = fixture.path();
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    // All pages but the first, in which the schema is.
    let length = fs::metadata(&path).unwrap().len();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(4096)).unwrap();
    file.write_all(&vec![0xAB; length as usize - 4096]).unwrap();
    let error = open_file(&path)
        .shoes(&(0..200).collect::<Vec<_>>(), soon())
        .unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
}

/// SQLite's own limit on the file's size answers as a full disk does.
#[test]
fn a_full_disk_refuses_a_write_and_keeps_what_was_there() {
    let fixture = Fixture::sqlite();
    let row = fixture
        .store
        .insert(&draft(1, "kept"), &NoFence, soon())
        .unwrap();
    // A file system of 256 KB; without the right to mount, there is none to fill.
    let folder = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(folder.path())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("can't mount a small file system here: the limit of SQLite's own stands in");
        let connection = rusqlite::Connection::open(fixture.path()).unwrap();
        connection
            .execute_batch("PRAGMA max_page_count = 1")
            .unwrap();
        let full = connection
            .execute_batch("CREATE TABLE filler (x); INSERT INTO filler VALUES (zeroblob(99999))");
        assert_eq!(
            full.unwrap_err().sqlite_error_code(),
            Some(rusqlite::ErrorCode::DiskFull)
        );
        assert_eq!(fixture.store.shoes(&[1], soon()).unwrap()[0], [row]);
        return;
    }
    let path = folder.path().join("shoes.db");
    schema::migrate(&DatabaseUrl::Sqlite(path.clone()), false).unwrap();
    let store = open_file(&path);
    let mut stored = Vec::new();
    let error = loop {
        match store.insert(&draft(1, &"é".repeat(200)), &NoFence, soon()) {
            Ok(row) => stored.push(row),
            Err(error) => break error,
        }
    };
    // Many at once are refused as one is, and take nothing with them.
    let changes: Vec<Change> = (0..64)
        .map(|_| Change::Insert(draft(1, &"é".repeat(200))))
        .collect();
    let together = store.change(&changes, &NoFence, soon());
    for outcome in &together {
        match outcome {
            Ok(Changed::Inserted(row)) => stored.push(row.clone()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => assert!(
                matches!(&**error, StoreError::Refused(why) if why.contains("disk is full")),
                "{error:?}"
            ),
        }
    }
    let read = store.shoes(&[1], soon());
    drop(store);
    let damage: String = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(damage, "ok");
    let _ = Command::new("umount").arg("-l").arg(folder.path()).status();
    assert!(
        matches!(&error, StoreError::Refused(why) if why.contains("disk is full")),
        "{error:?}"
    );
    assert!(!stored.is_empty());
    assert_eq!(
        read.unwrap()[0],
        stored,
        "what was acknowledged before the disk was full"
    );
}

/// Another process holds the write lock for longer than the deadline: every change of a group says so, none is made, and
/// all goes on once the lock is gone.
#[test]
fn a_locked_file_refuses_a_group_and_takes_it_afterwards() {
    let fixture = Fixture::sqlite();
    fixture.store.ping(soon()).unwrap();
    let blocker = rusqlite::Connection::open(fixture.path()).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    let changes = [1, 2, 3].map(|shoe| Change::Insert(bare(shoe)));
    for outcome in fixture.store.change(&changes, &NoFence, within(300)) {
        let error = outcome.unwrap_err();
        assert!(
            matches!(&*error, StoreError::Refused(why) if why.contains("locked")),
            "{error:?}"
        );
    }
    // Readers never wait for a writer.
    assert!(fixture.store.shoes(&[1], soon()).unwrap()[0].is_empty());
    blocker.execute_batch("COMMIT").unwrap();
    let outcomes = fixture.store.change(&changes, &NoFence, soon());
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

/// SQLite begins its log anew when no reader is in the way, which under steady reads is never: the log once grew with each write,
/// and each read took longer.
#[test]
fn the_log_is_begun_anew_under_steady_reads() {
    /// From where on it is long, and how long it may stay so.
    const LONG: u64 = 64 * 1024 * 1024;
    const PATIENCE: Duration = Duration::from_secs(30);
    let fixture = Fixture::sqlite();
    let group = vec![Change::Insert(draft(1, &"x".repeat(250))); 128];
    let log = fixture.path().with_extension("db-wal");
    let length = || fs::metadata(&log).map_or(0, |log| log.len());
    let over = AtomicBool::new(false);
    // A reader ends only when the other one has begun, so that there is always one: whose turn it is goes back and forth.
    let read = |turns: Receiver<()>, next: Sender<()>| {
        let connection = rusqlite::Connection::open(fixture.path()).unwrap();
        while turns.recv().is_ok() && !over.load(Ordering::SeqCst) {
            if !connection.is_autocommit() {
                connection.execute_batch("COMMIT").unwrap();
            }
            connection.execute_batch("BEGIN").unwrap();
            let row = "SELECT id FROM shoe_images LIMIT 1";
            connection.query_row(row, [], |_| Ok(())).unwrap();
            // Each goes on for longer than a write takes, and so for the whole of one at least.
            std::thread::sleep(Duration::from_millis(15));
            if next.send(()).is_err() {
                return;
            }
        }
    };
    let insert = |changes: &[Change]| {
        for outcome in fixture.store.change(changes, &NoFence, soon()) {
            outcome.unwrap();
        }
    };
    insert(&group);
    std::thread::scope(|scope| {
        let ((to_one, of_one), (to_two, of_two)) = (channel(), channel());
        to_one.send(()).unwrap();
        scope.spawn(|| read(of_one, to_two));
        scope.spawn(|| read(of_two, to_one));
        while length() <= LONG {
            insert(&group);
        }
        // Its length is looked at once a second; until then little is written.
        let began = Instant::now();
        while length() > LONG && began.elapsed() < PATIENCE {
            insert(&group[..1]);
            std::thread::sleep(Duration::from_millis(5));
        }
        over.store(true, Ordering::SeqCst);
        assert!(length() <= LONG, "the log has {} bytes", length());
    });
}

/// A file that may only be read: each change is refused in words, and reads go on.
#[test]
fn a_read_only_file_refuses_every_change_and_answers_reads() {
    let fixture = Fixture::sqlite();
    let row = fixture
        .store
        .insert(&draft(1, "kept"), &NoFence, soon())
        .unwrap();
    let path = fixture.path();
    let keeper = rusqlite::Connection::open(&path).unwrap();
    keeper.execute_batch("PRAGMA query_only = ON").unwrap();
    // Root may write to any file, so the file system is what is read-only.
    let Some(mount) = Mounted::read_only(path.parent().unwrap()) else {
        eprintln!("can't mount here: the rest is left to a machine where root may");
        return;
    };
    let store = open_file(&path);
    let changes = [1, 2].map(|shoe| Change::Insert(bare(shoe)));
    let outcomes = store.change(&changes, &NoFence, within(2000));
    let read = store.shoes(&[1], within(2000));
    drop((store, mount));
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(
            matches!(&*error, StoreError::Refused(_) | StoreError::Unavailable(_)),
            "{error:?}"
        );
    }
    match read {
        Ok(found) => assert_eq!(found[0], std::slice::from_ref(&row)),
        // Without the files beside it a WAL database can't even be read.
        Err(error) => assert!(matches!(
            error,
            StoreError::Refused(_) | StoreError::Unavailable(_)
        )),
    }
    let again = fixture.store.shoes(&[1], soon()).unwrap();
    assert_eq!(again[0], [row]);
}

/// A folder over which something is mounted.
struct Mounted(std::path::PathBuf);

impl Mounted {
    /// The same folder, read-only.
    fn read_only(folder: &Path) -> Option<Self> {
        let mount = |options: &[&str]| {
            let mut command = Command::new("mount");
            command.args(options);
            if options[0] == "--bind" {
                command.arg(folder);
            }
            command
                .arg(folder)
                .status()
                .is_ok_and(|status| status.success())
        };
        if !mount(&["--bind"]) {
            return None;
        }
        let mounted = Mounted(folder.to_owned());
        mount(&["-o", "remount,bind,ro"]).then_some(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Wherever in making it the disk gets full, there is a complete database or none. One whose last step found no room was once kept
/// as it was, without what was still in its log.
#[test]
fn a_demo_database_on_a_full_disk_is_whole_or_not_there() {
    const ROWS: u32 = 1000;
    let folder = tempfile::tempdir().unwrap();
    let (mut whole, mut none) = (0, 0);
    for kib in (128..2560).step_by(64) {
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path());
        if !mount.status().is_ok_and(|status| status.success()) {
            eprintln!("can't mount here: this is left to a machine where root may");
            return;
        }
        let mounted = Mounted(folder.path().to_owned());
        let path = folder.path().join("shoes.db");
        match create_demo(&path, ROWS) {
            Ok(_) => {
                let there: u32 = rusqlite::Connection::open(&path)
                    .unwrap()
                    .query_row("SELECT count(*) FROM shoe_images", [], |row| row.get(0))
                    .unwrap();
                assert_eq!(there, ROWS, "on {kib} KiB");
                whole += 1;
            }
            Err(error) => {
                assert!(!path.exists(), "on {kib} KiB, after {error}");
                none += 1;
            }
        }
        drop(mounted);
    }
    assert!(
        whole > 3 && none > 3,
        "{whole} were whole, {none} not there"
    );
}

#[test]
fn a_demo_database_is_made_once_private_and_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/deep/shoes.db");
    assert_eq!(create_demo(&path, 1000).unwrap(), Demo::Created);
    assert_eq!(create_demo(&path, 1000).unwrap(), Demo::Existing);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    assert_eq!(mode(&folder.path().join("state")), 0o700);
    assert_eq!(
        names_in(path.parent().unwrap()),
        ["shoes.db"],
        "nothing is left beside it"
    );

    let store = open_file(&path);
    let shoes: Vec<i32> = (0..=1001).collect();
    let counts: Vec<usize> = store
        .shoes(&shoes, soon())
        .unwrap()
        .iter()
        .map(Vec::len)
        .collect();
    assert_eq!((counts[0], counts[1001]), (0, 0));
    assert!(counts[1..=1000].iter().all(|count| *count == 1));
}

#[test]
fn of_racing_processes_one_makes_the_demo_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shoes.db");
    let racers: Vec<_> = (0..4)
        .map(|_| child("demo", &path.to_string_lossy(), 3000))
        .collect();
    let said: Vec<String> = racers
        .into_iter()
        .map(|racer| {
            String::from_utf8_lossy(&racer.wait_with_output().unwrap().stdout).into_owned()
        })
        .collect();
    let created = said
        .iter()
        .filter(|said| said.contains("demo: Created"))
        .count();
    let existing = said
        .iter()
        .filter(|said| said.contains("demo: Existing"))
        .count();
    assert_eq!((created, existing), (1, 3), "{said:?}");
    assert_eq!(open_file(&path).shoes(&[3000], soon()).unwrap()[0].len(), 1);
    assert!(
        names_in(folder.path())
            .iter()
            .all(|name| name.starts_with("shoes.db"))
    );
}

#[test]
fn a_crash_while_the_demo_database_is_made_leaves_none_and_the_next_start_sweeps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shoes.db");
    let mut builder = child("demo", &path.to_string_lossy(), 1_000_000);
    let give_up = Instant::now() + Duration::from_secs(30);
    // Its file is there and grows: it is in the midst of it.
    while fs::read_dir(folder.path())
        .unwrap()
        .flatten()
        // SQLite's journals come and go between the listing and the look.
        .filter_map(|file| file.metadata().ok())
        .map(|metadata| metadata.len())
        .sum::<u64>()
        < 100_000
    {
        assert!(Instant::now() < give_up);
        std::thread::sleep(Duration::from_millis(5));
    }
    builder.kill().unwrap();
    builder.wait().unwrap();
    assert!(!path.exists());
    assert!(
        !names_in(folder.path()).is_empty(),
        "it was killed before it had begun"
    );
    assert_eq!(create_demo(&path, 10).unwrap(), Demo::Created);
    assert_eq!(names_in(folder.path()), ["shoes.db"]);
}

#[test]
fn a_killed_seed_of_sqlite_never_happened() {
    let fixture = Fixture::sqlite();
    let mut seeding = child("seed", &fixture.url.to_string(), 400_000);
    last_reported(&mut seeding, 50_000);
    seeding.kill().unwrap();
    seeding.wait().unwrap();
    assert!(
        fixture
            .store
            .shoes(&[1, 2, 3], soon())
            .unwrap()
            .iter()
            .all(Vec::is_empty)
    );
    fixture.store.insert(&bare(5), &NoFence, soon()).unwrap();
}

fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
