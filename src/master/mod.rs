//! The master: one thread that waits for signals, reports and deaths, asks the [`plan`] what to do, and does it. It
//! holds the listeners for ever and never touches a request, a database or the coroutine runtime.

mod admin;
mod change;
mod children;
mod control;
mod errands;
mod error;
mod handover;
mod history;
pub mod limits;
mod listeners;
mod notify;
pub mod plan;
mod preparation;
mod process;
mod publication;
mod signals;
mod spawn;
mod status;
mod takeover;
mod upgrade;
mod wishes;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};

use self::admin::AdminListener;
use self::change::Change;
use self::children::Child;
use self::control::Control;
pub use self::error::MasterError;
pub use self::handover::{Arrival, CONSENT, Handover, VARIABLE, is_asked};
use self::history::History;
pub use self::listeners::ListenError;
use self::listeners::Listeners;
use self::notify::{Manager, Phase};
use self::plan::{Action, Event, Patience, Plan, WorkerId};
use self::preparation::{Preparation, prepare};
use self::publication::now_ms;
use self::signals::{Request, Signals};
use self::status::Pace;
pub use self::takeover::take_over;
use self::upgrade::Upgrade;
pub use self::upgrade::arrive;
use self::wishes::{Scale, Wish, Wishes};
use crate::config::{Config, Listen, Sources};
use crate::ctl::message::Answer;
use crate::scoreboard::Scoreboard;
use crate::scoreboard::counters::Counter;
use crate::scoreboard::published::{ChangeCounts, Published};
use crate::worker;
use crate::worker::control::Order;

struct Master {
    sources: Sources,
    config: Config,
    change: Change,
    /// What was asked for while a change was under way.
    wishes: Wishes,
    history: History,
    /// How many changes there were.
    change_counts: ChangeCounts,
    control: Control,
    admin: AdminListener,
    manager: Manager,
    pace: Pace,
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
        change: Change::none(),
        wishes: Wishes::default(),
        history: History::default(),
        change_counts: ChangeCounts::default(),
        control,
        admin,
        manager: Manager::find(),
        pace: Pace::from(0, Instant::now()),
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
                || self.change.preparation.is_some()
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
                && self.change.preparation.is_none()
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
            self.change.preparation.as_ref().map(Preparation::due),
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

    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Spawn {
                worker,
                slot,
                candidate,
            } => return self.spawn(worker, slot, candidate),
            Action::Retire(worker) => self.retire(worker),
            Action::Unready(worker) => self.order(worker, Order::Unready),
            Action::Delay => self.delay_stop(),
            Action::Stop(worker) => self.stop(worker),
            Action::StopAll => self.stop_all(),
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
            Action::Adopt => self.adopt(),
            Action::TakeBack => self.take_back(),
            Action::Keep => self.keep(),
            Action::Reloaded => self.finish(),
            Action::RejectReload => self.reject(),
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
        self.tell_stopping();
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

    /// Tells the service manager for how long the server may take to stop. Nothing that was wished for comes true any more.
    fn tell_stopping(&mut self) {
        let status = self.status();
        self.manager
            .tell_stopping(self.plan.longest_stop(), &status);
        self.wishes.forget();
    }

    /// Begins to stop, with the workers' time for what is in flight.
    fn stop_all(&mut self) {
        log::info!(
            "master: stopping; requests in flight have {:?}",
            self.config.drain_timeout
        );
        self.tell_stopping();
        self.change.end_preparation();
        let stopped = Answer::Failed {
            why: "the server stops".to_owned(),
        };
        self.conclude(&stopped);
        self.control.abandon(&stopped);
        // The workers hold the last references now, and close them when their queues are empty.
        // What the service manager keeps of them is for the next start.
        drop(self.listeners.retain(&[]));
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
        self.change.end_preparation();
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
