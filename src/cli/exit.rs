//! Exit codes, and the one place that writes errors: `telecon: <sentence>` on stderr.

use std::io::{self, ErrorKind, Write};

use crate::{
    client::ClientError,
    config::{ConfigError, PathsError},
    control::{server::ServeError, wire::Failure},
    daemon::DaemonError,
    private::DirectoryError,
};

use super::text;

/// Done. Codes from 64 on are those of sysexits.h.
pub const DONE: u8 = 0;
/// The call was declined.
pub const DECLINED: u8 = 10;
/// Nobody answered.
pub const NO_ANSWER: u8 = 11;
/// In another call.
pub const BUSY: u8 = 12;
/// No device answered, or nothing could be dialled.
pub const UNREACHABLE: u8 = 13;
/// Accepted, but no audio came through; in the demo, not everybody heard everybody; the device that was tested does not open.
pub const MEDIA_FAILED: u8 = 14;
/// Wrong arguments.
pub const USAGE: u8 = 64;
/// Right arguments that name something that is not there or not right.
pub const BAD_DATA: u8 = 65;
/// The daemon is not running.
pub const NOT_RUNNING: u8 = 69;
/// The program failed.
pub const FAILED: u8 = 70;
/// Try again.
pub const TRY_AGAIN: u8 = 75;
/// Another user's.
pub const NOT_PERMITTED: u8 = 77;
/// Bad configuration.
pub const BAD_CONFIG: u8 = 78;

/// Why the program ends without having done what was asked.
#[derive(Debug)]
pub struct CliError {
    /// The exit code.
    pub code: u8,
    /// One sentence a line; empty: all is said.
    pub message: String,
}

impl CliError {
    /// An error with its sentence.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NotRunning { .. } => NOT_RUNNING,
            ClientError::NotPermitted { .. } => NOT_PERMITTED,
            ClientError::Failed(failure) => code_of(failure),
            ClientError::Silent { .. }
            | ClientError::Closed
            | ClientError::Lagged
            | ClientError::Protocol(_)
            | ClientError::Io(_) => TRY_AGAIN,
        };
        Self::new(code, error.to_string())
    }
}

/// The exit code for a request that the daemon refused. Words that stand nowhere here are about the data.
fn code_of(failure: &Failure) -> u8 {
    match failure.code.as_str() {
        "unknown_method" | "bad_params" | "invalid_request" | "parse_error" | "line_too_long" => USAGE,
        "unreachable" => UNREACHABLE,
        "too_many_calls" | "too_many_clients" | "try_again" | "stopping" | "store_failed" | "answer_too_long" => {
            TRY_AGAIN
        }
        "not_permitted" => NOT_PERMITTED,
        "internal" => FAILED,
        _ => BAD_DATA,
    }
}

impl From<PathsError> for CliError {
    fn from(error: PathsError) -> Self {
        Self::new(USAGE, error.to_string())
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(BAD_CONFIG, error.to_string())
    }
}

impl From<DaemonError> for CliError {
    fn from(error: DaemonError) -> Self {
        let code = match &error {
            DaemonError::Serve(ServeError::AlreadyRunning { .. }) => TRY_AGAIN,
            DaemonError::Serve(ServeError::Directory(DirectoryError::Shared { .. })) => NOT_PERMITTED,
            DaemonError::Address { .. }
            | DaemonError::Serve(ServeError::PathTooLong { .. } | ServeError::HandedOver { .. }) => BAD_CONFIG,
            DaemonError::Identity(_)
            | DaemonError::Store(_)
            | DaemonError::Serve(
                ServeError::NotASocket { .. }
                | ServeError::Io { .. }
                | ServeError::Directory(DirectoryError::Unusable { .. }),
            )
            | DaemonError::Net(_)
            | DaemonError::Signals(_)
            | DaemonError::Ended(_) => FAILED,
        };
        Self::new(code, error.to_string())
    }
}

/// Of writing to stdout. A reader that has gone (`telecon calls | head -1`) has what it wanted.
impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::new(DONE, ""),
            _ => Self::new(FAILED, format!("the output cannot be written: {error}")),
        }
    }
}

/// Says it and returns the exit code.
pub fn report(error: &CliError) -> u8 {
    let mut stderr = io::stderr().lock();
    for line in error.message.lines() {
        // Nothing is left to be done when even stderr is gone.
        let _gone = writeln!(stderr, "telecon: {}", text::safe(&text::bounded(line)));
    }
    error.code
}

/// Help and version go to stdout and are no error; everything else that clap says is a usage error.
pub fn usage(error: &clap::Error) -> u8 {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion) {
        // A reader that has gone has what it wanted.
        let _gone = error.print();
        return DONE;
    }
    let said = error.render().to_string();
    let said = said.strip_prefix("error: ").map_or(said.clone(), |sentence| format!("telecon: {sentence}"));
    let lines: Vec<_> = said.trim_end().lines().map(text::bounded).collect();
    let _gone = io::stderr().lock().write_all(text::safe_lines(&lines.join("\n")).as_bytes());
    USAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_exit_codes_that_scripts_rely_on() {
        for (word, code) in [
            ("unknown_contact", BAD_DATA),
            ("no_such_call", BAD_DATA),
            ("bad_params", USAGE),
            ("too_many_calls", TRY_AGAIN),
            ("unreachable", UNREACHABLE),
        ] {
            let failure = Failure { code: word.into(), message: "…".into() };
            assert_eq!(CliError::from(ClientError::Failed(failure)).code, code, "{word}");
        }
        assert_eq!(CliError::from(ClientError::NotRunning { socket: "/s".into() }).code, 69);
        assert_eq!(CliError::from(ConfigError::Missing { file: "/f".into() }).code, 78);
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let error = CliError::from(io::Error::from(ErrorKind::BrokenPipe));
        assert_eq!((error.code, error.message.as_str()), (DONE, ""));
    }
}
