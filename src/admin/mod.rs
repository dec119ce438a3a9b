//! The admin listener's service: metrics, status and the live page of the whole server, told by whichever worker is asked.
//! All of it comes from the scoreboard, so no worker asks another one and none is waited for. Called by `worker::desk`
//! through `http::connection`; what is asked here is counted apart from the public requests.

pub mod metrics;
mod negotiation;
mod page;
mod snapshot;

use self::negotiation::Format;
use self::snapshot::Snapshot;
use crate::app::document;
use crate::http::context::Context;
use crate::http::head::{Head, Method, Target};
use crate::http::request_id::RequestId;
use crate::http::response::Response;
use crate::http::service::Service;
use crate::scoreboard::counters::Counter;
use crate::scoreboard::{Row, Scoreboard};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// The service of a worker.
pub struct Admin {
    scoreboard: Scoreboard,
    /// The worker's own row.
    row: Row,
    /// What describes the API is served here.
    describes: bool,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    File(&'static page::File),
    Metrics(Format),
    Status,
    Alive,
    Document(Document),
}

/// What describes the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    OpenApi,
    Page,
    Style,
}

impl Admin {
    /// `describes` says whether what describes the API is served here. Not on a coroutine, since it is laid out at once.
    pub fn new(scoreboard: Scoreboard, row: Row, describes: bool) -> Self {
        if describes {
            document::docs();
        }
        Admin {
            scoreboard,
            row,
            describes,
        }
    }

    /// Answers with what `render` makes of how the server is.
    fn show(&self, content_type: &'static str, render: impl Fn(&Snapshot) -> String) -> Response {
        // Asked afterwards: what was read is then from before whatever another image of the program goes on from, and no count
        // ever goes back.
        let snapshot = Snapshot::take(self.scoreboard).filter(|_| !self.scoreboard.is_silent());
        match snapshot {
            Some(snapshot) => Response::new(200).body(content_type, render(&snapshot)),
            None => plain(
                503,
                "the server starts or becomes another program; ask again",
            )
            .header("Retry-After", "1"),
        }
    }
}

/// What the head asks for.
fn route(head: &Head<'_>, describes: bool) -> Result<Call, Box<Response>> {
    let Target::Path { path, .. } = head.target else {
        return Err(Box::new(plain(404, "ask for a path")));
    };
    let call = match path {
        "/metrics" => Call::Metrics(negotiation::choose(head.accept)),
        "/status.json" => Call::Status,
        "/healthz" => Call::Alive,
        "/openapi.json" if describes => Call::Document(Document::OpenApi),
        "/docs" if describes => Call::Document(Document::Page),
        "/docs.css" if describes => Call::Document(Document::Style),
        _ => Call::File(page::file(path).ok_or_else(|| {
            Box::new(plain(
                404,
                "there are /, /metrics, /status.json and /healthz",
            ))
        })?),
    };
    match head.method {
        Method::Get | Method::Head => Ok(call),
        _ => {
            let refused = plain(405, "nothing can be changed here, only looked at");
            Err(Box::new(refused.header("Allow", "GET, HEAD")))
        }
    }
}

fn plain(status: u16, why: &str) -> Response {
    Response::new(status).body(TEXT, format!("{why}\n"))
}

/// What every answer has: nothing here is to be kept, or to be shown within another site.
fn dress(response: Response) -> Response {
    response
        .header("Cache-Control", "no-store")
        .header("Cross-Origin-Resource-Policy", "same-origin")
}

impl Service for Admin {
    type Call = Call;

    fn admit(&self, head: &Head<'_>, _: &RequestId) -> Result<Call, Box<Response>> {
        self.row.count(Counter::AdminRequests);
        route(head, self.describes).map_err(|refused| Box::new(dress(*refused)))
    }

    fn answer(&self, call: Call, _: &[u8], _: &Context) -> Response {
        dress(match call {
            Call::File(file) => file.response(),
            Call::Metrics(format) => self.show(format.content_type(), |snapshot| {
                metrics::render(snapshot, format)
            }),
            Call::Status => self.show(JSON, Snapshot::to_json),
            Call::Alive => Response::new(200).body(JSON, "{\"status\":\"alive\"}"),
            Call::Document(Document::OpenApi) => Response::new(200).body(JSON, document::openapi()),
            Call::Document(Document::Page) => Response::new(200)
                .body("text/html; charset=utf-8", document::docs())
                .header("Content-Security-Policy", document::POLICY),
            Call::Document(Document::Style) => {
                Response::new(200).body("text/css; charset=utf-8", document::style())
            }
        })
    }

    fn refuse(&self, status: u16, why: &str, _: &RequestId) -> Response {
        dress(plain(status, why))
    }

    fn fault(&self, _: &RequestId) -> Response {
        dress(plain(
            500,
            "the request could not be finished; the log has the reason",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head;
    use crate::http::limits::Limits;

    fn asked(line: &str) -> Result<Call, u16> {
        let text = format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let head = head::parse(text.as_bytes(), &Limits::default()).expect("a good head");
        route(&head, false).map_err(|refused| refused.status())
    }

    #[test]
    fn paths_are_few_and_only_to_be_looked_at() {
        let metrics = Ok(Call::Metrics(Format::Prometheus));
        assert_eq!(asked("GET /metrics"), metrics);
        assert_eq!(asked("HEAD /metrics?name=x"), metrics);
        assert_eq!(asked("GET /status.json"), Ok(Call::Status));
        assert_eq!(asked("GET /healthz"), Ok(Call::Alive));
        for path in ["/", "/live.css", "/live.js"] {
            assert!(matches!(asked(&format!("GET {path}")), Ok(Call::File(_))));
        }
        for path in ["/index.html", "//", "/live", "/metrics/", "/api/images"] {
            assert_eq!(asked(&format!("GET {path}")), Err(404), "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"] {
            assert_eq!(asked(&format!("{method} /status.json")), Err(405));
        }
        assert_eq!(asked("OPTIONS *"), Err(404));
    }

    #[test]
    fn what_the_master_has_not_told_is_not_made_up() {
        let board = Scoreboard::new().expect("shared memory");
        let admin = Admin::new(board, board.row(0), false);
        let ask = |admin: &Admin| admin.answer(Call::Status, &[], &Context::default());
        assert_eq!(ask(&admin).status(), 503);
        let board = snapshot::tests::board();
        let admin = Admin::new(board, board.row(0), false);
        assert_eq!(ask(&admin).status(), 200);
        board.silence();
        assert_eq!(ask(&admin).status(), 503);
        board.speak();
        assert_eq!(ask(&admin).status(), 200);
    }
}
