//! The vocabulary and the rules of Muster.
//!
//! Everything here is pure: no IO, no global clock, no global randomness. Live execution, replay and
//! simulation call the same functions. The traits that adapters implement (store, queue, engine, tools)
//! are declared here, so that `control`, `worker` and `api` never see an implementation.

pub mod agent;
pub mod catalog;
pub mod engine;
pub mod error;
pub mod event;
pub mod fsm;
pub mod gate;
pub mod hash;
pub mod ids;
pub mod policy;
pub mod queue;
pub mod reduce;
pub mod retry;
pub mod spawn;
pub mod store;
pub mod template;
pub mod time;
pub mod tool;
pub mod wire;

/// Revision of the pure core. An instance is claimed only by a binary whose revision is at least the one
/// it was spawned under; older logs are folded through upcasters (PROTOCOL rule 17).
pub const CORE_REV: i32 = 1;

/// Outputs and event payloads up to this many bytes live in their row; larger ones are refused for now.
pub const MAX_INLINE_BYTES: usize = 64 * 1024;
