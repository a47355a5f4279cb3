"""Real daemons on a stage of their own, for the measuring scripts: what is started there ends with it.

They are driven by their command line and know nothing of the user's own files, bus and sound server.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

# How long anything may take that happens within a second on a quiet machine.
PATIENCE_S = 60

CONFIG = """
network.listen = ["/ip4/{address}/udp/0/quic-v1", "/ip4/{address}/tcp/0"]
network.mdns = false
network.dht = false
network.ice_interfaces = ["{interface}"]
audio.backend = "{backend}"
call.auto_accept = "all"
{more}
"""

# The microphone and the speaker are a null sink each.
SOUND_SERVER = """
load-module module-native-protocol-unix auth-anonymous=1 socket={home}/native
load-module module-null-sink sink_name=microphone rate=48000 channels=1
load-module module-null-sink sink_name=speaker rate=48000 channels=1
set-default-source microphone.monitor
set-default-sink speaker
"""


def until(what, condition):
    """Waits until the condition returns something true, and returns that."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.02)
    return value


def ask(*command):
    return subprocess.run(command, capture_output=True, check=False, text=True, timeout=PATIENCE_S)


def new_home(stage):
    return stage.enter_context(tempfile.TemporaryDirectory(prefix="telecon-bench-"))


def start(stage, command, home, stdout=subprocess.DEVNULL, **more_env):
    """A process that knows nothing of the user's own files, bus and sound server, and ends with the stage."""
    env = {"PATH": os.environ["PATH"], "HOME": home, "XDG_RUNTIME_DIR": home, "PULSE_RUNTIME_PATH": home}
    env |= {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent", **more_env}
    streams = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": subprocess.DEVNULL}
    process = stage.enter_context(subprocess.Popen(command, env=env, cwd=home, text=True, **streams))

    def end():
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()

    stage.callback(end)
    return process


def sound_server(stage):
    """The address of a PulseAudio that answers."""
    home = new_home(stage)
    address, script = f"unix:{home}/native", pathlib.Path(home, "stage.pa")
    script.write_text(SOUND_SERVER.format(home=home))
    options = ["-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--log-level=error"]
    server = start(stage, ["pulseaudio", *options, "-F", script], home)
    until("PulseAudio answers", lambda: ask("pactl", "-s", address, "info").returncode == 0)
    if (policy := os.sched_getscheduler(0)) != os.SCHED_OTHER:  # It lets go of what it inherits.
        os.sched_setscheduler(server.pid, policy, os.sched_getparam(0))
    return address


class Daemon:
    """A daemon that listens and answers."""

    def __init__(self, stage, binary, backend, inside=(), address="127.0.0.1", interface="lo", more="", **env):
        """`inside` is the command that enters a network namespace, where that interface has that address; `more` is further
        configuration."""
        home = new_home(stage)
        self.command = [binary, "--home", home]
        pathlib.Path(home, "telecon.toml").write_text(CONFIG.format(backend=backend, address=address, interface=interface, more=more))
        self.process = start(stage, [*inside, *self.command, "daemon"], home, **env)
        until("the daemon answers", lambda: ask(*self.command, "status").returncode == 0)
        own = until("the daemon listens", lambda: (own := self.json("id"))["listen"] and own)
        self.did, self.address = own["did"], own["listen"][0]
        if env:
            until("it finds PulseAudio", lambda: self.json("status")["audio"]["backend"] == "pulseaudio")

    def json(self, *verb):
        done = ask(*self.command, *verb, "--json")
        if done.returncode != 0:
            raise RuntimeError(f"{verb[0]}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def states(self):
        return {other["did"]: other["state"] for call in self.json("calls")["calls"] for other in call["participants"]}

    def legs(self, figure):
        return [leg[figure] for leg in self.json("stats")["legs"] if leg[figure] is not None]

    def spent_s(self):
        """Processor time of all threads so far: the clock of clock_getcpuclockid(3), as /proc/PID/stat has 10 ms steps."""
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def memory_mb(self, field):
        text = pathlib.Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M)[1]) * 1.024e-3


def connect(daemons):
    for at, daemon in enumerate(daemons):
        for other in daemons[:at]:
            daemon.json("connect", other.address)
    for daemon in daemons:
        until("all are connected", lambda d=daemon: d.json("status")["peers"] == len(daemons) - 1)


def call(daemons):
    """The first calls the others; returns when everybody has everybody's audio."""
    connect(daemons)
    daemons[0].json("call", *(daemon.did for daemon in daemons[1:]))
    for daemon in daemons:
        until("all have audio", lambda d=daemon: len(d.legs("connected_ms")) == len(daemons) - 1)
    return daemons
