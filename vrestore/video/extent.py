"""How many bytes a film's own structure says its file has: a shorter file was cut off."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from vrestore.video.isobmff import top_level_end

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067  # RFC 8794, 11.2.1; RFC 9559, 5.1
_TS_PACKET = 188  # bytes; ISO/IEC 13818-1, 2.4.3.2
_LARGEST_RIFF = 2**31  # longer AVIs are in several parts, which their writers count variously


def stated_bytes(path: Path) -> int | None:
    """The size that the file claims for itself; None where its kind, or this one, does not say.

    MP4 and QuickTime by their top-level boxes, Matroska and WebM by the Segment, AVI by RIFF; a
    transport stream is in whole packets.
    """
    with path.open("rb") as file:
        start = file.read(2 * _TS_PACKET)
        if start[:1] == start[_TS_PACKET : _TS_PACKET + 1] == b"\x47":
            return -(-file.seek(0, 2) // _TS_PACKET) * _TS_PACKET
        if start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
            return top_level_end(file)
        if start[:4] == struct.pack(">I", _EBML):
            return _segment_end(file)
        if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
            size = 8 + int.from_bytes(start[4:8], "little")
            return size if 12 < size < _LARGEST_RIFF else None
    return None


def _segment_end(file: BinaryIO) -> int | None:
    """Where the Segment behind the EBML header ends; None for one of unknown size (a live one)."""
    file.seek(4)
    header = _data_size(file)
    if header is None:
        return None
    file.seek(header, 1)
    if file.read(4) != struct.pack(">I", _SEGMENT):
        return None
    size = _data_size(file)
    return None if not size else file.tell() + size


def _data_size(file: BinaryIO) -> int | None:
    """An element's size, RFC 8794, 6: the leading zeros of its first byte give its length."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    length = 9 - first[0].bit_length()
    bits = 7 * length
    value = int.from_bytes(first + file.read(length - 1), "big") & ((1 << bits) - 1)
    return None if value == (1 << bits) - 1 else value
