//! The mark in the table's comment that tells of an unfinished seed, and the sweeping up after one.

use tokio_postgres::Client;

use crate::store::schema::postgres::call;
use crate::store::{Session, StoreError};

/// The mark's words: `canvas-cluster seed unfinished: ids 1 to 1000; comment: <the table's own comment>`.
const MARK: &str = "canvas-cluster seed unfinished: ids ";
const MARK_COMMENT: &str = "; comment: ";

/// Removes the rows of an interrupted seed, and its mark; answers how many there were.
pub(super) fn sweep(session: &mut Session, report: impl FnOnce()) -> Result<u64, StoreError> {
    let Some(mark) = call(session, comment)?.and_then(|comment| Mark::parse(&comment)) else {
        return Ok(0);
    };
    report();
    call(session, async |client| {
        client
            // Keeps writers out, and leaves readers in: a million rows take their time.
            .batch_execute("BEGIN; LOCK TABLE shoe_images IN SHARE ROW EXCLUSIVE MODE")
            .await?;
        let others = "SELECT EXISTS (SELECT 1 FROM shoe_images WHERE id < $1 OR id > $2)";
        let others: bool = client
            .query_one(others, &[&mark.first_id, &mark.last_id])
            .await?
            .try_get(0)?;
        let swept = match others {
            true => {
                let delete = "DELETE FROM shoe_images WHERE id BETWEEN $1 AND $2";
                client
                    .execute(delete, &[&mark.first_id, &mark.last_id])
                    .await?
            }
            false => {
                let rows: i64 = client
                    .query_one("SELECT count(*) FROM shoe_images", &[])
                    .await?
                    .try_get(0)?;
                client
                    .batch_execute("TRUNCATE shoe_images RESTART IDENTITY")
                    .await?;
                rows.unsigned_abs()
            }
        };
        set_comment(client, mark.comment.as_deref()).await?;
        client.batch_execute("COMMIT").await?;
        Ok(swept)
    })
}

/// The table's comment.
pub(super) async fn comment(client: &Client) -> Result<Option<String>, ::postgres::Error> {
    let query = "SELECT pg_catalog.obj_description('shoe_images'::regclass, 'pg_class')";
    client.query_one(query, &[]).await?.try_get(0)
}

/// COMMENT takes no parameters: the server itself quotes the text.
pub(super) async fn set_comment(
    client: &Client,
    comment: Option<&str>,
) -> Result<(), ::postgres::Error> {
    let quote = "SELECT pg_catalog.format('COMMENT ON TABLE shoe_images IS %L', $1::text)";
    let statement: String = client.query_one(quote, &[&comment]).await?.try_get(0)?;
    client.batch_execute(&statement).await
}

/// What a table's comment says while it is being seeded.
#[derive(Debug, PartialEq)]
pub(super) struct Mark {
    pub(super) first_id: i32,
    pub(super) last_id: i32,
    /// The table's own comment.
    pub(super) comment: Option<String>,
}

impl Mark {
    pub(super) fn text(&self) -> String {
        let mut text = format!("{MARK}{} to {}", self.first_id, self.last_id);
        if let Some(comment) = &self.comment {
            text.push_str(MARK_COMMENT);
            text.push_str(comment);
        }
        text
    }

    fn parse(text: &str) -> Option<Mark> {
        let rest = text.strip_prefix(MARK)?;
        let (ids, comment) = match rest.split_once(MARK_COMMENT) {
            Some((ids, comment)) => (ids, Some(comment.to_owned())),
            None => (rest, None),
        };
        let (first, last) = ids.split_once(" to ")?;
        Some(Mark {
            first_id: first.parse().ok()?,
            last_id: last.parse().ok()?,
            comment,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_being_written_and_read() {
        for comment in [None, Some("our shoes; comment: it's 'fine'".to_owned())] {
            let mark = Mark {
                first_id: 1,
                last_id: 20,
                comment,
            };
            assert_eq!(Mark::parse(&mark.text()), Some(mark));
        }
        assert_eq!(Mark::parse("our shoes"), None);
    }
}
