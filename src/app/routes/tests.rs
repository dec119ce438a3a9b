//! Paths of rows, over stores that number them and over stores that name them.

use super::*;
use crate::http::head;
use crate::http::limits::Limits;
use crate::http::response::{Framing, Persistence};
use crate::store::{Media, ShoeImages};

/// A store of one row.
struct One(RowId);

impl Backend for One {
    fn ids(&self) -> IdKind {
        match self.0 {
            RowId::Number(_) => IdKind::Number,
            RowId::Text(_) => IdKind::Text,
        }
    }

    fn shoe(
        &self,
        _: i32,
        page: &dyn Fn(Bytes) -> Page,
        _: &Context,
    ) -> Result<Arc<Page>, Failure> {
        Ok(Arc::new(page(Bytes::from_static(b"[]"))))
    }

    fn row(&self, id: &RowId, _: &Context) -> Result<Option<Bytes>, Failure> {
        Ok((*id == self.0).then(|| Bytes::from_static(b"{}")))
    }

    fn insert(&self, draft: Draft, _: &Context) -> Result<ShoeImages, Failure> {
        Ok(ShoeImages {
            id: self.0.clone(),
            shoe_id: Some(draft.shoe_id),
            media: Media::default(),
        })
    }

    fn replace(
        &self,
        id: &RowId,
        draft: Draft,
        context: &Context,
    ) -> Result<Option<ShoeImages>, Failure> {
        (*id == self.0)
            .then(|| self.insert(draft, context))
            .transpose()
    }

    fn delete(&self, id: &RowId, _: &Context) -> Result<bool, Failure> {
        Ok(*id == self.0)
    }

    fn ready(&self, _: &Context) -> Result<(), Failure> {
        Ok(())
    }

    fn draining(&self) -> bool {
        false
    }
}

fn over(id: RowId) -> App<One> {
    let manners = Manners::new(std::time::Duration::ZERO, Vec::new());
    App::new(One(id), WriteRule::Anyone, manners)
}

fn call(app: &App<One>, method: &str, path: &str, body: &str) -> Response {
    let bytes = format!(
        "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let head = head::parse(bytes.as_bytes(), &Limits::default()).expect("a good head");
    let context = Context::of(&head);
    match app.admit(&head, &context.id) {
        Ok(admitted) => app.answer(admitted, body.as_bytes(), &context),
        Err(response) => *response,
    }
}

/// The statuses of GET, PUT and DELETE of a row.
fn statuses(app: &App<One>, id: &str) -> [u16; 3] {
    ["GET", "PUT", "DELETE"].map(|method| {
        let path = format!("/api/images/{id}");
        call(app, method, &path, r#"{"shoe_id":7}"#).status()
    })
}

const THERE: [u16; 3] = [200, 200, 204];
const NOT_THERE: [u16; 3] = [404; 3];

#[test]
fn a_path_names_a_row_as_its_store_does() {
    const UUID: &str = "018f4d1e-7b6a-7c3e-9f10-2a3b4c5d6e7f";
    let named = over(TextId::parse(UUID).expect("an id").into());
    let numbered = over(7.into());
    let digits = over(TextId::parse("7").expect("an id").into());

    assert_eq!(statuses(&named, UUID), THERE);
    assert_eq!(statuses(&named, &UUID.replace('-', "%2D")), THERE);
    assert_eq!(statuses(&numbered, "7"), THERE);
    assert_eq!(statuses(&numbered, "%37"), THERE);
    assert_eq!(statuses(&digits, "7"), THERE);
    for id in ["07", "7.0", "-7", "77", "7x", "_7", "7%20", "7%C3%A9"] {
        assert_eq!(statuses(&named, id), NOT_THERE, "{id}");
        assert_eq!(statuses(&digits, id), NOT_THERE, "{id}");
    }
    assert_eq!(statuses(&named, &UUID.to_uppercase()), NOT_THERE);
    for id in ["_all_docs", "_design%2Fshoes", "..", "%2e%2e", "a/b"] {
        assert_eq!(statuses(&named, id), NOT_THERE, "{id}");
    }
    assert_eq!(statuses(&named, &"a".repeat(65)), NOT_THERE);
    assert_eq!(statuses(&numbered, UUID), NOT_THERE);
    // As ever: digits with zeros before them are the same number.
    assert_eq!(statuses(&numbered, "07"), THERE);
    for id in ["7.0", "+7", "2147483648", "7x"] {
        assert_eq!(statuses(&numbered, id), NOT_THERE, "{id}");
    }
}

#[test]
fn a_put_carries_the_id_of_its_path_or_none() {
    let named = over(TextId::parse("a-1").expect("an id").into());
    let put = |id: &str| {
        let body = format!(r#"{{"id":{id},"shoe_id":7}}"#);
        call(&named, "PUT", "/api/images/a-1", &body).status()
    };
    assert_eq!(
        (put(r#""a-1""#), put(r#""a-2""#), put("1")),
        (200, 400, 400)
    );
}

#[test]
fn where_a_new_row_is_stands_in_its_answer() {
    for (id, shown) in [
        (RowId::from(7), "7"),
        (TextId::parse("a-1").expect("an id").into(), "a-1"),
    ] {
        let answer = call(&over(id), "POST", "/api/images/", r#"{"shoe_id":7}"#);
        let framing = Framing {
            date: b"Sun, 06 Nov 1994 08:49:37 GMT",
            head_only: false,
            connection: Persistence::KeepAlive,
        };
        let mut out = Vec::new();
        answer.encode(&framing, &mut out);
        let out = String::from_utf8(out).expect("text");
        assert!(out.starts_with("HTTP/1.1 201 "), "{out}");
        let location = format!("\r\nLocation: /api/images/{shown}\r\n");
        assert!(out.contains(&location), "{out}");
    }
}
