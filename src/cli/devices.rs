//! Sound devices: listing them, and the microphone test with its level.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    pin::pin,
    time::Duration,
};

use serde_json::{Value, json};

use super::{exit::CliError, local, show, text, text::Printer};
use crate::{
    client::{Client, ClientError},
    control::wire::Method,
};

/// How often the level is asked for.
const LOOK: Duration = Duration::from_millis(100);
/// A test that has not begun by then, in looks, has ended.
const BEGINS: u32 = 30;
/// What a microphone that works hears in a quiet room, in dBFS.
const HEARD_DB: i64 = -70;

/// Asks the daemon, which may run in another environment; without one, looks itself.
pub async fn list(config_file: &Path, socket: &Path, mut printer: Printer) -> Result<(), CliError> {
    let answer = match Client::connect(socket).await {
        Ok(mut client) => client.request(Method::AudioDevices {}, None).await?,
        Err(ClientError::NotRunning { .. }) => local::devices(config_file)?,
        Err(error) => return Err(error.into()),
    };
    printer.answer(&answer, show::devices)
}

/// `telecon test mic`: shows the level until the test is over. Ctrl-C ends the test.
pub async fn test_mic(socket: &Path, seconds: u32, mut printer: Printer) -> Result<(), CliError> {
    let mut client = Client::connect(socket).await?;
    let begun = client.request(Method::AudioTestMic { seconds: Some(seconds) }, None).await?;
    let meter = !printer.is_json() && io::stdout().is_terminal();
    if !printer.is_json() {
        printer.print(&show::mic_test_begun(&begun))?;
    }
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let (mut looks, mut ran, mut loudest_db, mut problem) = (0, false, i64::MIN, Value::Null);
    loop {
        tokio::select! {
            _ = &mut interrupted => {
                client.request(Method::AudioTestMic { seconds: Some(0) }, None).await?;
                break;
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        looks += 1;
        let audio = client.request(Method::DaemonStatus {}, None).await?["audio"].take();
        let test = &audio["test"];
        // What was wrong while it ran: once the devices are closed, nothing is.
        if !audio["problem"].is_null() {
            problem = audio["problem"].clone();
        }
        if test.is_null() && (ran || looks > BEGINS) {
            break;
        }
        ran |= !test.is_null();
        loudest_db = loudest_db.max(test["level_db"].as_i64().unwrap_or(i64::MIN));
        if meter {
            let mut stdout = io::stdout().lock();
            write!(stdout, "\r{}", show::meter(test))?;
            stdout.flush()?;
        } else if printer.is_json() && ran {
            printer.print(&text::json_line(test))?;
        }
    }
    if meter {
        printer.print("\n")?;
    }
    let heard = loudest_db > HEARD_DB;
    let end = json!({ "stage": "over", "heard": heard, "loudest_db": ran.then_some(loudest_db), "problem": problem });
    printer.answer(&end, show::mic_test_over)
}
