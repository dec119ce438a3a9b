//! A hot GET without its socket: the head is found and read, the service routes it and finds the page in the worker's own cache,
//! and the answer is laid into the output and counted. What micro.rs times and instructions.rs counts.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use canvas_cluster::app::images::render_rows;
use canvas_cluster::app::manners::{Manners, Page};
use canvas_cluster::app::routes::{App, WriteRule};
use canvas_cluster::app::{Backend, Failure};
use canvas_cluster::cache::l1::{Found, L1};
use canvas_cluster::cache::trust::Trust;
use canvas_cluster::http::context::Context;
use canvas_cluster::http::head::{self, Scanner};
use canvas_cluster::http::limits::Limits;
use canvas_cluster::http::response::{Framing, Persistence};
use canvas_cluster::http::service::Service;
use canvas_cluster::scoreboard::counters::Counter;
use canvas_cluster::scoreboard::{Row, Scoreboard};
use canvas_cluster::seed::generate;
use canvas_cluster::store::{Draft, IdKind, RowId, ShoeImages};

/// What a browser's request looks like, less what only makes it longer.
pub const REQUEST: &[u8] = b"GET /api/images/?shoe_id=7 HTTP/1.1\r\n\
    Host: shop.example:1121\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Connection: keep-alive\r\n\r\n";

const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";

/// What a request takes. Without a clock it is always the same.
const TOOK: Duration = Duration::from_micros(9);

/// Room for finished answers, as the default has it.
const L1_BYTES: usize = 64 << 20;

/// A row of the table as the store gives it.
pub fn row(shoe_id: i32) -> ShoeImages {
    ShoeImages {
        id: shoe_id.into(),
        shoe_id: Some(shoe_id),
        media: generate(shoe_id).media,
    }
}

/// A cache over a board of its own, and the board.
pub fn cache() -> (L1<Arc<Page>>, Scoreboard) {
    let board = Scoreboard::new().expect("shared memory");
    let trust = Arc::new(Trust::always());
    (
        L1::new(
            L1_BYTES,
            Duration::from_secs(3600),
            board.generations(),
            trust,
        ),
        board,
    )
}

/// A backend that answers as a worker does, with rows that need no store.
pub struct Shelf {
    l1: L1<Arc<Page>>,
}

impl Backend for Shelf {
    fn ids(&self) -> IdKind {
        IdKind::Number
    }

    fn shoe(
        &self,
        shoe_id: i32,
        page: &dyn Fn(Bytes) -> Page,
        _: &Context,
    ) -> Result<Arc<Page>, Failure> {
        let stamp = match self.l1.find(shoe_id, 0) {
            Found::Answer(page) => return Ok(page),
            Found::Nothing(stamp) => stamp,
        };
        let page = Arc::new(page(render_rows(&[row(shoe_id)]).into()));
        if let Some(stamp) = stamp {
            self.l1.keep(shoe_id, page.clone(), page.size(), stamp, 0);
        }
        Ok(page)
    }

    fn row(&self, _: &RowId, _: &Context) -> Result<Option<Bytes>, Failure> {
        Ok(None)
    }

    fn insert(&self, _: Draft, _: &Context) -> Result<ShoeImages, Failure> {
        Err(Failure::Overloaded)
    }

    fn replace(&self, _: &RowId, _: Draft, _: &Context) -> Result<Option<ShoeImages>, Failure> {
        Ok(None)
    }

    fn delete(&self, _: &RowId, _: &Context) -> Result<bool, Failure> {
        Ok(false)
    }

    fn ready(&self, _: &Context) -> Result<(), Failure> {
        Ok(())
    }

    fn draining(&self) -> bool {
        false
    }
}

/// A worker's part in a hot GET.
pub struct HotPath {
    app: App<Shelf>,
    limits: Limits,
    /// Where a worker counts.
    row: Row,
}

impl HotPath {
    pub fn new() -> Self {
        let (l1, board) = cache();
        let manners = Manners::new(Duration::ZERO, Vec::new());
        HotPath {
            app: App::new(Shelf { l1 }, WriteRule::Anyone, manners),
            limits: Limits::default(),
            row: board.row(0),
        }
    }

    /// Answers [`REQUEST`], as a connection would, into `out`.
    pub fn answer(&self, out: &mut Vec<u8>) {
        self.answer_to(REQUEST, out);
    }

    /// Answers a request's head.
    pub fn answer_to(&self, request: &[u8], out: &mut Vec<u8>) {
        let length = Scanner::new()
            .scan(request, &self.limits)
            .expect("a good head")
            .expect("a whole head");
        let head = head::parse(&request[..length], &self.limits).expect("a good head");
        self.row.count(Counter::Requests);
        let context = Context::of(&head);
        let response = match self.app.admit(&head, &context.id) {
            Ok(call) => self.app.answer(call, &[], &context),
            Err(response) => *response,
        };
        let framing = Framing {
            date: DATE,
            head_only: false,
            connection: Persistence::KeepAlive,
        };
        response.encode(&framing, out);
        if let Some(counter) = Counter::of_status(response.status()) {
            self.row.count(counter);
        }
        self.row.note_latency(black_box(TOOK));
    }
}
