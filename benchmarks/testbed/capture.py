"""What goes over the links, and what a site can reach."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence

from benchmarks.testbed.bed import Testbed

__all__ = ["Capture", "probe"]


class Capture:
    """Every packet on the coordinator's side of each link."""

    def __init__(self, links: Sequence[str]) -> None:
        self.data, self.packets, self.ports = bytearray(), 0, set[int]()
        self._sockets = []
        for link in links:
            line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            line.bind((link, 0))
            line.settimeout(0.5)
            self._sockets.append(line)
        self._threads = [
            threading.Thread(target=self._read, args=(line,), daemon=True) for line in self._sockets
        ]
        self._over = False
        for thread in self._threads:
            thread.start()

    def _read(self, line: socket.socket) -> None:
        while not self._over:
            try:
                packet = line.recv(1 << 18)
            except TimeoutError:
                continue
            self.packets += 1
            self.data += packet
            if packet[12:14] == b"\x08\x00" and packet[23] == 6:  # IPv4, TCP
                start = 14 + (packet[14] & 15) * 4
                _, target = struct.unpack_from(">HH", packet, start)
                flags = packet[start + 13]
                if flags & 0x12 == 0x02:  # a connection is asked for
                    self.ports.add(target)

    def stop(self) -> None:
        self._over = True
        for thread in self._threads:
            thread.join()


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
