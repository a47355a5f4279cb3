#!/usr/bin/env python3
"""Records when packets arrive that are sent every 20 ms, for the tests of the jitter buffer (src/audio/jitter/traces).

trace.py busy         over the loopback; keep all processors busy meanwhile, such as with `cargo build` of a clean tree.
trace.py bufferbloat  through a line of 1 Mbit/s between two namespaces, which the kernel's TCP (Reno) fills with an upload for
                      the second third of the time; needs root.

Prints a trace of a minute: the transit of each packet in ms, - where it was lost.
"""

import collections
import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
import time

from switch import MOST_BYTES, interface

SECONDS, EVERY_S, PORT = 60, 0.02, 5004
# As long as a packet of a voice with a copy.
PACKET = struct.Struct("!dI200x")
LINE_BYTES_A_S, QUEUE_BYTES = 125_000, 40_000
COLUMNS = 25


def send(address):
    """When the first packet is due travels with each of them: all processes of a machine have the same clock."""
    to, first = socket.socket(type=socket.SOCK_DGRAM), time.monotonic() + 0.5
    for number in range(int(SECONDS / EVERY_S)):
        time.sleep(max(0.0, first + number * EVERY_S - time.monotonic()))
        to.sendto(PACKET.pack(first, number), (address, PORT))


def hear():
    heard, transits = socket.socket(type=socket.SOCK_DGRAM), ["-"] * int(SECONDS / EVERY_S)
    heard.bind(("", PORT))
    heard.settimeout(5)
    print("ready", file=sys.stderr, flush=True)
    with contextlib.suppress(TimeoutError):
        while True:
            first, number = PACKET.unpack(heard.recv(MOST_BYTES))
            transits[number] = f"{(time.monotonic() - first - number * EVERY_S) * 1000:.1f}"
    for begin in range(0, len(transits), COLUMNS):
        print(*transits[begin : begin + COLUMNS])


def upload(address):
    """All that TCP takes, for the second third of the time."""
    time.sleep(SECONDS / 3)
    with socket.create_connection((address, PORT)) as to:
        to.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        end = time.monotonic() + SECONDS / 3
        while time.monotonic() < end:
            to.send(bytes(1 << 14))


def take():
    with socket.create_server(("", PORT)) as server:
        taken, _ = server.accept()
        while taken.recv(1 << 16):
            pass


def line(ends):
    """Carries packets: from the first end as fast as the line is, behind what waits, and back at once."""
    queue, free_at = collections.deque(), time.monotonic()
    while True:
        wait_s = max(0.0, free_at - time.monotonic()) if queue else None
        ready, _, _ = select.select(ends, [], [], wait_s)
        for end in ready:
            packet = os.read(end, MOST_BYTES)
            if end == ends[1]:
                os.write(ends[0], packet)
            elif sum(map(len, queue)) + len(packet) <= QUEUE_BYTES:
                free_at = max(free_at, time.monotonic()) if queue else time.monotonic() + len(packet) / LINE_BYTES_A_S
                queue.append(packet)
        while queue and free_at <= time.monotonic():
            os.write(ends[1], queue.popleft())
            free_at += len(queue[0]) / LINE_BYTES_A_S if queue else 0


def part(name, *words, inside=None):
    """Another process of this file, in the namespace of a process."""
    enter = ["nsenter", f"--net=/proc/{inside}/ns/net"] if inside else []
    return subprocess.Popen([*enter, sys.executable, "-B", __file__, name, *words], stderr=subprocess.PIPE, text=True)


def main():
    if sys.argv[1] != "bufferbloat":
        hears = part("hear")
        hears.stderr.readline()
        send("127.0.0.1")
        return hears.wait()
    # What else the machine does is not to be seen.
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    with contextlib.ExitStack() as stage:
        here, there = (subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) for _ in range(2))
        stage.callback(lambda: [process.kill() for process in (here, there)])
        time.sleep(0.5)  # Until the namespaces are there.
        ends = [interface(process.pid, f"10.78.0.{number}") for number, process in enumerate((here, there), 1)]
        carries = os.fork()
        if carries == 0:
            line(ends)
        stage.callback(lambda: os.kill(carries, 9))
        hears, takes = part("hear", inside=there.pid), part("take", inside=there.pid)
        stage.callback(takes.kill)
        hears.stderr.readline()
        stage.callback(part("upload", "10.78.0.2", inside=here.pid).kill)
        stage.callback(part("send", "10.78.0.2", inside=here.pid).kill)
        hears.wait()


if __name__ == "__main__":
    parts = {"send": send, "hear": hear, "upload": upload, "take": take}
    parts.get(sys.argv[1], lambda *_: main())(*sys.argv[2:])
