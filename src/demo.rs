//! `telecon demo`: a real group call of several daemons on this machine, with synthetic voices.

pub mod correlate;
pub mod score;
pub mod voices;
