//! The verbs that need no daemon, or are one: configuration, devices, `daemon`, `demo`; and the log of the latter two.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

use crate::{
    audio,
    config::{self, Backend, Config, ConfigError, Paths},
    control::server,
    daemon::{self, DaemonError},
    demo::{self, Progress},
    leg,
};

use super::{
    exit::{self, CliError},
    text::{self, Printer},
};

/// What is logged when nobody says otherwise: only what this crate says. The libraries' lines name peers, addresses and topics (which
/// hold DIDs), and strangers can cause as many of them as they like.
const LOG: &str = "off,telecon=info";
/// What the demo logs: its progress is shown in another way.
const DEMO_LOG: &str = "off,telecon=warn";

/// What still runs when the work is done may take so long.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Runs a request to its end.
pub fn block_on<T>(work: impl Future<Output = T>) -> Result<T, CliError> {
    run(&mut Builder::new_current_thread(), work)
}

/// Runs `work` to its end. A sound system that hangs while somebody looks for devices would keep the process for ever.
fn run<T>(builder: &mut Builder, work: impl Future<Output = T>) -> Result<T, CliError> {
    let failed = |error| CliError::new(exit::FAILED, format!("the program cannot start its event loop: {error}"));
    let runtime = builder.enable_all().build().map_err(failed)?;
    let done = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_WAIT);
    Ok(done)
}

/// `telecon daemon`
pub fn daemon(mut paths: Paths, config: Option<PathBuf>) -> Result<(), CliError> {
    if let Some(file) = config {
        if !file.exists() {
            return Err(ConfigError::Missing { file }.into());
        }
        paths.config_file = file;
    }
    let config = Config::load(&paths.config_file)?;
    start_log(LOG)?;
    // Before the runtime has threads, since it changes the environment.
    let socket = server::handed_over(&paths.socket).map_err(DaemonError::from)?;
    Ok(run(&mut Builder::new_multi_thread(), daemon::run(paths, config, socket))??)
}

/// `telecon demo`
pub fn demo(participants: usize, seconds: u64, mut printer: Printer) -> Result<(), CliError> {
    start_log(DEMO_LOG)?;
    let failed = |error: demo::DemoError| CliError::new(error.exit_code(), error.to_string());
    let options = demo::Options::new(participants, seconds).map_err(failed)?;
    let report = run(&mut Builder::new_multi_thread(), demo::run(&options, show_progress))?.map_err(failed)?;
    let json = serde_json::to_value(&report);
    let json = json.map_err(|error| CliError::new(exit::FAILED, format!("the report has no JSON form: {error}")))?;
    if printer.is_json() {
        printer.print(&text::json_line(&json))?;
    } else {
        printer.print(&text::safe_lines(&demo::table::table(&report)))?;
    }
    match report.ok {
        true => Ok(()),
        false => Err(CliError::new(
            exit::MEDIA_FAILED,
            "not everybody heard everybody; the table says who. Gaps without loss say that this machine had too much else to do: \
             try again when it is quiet",
        )),
    }
}

/// On stderr, so that stdout holds nothing but the result. On a terminal the seconds count up in place.
fn show_progress(progress: Progress) {
    let mut stderr = io::stderr().lock();
    let _gone = match progress {
        Progress::Step(step) => writeln!(stderr, "{}", text::safe(&step)),
        Progress::Listening { elapsed_s, total_s } if stderr.is_terminal() => {
            let end = if elapsed_s == total_s { "\n" } else { "" };
            write!(stderr, "\r  {elapsed_s} of {total_s} s{end}")
        }
        Progress::Listening { .. } => Ok(()),
    };
}

/// To stderr, in colours on a terminal only. `TELECON_LOG`, then `RUST_LOG`, as in the tracing crate's `EnvFilter`.
fn start_log(otherwise: &str) -> Result<(), CliError> {
    let asked = ["TELECON_LOG", "RUST_LOG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|filter| !filter.is_empty()).map(|filter| (*name, filter)));
    let filter = match asked {
        None => EnvFilter::new(otherwise),
        Some((name, filter)) => EnvFilter::try_new(&filter).map_err(|error| {
            let message = format!("{name}={filter} is no log filter ({error}); write it like info or telecon=debug");
            CliError::new(exit::BAD_CONFIG, message)
        })?,
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.with_ansi(io::stderr().is_terminal()).try_init().map_err(|error| CliError::new(exit::FAILED, error.to_string()))
}

/// `audio.devices` as the daemon would answer.
pub fn devices(config_file: &Path) -> Result<Value, CliError> {
    let config = Config::load(config_file)?;
    let devices = audio::devices(&config.audio).map_err(|error| CliError::new(exit::TRY_AGAIN, error.to_string()))?;
    Ok(json!({ "devices": devices }))
}

/// `telecon config check`
pub fn config_check(file: &Path, mut printer: Printer) -> Result<(), CliError> {
    let checked = match Config::check(file) {
        Ok(checked) => checked,
        Err(error) => {
            if printer.is_json() {
                printer.print(&text::json_line(&json!({ "ok": false, "file": file, "mistakes": mistakes(&error) })))?;
            }
            return Err(error.into());
        }
    };
    let notes = notes(&checked.config);
    if printer.is_json() {
        let idle = checked.idle.iter().map(|idle| json!({ "line": idle.line, "key": idle.key }));
        let answer = json!({ "ok": true, "file": file, "no_effect": idle.collect::<Vec<_>>(), "notes": notes });
        return printer.print(&text::json_line(&answer));
    }
    let verdict = if file.exists() { "is right" } else { "does not exist; the defaults are used" };
    printer.print(&text::safe_lines(&format!("{} {verdict}", file.display())))?;
    for idle in &checked.idle {
        let line = format!("{}:{}: {} has no effect yet", file.display(), idle.line, idle.key);
        printer.print(&text::safe_lines(&line))?;
    }
    for note in &notes {
        printer.print(&text::safe_lines(&format!("{}: {note}", file.display())))?;
    }
    Ok(())
}

/// What is right, but perhaps not what was meant.
fn notes(Config { audio, network, .. }: &Config) -> Vec<String> {
    let (input, output) = (Path::new(&audio.input_file), Path::new(&audio.output_file));
    let mut notes = Vec::new();
    match audio.backend {
        Backend::File if audio.input_file.is_empty() => {
            notes.push("audio.backend is \"file\" and audio.input_file is not set: the others hear silence".into());
        }
        // Where others begin depends on where the daemon is started.
        Backend::File if input.is_absolute() => notes.extend(audio::check_clip(input).err()),
        Backend::Pipewire => notes.extend(audio::NO_PIPEWIRE.map(String::from)),
        Backend::File | Backend::Auto | Backend::Pulseaudio | Backend::Alsa | Backend::Null => {}
    }
    if audio.backend == Backend::File {
        if audio.output_file.is_empty() {
            let lost = "audio.backend is \"file\" and audio.output_file is not set: what you would hear is lost";
            notes.push(lost.into());
        }
        let directory = output.parent().filter(|directory| output.is_absolute() && !directory.is_dir());
        notes.extend(directory.map(|directory| {
            format!("audio.output_file: there is no directory {}; make it, or name another file", directory.display())
        }));
    }
    // It may come later, such as that of a VPN.
    notes.extend(network.ice_interfaces.iter().filter(|name| !leg::has_address(name)).map(|name| {
        format!(
            "network.ice_interfaces: {name:?} has no address on this machine now, so that no call goes over it; `ip address` \
             lists what there is"
        )
    }));
    notes
}

fn mistakes(error: &ConfigError) -> Vec<Value> {
    match error {
        ConfigError::Mistakes(mistakes) => mistakes
            .iter()
            .map(|one| json!({ "line": one.line, "key": one.key, "cause": one.cause, "remedy": one.remedy }))
            .collect(),
        ConfigError::Unreadable { .. } | ConfigError::Missing { .. } => vec![json!({ "cause": error.to_string() })],
    }
}

/// `telecon config show`
pub fn config_show(file: &Path, printer: Printer) -> Result<(), CliError> {
    let config = Config::load(file)?.without_passwords();
    let toml = toml::to_string(&config);
    let toml =
        toml.map_err(|error| CliError::new(exit::FAILED, format!("the configuration has no text form: {error}")))?;
    print_config(&config, &toml, printer)
}

/// `telecon config default`
pub fn config_default(printer: Printer) -> Result<(), CliError> {
    print_config(&Config::default(), config::DEFAULT_TOML, printer)
}

fn print_config(config: &Config, toml: &str, mut printer: Printer) -> Result<(), CliError> {
    if !printer.is_json() {
        return printer.print(&text::safe_lines(toml));
    }
    let json = serde_json::to_value(config);
    let json =
        json.map_err(|error| CliError::new(exit::FAILED, format!("the configuration has no JSON form: {error}")))?;
    printer.print(&text::json_line(&json))
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    #[test]
    fn what_hangs_beside_the_work_does_not_hold_up_its_end() {
        for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
            let (let_go, hangs) = mpsc::channel::<()>();
            let (ends, ended) = mpsc::channel();
            let work = async {
                let (begins, begun) = tokio::sync::oneshot::channel();
                tokio::task::spawn_blocking(move || (begins.send(()), hangs.recv()));
                begun.await
            };
            thread::spawn(move || ends.send(run(&mut builder, work).is_ok()));
            assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(true));
            drop(let_go);
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_noted() {
        let mut config = Config::default();
        assert!(notes(&config).is_empty());
        config.network.ice_interfaces = vec!["lo".into(), "nowhere0".into()];
        let notes = notes(&config);
        assert!(
            notes.len() == 1 && notes[0].starts_with("network.ice_interfaces: \"nowhere0\" has no address"),
            "{notes:?}"
        );
    }

    struct Count(std::sync::Arc<std::sync::atomic::AtomicUsize>);

    impl<S: tracing::Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn nothing_that_a_library_says_of_peers_is_logged() {
        let lines = std::sync::Arc::default();
        let subscriber =
            tracing_subscriber::registry().with(EnvFilter::new(LOG)).with(Count(std::sync::Arc::clone(&lines)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "libp2p_gossipsub::behaviour", rpc = "offer_call/did:key:z6Mk", "Send Queue full");
            tracing::error!(target: "libp2p_gossipsub::behaviour", "Subscription filter error");
            tracing::error!(target: "rtc::ice", "192.0.2.7");
            tracing::info!(target: "telecon::daemon", "ready");
        });
        assert_eq!(lines.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
