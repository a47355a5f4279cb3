//! (see the crate's map)

use crate::{
    config::{Config, Paths},
    control::server::ServeError,
};

/// Why the daemon did not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The control socket, or another daemon that answers there.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// An address in the configuration.
    #[error("[network] {key}: \"{text}\" is not a multiaddr; write it like /ip4/192.0.2.7/udp/4001/quic-v1")]
    Address {
        /// The key.
        key: &'static str,
        /// What stands there.
        text: String,
    },
    /// A part that must run until the end has ended.
    #[error("the {0} has stopped unexpectedly; the log says why, start the daemon again")]
    Ended(&'static str),
}

/// Stand-in until the daemon is here.
pub async fn run(_: Paths, _: Config) -> Result<(), DaemonError> {
    Err(DaemonError::Ended("stand-in"))
}
