//! The tests that need a list, a Redis or an apalis worker.

mod behaviour;
mod redis_faults;
mod support;
mod worker;
