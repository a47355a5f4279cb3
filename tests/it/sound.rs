//! Sound between real daemons: through two sound servers, and through a network that loses packets.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;
use telecon::demo::correlate::Haystack;

use crate::support::{
    daemon::{Daemon, Start},
    namespace::Namespace,
    pulse::{PulseServer, Recording},
    speech::speech,
    wav,
};

/// Samples in a millisecond at 48 kHz.
const PER_MS: usize = 48;

fn leg_number(stats: &Value, field: &str) -> Option<f64> {
    stats["legs"][0][field].as_f64()
}

/// Both are in a call with each other, and both have decoded audio.
fn talk(ada: &mut Daemon, ben: &mut Daemon) {
    ben.connect(ada);
    ada.json(&["call", &ben.did]);
    for daemon in [ada, ben] {
        daemon.until(&["stats"], |stats| stats["legs"][0]["connected_ms"].is_number());
    }
}

/// Where the clip is in the recording, in samples, and how well it fits.
fn find(clip: &[f32], heard: Vec<f32>) -> (usize, f32) {
    let mut haystack = Haystack::new(heard);
    let lags = 0..haystack.lags(clip.len());
    haystack.best(clip, lags).expect("the recording is longer than the clip")
}

/// Waits until the recording has grown by that much.
fn record_for(recording: &Recording, seconds: usize) {
    let (wanted, limit) = (recording.len() + seconds * 1000 * PER_MS, Instant::now() + Duration::from_secs(60));
    while recording.len() < wanted {
        assert!(Instant::now() < limit, "the sound server stands still");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// What is said into one server's microphone, as the other's speaker plays it: correlation and mouth-to-ear latency in ms.
fn say(from: &PulseServer, to: &PulseServer, clip: &[f32]) -> (f32, f64) {
    let (mouth, ear) = (from.record("microphone"), to.record("speaker"));
    record_for(&mouth, 1);
    record_for(&ear, 1);
    from.speak(clip);
    record_for(&mouth, 5);
    record_for(&ear, 5);
    let ((said, said_from), (heard, heard_from)) = (mouth.stop(), ear.stop());
    let (said_at, _) = find(clip, said);
    let mut heard = Haystack::new(heard);
    let (heard_at, _) = heard.best(clip, 0..heard.lags(clip.len())).expect("the recording is longer than the clip");
    // Half a second at a time, since the jitter buffer may stretch time on the way; half of them are better than this.
    let pieces = clip.chunks_exact(500 * PER_MS).enumerate();
    let mut correlations: Vec<f32> = pieces
        .filter_map(|(number, piece)| {
            let around = heard_at + number * piece.len();
            heard.best(piece, around.saturating_sub(200 * PER_MS)..around + 200 * PER_MS)
        })
        .map(|(_, correlation)| correlation)
        .collect();
    correlations.sort_by(f32::total_cmp);
    let correlation = correlations[correlations.len() / 2];
    let ms = |at: usize| at as f64 / PER_MS as f64;
    let began_later_ms = if heard_from >= said_from {
        (heard_from - said_from).as_secs_f64() * 1000.0
    } else {
        -(said_from - heard_from).as_secs_f64() * 1000.0
    };
    (correlation, ms(heard_at) - ms(said_at) + began_later_ms)
}

#[test]
fn what_is_said_into_a_microphone_comes_out_of_the_other_side_s_speaker_and_back() {
    let (left, right) = (PulseServer::start(), PulseServer::start());
    let daemon_at = |server: &PulseServer| {
        let home = server.home().display().to_string();
        Daemon::start_with(Start {
            config: "[audio]\nbackend = \"pulseaudio\"\n[call]\nauto_accept = \"all\"\n".into(),
            env: vec![("PULSE_SERVER".into(), server.address()), ("HOME".into(), home)],
            ..Start::default()
        })
    };
    let (mut ada, mut ben) = (daemon_at(&left), daemon_at(&right));
    talk(&mut ada, &mut ben);
    let clip = speech(3.0);
    for (direction, from, to) in [("there", &left, &right), ("back", &right, &left)] {
        // What a busy machine has broken into pieces is said again.
        let tries = std::iter::repeat_with(|| {
            let (correlation, latency_ms) = say(from, to, &clip);
            println!("{direction}: correlation {correlation:.3}, mouth to ear {latency_ms:.0} ms");
            // The promise of the product; a call takes about half of it.
            correlation >= 0.8 && latency_ms < 150.0
        });
        assert!(tries.take(5).any(|passes| passes), "{direction}: broken, or more than 150 ms from mouth to ear");
    }
}

#[test]
fn an_incoming_call_rings_audibly_though_no_client_is_there() {
    let server = PulseServer::start();
    let mut ben = Daemon::start_with(Start {
        config: "[audio]\nbackend = \"pulseaudio\"\n".into(),
        env: vec![("PULSE_SERVER".into(), server.address()), ("HOME".into(), server.home().display().to_string())],
        ..Start::default()
    });
    let mut ada = Daemon::start("[audio]\nbackend = \"null\"\n");
    ben.connect(&mut ada);
    let (before, during) = (server.record("speaker"), server.record("speaker"));
    record_for(&before, 1);
    let (before, _) = before.stop();
    ada.json(&["call", &ben.did]);
    ada.until_shown(&ben.did, "ringing");
    record_for(&during, 4);
    let (during, _) = during.stop();
    let loudest = |sound: &[f32]| sound.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
    assert!(loudest(&before) < 0.001, "it makes a noise before anybody calls");
    assert!(loudest(&during) > 0.02, "nobody can hear it ring: {}", loudest(&during));
}

/// As from one wireless network to another: the way for signals stays, that of media is gone and there is a new one.
#[test]
fn a_call_goes_on_over_another_network_when_its_own_is_gone() {
    let namespaces = Namespace::linked();
    Namespace::link(&namespaces, "first", "10.78.0");
    let mut number = 0;
    let [mut ada, mut ben] = namespaces.each_ref().map(|namespace| {
        number += 1;
        let network = format!(
            "[network]\nlisten = [\"/ip4/10.77.0.{number}/udp/0/quic-v1\"]\nmdns = false\nice_interfaces = [\"first\", \"second\"]\n"
        );
        Daemon::start_with(Start {
            config: format!("{network}[audio]\nbackend = \"null\"\n[call]\nauto_accept = \"all\"\n"),
            whole_network: true,
            through: namespace.enter(),
            ..Start::default()
        })
    });
    talk(&mut ada, &mut ben);
    let packets = |stats: &Value, which: &str| leg_number(stats, which).unwrap_or(0.0);
    for daemon in [&mut ada, &mut ben] {
        daemon.until(&["stats"], |stats| packets(stats, "packets_received") > 150.0);
    }
    Namespace::link(&namespaces, "second", "10.79.0");
    namespaces[0].unlink("first");
    let cut = Instant::now();
    for daemon in [&mut ada, &mut ben] {
        let before = daemon.json(&["stats"]);
        // The figures are a second old at most, so that some packets may still be counted that came before.
        let enough = packets(&before, "packets_received") + 150.0;
        let sent = std::cell::Cell::new(packets(&before, "packets_sent"));
        daemon.until(&["stats"], |stats| {
            let now = packets(stats, "packets_sent");
            assert!(now >= sent.replace(now), "it is another connection, which counts anew");
            packets(stats, "packets_received") > enough
        });
        println!("three seconds of media {:.1} s after the network was gone", cut.elapsed().as_secs_f64());
    }
}

/// The longest stretch, in ms, in which something was said and nothing heard: 10 ms blocks, 40 dB below what was said.
fn longest_silence_ms(said: &[f32], heard: &[f32]) -> usize {
    let power = |block: &[f32]| block.iter().map(|sample| sample * sample).sum::<f32>() / block.len() as f32;
    let (mut longest, mut current) = (0, 0);
    for (said, heard) in said.chunks_exact(10 * PER_MS).zip(heard.chunks_exact(10 * PER_MS)) {
        let speaks = power(said) > 1e-4;
        current = if speaks && power(heard) < power(said) * 1e-4 { current + 10 } else { 0 };
        longest = longest.max(current);
    }
    longest
}

/// 10 % random loss and an outage of 60 ms every 2 s, on all UDP, signals included.
#[test]
fn speech_survives_random_loss_and_short_outages() {
    const OUTAGE_MS: usize = 60;
    const SECONDS: usize = 20;
    const PIECE: usize = 500 * PER_MS;
    /// The last two seconds may be cut off by the end of the call.
    const PIECES: usize = (SECONDS - 2) * 2;
    let namespace = Namespace::new();
    let mut firewall = namespace.firewall();
    firewall.lose_percent(10);
    let files = tempfile::tempdir().unwrap();
    let (said_path, heard_path) = (files.path().join("said.wav"), files.path().join("heard.wav"));
    let clip = speech(2.0);
    wav::write(&said_path, &clip);
    let daemon_with = |audio: String| {
        let config = format!("[audio]\nbackend = \"file\"\n{audio}\n[call]\nauto_accept = \"all\"\n");
        Daemon::start_with(Start { config, through: namespace.enter(), ..Start::default() })
    };
    let mut ada = daemon_with(format!("input_file = {said_path:?}"));
    let mut ben = daemon_with(format!("output_file = {heard_path:?}"));
    talk(&mut ada, &mut ben);

    let mut worst_playout_ms = 0.0_f64;
    let (begin, mut outages) = (Instant::now(), 0_u32);
    while begin.elapsed() < Duration::from_secs(SECONDS as u64) {
        firewall.outage(true);
        pause(Duration::from_millis(OUTAGE_MS as u64));
        firewall.outage(false);
        outages += 1;
        if let Some(playout_ms) = leg_number(&ben.json(&["stats"]), "playout_delay_ms") {
            worst_playout_ms = worst_playout_ms.max(playout_ms);
        }
        pause((begin + Duration::from_secs(2) * outages).saturating_duration_since(Instant::now()));
    }
    ada.terminate();
    ben.terminate();

    let heard = wav::read(&heard_path);
    let mut haystack = Haystack::new(heard.clone());
    // It is said again and again, and its first words may be the ones that a busy machine breaks.
    let lags = 0..haystack.lags(clip.len());
    let Some((fits_best, _)) = haystack.best(&clip, lags) else { panic!("nothing was heard") };
    let first = fits_best % clip.len();
    let (mut correlations, mut silence_ms) = (Vec::new(), 0);
    // Half a second at a time, each where it must be, give or take what the jitter buffer stretches.
    for (number, piece) in clip.chunks_exact(PIECE).cycle().enumerate().take(PIECES) {
        let around = first + number * PIECE;
        let lags = around.saturating_sub(200 * PER_MS)..around + 200 * PER_MS;
        let Some((at, correlation)) = haystack.best(piece, lags) else { break };
        correlations.push(correlation);
        silence_ms = silence_ms.max(longest_silence_ms(piece, &heard[at..at + PIECE]));
    }
    let mean = correlations.iter().sum::<f32>() / correlations.len() as f32;
    println!(
        "10 % loss, {outages} outages of {OUTAGE_MS} ms: correlation {mean:.3} (worst {:.3} of {}), playout delay {worst_playout_ms:.0} ms, \
         longest silence {silence_ms} ms",
        correlations.iter().copied().fold(1.0, f32::min),
        correlations.len(),
    );
    assert_eq!(correlations.len(), PIECES, "not everything that was said was heard");
    assert!(mean >= 0.85, "correlation {mean}: {correlations:?}");
    assert!(worst_playout_ms > 0.0 && worst_playout_ms <= 150.0, "playout delay {worst_playout_ms} ms");
    assert!(silence_ms <= OUTAGE_MS, "a silence of {silence_ms} ms");
}

/// Stopped as a whole, as when the machine does something else: once who listens, once who speaks.
#[test]
fn half_a_second_in_which_a_daemon_does_not_run_is_made_good() {
    const STALL: Duration = Duration::from_millis(500);
    /// Two seconds are usual; a busy machine takes its time.
    const LIMIT: Duration = Duration::from_secs(10);
    let files = tempfile::tempdir().unwrap();
    let said_path = files.path().join("said.wav");
    wav::write(&said_path, &speech(2.0));
    let config =
        |input: &Path| format!("[audio]\nbackend = \"file\"\ninput_file = {input:?}\n[call]\nauto_accept = \"all\"\n");
    let mut ada = Daemon::start(&config(&said_path));
    let mut ben = Daemon::start(&config(Path::new("")));
    talk(&mut ada, &mut ben);
    let at_least =
        |stats: &Value, field: &str, least: f64| leg_number(stats, field).is_some_and(|value| value >= least);
    for listener_stalls in [true, false] {
        let mut packets = 0.0;
        // Once more than two seconds were heard since the last stall, or the beginning.
        let mut heard_on = |ben: &mut Daemon, wanted: &dyn Fn(&Value) -> bool| {
            let stats = ben.until(&["stats"], |stats| {
                at_least(stats, "packets_received", packets + 150.0)
                    && at_least(stats, "level_db", -60.0)
                    && wanted(stats)
            });
            packets = leg_number(&stats, "packets_received").unwrap_or(packets);
            leg_number(&stats, "playout_delay_ms").unwrap_or(f64::INFINITY)
        };
        let before_ms = heard_on(&mut ben, &|stats| at_least(stats, "playout_delay_ms", 0.0));
        let stalled = if listener_stalls { &ben } else { &ada };
        stalled.signal(Signal::STOP);
        pause(STALL);
        stalled.signal(Signal::CONT);
        let resumed = Instant::now();
        let after_ms = heard_on(&mut ben, &|stats| {
            let after_ms = leg_number(stats, "playout_delay_ms");
            // The limit is looked at here, so that what it was then is what is told.
            resumed.elapsed() > LIMIT || after_ms.is_some_and(|after_ms| after_ms <= before_ms + 30.0)
        });
        let seconds = resumed.elapsed().as_secs_f64();
        println!(
            "playout delay {before_ms:.0} ms before half a second's stall, {after_ms:.0} ms {seconds:.1} s after it"
        );
        assert!(after_ms <= before_ms + 30.0, "{after_ms} ms after {seconds:.1} s, {before_ms} ms before");
    }
}

/// The tests' own clock: the length of an outage is what is being tested, so that there is no condition to wait for.
fn pause(span: Duration) {
    let until = Instant::now() + span;
    while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        std::thread::park_timeout(rest);
    }
}
