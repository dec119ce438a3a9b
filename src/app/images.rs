//! A row of `shoe_images` as JSON: rendering in the API's key order, and reading a request's body strictly.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};

use crate::store::{Draft, MEDIA_COLUMNS, MEDIA_MAX_CHARS, Media, RowId, ShoeImages};

/// A shoe's rows as a JSON array; `[]` where there are none.
pub fn render_rows(rows: &[ShoeImages]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + rows.len() * 512);
    out.push(b'[');
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        render_into(&mut out, row);
    }
    out.push(b']');
    out
}

/// One row as a JSON object: id, shoe_id, img1 … img7, vid1, vid2.
pub fn render_row(row: &ShoeImages) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    render_into(&mut out, row);
    out
}

fn render_into(out: &mut Vec<u8>, row: &ShoeImages) {
    let mut digits = itoa::Buffer::new();
    out.extend_from_slice(b"{\"id\":");
    match &row.id {
        RowId::Number(number) => out.extend_from_slice(digits.format(*number).as_bytes()),
        RowId::Text(text) => {
            // None of its characters needs an escape.
            out.push(b'"');
            out.extend_from_slice(text.as_str().as_bytes());
            out.push(b'"');
        }
    }
    out.extend_from_slice(b",\"shoe_id\":");
    match row.shoe_id {
        Some(shoe_id) => out.extend_from_slice(digits.format(shoe_id).as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    for (column, value) in MEDIA_COLUMNS.iter().zip(&row.media) {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(column.as_bytes());
        out.extend_from_slice(b"\":");
        match value {
            // Writing a string to a Vec can't fail, neither as JSON nor as IO.
            Some(text) => drop(serde_json::to_writer(&mut *out, text)),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}

/// What is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyError {
    /// Not one JSON object: syntax, truncation, encoding, something behind it.
    Syntax(String),
    /// A field that must be there is not.
    Missing(&'static str),
    /// A field that stands there twice.
    Repeated(&'static str),
    /// A field that rows don't have; the name, shortened.
    Unknown(String),
    /// A field with a value that it can't have, and what it can.
    Invalid(&'static str, String),
}

/// Reads the body of a POST, or of a PUT to `id`: one flat object, all fields known and none twice. Media that are
/// absent are null. A PUT may carry the row's own `id`, so that what GET answered can be sent back.
///
/// # Errors
/// The first thing that is wrong. Nesting is refused where it begins, so depth costs no stack.
pub fn read_draft(body: &[u8], id: Option<&RowId>) -> Result<Draft, BodyError> {
    let mut wrong = None;
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = json
        .deserialize_map(DraftVisitor {
            id,
            wrong: &mut wrong,
        })
        .and_then(|draft| json.end().map(|()| draft));
    match (read, wrong) {
        (_, Some(wrong)) => Err(wrong),
        (Ok(draft), None) => Ok(draft),
        (Err(error), None) => Err(BodyError::Syntax(explain(&error))),
    }
}

/// serde_json's own words and place; its texts quote no more than a token's kind.
fn explain(error: &serde_json::Error) -> String {
    if error.is_data() {
        "the body must be one JSON object".to_owned()
    } else {
        error.to_string()
    }
}

/// Reads the fields; what is wrong with one goes to `wrong`, since serde's errors carry only text.
struct DraftVisitor<'w> {
    id: Option<&'w RowId>,
    wrong: &'w mut Option<BodyError>,
}

/// Where a field goes.
enum Field {
    Id,
    ShoeId,
    Media(usize),
}

impl Field {
    fn named(name: &str) -> Option<Self> {
        match name {
            "id" => Some(Field::Id),
            "shoe_id" => Some(Field::ShoeId),
            _ => MEDIA_COLUMNS
                .iter()
                .position(|column| *column == name)
                .map(Field::Media),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Field::Id => "id",
            Field::ShoeId => "shoe_id",
            Field::Media(index) => MEDIA_COLUMNS[*index],
        }
    }
}

impl<'de> Visitor<'de> for DraftVisitor<'_> {
    type Value = Draft;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Draft, A::Error> {
        let DraftVisitor { id, wrong } = self;
        let mut refuse = |error: BodyError| {
            wrong.get_or_insert(error);
            <A::Error as de::Error>::custom("refused")
        };
        let mut id_seen = false;
        let mut shoe_id: Option<i32> = None;
        let mut media: Media = Default::default();
        let mut media_seen = [false; MEDIA_COLUMNS.len()];
        while let Some(name) = map.next_key::<String>()? {
            let field = match Field::named(&name) {
                Some(Field::Id) if id.is_none() => {
                    return Err(refuse(BodyError::Invalid(
                        "id",
                        "is given by the server; leave it out".to_owned(),
                    )));
                }
                Some(field) => field,
                None => return Err(refuse(BodyError::Unknown(name.chars().take(64).collect()))),
            };
            let seen = match &field {
                Field::Id => std::mem::replace(&mut id_seen, true),
                Field::ShoeId => shoe_id.is_some(),
                Field::Media(index) => std::mem::replace(&mut media_seen[*index], true),
            };
            if seen {
                return Err(refuse(BodyError::Repeated(field.name())));
            }
            let mut nested = false;
            let value = match map.next_value_seed(ScalarSeed {
                nested: &mut nested,
            }) {
                Ok(value) => value,
                Err(_) if nested => {
                    let why = "must be a plain value, not an array or an object".to_owned();
                    return Err(refuse(BodyError::Invalid(field.name(), why)));
                }
                // A number beyond what a float holds (1e400) never reaches the seed, and only the text tells.
                Err(error) if error.to_string().starts_with("number out of range") => {
                    Scalar::BigNumber
                }
                Err(error) => return Err(error),
            };
            match (&field, value) {
                (Field::Id, value) if id.is_some_and(|id| value.is_id(id)) => {}
                (Field::Id, _) => {
                    return Err(refuse(BodyError::Invalid(
                        "id",
                        "must be the id in the path".to_owned(),
                    )));
                }
                (Field::ShoeId, Scalar::Integer(number)) => match i32::try_from(number) {
                    Ok(number) => shoe_id = Some(number),
                    Err(_) => {
                        return Err(refuse(BodyError::Invalid(
                            "shoe_id",
                            OUT_OF_RANGE.to_owned(),
                        )));
                    }
                },
                (Field::ShoeId, Scalar::BigNumber) => {
                    return Err(refuse(BodyError::Invalid(
                        "shoe_id",
                        OUT_OF_RANGE.to_owned(),
                    )));
                }
                (Field::ShoeId, _) => {
                    return Err(refuse(BodyError::Invalid(
                        "shoe_id",
                        "must be an integer".to_owned(),
                    )));
                }
                (Field::Media(index), Scalar::Text(text)) => match check_media(&text) {
                    Ok(()) => media[*index] = Some(text),
                    Err(why) => return Err(refuse(BodyError::Invalid(field.name(), why))),
                },
                (Field::Media(_), Scalar::Null) => {}
                (Field::Media(_), _) => {
                    return Err(refuse(BodyError::Invalid(
                        field.name(),
                        "must be a string or null".to_owned(),
                    )));
                }
            }
        }
        match shoe_id {
            Some(shoe_id) => Ok(Draft { shoe_id, media }),
            None => Err(refuse(BodyError::Missing("shoe_id"))),
        }
    }
}

/// What an integer of the schema can hold.
pub const OUT_OF_RANGE: &str = "must be between -2147483648 and 2147483647";

fn check_media(text: &str) -> Result<(), String> {
    let length = text.chars().count();
    if length > MEDIA_MAX_CHARS {
        return Err(format!(
            "has {length} characters; the longest has {MEDIA_MAX_CHARS}"
        ));
    }
    if text.contains('\0') {
        return Err("holds a NUL character, which no database text can".to_owned());
    }
    Ok(())
}

/// A value without structure.
enum Scalar {
    Null,
    Integer(i64),
    /// A number beyond 64 bits.
    BigNumber,
    Other,
    Text(String),
}

impl Scalar {
    /// Whether it is this id: a number is not the text of its digits.
    fn is_id(&self, id: &RowId) -> bool {
        match (self, id) {
            (Scalar::Integer(number), RowId::Number(id)) => *number == i64::from(*id),
            (Scalar::Text(text), RowId::Text(id)) => text == id.as_str(),
            _ => false,
        }
    }
}

/// Reads a [`Scalar`]. Arrays and objects are refused at their first byte, which `nested` tells.
struct ScalarSeed<'n> {
    nested: &'n mut bool,
}

impl<'de> DeserializeSeed<'de> for ScalarSeed<'_> {
    type Value = Scalar;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ScalarSeed<'_> {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, an integer or null")
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(i64::try_from(number).map_or(Scalar::BigNumber, Scalar::Integer))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
        // serde_json reads an integer beyond 64 bits as a float; one with a fraction is no integer at all.
        let whole = number.fract() == 0.0 && number.abs() >= 9e15;
        Ok(if whole {
            Scalar::BigNumber
        } else {
            Scalar::Other
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(text))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        *self.nested = true;
        Err(de::Error::custom("nested"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Scalar, A::Error> {
        *self.nested = true;
        Err(de::Error::custom("nested"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::TextId;

    fn row() -> ShoeImages {
        let mut media: Media = Default::default();
        media[0] = Some("a\"b".to_owned());
        ShoeImages {
            id: 1.into(),
            shoe_id: None,
            media,
        }
    }

    #[test]
    fn keys_stand_in_the_order_of_the_api() {
        let json = r#"{"id":1,"shoe_id":null,"img1":"a\"b","img2":null,"img3":null,"img4":null,"img5":null,"img6":null,"img7":null,"vid1":null,"vid2":null}"#;
        assert_eq!(String::from_utf8_lossy(&render_row(&row())), json);
        assert_eq!(render_rows(&[]), b"[]");
        assert_eq!(
            render_rows(&[row(), row()]),
            format!("[{json},{json}]").into_bytes()
        );

        let id = TextId::parse("018f4d1e-7b6a-7c3e-9f10-2a3b4c5d6e7f").expect("an id");
        let named = ShoeImages {
            id: id.clone().into(),
            ..row()
        };
        let json = json.replace(r#""id":1,"#, &format!(r#""id":"{id}","#));
        assert_eq!(String::from_utf8_lossy(&render_row(&named)), json);
        let parsed: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(parsed["id"], id.as_str());
    }

    #[test]
    fn a_draft_is_read_strictly() {
        let read = |body: &str| read_draft(body.as_bytes(), None);
        let draft = read(r#"{"shoe_id": -7, "vid2": "x", "img1": null}"#).expect("fine");
        assert_eq!(
            (draft.shoe_id, draft.media[8].as_deref(), &draft.media[0]),
            (-7, Some("x"), &None)
        );
        assert_eq!(read("{}"), Err(BodyError::Missing("shoe_id")));
        assert_eq!(
            read(r#"{"shoe_id":1,"shoe_id":1}"#),
            Err(BodyError::Repeated("shoe_id"))
        );
        assert_eq!(
            read(r#"{"shoe_id":1,"img1":null,"img1":null}"#),
            Err(BodyError::Repeated("img1"))
        );
        assert_eq!(
            read(r#"{"shoe_id":1,"img8":null}"#),
            Err(BodyError::Unknown("img8".to_owned()))
        );
        for wrong in [
            "2147483648",
            "-2147483649",
            "1e30",
            "1e400",
            "99999999999999999999",
        ] {
            let body = format!(r#"{{"shoe_id":{wrong}}}"#);
            assert_eq!(
                read(&body),
                Err(BodyError::Invalid("shoe_id", OUT_OF_RANGE.to_owned())),
                "{wrong}"
            );
        }
        for wrong in ["1.5", "\"1\"", "null", "true", "[1]", "{\"a\":1}"] {
            let body = format!(r#"{{"shoe_id":{wrong}}}"#);
            assert!(
                matches!(read(&body), Err(BodyError::Invalid("shoe_id", _))),
                "{wrong}"
            );
        }
        assert!(matches!(
            read(r#"{"shoe_id":1,"img1":3}"#),
            Err(BodyError::Invalid("img1", _))
        ));
        assert!(matches!(
            read(r#"{"shoe_id":1,"img1":"\u0000"}"#),
            Err(BodyError::Invalid("img1", _))
        ));
        let longest = "\u{1f45f}".repeat(255);
        assert!(read(&format!(r#"{{"shoe_id":1,"img1":"{longest}"}}"#)).is_ok());
        assert!(matches!(
            read(&format!(r#"{{"shoe_id":1,"img1":"{longest}x"}}"#)),
            Err(BodyError::Invalid("img1", _))
        ));
        for syntax in [
            "",
            "{",
            "[]",
            "1",
            r#"{"shoe_id":1} x"#,
            r#"{"shoe_id":1"#,
            "\u{feff}{}",
            r#"{"shoe_id":1,}"#,
        ] {
            assert!(
                matches!(read(syntax), Err(BodyError::Syntax(_))),
                "{syntax:?}: {:?}",
                read(syntax)
            );
        }
        assert!(matches!(
            read_draft(b"{\"shoe_id\":1,\"img1\":\"\xff\"}", None),
            Err(BodyError::Syntax(_))
        ));
        let deep = format!("{{\"shoe_id\":{}", "[".repeat(60_000));
        assert!(matches!(read(&deep), Err(BodyError::Invalid("shoe_id", _))));
    }

    #[test]
    fn a_put_may_carry_its_own_id() {
        let number = RowId::Number(4);
        let text = |text| RowId::from(TextId::parse(text).expect("an id"));
        let put = |id: &str, own: Option<&RowId>| {
            read_draft(format!(r#"{{"id":{id},"shoe_id":1}}"#).as_bytes(), own)
        };
        assert!(put("4", Some(&number)).is_ok());
        assert!(put(r#""4""#, Some(&text("4"))).is_ok());
        assert!(put(r#""a-\u0062""#, Some(&text("a-b"))).is_ok());
        for (id, own) in [
            ("5", Some(&number)),
            ("4.0", Some(&number)),
            (r#""4""#, Some(&number)),
            ("4294967300", Some(&number)),
            ("null", Some(&number)),
            ("4", Some(&text("4"))),
            (r#""A""#, Some(&text("a"))),
            ("null", Some(&text("null"))),
            ("[4]", Some(&text("4"))),
            ("4", None),
            (r#""4""#, None),
        ] {
            let read = put(id, own);
            assert!(
                matches!(read, Err(BodyError::Invalid("id", _))),
                "{id} for {own:?}: {read:?}"
            );
        }
    }
}
