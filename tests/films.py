"""Films that tests make, and what independent witnesses say of a film."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest

from vrestore.video.ffmpeg import ffmpeg_binary

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared(name: str) -> Path:
    """A file of the shared material, or a skip."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs the shared material: {name}")
    return path


def ffmpeg(*arguments: object) -> bytes:
    """Run the real ffmpeg; its standard output."""
    command = [ffmpeg_binary(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def film(
    path: Path,
    frames: int = 12,
    size: str = "64x48",
    *,
    sound: bool = True,
    source: str = "testsrc2",
    options: tuple[str, ...] = ("-pix_fmt", "yuv420p"),
) -> Path:
    """A film of 24000/1001 frames a second, with a tone."""
    pictures = f"{source}=s={size}:r=24000/1001"
    tone = ["-f", "lavfi", "-i", "sine=440:r=48000"] if sound else []
    ffmpeg(
        "-f", "lavfi", "-i", pictures, *tone, "-frames:v", frames, "-t", frames / 20, *options, path
    )  # fmt: skip
    return path


def pts_of(path: Path) -> list[int]:
    """Presentation times of all film packets, in the stream's own ticks, sorted."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sorted(p.pts for p in container.demux(stream) if p.pts is not None)


def seconds_of(path: Path) -> list[float]:
    """Presentation times of all film packets in seconds."""
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
        assert base is not None
    return [float(pts * base) for pts in pts_of(path)]


def packets_of(path: Path, kind: str) -> list[bytes]:
    """The payload of every packet of all streams of a kind."""
    with av.open(str(path)) as container:
        streams = [s for s in container.streams if s.type == kind]
        return [bytes(p) for p in container.demux(streams) if p.size] if streams else []


def raw(path: Path, pix_fmt: str) -> np.ndarray:
    """All samples as ffmpeg decodes them, without turning: a witness that is not PyAV."""
    data = ffmpeg(
        "-noautorotate", "-i", path, "-map", "0:V:0", "-fps_mode", "passthrough",
        "-f", "rawvideo", "-pix_fmt", pix_fmt, "-",
    )  # fmt: skip
    return np.frombuffer(data, np.uint16 if "10" in pix_fmt else np.uint8).astype(int)


def ffprobe(path: Path, *arguments: str) -> dict[str, object]:
    """What ffprobe says, or a skip where there is none."""
    binary = shutil.which("ffprobe")
    if binary is None:
        pytest.skip("needs ffprobe")
    command = [binary, "-v", "error", "-of", "json", *arguments, str(path)]
    out: dict[str, object] = json.loads(
        subprocess.run(command, check=True, capture_output=True).stdout
    )
    return out
