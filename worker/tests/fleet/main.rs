//! The real worker and the real control loops over the real SQLite store, an in-process queue and scripted
//! models: what a fleet does in good times and in bad ones.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect panics")]

mod cancel;
mod crash;
mod drain;
mod fan_out;
mod faults;
mod many;
mod runs;
mod support;
