//! How a line of the log is written. Pure: what happened in, text out, of bounded length. What a message or a field quotes can't forge
//! a line, nor a field in the formats for programs. Takes no memory, since a signal handler writes lines too.
//!
//! ```text
//! 2026-11-25T21:30:45.123Z WARN  [4711] http: a slow request path=/api/images/ sql_ms=612.3
//! time=2026-11-25T21:30:45.123Z level=warn pid=4711 room=http msg="http: a slow request" path=/api/images/ sql_ms=612.3
//! {"time":"2026-11-25T21:30:45.123Z","level":"warn","pid":4711,"room":"http","msg":"http: a slow request","path":"/api/images/","sql_ms":612.3}
//! ```

use std::fmt::{self, Write};
use std::time::SystemTime;

use log::Level;
use log::kv::{Error, Key, Value, VisitSource, VisitValue};

use super::Line;

/// See [`super::LONGEST`].
pub const LONGEST: usize = 4096;

/// How much of a line each of these may take, in bytes as written: the message, all fields, one field's value, a name. What is longer
/// is cut and ends with [`CUT`]; a field that finds no room is left out. The rest is enough for what a line begins with.
const MESSAGE_MOST: usize = 2000;
const FIELDS_MOST: usize = 1800;
const VALUE_MOST: usize = 600;
const NAME_MOST: usize = 32;

const CUT: &str = "...";

/// The fields that every line has; no other may have these names.
const OWN_FIELDS: [&str; 5] = ["time", "level", "pid", "room", "msg"];

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    Text = 0,
    Logfmt = 1,
    Json = 2,
}

impl From<u8> for Form {
    fn from(number: u8) -> Self {
        match number {
            1 => Form::Logfmt,
            2 => Form::Json,
            _ => Form::Text,
        }
    }
}

/// Writes a line without its end; `journal`: for systemd's journal, which keeps time, level and pid itself.
pub fn write_line(out: &mut dyn Write, line: &Line<'_>, form: Form, journal: bool) -> fmt::Result {
    if journal {
        write!(out, "<{}>", priority(line.level))?;
    }
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let pid = std::process::id();
    let level = name_of(line.level);
    match form {
        Form::Text if journal => {}
        Form::Text => write!(out, "{now} {:<5} [{pid}] ", line.level)?,
        Form::Logfmt => {
            write!(out, "time={now} level={level} pid={pid} room=")?;
            Escaped::new(out, NAME_MOST, Quoting::Name).write_str(line.room)?;
            out.write_str(" msg=\"")?;
        }
        Form::Json => {
            write!(
                out,
                "{{\"time\":\"{now}\",\"level\":\"{level}\",\"pid\":{pid},\"room\":\""
            )?;
            Escaped::new(out, NAME_MOST, Quoting::Name).write_str(line.room)?;
            out.write_str("\",\"msg\":\"")?;
        }
    }
    let quoting = match form {
        Form::Text => Quoting::None,
        Form::Logfmt | Form::Json => Quoting::Quotes,
    };
    Escaped::new(out, MESSAGE_MOST, quoting).write_fmt(line.message)?;
    if form != Form::Text {
        out.write_char('"')?;
    }
    if let Some(fields) = line.fields {
        let mut writer = Fields {
            out,
            form,
            left: FIELDS_MOST,
        };
        fields.visit(&mut writer).map_err(|_| fmt::Error)?;
    }
    match form {
        Form::Json => out.write_char('}'),
        Form::Text | Form::Logfmt => Ok(()),
    }
}

/// The priorities of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

fn name_of(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Where a text stands, and so what it may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoting {
    /// To the end of a line, or to the next field.
    None,
    /// Between quotes, which JSON's escapes keep it in (RFC 8259 section 7); logfmt's readers know the same ones.
    Quotes,
    /// As a name: letters, digits and `_-.`; anything else becomes `_`.
    Name,
}

/// Writes text so that it stays where it stands, and no more than fits.
struct Escaped<'o> {
    out: &'o mut dyn Write,
    left: usize,
    quoting: Quoting,
    cut: bool,
}

impl<'o> Escaped<'o> {
    fn new(out: &'o mut dyn Write, most: usize, quoting: Quoting) -> Self {
        Escaped {
            out,
            left: most - CUT.len(),
            quoting,
            cut: false,
        }
    }

    fn put(&mut self, length: usize, text: fmt::Arguments<'_>) -> fmt::Result {
        if length > self.left {
            self.cut = true;
            return self.out.write_str(CUT);
        }
        self.left -= length;
        self.out.write_fmt(text)
    }
}

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            if self.cut {
                return Ok(());
            }
            match letter {
                _ if self.quoting == Quoting::Name && !is_name(letter) => {
                    self.put(1, format_args!("_"))?;
                }
                '\n' => self.put(2, format_args!("\\n"))?,
                '\r' => self.put(2, format_args!("\\r"))?,
                '\t' => self.put(2, format_args!("\\t"))?,
                '"' | '\\' if self.quoting == Quoting::Quotes => {
                    self.put(2, format_args!("\\{letter}"))?;
                }
                // All of them are in the basic plane.
                _ if is_unkind(letter) => self.put(6, format_args!("\\u{:04x}", letter as u32))?,
                _ => self.put(letter.len_utf8(), format_args!("{letter}"))?,
            }
        }
        Ok(())
    }
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.')
}

/// What acts on a terminal or a reader instead of being read: controls (C0, DEL, C1), the separators of lines, and what turns the
/// direction of text.
fn is_unkind(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

/// Writes the fields of a line.
struct Fields<'o> {
    out: &'o mut dyn Write,
    form: Form,
    left: usize,
}

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let mut kind = ValueKind::Text;
        value.visit(&mut kind)?;
        if kind == ValueKind::Null || OWN_FIELDS.contains(&key.as_str()) {
            return Ok(());
        }
        let field = Field {
            form: self.form,
            key: key.as_str(),
            value: &value,
            kind,
        };
        // Once to know how long it is.
        let mut length = Length(0);
        field.write(&mut length)?;
        if let Some(left) = self.left.checked_sub(length.0) {
            self.left = left;
            field.write(self.out)?;
        }
        Ok(())
    }
}

struct Field<'a> {
    form: Form,
    key: &'a str,
    value: &'a Value<'a>,
    kind: ValueKind,
}

impl Field<'_> {
    fn write(&self, out: &mut dyn Write) -> fmt::Result {
        out.write_str(match self.form {
            Form::Text | Form::Logfmt => " ",
            Form::Json => ",\"",
        })?;
        Escaped::new(out, NAME_MOST, Quoting::Name).write_str(self.key)?;
        out.write_str(match self.form {
            Form::Text | Form::Logfmt => "=",
            Form::Json => "\":",
        })?;
        let bare = match (self.kind, self.form) {
            (ValueKind::Bare, _) => true,
            (_, Form::Json) => false,
            (_, Form::Text | Form::Logfmt) => {
                let mut look = Bareness {
                    so_far: 0,
                    bare: true,
                };
                write!(look, "{}", self.value)?;
                look.bare && look.so_far > 0
            }
        };
        match bare {
            true => Escaped::new(out, VALUE_MOST, Quoting::None)
                .write_fmt(format_args!("{}", self.value)),
            false => {
                out.write_char('"')?;
                Escaped::new(out, VALUE_MOST, Quoting::Quotes)
                    .write_fmt(format_args!("{}", self.value))?;
                out.write_char('"')
            }
        }
    }
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueKind {
    /// Nothing is there to write.
    Null,
    /// A number or a truth value, which JSON knows without quotes.
    Bare,
    Text,
}

impl<'v> VisitValue<'v> for ValueKind {
    fn visit_any(&mut self, _: Value<'_>) -> Result<(), Error> {
        *self = ValueKind::Text;
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), Error> {
        *self = ValueKind::Null;
        Ok(())
    }

    fn visit_u64(&mut self, _: u64) -> Result<(), Error> {
        *self = ValueKind::Bare;
        Ok(())
    }

    fn visit_i64(&mut self, _: i64) -> Result<(), Error> {
        *self = ValueKind::Bare;
        Ok(())
    }

    /// JSON has no word for what is no number.
    fn visit_f64(&mut self, value: f64) -> Result<(), Error> {
        *self = match value.is_finite() {
            true => ValueKind::Bare,
            false => ValueKind::Null,
        };
        Ok(())
    }

    fn visit_bool(&mut self, _: bool) -> Result<(), Error> {
        *self = ValueKind::Bare;
        Ok(())
    }
}

/// Whether logfmt takes a text without quotes.
struct Bareness {
    so_far: usize,
    bare: bool,
}

impl Write for Bareness {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.so_far += text.len();
        self.bare &= text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'));
        Ok(())
    }
}

struct Length(usize);

impl Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;

    fn written(message: &str, fields: &[(&str, &str)], form: Form, journal: bool) -> String {
        let mut out = String::new();
        write_line(
            &mut out,
            &Line {
                level: Level::Warn,
                room: "store",
                message: format_args!("{message}"),
                fields: Some(&fields),
            },
            form,
            journal,
        )
        .expect("memory");
        out
    }

    /// Reads logfmt as its tools do: bare values end at a space, quoted ones are JSON's strings.
    fn read_logfmt(line: &str) -> Option<BTreeMap<String, String>> {
        let mut fields = BTreeMap::new();
        let mut rest = line;
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=')?;
            if key.is_empty() || !key.chars().all(is_name) {
                return None;
            }
            let (value, after) = match after.strip_prefix('"') {
                None => after.split_once(' ').unwrap_or((after, "")),
                Some(_) => {
                    let mut values = serde_json::Deserializer::from_str(after).into_iter();
                    let value: String = values.next()?.ok()?;
                    let end = values.byte_offset();
                    let after = &after[end..];
                    fields.insert(key.to_owned(), value);
                    rest = after.strip_prefix(' ').unwrap_or(after);
                    continue;
                }
            };
            fields.insert(key.to_owned(), value.to_owned());
            rest = after;
        }
        Some(fields)
    }

    #[test]
    fn each_form_says_the_same() {
        let fields = [("request_id", "abc-123"), ("path", "/a b")];
        let say = |form, journal| written("store: it is \"away\"", &fields, form, journal);
        let text = say(Form::Text, false);
        let pid = std::process::id();
        let (time, rest) = text.split_once(' ').expect("a time");
        assert!(humantime::parse_rfc3339(time).is_ok(), "{text}");
        assert_eq!(
            rest,
            format!("WARN  [{pid}] store: it is \"away\" request_id=abc-123 path=\"/a b\"")
        );
        assert_eq!(
            say(Form::Text, true),
            "<4>store: it is \"away\" request_id=abc-123 path=\"/a b\""
        );
        let logfmt = say(Form::Logfmt, false);
        assert!(
            logfmt.ends_with(&format!(
                " level=warn pid={pid} room=store msg=\"store: it is \\\"away\\\"\" request_id=abc-123 path=\"/a b\""
            )),
            "{logfmt}"
        );
        let journal = say(Form::Json, true);
        let json: Json =
            serde_json::from_str(journal.strip_prefix("<4>").expect("a priority")).unwrap();
        assert_eq!(json["msg"], "store: it is \"away\"");
        assert_eq!(json["pid"], pid);
        assert_eq!(
            (&json["room"], &json["level"]),
            (&"store".into(), &"warn".into())
        );
        assert_eq!(
            (&json["request_id"], &json["path"]),
            (&"abc-123".into(), &"/a b".into())
        );
    }

    #[test]
    fn numbers_are_numbers_and_what_is_absent_is_left_out() {
        let fields: &[(&str, Value<'_>)] = &[
            ("total_ms", Value::from(612.345)),
            ("status", Value::from(503_u64)),
            ("hit", Value::from(true)),
            ("nothing", Value::null()),
            ("no_number", Value::from(f64::NAN)),
            ("msg", Value::from("forged")),
            ("odd key=\"", Value::from("7")),
        ];
        let line = |form| {
            let mut out = String::new();
            write_line(
                &mut out,
                &Line {
                    level: Level::Info,
                    room: "http",
                    message: format_args!("m"),
                    fields: Some(&fields),
                },
                form,
                true,
            )
            .expect("memory");
            out
        };
        assert_eq!(
            line(Form::Text),
            "<6>m total_ms=612.345 status=503 hit=true odd_key__=7"
        );
        let json: Json = serde_json::from_str(&line(Form::Json)[3..]).unwrap();
        assert_eq!(json["total_ms"], 612.345);
        assert_eq!((&json["status"], &json["hit"]), (&503.into(), &true.into()));
        assert_eq!(
            (&json["msg"], &json["odd_key__"]),
            (&"m".into(), &"7".into())
        );
        assert!(json.get("nothing").is_none() && json.get("no_number").is_none());
    }

    /// What forges a second line, breaks out of quotes, or acts on a terminal.
    #[test]
    fn nothing_can_forge_a_line_or_a_field() {
        let forged = "a\" level=error\r\n<0>2026-11-25 ERROR \\ \x1b[2J\x7f\0\t\u{9b}\u{2028}\u{202e}x\",\"level\":\"error";
        let fields = [("path", forged)];
        for journal in [false, true] {
            for form in [Form::Text, Form::Logfmt, Form::Json] {
                let line = written(forged, &fields, form, journal);
                assert!(!line.contains(is_unkind), "{line:?}");
            }
        }
        let logfmt = read_logfmt(&written(forged, &fields, Form::Logfmt, false)).expect("logfmt");
        assert_eq!(
            (logfmt["msg"].as_str(), logfmt["path"].as_str()),
            (forged, forged)
        );
        assert_eq!((logfmt["level"].as_str(), logfmt.len()), ("warn", 6));
        let json: Json =
            serde_json::from_str(&written(forged, &fields, Form::Json, false)).unwrap();
        assert_eq!(
            (&json["msg"], &json["path"]),
            (&forged.into(), &forged.into())
        );
        assert_eq!(json["level"], "warn");
    }

    #[test]
    fn the_longest_line_fits_and_ends_as_it_should() {
        for letter in ["x", "\"", "\0", "\u{202e}", "é", "𝄞"] {
            let long = letter.repeat(5000);
            let fields: Vec<(String, &str)> = (0..20)
                .map(|number| (format!("{number}{long}"), long.as_str()))
                .collect();
            let fields: Vec<(&str, &str)> = fields
                .iter()
                .map(|(key, value)| (key.as_str(), *value))
                .collect();
            for form in [Form::Text, Form::Logfmt, Form::Json] {
                let line = written(&long, &fields, form, false);
                assert!(line.len() < LONGEST, "{} bytes", line.len());
                assert!(line.contains(CUT));
                match form {
                    Form::Text => {}
                    Form::Logfmt => assert!(read_logfmt(&line).is_some(), "{line}"),
                    Form::Json => drop(serde_json::from_str::<Json>(&line).unwrap()),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_as_it_was(
            message in "\\PC{0,40}|[\\x00-\\xff]{0,200}|(?s:.){0,100}",
            value in "\\PC{0,40}|[\\x00-\\xff]{0,80}|(?s:.){0,80}",
        ) {
            let fields = [("value", value.as_str())];
            for form in [Form::Text, Form::Logfmt, Form::Json] {
                let line = written(&message, &fields, form, false);
                prop_assert!(line.len() < LONGEST && !line.contains(is_unkind), "{:?}", line);
                let back = match form {
                    Form::Text => continue,
                    Form::Logfmt => read_logfmt(&line)
                        .map(|read| (read["msg"].clone(), read["value"].clone(), read.len())),
                    Form::Json => serde_json::from_str::<BTreeMap<String, Json>>(&line).ok().map(|read| {
                        let text = |key: &str| read[key].as_str().unwrap_or_default().to_owned();
                        (text("msg"), text("value"), read.len())
                    }),
                };
                prop_assert_eq!(back, Some((message.clone(), value.clone(), 6)), "{}", line);
            }
        }
    }
}
