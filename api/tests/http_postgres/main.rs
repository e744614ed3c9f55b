//! The same requests and answers on Postgres. Needs the private server of `make test` or `scripts/with-servers`.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../http/bad_input.rs"]
mod bad_input;
#[path = "../http/broken.rs"]
mod broken;
#[path = "../http/lifecycle.rs"]
mod lifecycle;
#[path = "../http/spine.rs"]
mod spine;
#[path = "../http/support.rs"]
mod support;

const DATABASE: support::Database = support::Database::Postgres;
