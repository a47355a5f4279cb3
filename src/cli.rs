//! The command line: verbs become requests to the daemon, answers become text. All printing of the program is here.
//!
//! `args` is what can be typed, `exit` what scripts can rely on, `show` how answers look, `text` what keeps a stranger's
//! words from steering the terminal. Nothing here decides anything about calls.

use std::{ffi::OsString, path::Path, process::ExitCode};

use clap::Parser;
use serde_json::Value;

use crate::{audio::Role, client::Client, config::Paths, control::wire::Method};

mod args;
mod backup;
mod devices;
mod exit;
mod follow;
mod local;
mod passphrase;
mod show;
mod text;
mod transfer;

use args::{AbsolutePath, Args, ConfigVerb, ContactVerb, Direction, IdVerb, Level, RecordVerb, Switch, Tested, Verb};
use exit::CliError;
use text::Printer;

/// Runs the program with the process's own arguments.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os().collect()))
}

fn run(arguments: Vec<OsString>) -> u8 {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => return exit::usage(&error),
    };
    match carry_out(args) {
        Ok(()) => exit::DONE,
        Err(error) => exit::report(&error),
    }
}

fn carry_out(args: Args) -> Result<(), CliError> {
    let home = args.home.filter(|home| !home.as_os_str().is_empty());
    let paths = Paths::resolve(home.as_deref())?;
    let printer = Printer::new(args.json);
    match args.verb {
        Verb::Daemon { config } => local::daemon(paths, config),
        Verb::Demo { participants, seconds } => local::demo(participants, seconds, printer),
        Verb::Id { verb: Some(IdVerb::Export { file, passphrase_file }) } => {
            backup::export(&paths, &file, passphrase_file.as_deref(), printer)
        }
        Verb::Id { verb: Some(IdVerb::Import { file, passphrase_file }) } => {
            backup::import(&paths, &file, passphrase_file.as_deref(), printer)
        }
        Verb::Config { verb: ConfigVerb::Check } => local::config_check(&paths.config_file, printer),
        Verb::Config { verb: ConfigVerb::Show } => local::config_show(&paths.config_file, printer),
        Verb::Config { verb: ConfigVerb::Default } => local::config_default(printer),
        verb => local::block_on(ask(verb, paths, printer))?,
    }
}

/// The verbs that talk to the daemon.
async fn ask(verb: Verb, paths: Paths, mut printer: Printer) -> Result<(), CliError> {
    let socket = paths.socket.as_path();
    match verb {
        Verb::Call { who, wait: true, closed } => follow::call(socket, who, closed, printer).await,
        Verb::Watch { since } => follow::watch(socket, since, printer).await,
        Verb::History { limit, before, seen: true } => history(limit, before, socket, printer).await,
        Verb::Contacts { verb: ContactVerb::Import { file, rename } } => {
            transfer::import(socket, &file, rename, printer).await
        }
        Verb::Devices => devices::list(&paths.config_file, socket, printer).await,
        Verb::Test { what: Tested::Speaker, .. } => devices::test_speaker(socket, printer).await,
        Verb::Test { what: Tested::Mic, seconds } => devices::test_mic(socket, seconds, printer).await,
        verb => {
            let Some((method, show)) = request(verb) else { return Ok(()) };
            let answer = Client::connect(socket).await?.request(method, None).await?;
            printer.answer(&answer, show)
        }
    }
}

/// How an answer looks to people.
type Show = fn(&Value) -> String;

/// What a verb asks, and how the answer is shown. `None`: the verb is no single request.
fn request(verb: Verb) -> Option<(Method, Show)> {
    Some(match verb {
        Verb::Id { verb: None } => (Method::IdentityShow {}, show::identity),
        Verb::Connect { address } => (Method::NetConnect { address }, show::connected),
        Verb::Call { who, wait: _, closed } => (Method::CallOffer { who, closed }, show::call_id),
        Verb::Accept { call, leave } => (Method::CallAccept { call, leave }, show::accepted),
        Verb::Reject { call, reason, text } => (Method::CallReject { call, reason, text }, show::rejected),
        Verb::Hangup { call } => (Method::CallHangup { call }, show::hung_up),
        Verb::Join { call, leave } => (Method::CallJoin { call, leave }, show::joined),
        Verb::Invite { call, who } => (Method::CallInvite { call: Some(call), who }, show::invited),
        Verb::Hold { call } => (Method::CallHold { call }, show::held),
        Verb::Resume { call } => (Method::CallResume { call }, show::resumed),
        Verb::Dnd { switch } => (Method::CallDoNotDisturb { on: switch == Switch::On }, show::do_not_disturb),
        Verb::History { limit, before, seen: _ } => {
            (Method::HistoryList { limit: Some(limit), before_ms: before }, show::history)
        }
        Verb::Calls => (Method::CallList {}, show::calls),
        Verb::Status => (Method::DaemonStatus {}, show::status),
        Verb::Stats => (Method::MediaStats {}, show::stats),
        Verb::Mute => (Method::MediaMute {}, show::media),
        Verb::Talk { switch } => (Method::MediaTalk { on: switch == Switch::On }, show::media),
        Verb::Unmute => (Method::MediaUnmute {}, show::media),
        Verb::Deafen => (Method::MediaDeafen {}, show::media),
        Verb::Undeafen => (Method::MediaUndeafen {}, show::media),
        Verb::Volume { who, level: Level::Percent(percent) } => (Method::MediaVolume { who, percent }, show::volume),
        Verb::Volume { who, level: Level::Off } => (Method::MediaBlock { who }, show::volume),
        Verb::Volume { who, level: Level::On } => (Method::MediaUnblock { who }, show::volume),
        Verb::Record { verb: RecordVerb::Start { directory } } => {
            let directory = directory.map(|AbsolutePath(path)| path);
            (Method::MediaRecord { call: None, directory }, show::record_started)
        }
        Verb::Record { verb: RecordVerb::Stop } => (Method::MediaStopRecord {}, show::record_stopped),
        Verb::Device { direction, name } => {
            let direction = match direction {
                Direction::Input => Role::Input,
                Direction::Output => Role::Output,
                Direction::Ring => Role::Ring,
            };
            (Method::AudioSelect { direction, name }, show::selected)
        }
        Verb::Contacts { verb: ContactVerb::List } => (Method::ContactList {}, show::contacts),
        Verb::Contacts { verb: ContactVerb::Add { did, name, address } } => {
            (Method::ContactAdd { did, name, address }, show::added)
        }
        Verb::Contacts { verb: ContactVerb::Remove { who } } => (Method::ContactRemove { who }, show::removed),
        Verb::Contacts { verb: ContactVerb::Allow { who } } => (Method::ContactAllow { who }, show::policy),
        Verb::Contacts { verb: ContactVerb::Ask { who } } => (Method::ContactAsk { who }, show::policy),
        Verb::Contacts { verb: ContactVerb::Block { who } } => (Method::ContactBlock { who }, show::policy),
        Verb::Contacts { verb: ContactVerb::Export } => (Method::ContactExport {}, transfer::lines),
        Verb::Id { verb: Some(_) }
        | Verb::Daemon { .. }
        | Verb::Demo { .. }
        | Verb::Devices
        | Verb::Test { .. }
        | Verb::Watch { .. }
        | Verb::Config { .. }
        | Verb::Contacts { verb: ContactVerb::Import { .. } } => return None,
    })
}

/// Shows the history, then marks everything up to what the daemon knew before it as seen.
async fn history(limit: u32, before_ms: Option<u64>, socket: &Path, mut printer: Printer) -> Result<(), CliError> {
    let mut client = Client::connect(socket).await?;
    let status = client.request(Method::DaemonStatus {}, None).await?;
    let answer = client.request(Method::HistoryList { limit: Some(limit), before_ms }, None).await?;
    printer.answer(&answer, show::history)?;
    let seq = status["seq"].as_u64().unwrap_or(0);
    client.request(Method::EventsMark { seq }, None).await?;
    Ok(())
}
