//! The stores that a test body runs over: SQLite, and PostgreSQL or CouchDB with Redis in front. Each test gets an empty
//! `shoe_images` of its own, made by `canvas-cluster migrate`.

use super::canvas::Canvas;
use super::couchdb::{CouchDatabase, CouchDb};
use super::dir::Dir;
use super::postgres::{Database, Postgres};
use super::redis::Redis;
use super::server::Server;
use super::shoes::{Id, list_target};

pub struct Backend {
    pub dir: Dir,
    pub database_url: String,
    pub redis_url: Option<String>,
    /// Another one than by default: in a cluster, which has no databases, what keeps tests apart.
    pub redis_prefix: Option<String>,
    pub kind: Kind,
    /// The URL leads to a pooler in transaction mode.
    pub pooled: bool,
}

pub enum Kind {
    Sqlite,
    Postgres(Database),
    CouchDb(CouchDatabase),
}

impl Backend {
    pub fn sqlite() -> Self {
        let backend = Backend::unmigrated_sqlite();
        backend.migrate();
        backend
    }

    pub fn postgres_redis() -> Self {
        let backend = Backend::unmigrated_postgres_redis();
        backend.migrate();
        backend
    }

    pub fn unmigrated_sqlite() -> Self {
        let dir = Dir::new();
        let database_url = format!("sqlite:{}", dir.join("shoes.db").display());
        Backend {
            dir,
            database_url,
            redis_url: None,
            redis_prefix: None,
            kind: Kind::Sqlite,
            pooled: false,
        }
    }

    pub fn unmigrated_postgres_redis() -> Self {
        let mut backend = Backend::on(Postgres::shared(), Some(Redis::shared()));
        // Dozens of connections begin at once on a small machine; by default one that takes 2 s counts as an outage.
        backend.database_url.push_str("?connect_timeout=15");
        backend
    }

    /// On servers that the test may break. Not yet migrated.
    pub fn on(postgres: &Postgres, redis: Option<&Redis>) -> Self {
        let database = postgres.database();
        Backend {
            dir: Dir::new(),
            database_url: database.url(),
            redis_url: redis.map(Redis::url),
            redis_prefix: None,
            kind: Kind::Postgres(database),
            pooled: false,
        }
    }

    pub fn couchdb_redis() -> Self {
        let backend = Backend::on_couchdb(CouchDb::shared(), Some(Redis::shared()));
        backend.migrate();
        backend
    }

    /// On servers that the test may break. Not yet migrated.
    pub fn on_couchdb(couchdb: &CouchDb, redis: Option<&Redis>) -> Self {
        let database = couchdb.database();
        Backend {
            dir: Dir::new(),
            database_url: database.url(),
            redis_url: redis.map(Redis::url),
            redis_prefix: None,
            kind: Kind::CouchDb(database),
            pooled: false,
        }
    }

    /// The database of one that is PostgreSQL's.
    #[track_caller]
    pub fn postgres(&self) -> &Database {
        match &self.kind {
            Kind::Postgres(database) => database,
            Kind::Sqlite | Kind::CouchDb(_) => panic!("not PostgreSQL"),
        }
    }

    /// The database of one that is CouchDB's.
    #[track_caller]
    pub fn couch(&self) -> &CouchDatabase {
        match &self.kind {
            Kind::CouchDb(database) => database,
            Kind::Sqlite | Kind::Postgres(_) => panic!("not CouchDB"),
        }
    }

    pub fn migrate(&self) {
        let mut tool = self.tool("migrate");
        if !self.database_url.contains('?') && matches!(self.kind, Kind::Postgres(_)) {
            // No test is about how soon a busy machine lets a tool in.
            let patient = format!("{}?connect_timeout=15", self.database_url);
            tool = tool.env("CANVAS_DATABASE_URL", patient);
        }
        tool.run().expect(0);
    }

    /// A call of the binary with this database in the environment.
    pub fn tool(&self, command: &str) -> Canvas {
        Canvas::new(self.dir.path())
            .arg(command)
            .env("CANVAS_DATABASE_URL", &self.database_url)
    }

    /// A call that serves this database. The URLs go through the environment, as the README advises. Requests are
    /// more patient than by default: a busy machine is no reason for a 503 in a test that is not about time.
    pub fn canvas(&self) -> Canvas {
        let canvas = Canvas::new(self.dir.path())
            .env("CANVAS_DATABASE_URL", &self.database_url)
            .env("CANVAS_REQUEST_TIMEOUT", "15s")
            // There are hundreds of reloads in these tests, and steps that follow at once meet each other more often.
            .env("CANVAS_ROLL_PAUSE", "0s")
            .env("CANVAS_DATABASE_POOLER", self.pooled.to_string());
        let canvas = match &self.redis_prefix {
            Some(prefix) => canvas.env("CANVAS_REDIS_PREFIX", prefix),
            None => canvas,
        };
        match &self.redis_url {
            Some(url) => canvas.env("CANVAS_REDIS_URL", url),
            None => canvas,
        }
    }

    /// A running server with this many workers.
    #[track_caller]
    pub fn serve(&self, workers: usize) -> Server {
        self.canvas().workers(workers).start()
    }

    /// Two workers of one lane each, warmed: the lane has its connection, and will hold the first batch while the
    /// others wait behind it.
    pub fn serve_on_one_warm_lane(&self) -> Server {
        let server = self
            .canvas()
            .workers(2)
            .args(["--lanes", "1", "--request-timeout", "20s"])
            .start();
        for (_, mut client) in server.one_client_per_worker() {
            client
                .get(&list_target(1000))
                .expect("an answer")
                .expect(200);
        }
        server
    }

    /// How many rows there are, past the server.
    #[track_caller]
    pub fn rows(&self) -> i64 {
        match &self.kind {
            Kind::CouchDb(database) => database.count(),
            Kind::Sqlite | Kind::Postgres(_) => self.count("SELECT count(*) FROM shoe_images"),
        }
    }

    /// Whether there is a row with this id, past the server.
    #[track_caller]
    pub fn has_row(&self, id: Id) -> bool {
        match &self.kind {
            Kind::CouchDb(database) => database.ask("GET", &format!("/{id}"), "").0 == 200,
            Kind::Sqlite | Kind::Postgres(_) => {
                let query = format!("SELECT count(*) FROM shoe_images WHERE id = {id}");
                self.count(&query) == 1
            }
        }
    }

    /// Runs a query that answers with one number, past the server. Takes SQL.
    #[track_caller]
    pub fn count(&self, query: &str) -> i64 {
        match &self.kind {
            Kind::Sqlite => self
                .open_sqlite()
                .query_row(query, [], |row| row.get(0))
                .expect("a number from SQLite"),
            Kind::Postgres(database) => database
                .connect()
                .query_one(query, &[])
                .expect("a row from PostgreSQL")
                .get(0),
            Kind::CouchDb(_) => panic!("CouchDB has no SQL: {query}"),
        }
    }

    /// Runs statements past the server.
    #[track_caller]
    pub fn execute(&self, statements: &str) {
        match &self.kind {
            Kind::Sqlite => self
                .open_sqlite()
                .execute_batch(statements)
                .expect("statements for SQLite"),
            Kind::Postgres(database) => database
                .connect()
                .batch_execute(statements)
                .expect("statements for PostgreSQL"),
            Kind::CouchDb(_) => panic!("CouchDB has no SQL: {statements}"),
        }
    }

    /// A connection to the SQLite file itself.
    pub fn open_sqlite(&self) -> rusqlite::Connection {
        let path = self
            .database_url
            .strip_prefix("sqlite:")
            .expect("an SQLite URL");
        let connection = rusqlite::Connection::open(path).expect("the test's SQLite file");
        connection
            .busy_timeout(super::wait::PATIENCE)
            .expect("a busy timeout");
        connection
    }
}
