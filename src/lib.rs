//! telecon: peer-to-peer voice calls among DIDs.
//!
//! The crate's map, from the inside out:
//!
//! - [`proto`] decides: the sans-IO core (calls, rosters, retransmission, sealing). No clock, no socket, no thread.
//! - [`net`] carries signals (libp2p gossipsub), [`leg`] carries media (one WebRTC connection a participant),
//!   [`audio`] owns the sound card, the codec and the mixer, [`store`] remembers (SQLite).
//! - [`daemon`] is the one loop that feeds the core and carries its outputs out.
//! - [`control`] is the Unix socket: its wire form and its server; [`client`] is the public way to talk to it.
//! - [`cli`] turns command-line verbs into requests and answers into text; [`demo`] is the call of several daemons on one
//!   machine.
//! - [`config`] and [`identity`] are read once at start; [`text`] knows what a terminal must not get to see,
//!   [`private`] which directories are nobody else's.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod audio;
mod civil;
pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod identity;
pub mod leg;
pub mod net;
pub mod private;
pub mod proto;
#[cfg(test)]
mod sim;
pub mod store;
pub mod text;
