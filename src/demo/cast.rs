//! The daemons of a demo: real child processes, each with a home of its own, on the loopback only.
//!
//! The cast is driven through the control sockets, like a user drives a daemon. Every wait is for a condition and bounded.
//! However a demo ends, [`Cast::stop`] leaves no process and no file of it behind; dropping a cast kills what still runs.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::{
    DemoError,
    observe::{self, LegSeen},
    score::Schedule,
    voices::Voice,
};
use crate::{
    audio::SAMPLE_RATE_HZ,
    client::Client,
    config::{AutoAccept, Backend, Config, WhoMayRing},
    control::wire::Method,
};

/// A daemon opens its database and its sockets in well under a second; a busy machine takes longer.
const START_WITHIN: Duration = Duration::from_secs(20);
/// Dialling on the loopback takes 10 ms, a call 200 ms; a lost DTLS flight costs some seconds.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// A daemon that has not answered by then hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// SIGTERM leaves the call and exits within 3 s.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How many lines of a dead daemon's log are shown.
const LOG_LINES: usize = 5;

/// The daemons of one demo.
#[derive(Debug)]
pub struct Cast {
    members: Vec<Member>,
    scratch: Scratch,
}

/// One participant.
#[derive(Debug)]
struct Member {
    name: &'static str,
    home: PathBuf,
    child: Child,
    client: Option<Client>,
    did: String,
    address: String,
}

impl Cast {
    /// Makes a directory for the homes; no process yet.
    ///
    /// # Errors
    /// [`DemoError::File`]
    pub fn new() -> Result<Self, DemoError> {
        Ok(Self { members: Vec::new(), scratch: Scratch::new()? })
    }

    /// Starts a daemon for each voice and waits until all answer and listen.
    ///
    /// # Errors
    /// [`DemoError::Daemon`] with the end of the log of one that does not start.
    pub async fn start(&mut self, program: &Path, voices: &[Voice]) -> Result<(), DemoError> {
        let schedule = Schedule::new(voices.len());
        for (speaker, voice) in voices.iter().enumerate() {
            let home = self.scratch.0.join(voice.name);
            prepare_home(&home, &schedule.input(speaker, &voice.clip))?;
            let child = spawn(program, &home)?;
            let (did, address) = (String::new(), String::new());
            self.members.push(Member { name: voice.name, home, child, client: None, did, address });
        }
        for member in &mut self.members {
            member.wait_until_ready().await?;
        }
        Ok(())
    }

    /// Makes everybody everybody's contact and connects each with each.
    ///
    /// # Errors
    /// [`DemoError::Daemon`]
    pub async fn introduce(&mut self) -> Result<(), DemoError> {
        let people: Vec<_> = self.members.iter().map(|m| (m.name, m.did.clone(), m.address.clone())).collect();
        for (at, member) in self.members.iter_mut().enumerate() {
            for (other, (name, did, address)) in people.iter().enumerate().filter(|(other, _)| *other != at) {
                let (did, name) = (did.clone(), (*name).to_owned());
                member.request(Method::ContactAdd { did, name, address: None }).await?;
                if other < at {
                    member.request(Method::NetConnect { address: address.clone() }).await?;
                }
            }
        }
        let others = self.members.len() - 1;
        for member in &mut self.members {
            let name = member.name;
            until(
                CONNECT_WITHIN,
                || format!("{name} did not find the others on the loopback"),
                async || {
                    let status = member.request(Method::DaemonStatus {}).await?;
                    Ok((observe::peers(&status) >= others).then_some(()))
                },
            )
            .await?;
        }
        Ok(())
    }

    /// The first participant offers a call to all others, who accept by themselves. Waits until everybody has audio of
    /// everybody, and returns how long that took from the offer on.
    ///
    /// # Errors
    /// [`DemoError::Daemon`], [`DemoError::Late`] when a leg has no audio in time.
    pub async fn call(&mut self) -> Result<Duration, DemoError> {
        let offered = Instant::now();
        let who = self.members.iter().skip(1).map(|member| member.did.clone()).collect();
        self.request(0, Method::CallOffer { who, closed: false }).await?;
        let others = self.members.len() - 1;
        for member in &mut self.members {
            let name = member.name;
            until(
                CONNECT_WITHIN,
                || format!("{name} has no audio of somebody in the call"),
                async || {
                    let stats = member.request(Method::MediaStats {}).await?;
                    let heard = observe::legs(&stats).into_iter().filter(|leg| leg.first_audio_ms.is_some()).count();
                    Ok((heard >= others).then_some(()))
                },
            )
            .await?;
        }
        Ok(offered.elapsed())
    }

    /// Asks one participant's daemon.
    ///
    /// # Errors
    /// [`DemoError::Daemon`] when it refuses, hangs or is gone.
    pub async fn request(&mut self, participant: usize, method: Method) -> Result<Value, DemoError> {
        self.members[participant].request(method).await
    }

    /// What each participant's daemon tells of itself and its legs: once, while the call goes on.
    ///
    /// # Errors
    /// [`DemoError::Daemon`]
    pub async fn observe(&mut self) -> Result<Vec<Seen>, DemoError> {
        let mut seen = Vec::new();
        for member in &mut self.members {
            let stats = member.request(Method::MediaStats {}).await?;
            let status = member.request(Method::DaemonStatus {}).await?;
            seen.push(Seen {
                name: member.name,
                did: member.did.clone(),
                recording: member.home.join(RECORDING),
                legs: observe::legs(&stats),
                clock: observe::clock(&status),
            });
        }
        Ok(seen)
    }

    /// Fails as soon as a daemon has died.
    ///
    /// # Errors
    /// [`DemoError::Daemon`]
    pub fn check_alive(&mut self) -> Result<(), DemoError> {
        self.members.iter_mut().try_for_each(Member::check_alive)
    }

    /// Ends all daemons: politely first, by force after 5 s. Their recordings stay until the cast is dropped.
    ///
    /// # Errors
    /// [`DemoError::Daemon`] when one had to be killed or failed while it stopped; all are gone even then.
    pub async fn stop(&mut self) -> Result<(), DemoError> {
        for member in &mut self.members {
            member.client = None;
            member.terminate();
        }
        let deadline = Instant::now() + STOP_WITHIN;
        let mut first_failure = Ok(());
        for member in &mut self.members {
            let ended = member.reap(deadline).await;
            first_failure = first_failure.and(ended);
        }
        first_failure
    }
}

/// What a daemon tells of itself during the call.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Of the participant.
    pub name: &'static str,
    /// Of the participant.
    pub did: String,
    /// The WAV of what it heard.
    pub recording: PathBuf,
    /// Its connections.
    pub legs: Vec<LegSeen>,
    /// When its files started.
    pub clock: observe::Clock,
}

impl Member {
    /// Waits until the socket answers and the node listens.
    async fn wait_until_ready(&mut self) -> Result<(), DemoError> {
        let name = self.name;
        let (did, address) = until(
            START_WITHIN,
            || format!("{name}'s daemon does not answer"),
            async || {
                self.check_alive()?;
                if self.client.is_none() {
                    self.client = Client::connect(&self.home.join("control.sock")).await.ok();
                }
                if self.client.is_none() {
                    return Ok(None);
                }
                Ok(observe::identity(&self.request(Method::IdentityShow {}).await?))
            },
        )
        .await?;
        (self.did, self.address) = (did, address);
        Ok(())
    }

    async fn request(&mut self, method: Method) -> Result<Value, DemoError> {
        let failed = |why: String| DemoError::Daemon { name: self.name, why };
        let client = self.client.as_mut().ok_or_else(|| failed("it was not reached yet".into()))?;
        match tokio::time::timeout(ANSWER_WITHIN, client.request(method, None)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("it does not answer any more".into())),
        }
    }

    fn check_alive(&mut self) -> Result<(), DemoError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.died(status)),
            Err(error) => Err(DemoError::Daemon { name: self.name, why: error.to_string() }),
        }
    }

    fn died(&self, status: ExitStatus) -> DemoError {
        let log = fs::read(self.home.join(LOG)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().rev().take(LOG_LINES).collect();
        let end: Vec<_> = lines.into_iter().rev().collect();
        DemoError::Daemon { name: self.name, why: format!("it ended with {status}\n{}", end.join("\n")) }
    }

    fn terminate(&self) {
        // No id: it is reaped already.
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            // It may have died meanwhile; it is not reaped, so the id is still its own.
            kill_process(pid, Signal::TERM).ok();
        }
    }

    async fn reap(&mut self, deadline: Instant) -> Result<(), DemoError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let why = match tokio::time::timeout(left, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(Ok(status)) => return Err(self.died(status)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not stop when asked to and was killed".into(),
        };
        self.child.kill().await.ok();
        Err(DemoError::Daemon { name: self.name, why })
    }
}

const RECORDING: &str = "heard.wav";
const SPEECH: &str = "speech.wav";
const LOG: &str = "daemon.log";

/// Writes a home with a configuration that stays on the loopback and takes its sound from files.
fn prepare_home(home: &Path, speech: &[f32]) -> Result<(), DemoError> {
    private_directory(home).map_err(DemoError::file(home))?;
    let speech_file = home.join(SPEECH);
    write_wav(&speech_file, speech).map_err(DemoError::file(&speech_file))?;
    let mut config = Config::default();
    config.network.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".into(), "/ip4/127.0.0.1/tcp/0".into()];
    config.network.mdns = false;
    config.network.dht = false;
    config.network.ice_interfaces = vec!["lo".into()];
    config.audio.backend = Backend::File;
    config.audio.input_file = speech_file.to_string_lossy().into_owned();
    config.audio.output_file = home.join(RECORDING).to_string_lossy().into_owned();
    // What was spoken is compared with what arrived, so nothing may improve it on the way.
    config.audio.echo_cancellation = false;
    config.audio.noise_suppression = false;
    config.audio.auto_gain = false;
    config.call.auto_accept = AutoAccept::Contacts;
    config.call.who_may_ring = WhoMayRing::Contacts;
    let file = home.join("telecon.toml");
    let text = toml::to_string(&config).map_err(|error| DemoError::file(&file)(io::Error::other(error)))?;
    fs::write(&file, text).map_err(DemoError::file(&file))
}

fn spawn(program: &Path, home: &Path) -> Result<Child, DemoError> {
    let log = home.join(LOG);
    let log = File::create(&log).map_err(DemoError::file(&log))?;
    Command::new(program)
        .arg("--home")
        .arg(home)
        .arg("daemon")
        .env_remove("TELECON_HOME")
        // A demo that runs in a service must not let its daemons speak for that service.
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C in the terminal reaches the demo only, which then ends its daemons in good order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(DemoError::file(program))
}

fn write_wav(file: &Path, samples: &[f32]) -> io::Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(file, spec).map_err(io::Error::other)?;
    for &sample in samples {
        // The clips have 16 bits, so this gives back what was shipped.
        writer.write_sample((sample * 32_768.0) as i16).map_err(io::Error::other)?;
    }
    writer.finalize().map_err(io::Error::other)
}

fn private_directory(path: &Path) -> io::Result<()> {
    // Fails when somebody else was there first.
    DirBuilder::new().mode(0o700).create(path)
}

/// Looks at a condition until it holds.
async fn until<T>(
    within: Duration,
    what: impl Fn() -> String,
    mut condition: impl AsyncFnMut() -> Result<Option<T>, DemoError>,
) -> Result<T, DemoError> {
    let look = async {
        loop {
            if let Some(value) = condition().await? {
                return Ok(value);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(within, look).await.unwrap_or_else(|_| Err(DemoError::Late(what())))
}

/// A directory that goes when it is dropped.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("telecon-demo-{:08x}", rand::random::<u32>()));
        private_directory(&path).map_err(DemoError::file(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A temporary directory that cannot be removed is the system's to clean up.
        fs::remove_dir_all(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::demo::voices;

    /// A program that is no daemon. Another process writes it: a file that this one had open for writing could not be run
    /// while another test, in between fork and exec, has inherited it.
    fn script(directory: &Path, text: &str) -> PathBuf {
        let file = directory.join("program");
        let written = std::process::Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(&file)
            .arg(text)
            .status();
        assert!(written.unwrap().success());
        file
    }

    #[tokio::test]
    async fn a_daemon_that_dies_at_its_start_is_told_with_its_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let program = script(directory.path(), "echo first; echo the key file is broken >&2; exit 78");
        let mut cast = Cast::new().unwrap();
        let error = cast.start(&program, &voices::cast(2)).await.unwrap_err().to_string();
        assert!(error.contains("78") && error.contains("the key file is broken"), "{error}");
        assert!(cast.stop().await.is_err(), "it failed, so stopping says so too");
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_run_is_named() {
        let mut cast = Cast::new().unwrap();
        let error = cast.start(Path::new("/nonexistent/telecon"), &voices::cast(2)).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/telecon"), "{error}");
        cast.stop().await.unwrap();
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_stop_when_asked_to_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        // The shell becomes the sleeper, so that no grandchild is left; an ignored signal stays ignored.
        let program = script(directory.path(), "trap '' TERM\ntouch \"$2/started\"\nexec sleep 600");
        let mut cast = Cast::new().unwrap();
        let home = cast.scratch.0.join("Ada");
        prepare_home(&home, &[]).unwrap();
        let child = spawn(&program, &home).unwrap();
        let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        let (did, address) = (String::new(), String::new());
        cast.members.push(Member { name: "Ada", home: home.clone(), child, client: None, did, address });
        until(START_WITHIN, || "the script".into(), async || Ok(home.join("started").exists().then_some(())))
            .await
            .unwrap();

        let error = cast.stop().await.unwrap_err();
        assert!(error.to_string().contains("was killed"), "{error}");
        assert!(rustix::process::test_kill_process(pid).is_err(), "it still runs");
        drop(cast);
        assert!(!home.exists());
    }

    #[test]
    fn a_home_keeps_to_the_loopback_and_is_private() {
        let scratch = Scratch::new().unwrap();
        let home = scratch.0.join("Ada");
        prepare_home(&home, &[0.0, 0.5, -1.0]).unwrap();
        assert_eq!(fs::metadata(&home).unwrap().permissions().mode() & 0o777, 0o700);
        let config = Config::load(&home.join("telecon.toml")).unwrap();
        assert!(config.network.listen.iter().all(|address| address.starts_with("/ip4/127.0.0.1/")));
        assert!(!config.network.mdns && !config.network.dht && config.network.ice_interfaces == ["lo"]);
        let said: Vec<i16> =
            hound::WavReader::open(config.audio.input_file).unwrap().samples().map(Result::unwrap).collect();
        assert_eq!(said, [0, 16_384, -32_768]);
        assert!(prepare_home(&home, &[]).is_err(), "a home that is there already is somebody else's");
    }
}
