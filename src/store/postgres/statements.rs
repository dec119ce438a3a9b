//! The statements of a session: prepared once, or, where a pooler hands each transaction to another server's session, said anew
//! each time with the types of their parameters.

use futures_util::future::join3;
use postgres::types::{ToSql, Type};
use postgres::{Error, Row, Statement};
use tokio_postgres::Client;

/// The statements of this program that a session has prepared.
pub(crate) struct Statements {
    known: Vec<(&'static str, Statement)>,
    /// None may be prepared.
    pooled: bool,
}

/// A statement that can be carried out.
pub(super) enum Ready {
    Prepared(Statement),
    Said(&'static str, Vec<Type>),
}

impl Statements {
    pub(super) fn new(pooled: bool) -> Self {
        Statements {
            known: Vec::new(),
            pooled,
        }
    }

    /// All that is known, for another owner of the same connection.
    pub(super) fn take(&mut self) -> Self {
        Statements {
            known: std::mem::take(&mut self.known),
            pooled: self.pooled,
        }
    }

    /// The prepared form of `sql`, made at its first use; or `sql` with the types of its parameters.
    pub(super) async fn get(
        &mut self,
        client: &Client,
        sql: &'static str,
        types: &[Type],
    ) -> Result<Ready, Error> {
        if self.pooled {
            return Ok(Ready::Said(sql, types.to_vec()));
        }
        // Half a dozen entries, compared by address first: no hashing needed.
        let same = |known: &str| std::ptr::eq(known, sql) || known == sql;
        if let Some((_, statement)) = self.known.iter().find(|(known, _)| same(known)) {
            return Ok(Ready::Prepared(statement.clone()));
        }
        let statement = client.prepare_typed(sql, types).await?;
        self.known.push((sql, statement.clone()));
        Ok(Ready::Prepared(statement))
    }
}

/// A parameter of a statement.
type Param<'p> = &'p (dyn ToSql + Sync);

impl Ready {
    pub(super) async fn query(
        &self,
        client: &Client,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Error> {
        match self {
            Ready::Prepared(statement) => client.query(statement, params).await,
            Ready::Said(sql, types) => client.query_typed(sql, &typed(params, types)).await,
        }
    }

    pub(super) async fn query_one(
        &self,
        client: &Client,
        params: &[Param<'_>],
    ) -> Result<Row, Error> {
        match self {
            Ready::Prepared(statement) => client.query_one(statement, params).await,
            Ready::Said(sql, types) => client.query_typed_one(sql, &typed(params, types)).await,
        }
    }

    pub(super) async fn query_opt(
        &self,
        client: &Client,
        params: &[Param<'_>],
    ) -> Result<Option<Row>, Error> {
        match self {
            Ready::Prepared(statement) => client.query_opt(statement, params).await,
            Ready::Said(sql, types) => client.query_typed_opt(sql, &typed(params, types)).await,
        }
    }
}

fn typed<'p>(params: &[Param<'p>], types: &[Type]) -> Vec<(Param<'p>, Type)> {
    params.iter().copied().zip(types.iter().cloned()).collect()
}

/// Carries `work` out in a transaction that `begin` opens, if there must be one; all is sent together.
pub(super) async fn within<T>(
    client: &Client,
    begin: Option<&str>,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let Some(begin) = begin else {
        return work.await;
    };
    let begin = client.batch_execute(begin);
    let (begun, done, ended) = join3(begin, work, client.batch_execute("COMMIT")).await;
    begun?;
    let value = done?;
    ended?;
    Ok(value)
}
