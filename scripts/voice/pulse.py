"""One call of two real daemons, each with a headless PulseAudio and in a network namespace of its own, over a bad network.

The voices are played into the first one's microphone inside its server, so that no feeder adds delay. That sink and the
other one's speaker are recorded alike, so that what recording takes drops out of the difference.
"""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np
import soundfile
from scipy.signal import correlate

import stage as stages
from clips import RATE_HZ
from stage import ask, until

# What scripts/bench-voice calls these networks, in words of switch.py.
NETWORKS = {
    "clean": {},
    "loss-05": {"loss": 0.05},
    "loss-10": {"loss": 0.10},
    "loss-20": {"loss": 0.20},
    "loss-30": {"loss": 0.30},
    "outages": {"outages": True},
    "jitter": {"delay_ms": 40, "jitter_ms": 20},
    "recovery": {"loss": 0.30, "until_s": 30},
    "unprocessed": {},
}
UNPROCESSED = """
audio.echo_cancellation = false
audio.noise_suppression = false
audio.auto_gain = false
audio.high_pass = false
"""
TAIL_S = 1.0


class Recording:
    """What goes into a sink, and when its first sample was there (monotonic)."""

    def __init__(self, stage, server, sink):
        options = ["--raw", "--format=s16le", f"--rate={RATE_HZ}", "--channels=1", "--latency-msec=5"]
        self.process = subprocess.Popen(
            ["parec", f"--server={server}", *options, f"--device={sink}.monitor"], stdout=subprocess.PIPE, bufsize=0
        )
        stage.callback(self.stop)
        self.parts, self.samples, self.began_s = [], 0, float("inf")
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        odd = b""
        while part := os.read(self.process.stdout.fileno(), 1 << 16):
            now, part = time.monotonic(), odd + part
            odd = part[len(part) // 2 * 2 :]
            self.parts.append(part[: len(part) // 2 * 2])
            self.samples += len(part) // 2
            # The reading that came quickest tells best.
            self.began_s = min(self.began_s, now - self.samples / RATE_HZ)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.thread.join()

    def sound(self):
        return np.frombuffer(b"".join(self.parts), "<i2") / 32768


def namespace(stage):
    """The number of a process that holds a new network namespace."""
    words = ["unshare", "--net", "--", "sh", "-c", "ip link set lo up && echo up && exec cat"]
    holder = stage.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    stage.callback(holder.kill)
    if holder.stdout.readline() != "up\n":
        raise RuntimeError("a network namespace could not be made; this needs root")
    return str(holder.pid)


def switch(stage, namespaces):
    words = [sys.executable, pathlib.Path(__file__).with_name("switch.py"), *namespaces]
    process = stage.enter_context(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    stage.callback(process.kill)
    if process.stdout.readline() != "up\n":
        raise RuntimeError("the network between the namespaces could not be made; this needs root and /dev/net/tun")
    return process


def begin_of(reference, recorded):
    """The sample of the recording at which the reference begins."""
    speaks = int(np.argmax(np.abs(reference) > 0.01))
    piece = reference[speaks : speaks + 3 * RATE_HZ]
    return int(np.argmax(correlate(recorded[: 8 * RATE_HZ], piece, "valid", "fft"))) - speaks


def call(stage, binary, folder, network, seed):
    """Returns the run's figures and what was heard, which begins when sample 0 of the reference was said."""
    reference = soundfile.read(folder / "reference.wav")[0]
    namespaces = [namespace(stage) for _ in range(2)]
    path = switch(stage, namespaces)
    servers = [stages.sound_server(stage) for _ in range(2)]
    pair = [
        stages.Daemon(
            stage,
            binary,
            "pulseaudio",
            inside=("nsenter", "--target", pid, "--net", "--"),
            address=f"10.78.0.{number}",
            interface="path",
            more=UNPROCESSED if network == "unprocessed" else "",
            PULSE_SERVER=server,
        )
        for number, (pid, server) in enumerate(zip(namespaces, servers), 1)
    ]
    ask("pactl", "-s", servers[0], "upload-sample", str(folder / "reference.wav"), "voices").check_returncode()
    stages.call(pair)
    microphone, speaker = Recording(stage, servers[0], "microphone"), Recording(stage, servers[1], "speaker")
    until("both are recorded", lambda: microphone.samples and speaker.samples)
    path.stdin.write(json.dumps({**NETWORKS[network], "seed": seed}) + "\n")
    path.stdin.flush()
    spent_s, begun_s = [daemon.spent_s() for daemon in pair], time.monotonic()
    ask("pactl", "-s", servers[0], "play-sample", "voices", "microphone").check_returncode()
    seconds, stages_ms = [], []
    length_s = len(reference) / RATE_HZ + TAIL_S
    while (at_s := time.monotonic() - begun_s) < length_s:
        leg = pair[1].json("stats")["legs"][0]
        seconds.append({key: leg[key] for key in ("jitter_buffer_ms", "concealed_pct")})
        own = pair[0].json("stats")["legs"][0]["delay_ms"]
        stages_ms.append({**leg["delay_ms"], **{stage: own[stage] for stage in ("capture", "processing", "frame")}})
        time.sleep(max(0, min(len(seconds), length_s) - at_s))
    percent = [100 * (d.spent_s() - spent) / (time.monotonic() - begun_s) for d, spent in zip(pair, spent_s)]
    microphone.stop()
    speaker.stop()
    path.stdin.close()
    wire = json.loads(path.stdout.readline())
    said_s = microphone.began_s + begin_of(reference, microphone.sound()) / RATE_HZ
    skip = (said_s - speaker.began_s) * RATE_HZ
    run = {
        "phase_ms": 1000 * (np.ceil(skip) - skip) / RATE_HZ,
        "seconds": [{**own, **sent} for own, sent in zip(seconds, wire)],
        "stages_ms": {stage: np.mean([each[stage] or 0 for each in stages_ms]) for stage in leg["delay_ms"]},
        "processor_pct": max(percent),
        "memory_mb": max(daemon.memory_mb("Pss") for daemon in pair),
    }
    heard = speaker.sound()[int(np.ceil(skip)) :]
    soundfile.write(folder / f"pulse-{network}.wav", heard, RATE_HZ, "PCM_16")
    (folder / f"pulse-{network}.json").write_text(json.dumps(run))
    return run, heard
