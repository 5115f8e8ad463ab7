"""The boxes of MP4 and QuickTime files, ISO/IEC 14496-12: their extent, the display matrix."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vrestore.errors import OutputError

# Bytes from a tkhd box's payload to its matrix, by version: 32 or 64 bit times before it.
_MATRIX_AT = {0: 40, 1: 52}


def write_display_matrix(path: Path, video_track: int, matrix: tuple[int, ...]) -> None:
    """Set the matrix (8.3.2) of the ``video_track``-th track (from 0) that holds pictures.

    ``matrix``: nine entries in 16.16 and 2.30 fixed point, as stored. FFmpeg before 6.1 has no
    option for it, later ones set rotation and mirror only, not the offset. Changes 36 bytes in
    place. Raises OutputError where the file has no such track.
    """
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        moov = next(_boxes(file, 0, end, b"moov"), None)
        tracks = _boxes(file, *moov, b"trak") if moov else iter(())
        pictures = [track for track in tracks if _handler(file, track) == b"vide"]
        header = None
        if video_track < len(pictures):
            header = next(_boxes(file, *pictures[video_track], b"tkhd"), None)
        if header is None:
            raise OutputError(f"{path}: holds no track header to write the rotation into")
        file.seek(header[0])
        version = file.read(1)[0]
        file.seek(header[0] + _MATRIX_AT[version])
        file.write(struct.pack(">9i", *matrix))


def top_level_end(file: BinaryIO) -> int | None:
    """Where the last box of media or their description ends; None where there is none."""
    end = file.seek(0, 2)
    kinds = (b"mdat", b"moov", b"moof")
    return max((to for kind in kinds for _, to in _boxes(file, 0, end, kind)), default=None)


def _boxes(file: BinaryIO, start: int, end: int, kind: bytes) -> Iterator[tuple[int, int]]:
    """Payloads (from, to) of the boxes called ``kind`` between two offsets; 4.2 of the standard."""
    at = start
    while at + 8 <= end:
        file.seek(at)
        size, name = struct.unpack(">I4s", file.read(8))
        payload = at + 8
        if size == 1:
            size = struct.unpack(">Q", file.read(8))[0]
            payload += 8
        elif size == 0:
            size = end - at
        if size < payload - at:
            return
        if name == kind:
            yield payload, at + size
        at += size


def _handler(file: BinaryIO, track: tuple[int, int]) -> bytes:
    """What a track holds: ``vide``, ``soun``, ...; 8.4.3 of the standard."""
    for media in _boxes(file, *track, b"mdia"):
        for payload, _ in _boxes(file, *media, b"hdlr"):
            file.seek(payload + 8)
            return file.read(4)
    return b""
