//! What a write's transaction is marked with, so that PostgreSQL shows whose it is: the trace in `application_name`
//! (pg_stat_activity, `%a` of log_line_prefix), and all of it in a comment (sqlcommenter's) that its log of statements has. Both
//! travel with BEGIN, so that they cost no round trip, and end with the transaction. Pure.
//!
//! Not reads: one query answers many requests, and is prepared, so that its text can't change.

/// The longest `application_name` that PostgreSQL keeps (NAMEDATALEN - 1).
const NAME_MOST: usize = 63;

/// How many traces one transaction names: new rows share it.
const MOST: usize = 8;

/// The digits of the trace-id in a traceparent.
const TRACE_ID: std::ops::Range<usize> = 3..35;

/// What goes behind BEGIN, and behind the last statement that goes with it; both are empty without a trace. `name` is the
/// connection's own.
pub(super) fn marks(name: &str, traceparents: &[&str]) -> (String, String) {
    // It stands in SQL: nothing does that is not what it should be.
    let is_plain = |text: &str| {
        text.len() > TRACE_ID.end
            && text
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
    };
    let plain: Vec<&str> = traceparents
        .iter()
        .copied()
        .filter(|text| is_plain(text))
        .collect();
    let Some(trace_id) = plain.first().and_then(|first| first.get(TRACE_ID)) else {
        return (String::new(), String::new());
    };
    let comment: Vec<String> = plain
        .iter()
        .take(MOST)
        .map(|text| format!("traceparent='{text}'"))
        .collect();
    let of = match plain.len() {
        1 => trace_id.to_owned(),
        several => format!("{trace_id}+{}", several - 1),
    };
    let room = NAME_MOST.saturating_sub(of.len() + 1);
    let name = &name[..name.floor_char_boundary(room)];
    (
        format!(" /*{}*/", comment.join(",")),
        format!(
            "; SET LOCAL application_name = '{} {of}'",
            name.replace('\'', "''")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const OTHER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    #[test]
    fn a_transaction_is_marked_with_whose_it_is() {
        assert_eq!(marks("canvas-cluster/3", &[]), Default::default());
        let (comment, name) = marks("canvas-cluster/3", &[ONE]);
        assert_eq!(comment, format!(" /*traceparent='{ONE}'*/"));
        assert_eq!(
            name,
            "; SET LOCAL application_name = 'canvas-cluster/3 4bf92f3577b34da6a3ce929d0e0e4736'"
        );
        let (comment, name) = marks("canvas-cluster/3", &[ONE, OTHER]);
        assert_eq!(
            comment,
            format!(" /*traceparent='{ONE}',traceparent='{OTHER}'*/")
        );
        assert!(
            name.ends_with(" 4bf92f3577b34da6a3ce929d0e0e4736+1'"),
            "{name}"
        );
        let (comment, name) = marks("canvas-cluster/3", &[ONE; 300]);
        assert_eq!(comment.matches("traceparent").count(), MOST);
        assert!(name.ends_with("+299'"), "{name}");
    }

    #[test]
    fn nothing_but_a_trace_reaches_the_statement() {
        for odd in ["", "'; DROP TABLE shoe_images; --", "*/ DELETE", "00-4b"] {
            assert_eq!(marks("canvas-cluster/3", &[odd]), Default::default());
        }
        let shown = |name: &str| {
            let (_, set) = marks(name, &[ONE]);
            let quoted = set.split_once(" = '").expect("a name").1;
            quoted.trim_end_matches('\'').to_owned()
        };
        assert_eq!(
            shown("o'clock"),
            "o''clock 4bf92f3577b34da6a3ce929d0e0e4736"
        );
        let long = "é".repeat(40);
        assert_eq!(shown(&long).len(), NAME_MOST);
    }
}
