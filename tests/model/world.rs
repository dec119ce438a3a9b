//! The world of the model: who is in it, what each of them knows, and what may happen next.

/// What is left out of the protocol, or done in another order, to see whether the checker notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Nothing: the protocol as it is.
    Nothing,
    /// The generation moves before the commit, and not after it.
    MoveBeforeCommit,
    /// The generation moves before Redis is told, and not after it.
    MoveBeforePublishing,
    /// A writer that dies leaves no note of what it was about.
    NoIntent,
    /// The reader loads its stamp when it has its answer.
    StampAfterAsking,
    /// A writer leaves nothing on the key in Redis.
    NoTombstone,
    /// It does so only after its commit.
    NoTombstoneBefore,
    /// It does so only before its commit.
    NoTombstoneAfter,
    /// A fill writes whatever the key holds.
    FillCovers,
    /// A fill writes unless it finds a tombstone or a value, as `SET NX` does, and not only over its own lease.
    FillWithoutLease,
    /// A write that can't reach Redis owes nothing.
    NoDebt,
    /// Nobody owes for a writer that died.
    DeadOweNothing,
    /// What a worker keeps counts although its subscription is broken.
    NoBypass,
    /// What was kept before the subscription broke counts again when it is back.
    OldPeriodCounts,
    /// A reader joins whatever flight there is.
    JoinAny,
    /// An epoch is believed although Redis is another process than the one that it began in.
    AnyRunBelieved,
}

/// How much of the world takes part. More than one of these at their largest is more than a test has time for.
#[derive(Debug, Clone)]
pub struct World {
    pub broken: Broken,
    pub writers: usize,
    /// Readers on the writers' host, all of one worker.
    pub readers_here: usize,
    /// Readers on the other host, all of one worker.
    pub readers_there: usize,
    /// Workers keep answers of their own.
    pub l1: bool,
    /// A reader waits along with one that asks already, if it may.
    pub flights: bool,
    pub redis: bool,
    /// How many things of those that need not happen may.
    pub faults: u8,
    /// Redis may drop the key at any moment.
    pub evicts: bool,
    /// Redis may come back with what it held at some moment before.
    pub restores: bool,
    /// The whole host of the writers may end: workers, master, and what they share.
    pub host_dies: bool,
}

/// What an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    L1,
    Redis,
    Database,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    /// Commits.
    pub database: u8,
    /// COMMITs on their way, for which nobody waits any more.
    pub late: u8,
    /// The newest value whose writer was answered, or was reaped after its commit.
    pub told: u8,
    /// The newest of those of which the other host was told in Redis' words.
    pub published: u8,
    pub here: Host,
    pub there: Host,
    pub redis: Redis,
    pub writers: Vec<Writing>,
    pub readers: Vec<Reader>,
    pub faults: u8,
    /// What the last step answered.
    pub answered: Option<Source>,
    /// It answered one that had joined, too.
    pub joined: bool,
    /// It was older than the guarantee allows.
    pub stale: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    pub generation: u8,
    pub kept: Option<Kept>,
    /// The period of hearing, while this host hears.
    pub period: Option<u8>,
    pub periods: u8,
    /// The subscription is broken, and nobody has noticed.
    pub deaf: bool,
    /// What this host must have heard of.
    pub known: u8,
    pub debt: bool,
    /// The newest value that is owed.
    pub owed: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kept {
    pub value: u8,
    pub stamp: Stamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stamp {
    pub generation: u8,
    pub period: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Redis {
    /// Which process it is.
    pub run: u8,
    pub epoch: Option<Epoch>,
    /// How many epochs there have been.
    pub epochs: u8,
    pub key: Key,
    pub saved: Option<(Option<Epoch>, Key)>,
    /// For the other host: the newest value that each message tells of.
    pub mailbox: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    pub number: u8,
    pub run: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Key {
    Nothing,
    Tombstone,
    /// Whose reader may fill.
    Lease(u8),
    Value {
        epoch: Epoch,
        value: u8,
    },
}

/// What a writer did last. A value of 0 is that of a COMMIT whose outcome it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Writing {
    Waiting,
    Marked,
    Noted,
    Committed(u8),
    Published(u8),
    Moved(u8),
    Dead { noted: bool, committed: u8 },
    Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reader {
    pub here: bool,
    pub step: Reading,
    /// A fill on its way to Redis.
    pub fill: Option<(Epoch, u8)>,
}

/// What a reader did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reading {
    Idle,
    Began(Request),
    Fetched {
        request: Request,
        found: Option<u8>,
        epoch: Option<Epoch>,
    },
    /// It knows whether it may fill, and under which epoch.
    Leased(Request, Option<Epoch>),
    Asked {
        request: Request,
        ticket: Option<Epoch>,
        value: u8,
    },
    /// It waits along with this reader.
    Joined(Request, u8),
}

impl Reading {
    /// The request that others may join: it asks for itself, and has no answer yet.
    pub fn flight(self) -> Option<Request> {
        match self {
            Reading::Began(request) | Reading::Leased(request, _) => Some(request),
            Reading::Fetched { request, .. } | Reading::Asked { request, .. } => Some(request),
            Reading::Idle | Reading::Joined(..) => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// The oldest value that it may be answered with.
    pub least: u8,
    pub stamp: Option<Stamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    Write(usize),
    /// The writer's exchange with Redis fails, and may have been carried out all the same.
    WriteUnheard(usize, bool),
    /// The writer waits no longer for its COMMIT, which is on its way.
    LoseCommit(usize),
    Die(usize),
    /// The writer dies with its COMMIT on its way.
    DieCommitting(usize),
    Reap(usize),
    CommitLate,
    Read(usize),
    /// Redis does not answer the reader.
    ReadAlone(usize),
    Fill(usize),
    LoseFill(usize),
    /// The host's clerk reaches Redis.
    Settle,
    Deliver,
    Break,
    Notice,
    Subscribe,
    /// A worker drops what it keeps, for its age or for want of room.
    Drop,
    Evict,
    LoseAll,
    Save,
    Restore,
    EndHost,
}

impl Host {
    pub fn new() -> Self {
        Host {
            generation: 0,
            kept: None,
            period: Some(0),
            periods: 0,
            deaf: false,
            known: 0,
            debt: false,
            owed: 0,
        }
    }
}
