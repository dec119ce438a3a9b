//! A worker: one scheduler thread that runs every coroutine, lane threads for what blocks, and this thread, which
//! takes the master's orders and drives the clock. It starts with its sockets, says that it is ready, serves, and
//! leaves when it is told to and everything in flight is done.

mod accept;
mod balance;
mod clock;
pub mod control;
mod lanes;
pub mod needs;
pub mod panics;
mod queue;
mod scribe;

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use self::accept::{Gate, Siblings};
use self::balance::Balance;
use self::clock::Clock;
use self::control::{Channel, Heard, Order, Report};
use self::lanes::{Backing, Lanes};
use self::panics::{log_panics, start_vital};
use self::scribe::Scribe;
use crate::app::manners::Manners;
use crate::app::routes::{App, WriteRule};
use crate::cache::l1::{L1, Trust};
use crate::cache::redis::RedisCache;
use crate::config::{Config, Database, Writes};
use crate::http::access::AccessLog;
use crate::http::buffer::Pool;
use crate::http::client::TrustedProxies;
use crate::http::connection::{Arrival, Door, Patience};
use crate::http::limits::Limits;
use crate::http::lobby::Lobby;
use crate::http::turnstile::Turnstile;
use crate::http::watch::Watch;
use crate::scoreboard::counters::Counter;
use crate::scoreboard::{Row, Scoreboard};
use crate::seed::{Demo, create_demo};
use crate::store::url::DatabaseUrl;
use crate::store::{self, PoolOptions, Store};

/// The exit code of a worker that could not start or go on.
pub const EXIT_FAILED: i32 = 111;

/// How often deadlines are looked at: the grain of every timeout of a connection.
const TICK: Duration = Duration::from_millis(100);

/// The stack of a coroutine, in words of 8 bytes: 128 KiB of address space, of which only what is touched costs
/// memory. The deepest call is answering a request inside catch_unwind, and logging: 2,438 words (19.0 KiB) in a debug
/// build with the largest and deepest requests that settings allow, three pages (12 KiB) in a release build, as the
/// runtime counts them for an odd size and as smaps shows. tests/stacks.rs holds it under half. Bodies can't deepen it:
/// JSON is read without recursion. What would run over touches the guard page: generator's handler says `coroutine has
/// overflowed its stack` on standard error.
const STACK_WORDS: usize = 16 * 1024;

/// Stacks that are kept for the next connection.
const SPARE_STACKS: usize = 256;

/// When the server stops, how long an idle client may still send the request that it may have on its way.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// How many shoes the embedded database is born with.
const DEMO_SHOES: u32 = 1000;

/// What a worker whose master is gone has to finish what is in flight.
const ORPHAN_GRACE: Duration = Duration::from_millis(1500);

/// What the master gives a worker on its way.
pub struct Assignment<'a> {
    pub slot: usize,
    pub config: &'a Config,
    /// The listeners of all slots.
    pub listeners: Vec<Inherited>,
    /// The bells of all slots, each an eventfd(2).
    pub bells: Vec<OwnedFd>,
    pub channel: Channel,
    pub scoreboard: Scoreboard,
    /// The worker's own row of it.
    pub row: Row,
}

/// A listening socket of the master's.
pub struct Inherited {
    /// Which of its address's sockets it is.
    pub number: usize,
    pub socket: TcpListener,
    /// Its connections begin with a PROXY header.
    pub proxied: bool,
}

impl Inherited {
    fn arrival(&self) -> Arrival {
        match self.proxied {
            true => Arrival::Proxied,
            false => Arrival::Direct,
        }
    }
}

/// Whether [`prepare`] has something to do.
pub fn needs_preparation(config: &Config) -> bool {
    matches!(&config.database, Database::Embedded { path } if !path.exists())
}

/// Makes the embedded database with its demo catalogue, in a process of its own; the exit code.
pub fn prepare(config: &Config) -> i32 {
    let Database::Embedded { path } = &config.database else {
        return 0;
    };
    match create_demo(path, DEMO_SHOES) {
        Ok(Demo::Created) => {
            log::info!(
                "store: made a demo catalogue of {DEMO_SHOES} shoes in {}",
                path.display()
            );
            0
        }
        Ok(Demo::Existing) => 0,
        Err(error) => {
            log::error!(
                "store: can't make the embedded database {}: {error}",
                path.display()
            );
            EXIT_FAILED
        }
    }
}

/// Serves until told to finish; the exit code. All signals are blocked already.
pub fn run(assignment: Assignment<'_>) -> i32 {
    let slot = assignment.slot;
    log_panics(slot);
    match serve(assignment) {
        Ok(()) => 0,
        Err(error) => {
            log::error!("worker {slot}: {error}");
            EXIT_FAILED
        }
    }
}

fn serve(assignment: Assignment<'_>) -> Result<(), String> {
    let Assignment {
        slot,
        config,
        listeners,
        bells,
        channel,
        scoreboard,
        row,
    } = assignment;
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    if let Err(error) = pin(slot) {
        log::warn!("worker {slot}: is not pinned to a CPU, so workers may share one: {error}");
    }
    let signals = finish_signals().map_err(failed("can't listen for signals"))?;

    let watch = Arc::new(Watch::new(Some(row)));
    let redis = open_redis(config, scoreboard)?;
    let trust = Arc::new(match &redis {
        Some(_) => Trust::not_yet(),
        None => Trust::always(),
    });
    if let Some(redis) = &redis {
        redis
            .listen(trust.clone())
            .map_err(failed("can't listen to other hosts"))?;
    }
    let generations = scoreboard.generations();
    let l1 = L1::new(config.l1_bytes, config.l1_ttl, generations, trust);
    let lanes = Arc::new(Lanes::new(
        open_store(config)?,
        redis,
        row,
        config.request_timeout,
    ));
    lanes
        .start(config.lanes)
        .map_err(failed("can't start its lanes"))?;
    let gate = Arc::new(Gate::new(config.limits.max_connections));

    may::config()
        .set_workers(1)
        .set_stack_size(STACK_WORDS)
        .set_pool_capacity(SPARE_STACKS)
        .set_worker_pin(false);
    let lobby = Arc::new(Lobby::new(watch.clone(), row).map_err(failed("can't make its lobby"))?);
    let turnstile = Arc::new(Turnstile::new().map_err(failed("can't make its turnstile"))?);
    let backing = Backing {
        lanes: lanes.clone(),
        watch: watch.clone(),
        l1,
        tally: row,
    };
    let scribe = match &config.access_log {
        Some(target) => Some(Scribe::start(target, config.access_log_format)?),
        None => None,
    };
    let access = scribe.as_ref().map(Scribe::log);
    let door = Arc::new(open_door(
        config,
        access,
        backing,
        lobby.clone(),
        turnstile.clone(),
    ));
    start_vital(move || turnstile.attend()).map_err(failed("can't attend its turnstile"))?;
    let (returning, readmitting) = (door.clone(), gate.clone());
    start_vital(move || accept::readmit(&readmitting, &returning))
        .map_err(failed("can't attend its lobby"))?;
    let porter = lanes.clone();
    start_vital(move || porter.carry()).map_err(failed("can't start the porter"))?;
    let slots = config.workers.count();
    let (own, others): (Vec<_>, Vec<_>) = listeners
        .into_iter()
        .partition(|listener| listener.number % slots == slot);
    let siblings = Arc::new(Siblings::new(others, slots, scoreboard, door.clone()));
    let balance = Arc::new(Balance::new(scoreboard, row, slot, bells));
    let (bell, rung, gated) = (balance.clone(), siblings.clone(), gate.clone());
    start_vital(move || {
        if let Err(error) = bell.attend(|| rung.relieve(&gated)) {
            log::error!("worker: can't hear its siblings' bells, so connections may be spread unevenly: {error}");
        }
    })
    .map_err(failed("can't attend its bell"))?;
    let (accepting, accepts) = mpsc::channel();
    let sockets = own.len();
    let attended = own.iter().map(|listener| listener.number).collect();
    for listener in own {
        let (gate, door, accepting) = (gate.clone(), door.clone(), accepting.clone());
        let balance = balance.clone();
        start_vital(move || accept::run(&listener, &balance, &gate, &door, &accepting))
            .map_err(failed("can't start accepting"))?;
    }
    let clock = Clock {
        watch: watch.clone(),
        lobby,
        lanes,
        gate: gate.clone(),
        siblings,
        slot,
        scoreboard,
        attended,
        row,
    };
    start_vital(move || clock.run()).map_err(failed("can't start the clock"))?;
    // Only the acceptors' own ends are left, so that one that is gone is noticed.
    drop(accepting);
    for _ in 0..sockets {
        accepts
            .recv()
            .map_err(|_| "an acceptor ended before it began".to_owned())?
            .map_err(failed("can't wait for connections"))?;
    }
    channel
        .report(Report::Ready)
        .map_err(failed("can't report to the master"))?;
    let wear = Wear::new(slot, config, row);
    obey(
        &channel,
        &signals,
        &gate,
        &watch,
        config.drain_timeout,
        wear,
    )
    .map_err(failed("can't wait for orders"))?;
    if let Some(scribe) = scribe {
        scribe.finish();
    }
    Ok(())
}

/// Pins every thread of this process, those to come included, to the slot's CPU: the `slot`-th that the process may use,
/// around again when there are more slots than CPUs.
fn pin(slot: usize) -> io::Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let cpus: Vec<usize> = (0..CpuSet::count())
        .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
        .collect();
    if let Some(cpu) = cpus.get(slot % cpus.len().max(1)) {
        let mut own = CpuSet::new();
        own.set(*cpu)?;
        sched_setaffinity(Pid::from_raw(0), &own)?;
    }
    Ok(())
}

/// TERM and QUIT sent to a worker let it finish; every other signal stays blocked, that is, ignored.
fn finish_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGQUIT);
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

fn open_store(config: &Config) -> Result<Arc<dyn Store>, String> {
    let url = match &config.database {
        Database::Embedded { path } => DatabaseUrl::Sqlite(path.clone()),
        Database::Url(url) => {
            DatabaseUrl::parse(url.expose()).map_err(|error| format!("database_url: {error}"))?
        }
    };
    let pool = PoolOptions {
        max_size: u32::try_from(config.lanes).unwrap_or(u32::MAX),
        // A patient server is patient with connections, too.
        connect_timeout: config
            .request_timeout
            .max(PoolOptions::default().connect_timeout),
        statement_timeout: config.request_timeout,
    };
    store::open(&url, pool).map_err(|error| error.to_string())
}

fn open_redis(config: &Config, scoreboard: Scoreboard) -> Result<Option<RedisCache>, String> {
    let Some(redis) = &config.redis else {
        return Ok(None);
    };
    let connections = u32::try_from(config.lanes).unwrap_or(u32::MAX);
    RedisCache::new(
        redis.url.expose(),
        &redis.prefix,
        redis.ttl,
        connections,
        config.request_timeout,
        scoreboard,
    )
    .map(Some)
    .map_err(|why| format!("redis_url: {why}"))
}

fn open_door(
    config: &Config,
    access: Option<Arc<AccessLog>>,
    backing: Backing,
    lobby: Arc<Lobby>,
    turnstile: Arc<Turnstile>,
) -> Door<App<Backing>> {
    let writes = match &config.writes {
        Writes::Token(token) => WriteRule::Bearer(token.expose().into()),
        Writes::LoopbackOnly | Writes::Anonymous => WriteRule::Anyone,
    };
    let manners = Manners::new(config.cache_max_age, config.cors_origins.clone());
    let limits = &config.limits;
    let (watch, tally) = (backing.watch.clone(), backing.tally);
    Door {
        service: App::new(backing, writes, manners),
        limits: Limits {
            request_line: limits.max_request_line,
            head: limits.max_head,
            fields: limits.max_fields,
            body: limits.max_body,
            ..Limits::default()
        },
        patience: Patience {
            head: limits.head_timeout,
            idle: limits.keepalive_timeout,
            write: limits.write_timeout,
            body_rate: limits.min_body_rate,
        },
        watch,
        lobby,
        turnstile,
        pool: Pool::default(),
        tally,
        access,
        trusted: TrustedProxies::new(config.trusted_proxies.clone()),
    }
}

/// This thread's loop: drives the clock, hears the master, and ends when everything in flight is done.
fn obey(
    channel: &Channel,
    signals: &SignalFd,
    gate: &Gate,
    watch: &Watch,
    drain_timeout: Duration,
    mut wear: Wear,
) -> io::Result<()> {
    let mut leaving: Option<Leaving> = None;
    let mut orphaned = false;
    loop {
        let listen = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![listen(signals.as_fd())];
        // The channel of a master that is gone would be readable for ever.
        if !orphaned {
            fds.push(listen(channel.as_fd()));
        }
        let tick = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, tick) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let signalled = matches!(signals.read_signal(), Ok(Some(_)));
        let order = match channel.hear_order() {
            Heard::Message(order) => Some(order),
            Heard::End if !orphaned => {
                log::warn!("worker: the master is gone; finishing what is in flight");
                orphaned = true;
                Some(Order::Stop {
                    within: ORPHAN_GRACE,
                })
            }
            Heard::Nothing | Heard::End if signalled => Some(Order::Retire {
                within: drain_timeout,
            }),
            Heard::Nothing | Heard::End => None,
        };
        if let Some(order) = order {
            leaving = Some(Leaving::begin(order, gate, watch));
        }
        gate.wake_clock();
        if leaving.is_none() && wear.is_through() {
            channel.report(Report::Worn)?;
        }
        if let Some(leaving) = &mut leaving {
            if gate.is_closed() && watch.open() == 0 {
                return Ok(());
            }
            if leaving.is_over(watch) {
                log::warn!(
                    "worker: {} connections did not finish in time and are closed",
                    watch.open()
                );
                return Ok(());
            }
        }
    }
}

/// How much a worker may do before another one takes its place: the net under leaks.
struct Wear {
    row: Row,
    /// What the row had counted before this worker.
    before: u64,
    requests: Option<u64>,
    /// Resident memory, in bytes.
    rss: Option<u64>,
    looked: Instant,
    told: bool,
}

/// How often a worker looks at its memory.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Wear {
    fn new(slot: usize, config: &Config, row: Row) -> Self {
        // Workers that start together must not wear out together: each slot has a limit of its own, up to a tenth lower.
        let slots = config.workers.count() as u64;
        let own = |limit: u64| limit - limit / 10 * (slot as u64 % slots) / slots;
        Wear {
            row,
            before: row.counted(Counter::Requests),
            requests: Some(config.max_requests)
                .filter(|most| *most > 0)
                .map(|most| own(most as u64)),
            rss: Some(config.max_worker_rss)
                .filter(|most| *most > 0)
                .map(|most| own(most as u64)),
            looked: Instant::now(),
            told: false,
        }
    }

    /// Whether a limit is reached; says so once.
    fn is_through(&mut self) -> bool {
        if self.told {
            return false;
        }
        let requests = self.row.counted(Counter::Requests) - self.before;
        self.told = self.requests.is_some_and(|most| requests >= most) || self.is_too_large();
        self.told
    }

    fn is_too_large(&mut self) -> bool {
        let Some(most) = self.rss else { return false };
        if self.looked.elapsed() < LOOK_EVERY {
            return false;
        }
        self.looked = Instant::now();
        resident().is_some_and(|bytes| bytes >= most)
    }
}

/// The memory of this process that is in RAM, in bytes: the second field of /proc/self/statm (proc(5)).
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * page as u64)
}

/// How a worker leaves.
struct Leaving {
    until: Instant,
    evict_at: Instant,
}

impl Leaving {
    fn begin(order: Order, gate: &Gate, watch: &Watch) -> Self {
        watch.drain();
        let now = Instant::now();
        match order {
            Order::Retire { within } => {
                gate.close(accept::Close::AtOnce);
                Leaving {
                    until: now + within,
                    evict_at: now + within,
                }
            }
            Order::Stop { within } => {
                gate.close(accept::Close::WhenEmpty);
                Leaving {
                    until: now + within,
                    evict_at: now + IDLE_GRACE.min(within),
                }
            }
        }
    }

    /// Evicts the idle when their time has come; answers whether everybody's has.
    fn is_over(&mut self, watch: &Watch) -> bool {
        let now = Instant::now();
        if now >= self.evict_at {
            watch.evict_idle();
        }
        // Two ticks for the evicted to leave by themselves.
        now >= self.until + TICK * 2
    }
}
