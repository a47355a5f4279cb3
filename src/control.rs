//! The control socket: JSON-RPC 2.0 lines over a Unix socket, for the command line and for other programs.
//!
//! [`wire`] has the words, typed; `rpc` turns lines into them and back; `socket` owns the file; `connection` serves one
//! client; [`server`] accepts them. What requests *mean* is the daemon's business: nothing here knows a call.

mod connection;
mod rpc;
pub mod server;
pub(crate) mod socket;
pub mod wire;

pub use rpc::MAX_REQUEST_BYTES;
