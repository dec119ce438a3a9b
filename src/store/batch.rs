//! Dealing out: one query answers a whole batch of questions, and this room gives each asker its rows.
//! Used by every store, so that a batch means the same everywhere.

use std::collections::HashMap;
use std::hash::Hash;

use super::{MAX_ROWS, PAGE_ROWS, RowId, ShoeImages};

/// Each key once, in ascending order: what the query is asked with.
pub(super) fn distinct(keys: &[i32]) -> Vec<i32> {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The numbers among the ids, as [`distinct`]: what a store that numbers its rows is asked with.
pub(super) fn distinct_numbers(ids: &[RowId]) -> Vec<i32> {
    let mut numbers: Vec<i32> = ids.iter().filter_map(RowId::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// The rows of these shoes, which are distinct and ascending, as are the shoes of the rows. `ask` answers [`PAGE_ROWS`] at most: when
/// it answers as many, the last shoe's may be cut off, and the rest is asked for again.
pub(super) fn in_pages<E>(
    shoe_ids: &[i32],
    ask: impl Fn(&[i32]) -> Result<Vec<ShoeImages>, E>,
) -> Result<Vec<ShoeImages>, E> {
    let mut rows = ask(shoe_ids)?;
    let mut found = Vec::new();
    let mut left = shoe_ids;
    while rows.len() >= PAGE_ROWS
        && let Some(last) = rows.last().and_then(|row| row.shoe_id)
    {
        let begin = rows.partition_point(|row| row.shoe_id < Some(last));
        // Enough to know that it has too many.
        let known = rows.len() - begin > MAX_ROWS;
        rows.truncate(if known { begin + MAX_ROWS + 1 } else { begin });
        found.append(&mut rows);
        left = &left[left.partition_point(|shoe| *shoe < last || (known && *shoe == last))..];
        if left.is_empty() {
            return Ok(found);
        }
        rows = ask(left)?;
    }
    if found.is_empty() {
        return Ok(rows);
    }
    found.append(&mut rows);
    Ok(found)
}

/// Rows by shoe: element `i` of the answer holds the rows of `shoe_ids[i]`, in the order in which they
/// came, and one more than [`MAX_ROWS`] at most. Rows of other shoes are dropped.
pub(super) fn by_shoe(shoe_ids: &[i32], rows: Vec<ShoeImages>) -> Vec<Vec<ShoeImages>> {
    if let [shoe_id] = shoe_ids {
        let own = |row: &ShoeImages| row.shoe_id == Some(*shoe_id);
        return vec![rows.into_iter().filter(own).take(MAX_ROWS + 1).collect()];
    }
    let mut found: HashMap<i32, Vec<ShoeImages>> = HashMap::with_capacity(shoe_ids.len());
    for row in rows {
        if let Some(shoe_id) = row.shoe_id {
            let rows = found.entry(shoe_id).or_default();
            if rows.len() <= MAX_ROWS {
                rows.push(row);
            }
        }
    }
    deal(shoe_ids, found)
        .into_iter()
        .map(Option::unwrap_or_default)
        .collect()
}

/// Rows by id: element `i` of the answer is the row `ids[i]`.
pub(super) fn by_id(ids: &[RowId], rows: Vec<ShoeImages>) -> Vec<Option<ShoeImages>> {
    let found = rows.into_iter().map(|row| (row.id.clone(), row));
    deal(ids, found.collect())
}

/// Hands each key its value, moved to the last asker and cloned for those before.
fn deal<K: Eq + Hash, T: Clone>(keys: &[K], mut found: HashMap<K, T>) -> Vec<Option<T>> {
    let mut askers: HashMap<&K, u32> = HashMap::with_capacity(keys.len());
    for key in keys {
        *askers.entry(key).or_default() += 1;
    }
    let take = |key: &K| match askers.get_mut(key) {
        Some(left) if *left > 1 => {
            *left -= 1;
            found.get(key).cloned()
        }
        _ => found.remove(key),
    };
    keys.iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::super::TextId;
    use super::*;

    fn row(id: i32, shoe_id: i32) -> ShoeImages {
        ShoeImages {
            id: id.into(),
            shoe_id: Some(shoe_id),
            media: Default::default(),
        }
    }

    #[test]
    fn every_asker_gets_its_rows_even_twice() {
        let rows = || vec![row(1, 7), row(4, 7), row(2, 9)];
        let ids = |answer: &[ShoeImages]| {
            let ids = answer.iter().map(|row| row.id.number().expect("a number"));
            ids.collect::<Vec<_>>()
        };

        let answers = by_shoe(&[9, 7, 8, 7], rows());
        let answers: Vec<_> = answers.iter().map(|rows| ids(rows)).collect();
        assert_eq!(answers, [vec![2], vec![1, 4], vec![], vec![1, 4]]);
        assert_eq!(ids(&by_shoe(&[7], rows())[0]), [1, 4]);
        assert!(by_shoe(&[], rows()).is_empty());

        let text = TextId::parse("2").expect("an id");
        let asked = [2.into(), 3.into(), text.clone().into(), 2.into()];
        let answers = by_id(&asked, rows());
        let two = Some(row(2, 9));
        assert_eq!(answers, [two.clone(), None, None, two]);
        assert_eq!(distinct(&[3, 1, 3]), [1, 3]);
        assert_eq!(distinct_numbers(&asked), [2, 3]);

        let named = ShoeImages {
            id: text.into(),
            ..row(2, 9)
        };
        let answers = by_id(&asked, vec![named.clone()]);
        assert_eq!(answers, [None, None, Some(named), None]);
    }

    /// Shoes with so many rows each, from a table that answers a page at a time; the shape of the answer and the number of queries.
    fn ask_for(shoes: &[(i32, usize)]) -> (Vec<(i32, usize)>, usize) {
        let asked = std::cell::Cell::new(0);
        let ids: Vec<i32> = shoes.iter().map(|(shoe, _)| *shoe).collect();
        let rows = in_pages(&ids, |ids| {
            asked.set(asked.get() + 1);
            let rows = shoes.iter().filter(|(shoe, _)| ids.contains(shoe));
            let rows = rows.flat_map(|(shoe, count)| (0..*count).map(|id| row(id as i32, *shoe)));
            Ok::<_, ()>(rows.take(PAGE_ROWS).collect())
        });
        let answers = by_shoe(&ids, rows.expect("no error"));
        for rows in &answers {
            assert!(
                rows.iter()
                    .zip(0..)
                    .all(|(row, id)| row.id == RowId::Number(id))
            );
        }
        let counts = answers.iter().map(Vec::len);
        (ids.into_iter().zip(counts).collect(), asked.get())
    }

    #[test]
    fn a_batch_of_many_rows_comes_in_pages_and_of_too_many_is_cut() {
        assert_eq!(ask_for(&[(1, 2), (2, 0)]), (vec![(1, 2), (2, 0)], 1));
        let most = [(1, MAX_ROWS), (2, MAX_ROWS + 1)];
        assert_eq!(ask_for(&most), (most.to_vec(), 1));
        let cut = |counts: &[usize]| -> Vec<(i32, usize)> {
            (1..)
                .zip(counts.iter().map(|count| (*count).min(MAX_ROWS + 1)))
                .collect()
        };
        for counts in [
            &[1_000_000][..],
            &[1_000_000, 3],
            &[3, 1_000_000, 3],
            &[1_000_000, 1_000_000, 1_000_000],
            &[MAX_ROWS; 9],
            &[PAGE_ROWS, 1],
            &[1, PAGE_ROWS - 1, 1],
            &[PAGE_ROWS - 1, 1, 1],
            &[PAGE_ROWS - 1, 2, 1],
            &[0, PAGE_ROWS + 1, 0],
        ] {
            let shoes: Vec<(i32, usize)> = (1..).zip(counts.iter().copied()).collect();
            let (answer, asked) = ask_for(&shoes);
            assert_eq!(answer, cut(counts), "{counts:?}");
            assert!(asked <= counts.len() + 1, "{asked} queries for {counts:?}");
        }
    }

    /// The statements of both stores spell it out: a database plans for a number that it knows.
    #[test]
    fn statements_end_at_a_page() {
        let end = format!(" LIMIT {PAGE_ROWS}");
        for statement in super::super::sqlite::STATEMENTS_OF_SHOES
            .iter()
            .chain([&super::super::postgres::SELECT_SHOES])
        {
            assert!(statement.ends_with(&end), "{statement}");
        }
    }
}
