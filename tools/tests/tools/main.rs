//! The tools as an instance reaches them: through the gate, with a permit.

mod artifacts;
mod confinement;
mod kv;
mod registry;
mod support;
