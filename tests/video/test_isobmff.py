"""The display matrix, written where a film of MP4's family has it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from vrestore.errors import OutputError
from vrestore.video.isobmff import write_display_matrix


def _box(name: bytes, payload: bytes, wide: bool = False) -> bytes:
    if wide:
        return struct.pack(">I4sQ", 1, name, len(payload) + 16) + payload
    return struct.pack(">I4s", len(payload) + 8, name) + payload


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("wide", [False, True])
def test_a_matrix_is_written_into_the_right_track_and_nowhere_else(
    version: int, wide: bool, tmp_path: Path
) -> None:
    def track(kind: bytes) -> bytes:
        header = bytes([version]) + b"\x11" * (51 if version else 39) + b"M" * 36 + b"\x22" * 8
        media = _box(b"mdia", _box(b"hdlr", bytes(8) + kind + bytes(12)))
        return _box(b"trak", _box(b"tkhd", header) + media, wide)

    def film(matrix: bytes) -> bytes:
        tracks = [track(b"soun"), track(b"vide"), track(b"vide")]
        tracks[2] = tracks[2].replace(b"M" * 36, matrix)
        data = _box(b"mdat", b"vide" * 20, wide)
        return _box(b"ftyp", b"isom") + data + _box(b"moov", b"".join(tracks), wide)

    matrix = (0, 65536, 0, -65536, 0, 0, 320 << 16, 0, 1 << 30)
    path = tmp_path / "film.mp4"
    path.write_bytes(film(b"M" * 36))
    write_display_matrix(path, 1, matrix)
    assert path.read_bytes() == film(struct.pack(">9i", *matrix))
    with pytest.raises(OutputError, match="no track header"):
        write_display_matrix(path, 2, matrix)
