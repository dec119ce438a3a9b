//! Several hosts behind nginx and HAProxy, which run with the very files of `nginx/` and `haproxy/`: restarts and upgrades that no
//! client notices, hosts that are killed or cut off, and links between hosts, PostgreSQL and Redis that break.
//!
//! Each host has a network namespace of its own where the test is root; else a port of loopback.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::checker::assert_coherent;
use crate::support::checker::check;
use crate::support::haproxy::HaProxy;
use crate::support::http::Request;
use crate::support::load::{Load, On, Style, Tally};
use crate::support::namespaces::Namespace;
use crate::support::nginx::Nginx;
use crate::support::postgres::Postgres;
use crate::support::process::{free_port, signal};
use crate::support::redis::Redis;
use crate::support::relay::Relay;
use crate::support::shoes::{draft, list_target, post};
use crate::support::{Backend, Canvas, Client, Dir, PATIENCE, Server, alone, wait_until};

/// A second more than nginx.conf keeps idle connections (keepalive_timeout).
const DRAIN_DELAY: Duration = Duration::from_secs(6);

/// What balancers wait for an answer where a test is not about that: more than the hosts' own --request-timeout.
const PATIENT: Option<&str> = Some("20s");

/// Clients of each load.
const READERS: usize = 1;
const WRITERS: usize = 2;

/// A host: its network, its way to PostgreSQL and Redis, and its server, which may be started again.
struct Host {
    server: Option<Server>,
    address: SocketAddr,
    postgres: Relay,
    redis: Relay,
    canvas: Canvas,
    namespace: Option<Namespace>,
    _dir: Dir,
}

impl Host {
    fn start(backend: &Backend, ports: (u16, u16), more: &[&str]) -> Host {
        let namespace = match Namespace::make() {
            Ok(namespace) => Some(namespace),
            Err(why) => {
                assert!(!nix::unistd::geteuid().is_root(), "no namespace: {why}");
                println!("a host on loopback, without a network of its own: {why}");
                None
            }
        };
        let local = SocketAddr::from(([127, 0, 0, 1], 0)).ip();
        let (here, address) = match &namespace {
            Some(namespace) => (
                namespace.here(),
                SocketAddr::from((namespace.there(), 1121)),
            ),
            None => (local, SocketAddr::from((local, free_port()))),
        };
        let (postgres, redis) = (Relay::on(here, ports.0), Relay::on(here, ports.1));
        let dir = Dir::new();
        let redis_url = backend.redis_url.as_deref().expect("a backend with Redis");
        let mut canvas = Canvas::new(dir.path())
            .env(
                "CANVAS_DATABASE_URL",
                postgres.url(&backend.database_url, ports.0),
            )
            .env("CANVAS_REDIS_URL", redis.url(redis_url, ports.1))
            // No test here is about how soon a busy machine commits.
            .args(["--request-timeout", "15s", "--allow-anonymous-writes"])
            .args(["--listen", &address.to_string()])
            .args(more)
            .workers(2);
        if let Some(namespace) = &namespace {
            canvas = canvas.network(namespace.name());
        }
        let mut host = Host {
            server: None,
            address,
            postgres,
            redis,
            canvas,
            namespace,
            _dir: dir,
        };
        host.start_again();
        host
    }

    fn start_again(&mut self) {
        let mut server = self.canvas.clone().launch_as_it_is();
        server.wait_until_ready();
        self.server = Some(server);
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("a host that runs")
    }

    /// Every process of it, at once.
    fn kill(&mut self) {
        let mut server = self.server.take().expect("a host that runs");
        let workers = server.workers();
        server.kill_master();
        for worker in workers {
            signal(worker, Signal::SIGKILL);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Before its network goes.
        drop(self.server.take());
        drop(self.namespace.take());
    }
}

fn three_hosts(backend: &Backend, ports: (u16, u16), more: &[&str]) -> [Host; 3] {
    [(); 3].map(|()| Host::start(backend, ports, more))
}

fn addresses(hosts: &[Host]) -> Vec<SocketAddr> {
    hosts.iter().map(|host| host.address).collect()
}

/// Loads through one balancer: reads, and posts of a shoe of its own.
struct Loads {
    balancer: &'static str,
    shoe: i64,
    reads: Load,
    posts: Load,
}

impl Loads {
    fn start(balancer: &'static str, shoe: i64, address: SocketAddr) -> Loads {
        let reads = (1..40).map(|shoe| Request::new("GET", &list_target(shoe)));
        let posts = vec![post(draft(shoe, &[("img1", balancer)]))];
        Loads {
            balancer,
            shoe,
            reads: Load::start(address, Style::Paced, READERS, reads.collect()),
            posts: Load::start(address, Style::Paced, WRITERS, posts),
        }
    }

    fn wait(&self) {
        self.reads.wait_for_answers(50);
        self.posts.wait_for_answers(20);
    }

    /// Ends them, and holds the rows to what was acknowledged: no less, and no more than may have been stored without an answer.
    fn stop(self, backend: &Backend) -> (Tally, Tally) {
        let (reads, posts) = (self.reads.stop(), self.posts.stop());
        reads.report(&format!("{}, GET", self.balancer));
        posts.report(&format!("{}, POST", self.balancer));
        let query = format!(
            "SELECT count(*) FROM shoe_images WHERE shoe_id = {}",
            self.shoe
        );
        let stored = backend.count(&query) as u64;
        let unknown = posts.sent() - posts.ok;
        println!(
            "{}: {stored} rows of {} acknowledged and {unknown} unknown",
            self.balancer, posts.ok
        );
        assert!(
            (posts.ok..=posts.ok + unknown).contains(&stored),
            "{stored} rows: {posts:?}"
        );
        (reads, posts)
    }
}

/// How many hosts HAProxy takes for ready.
fn hosts_ready(haproxy: &HaProxy) -> String {
    let answer = Client::connect(haproxy.address())
        .and_then(|mut client| client.get("/hosts-ready"))
        .expect("an answer of HAProxy's");
    answer.expect(200).text().trim().to_owned()
}

fn delayed() -> String {
    format!("{}s", DRAIN_DELAY.as_secs())
}

#[test]
fn restarts_and_upgrades_of_every_host_are_noticed_by_nobody() {
    let _machine = alone();
    let (postgres, redis) = (Postgres::shared(), Redis::private());
    let backend = Backend::on(postgres, Some(&redis));
    backend.migrate();
    let ports = (postgres.port(), redis.port());
    let mut hosts = three_hosts(&backend, ports, &["--drain-delay", &delayed()]);
    let nginx = Nginx::before(&addresses(&hosts), PATIENT);
    let haproxy = HaProxy::as_documented(&addresses(&hosts), PATIENT);
    let loads = [
        Loads::start("nginx", 1001, nginx.address()),
        Loads::start("HAProxy", 1002, haproxy.address()),
    ];
    let wait = || loads.iter().for_each(Loads::wait);
    wait();
    for host in &mut hosts {
        let began = Instant::now();
        let mut server = host.server.take().expect("a host that runs");
        server.stop_with(Signal::SIGTERM);
        println!("stopped after {:?}", began.elapsed());
        assert!(began.elapsed() >= DRAIN_DELAY, "no delay");
        host.start_again();
        // As README has it: the next one when the balancer knows that this one is back.
        wait_until(PATIENCE, "HAProxy to count the host again", || {
            hosts_ready(&haproxy) == "3"
        });
        wait();
    }
    for host in &hosts {
        let server = host.server();
        let length = server.log_length();
        server.signal(Signal::SIGUSR2);
        server.wait_for_line_after(length, "takes over from");
        server.wait_for_line_after(length, "master: reloaded: ");
        wait();
    }
    for load in loads {
        let (reads, posts) = load.stop(&backend);
        reads.assert_all_ok();
        posts.assert_all_ok();
    }
}

/// Whoever asks hears of the stop before anything else changes; a second TERM waits no longer.
#[test]
fn a_host_that_will_stop_says_so_and_serves_on() {
    let backend = Backend::sqlite();
    let canvas = backend.canvas().workers(2);
    let mut server = canvas
        .args(["--drain-delay", "10m", "--drain-timeout", "10m"])
        .start();
    let mut kept: Vec<_> = server.one_client_per_worker();
    server.signal(Signal::SIGTERM);
    for (worker, client) in &mut kept {
        wait_until(PATIENCE, &format!("worker {worker} to say so"), || {
            let ready = client.get("/readyz").expect("an answer");
            ready.status == 503 && ready.problem(503).kind == "/problems/draining"
        });
        // On the connection that was there, which stays.
        let answer = client.get(&list_target(7)).expect("an answer").expect(200);
        assert_eq!(answer.header("Connection"), None);
        client.get("/healthz").expect("an answer").expect(200);
    }
    // And on new ones.
    let answer = server.call(&post(draft(7, &[("img1", "late")])));
    assert_eq!(answer.expect(201).header("Connection"), None);
    // A reload is not begun, and a worker that dies is replaced by one that says so too.
    server.signal(Signal::SIGHUP);
    let before = server.workers();
    let victim = *before.first().expect("a worker");
    server.allow("SIGKILL");
    signal(victim, Signal::SIGKILL);
    wait_until(PATIENCE, "another worker", || {
        let now = server.workers();
        now.len() == 2 && !now.contains(&victim)
    });
    for (worker, mut client) in server.one_client_per_worker() {
        wait_until(PATIENCE, &format!("worker {worker} to say so"), || {
            client.get("/readyz").expect("an answer").status == 503
        });
    }
    assert!(server.lines_with("reloading").is_empty());
    let (_, last) = kept.last_mut().expect("a client");
    server.stop_with(Signal::SIGTERM);
    assert!(last.is_closed());
}

/// Requests of a host that is gone: a GET is asked of another one, and of the POSTs no more than were in flight are lost.
#[track_caller]
fn hold_to_what_was_in_flight(loads: Loads, backend: &Backend) {
    let (reads, posts) = loads.stop(backend);
    reads.assert_all_ok();
    // HAProxy's way to tell that a connection to the host broke that had served before.
    let closed = posts.troubled(On::Reused);
    assert_eq!(
        posts.trouble.values().sum::<u64>(),
        closed,
        "no answer at all from the balancer: {posts:?}"
    );
    let lost = posts.other.values().sum::<u64>() + closed;
    assert!(
        posts.other.keys().all(|status| [502, 504].contains(status)) && lost <= WRITERS as u64,
        "more than was in flight: {posts:?}"
    );
}

#[test]
fn of_a_host_that_is_killed_only_posts_in_flight_are_lost() {
    let _machine = alone();
    let (postgres, redis) = (Postgres::shared(), Redis::private());
    let backend = Backend::on(postgres, Some(&redis));
    backend.migrate();
    let mut hosts = three_hosts(&backend, (postgres.port(), redis.port()), &[]);
    let nginx = Nginx::before(&addresses(&hosts), PATIENT);
    let haproxy = HaProxy::as_documented(&addresses(&hosts), PATIENT);
    let loads = [
        Loads::start("nginx", 1001, nginx.address()),
        Loads::start("HAProxy", 1002, haproxy.address()),
    ];
    loads.iter().for_each(Loads::wait);
    hosts[0].kill();
    loads.iter().for_each(Loads::wait);
    loads.iter().for_each(Loads::wait);
    hosts[0].start_again();
    loads.iter().for_each(Loads::wait);
    for loads in loads {
        hold_to_what_was_in_flight(loads, &backend);
    }
}

/// No RST tells of it: who waits for an answer waits for the balancer's patience.
#[test]
fn of_a_host_that_is_cut_off_only_posts_in_flight_are_lost() {
    let _machine = alone();
    let (postgres, redis) = (Postgres::shared(), Redis::private());
    let backend = Backend::on(postgres, Some(&redis));
    backend.migrate();
    let mut hosts = three_hosts(&backend, (postgres.port(), redis.port()), &[]);
    let nginx = Nginx::before(&addresses(&hosts), None);
    let haproxy = HaProxy::as_documented(&addresses(&hosts), None);
    let loads = [
        Loads::start("nginx", 1001, nginx.address()),
        Loads::start("HAProxy", 1002, haproxy.address()),
    ];
    loads.iter().for_each(Loads::wait);
    // It also loses its database and Redis, and may say so.
    for expected in ["database", "redis", "store", "not available"] {
        if let Some(server) = &mut hosts[0].server {
            server.allow(expected);
        }
    }
    match &hosts[0].namespace {
        Some(namespace) => namespace.cut(),
        // Its sockets take what comes, and nobody answers.
        None => stop_all(hosts[0].server(), Signal::SIGSTOP),
    }
    // Long enough for both to find out, each in its way.
    wait_until(PATIENCE, "nginx to miss an answer", || {
        nginx.complaints().contains("upstream timed out")
    });
    wait_until(PATIENCE, "HAProxy to leave the host out", || {
        hosts_ready(&haproxy) == "2"
    });
    loads.iter().for_each(Loads::wait);
    match &hosts[0].namespace {
        Some(namespace) => namespace.heal(),
        None => stop_all(hosts[0].server(), Signal::SIGCONT),
    }
    let address = hosts[0].address;
    wait_until(PATIENCE, "the host to be ready again", || {
        Client::connect(address)
            .and_then(|mut client| client.get("/readyz"))
            .is_ok_and(|answer| answer.status == 200)
    });
    loads.iter().for_each(Loads::wait);
    for loads in loads {
        hold_to_what_was_in_flight(loads, &backend);
    }
}

fn stop_all(server: &Server, which: Signal) {
    server
        .workers()
        .into_iter()
        .for_each(|worker| signal(worker, which));
    signal(server.master(), which);
}

/// The bound that README states for the worst partition: both times to live together.
const L1_TTL: Duration = Duration::from_secs(1);
const REDIS_TTL: Duration = Duration::from_secs(2);

/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(2);

#[test]
fn hosts_agree_within_the_bound_while_their_links_break() {
    let _machine = alone();
    let (postgres, redis) = (Postgres::shared(), Redis::private());
    let backend = Backend::on(postgres, Some(&redis));
    backend.migrate();
    let times = ["--l1-ttl", "1s", "--redis-ttl", "2s"];
    let mut hosts = three_hosts(&backend, (postgres.port(), redis.port()), &times);
    for host in &mut hosts {
        for expected in ["database", "redis", "store", "not available"] {
            host.server.as_mut().expect("it runs").allow(expected);
        }
    }
    let seed = fastrand::u64(..);
    println!("the order of the troubles: seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut cuts = 0;
    let servers: Vec<&Server> = hosts.iter().map(Host::server).collect();
    let time = match std::env::var("CANVAS_CHECK_SECONDS") {
        Ok(text) => Duration::from_secs(text.parse().expect("CANVAS_CHECK_SECONDS is a number")),
        Err(_) => Duration::from_secs(8),
    };
    // One link at a time: with both cut, a host that hears nothing keeps what it has for a minute longer.
    let mut broken: Option<(&Relay, Instant)> = None;
    let verdict = check(&servers, L1_TTL + REDIS_TTL + SLACK, time, || {
        if let Some((relay, until)) = broken {
            // Some are healed before anybody has noticed, some long after.
            if Instant::now() < until {
                return;
            }
            broken = None;
            relay.heal();
            relay.reset_all();
            return;
        }
        let host = &hosts[random.usize(..hosts.len())];
        let relay = match random.bool() {
            true => &host.postgres,
            false => &host.redis,
        };
        relay.swallow_everything();
        broken = Some((
            relay,
            Instant::now() + Duration::from_millis(random.u64(..1500)),
        ));
        cuts += 1;
    });
    for host in &hosts {
        host.postgres.heal();
        host.redis.heal();
    }
    assert_coherent(&format!("three hosts, {cuts} links cut"), &verdict);
    assert!(cuts > 1, "{cuts} cuts are too few");
}
