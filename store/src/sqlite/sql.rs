//! Small helpers for statements: lists of ids, several rows in one statement, and what errors mean.

use std::fmt::Display;

use muster_shared::store::StoreError;
use uuid::Uuid;

/// Rows per statement. Few sizes, so that few statements exist and all stay prepared.
const PORTIONS: [usize; 4] = [128, 32, 8, 1];

/// A list of ids for `json_each`: `id IN (SELECT unhex(value) FROM json_each(?))`. One statement for any length.
pub(super) fn id_list(ids: impl IntoIterator<Item = Uuid>) -> String {
    json_list(ids.into_iter().map(|id| format!("\"{}\"", id.simple())))
}

/// A JSON list of elements that are JSON already.
pub(super) fn json_list(elements: impl IntoIterator<Item = impl Display>) -> String {
    let mut list = String::from("[");
    for (n, element) in elements.into_iter().enumerate() {
        if n > 0 {
            list.push(',');
        }
        list.push_str(&element.to_string());
    }
    list.push(']');
    list
}

/// Cuts `items` into portions of the sizes for which statements are prepared.
pub(super) fn portions<T>(mut items: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = PORTIONS.into_iter().find(|size| *size <= items.len())?;
        let (portion, rest) = items.split_at(size);
        items = rest;
        Some(portion)
    })
}

/// `head (?,?),(?,?) tail`: a statement for `rows` rows of `columns` columns. The parameters have no numbers, in the
/// head neither: looking each up by its number would cost the square of them.
pub(super) fn with_values(head: &str, rows: usize, columns: usize, tail: &str) -> String {
    let row = format!("({})", vec!["?"; columns].join(","));
    format!("{head} {} {tail}", vec![row; rows].join(","))
}

/// What a failed statement means for its caller.
pub(super) fn db(error: sqlx::Error) -> StoreError {
    const PRIMARY_CODE: i32 = 0xff;
    const CORRUPT: i32 = 11;
    const TOO_BIG: i32 = 18;
    const CONSTRAINT: i32 = 19;
    const MISMATCH: i32 = 20;
    const NOT_A_DATABASE: i32 = 26;
    match &error {
        sqlx::Error::Database(refused) => {
            let code: i32 = refused.code().and_then(|code| code.parse().ok()).unwrap_or(0);
            match code & PRIMARY_CODE {
                CONSTRAINT if refused.is_unique_violation() => StoreError::Conflict(format!("it is there already: {refused}")),
                CONSTRAINT | TOO_BIG | MISMATCH => StoreError::Refused(refused.to_string()),
                CORRUPT | NOT_A_DATABASE => StoreError::Corrupt(refused.to_string()),
                // An error in the statement itself: it was written for another schema.
                1 => StoreError::Schema(refused.to_string()),
                _ => StoreError::Unavailable(refused.to_string()),
            }
        }
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::ColumnNotFound(_) | sqlx::Error::Decode(_) => {
            StoreError::Corrupt(error.to_string())
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_cover_everything_in_order_in_few_sizes() {
        let items: Vec<usize> = (0..300).collect();
        let sizes: Vec<usize> = portions(&items).map(<[usize]>::len).collect();
        assert_eq!(sizes, [128, 128, 32, 8, 1, 1, 1, 1]);
        assert_eq!(portions(&items).flatten().copied().collect::<Vec<_>>(), items);
    }

    #[test]
    fn a_statement_has_a_row_of_placeholders_for_each_row() {
        assert_eq!(with_values("INSERT INTO t VALUES", 2, 3, "RETURNING id"), "INSERT INTO t VALUES (?,?,?),(?,?,?) RETURNING id");
        assert_eq!(id_list([Uuid::from_u128(1)]), "[\"00000000000000000000000000000001\"]");
    }
}
