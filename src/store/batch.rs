//! Dealing out: one query answers a whole batch of questions, and this room gives each asker its rows.
//! Used by every store, so that a batch means the same everywhere.

use std::collections::HashMap;

use super::ShoeImages;

/// Each key once, in ascending order: what the query is asked with.
pub(super) fn distinct(keys: &[i32]) -> Vec<i32> {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Rows by shoe: element `i` of the answer holds the rows of `shoe_ids[i]`, in the order in which they
/// came. Rows of other shoes are dropped.
pub(super) fn by_shoe(shoe_ids: &[i32], rows: Vec<ShoeImages>) -> Vec<Vec<ShoeImages>> {
    if let [shoe_id] = shoe_ids {
        return vec![
            rows.into_iter()
                .filter(|row| row.shoe_id == Some(*shoe_id))
                .collect(),
        ];
    }
    let mut found: HashMap<i32, Vec<ShoeImages>> = HashMap::with_capacity(shoe_ids.len());
    for row in rows {
        if let Some(shoe_id) = row.shoe_id {
            found.entry(shoe_id).or_default().push(row);
        }
    }
    deal(shoe_ids, found)
        .into_iter()
        .map(Option::unwrap_or_default)
        .collect()
}

/// Rows by id: element `i` of the answer is the row `ids[i]`.
pub(super) fn by_id(ids: &[i32], rows: Vec<ShoeImages>) -> Vec<Option<ShoeImages>> {
    deal(ids, rows.into_iter().map(|row| (row.id, row)).collect())
}

/// Hands each key its value, moved to the last asker and cloned for those before.
fn deal<T: Clone>(keys: &[i32], mut found: HashMap<i32, T>) -> Vec<Option<T>> {
    let mut askers: HashMap<i32, u32> = HashMap::with_capacity(keys.len());
    for key in keys {
        *askers.entry(*key).or_default() += 1;
    }
    let take = |key: &i32| match askers.get_mut(key) {
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
    use super::*;

    fn row(id: i32, shoe_id: i32) -> ShoeImages {
        ShoeImages {
            id,
            shoe_id: Some(shoe_id),
            media: Default::default(),
        }
    }

    #[test]
    fn every_asker_gets_its_rows_even_twice() {
        let rows = || vec![row(1, 7), row(4, 7), row(2, 9)];
        let ids = |answer: &[ShoeImages]| answer.iter().map(|row| row.id).collect::<Vec<_>>();

        let answers = by_shoe(&[9, 7, 8, 7], rows());
        let answers: Vec<_> = answers.iter().map(|rows| ids(rows)).collect();
        assert_eq!(answers, [vec![2], vec![1, 4], vec![], vec![1, 4]]);
        assert_eq!(ids(&by_shoe(&[7], rows())[0]), [1, 4]);
        assert!(by_shoe(&[], rows()).is_empty());

        let answers = by_id(&[2, 3, 2], rows());
        assert_eq!(
            answers
                .iter()
                .map(|row| row.as_ref().map(|row| row.id))
                .collect::<Vec<_>>(),
            [Some(2), None, Some(2)]
        );
        assert_eq!(distinct(&[3, 1, 3]), [1, 3]);
    }
}
