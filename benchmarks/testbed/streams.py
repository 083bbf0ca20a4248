"""From packets to what each end of each TCP connection said, in order."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Connection", "connections"]

_FIN, _SYN, _ACK = 1, 2, 16


@dataclass
class _End:
    """Segments of one direction, and where they begin."""

    first: int | None = None
    segments: list[tuple[int, bytes]] = field(default_factory=list)

    def add(self, number: int, data: bytes) -> None:
        if data:
            self.segments.append((number, data))

    def joined(self) -> tuple[bytes, bool]:
        """The bytes up to the first that is missing, and whether any is."""
        start = self.first
        if start is None:  # it began before the capture did
            start = self.segments[0][0] if self.segments else 0
        made = bytearray()
        placed = sorted(
            (((n - start + (1 << 31)) & 0xFFFFFFFF) - (1 << 31), d) for n, d in self.segments
        )
        for offset, data in placed:
            if offset > len(made):
                return bytes(made), True
            made += data[len(made) - offset :]
        return bytes(made), False


@dataclass
class Connection:
    """Both directions of a TCP connection.

    Attributes
    ----------
    name : str
        ``address:port > address:port``, who asked first.
    sent, received : bytes
        What the side that asked said, and what it was told.
    whole : bool
        Whether the capture has all of it.
    """

    name: str
    sent: bytes
    received: bytes
    whole: bool


def connections(packets: Iterable[bytes], ports: Iterable[int]) -> list[Connection]:
    """Put the segments of all connections to ``ports`` in order; repeated ones count once.

    Parameters
    ----------
    packets : iterable of bytes
        Ethernet frames with IPv4, in any order but for connections that reuse a pair of ports.
    ports : iterable of int
        Ports that connections were asked for at.
    """
    asked, found = set(ports), []
    current: dict[tuple[bytes, int, bytes, int], tuple[_End, _End]] = {}
    for packet in packets:
        if packet[12:14] != b"\x08\x00" or packet[23] != 6:
            continue
        tcp = 14 + (packet[14] & 15) * 4
        total = 14 + struct.unpack_from(">H", packet, 16)[0]
        source, target, number = struct.unpack_from(">HHI", packet, tcp)
        flags, data = packet[tcp + 13], packet[tcp + (packet[tcp + 12] >> 4) * 4 : total]
        there = (packet[26:30], source, packet[30:34], target)
        back = (packet[30:34], target, packet[26:30], source)
        if flags & _SYN and not flags & _ACK:
            before = current.get(there)
            if before is None or before[0].first != (number + 1) & 0xFFFFFFFF:
                current[there] = (_End((number + 1) & 0xFFFFFFFF), _End())
                found.append((there, current[there]))
            continue
        key, end = (there, 0) if target in asked and there in current else (back, 1)
        if key not in current:
            key, end = (there, 0) if target in asked else (back, 1)
            current[key] = (_End(), _End())
            found.append((key, current[key]))
        if flags & _SYN:
            current[key][1].first = (number + 1) & 0xFFFFFFFF
        else:
            current[key][end].add(number, data)
    made = []
    for (source_ip, source, target_ip, target), ends in found:
        name = f"{socket.inet_ntoa(source_ip)}:{source} > {socket.inet_ntoa(target_ip)}:{target}"
        (sent, one), (received, other) = (end.joined() for end in ends)
        made.append(Connection(name, sent, received, not one and not other))
    return made
