//! Two connections at the points where the protocol's rules matter. Each test stops one side inside its transaction,
//! by a lock that it holds itself, waits until the server says that the other side is blocked, and lets go.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "interleavings/dispatch.rs"]
mod dispatch;
#[path = "interleavings/journal.rs"]
mod journal;
#[path = "interleavings/leases.rs"]
mod leases;
#[path = "interleavings/reduction.rs"]
mod reduction;
#[path = "interleavings/support.rs"]
mod support;
