//! The command line as a stranger uses it, against real fleets: embedded, and beside Postgres and Redis.

#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/embedded.rs"]
mod embedded;
#[path = "cli/outages.rs"]
mod outages;
#[path = "cli/support.rs"]
mod support;
#[path = "cli/walk.rs"]
mod walk;
