//! The protocol of coherence as a machine of atomic steps, in every order of which the checker looks: writers that die
//! at any of them, readers that dawdle between any two, a Redis that forgets, and a subscription that breaks.
//!
//! There is one shoe, and its value is the number of commits so far. *Here* is the host whose workers write; *there* is
//! another one. Steps are those of `src/worker/lanes.rs`, `src/cache` and `src/scoreboard`: what is one exchange with
//! Redis or the database, or one atomic instruction there, is one step here.

use stateright::{Model, Property};

use super::world::{
    Broken, Epoch, Host, Kept, Key, Reader, Reading, Redis, Request, Source, Stamp, State, Step,
    World, Writing,
};

impl World {
    fn is(&self, broken: Broken) -> bool {
        self.broken == broken
    }

    /// Whether a writer's `before` or other mark on the key is left out.
    fn omits_mark(&self, before: bool) -> bool {
        match self.broken {
            Broken::NoTombstone => true,
            Broken::NoTombstoneBefore => before,
            Broken::NoTombstoneAfter => !before,
            _ => false,
        }
    }

    fn owe(&self, host: &mut Host, value: u8) {
        if !self.is(Broken::NoDebt) {
            host.debt = true;
            host.owed = host.owed.max(value);
        }
    }

    fn write(&self, s: &mut State, i: usize) {
        s.writers[i] = match s.writers[i] {
            Writing::Waiting if self.redis => {
                if !self.omits_mark(true) {
                    s.redis.key = Key::Tombstone;
                }
                Writing::Marked
            }
            Writing::Waiting | Writing::Marked => {
                s.here.generation += u8::from(self.is(Broken::MoveBeforeCommit));
                Writing::Noted
            }
            Writing::Noted => {
                s.database += 1;
                Writing::Committed(s.database)
            }
            Writing::Committed(value) if self.redis && !self.is(Broken::MoveBeforePublishing) => {
                self.publish(s, value);
                Writing::Published(value)
            }
            Writing::Committed(value) | Writing::Published(value) => {
                s.here.generation += u8::from(!self.is(Broken::MoveBeforeCommit));
                Writing::Moved(value)
            }
            Writing::Moved(value) => {
                if self.is(Broken::MoveBeforePublishing) {
                    self.publish(s, value);
                }
                s.told = s.told.max(value);
                Writing::Over
            }
            Writing::Dead { .. } | Writing::Over => unreachable!("it has nothing to do"),
        }
    }

    fn publish(&self, s: &mut State, value: u8) {
        if !self.omits_mark(false) {
            s.redis.key = Key::Tombstone;
        }
        self.tell(s, value);
    }

    /// Redis takes a message for the other host, if that is subscribed.
    fn tell(&self, s: &mut State, value: u8) {
        s.published = s.published.max(value);
        if self.readers_there == 0 {
            return;
        }
        match s.there.period {
            Some(_) if s.there.deaf => {}
            Some(_) => s.redis.mailbox.push(s.published),
            // It passes by what it has, so it need not hear.
            None => s.there.known = s.published,
        }
    }

    fn new_epoch(s: &mut State) {
        s.redis.epochs += 1;
        s.redis.epoch = Some(Epoch {
            number: s.redis.epochs,
            run: s.redis.run,
        });
    }

    fn settle(&self, s: &mut State) {
        if s.here.debt {
            Self::new_epoch(s);
            self.tell(s, s.here.owed);
            s.here.debt = false;
        }
    }

    fn stamp(&self, host: &Host) -> Option<Stamp> {
        let period = match host.period {
            None if self.is(Broken::NoBypass) => Some(0),
            Some(_) if self.is(Broken::NoBypass) || self.is(Broken::OldPeriodCounts) => Some(0),
            period => period,
        };
        period.map(|period| Stamp {
            generation: host.generation,
            period,
        })
    }

    fn read(&self, s: &mut State, i: usize, redis_answers: bool) {
        let here = s.readers[i].here;
        let host = if here { &s.here } else { &s.there };
        s.readers[i].step = match s.readers[i].step {
            Reading::Idle => {
                let request = Request {
                    least: if here { s.told } else { s.there.known },
                    stamp: self.stamp(host),
                };
                match host.kept {
                    Some(kept) if Some(kept.stamp) == request.stamp => {
                        return self.answer(s, i, request, kept.value, Source::L1);
                    }
                    _ => match self.joinable(s, i, request) {
                        Some(other) => Reading::Joined(request, other as u8),
                        None if self.redis => Reading::Began(request),
                        None => Reading::Leased(request, None),
                    },
                }
            }
            Reading::Joined(..) => unreachable!("it waits"),
            Reading::Began(request) if here && host.debt => Reading::Leased(request, None),
            Reading::Began(request) if redis_answers => self.fetch(s, request),
            Reading::Began(request) => Reading::Leased(request, None),
            Reading::Fetched { request, .. } if here && host.debt => Reading::Leased(request, None),
            Reading::Fetched {
                request,
                found: Some(value),
                ..
            } => return self.answer(s, i, request, value, Source::Redis),
            Reading::Fetched {
                request,
                found: None,
                epoch,
            } => {
                let ticket = epoch.filter(|epoch| redis_answers && self.lease(s, i, *epoch));
                Reading::Leased(request, ticket)
            }
            Reading::Leased(request, ticket) => Reading::Asked {
                request,
                ticket,
                value: s.database,
            },
            Reading::Asked {
                mut request,
                ticket,
                value,
            } => {
                if self.is(Broken::StampAfterAsking) {
                    request.stamp = self.stamp(host);
                }
                s.readers[i].fill = ticket.map(|epoch| (epoch, value));
                return self.answer(s, i, request, value, Source::Database);
            }
        };
    }

    /// Another reader of this worker whose flight the reader joins.
    fn joinable(&self, s: &State, i: usize, request: Request) -> Option<usize> {
        if !self.flights {
            return None;
        }
        let joins = |other: &Reader| {
            other.here == s.readers[i].here
                && other.step.flight().is_some_and(|flight| {
                    self.is(Broken::JoinAny)
                        || request.stamp.is_some() && flight.stamp == request.stamp
                })
        };
        s.readers.iter().position(joins)
    }

    /// One MGET of the epoch and the key.
    fn fetch(&self, s: &mut State, request: Request) -> Reading {
        let believed = s
            .redis
            .epoch
            .filter(|epoch| epoch.run == s.redis.run || self.is(Broken::AnyRunBelieved));
        let Some(epoch) = believed else {
            Self::new_epoch(s);
            return Reading::Leased(request, None);
        };
        let found = match s.redis.key {
            Key::Value { epoch: of, value } if of == epoch => Some(value),
            _ => None,
        };
        Reading::Fetched {
            request,
            found,
            epoch: Some(epoch),
        }
    }

    /// Whether the reader may fill the key later.
    fn lease(&self, s: &mut State, i: usize, epoch: Epoch) -> bool {
        if self.is(Broken::FillCovers) || self.is(Broken::FillWithoutLease) {
            return true;
        }
        let free = match s.redis.key {
            Key::Nothing => true,
            Key::Value { epoch: of, .. } => of != epoch,
            Key::Tombstone | Key::Lease(_) => false,
        };
        if free {
            s.redis.key = Key::Lease(i as u8);
        }
        free
    }

    fn fill(&self, s: &mut State, i: usize) {
        let Some((epoch, value)) = s.readers[i].fill.take() else {
            return;
        };
        let may = match s.redis.key {
            _ if self.is(Broken::FillCovers) => true,
            Key::Lease(of) => of == i as u8,
            Key::Nothing => self.is(Broken::FillWithoutLease),
            Key::Value { epoch: of, .. } => self.is(Broken::FillWithoutLease) && of != epoch,
            Key::Tombstone => false,
        };
        if may {
            s.redis.key = Key::Value { epoch, value };
        }
    }

    fn answer(&self, s: &mut State, i: usize, request: Request, value: u8, source: Source) {
        let reader = &mut s.readers[i];
        reader.step = Reading::Idle;
        s.answered = Some(source);
        s.stale = value < request.least;
        let here = reader.here;
        for joined in &mut s.readers {
            if let Reading::Joined(request, other) = joined.step
                && usize::from(other) == i
            {
                joined.step = Reading::Idle;
                s.stale |= value < request.least;
                s.joined = true;
            }
        }
        let host = if here { &mut s.here } else { &mut s.there };
        if self.l1 && source != Source::L1 && request.stamp == self.stamp(host) {
            host.kept = request.stamp.map(|stamp| Kept { value, stamp });
        }
    }

    /// The connections to Redis are gone, and so is what was on its way.
    fn restart_redis(s: &mut State, epoch: Option<Epoch>, key: Key) {
        s.redis.run += 1;
        s.redis.epoch = epoch;
        s.redis.key = key;
        s.redis.mailbox.clear();
        if s.there.period.is_some() {
            s.there.deaf = true;
        }
    }

    fn before_commit(&self, s: &State) -> bool {
        s.late > 0
            || s.writers
                .iter()
                .any(|writing| matches!(writing, Writing::Marked | Writing::Noted))
    }
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let reader = |here| Reader {
            here,
            step: Reading::Idle,
            fill: None,
        };
        let mut readers = vec![reader(true); self.readers_here];
        readers.extend(vec![reader(false); self.readers_there]);
        vec![State {
            database: 0,
            late: 0,
            told: 0,
            published: 0,
            here: Host::new(),
            there: Host::new(),
            redis: Redis {
                run: 0,
                epoch: None,
                epochs: 0,
                key: Key::Nothing,
                saved: None,
                mailbox: Vec::new(),
            },
            writers: vec![Writing::Waiting; self.writers],
            readers,
            faults: self.faults,
            answered: None,
            joined: false,
            stale: false,
        }]
    }

    fn actions(&self, s: &State, steps: &mut Vec<Step>) {
        let may_fail = s.faults > 0;
        for (i, writing) in s.writers.iter().enumerate() {
            match writing {
                Writing::Over => continue,
                Writing::Dead { .. } => {
                    steps.push(Step::Reap(i));
                    continue;
                }
                _ => steps.push(Step::Write(i)),
            }
            if !may_fail {
                continue;
            }
            if !matches!(writing, Writing::Waiting) {
                steps.push(Step::Die(i));
            }
            if matches!(writing, Writing::Noted) {
                steps.extend([Step::LoseCommit(i), Step::DieCommitting(i)]);
            }
            if self.redis && matches!(writing, Writing::Waiting | Writing::Committed(_)) {
                steps.extend([Step::WriteUnheard(i, false), Step::WriteUnheard(i, true)]);
            }
        }
        if s.late > 0 {
            steps.push(Step::CommitLate);
        }
        for (i, reader) in s.readers.iter().enumerate() {
            match reader.fill {
                Some(_) => steps.extend([Step::Fill(i), Step::LoseFill(i)]),
                None if matches!(reader.step, Reading::Joined(..)) => {}
                // Its lease must not be taken for that of the next request.
                None => steps.push(Step::Read(i)),
            }
            if may_fail && matches!(reader.step, Reading::Began(_)) {
                steps.push(Step::ReadAlone(i));
            }
        }
        if s.here.kept.is_some() || s.there.kept.is_some() {
            steps.push(Step::Drop);
        }
        if !self.redis {
            return;
        }
        if s.here.debt {
            steps.push(Step::Settle);
        }
        let evictable = match s.redis.key {
            Key::Nothing => false,
            // It expires, but not before the commit that it is for.
            Key::Tombstone => self.evicts || !self.before_commit(s),
            Key::Lease(_) | Key::Value { .. } => true,
        };
        if evictable {
            steps.push(Step::Evict);
        }
        if self.readers_there > 0 {
            match (s.there.period.is_some(), s.there.deaf) {
                (true, true) => steps.push(Step::Notice),
                (false, _) => steps.push(Step::Subscribe),
                (true, false) if may_fail => steps.push(Step::Break),
                (true, false) => {}
            }
            if !s.redis.mailbox.is_empty() {
                steps.push(Step::Deliver);
            }
        }
        if may_fail {
            steps.push(Step::LoseAll);
        }
        if self.restores && s.redis.saved.is_none() {
            steps.push(Step::Save);
        }
        if may_fail && s.redis.saved.is_some() {
            steps.push(Step::Restore);
        }
        // What it owes is lost with it, and the documentation says so.
        if may_fail && self.host_dies && !s.here.debt {
            steps.push(Step::EndHost);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut s = last.clone();
        (s.answered, s.joined) = (None, false);
        let fails = matches!(
            step,
            Step::WriteUnheard(..)
                | Step::LoseCommit(_)
                | Step::Die(_)
                | Step::DieCommitting(_)
                | Step::ReadAlone(_)
                | Step::Break
                | Step::LoseAll
                | Step::Restore
                | Step::EndHost
        );
        s.faults -= u8::from(fails);
        match step {
            Step::Write(i) => self.write(&mut s, i),
            Step::WriteUnheard(i, carried_out) => {
                let before = s.clone();
                self.write(&mut s, i);
                if !carried_out {
                    (s.redis, s.published) = (before.redis, before.published);
                    s.there.known = before.there.known;
                }
                let value = match s.writers[i] {
                    Writing::Published(value) => value,
                    _ => 0,
                };
                self.owe(&mut s.here, value);
            }
            Step::LoseCommit(i) => {
                s.late += 1;
                s.writers[i] = Writing::Committed(0);
            }
            Step::Die(i) => {
                let (noted, committed) = match s.writers[i] {
                    Writing::Noted => (true, 0),
                    Writing::Committed(value) | Writing::Published(value) => (true, value),
                    Writing::Moved(value) => (false, value),
                    _ => (false, 0),
                };
                s.writers[i] = Writing::Dead { noted, committed };
            }
            Step::DieCommitting(i) => {
                s.late += 1;
                s.writers[i] = Writing::Dead {
                    noted: true,
                    committed: 0,
                };
            }
            Step::Reap(i) => {
                if let Writing::Dead { noted, committed } = s.writers[i] {
                    if noted && !self.is(Broken::NoIntent) {
                        s.here.generation += 1;
                        if self.redis && !self.is(Broken::DeadOweNothing) {
                            self.owe(&mut s.here, committed);
                        }
                    }
                    s.told = s.told.max(committed);
                }
                s.writers[i] = Writing::Over;
            }
            Step::CommitLate => {
                s.late -= 1;
                s.database += 1;
            }
            Step::Read(i) => self.read(&mut s, i, true),
            Step::ReadAlone(i) => self.read(&mut s, i, false),
            Step::Fill(i) => self.fill(&mut s, i),
            Step::LoseFill(i) => s.readers[i].fill = None,
            Step::Settle => self.settle(&mut s),
            Step::Deliver => {
                let value = s.redis.mailbox.remove(0);
                s.there.generation += 1;
                s.there.known = s.there.known.max(value);
            }
            Step::Break => {
                s.redis.mailbox.clear();
                s.there.deaf = true;
            }
            Step::Notice => {
                s.there.deaf = false;
                s.there.period = None;
                s.there.known = s.published;
            }
            Step::Subscribe => {
                s.there.periods += 1;
                s.there.period = Some(s.there.periods);
                s.there.known = s.published;
            }
            Step::Drop => (s.here.kept, s.there.kept) = (None, None),
            Step::Evict => s.redis.key = Key::Nothing,
            Step::LoseAll => Self::restart_redis(&mut s, None, Key::Nothing),
            Step::Save => s.redis.saved = Some((s.redis.epoch, s.redis.key)),
            Step::Restore => {
                let (epoch, key) = s.redis.saved.take()?;
                Self::restart_redis(&mut s, epoch, key);
            }
            Step::EndHost => {
                for writing in &mut s.writers {
                    if let Writing::Committed(value)
                    | Writing::Moved(value)
                    | Writing::Published(value)
                    | Writing::Dead {
                        committed: value, ..
                    } = *writing
                    {
                        s.told = s.told.max(value);
                    }
                    if !matches!(writing, Writing::Waiting) {
                        *writing = Writing::Over;
                    }
                }
                for reader in s.readers.iter_mut().filter(|reader| reader.here) {
                    (reader.step, reader.fill) = (Reading::Idle, None);
                }
                s.here = Host::new();
            }
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(FRESH, |_, s: &State| !s.stale),
            // A world in which nothing is ever cached would be without fault.
            Property::sometimes("L1 answers", |world: &World, s: &State| {
                !world.l1 || s.answered == Some(Source::L1)
            }),
            Property::sometimes("Redis answers", |world: &World, s: &State| {
                !world.redis || s.answered == Some(Source::Redis)
            }),
            Property::sometimes("a reader joins another", |world: &World, s: &State| {
                !world.flights || s.joined
            }),
            Property::sometimes("an answer is newer than it has to be", |_, s: &State| {
                s.answered == Some(Source::Database) && s.database > s.told
            }),
            // Else the guarantee for the other host would be that it need not know anything.
            Property::always(TOLD, |world: &World, s: &State| {
                let over = |writing: &Writing| matches!(writing, Writing::Over);
                let heard = s.redis.mailbox.is_empty() && !s.there.deaf && !s.here.debt;
                let at_rest = s.writers.iter().all(over) && heard;
                !at_rest || world.readers_there == 0 || s.there.known >= s.told
            }),
        ]
    }
}

/// No answer is older than what was told before its request began.
pub const FRESH: &str = "no answer is older than it may be";

/// Once nothing is under way, the other host knows of every write.
pub const TOLD: &str = "every write is told to the other host";
