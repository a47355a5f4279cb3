//! (see the crate's map)

use serde::Serialize;

/// Stand-in until the demo is here.
#[derive(Debug)]
pub struct Options;

impl Options {
    /// Stand-in.
    pub fn new(participants: usize, _: u64) -> Result<Self, DemoError> {
        if (2..=8).contains(&participants) { Ok(Self) } else { Err(DemoError::Participants(participants)) }
    }
}

/// Stand-in.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// There is no voice for more, and no call for fewer.
    #[error("a demo has 2 to 8 participants, not {0}")]
    Participants(usize),
}

impl DemoError {
    /// The command's exit code.
    pub fn exit_code(&self) -> u8 {
        64
    }
}

/// Stand-in.
#[derive(Debug)]
pub enum Progress {
    /// A step begins.
    Step(String),
    /// The call goes on.
    Listening {
        /// So far.
        elapsed_s: u64,
        /// In all.
        total_s: u64,
    },
}

/// Stand-in.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Everybody heard everybody.
    pub ok: bool,
}

/// Stand-in.
pub mod table {
    /// Stand-in.
    pub fn table(_: &super::Report) -> String {
        String::new()
    }
}

/// Stand-in.
pub async fn run(_: &Options, _: impl FnMut(Progress)) -> Result<Report, DemoError> {
    Ok(Report { ok: false })
}
