//! Sound devices: listing them, and the microphone test with its level.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    pin::pin,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    exit::{self, CliError},
    local, show, text,
    text::Printer,
};
use crate::{
    client::{Client, ClientError},
    control::wire::Method,
};

/// How often the level is asked for.
const LOOK: Duration = Duration::from_millis(100);
/// A device that is not open by then, in looks, does not open; a test that has not begun by then has ended.
const OPENS: u32 = 30;
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

/// `telecon test speaker`: tells through what it is heard, once that is open, or why it is not.
pub async fn test_speaker(socket: &Path, mut printer: Printer) -> Result<(), CliError> {
    let mut client = Client::connect(socket).await?;
    client.request(Method::AudioTestSpeaker {}, None).await?;
    let mut audio = Value::Null;
    for _ in 0..OPENS {
        tokio::time::sleep(LOOK).await;
        audio = sound(&mut client).await?;
        if !audio["speaker_test"].is_null() {
            let tested = json!({ "output": audio["speaker_test"], "problem": audio["problem"] });
            return printer.answer(&tested, show::speaker_tested);
        }
    }
    let why = audio["problem"].as_str().unwrap_or("the speaker does not open; `telecon devices` lists others");
    Err(CliError::new(exit::MEDIA_FAILED, why))
}

async fn sound(client: &mut Client) -> Result<Value, CliError> {
    Ok(client.request(Method::DaemonStatus {}, None).await?["audio"].take())
}

/// `telecon test mic`: shows the level until the test is over, or tells why the microphone does not open. Ctrl-C ends the test.
pub async fn test_mic(socket: &Path, seconds: u32, mut printer: Printer) -> Result<(), CliError> {
    let mut client = Client::connect(socket).await?;
    client.request(Method::AudioTestMic { seconds: Some(seconds) }, None).await?;
    let meter = !printer.is_json() && io::stdout().is_terminal();
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let (mut looks, mut ran, mut loudest_db, mut problem, mut input) = (0, false, i64::MIN, Value::Null, Value::Null);
    let failed = loop {
        tokio::select! {
            _ = &mut interrupted => {
                client.request(Method::AudioTestMic { seconds: Some(0) }, None).await?;
                break false;
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        looks += 1;
        let audio = sound(&mut client).await?;
        let test = &audio["test"];
        if !audio["problem"].is_null() {
            problem = audio["problem"].clone();
        }
        if test.is_null() && (ran || looks > OPENS) {
            // On a machine that is too busy it may have been open without being seen.
            break input.is_null() && !problem.is_null();
        }
        ran |= !test.is_null();
        loudest_db = loudest_db.max(test["level_db"].as_i64().unwrap_or(i64::MIN));
        // Which one it is, is known when it is open.
        if input.is_null() && audio["capturing"] == true {
            input = audio["input"].clone();
            if !printer.is_json() {
                printer.print(&show::mic_test_begun(&input, seconds))?;
            }
        }
        if input.is_null() && looks == OPENS {
            client.request(Method::AudioTestMic { seconds: Some(0) }, None).await?;
            break true;
        }
        if meter && !input.is_null() {
            let mut stdout = io::stdout().lock();
            write!(stdout, "\r{}", show::meter(test))?;
            stdout.flush()?;
        } else if printer.is_json() && ran {
            printer.print(&text::json_line(test))?;
        }
    };
    if meter && !input.is_null() {
        printer.print("\n")?;
    }
    let (heard, loudest_db) = (loudest_db > HEARD_DB, ran.then_some(loudest_db));
    let end = json!({ "stage": "over", "input": input, "heard": heard, "loudest_db": loudest_db, "problem": problem });
    if !failed || printer.is_json() {
        printer.answer(&end, show::mic_test_over)?;
    }
    let why = problem.as_str().unwrap_or("the microphone does not open; `telecon devices` lists others");
    if failed { Err(CliError::new(exit::MEDIA_FAILED, why)) } else { Ok(()) }
}
