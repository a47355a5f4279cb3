//! The sans-IO core: it decides everything and does nothing.
//!
//! Bytes from a topic pass the [`seal`] (they become a verified [`signal::Incoming`]) and reach the [`engine`],
//! a state machine that is told the time and answers with [`io::Output`]s. [`node::Node`] joins the two and is what
//! both the daemon and the simulator drive. Nothing below this module knows a clock, a socket, a thread or a task.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod call;
pub mod engine;
pub mod id;
pub mod io;
mod leg;
pub(crate) mod mutant;
pub mod node;
mod outbox;
pub mod seal;
pub mod seen;
pub mod signal;
pub mod wire;
