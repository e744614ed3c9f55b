//! The control loops and the spawner over the real SQLite store and an in-process queue, without workers: what
//! they do to rows and messages.

mod admission;
mod dispatch;
mod recovery;
mod support;
