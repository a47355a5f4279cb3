//! The audio room on a real PulseAudio: what is said into the microphone comes out of the speaker, soon; and a server
//! that dies stops nothing.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use telecon::{
    audio::{Audio, EncodedFrame, ReceivedPacket},
    config,
    proto::{id::LegId, io::AudioPlan},
};

use crate::support::{
    pulse::PulseServer,
    speech::{best_correlation, speech},
};

fn call() -> AudioPlan {
    AudioPlan { legs: [LegId(1)].into(), microphone: true, playback: true, ..AudioPlan::default() }
}

/// The other side of the tests below, in a process of its own, because `PULSE_SERVER` belongs to a process: the
/// microphone is sent back into a leg. Each line on its input is a plan (`call`, `idle`); its status goes out as lines.
#[test]
#[ignore = "run by the tests of this file in a process of its own"]
fn echo_process() {
    if std::env::var_os("PULSE_SERVER").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (sender, mut events) = tokio::sync::mpsc::channel(64);
        let config = config::Audio { backend: config::Backend::Pulseaudio, ..config::Audio::default() };
        let audio = Audio::start(&config, sender);
        let (plans, mut planned) = tokio::sync::mpsc::channel(4);
        std::thread::spawn(move || {
            std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| plans.blocking_send(line))
        });
        let mut microphone = audio.microphone();
        let mut leg = audio.add_leg(LegId(1));
        let mut sequence = 0_u16;
        loop {
            tokio::select! {
                plan = planned.recv() => match plan.as_deref() {
                    Some("call") => audio.apply(call()),
                    Some("stats") => println!("stats {}", serde_json::to_string(&audio.leg_stats()).unwrap()),
                    Some(_) => audio.apply(AudioPlan::default()),
                    None => return,
                },
                Some(event) = events.recv() => {
                    println!("event {event:?} {}", serde_json::to_string(&audio.status()).unwrap());
                }
                Ok(EncodedFrame { payload, timestamp, .. }) = microphone.recv() => {
                    sequence = sequence.wrapping_add(1);
                    leg.push(ReceivedPacket { sequence, timestamp, payload, copy: false, arrival: Instant::now() });
                }
            }
        }
    });
}

struct Echo {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Echo {
    fn start(server: &PulseServer) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "pulse::echo_process", "--ignored", "--nocapture"])
            .env("PULSE_SERVER", server.address())
            .env("HOME", server.home())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { input: child.stdin.take().unwrap(), child, lines }
    }

    fn say(&mut self, word: &str) {
        writeln!(self.input, "{word}").unwrap();
    }

    /// The next line in which `wanted` holds.
    fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let limit = Instant::now() + Duration::from_secs(30);
        loop {
            let line = self.lines.recv_timeout(limit.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("waited in vain for {what}"));
            if wanted(&line) {
                return line;
            }
        }
    }

    /// User and system time of the process so far, in seconds (100 ticks a second on Linux), and its threads.
    fn cpu_seconds(&self) -> (f64, usize) {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        (ticks / 100.0, fields[17].parse().unwrap())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Times the audio thread went to sleep so far.
fn audio_sleeps(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let audio = tasks
        .map(|task| task.unwrap().path())
        .find(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "audio"))
        .expect("there is an audio thread");
    let status = std::fs::read_to_string(audio.join("status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}

fn found(line: &str) -> bool {
    line.contains(r#""input":"microphone.monitor","output":"speaker","problem":null"#)
}

fn loud(piece: &[f32]) -> bool {
    piece.iter().map(|sample| sample * sample).sum::<f32>() / piece.len() as f32 > 1e-3
}

#[test]
fn speech_into_the_microphone_comes_out_of_the_speaker_within_150_ms() {
    let server = PulseServer::start();
    let mut echo = Echo::start(&server);
    echo.wait("both devices to be found", found);
    let (sleeps, threads) = (audio_sleeps(echo.child.id()), echo.cpu_seconds().1);
    // An absence can only be watched for a while.
    std::thread::park_timeout(Duration::from_millis(500));
    assert_eq!(audio_sleeps(echo.child.id()), sleeps, "the idle audio thread sleeps without a break");
    echo.say("call");
    echo.wait("the first packet to be decoded", |line| line.contains("FirstAudio"));
    let (microphone, speaker) = (server.record("microphone"), server.record("speaker"));
    let (before, began) = (echo.cpu_seconds(), Instant::now());
    let clip = speech(8.0);
    server.speak(&clip);
    let limit = Instant::now() + Duration::from_secs(60);
    while speaker.len() < 48_000 * 11 {
        assert!(Instant::now() < limit, "nothing is recorded");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    let share = (echo.cpu_seconds().0 - before.0) / began.elapsed().as_secs_f64();
    echo.say("stats");
    let stats = echo.wait("figures", |line| line.contains("stats "));
    let ((said, said_at), (heard, heard_at)) = (microphone.stop(), speaker.stop());
    let (there, at) = best_correlation(&clip[..96_000], &said, 48_000 * 3);
    assert!(there > 0.95, "the clip went into the microphone: {there}");
    // In pieces of a quarter of a second, because on a busy machine the delay changes on the way.
    let (mut latencies_ms, mut correlations) = (Vec::new(), Vec::new());
    for (number, piece) in clip.chunks_exact(12_000).enumerate().skip(4).filter(|(_, piece)| loud(piece)) {
        let begins = at + number * 12_000;
        let moment = said_at + Duration::from_secs_f64(begins as f64 / 48_000.0);
        let from = (moment.saturating_duration_since(heard_at).as_secs_f64() * 48_000.0) as usize;
        let (likeness, lag) = best_correlation(piece, &heard[from..(from + 26_400).min(heard.len())], 14_400);
        correlations.push(likeness);
        latencies_ms.push(lag as f64 / 48.0);
    }
    correlations.sort_by(f32::total_cmp);
    latencies_ms.sort_by(f64::total_cmp);
    let (latency_ms, likeness) = (latencies_ms[latencies_ms.len() / 2], correlations[correlations.len() / 2]);
    println!(
        "PulseAudio, microphone sink to speaker sink: {latency_ms:.0} ms ({:.0} to {:.0}), correlation {likeness:.3} (worst \
         quarter of a second {:.3}), {:.1} % of a core, {} threads ({threads} idle); {stats}",
        latencies_ms[0],
        latencies_ms[latencies_ms.len() - 1],
        correlations[0],
        share * 100.0,
        before.1,
    );
    assert!(likeness >= 0.8, "{correlations:?}");
    assert!(latency_ms < 150.0, "{latencies_ms:?}");
}

#[test]
fn a_server_that_dies_is_said_and_one_that_comes_back_is_found() {
    let mut server = PulseServer::start();
    let mut echo = Echo::start(&server);
    echo.say("call");
    echo.wait("both devices to be found", found);
    echo.wait("the first packet to be decoded", |line| line.contains("FirstAudio"));
    server.kill();
    let line = echo.wait("the loss to be said", |line| line.contains("Changed") && !line.contains(r#""problem":null"#));
    println!("{line}");
    server.restart();
    echo.wait("the new server to be found", found);
    echo.say("idle");
}
