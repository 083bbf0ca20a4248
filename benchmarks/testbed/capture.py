"""What goes over the links, and what a site can reach."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.testbed.bed import Testbed

__all__ = ["Capture", "capturable", "probe"]

#: Of Linux: statistics of a packet socket, and its buffer beyond the usual bound.
_SOL_PACKET, _STATISTICS, _BUFFER = 263, 6, 33
_ECHO = 4  # a packet that this machine sent: on the loopback each is seen twice


def capturable() -> bool:
    """Whether this process may look at packets."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).close()
    except (OSError, AttributeError):
        return False
    return True


class Capture:
    """Every packet on the coordinator's side of each link.

    Parameters
    ----------
    links : sequence of str
        Devices.
    port : int, optional
        TCP port that is looked at alone, where the link carries other things too.
    """

    def __init__(self, links: Sequence[str], port: int | None = None) -> None:
        self.packets: list[bytes] = []
        self.ports, self.lost = set[int](), 0
        self._times: list[float] = []
        self._port, self._over = port, False
        self._sockets = []
        for link in links:
            line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            line.setsockopt(socket.SOL_SOCKET, _BUFFER, 64 << 20)
            line.bind((link, 0))
            line.settimeout(0.5)
            self._sockets.append(line)
        self._threads = [
            threading.Thread(target=self._read, args=(line, link == "lo"), daemon=True)
            for line, link in zip(self._sockets, links, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, line: socket.socket, loopback: bool) -> None:
        while not self._over:
            try:
                packet, sender = line.recvfrom(1 << 18)
            except TimeoutError:
                continue
            if loopback and sender[2] == _ECHO:
                continue
            tcp = packet[12:14] == b"\x08\x00" and packet[23] == 6  # IPv4
            start = 14 + (packet[14] & 15) * 4
            ports = struct.unpack_from(">HH", packet, start) if tcp else ()
            if self._port is not None and self._port not in ports:
                continue
            self.packets.append(packet)
            self._times.append(time.time())
            if tcp and packet[start + 13] & 0x12 == 0x02:  # a connection is asked for
                self.ports.add(ports[1])

    def stop(self) -> None:
        """End it; ``lost`` then counts packets that this process was too slow for."""
        self._over = True
        for thread in self._threads:
            thread.join()
        for line in self._sockets:
            told = line.getsockopt(_SOL_PACKET, _STATISTICS, 8)
            self.lost += struct.unpack("II", told)[1]
            line.close()

    def save(self, file: Path) -> None:
        """Write all packets as pcap, which Wireshark reads beside the session keys; mode 0600."""
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1))
            for when, packet in zip(self._times, self.packets, strict=True):
                parts = (int(when), int(when % 1 * 1e6), len(packet), len(packet))
                out.write(struct.pack("<IIII", *parts) + packet)


PROBE = """
import socket, sys
def open_(host, port):
    try:
        socket.create_connection((host, int(port)), 1.5).close()
        return "open"
    except OSError as error:
        return type(error).__name__
for target in sys.argv[1:]:
    print(target, open_(*target.split(":")))
"""


def probe(bed: Testbed, site: str, targets: Sequence[str]) -> dict[str, str]:
    """What a site can connect to."""
    done = subprocess.run(
        bed._inside([sys.executable, "-c", PROBE, *targets], site),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split() for line in done.stdout.splitlines())
