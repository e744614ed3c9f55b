//! The one mapping from database rows to the domain, for both databases.
//!
//! Both speak the same dialect to Rust: timestamps are `i64` microseconds, ids [`Uuid`], hashes bytes, JSON its
//! text. What cannot be read is [`StoreError::Corrupt`] and names table, column and row. The functions here say
//! which columns they want; the statements that select them stand beside their callers. Nothing here does IO.

mod domain;
mod refusals;
mod views;

use std::fmt::Display;

use muster_shared::{engine::Usage, fsm::Status, hash::Hash32, store::StoreError, time::Timestamp};
use sqlx::{Row as _, postgres::PgRow, sqlite::SqliteRow};
use uuid::Uuid;

pub(crate) use domain::{GroupOf, claimed, group_with_reducer, lease, output, place, ready, stored_event, template_version};
pub(crate) use refusals::{error_json, has_nul, refused_spawn, refused_text, refused_write, run_error};
pub(crate) use views::{InstanceCursor, demand, instance_view, run_cursor, run_view};

/// A row that can be read column by column, by name.
pub(crate) trait Columns {
    fn uuid(&self, name: &str) -> Result<Uuid, sqlx::Error>;
    fn uuid_opt(&self, name: &str) -> Result<Option<Uuid>, sqlx::Error>;
    fn i64(&self, name: &str) -> Result<i64, sqlx::Error>;
    fn i64_opt(&self, name: &str) -> Result<Option<i64>, sqlx::Error>;
    /// Also for `smallint`.
    fn i32(&self, name: &str) -> Result<i32, sqlx::Error>;
    fn text(&self, name: &str) -> Result<String, sqlx::Error>;
    fn text_opt(&self, name: &str) -> Result<Option<String>, sqlx::Error>;
    fn bytes(&self, name: &str) -> Result<Vec<u8>, sqlx::Error>;
    fn bytes_opt(&self, name: &str) -> Result<Option<Vec<u8>>, sqlx::Error>;
    fn bool(&self, name: &str) -> Result<bool, sqlx::Error>;
    fn bool_opt(&self, name: &str) -> Result<Option<bool>, sqlx::Error>;
}

macro_rules! columns {
    ($row:ty) => {
        impl Columns for $row {
            fn uuid(&self, name: &str) -> Result<Uuid, sqlx::Error> {
                self.try_get(name)
            }
            fn uuid_opt(&self, name: &str) -> Result<Option<Uuid>, sqlx::Error> {
                self.try_get(name)
            }
            fn i64(&self, name: &str) -> Result<i64, sqlx::Error> {
                self.try_get(name)
            }
            fn i64_opt(&self, name: &str) -> Result<Option<i64>, sqlx::Error> {
                self.try_get(name)
            }
            fn i32(&self, name: &str) -> Result<i32, sqlx::Error> {
                self.try_get::<i32, _>(name).or_else(|_| self.try_get::<i16, _>(name).map(i32::from))
            }
            fn text(&self, name: &str) -> Result<String, sqlx::Error> {
                self.try_get(name)
            }
            fn text_opt(&self, name: &str) -> Result<Option<String>, sqlx::Error> {
                self.try_get(name)
            }
            fn bytes(&self, name: &str) -> Result<Vec<u8>, sqlx::Error> {
                self.try_get(name)
            }
            fn bytes_opt(&self, name: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
                self.try_get(name)
            }
            fn bool(&self, name: &str) -> Result<bool, sqlx::Error> {
                self.try_get(name)
            }
            fn bool_opt(&self, name: &str) -> Result<Option<bool>, sqlx::Error> {
                self.try_get(name)
            }
        }
    };
}

columns!(PgRow);
columns!(SqliteRow);

/// Reads one row of one table into domain values; every failure names table, column and row.
pub(crate) struct Reader<'r, R> {
    table: &'static str,
    row: &'r R,
}

impl<'r, R: Columns> Reader<'r, R> {
    /// A reader of `row`, which came from `table`.
    pub(crate) const fn new(table: &'static str, row: &'r R) -> Self {
        Self { table, row }
    }

    /// The error for `column` of this row.
    pub(crate) fn bad(&self, column: &str, why: impl Display) -> StoreError {
        let keys: Vec<String> = ["id", "run_id", "instance_id", "group_id"]
            .into_iter()
            .filter_map(|key| self.row.uuid(key).ok().map(|id| format!("{key} {id}")))
            .chain(
                ["version", "level", "ordinal", "seq"].into_iter().filter_map(|key| self.row.i64(key).ok().map(|n| format!("{key} {n}"))),
            )
            .collect();
        StoreError::Corrupt(format!("{}.{column} of the row with {}: {why}", self.table, keys.join(", ")))
    }

    fn of<T>(&self, column: &str, read: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        read.map_err(|error| self.bad(column, error))
    }

    pub(crate) fn uuid(&self, column: &str) -> Result<Uuid, StoreError> {
        self.of(column, self.row.uuid(column))
    }

    pub(crate) fn uuid_opt(&self, column: &str) -> Result<Option<Uuid>, StoreError> {
        self.of(column, self.row.uuid_opt(column))
    }

    pub(crate) fn i64(&self, column: &str) -> Result<i64, StoreError> {
        self.of(column, self.row.i64(column))
    }

    pub(crate) fn i64_opt(&self, column: &str) -> Result<Option<i64>, StoreError> {
        self.of(column, self.row.i64_opt(column))
    }

    pub(crate) fn i32(&self, column: &str) -> Result<i32, StoreError> {
        self.of(column, self.row.i32(column))
    }

    pub(crate) fn text(&self, column: &str) -> Result<String, StoreError> {
        self.of(column, self.row.text(column))
    }

    pub(crate) fn text_opt(&self, column: &str) -> Result<Option<String>, StoreError> {
        self.of(column, self.row.text_opt(column))
    }

    pub(crate) fn bytes(&self, column: &str) -> Result<Vec<u8>, StoreError> {
        self.of(column, self.row.bytes(column))
    }

    pub(crate) fn bool(&self, column: &str) -> Result<bool, StoreError> {
        self.of(column, self.row.bool(column))
    }

    pub(crate) fn bool_opt(&self, column: &str) -> Result<Option<bool>, StoreError> {
        self.of(column, self.row.bool_opt(column))
    }

    pub(crate) fn timestamp(&self, column: &str) -> Result<Timestamp, StoreError> {
        self.i64(column).map(Timestamp::from_micros)
    }

    pub(crate) fn timestamp_opt(&self, column: &str) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.i64_opt(column)?.map(Timestamp::from_micros))
    }

    pub(crate) fn hash(&self, column: &str) -> Result<Hash32, StoreError> {
        let bytes = self.bytes(column)?;
        Hash32::from_slice(&bytes).ok_or_else(|| self.bad(column, format_args!("a hash has 32 bytes, not {}", bytes.len())))
    }

    pub(crate) fn hash_opt(&self, column: &str) -> Result<Option<Hash32>, StoreError> {
        let bytes = self.of(column, self.row.bytes_opt(column))?;
        bytes
            .map(|bytes| {
                let wrong = || self.bad(column, format_args!("a hash has 32 bytes, not {}", bytes.len()));
                Hash32::from_slice(&bytes).ok_or_else(wrong)
            })
            .transpose()
    }

    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(|error| self.bad(column, error))
    }

    pub(crate) fn json_opt<T: serde::de::DeserializeOwned>(&self, column: &str) -> Result<Option<T>, StoreError> {
        let text = self.text_opt(column)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| self.bad(column, error))).transpose()
    }

    fn name_of<T>(&self, column: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, StoreError> {
        let name = self.text(column)?;
        parse(&name).ok_or_else(|| self.bad(column, format_args!("`{name}` is unknown to this binary")))
    }

    pub(crate) fn status(&self, column: &str) -> Result<Status, StoreError> {
        self.name_of(column, Status::parse)
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        Ok(Usage {
            input_tokens: self.i64("input_tokens")?,
            output_tokens: self.i64("output_tokens")?,
            cost_micros: self.i64("cost_micros")?,
        })
    }
}
