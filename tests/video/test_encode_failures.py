"""An output that is refused, breaks off or is interrupted: what is said, what is left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from copying import FAST, PICTURES, X264, MakeClip, copy_film, leftovers

from vrestore.errors import OutputError, UsageError
from vrestore.video import encode
from vrestore.video.decode import Decoder
from vrestore.video.encode import Encoder, EncodeSettings
from vrestore.video.frame import Frame
from vrestore.video.partial import partial_name
from vrestore.video.probe import probe


def test_options_that_contradict_each_other_are_refused(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    info = probe(make_clip("in.mp4", *PICTURES, *X264))
    for settings in (
        EncodeSettings(codec="ffv1", crf=20),
        EncodeSettings(crf=20, bitrate="1M"),
        EncodeSettings(crf=52),
        EncodeSettings(codec="libx265", crf=-1),
        EncodeSettings(pix_fmt="bayer_rggb8"),
    ):
        with pytest.raises(UsageError):
            Encoder(tmp_path / "out.mkv", info, 96, 64, settings)


@pytest.mark.parametrize(
    ("where", "name"),
    [(subprocess, "Popen"), (encode.threading.Thread, "start"), (av, "open")],
    ids=["before ffmpeg", "behind it", "before the pipe"],
)
def test_an_interrupt_while_the_output_is_opened_leaves_nothing_behind(
    where: Any, name: str, make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, out = probe(make_clip("in.mp4", *PICTURES, *X264)), tmp_path / "out"
    out.mkdir()
    original, seen = getattr(where, name), []

    def interrupted(*args: Any, **how: Any) -> Any:
        if not list(out.iterdir()):  # it is called for other ends, too
            return original(*args, **how)
        seen.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(where, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        Encoder(out / "out.mkv", info, 96, 64, FAST)
    assert seen
    assert list(out.iterdir()) == []


def test_the_film_itself_is_never_the_output(make_clip: MakeClip, tmp_path: Path) -> None:
    source = make_clip("in.mp4", *PICTURES, *X264)
    link, twin = tmp_path / "link.mp4", tmp_path / "twin.mp4"
    link.symlink_to(source)
    os.link(source, twin)
    content = source.read_bytes()
    for target in (source, link, twin, tmp_path / "." / "in.mp4"):
        with pytest.raises(UsageError, match="is the film that is being read"):
            copy_film(source, target, overwrite=True)
    assert source.read_bytes() == content


def test_an_output_that_exists_is_kept_unless_told(make_clip: MakeClip, tmp_path: Path) -> None:
    source = make_clip("in.mp4", *PICTURES, *X264)
    target = tmp_path / "out.mp4"
    target.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        copy_film(source, target)
    assert target.read_text() == "precious"
    copy_film(source, target, overwrite=True)
    assert probe(target).frame_count == 50
    assert leftovers(tmp_path) == []


def test_an_output_that_appears_meanwhile_is_kept(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip("in.mp4", *PICTURES, *X264))
    target = tmp_path / "out.mp4"
    encoder = Encoder(target, info, 96, 64, FAST)
    for frame in Decoder(info):
        encoder.write(frame)
    target.write_text("somebody else's")
    with pytest.raises(OutputError, match="exists already"):
        encoder.close()
    assert target.read_text() == "somebody else's"
    assert leftovers(tmp_path) == []


def test_a_folder_that_is_not_there_is_told_at_once(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip("in.mp4", *PICTURES, *X264))
    with pytest.raises(OutputError, match="no such folder"):
        Encoder(tmp_path / "nowhere" / "out.mp4", info, 96, 64, FAST)
    (tmp_path / "out.mp4").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        Encoder(tmp_path / "out.mp4", info, 96, 64, FAST, overwrite=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told_at_once(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    info = probe(make_clip("in.mp4", *PICTURES, *X264))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot be written to"):
        Encoder(closed / "out.mp4", info, 96, 64, FAST)


def test_the_partial_film_has_another_name_and_goes_on_abort(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    info = probe(make_clip("in.mp4", *PICTURES, *X264))
    encoder = Encoder(tmp_path / "out.mp4", info, 96, 64, FAST)
    for frame in Decoder(info):
        encoder.write(frame)
    assert leftovers(tmp_path) == [partial_name(tmp_path / "out.mp4")]
    assert not (tmp_path / "out.mp4").exists()
    child = encoder._child
    encoder.abort()
    assert child.poll() is not None
    assert leftovers(tmp_path) == []
    encoder.abort()
    with pytest.raises(ValueError, match="closed"):
        encoder.write(frame)


def test_an_exception_within_leaves_nothing_behind(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip("in.mp4", *PICTURES, *X264))
    with (
        pytest.raises(KeyboardInterrupt),
        Encoder(tmp_path / "out.mp4", info, 96, 64, FAST) as encoder,
    ):
        for frame in Decoder(info):
            encoder.write(frame)
            raise KeyboardInterrupt
    assert encoder._child.poll() is not None
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_ffmpeg_ends_with_us_and_leaves_no_finished_name(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mp4", *PICTURES, *X264)
    code = (
        "import os, sys, pathlib\n"
        "from vrestore.video.encode import Encoder, EncodeSettings\n"
        "from vrestore.video.probe import probe\n"
        "from vrestore.video.decode import Decoder\n"
        "info = probe(pathlib.Path(sys.argv[1]))\n"
        "encoder = Encoder(pathlib.Path(sys.argv[2]), info, 96, 64, EncodeSettings())\n"
        "encoder.write(next(iter(Decoder(info))))\n"
        "print(encoder._child.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out.mp4")]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=60)
    child = int(killed.stdout)
    deadline = 100
    while deadline and Path(f"/proc/{child}").exists():
        state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "Z":
            break
        deadline -= 1
        subprocess.run(["sleep", "0.1"], check=True)
    assert deadline, "ffmpeg outlived its parent by ten seconds"
    assert not (tmp_path / "out.mp4").exists()


def test_what_ffmpeg_says_is_in_the_error(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mp4", *PICTURES, *X264)
    with pytest.raises(UsageError, match=r"libx264 does not take .*no_such_preset"):
        copy_film(source, tmp_path / "out.mkv", EncodeSettings(preset="no_such_preset"))
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_an_encoder_that_ffmpeg_does_not_have_is_told(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mp4", *PICTURES, *X264)
    with pytest.raises(UsageError, match="no_such_codec"):
        copy_film(source, tmp_path / "out.mkv", EncodeSettings(codec="no_such_codec"))
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_an_ffmpeg_that_is_killed_is_told(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip("in.mp4", *PICTURES, *X264))
    encoder = Encoder(tmp_path / "out.mp4", info, 96, 64, FAST)
    frames = list(Decoder(info))
    encoder.write(frames[0])
    encoder._child.kill()
    with pytest.raises(OutputError, match="ffmpeg ended with status -9"):
        for frame in frames[1:]:
            encoder.write(frame)
        encoder.close()
    assert leftovers(tmp_path) == []


@pytest.fixture
def feigned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """An ffmpeg that does what a line of shell says; its trials of streams succeed."""

    def feign(line: str) -> None:
        program = tmp_path / "feigned"
        trials = "*-t\\ 0*|*lavfi*) exit;;"
        answers = f'case "$*" in -version*) echo "ffmpeg version 7.0"; exit;; {trials} esac'
        program.write_text(f"#!/bin/sh\n{answers}\n{line}\n")
        program.chmod(0o755)
        monkeypatch.setattr("vrestore.video.encode.ffmpeg_binary", lambda: str(program))

    if os.name != "posix":
        pytest.skip("no shell to feign with")
    return feign  # type: ignore[return-value]


def test_a_full_disk_is_told_in_its_own_words(
    feigned: Callable[[str], None], make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mp4", *PICTURES, *X264)
    feigned("echo 'av_interleaved_write_frame(): No space left on device' >&2; exit 1")
    with pytest.raises(OutputError, match="no space left on device; free some"):
        copy_film(source, tmp_path / "out.mkv")
    assert leftovers(tmp_path) == []


def test_a_disk_that_is_really_full_is_told(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        source = make_clip("in.mp4", *PICTURES, *X264)
        with pytest.raises(OutputError, match="no space left on device"):
            copy_film(source, small / "out.mkv", EncodeSettings(codec="ffv1"))
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_talkative_ffmpeg_does_not_stop_the_frames(
    feigned: Callable[[str], None], make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mp4", *PICTURES, *X264)
    feigned("yes 'blah blah' | head -n 200000 >&2; cat >/dev/null; echo 'last words' >&2; exit 3")
    with pytest.raises(OutputError, match=r"status 3 after 50 frames: .*last words"):
        copy_film(source, tmp_path / "out.mkv")


def test_frames_that_do_not_fit_are_refused(make_clip: MakeClip, tmp_path: Path) -> None:
    info = probe(make_clip("in.mp4", *PICTURES, *X264))
    first, second, *_ = Decoder(info)
    encoder = Encoder(tmp_path / "out.mp4", info, 96, 64, FAST)
    encoder.write(second)
    with pytest.raises(ValueError, match="time stamps must rise"):
        encoder.write(first)
    with pytest.raises(ValueError, match="wants planes of"):
        encoder.write(Frame(first.planes[:1], 10**6, 0))
    encoder.abort()


def test_avi_refuses_what_it_cannot_time(shared: Path, either_ffmpeg: str, tmp_path: Path) -> None:
    for name in ("webcam_vfr.mov", "first_pts_10s.mp4"):
        with pytest.raises(UsageError, match="constant frame rate"):
            copy_film(shared / "fixtures" / name, tmp_path / "out.avi")
        assert leftovers(tmp_path) == []
