//! The other side of an upgrade: a new image of the program goes on as a master with what the one before it handed over.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use super::admin::AdminListener;
use super::change::Change;
use super::children::{Child, LOOK_EVERY};
use super::control::{Awaited, Control};
use super::error::MasterError;
use super::handover::Handover;
use super::listeners::Listeners;
use super::notify::{Manager, Phase};
use super::plan::{Event, Plan, WorkerId};
use super::process;
use super::publication::now_ms;
use super::signals::{Blocked, Request, Signals};
use super::status::{Pace, somebody_moves};
use super::upgrade::Upgrade;
use super::{Master, patience};
use crate::config::ctl::CtlCommand;
use crate::config::{Config, Sources, Workers};
use crate::ctl::message::{Answer, What};
use crate::logging;
use crate::scoreboard::counters::Counter;
use crate::scoreboard::{self, Adopted, Scoreboard};
use crate::sys;
use crate::worker::control::Channel;

/// Goes on as a master with what the image before this one handed over, and replaces its workers.
///
/// # Errors
/// What was handed over can't be taken. The workers notice that their master is gone, and finish.
pub fn take_over(sources: Sources, handover: &Handover) -> Result<(), MasterError> {
    let failed = |what| move |error: io::Error| MasterError::System(what, error);
    let mut signals = Signals::listen().map_err(failed("can't listen for signals"))?;
    Blocked::end().map_err(failed("can't listen for signals"))?;
    log::info!(
        "master: version {} takes over from {} with {} workers",
        env!("CARGO_PKG_VERSION"),
        handover.label.version,
        handover.children.len()
    );
    let mut control = Control::adopt(&handover.control).unwrap_or_else(|error| {
        log::error!("master: the control socket was not handed over: {error}");
        Control::default()
    });
    let mut admin = AdminListener::adopt(handover.admin.as_ref()).unwrap_or_else(|error| {
        log::error!("master: the admin listener was not handed over: {error}");
        AdminListener::default()
    });
    let not_handed = failed("what was handed over can't be taken");
    let listeners = Listeners::adopt(&handover.listeners).map_err(&not_handed)?;
    let (scoreboard, memory, shared) = adopt_scoreboard(handover)?;
    let mut children = HashMap::new();
    for child in &handover.children {
        let channel = sys::adopt_descriptor(child.channel).map_err(&not_handed)?;
        let worker = WorkerId(child.worker);
        children.insert(
            worker,
            Child {
                worker,
                pid: Pid::from_raw(child.pid),
                slot: child.slot,
                channel: Channel::adopt(channel),
                row: child.row.filter(|_| shared),
                since: Instant::now(),
                started_ms: match child.started_ms {
                    0 => now_ms(),
                    known => known,
                },
                requests_before: 0,
                connections_before: 0,
                ready: child.ready,
                leaving: false,
                forsaken: false,
                beat: 0,
                still: 0,
            },
        );
    }
    let mut heirloom = Heirloom {
        children,
        scoreboard,
        manager: Manager::find(),
        dead: Vec::new(),
    };
    let loaded = load_at_last(
        &sources,
        handover,
        &mut signals,
        &mut control,
        &mut heirloom,
    )?;
    let Some(mut config) = loaded else {
        admin.close();
        return Ok(());
    };
    logging::adopt(config.log_level, config.log_format);
    control.settle_at(&config.control_socket);
    admin.settle_at(&config.admin, config.user.as_ref());
    // Until a worker of the new configuration serves, what there is stays: the reload that follows brings the rest.
    config.listen = listeners.asked();
    config.workers = Workers::Fixed(handover.plan.wanted());
    let counted = scoreboard.total(Counter::Requests);
    let now = Instant::now();
    let age = scoreboard::moment().saturating_sub(handover.started);
    let mut master = Master {
        plan: Plan::adopt(&handover.plan, patience(&config), now),
        sources,
        config,
        change: Change::none(),
        wishes: handover.wishes.after_upgrade(),
        history: handover.history.clone(),
        control,
        admin,
        manager: heirloom.manager,
        pace: Pace::from(counted, now),
        look_at: now + LOOK_EVERY,
        generation: handover.plan.generation(),
        listeners,
        scoreboard,
        memory,
        signals,
        children: heirloom.children,
        started: now.checked_sub(Duration::from_millis(age)).unwrap_or(now),
        started_ms: match handover.started_ms {
            0 => now_ms().saturating_sub(age),
            known => known,
        },
        change_counts: handover.change_counts,
        published: None,
        upgrade: Upgrade::of(handover.program.clone().into()),
        upgraded_from: Some(handover.label.version.clone()),
    };
    // Who died when nobody listened.
    let mut deaths = heirloom.dead;
    deaths.extend(master.reap());
    master.unite_tables();
    master.serve(deaths)
}

/// The shortest wait for the configuration.
const SHORTEST: Duration = Duration::from_millis(10);

/// What has to be looked after while there is no configuration to go on with.
struct Heirloom {
    children: HashMap<WorkerId, Child>,
    scoreboard: Scoreboard,
    manager: Manager,
    /// Workers that have died meanwhile, for the plan to hear of.
    dead: Vec<Event>,
}

impl Heirloom {
    /// Buries the dead, whose writes may have been told to nobody, and gives a sign of life while somebody serves.
    fn look_after(&mut self) {
        while let Some((pid, end)) = process::reap() {
            let worker = self.children.values().find(|child| child.pid == pid);
            let Some(worker) = worker.map(|child| child.worker) else {
                continue;
            };
            if let Some(child) = self.children.remove(&worker) {
                log::warn!(
                    "master: worker {} (pid {pid}) ended with {end}, and is replaced when the configuration can be read",
                    child.slot
                );
                if let Some(row) = child.row {
                    self.scoreboard.settle_writes_of(self.scoreboard.row(row));
                }
            }
            self.dead.push(Event::Died(worker));
        }
        let (children, scoreboard) = (&self.children, self.scoreboard);
        self.manager.live(Instant::now(), |patience| {
            somebody_moves(children.values(), scoreboard, patience)
        });
    }
}

/// Reads the configuration, which was good a moment ago when the check read it. If it no longer is, the old workers serve
/// while it is tried again; none if the server is told to stop meanwhile.
fn load_at_last(
    sources: &Sources,
    handover: &Handover,
    signals: &mut Signals,
    control: &mut Control,
    heirloom: &mut Heirloom,
) -> Result<Option<Config>, MasterError> {
    let mut told = false;
    loop {
        let error = match sources.load() {
            Ok(config) => return Ok(Some(config)),
            Err(error) => error,
        };
        let failed = Answer::Failed {
            why: format!(
                "version {} has taken over from {}, but the configuration has changed since the upgrade was checked; it is read \
                 again every second, and meanwhile the old workers serve: {error}",
                env!("CARGO_PKG_VERSION"),
                handover.label.version
            ),
        };
        if !told {
            told = true;
            log::error!(
                "master: the configuration has changed since the upgrade was checked; it is read again every second, and \
                 meanwhile the old workers serve, but none is replaced: {error}"
            );
            // Who wait for a number of workers wait on: it comes next.
            control.begin(What::Reload);
            control.settle(&failed);
            let status = format!(
                "the old workers serve; the configuration has changed since the upgrade was checked: {error}"
            );
            heirloom.manager.tell(Phase::Ready, &status);
        }
        heirloom.look_after();
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(control.fds());
        let due = heirloom.manager.next_due();
        let sooner = due.map(|due| due.saturating_duration_since(Instant::now()));
        let look = sooner.unwrap_or(LOOK_EVERY).clamp(SHORTEST, LOOK_EVERY);
        let look = PollTimeout::try_from(look).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, look) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                return Err(MasterError::System("can't wait for signals", error.into()));
            }
        }
        let requests = signals.take();
        let mut stops = requests
            .iter()
            .any(|request| matches!(request, Request::Stop | Request::Abort));
        for (client, command) in control.attend(Instant::now()) {
            match command {
                CtlCommand::Stop { wait: true } => control.wait(client, Awaited::End),
                CtlCommand::Stop { wait: false } => control.answer(client, &Answer::Accepted),
                _ => control.answer(client, &failed),
            }
            stops |= matches!(command, CtlCommand::Stop { .. });
        }
        if stops {
            log::info!(
                "master: stopped before it could take over; the workers finish what is in flight"
            );
            control.bid_farewell(handover.plan.generation());
            return Ok(None);
        }
    }
}

/// The scoreboard to go on with, the memory that it is in, and whether it is the one that was handed over.
fn adopt_scoreboard(handover: &Handover) -> Result<(Scoreboard, OwnedFd, bool), MasterError> {
    let failed = |error| MasterError::System("can't share memory with workers", error);
    let memory = sys::adopt_descriptor(handover.scoreboard.descriptor).map_err(failed)?;
    let invalid = |error| failed(io::Error::new(io::ErrorKind::InvalidData, error));
    match Scoreboard::adopt(&memory, &handover.scoreboard.counters).map_err(invalid)? {
        Adopted::Shared(scoreboard) => {
            scoreboard.speak();
            Ok((scoreboard, memory, true))
        }
        Adopted::Foreign => {
            let (scoreboard, own) = Scoreboard::in_memory().map_err(failed)?;
            // Both, and before anyone with the new one is there to write.
            scoreboard::divide(&memory).map_err(invalid)?;
            scoreboard.divide();
            if let Some(bequest) = &handover.scoreboard.bequest {
                bequest.pass_to(scoreboard);
            }
            log::warn!(
                "master: this version lays the scoreboard out in another way: until the old workers are gone, answers come from \
                 the database and from no cache, and what they count from now on is not told in the end"
            );
            Ok((scoreboard, own, false))
        }
    }
}

impl Master {
    /// Believes what is cached again, once the last worker is gone whose table is another one.
    pub(super) fn unite_tables(&self) {
        let strange = |child: &Child| child.row.is_none() && !child.forsaken;
        let strangers = self.children.values().any(strange);
        if self.scoreboard.is_divided() && !strangers {
            self.scoreboard.unite();
            log::info!(
                "master: the last worker with another scoreboard is gone; answers are cached again"
            );
        }
    }
}
