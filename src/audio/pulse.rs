//! PulseAudio's own protocol (PipeWire speaks it, too), for what cpal does not tell or does not do well.
//!
//! cpal finds the devices. Its client cannot say when they change, or where a stream was moved to; and it does not move the
//! sound, because it clears 1 MiB before every read and asks for the latency after every period, which costs more processor
//! time than all the rest of a call.

mod connection;
mod look;
mod stream;

pub use look::LookOut;
pub use stream::{play, record};
