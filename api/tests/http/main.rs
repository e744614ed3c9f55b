//! The API as its clients see it: requests in, answers out, on the embedded store and on a broken one.
#![expect(clippy::unwrap_used, reason = "tests")]

mod bad_input;
mod broken;
mod lifecycle;
mod serving;
mod spine;
mod support;

/// See `http_postgres` for the other.
const DATABASE: support::Database = support::Database::Sqlite;
