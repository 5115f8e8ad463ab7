"""What many tests need: shared media, an ffmpeg of either kind, and clips made on the spot."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

# Before torch is imported: the networks of the tests are too small to be worth a second thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real-world files and reference media; skips where this checkout has none."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} holds the shared media, and is not here")
    return SHARED


def ffmpeg_on_path() -> str | None:
    return shutil.which("ffmpeg")


def ffmpeg_of_the_wheel() -> str | None:
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):
        return None


@pytest.fixture(params=[ffmpeg_on_path, ffmpeg_of_the_wheel], ids=["path", "wheel"])
def either_ffmpeg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each ffmpeg that may meet our encoder: the one on PATH, and the one in imageio-ffmpeg."""
    program = request.param()
    if program is None:
        pytest.skip(f"no {request.param.__name__}")
    monkeypatch.setattr("vrestore.video.encode.ffmpeg_binary", lambda: program)
    return str(program)


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """``make_clip(name, *arguments)``: run ffmpeg with ``arguments``, then the path."""

    def make(name: str, *arguments: str) -> Path:
        program = ffmpeg_on_path() or ffmpeg_of_the_wheel()
        if program is None:
            pytest.skip("no ffmpeg to make clips with")
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [program, "-v", "error", "-nostdin", "-y", *arguments, f"file:{path}"]
        subprocess.run(command, check=True)
        return path

    return make


@pytest.fixture
def as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are kept themselves, as on a GPU, so that what holds them can be counted."""
    monkeypatch.setattr("vrestore.engine.kept.apart", lambda state: state)
