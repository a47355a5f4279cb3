#!/usr/bin/env python3
"""A network between two namespaces that loses and delays packets: switch.py NAMESPACE-PID NAMESPACE-PID.

Each namespace gets an interface `path` (10.78.0.1 and 10.78.0.2); this process carries what they send (TUN), in both
directions alike. Lines of JSON on the standard input say how, from that moment on: loss, outages, delay_ms, jitter_ms,
until_s, seed. What is read from the first interface is counted for each second from the latest such line on; at the end of
the input a line of JSON tells it. Needs root.
"""

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
CLONE_NEWNET = 0x40000000
MOST_BYTES = 2048
OUTAGE_EVERY_S, OUTAGE_S = 2.0, (0.1, 0.2)
CLEAN = {"loss": 0, "outages": False, "delay_ms": 0, "jitter_ms": 0, "until_s": None, "seed": 1}


def enter(namespace):
    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "a network namespace cannot be entered")


def interface(pid, address):
    """The other end of a new interface in that process's namespace."""
    with open("/proc/self/ns/net") as own, open(f"/proc/{pid}/ns/net") as other:
        enter(other)
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", b"path", IFF_TUN | IFF_NO_PI))
        for words in (f"address add {address}/24 dev path", "link set path up", "route add default dev path"):
            subprocess.run(["ip", *words.split()], check=True)
        enter(own)
        return end


def is_media(packet):
    """SRTP or SRTCP over UDP over IPv4 (RFC 7983, section 7)."""
    return len(packet) > 28 and packet[0] == 0x45 and packet[9] == 17 and 128 <= packet[28] <= 191


class Impairment:
    """What happens to packets of one direction."""

    def __init__(self, rules, direction, now):
        self.rules, self.began = {**CLEAN, **rules}, now
        self.random = random.Random(self.rules["seed"] * 2 + direction)
        self.number, self.length_s = 0, 0.0

    def arrival(self, now):
        """When a packet sent now comes out, or None."""
        rules, at = self.rules, now - self.began
        chance, jitter = self.random.random(), self.random.uniform(-1, 1) * rules["jitter_ms"] / 1000
        if rules["until_s"] is not None and at >= rules["until_s"]:
            return now + rules["delay_ms"] / 1000
        number, since = divmod(at, OUTAGE_EVERY_S)
        if number > self.number:
            self.number, self.length_s = number, self.random.uniform(*OUTAGE_S)
        if chance < rules["loss"] or (rules["outages"] and since < self.length_s):
            return None
        return now + rules["delay_ms"] / 1000 + jitter


def main():
    ends = [interface(pid, f"10.78.0.{number}") for number, pid in enumerate(sys.argv[1:3], 1)]
    poll = select.poll()
    for source in [*ends, sys.stdin.fileno()]:
        poll.register(source, select.POLLIN)
    print("up", flush=True)
    now = time.monotonic()
    impairments, seconds = [Impairment({}, direction, now) for direction in (0, 1)], []
    order, under_way = 0, []  # heap of (arrival, order, to, packet)
    while True:
        wait_ms = None if not under_way else max(0.0, (under_way[0][0] - time.monotonic()) * 1000)
        # poll() rounds up to whole milliseconds; the last one is waited for actively.
        ready = poll.poll(wait_ms if wait_ms is None or wait_ms > 1 else 0)
        now = time.monotonic()
        for source, _ in ready:
            if source == sys.stdin.fileno():
                line = sys.stdin.readline()
                if not line:
                    print(json.dumps(seconds), flush=True)
                    return
                impairments = [Impairment(json.loads(line), direction, now) for direction in (0, 1)]
                seconds = []
                continue
            direction = ends.index(source)
            while True:
                try:
                    packet = os.read(source, MOST_BYTES)
                except BlockingIOError:
                    break
                arrival = impairments[direction].arrival(now)
                if direction == 0:
                    second = int(now - impairments[0].began)
                    while len(seconds) <= second:
                        seconds.append({"wire_bytes": 0, "packets": 0, "lost": 0})
                    if is_media(packet):
                        seconds[-1]["wire_bytes"] += len(packet)
                        seconds[-1]["packets"] += 1
                        seconds[-1]["lost"] += arrival is None
                if arrival is not None:
                    order += 1
                    heapq.heappush(under_way, (arrival, order, ends[1 - direction], packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(under_way)
            try:
                os.write(end, packet)
            except BlockingIOError:
                pass  # Its queue is full, as a router's may be.


if __name__ == "__main__":
    main()
