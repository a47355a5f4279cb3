//! What several integration tests share.

pub mod daemon;
pub mod disk;
pub mod namespace;
pub mod pulse;
pub mod speech;
pub mod wav;
