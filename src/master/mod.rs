//! The master: one thread that waits for signals, reports and deaths, asks the [`plan`] what to do, and does it. It
//! holds the listeners for ever and never touches a request, a database or the coroutine runtime.

mod admin;
mod control;
mod errands;
mod handover;
pub mod limits;
mod listeners;
mod notify;
pub mod plan;
mod preparation;
mod publication;
mod signals;
mod spawn;
mod status;
mod takeover;
mod upgrade;
mod wishes;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use self::admin::{AdminError, AdminListener};
use self::control::{Control, SocketError};
use self::errands::History;
pub use self::handover::{Arrival, CONSENT, Handover, VARIABLE, is_asked};
pub use self::listeners::ListenError;
use self::listeners::Listeners;
use self::notify::{Manager, Phase};
use self::plan::{Action, Event, Patience, Plan, WorkerId};
use self::preparation::{Preparation, prepare};
use self::publication::now_ms;
use self::signals::{Request, Signals};
use self::spawn::End;
pub use self::takeover::take_over;
use self::upgrade::Upgrade;
pub use self::upgrade::arrive;
use self::wishes::{Scale, Wish, Wishes};
use crate::config::{Config, Listen, MOST_WORKERS, Sources, Workers};
use crate::ctl::message::{Answer, What};
use crate::logging;
use crate::scoreboard::counters::Counter;
use crate::scoreboard::published::{ChangeCounts, Published};
use crate::scoreboard::{self, Scoreboard};
use crate::sys;
use crate::worker::{
    self, AdminSocket, Assignment, Inherited, control::Channel, control::Heard, control::Heir,
    control::Leave, control::Order, control::Report,
};

/// Why the server ended in failure.
#[derive(Debug)]
pub enum MasterError {
    Listen(ListenError),
    /// There is no control socket where one was asked for.
    Control(SocketError),
    /// The same of the admin listener.
    Admin(AdminError),
    /// A system call without which there is no server.
    System(&'static str, io::Error),
    /// The embedded database could not be made, or workers can't run as their user.
    Prepare(String),
    /// No worker of the first generation got ready.
    NeverReady,
}

impl fmt::Display for MasterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MasterError::Listen(error) => error.fmt(f),
            MasterError::Control(error) => error.fmt(f),
            MasterError::Admin(error) => error.fmt(f),
            MasterError::System(what, error) => write!(f, "{what}: {error}"),
            MasterError::Prepare(why) => f.write_str(why),
            MasterError::NeverReady => {
                f.write_str("no worker ever got ready; the lines above say how each of them ended")
            }
        }
    }
}

impl std::error::Error for MasterError {}

/// A living worker process. Its pid is ours until it is reaped, and only this thread reaps, so signals sent by pid
/// can't reach a stranger.
struct Child {
    worker: WorkerId,
    pid: Pid,
    slot: usize,
    channel: Channel,
    /// Its row of the scoreboard, by number; none if the worker has another scoreboard, of the image that the master was
    /// upgraded from.
    row: Option<usize>,
    /// When it was started, and what its row had counted by then.
    since: Instant,
    /// The same in Unix milliseconds.
    started_ms: u64,
    requests_before: u64,
    connections_before: u64,
    /// It has reported that it serves.
    ready: bool,
    /// It was told to finish.
    leaving: bool,
    /// It was killed and does not die: the plan knows of it no more, but it keeps its row until it is reaped.
    forsaken: bool,
    /// Its last heartbeat, and at how many looks in a row it was the same.
    beat: u64,
    still: u32,
}

/// How often the heartbeats are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a worker must still be doing at the last of so many looks to be hung: a look counts only if the master itself was
/// awake for it, so a host that slept is not taken for workers that hang.
fn looks(hang_timeout: Duration) -> u32 {
    hang_timeout.as_secs().clamp(1, u64::from(u32::MAX)) as u32
}

struct Master {
    sources: Sources,
    config: Config,
    /// The configuration that a reload tries, until its first worker serves.
    candidate: Option<Config>,
    /// What has to be there before that one can be tried, in the making.
    preparation: Option<Preparation>,
    /// The one that served before it was adopted, until it serves everywhere; or that one, while it is taken back.
    other: Option<Config>,
    /// What was asked for while a change was under way.
    wishes: Wishes,
    /// The change that is under way, and how its first worker ended if it never served.
    under_way: Option<What>,
    /// When the last change began.
    begun: Instant,
    failure: Option<String>,
    /// What is to be told of it once it is taken back.
    verdict: Option<String>,
    history: History,
    /// How many changes there were.
    change_counts: ChangeCounts,
    control: Control,
    admin: AdminListener,
    manager: Manager,
    /// How many requests there had been when the status line was last made, and when that was; and how many a second then.
    measured: (u64, Instant),
    rate: u64,
    /// When the heartbeats are looked at next.
    look_at: Instant,
    generation: u64,
    listeners: Listeners,
    scoreboard: Scoreboard,
    /// What the scoreboard is in.
    memory: OwnedFd,
    signals: Signals,
    children: HashMap<WorkerId, Child>,
    plan: Plan,
    started: Instant,
    /// The same in Unix milliseconds, as it was first reckoned.
    started_ms: u64,
    /// What workers were told last of the server.
    published: Option<Published>,
    upgrade: Upgrade,
    /// The version that this image has taken over from, until its own workers serve or have failed to.
    upgraded_from: Option<String>,
}

/// Serves until told to stop.
///
/// # Errors
/// The server could not start. Once it has, it ends only because it was told to.
pub fn run(sources: Sources, config: Config) -> Result<(), MasterError> {
    let mut signals = Signals::listen()
        .map_err(|error| MasterError::System("can't listen for signals", error))?;
    limits::fit(&config);
    let mut listeners = Listeners::default();
    listeners.offer(notify::inherited());
    listeners
        .extend(&config.listen, config.workers.count())
        .map_err(MasterError::Listen)?;
    let control = Control::open(&config.control_socket).map_err(MasterError::Control)?;
    let admin =
        AdminListener::open(&config.admin, config.user.as_ref()).map_err(MasterError::Admin)?;
    if !prepare(&config, &mut signals)? {
        log::info!("master: stopped before it served");
        return Ok(());
    }
    if worker::privileges::stays_root(&config) {
        log::warn!(
            "master: workers run as root, which they don't need; --user NAME makes them run as NAME"
        );
    }
    worker::privileges::warn_without_seccomp(&config);
    let (scoreboard, memory) = Scoreboard::in_memory()
        .map_err(|error| MasterError::System("can't share memory with workers", error))?;
    let called = sources.args().first().cloned().unwrap_or_default();
    let mut master = Master {
        plan: Plan::new(config.workers.count(), patience(&config)),
        sources,
        config,
        candidate: None,
        preparation: None,
        other: None,
        wishes: Wishes::default(),
        under_way: None,
        begun: Instant::now(),
        failure: None,
        verdict: None,
        history: History::default(),
        change_counts: ChangeCounts::default(),
        control,
        admin,
        manager: Manager::find(),
        measured: (0, Instant::now()),
        rate: 0,
        look_at: Instant::now(),
        generation: 1,
        listeners,
        scoreboard,
        memory,
        signals,
        children: HashMap::new(),
        started: Instant::now(),
        started_ms: now_ms(),
        published: None,
        upgrade: Upgrade::of(upgrade::program(&called)),
        upgraded_from: None,
    };
    master.decline_offers();
    master.serve(vec![Event::Start])
}

fn patience(config: &Config) -> Patience {
    Patience {
        boot: config.boot_timeout,
        drain: config.drain_timeout,
        delay: config.drain_delay,
        pause: config.roll_pause,
    }
}

impl Master {
    /// The one place where the master waits.
    fn serve(&mut self, mut events: Vec<Event>) -> Result<(), MasterError> {
        loop {
            let waits = self.wishes.are_there()
                || self.upgrade.is_under_way()
                || self.preparation.is_some()
                || events
                    .iter()
                    .any(|event| matches!(event, Event::Reload { .. }));
            self.plan.let_change_wait(waits);
            for event in std::mem::take(&mut events) {
                let actions = self.plan.on(event, Instant::now());
                for action in actions {
                    if let Action::Exit { failed } = action {
                        return self.leave(failed);
                    }
                    events.extend(self.perform(action));
                }
            }
            // What has happened and is not decided yet would be lost with this image.
            if events.is_empty() {
                events.extend(self.pursue_upgrade());
            }
            self.give_up_overdue_preparation();
            // An upgrade reads the configuration anyway; if it is refused, the wish comes true afterwards. What is left to
            // do of one comes before another one.
            if !self.plan.is_rolling()
                && self.preparation.is_none()
                && (self.upgraded_from.is_some() || !self.upgrade.is_under_way())
                && let Some(wish) = self.wishes.take()
            {
                events.extend(match wish {
                    Wish::Reload => self.reload(),
                    Wish::Scale(scale) => self.scale(scale),
                });
            }
            if !events.is_empty() {
                continue;
            }
            self.publish();
            self.wait()
                .map_err(|error| MasterError::System("the master can't wait for events", error))?;
            let requests = self.signals.take();
            events.extend(self.heed(&requests));
            for (client, command) in self.control.attend(Instant::now()) {
                events.extend(self.obey(client, command));
            }
            self.look_after_manager();
            events.extend(self.look_at_heartbeats());
            // Reports before deaths: a worker may have said that it is ready and died since.
            events.extend(self.hear_reports());
            events.extend(self.reap());
            events.push(Event::Tick);
        }
    }

    /// Does what signals ask for, or notes it.
    fn heed(&mut self, requests: &[Request]) -> Vec<Event> {
        let mut events = Vec::new();
        for request in requests {
            match request {
                _ if self.plan.is_leaving() && request.changes() => {}
                Request::Reload => self.wish_for_reload(),
                Request::Upgrade => self.upgrade.wish(),
                Request::Reopen => self.reopen_logs(),
                Request::More => self.wishes.scale(Scale::By(1)),
                Request::Fewer => self.wishes.scale(Scale::By(-1)),
                Request::Stop => events.push(Event::Stop),
                Request::Abort => events.push(Event::Abort),
                Request::Reap => {}
            }
        }
        events
    }

    /// Waits for a signal, a report, or the moment when something is due.
    fn wait(&self) -> io::Result<()> {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            self.children
                .values()
                .map(|child| PollFd::new(child.channel.as_fd(), PollFlags::POLLIN)),
        );
        fds.extend(self.control.fds());
        let others = [
            self.plan.next_due(),
            self.upgrade.due(),
            self.preparation.as_ref().map(Preparation::due),
            self.control.next_due(),
            self.manager.next_due(),
        ];
        let due = others
            .into_iter()
            .flatten()
            .fold(self.look_at, Instant::min);
        // Rounded up, or the loop would spin through the last millisecond.
        let left = due.saturating_duration_since(Instant::now()).as_millis() + 1;
        let timeout = PollTimeout::try_from(left.min(60_000) as u32).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn reopen_logs(&self) {
        log::info!("master: the workers open their log files anew");
        // They may not be allowed to make one where the log lies.
        worker::privileges::hand_over_access_log(&self.config);
        for worker in self.children.keys() {
            self.order(*worker, Order::Reopen);
        }
    }

    /// Finds workers whose loop stands still, whatever their threads do.
    fn look_at_heartbeats(&mut self) -> Vec<Event> {
        let now = Instant::now();
        if now < self.look_at {
            return Vec::new();
        }
        self.look_at = now + LOOK_EVERY;
        logging::settle();
        let mut events = Vec::new();
        for child in self.children.values_mut().filter(|child| child.ready) {
            let Some(row) = child.row else { continue };
            let beat = self.scoreboard.row(row).last_beat();
            child.still = if beat == child.beat {
                child.still + 1
            } else {
                0
            };
            child.beat = beat;
            if child.still == looks(self.config.hang_timeout) {
                log::error!(
                    "master: worker {} (pid {}) hangs: its loop has not moved for {:?}; its threads: {}",
                    child.slot,
                    child.pid,
                    self.config.hang_timeout,
                    spawn::describe_threads(child.pid)
                );
                events.push(Event::Hung(child.worker));
            }
        }
        events
    }

    fn hear_reports(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for child in self.children.values_mut() {
            match child.channel.hear_report() {
                Heard::Message(Report::Ready) => {
                    log::debug!("master: worker {} (pid {}) serves", child.slot, child.pid);
                    child.ready = true;
                    events.push(Event::Ready(child.worker));
                }
                Heard::Message(Report::Worn) => {
                    log::info!(
                        "master: worker {} (pid {}) has reached its limit of requests or memory and is replaced",
                        child.slot,
                        child.pid
                    );
                    events.push(Event::Worn(child.worker));
                }
                Heard::Message(Report::Told) => {
                    log::info!(
                        "master: worker {} (pid {}) was told to finish and is replaced",
                        child.slot,
                        child.pid
                    );
                    events.push(Event::Worn(child.worker));
                }
                Heard::Nothing | Heard::End => {}
            }
        }
        events
    }

    fn reap(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some((pid, end)) = spawn::reap() {
            let Some(worker) = self
                .children
                .values()
                .find(|child| child.pid == pid)
                .map(|child| child.worker)
            else {
                if let Some(verdict) = self.upgrade.hear_end(pid, end) {
                    verdict
                        .err()
                        .into_iter()
                        .for_each(|why| self.refuse_upgrade(&why));
                    continue;
                }
                if let Some(made) = self.preparation.take_if(|made| made.is(pid)) {
                    events.extend(self.hear_preparation(made, end));
                    continue;
                }
                log::debug!("master: reaped pid {pid}, which is none of the workers ({end})");
                continue;
            };
            if let Some(child) = self.children.remove(&worker) {
                match child.row {
                    Some(row) => self.scoreboard.settle_writes_of(self.scoreboard.row(row)),
                    None => self.unite_tables(),
                }
                if !child.ready {
                    self.failure = Some(format!(
                        "worker {} (pid {pid}) ended with {end} before it served",
                        child.slot
                    ));
                }
                match end {
                    _ if child.forsaken => {
                        log::info!("master: worker {} (pid {pid}) is dead at last", child.slot)
                    }
                    End::Exit(0) => {
                        log::debug!("master: worker {} (pid {pid}) has finished", child.slot)
                    }
                    _ => {
                        let level = match self.plan.degraded().any(|slot| slot == child.slot) {
                            true => log::Level::Debug,
                            false => log::Level::Warn,
                        };
                        log::log!(
                            level,
                            "master: worker {} (pid {pid}) ended with {end}",
                            child.slot
                        );
                    }
                }
            }
            events.push(Event::Died(worker));
        }
        events
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Spawn {
                worker,
                slot,
                candidate,
            } => return self.spawn(worker, slot, candidate),
            Action::Retire(worker) => {
                if let Some(child) = self.children.get_mut(&worker) {
                    child.leaving = true;
                }
                self.order(
                    worker,
                    Order::Leave(Leave::Retire {
                        within: self.config.drain_timeout,
                        sweep: self.changes_addresses(),
                    }),
                );
            }
            Action::Unready(worker) => self.order(worker, Order::Unready),
            Action::Delay => self.delay_stop(),
            Action::Stop(worker) => {
                self.order(
                    worker,
                    Order::Leave(Leave::Stop {
                        within: self.config.drain_timeout,
                        waited: self.plan.has_waited(),
                    }),
                );
            }
            Action::StopAll => {
                log::info!(
                    "master: stopping; requests in flight have {:?}",
                    self.config.drain_timeout
                );
                let status = self.status();
                self.manager
                    .tell_stopping(self.plan.longest_stop(), &status);
                self.wishes.forget();
                self.preparation.take().iter().for_each(Preparation::end);
                let stopped = Answer::Failed {
                    why: "the server stops".to_owned(),
                };
                self.conclude(&stopped);
                self.control.abandon(&stopped);
                // The workers hold the last references now, and close them when their queues are empty.
                // What the service manager keeps of them is for the next start.
                drop(self.listeners.retain(&[]));
            }
            Action::Abort(worker) => self.signal(worker, Signal::SIGABRT),
            Action::Kill(worker) => self.kill(worker),
            Action::Forsake(worker) => self.forsake(worker),
            Action::Degraded { slot } => {
                log::error!(
                    "master: slot {slot} is degraded: its workers don't get ready, and the lines above say why; the others, or the \
                     worker that was to be relieved, serve for it, and it is tried again ever more slowly, down to twice a minute"
                );
            }
            Action::Recovered { slot } => log::info!("master: slot {slot} serves again"),
            Action::Announce => self.announce(),
            Action::Adopt => {
                self.other = self.candidate.take();
                self.serve_by_other();
            }
            Action::TakeBack => {
                log::error!(
                    "master: reload failed: a slot's workers did not get ready with the new configuration; going back to the \
                     one before"
                );
                let what =
                    "a later worker did not get ready, so the configuration of before serves again";
                self.verdict = Some(self.with_failure(what));
                self.serve_by_other();
            }
            Action::Keep => {
                self.serve_by_other();
                self.other = None;
                self.give_up_addresses();
                self.open_sockets();
                log::error!(
                    "master: workers don't get ready with the configuration of before either: the new one stays, as far as it serves"
                );
                let why = self.with_failure(
                    "neither with it nor with the configuration of before do all workers get ready, so those of the new one \
                     serve on",
                );
                self.verdict = None;
                self.conclude(&Answer::Failed { why });
            }
            Action::Reloaded => {
                self.other = None;
                self.give_up_addresses();
                let workers = self.config.workers.count();
                log::info!(
                    "master: reloaded: generation {}, {workers} workers",
                    self.generation
                );
                self.open_sockets();
                let done = self.done();
                self.conclude(&done);
            }
            Action::RejectReload => {
                self.candidate = None;
                self.withdraw_addresses();
                self.other = None;
                let why = match self.verdict.take() {
                    None => {
                        log::error!(
                            "master: reload failed: its first worker did not get ready; the old workers keep serving"
                        );
                        self.with_failure(
                            "the first worker did not get ready, so the old ones keep serving",
                        )
                    }
                    Some(verdict) => {
                        log::info!("master: the configuration of before serves again");
                        verdict
                    }
                };
                self.conclude(&Answer::Failed { why });
            }
            Action::Exit { .. } => {}
        }
        None
    }

    /// Tells that the server will stop, and forgets what was wished for. What is under way goes on to its end.
    fn delay_stop(&mut self) {
        log::info!(
            "master: stopping in {:?}: /readyz says so now, and everything else is served as before; a second TERM skips the wait",
            self.config.drain_delay
        );
        let status = self.status();
        self.manager
            .tell_stopping(self.plan.longest_stop(), &status);
        self.wishes.forget();
    }

    /// Whether the configuration that comes listens elsewhere than the one that goes: then the workers that serve one of them hold
    /// sockets of which those of the other know nothing.
    fn changes_addresses(&self) -> bool {
        let others = self.candidate.iter().chain(&self.other);
        others
            .into_iter()
            .any(|other| other.listen != self.config.listen)
    }

    /// Puts the configuration in force that was not, and lays the other one aside.
    fn serve_by_other(&mut self) {
        if let Some(config) = &mut self.other {
            std::mem::swap(&mut self.config, config);
        }
        logging::adopt(self.config.log_level, self.config.log_format);
        self.plan.set_patience(patience(&self.config));
        self.generation = self.plan.generation();
    }

    /// What became of a change that fails, and how the worker ended that never served.
    fn with_failure(&mut self, what: &str) -> String {
        let how = self.failure.take();
        let how = how.unwrap_or_else(|| "it could not be started".to_owned());
        format!("{what}: {how}; the server's log says why")
    }

    /// Reads the configuration again and, if it is good, starts to replace the workers.
    fn reload(&mut self) -> Option<Event> {
        self.begin(What::Reload);
        if self.upgraded_from.is_some() {
            // Who asked for a reload meanwhile gets it too.
            self.begin(What::Upgrade);
        }
        let status = format!("{}, reading the configuration", self.status());
        self.manager.tell(Phase::Reloading, &status);
        let config = match self.sources.load() {
            Ok(config) => config,
            Err(error) => return self.refuse_reload(&error),
        };
        if let Err(error) = self
            .listeners
            .extend(&config.listen, config.workers.count())
        {
            self.withdraw_addresses();
            return self.refuse_reload(&error);
        }
        match preparation::start(&config) {
            Ok(None) => self.try_out(config),
            Ok(Some(child)) => {
                self.preparation = Some(Preparation::of(child, config));
                None
            }
            Err(error) => {
                self.withdraw_addresses();
                self.refuse_reload(&error)
            }
        }
    }

    /// Starts to replace the workers by those of a configuration for which all is there.
    fn try_out(&mut self, config: Config) -> Option<Event> {
        limits::fit(&config);
        self.listeners.deepen();
        log::info!("master: reloading: the configuration is good, replacing workers one by one");
        if config.control_socket != self.config.control_socket {
            log::warn!("master: the control socket stays where it is until the next start");
        }
        if config.admin != self.config.admin {
            log::warn!(
                "master: the admin listener stays where it is until the next start or upgrade"
            );
        }
        let slots = config.workers.count();
        self.candidate = Some(config);
        Some(Event::Reload { slots })
    }

    /// Goes on with more workers, or fewer, but at least one; the rest of the configuration stays.
    fn scale(&mut self, scale: Scale) -> Option<Event> {
        self.begin(What::Scale);
        let now = self.plan.wanted();
        let slots = match scale {
            Scale::By(by) => now.saturating_add_signed(by as isize),
            Scale::To(workers) => workers,
        };
        let slots = slots.clamp(1, MOST_WORKERS);
        if slots == now {
            if let Scale::By(_) = scale {
                log::warn!(
                    "master: {now} workers it stays, for that is the least or the most there can be"
                );
            }
            let done = self.done();
            self.conclude(&done);
            return None;
        }
        if let Err(error) = self.listeners.extend(&self.config.listen, slots) {
            return self.refuse_reload(&error);
        }
        log::info!("master: going from {now} workers to {slots}, until the next reload");
        let mut config = self.config.clone();
        config.workers = Workers::Fixed(slots);
        self.candidate = Some(config);
        Some(Event::Reload { slots })
    }

    fn refuse_reload(&mut self, error: &dyn fmt::Display) -> Option<Event> {
        log::error!("master: reload refused, the old workers keep serving: {error}");
        self.conclude(&Answer::Refused {
            why: error.to_string(),
        });
        None
    }

    fn spawn(&mut self, worker: WorkerId, slot: usize, candidate: bool) -> Option<Event> {
        let config = match &self.candidate {
            Some(config) if candidate => config,
            _ => &self.config,
        };
        let Some(row) = self.free_row() else {
            log::error!(
                "master: can't start worker {slot}: too many are still leaving; will try again"
            );
            return Some(Event::Died(worker));
        };
        // Before there is one that counts.
        self.scoreboard.use_row(row);
        let sockets = Sockets {
            listeners: &self.listeners,
            admin: &self.admin,
        };
        let (donor, heir) = self.introduce(slot);
        match start_worker(worker, slot, config, &sockets, self.scoreboard, row, heir) {
            Ok(child) => {
                log::debug!("master: started worker {slot} (pid {})", child.pid);
                self.children.insert(worker, child);
                if let Some((donor, way)) = donor {
                    self.order(donor, Order::HandOn(Heir(way)));
                }
                if self.plan.is_leaving() {
                    self.order(worker, Order::Unready);
                }
                None
            }
            Err(error) => {
                log::error!("master: can't start worker {slot}: {error}; will try again");
                Some(Event::Died(worker))
            }
        }
    }

    /// Whose cache a worker that starts in this slot takes over, and the two ends of the way between them: that of the one that it
    /// replaces, or else of the one that has served longest.
    fn introduce(&self, slot: usize) -> (Option<(WorkerId, UnixStream)>, Option<UnixStream>) {
        let serving = self.children.values().filter(|child| {
            // With another scoreboard its stamps say nothing; and who hangs answers nothing.
            child.ready && !child.leaving && child.row.is_some() && child.still == 0
        });
        let donor = serving.min_by_key(|child| (child.slot != slot, child.since));
        let Some(donor) = donor else {
            return (None, None);
        };
        match UnixStream::pair() {
            Ok((way, heir)) => (Some((donor.worker, way)), Some(heir)),
            Err(error) => {
                log::debug!("master: worker {slot} starts with an empty cache: {error}");
                (None, None)
            }
        }
    }

    /// A row of the scoreboard that no living worker has.
    fn free_row(&self) -> Option<usize> {
        (0..scoreboard::ROWS)
            .find(|row| self.children.values().all(|child| child.row != Some(*row)))
    }

    fn order(&self, worker: WorkerId, order: Order) {
        let Some(child) = self.children.get(&worker) else {
            return;
        };
        if let Err(error) = child.channel.order(order) {
            // It is dying, and will be reaped; or it reads nothing, and will be killed at its deadline.
            log::debug!(
                "master: worker {} (pid {}) does not take orders: {error}",
                child.slot,
                child.pid
            );
        }
    }

    fn kill(&self, worker: WorkerId) {
        let Some(child) = self.children.get(&worker) else {
            return;
        };
        log::warn!(
            "master: killing worker {} (pid {}), which did not do in time what it should",
            child.slot,
            child.pid
        );
        self.signal(worker, Signal::SIGKILL);
    }

    /// Goes on without a worker that was killed and does not die. None of its own code runs again, so its writes are settled like
    /// those of the dead.
    fn forsake(&mut self, worker: WorkerId) {
        let Some(child) = self.children.get_mut(&worker) else {
            return;
        };
        log::error!(
            "master: worker {} (pid {}) was killed and does not die, so the server goes on without it; the kernel holds it, most \
             likely for a disk or a network file system that does not answer (dmesg tells), and its connections with it; its \
             threads: {}",
            child.slot,
            child.pid,
            spawn::describe_threads(child.pid)
        );
        (child.ready, child.forsaken) = (false, true);
        match child.row {
            Some(row) => self.scoreboard.settle_writes_of(self.scoreboard.row(row)),
            None => self.unite_tables(),
        }
    }

    fn signal(&self, worker: WorkerId, signal: Signal) {
        let Some(child) = self.children.get(&worker) else {
            return;
        };
        if let Err(error) = kill(child.pid, signal) {
            log::debug!("master: pid {} is gone already: {error}", child.pid);
        }
    }

    fn announce(&mut self) {
        log::info!(
            "master: ready: {} workers on {} after {} ms",
            self.config.workers.count(),
            self.addresses().join(" "),
            self.started.elapsed().as_millis()
        );
        self.keep_sockets();
        let status = self.status();
        self.manager.tell(Phase::Ready, &status);
    }

    /// Where the server can be reached, as URLs.
    fn addresses(&self) -> Vec<String> {
        let url = |listen: Listen| match listen.proxied {
            true => format!("proxy+http://{}", listen.address),
            false => format!("http://{}", listen.address),
        };
        self.listeners.addresses().map(url).collect()
    }

    fn leave(&mut self, failed: bool) -> Result<(), MasterError> {
        self.upgrade.abandon();
        self.preparation.take().iter().for_each(Preparation::end);
        self.bid_farewell();
        self.admin.close();
        for child in self.children.values() {
            // A start that failed leaves with children alive, and any end with those that don't die.
            let _ = kill(child.pid, Signal::SIGKILL);
        }
        if failed {
            return Err(MasterError::NeverReady);
        }
        log::info!("master: stopped after {}", self.tally());
        Ok(())
    }

    /// What all workers have counted since the start, without what never happened.
    fn tally(&self) -> String {
        let counts: Vec<String> = Counter::all()
            .map(|counter| (counter, self.counted(counter)))
            .filter(|(_, count)| *count > 0)
            .map(|(counter, count)| format!("{} {count}", counter.name()))
            .collect();
        match counts.is_empty() {
            true => "no connection at all".to_owned(),
            false => counts.join(", "),
        }
    }
}

/// What workers accept from.
struct Sockets<'m> {
    listeners: &'m Listeners,
    admin: &'m AdminListener,
}

/// Forks one worker. In the child nothing of the master is left but what the assignment names.
fn start_worker(
    worker: WorkerId,
    slot: usize,
    config: &Config,
    sockets: &Sockets<'_>,
    scoreboard: Scoreboard,
    row: usize,
    donor: Option<UnixStream>,
) -> io::Result<Child> {
    let (ours, theirs) = Channel::pair()?;
    let Sockets { listeners, admin } = sockets;
    let sockets = listeners.of(&config.listen, config.workers.count());
    let bells = listeners.bells(config.workers.count());
    let master = getpid();
    let pid = spawn::fork_child(|| {
        // The first worker of a reload tries the new one, and the master has it when that serves.
        logging::adopt(config.log_level, config.log_format);
        let inherited: io::Result<Vec<Inherited>> = sockets
            .iter()
            .map(|place| {
                Ok(Inherited {
                    number: place.number,
                    mark: place.mark,
                    socket: place.socket.try_clone()?,
                    proxied: place.proxied,
                })
            })
            .collect();
        let inherited = inherited.and_then(|listeners| {
            let bells: io::Result<Vec<OwnedFd>> =
                bells.iter().map(|bell| bell.try_clone()).collect();
            let admin = admin.socket().map(AdminSocket::try_clone).transpose()?;
            Ok((listeners, bells?, admin))
        });
        let assigned = inherited.and_then(|(listeners, bells, admin)| {
            let keep = listeners
                .iter()
                .map(|listener| listener.socket.as_raw_fd())
                .chain(bells.iter().map(|bell| bell.as_raw_fd()))
                .chain(admin.iter().map(AdminSocket::as_raw_fd))
                .chain(donor.iter().map(AsRawFd::as_raw_fd))
                .chain([theirs.as_fd().as_raw_fd()]);
            sys::close_inherited(&keep.collect::<Vec<_>>())?;
            Ok(Assignment {
                master,
                slot,
                config,
                listeners,
                bells,
                admin,
                channel: theirs,
                scoreboard,
                row: scoreboard.row(row),
                donor,
            })
        });
        match assigned {
            Ok(assignment) => worker::run(assignment),
            Err(error) => {
                log::error!("worker {slot}: can't take over its sockets: {error}");
                worker::EXIT_FAILED
            }
        }
    })?;
    let counted = |counter| scoreboard.row(row).counted(counter);
    Ok(Child {
        worker,
        pid,
        slot,
        channel: ours,
        row: Some(row),
        since: Instant::now(),
        started_ms: now_ms(),
        requests_before: counted(Counter::Requests),
        connections_before: counted(Counter::Connections),
        ready: false,
        leaving: false,
        forsaken: false,
        beat: 0,
        still: 0,
    })
}
