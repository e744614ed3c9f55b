//! The fleet's housekeeping: admission of spawns, dispatch, sweeping, timers, cancellation.
//!
//! It runs inside any API or worker process; everything here is level-triggered and safe to run in several
//! processes at once. It owns no data: the store does. It never calls a model or a tool.

mod control_loop;
mod dispatch;
mod judge;
mod result;
mod spawner;

pub use control_loop::{Control, ControlSettings};
pub use judge::Judge;
pub use spawner::{SpawnError, SpawnMeta, Spawner};
