"""Which ffmpeg is taken, and what is said where none will do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from copying import FAST, PICTURES, X264, MakeClip

from vrestore.errors import OutputError
from vrestore.video.encode import Encoder
from vrestore.video.ffmpeg import ffmpeg_binary, ffmpeg_version
from vrestore.video.frame import VideoInfo
from vrestore.video.probe import probe


def test_an_ffmpeg_is_found_without_one_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setenv("PATH", "")
    assert ffmpeg_version(ffmpeg_binary()) >= 5


def test_no_ffmpeg_at_all_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(OutputError, match="pip install imageio-ffmpeg"):
        ffmpeg_binary()
    with pytest.raises(OutputError, match="does not run"):
        ffmpeg_version(str(tmp_path / "nothing"))


@pytest.mark.skipif(os.name != "posix", reason="feigned by shell")
@pytest.mark.parametrize(
    ("banner", "version"),
    [("5.1.9-0+deb12u1", 5), ("n7.1-2-g2a57", 7), ("N-112-gabc", 99), ("git-2024-01", 99)],
)
def test_versions_are_read_whoever_built_it(banner: str, version: int, tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!/bin/sh\necho 'ffmpeg version {banner} Copyright'\n")
    program.chmod(0o755)
    assert ffmpeg_version(str(program)) == version


def test_an_ffmpeg_that_is_too_old_is_refused(
    make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info: VideoInfo = probe(make_clip("in.mp4", *PICTURES, *X264))
    monkeypatch.setattr("vrestore.video.encode.ffmpeg_version", lambda _: 4)
    with pytest.raises(OutputError, match="version 4; install ffmpeg 5"):
        Encoder(tmp_path / "out.mp4", info, 96, 64, FAST)
