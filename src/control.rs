//! The control socket: JSON-RPC 2.0 lines over a Unix socket, for the command line and for other programs.

pub mod wire;
