//! Clients that mean harm: they drip, don't read, come in floods, never pause or talk rubbish. Each sort is ended as the
//! settings say, what it costs is bounded, the log stays quiet, and a bystander, whom the same thread serves, gets
//! its answers as fast as before.

use std::time::Duration;

use crate::support::bystander::{Bystander, Phase};
use crate::support::crowd::{Crowd, End, Manner, Then};
use crate::support::process::{forget_peak_rss, peak_rss, raise_own_limit};
use crate::support::shoes::{MEDIA, create, list_target};
use crate::support::sockets::{kernel_rows, socket_inodes};
use crate::support::{Backend, PATIENCE, Server, alone, wait_until};

/// How many of the bystander's requests are measured before an attack, and at least during it: two seconds' worth.
const ANSWERS: usize = 400;

/// The bystander's p99 may be this long in any case: what is looked for are stalls of seconds, not a busy machine.
const FLOOR: Duration = Duration::from_millis(500);

/// And this many times what it was before the attack, for a machine that is slow to begin with.
const FACTOR: u32 = 10;

/// How many lines all attackers together may cause in the log.
const LINES: usize = 5;

/// The rows of the shoe with a large answer, of 2.4 KiB each.
const LARGE_SHOE: i64 = 8;
const LARGE_ROWS: usize = 4;

/// A server under attack. It has one worker, so that whatever holds its thread holds the bystander, too.
struct Siege {
    bystander: Bystander,
    before: Phase,
    sockets: usize,
    lines: usize,
    server: Server,
    _backend: Backend,
}

impl Siege {
    fn lay(flags: &[&str]) -> Self {
        raise_own_limit(20_000);
        let backend = Backend::sqlite();
        let server = backend.canvas().workers(1).args(flags).start();
        create(&server, 7, &[("img1", "a")]);
        let long = "x".repeat(255);
        for _ in 0..LARGE_ROWS {
            create(
                &server,
                LARGE_SHOE,
                &MEDIA.map(|name| (name, long.as_str())),
            );
        }
        let bystander = Bystander::start(&server, &list_target(7));
        bystander.watch(ANSWERS / 10);
        let before = bystander.watch(ANSWERS);
        Siege {
            sockets: socket_inodes(server.only_worker()).len(),
            lines: server.log_length(),
            bystander,
            before,
            server,
            _backend: backend,
        }
    }

    fn crowd(&self) -> Crowd {
        Crowd::at(self.server.address())
    }

    /// Whether the bystander has been watched for long enough to tell.
    fn is_told(&self) -> bool {
        self.bystander.seen() >= ANSWERS
    }

    /// Whether the worker holds none of the attackers' connections any more.
    fn is_rid_of_all(&self) -> bool {
        socket_inodes(self.server.only_worker()).len() <= self.sockets
    }

    /// Keeps `count` attackers of this manner at it until the bystander has been watched, then until all have ended.
    #[track_caller]
    fn endure(&self, count: usize, manner: &Manner) -> Crowd {
        let mut crowd = self.crowd();
        crowd.join(count, manner);
        crowd.act_until("every attacker's end", |crowd| {
            let live = crowd.live();
            if !self.is_told() {
                crowd.join(count - live, manner);
                return false;
            }
            live == 0
        });
        crowd
    }

    /// The attack is over: everything is as it was.
    #[track_caller]
    fn lift(self, crowd: Crowd) {
        let during = self.bystander.end_phase();
        drop(crowd);
        let limit = FLOOR.max(self.before.p99() * FACTOR);
        assert!(
            during.p99() <= limit,
            "the bystander's p99 was {:?}, before the attack {:?}",
            during.p99(),
            self.before.p99()
        );
        wait_until(PATIENCE, "the worker to close what is left", || {
            self.is_rid_of_all()
        });
        self.bystander.watch(10);
        self.server.get(&list_target(7)).expect(200);
        let lines = self.server.log_length() - self.lines;
        assert!(lines <= LINES, "{lines} lines in the log for one attack");
        drop(self.bystander);
        self.server.stop();
    }
}

#[test]
fn heads_that_drip_end_at_their_deadline() {
    let _machine = alone();
    let siege = Siege::lay(&["--head-timeout", "1s"]);
    let crowd = siege.endure(
        400,
        &Manner {
            opening: b"GET / HTTP/1.1\r\nHost: a\r\nX-Drip: ".to_vec(),
            then: Then::Drip(b'x', Duration::from_millis(100)),
            deaf: false,
        },
    );
    for member in &crowd.members {
        assert_eq!(member.status(), Some(408), "{}", member.text());
        assert!(member.text().contains("\r\nConnection: close\r\n"));
    }
    siege.lift(crowd);
}

#[test]
fn bodies_that_drip_end_below_the_minimum_rate() {
    let _machine = alone();
    let siege = Siege::lay(&["--head-timeout", "1s", "--min-body-rate", "256"]);
    let heads = [
        "Content-Length: 60000\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nFFFF\r\n",
    ];
    for head in heads {
        let opening = format!(
            "POST /api/images/ HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{head}"
        );
        let crowd = siege.endure(
            200,
            &Manner {
                opening: opening.into_bytes(),
                // 20 bytes a second.
                then: Then::Drip(b' ', Duration::from_millis(50)),
                deaf: false,
            },
        );
        for member in &crowd.members {
            assert_eq!(member.status(), Some(408), "{head}: {}", member.text());
        }
    }
    let nobody = siege.crowd();
    siege.lift(nobody);
}

/// Each asks for 10 MB, of which the kernel takes a part. The rest must not wait in the worker's memory; and once the
/// worker had let them go, what the kernel had taken stayed there, a socket each that nobody held, for minutes.
#[test]
fn clients_that_never_read_are_let_go_and_cost_little() {
    const DEAF: usize = 100;
    const REQUESTS: usize = 1000;
    const KIB_EACH: i64 = 512;
    let _machine = alone();
    let siege = Siege::lay(&["--write-timeout", "2s"]);
    let answer = siege.server.get(&list_target(LARGE_SHOE)).expect(200);
    assert!((answer.body.len() * REQUESTS) as i64 > 8 * KIB_EACH * 1024);
    let worker = siege.server.only_worker();
    forget_peak_rss(worker);
    let before = peak_rss(worker);
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: a\r\n\r\n",
        list_target(LARGE_SHOE)
    );
    let mut crowd = siege.crowd();
    crowd.join(
        DEAF,
        &Manner {
            opening: request.repeat(REQUESTS).into_bytes(),
            then: Then::Listen,
            deaf: true,
        },
    );
    let mut most = 0;
    crowd.act_until("the deaf to be let go", |_| {
        most = most.max(socket_inodes(worker).len());
        siege.is_told() && most >= siege.sockets + DEAF && siege.is_rid_of_all()
    });
    let growth = peak_rss(worker) - before;
    assert!(
        growth < KIB_EACH * DEAF as i64,
        "{growth} KiB for {DEAF} clients that don't read"
    );
    // What they did not take is not the kernel's to keep either: the one that is left is the bystander's.
    wait_until(PATIENCE, "the kernel to let go of the rest", || {
        kernel_rows(siege.server.address()) <= 1
    });
    siege.lift(crowd);
}

#[test]
fn pipelines_without_end_let_others_have_their_turn() {
    let _machine = alone();
    let siege = Siege::lay(&["--write-timeout", "1s"]);
    let endless = |target: &str, deaf| Manner {
        opening: Vec::new(),
        then: Then::Repeat(
            format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
                .repeat(500)
                .into_bytes(),
        ),
        deaf,
    };
    let mut crowd = siege.crowd();
    // These never wait for a database, so nothing makes them pause.
    crowd.join(4, &endless("/healthz", false));
    crowd.join(8, &endless("/healthz", true));
    crowd.join(8, &endless(&list_target(7), true));
    crowd.act_until("the end of those who don't read", |crowd| {
        siege.is_told() && crowd.live() <= 4
    });
    for (index, member) in crowd.members.iter().enumerate() {
        match index {
            0..4 => assert_eq!((member.status(), member.end), (Some(200), None)),
            _ => assert_eq!(member.end, Some(End::Reset)),
        }
    }
    siege.lift(crowd);
}

#[test]
fn a_flood_of_connections_is_turned_away_with_a_word() {
    const ROOM: usize = 50;
    const FLOOD: usize = 1500;
    let _machine = alone();
    let siege = Siege::lay(&["--max-connections", &ROOM.to_string()]);
    let asking = Manner {
        opening: b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        ..Manner::default()
    };
    let mut crowd = siege.crowd();
    crowd.join(FLOOD / 2, &asking);
    crowd.join(FLOOD / 2, &Manner::default());
    // The bystander has one place of those that there are.
    crowd.act_until("the flood to be answered", |crowd| {
        if !siege.is_told() && crowd.members.len() < 4 * FLOOD {
            crowd.join(FLOOD - crowd.live().min(FLOOD), &asking);
        }
        siege.is_told() && crowd.live() < ROOM
    });
    assert!(crowd.live() > 0, "those who came first are served");
    for member in &crowd.members {
        match member.end {
            None => assert!(
                matches!(member.status(), None | Some(200)),
                "{}",
                member.text()
            ),
            Some(end) => {
                let text = member.text();
                assert_eq!((end, member.status()), (End::Closed, Some(503)), "{text}");
                assert!(text.contains("\r\nRetry-After: 1\r\n"), "{text}");
                assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
            }
        }
    }
    siege.lift(crowd);
}

#[test]
fn connections_that_never_say_a_word_are_closed() {
    let _machine = alone();
    let siege = Siege::lay(&["--keepalive-timeout", "1s"]);
    let crowd = siege.endure(1000, &Manner::default());
    for member in &crowd.members {
        assert_eq!(
            (member.end, member.text()),
            (Some(End::Closed), String::new())
        );
    }
    siege.lift(crowd);
}

/// In bursts of connections that are all there at once. The acceptor took them all before anything else had its
/// turn: in this test the bystander's p99 was 650 ms.
#[test]
fn rubbish_is_refused() {
    const BURST: usize = 1600;
    const MOST: usize = 8 * BURST;
    let _machine = alone();
    let siege = Siege::lay(&["--head-timeout", "1s"]);
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |length: usize| -> Vec<u8> {
        let mut byte = || {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        };
        (0..length).map(|_| byte()).collect()
    };
    let mut rubbish = vec![
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        // A ClientHello of TLS 1.2, cut short as those are that come in two packets.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"SSH-2.0-OpenSSH_9.9\r\n".to_vec(),
        b"\0".repeat(100),
        b"\r\n".repeat(20_000),
        b"A".repeat(100_000),
        b"GET / HTTP/1.1\r\n"
            .iter()
            .copied()
            .chain(b"A: b\r\n".repeat(5000))
            .collect(),
    ];
    rubbish.extend((0..25).map(|power| random(1 << (power % 13))));
    let mut crowd = siege.crowd();
    crowd.act_until("the end of all rubbish", |crowd| {
        let live = crowd.live();
        if siege.is_told() {
            return live == 0;
        }
        if live < BURST && crowd.members.len() < MOST {
            for bytes in &rubbish {
                let opening = bytes.clone();
                let manner = Manner {
                    opening,
                    ..Manner::default()
                };
                crowd.join(BURST / rubbish.len(), &manner);
            }
        }
        false
    });
    for member in &crowd.members {
        let status = member
            .status()
            .unwrap_or_else(|| panic!("no answer: {}", member.text()));
        assert!(
            matches!(status, 400 | 408 | 414 | 431 | 501 | 505),
            "{}",
            member.text()
        );
    }
    siege.lift(crowd);
}
