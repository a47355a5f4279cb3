//! What several integration tests share.

pub mod pulse;
pub mod speech;
