//! A worker: one scheduler thread that runs every coroutine, lane threads for what blocks, and this thread, which
//! takes the master's orders and drives the clock. It starts with its sockets, says that it is ready, serves, and
//! leaves when it is told to and everything in flight is done.

mod accept;
mod backing;
mod balance;
mod breaker;
mod clock;
pub mod control;
mod descriptors;
mod desk;
mod flights;
mod handoff;
mod hearing;
mod lanes;
mod last_words;
mod muster;
pub mod needs;
mod overload;
mod pacing;
pub mod panics;
pub mod privileges;
mod progress;
mod queue;
mod scribe;
mod share;
mod steward;
pub mod syscalls;
mod usage;
mod waiter;

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getppid};

use self::accept::{Gate, Siblings};
use self::backing::Backing;
use self::balance::Balance;
use self::clock::Clock;
use self::control::{Channel, Report};
pub use self::desk::AdminSocket;
use self::desk::Desk;
use self::flights::Flights;
use self::handoff::{Handoff, Origin};
use self::lanes::Lanes;
use self::panics::{log_panics, start_vital};
use self::progress::HostProgress;
use self::scribe::Scribe;
use self::share::Share;
use self::steward::{Steward, Wear};
use self::usage::Usage;
use crate::app::extras::Extras;
use crate::app::manners::Manners;
use crate::app::page::Site;
use crate::app::routes::{App, WriteRule};
use crate::cache::l1::L1;
use crate::cache::redis::RedisCache;
use crate::cache::trust::Trust;
use crate::config::{ApiDocs, Config, Database, Writes};
use crate::http::access::AccessLog;
use crate::http::buffer::Pool;
use crate::http::client::TrustedProxies;
use crate::http::connection::{Arrival, Door, Patience};
use crate::http::limits::Limits;
use crate::http::lobby::Lobby;
use crate::http::timing::Wanted;
use crate::http::turnstile::Turnstile;
use crate::http::watch::Watch;
use crate::logging;
use crate::scoreboard::{Row, Scoreboard};
use crate::seed::{Demo, create_demo};
use crate::store::url::{DatabaseUrl, PostgresUrl};
use crate::store::{self, PoolOptions, ReplicaOptions, Store};
use crate::sys;

/// The exit code of a worker that could not start or go on.
pub const EXIT_FAILED: i32 = 111;

/// The stack of a coroutine, in words of 8 bytes: 128 KiB of address space, of which only what is touched costs
/// memory. The deepest call is answering a request inside catch_unwind, and logging: 2,438 words (19.0 KiB) in a debug
/// build with the largest and deepest requests that settings allow, three pages (12 KiB) in a release build, as the
/// runtime counts them for an odd size and as smaps shows. tests/stacks.rs holds it under half. Bodies can't deepen it:
/// JSON is read without recursion. What would run over touches the guard page: generator's handler says `coroutine has
/// overflowed its stack` on standard error.
const STACK_WORDS: usize = 16 * 1024;

/// Stacks that are kept for the next connection.
const SPARE_STACKS: usize = 256;

/// Stacks that are made before there is one. The runtime makes as many at its start as it is to keep then, and each is mapped,
/// protected and touched: all of them were a quarter of what the start of a worker takes, at each reload.
const FIRST_STACKS: usize = 16;

/// How many shoes the embedded database is born with.
const DEMO_SHOES: u32 = 1000;

/// What the master gives a worker on its way.
pub struct Assignment<'a> {
    /// The process that gives it.
    pub master: Pid,
    pub slot: usize,
    pub config: &'a Config,
    /// The listeners of all slots.
    pub listeners: Vec<Inherited>,
    /// The bells of all slots, each an eventfd(2).
    pub bells: Vec<OwnedFd>,
    /// The admin listener that all workers share, if there is one.
    pub admin: Option<AdminSocket>,
    pub channel: Channel,
    pub scoreboard: Scoreboard,
    /// The worker's own row of it.
    pub row: Row,
    /// The way to a worker that serves, whose cache this one takes over.
    pub donor: Option<UnixStream>,
}

/// A listening socket of the master's.
pub struct Inherited {
    /// Which of its address's sockets it is.
    pub number: usize,
    /// Where the scoreboard says who attends to it.
    pub mark: usize,
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
    config.user.is_some()
        || config.static_dir.is_some()
        || matches!(&config.database, Database::Embedded { path } if !path.exists())
}

/// As the user that workers will be, sees whether they will reach what they must, tells which files they will serve, and makes
/// the embedded database with its demo catalogue if there is none. In a process of its own; the exit code.
pub fn prepare(config: &Config) -> i32 {
    let ready = || -> Result<(), String> {
        privileges::hand_over_folder(config)?;
        privileges::hand_over_access_log(config);
        privileges::drop(config)?;
        privileges::check_reach(config)?;
        tell_of_extras(config)?;
        make_demo(config)
    };
    match ready() {
        Ok(()) => 0,
        Err(why) => {
            log::error!("{why}");
            EXIT_FAILED
        }
    }
}

/// Reads the files of `--static-dir` once before any worker does, so that a folder that can't be read is refused, and what is
/// left out is told once.
fn tell_of_extras(config: &Config) -> Result<(), String> {
    let Some(folder) = &config.static_dir else {
        return Ok(());
    };
    let shown = folder.display();
    let whom = privileges::as_whom(config);
    let loaded = Extras::load(folder)
        .map_err(|error| format!("static_dir: can't read the folder {shown}: {error}{whom}"))?;
    for left_out in &loaded.left_out {
        log::warn!("static_dir: not served{whom}: {left_out}");
    }
    if loaded.more_left_out > 0 {
        log::warn!(
            "static_dir: {} more files are not served",
            loaded.more_left_out
        );
    }
    let (count, kib) = (loaded.extras.count(), loaded.bytes.div_ceil(1024));
    log::info!("static_dir: serving {count} files of {shown}, {kib} KiB in each worker");
    Ok(())
}

/// The operator's own content. A worker that takes the place of another serves the API even if the folder is gone meanwhile.
fn load_extras(config: &Config, slot: usize) -> Extras {
    let mut extras = match config.static_dir.as_deref().map(Extras::load) {
        None => Extras::default(),
        Some(Ok(loaded)) => loaded.extras,
        Some(Err(error)) => {
            log::error!(
                "worker {slot}: serves no files of --static-dir, which can't be read: {error}"
            );
            Extras::default()
        }
    };
    if let Some(token) = &config.loaderio_token {
        extras.verify(token);
    }
    extras
}

fn make_demo(config: &Config) -> Result<(), String> {
    let Database::Embedded { path } = &config.database else {
        return Ok(());
    };
    match create_demo(path, DEMO_SHOES) {
        Ok(Demo::Created) => {
            log::info!(
                "store: made a demo catalogue of {DEMO_SHOES} shoes in {}",
                path.display()
            );
            Ok(())
        }
        Ok(Demo::Existing) => Ok(()),
        Err(error) => Err(format!(
            "store: can't make the embedded database {}: {error}{}",
            path.display(),
            privileges::as_whom(config)
        )),
    }
}

/// Serves until told to finish; the exit code. All signals are blocked already.
pub fn run(assignment: Assignment<'_>) -> i32 {
    let slot = assignment.slot;
    log_panics(slot);
    if let Err(error) = last_words::prepare(slot) {
        log::warn!("worker {slot}: will leave no backtrace when it is aborted: {error}");
    }
    // While it starts, those who serve go first on its processor; and later it only waits for orders. Before the filter.
    if let Err(error) = sys::be_in_no_hurry() {
        log::debug!("worker {slot}: may keep others waiting while it starts: {error}");
    }
    let needs = needs::needs(assignment.config, assignment.listeners.len() as u64);
    if let Err(error) = descriptors::make_room(needs.descriptors()) {
        log::warn!(
            "worker {slot}: all its connections will wait a moment each time that its table of open files has to grow: {error}"
        );
    }
    privileges::hand_over_access_log(assignment.config);
    // Before there is a second thread: capabilities are each thread's own.
    let ready = privileges::drop(assignment.config)
        .and_then(|()| die_with(assignment.master))
        .and_then(|()| serve(assignment));
    let code = match ready {
        Ok(()) => 0,
        Err(error) => {
            log::error!("worker {slot}: {error}");
            EXIT_FAILED
        }
    };
    logging::finish();
    code
}

/// Has the kernel end this process with its master, until it hears for itself that its master is gone: who starts holds all
/// listeners, and may hang. After it has changed its user, which forgets it (prctl(2)).
fn die_with(master: Pid) -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| format!("can't be told of the master's end: {error}"))?;
    // It may have died before.
    match getppid() == master {
        true => Ok(()),
        false => Err("the master is gone".to_owned()),
    }
}

fn serve(assignment: Assignment<'_>) -> Result<(), String> {
    let Assignment {
        master: _,
        slot,
        config,
        listeners,
        bells,
        admin,
        channel,
        scoreboard,
        row,
        donor,
    } = assignment;
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    if let Err(error) = pin(slot) {
        log::warn!("worker {slot}: is not pinned to a CPU, so workers may share one: {error}");
    }
    let signals = finish_signals().map_err(failed("can't listen for signals"))?;

    let watch = Arc::new(Watch::new(Some(row)));
    let scoreboard = match &config.database {
        Database::Url(url) => scoreboard.of_database(url.expose()),
        Database::Embedded { .. } => scoreboard,
    };
    scoreboard
        .replicas()
        .set_count(config.database_read_urls.len());
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
    let redis = redis.map(Arc::new);
    if config.database_notify {
        let listener =
            store::listen(&database_url(config, slot)?).map_err(|error| error.to_string())?;
        match listener {
            Some(listener) => {
                hearing::start(listener, redis.clone(), scoreboard, slot == 0)
                    .map_err(failed("can't listen to the database"))?;
            }
            None => {
                log::warn!(
                    "store: only PostgreSQL tells of writes, so database_notify has no effect; those made past this server are seen after l1_ttl"
                )
            }
        }
    }
    let generations = scoreboard.generations();
    let l1 = Arc::new(L1::new(config.l1_bytes, config.l1_ttl, generations, trust));
    let handoff = Handoff {
        l1: l1.clone(),
        watch: watch.clone(),
        origin: Origin::new(config, scoreboard),
    };
    let watches = !config.database_read_urls.is_empty();
    let share = Share {
        lanes: config.lanes,
        workers: config.workers.count(),
        others: usize::from(config.database_notify) + usize::from(watches),
        speaks: slot == 0,
    };
    let progress = HostProgress { scoreboard, row };
    let lanes = Arc::new(Lanes::new(
        open_store(config, slot, share, progress)?,
        redis,
        scoreboard,
        row,
        config.request_timeout,
        share,
    ));
    lanes
        .start(config.lanes)
        .map_err(failed("can't start its lanes"))?;
    lanes.warm_up();
    let (open_files, _) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|error| format!("can't read its limit on open files: {error}"))?;
    // The master has told if they are fewer than configured.
    let connections = needs::connections_that_fit(config, listeners.len() as u64, open_files);
    let gate = Arc::new(Gate::new(connections));

    may::config()
        .set_workers(1)
        .set_stack_size(STACK_WORDS)
        .set_pool_capacity(FIRST_STACKS)
        .set_worker_pin(false);
    let lobby = Arc::new(Lobby::new(watch.clone(), row).map_err(failed("can't make its lobby"))?);
    let turnstile = Arc::new(Turnstile::new().map_err(failed("can't make its turnstile"))?);
    let backing = Backing {
        lanes: lanes.clone(),
        watch: watch.clone(),
        l1,
        flights: Flights::new(config.request_timeout),
        tally: row,
        trace_sql: config.trace_sql,
    };
    let scribe = match &config.access_log {
        Some(target) => Some(Scribe::start(target, config.access_log_format)?),
        None => None,
    };
    let access = scribe.as_ref().map(Scribe::log);
    let site = Site::new(&config.frame_ancestors, load_extras(config, slot));
    let door = Arc::new(open_door(
        config,
        site,
        access,
        backing,
        lobby.clone(),
        turnstile.clone(),
    ));
    let describes = config.api_docs == ApiDocs::Admin;
    let desk = admin.map(|socket| Desk::new(socket, scoreboard, row, turnstile.clone(), describes));
    let desk = desk.map(Arc::new);
    // Whether the donor has heard what other hosts wrote by then, nobody tells yet.
    if let Some(donor) = donor.filter(|_| config.redis.is_none()) {
        handoff.take(slot, &donor, |json| door.service.shoe_page(json));
    }
    start_vital(last_words::listen).map_err(failed("can't start its scheduler"))?;
    // It asks how many to keep whenever a stack comes back.
    may::config().set_pool_capacity(SPARE_STACKS);
    start_vital(move || turnstile.attend()).map_err(failed("can't attend its turnstile"))?;
    let (returning, readmitting, attended) = (door.clone(), gate.clone(), lobby.clone());
    start_vital(move || accept::readmit(&readmitting, &attended, &returning))
        .map_err(failed("can't attend its lobby"))?;
    let porter = lanes.clone();
    start_vital(move || porter.carry()).map_err(failed("can't start the porter"))?;
    let ringer = lanes.clone();
    start_vital(move || ringer.ring()).map_err(failed("can't start the ringer"))?;
    let slots = config.workers.count();
    let (own, others): (Vec<_>, Vec<_>) = listeners
        .into_iter()
        .partition(|listener| listener.number % slots == slot);
    let siblings = Arc::new(Siblings::new(others, slots, scoreboard, door.clone()));
    let balance = Arc::new(Balance::new(scoreboard, row, slot, bells));
    let (bell, rung, gated) = (balance.clone(), siblings.clone(), gate.clone());
    start_vital(move || {
        let look = || {
            // The one that rang has room again, as the shares go; and so may we, if that is why it rang.
            for slot in rung.relieve(&gated) {
                bell.ring(slot);
            }
            gated.resume();
        };
        if let Err(error) = bell.attend(look) {
            log::error!("worker: can't hear its siblings' bells, so connections may be spread unevenly: {error}");
        }
    })
    .map_err(failed("can't attend its bell"))?;
    // From the first connection on it finishes what it has: the steward is about to listen to the channel.
    prctl::set_pdeathsig(None).map_err(|error| format!("can't outlive the master: {error}"))?;
    let (accepting, accepts) = mpsc::channel();
    let sockets = own.len();
    let attended = own.iter().map(|listener| listener.mark).collect();
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
        balance,
        desk: desk.clone(),
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
    if let Some(desk) = desk.clone() {
        start_vital(move || desk.run()).map_err(failed("can't start the admin listener"))?;
    }
    let usage = Usage::new(scoreboard, row, slot);
    channel
        .report(Report::Ready)
        .map_err(failed("can't report to the master"))?;
    let steward = Steward {
        channel: &channel,
        signals: &signals,
        gate: &gate,
        watch: &watch,
        drain_timeout: config.drain_timeout,
        drain_delay: config.drain_delay,
        wear: Wear::new(slot, config, row),
        usage,
        handoff,
        desk,
        access: scribe.as_ref().map(Scribe::log),
    };
    let left = steward.obey().map_err(failed("can't wait for orders"))?;
    if let Some(scribe) = scribe {
        scribe.finish(left);
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

/// The database of the configuration, as this worker names itself to it.
fn database_url(config: &Config, slot: usize) -> Result<DatabaseUrl, String> {
    match &config.database {
        Database::Embedded { path } => Ok(DatabaseUrl::Sqlite(path.clone())),
        Database::Url(url) => {
            let mut url = DatabaseUrl::parse(url.expose())
                .map_err(|error| format!("database_url: {error}"))?;
            if let DatabaseUrl::Postgres(url) = &mut url {
                url.name_worker(slot);
            }
            Ok(url)
        }
    }
}

fn open_store(
    config: &Config,
    slot: usize,
    share: Share,
    progress: HostProgress,
) -> Result<Arc<dyn Store>, String> {
    let url = database_url(config, slot)?;
    let pool = PoolOptions {
        max_size: u32::try_from(config.lanes).unwrap_or(u32::MAX),
        // A patient server is patient with connections, too.
        connect_timeout: config
            .request_timeout
            .max(PoolOptions::default().connect_timeout),
        statement_timeout: config.request_timeout,
        pooled: config.database_pooler,
    };
    let mut replicas = replica_urls(config)?;
    let opened = match &url {
        DatabaseUrl::Postgres(url) if !replicas.is_empty() => {
            replicas.iter_mut().for_each(|url| url.name_worker(slot));
            let part = Share {
                // Of a replica one is for looking at it.
                others: 1,
                ..share
            };
            let options = ReplicaOptions {
                urls: replicas,
                max_lag: config.max_replica_lag,
                progress: Arc::new(progress),
                part: Arc::new(move |room| part.lanes_for(room).unwrap_or(1)),
                speaks: share.speaks,
            };
            store::open_with_replicas(url, pool, options)
        }
        url => store::open(url, pool),
    };
    opened.map_err(|error| error.to_string())
}

/// The replicas of the configuration.
///
/// # Errors
/// Names what is no replica's URL.
pub fn replica_urls(config: &Config) -> Result<Vec<PostgresUrl>, String> {
    let wrong = |why: String| Err(format!("database_read_url: {why}"));
    let on_postgres = match &config.database {
        Database::Url(url) => {
            let url = url.expose().trim_start();
            !url.starts_with("sqlite:") && !url.starts_with("couchdb")
        }
        Database::Embedded { .. } => false,
    };
    if !config.database_read_urls.is_empty() && !on_postgres {
        return wrong(
            "replicas are PostgreSQL's, and so must be their primary; give its URL in --database-url"
                .to_owned(),
        );
    }
    let mut replicas = Vec::new();
    for url in &config.database_read_urls {
        match DatabaseUrl::parse(url.expose()) {
            Ok(DatabaseUrl::Postgres(url)) if url.servers.len() == 1 => replicas.push(*url),
            Ok(_) => {
                return wrong(
                    "one names several servers; what a replica has replayed is its own, so give each a URL of its own"
                        .to_owned(),
                );
            }
            Err(error) => return wrong(error.to_string()),
        }
    }
    Ok(replicas)
}

fn open_redis(config: &Config, scoreboard: Scoreboard) -> Result<Option<RedisCache>, String> {
    let Some(redis) = &config.redis else {
        return Ok(None);
    };
    // Each lane fills, and one more looks up.
    let connections = u32::try_from(config.lanes + 1).unwrap_or(u32::MAX);
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
    site: Site,
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
    let app = App::new(backing, writes, manners).with_site(site);
    Door {
        service: match config.api_docs {
            ApiDocs::Public => app.describe(),
            ApiDocs::Admin | ApiDocs::Nowhere => app,
        },
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
        lobby: Some(lobby),
        turnstile,
        pool: Pool::default(),
        tally,
        access,
        trusted: TrustedProxies::new(config.trusted_proxies.clone()),
        timing: Wanted {
            slow: (!config.slow_request.is_zero()).then_some(config.slow_request),
            server_timing: config.server_timing,
        },
    }
}
