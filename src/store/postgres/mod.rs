//! The PostgreSQL store: an r2d2 pool of [`Session`]s, whose every call ends by its deadline. Made by
//! [`super::open`]; nothing is connected before the first call.
//!
//! A pooled connection may be dead without our knowing, after a restart or a fail-over. A read that finds
//! its connection dead is asked again on a fresh one; a write never is, but it looks first whether the
//! server has hung up. One dead connection condemns all older ones (the *epoch*), so that a restart
//! costs one retry and not one a connection; and so does a ping that is not answered in time.

mod connect;
mod error;
mod lag;
mod lock;
mod manager;
pub mod notices;
mod position;
mod replicas;
mod server;
mod session;
mod statements;
mod tracing;
mod watch;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{join, try_join_all};
use postgres::Row;
use postgres::types::Type;
use tokio_postgres::Client;

use self::connect::{Connector, Silence};
use self::replicas::Replicas;
use self::server::Server;
use self::session::CallError;
use self::statements::Statements;
use super::url::PostgresUrl;
use super::{
    Change, Changed, Deadline, Draft, Fence, Grouping, IdKind, Media, PoolOptions, Position,
    ReplicaOptions, Room, RowId, ShoeImages, Store, StoreError, batch, tls,
};

#[cfg(test)]
pub(crate) use self::connect::IDLE_IN_TRANSACTION;
pub(crate) use self::error::{refusal, store_error};
pub(crate) use self::lock::take_lock;
use self::notices::Listener;
pub(crate) use self::session::Session;

/// The statements, spelled once. Their columns are those of [`row`], in this order. The table's name is
/// unquoted: a table created as `Shoe_Images` is `shoe_images` to PostgreSQL.
pub(super) const SELECT_SHOES: &str = "SELECT id, shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2 \
    FROM shoe_images WHERE shoe_id = ANY($1) ORDER BY shoe_id, id LIMIT 4096";
const SELECT_ROWS: &str = "SELECT id, shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2 \
    FROM shoe_images WHERE id = ANY($1)";
const SELECT_SHOE_OF_ROW: &str = "SELECT shoe_id FROM shoe_images WHERE id = $1 FOR UPDATE";
const INSERT: &str = "INSERT INTO shoe_images \
    (shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
    RETURNING id, shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2";
const UPDATE: &str = "UPDATE shoe_images SET shoe_id = $1, img1 = $2, img2 = $3, img3 = $4, img4 = $5, \
    img5 = $6, img6 = $7, img7 = $8, vid1 = $9, vid2 = $10 WHERE id = $11 \
    RETURNING id, shoe_id, img1, img2, img3, img4, img5, img6, img7, vid1, vid2";
/// Of the parameters of the two: a statement that is not prepared has its types said.
const INSERT_TYPES: &[Type] = &[
    Type::INT4,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
];
const UPDATE_TYPES: &[Type] = &[
    Type::INT4,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::VARCHAR,
    Type::INT4,
];
const DELETE: &str = "DELETE FROM shoe_images WHERE id = $1 RETURNING shoe_id";
/// Without a time limit of the server's: one that fires while COMMIT waits for a synchronous standby makes
/// the server answer "committed" to what the standby may not have.
const COMMIT: &str = "SET LOCAL statement_timeout = 0; COMMIT";
const PING: &str = "SELECT 1 FROM shoe_images LIMIT 0";

/// How often a write is tried that the server refuses for the sake of the session, or of another transaction: each session that
/// is pooled may have the same thing wrong.
const WRITE_TRIES: usize = 3;

/// How long before its caller's deadline the server gives a statement of a write up.
const MARGIN: Duration = Duration::from_millis(50);

/// A store over PostgreSQL.
pub(super) struct PostgresStore {
    /// The servers of the URL, of which one takes writes.
    primary: Server,
    /// Those that only answer reads.
    replicas: Option<Replicas>,
}

/// How new an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    /// As all that this host has acknowledged or heard of, and no older than replicas may be.
    Acknowledged,
    /// As what the primary has at this moment.
    Now,
}

impl PostgresStore {
    pub(super) fn open(
        url: &PostgresUrl,
        options: PoolOptions,
        replicas: Option<ReplicaOptions>,
    ) -> Result<Self, StoreError> {
        let primary = Server::open(url, options)?;
        let replicas = match replicas {
            Some(replicas) => Some(Replicas::open(url, options, replicas)?),
            None => None,
        };
        Ok(PostgresStore { primary, replicas })
    }

    /// One query outside of a transaction: of a replica that is new enough, else of the primary.
    fn read<T>(
        &self,
        freshness: Freshness,
        deadline: Deadline,
        query: impl AsyncFn(&Client, &mut Statements) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        if let Some(replicas) = self.replicas.as_ref().filter(|replicas| replicas.any())
            && let Some(wanted) = self.wanted(replicas, freshness, deadline)?
            && let Some(value) = replicas.read(wanted, deadline, &query)
        {
            return Ok(value);
        }
        self.primary.read(deadline, query)
    }

    /// What a replica must have replayed; `None` while nobody knows.
    fn wanted(
        &self,
        replicas: &Replicas,
        freshness: Freshness,
        deadline: Deadline,
    ) -> Result<Option<Position>, StoreError> {
        let Some(wanted) = replicas.wanted() else {
            return Ok(None);
        };
        if freshness == Freshness::Acknowledged {
            return Ok(Some(wanted));
        }
        let now = self.primary.read(deadline, async |client, _| {
            position::of_primary(client).await
        })?;
        Ok(now.filter(|now| now.timeline == wanted.timeline))
    }

    fn images_of(
        &self,
        freshness: Freshness,
        shoe_ids: &[i32],
        deadline: Deadline,
    ) -> Result<Vec<Vec<ShoeImages>>, StoreError> {
        if shoe_ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = batch::in_pages(&batch::distinct(shoe_ids), |keys| {
            self.read(freshness, deadline, async |client, statements| {
                let statement = statements
                    .get(client, SELECT_SHOES, &[Type::INT4_ARRAY])
                    .await?;
                images(&statement.query(client, &[&keys]).await?)
            })
        })?;
        Ok(batch::by_shoe(shoe_ids, rows))
    }

    /// One transaction, tried again if the server has refused it for what is no fault of its own: nothing of it was committed.
    /// `work` answers with the value and the shoes that the commit touches, or `None` if there is nothing to commit.
    fn write<T>(
        &self,
        deadline: Deadline,
        fence: &dyn Fence,
        work: impl AsyncFn(&Client, &mut Statements) -> Result<Option<(T, Vec<i32>)>, postgres::Error>,
    ) -> Result<Option<T>, StoreError> {
        let mut tries = WRITE_TRIES;
        loop {
            tries -= 1;
            match self.try_to_write(deadline, fence, &work) {
                Err(Unwritten::Again(_)) if tries > 0 && !deadline.passed() => {}
                Err(Unwritten::Again(error)) => return Err(store_error(error)),
                Err(Unwritten::For(error)) => return Err(error),
                Ok(written) => return Ok(written),
            }
        }
    }

    fn try_to_write<T>(
        &self,
        deadline: Deadline,
        fence: &dyn Fence,
        work: &impl AsyncFn(&Client, &mut Statements) -> Result<Option<(T, Vec<i32>)>, postgres::Error>,
    ) -> Result<Option<T>, Unwritten> {
        let mut session = self.primary.checkout(deadline)?;
        while !session.is_alive() {
            self.primary.condemn(&session);
            drop(session);
            session = self.primary.checkout(deadline)?;
        }
        // The server gives a statement up a little before this end does, so that its word arrives and the
        // connection can be kept. 0 would mean no limit.
        let left = deadline.left();
        let limit = left
            .saturating_sub(MARGIN.min(left / 10))
            .as_millis()
            .max(1);
        let connector = &self.primary.connector;
        let (comment, name) =
            tracing::marks(&connector.url.application_name, &fence.traceparents());
        let settings = connector.settings_of_transaction();
        let begin =
            format!("BEGIN{comment}; {settings}SET LOCAL statement_timeout = {limit}{name}");
        // Sent together: the server answers BEGIN first, and what follows is in its transaction.
        // Unless it was refused: then what follows commits by itself.
        let (strays, mut stray_shoes) = (Cell::new(false), Vec::new());
        let outcome = session.run(deadline, async |client, statements| {
            let begin = async {
                let begun = client.batch_execute(&begin).await;
                strays.set(begun.as_ref().is_err_and(|error| !session::is_fatal(error)));
                begun
            };
            match join(begin, work(client, statements)).await {
                (Ok(()), done) => done,
                (Err(error), done) => {
                    stray_shoes = done.ok().flatten().map_or(Vec::new(), |(_, shoes)| shoes);
                    Err(error)
                }
            }
        });
        match outcome {
            Err(error) if strays.get() => {
                session.give_up();
                if !stray_shoes.is_empty() {
                    fence.raise(&batch::distinct(&stray_shoes));
                }
                let why = format!("BEGIN was refused: {}", error::call_text(&error));
                Err(StoreError::OutcomeUnknown(why).into())
            }
            Ok(Some((value, shoe_ids))) => {
                fence.raise(&batch::distinct(&shoe_ids));
                if deadline.passed() {
                    // Closing the connection rolls back.
                    session.give_up();
                    return Err(StoreError::TimedOut.into());
                }
                // Sent together; that the place can't be had makes nothing of the commit undone.
                let wants_place = fence.wants_place();
                let commit = session.run(deadline, async |client, _| {
                    let place = async {
                        match wants_place {
                            true => position::of_primary(client).await,
                            false => Ok(None),
                        }
                    };
                    let (committed, place) = join(client.batch_execute(COMMIT), place).await;
                    committed.map(|()| place.ok().flatten())
                });
                let place = commit.map_err(|error| {
                    // Refused, it may have left the transaction open.
                    session.give_up();
                    error::commit_error(error)
                })?;
                if let Some(place) = place {
                    fence.committed(place);
                }
                Ok(Some(value))
            }
            Ok(None) => {
                self.roll_back(&mut session, deadline);
                Ok(None)
            }
            Err(error) => {
                match &error {
                    CallError::Lost(_) => self.primary.condemn(&session),
                    error if error::is_stale(error) => {
                        session.give_up();
                        // Its server follows another one now, and those beside it would be read from.
                        let servers = &self.primary.connector.url.servers;
                        if error::is_read_only(error) && servers.len() > 1 {
                            self.primary.condemn(&session);
                        }
                    }
                    _ => self.roll_back(&mut session, deadline),
                }
                match error::is_stale(&error) || error::is_in_the_way(&error) {
                    true => Err(Unwritten::Again(error)),
                    false => Err(Unwritten::For(store_error(error))),
                }
            }
        }
    }

    /// New rows in one transaction, all or none. `drafts` are checked.
    fn insert_all(
        &self,
        drafts: &[&Draft],
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<Vec<ShoeImages>, StoreError> {
        let stored = self.write(deadline, fence, async |client, statements| {
            let statement = statements.get(client, INSERT, INSERT_TYPES).await?;
            let statement = &statement;
            // Polled in turn, so all of them are on their way before the first is answered.
            let rows = try_join_all(drafts.iter().map(async |draft| {
                let m = &draft.media;
                let row = statement
                    .query_one(
                        client,
                        &[
                            &draft.shoe_id,
                            &m[0],
                            &m[1],
                            &m[2],
                            &m[3],
                            &m[4],
                            &m[5],
                            &m[6],
                            &m[7],
                            &m[8],
                        ],
                    )
                    .await?;
                image(&row)
            }))
            .await?;
            Ok(Some((
                rows,
                drafts.iter().map(|draft| draft.shoe_id).collect(),
            )))
        })?;
        Ok(stored.unwrap_or_default())
    }

    /// Makes the session fit for the next caller, or closes it, which rolls back too.
    fn roll_back(&self, session: &mut Session, deadline: Deadline) {
        if session
            .run(deadline, async |client, _| {
                client.batch_execute("ROLLBACK").await
            })
            .is_err()
        {
            session.give_up();
        }
    }
}

impl Store for PostgresStore {
    fn ids(&self) -> IdKind {
        IdKind::Number
    }

    fn has_replicas(&self) -> bool {
        self.replicas.is_some()
    }

    fn shoes(
        &self,
        shoe_ids: &[i32],
        deadline: Deadline,
    ) -> Result<Vec<Vec<ShoeImages>>, StoreError> {
        self.images_of(Freshness::Acknowledged, shoe_ids, deadline)
    }

    fn shoes_as_of_now(
        &self,
        shoe_ids: &[i32],
        deadline: Deadline,
    ) -> Result<Vec<Vec<ShoeImages>>, StoreError> {
        self.images_of(Freshness::Now, shoe_ids, deadline)
    }

    fn rows(
        &self,
        ids: &[RowId],
        deadline: Deadline,
    ) -> Result<Vec<Option<ShoeImages>>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let keys = batch::distinct_numbers(ids);
        let read = async |client: &Client, statements: &mut Statements| {
            let statement = statements
                .get(client, SELECT_ROWS, &[Type::INT4_ARRAY])
                .await?;
            images(&statement.query(client, &[&keys]).await?)
        };
        let rows = self.read(Freshness::Acknowledged, deadline, read)?;
        Ok(batch::by_id(ids, rows))
    }

    fn insert(
        &self,
        draft: &Draft,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<ShoeImages, StoreError> {
        draft.check()?;
        let stored = self.insert_all(&[draft], fence, deadline)?.pop();
        stored.ok_or_else(|| StoreError::Failed("the row was not stored".to_owned()))
    }

    fn replace(
        &self,
        id: &RowId,
        draft: &Draft,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<Option<ShoeImages>, StoreError> {
        draft.check()?;
        let Some(id) = id.number() else {
            return Ok(None);
        };
        self.write(deadline, fence, async |client, statements| {
            let select = statements
                .get(client, SELECT_SHOE_OF_ROW, &[Type::INT4])
                .await?;
            let Some(old) = select.query_opt(client, &[&id]).await? else {
                return Ok(None);
            };
            let old: Option<i32> = old.try_get(0)?;
            let update = statements.get(client, UPDATE, UPDATE_TYPES).await?;
            let m = &draft.media;
            let row = update
                .query_one(
                    client,
                    &[
                        &draft.shoe_id,
                        &m[0],
                        &m[1],
                        &m[2],
                        &m[3],
                        &m[4],
                        &m[5],
                        &m[6],
                        &m[7],
                        &m[8],
                        &id,
                    ],
                )
                .await?;
            let shoe_ids = old.into_iter().chain([draft.shoe_id]).collect();
            Ok(Some((image(&row)?, shoe_ids)))
        })
    }

    fn delete(
        &self,
        id: &RowId,
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        let Some(id) = id.number() else {
            return Ok(false);
        };
        let deleted = self.write(deadline, fence, async |client, statements| {
            let statement = statements.get(client, DELETE, &[Type::INT4]).await?;
            let Some(row) = statement.query_opt(client, &[&id]).await? else {
                return Ok(None);
            };
            let old: Option<i32> = row.try_get(0)?;
            Ok(Some(((), old.into_iter().collect())))
        })?;
        Ok(deleted.is_some())
    }

    /// New rows share a transaction. If the server refuses one of them, none is stored, and each is tried by itself.
    fn change(
        &self,
        changes: &[Change],
        fence: &dyn Fence,
        deadline: Deadline,
    ) -> Vec<Result<Changed, Arc<StoreError>>> {
        let drafts: Vec<&Draft> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Insert(draft) if draft.check().is_ok() => Some(draft),
                _ => None,
            })
            .collect();
        if drafts.len() < 2 || drafts.len() < changes.len() {
            return self.change_one_by_one(changes, fence, deadline);
        }
        match self.insert_all(&drafts, fence, deadline) {
            Ok(rows) => rows
                .into_iter()
                .map(|row| Ok(Changed::Inserted(row)))
                .collect(),
            Err(StoreError::Failed(_) | StoreError::Refused(_)) => {
                self.change_one_by_one(changes, fence, deadline)
            }
            Err(error) => {
                let error = Arc::new(error);
                changes.iter().map(|_| Err(error.clone())).collect()
            }
        }
    }

    fn grouping(&self) -> Grouping {
        Grouping::Inserts
    }

    fn room(&self) -> Room {
        self.primary.room()
    }

    fn limit(&self, connections: usize) {
        self.primary.limit(connections);
    }

    fn warm_up(&self, connections: usize, deadline: Deadline) {
        self.primary.warm_up(connections, deadline);
    }

    fn ping(&self, deadline: Deadline) -> Result<(), StoreError> {
        let epoch = self.primary.epoch.load(Ordering::Acquire);
        let pong = self.primary.read(deadline, async |client, statements| {
            let statement = statements.get(client, PING, &[]).await?;
            statement.query(client, &[]).await.map(|_| ())
        });
        if matches!(pong, Err(StoreError::TimedOut)) {
            // A network that has forgotten one connection has forgotten those beside it too, and each would cost a time-out
            // to find out. One that did live is opened again in less.
            self.primary.epoch.fetch_max(epoch + 1, Ordering::AcqRel);
        }
        pong
    }
}

/// Why a transaction was not committed.
enum Unwritten {
    /// The server has rolled it back, and may take it on another session or at another time.
    Again(CallError),
    For(StoreError),
}

impl From<StoreError> for Unwritten {
    fn from(error: StoreError) -> Self {
        Unwritten::For(error)
    }
}

/// One session to the database of a URL, for the tools: no pool, no statement timeout.
///
/// # Errors
/// [`StoreError::Unavailable`] with what each server said.
pub(crate) fn connect(url: &PostgresUrl) -> Result<Session, StoreError> {
    connector(url)?.connect().map_err(StoreError::Unavailable)
}

/// Prepares to hear of writes that are made past this server. Connects to nothing yet.
///
/// # Errors
/// [`StoreError::Unavailable`] if a certificate or key file named in the URL can't be read.
pub(super) fn listener(url: &PostgresUrl) -> Result<Listener, StoreError> {
    connector(url).map(Listener::new)
}

fn connector(url: &PostgresUrl) -> Result<Connector, StoreError> {
    let timeout = url
        .connect_timeout
        .unwrap_or(PoolOptions::default().connect_timeout);
    let statement_timeout = Duration::ZERO;
    Ok(Connector {
        url: url.clone(),
        tls: tls::connector(url)?,
        timeout,
        statement_timeout,
        room: Arc::default(),
        silent: Silence::default(),
        heard: None,
        pooled: false,
    })
}

fn images(rows: &[Row]) -> Result<Vec<ShoeImages>, postgres::Error> {
    rows.iter().map(image).collect()
}

/// A row of one of the statements above.
fn image(row: &Row) -> Result<ShoeImages, postgres::Error> {
    let mut media = Media::default();
    for (i, text) in media.iter_mut().enumerate() {
        *text = row.try_get(i + 2)?;
    }
    Ok(ShoeImages {
        id: RowId::Number(row.try_get(0)?),
        shoe_id: row.try_get(1)?,
        media,
    })
}
