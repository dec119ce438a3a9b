//! Places in PostgreSQL's write-ahead log: asking a server for its own, and reading the answer.

use postgres::types::PgLsn;
use postgres::{Error, Row};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::store::Position;

/// The place up to which the primary's log has been written, and the name of the file that it is in, which begins with the timeline.
/// What was inserted counts and not what was flushed: a commit that is not waited for (`synchronous_commit = off`) is visible too.
const OF_PRIMARY: &str = "SELECT pg_catalog.pg_walfile_name(lsn), lsn \
    FROM pg_catalog.pg_current_wal_insert_lsn() AS lsn";

/// The same, and which cluster it is.
const OF_PRIMARY_AND_CLUSTER: &str = "SELECT pg_catalog.pg_walfile_name(lsn), lsn, \
    (SELECT system_identifier FROM pg_catalog.pg_control_system()) \
    FROM pg_catalog.pg_current_wal_insert_lsn() AS lsn";

/// What a replica says of itself with each answer: whether it is one, how far it has replayed, and when its server was started, by
/// which a server is known again. To be asked before the rows that it vouches for: what is replayed in between may be among them,
/// and what was replayed before is.
pub(super) const OF_REPLICA: &str = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn(), \
    (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8";

/// The same, and what takes a look into files: which cluster it is of, and the timeline. That of the control file is as of the last
/// restart point, so it lags after a failover; that of the stream does not, and the server has seen to it that what it had
/// replayed is in that timeline's past. Only members of pg_read_all_stats are shown the stream.
pub(super) const OF_REPLICA_AND_CLUSTER: &str = "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn(), \
    (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8, \
    (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
    greatest((SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), \
             (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()), \
             (SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver))";

/// What a replica says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Replayed {
    /// It is a standby.
    pub(super) in_recovery: bool,
    /// How far it has replayed; 0 if it is none.
    pub(super) lsn: u64,
    /// When its server was started, in microseconds of Unix time.
    pub(super) started: i64,
}

impl Replayed {
    /// Of a row that begins with the columns of [`OF_REPLICA`].
    pub(super) fn read(row: &Row) -> Result<Self, Error> {
        Ok(Replayed {
            in_recovery: row.try_get(0)?,
            lsn: row.try_get::<_, Option<PgLsn>>(1)?.map_or(0, u64::from),
            started: row.try_get(2)?,
        })
    }
}

/// Where the server of this session has written to; `None` for an answer that makes no sense.
///
/// # Errors
/// It is no primary, or did not answer.
pub(super) async fn of_primary(client: &Client) -> Result<Option<Position>, Error> {
    let answer = client.simple_query(OF_PRIMARY).await?;
    Ok(row_of(&answer).and_then(|row| read(row.get(0)?, row.get(1)?)))
}

/// The same, with the identifier of its cluster.
///
/// # Errors
/// As [`of_primary`].
pub(super) async fn of_primary_and_cluster(
    client: &Client,
) -> Result<Option<(Position, i64)>, Error> {
    let answer = client.simple_query(OF_PRIMARY_AND_CLUSTER).await?;
    Ok(row_of(&answer).and_then(|row| {
        let position = read(row.get(0)?, row.get(1)?)?;
        Some((position, row.get(2)?.parse().ok()?))
    }))
}

fn row_of(answer: &[SimpleQueryMessage]) -> Option<&tokio_postgres::SimpleQueryRow> {
    answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// Of the name of a file of the log, 24 hexadecimal digits, and a place such as `1/6B374D8`.
fn read(file: &str, lsn: &str) -> Option<Position> {
    let timeline = u32::from_str_radix(file.get(..8).filter(|_| file.len() == 24)?, 16).ok()?;
    let lsn = lsn.parse::<PgLsn>().ok()?;
    (timeline != 0).then(|| Position {
        timeline,
        lsn: lsn.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_with_its_timeline() {
        let at = |timeline, lsn| Some(Position { timeline, lsn });
        assert_eq!(
            read("000000010000000000000003", "0/30001C8"),
            at(1, 0x0300_01c8)
        );
        assert_eq!(
            read("0000001A00000002000000FF", "2/FFFFFFFF"),
            at(26, 0x2_ffff_ffff)
        );
        for (file, lsn) in [
            ("", "0/1"),
            ("00000001", "0/1"),
            ("000000010000000000000003", "1"),
            ("000000000000000000000003", "0/1"),
        ] {
            assert_eq!(read(file, lsn), None, "{file} {lsn}");
        }
    }
}
