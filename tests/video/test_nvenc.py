"""NVENC's settings; the machine that tests has no such encoder, and says so in one line."""

import itertools
import json
import os
import shutil
import subprocess
import sys

import av
import pytest
from films import ffmpeg, film, pts_of

from vrestore.cli import main
from vrestore.video.command import EncodeSettings, plan, trial_arguments
from vrestore.video.ffmpeg import ffmpeg_binary
from vrestore.video.probe import probe


def asked(source, **settings):
    info, how = probe(source), EncodeSettings(**settings)
    planned = plan(".mp4", info, 64, 48, how)
    words = trial_arguments("ffmpeg", info, planned, 64, 48, how)
    return {word.split(":")[0]: value for word, value in itertools.pairwise(words)}


def test_nvenc_aims_at_a_quality_and_not_at_its_two_megabits(tmp_path):
    source = film(tmp_path / "a.mkv", 3, "64x48", sound=False)
    found = asked(source, codec="h264_nvenc")
    assert (found["-rc"], found["-cq"], found["-b"]) == ("vbr", "16", "0")
    assert asked(source, codec="hevc_nvenc", crf=23)["-cq"] == "23"
    with_rate = asked(source, codec="h264_nvenc", bitrate="8M")
    assert with_rate["-b"] == "8M"
    assert "-cq" not in with_rate


def test_ten_bits_stay_where_nvenc_has_them(tmp_path):
    eight = film(tmp_path / "a.mkv", 3, "64x48", sound=False)
    deep = tmp_path / "deep.mkv"
    convert = ["-pix_fmt", "yuv420p10le", "-c:v", "ffv1", str(deep)]
    subprocess.run([ffmpeg_binary(), "-v", "error", "-i", str(eight), *convert], check=True)
    assert asked(deep, codec="hevc_nvenc")["-pix_fmt"] == "p010le"
    assert asked(deep, codec="h264_nvenc")["-pix_fmt"] == "yuv420p"
    assert asked(eight, codec="hevc_nvenc")["-pix_fmt"] == "yuv420p"


def test_without_such_an_encoder_that_is_told_before_the_first_frame(tmp_path, capsys):
    source = film(tmp_path / "a.mkv", 3, "64x48", sound=False)
    command = [str(source), "-o", str(tmp_path / "b.mp4"), "--model", "identity"]
    code = main([*command, "--codec", "h264_nvenc"])
    if code == 0:
        pytest.skip("there is an NVENC here")
    assert code == 2
    assert "h264_nvenc" in capsys.readouterr().err
    assert not (tmp_path / "b.mp4").exists()


FEIGNED = """#!{python}
import json, os, sys
words = sys.argv[1:]
if "h264_nvenc" in words:
    with open({log!r}, "a") as log:
        log.write(json.dumps(words) + "\\n")
    if {refuses!r} in words:
        sys.exit("[h264_nvenc @ 0x1] No capable devices found")
    plain = {{"h264_nvenc": "libx264", "-rc:0": "-preset:0", "vbr": "veryfast", "-cq:0": "-crf:0"}}
    words = [plain.get(word, word) for word in words]
os.execv({ffmpeg!r}, ["ffmpeg", *words])
"""


@pytest.fixture
def feigned(tmp_path, monkeypatch):
    """An ffmpeg whose h264_nvenc is x264, and does not take a word; it gives its calls."""
    if os.name != "posix":
        pytest.skip("no scripts to feign with")
    log = tmp_path / "log"

    def feign(refuses=None):
        program = tmp_path / "ffmpeg"
        words = {"python": sys.executable, "log": str(log), "refuses": refuses}
        program.write_text(FEIGNED.format(ffmpeg=ffmpeg_binary(), **words))
        program.chmod(0o755)
        monkeypatch.setattr("vrestore.video.encode.ffmpeg_binary", lambda: str(program))
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    return feign


def restored(source, target, *words):
    command = [str(source), "-o", str(target), "-n", "identity", "--device", "cpu"]
    return main([*command, *map(str, words)])


def codec_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.codec_context.name, stream.codec_context.pix_fmt


def test_with_a_device_nvenc_writes_what_the_user_named_no_codec_for(tmp_path, feigned, capsys):
    source, calls = film(tmp_path / "a.mp4", 5), feigned()
    assert restored(source, tmp_path / "b.mp4", "--hwaccel", "auto") == 0
    trial, whole = calls()
    assert "lavfi" in trial
    assert "pipe:0" in whole
    assert whole[whole.index("-cq:0") + 1] == "16"
    assert pts_of(tmp_path / "b.mp4") == pts_of(source)
    assert "libx264" not in capsys.readouterr().out
    assert restored(source, tmp_path / "c.mp4", "--hwaccel", "auto", "--crf", "25") == 0
    assert calls()[-1][calls()[-1].index("-cq:0") + 1] == "25"


def test_what_nvenc_does_not_take_x264_writes_and_that_is_said(tmp_path, feigned, capsys):
    source, calls = film(tmp_path / "a.mp4", 5), feigned(refuses="slower")
    words = ["--hwaccel", "auto", "--preset", "slower"]
    assert restored(source, tmp_path / "b.mp4", *words) == 0
    assert len(calls()) == 1
    said = "note: libx264 writes the film: h264_nvenc does not take it here (--codec h264_nvenc "
    assert said in capsys.readouterr().out
    assert codec_of(tmp_path / "b.mp4") == ("h264", "yuv420p")


def test_ten_bits_and_other_layouts_are_not_given_up_for_nvenc(tmp_path, feigned, capsys):
    source, _ = tmp_path / "deep.mkv", feigned()
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:d=0.2", "-pix_fmt", "yuv420p10le",
           "-c:v", "ffv1", source)  # fmt: skip
    assert restored(source, tmp_path / "b.mp4", "--hwaccel", "auto") == 0
    said = "note: libx264 writes the film: h264_nvenc does not hold yuv420p10le"
    assert said in capsys.readouterr().out
    assert codec_of(tmp_path / "b.mp4") == ("h264", "yuv420p10le")
    shallow = film(tmp_path / "a.mp4", 5)
    words = ["--hwaccel", "auto", "--pix-fmt", "yuv422p"]
    assert restored(shallow, tmp_path / "c.mp4", *words) == 0
    assert codec_of(tmp_path / "c.mp4") == ("h264", "yuv422p")
    assert restored(shallow, tmp_path / "d.webm", "--hwaccel", "auto") == 0
    assert "libvpx-vp9 writes the film: NVENC has nothing like it" in capsys.readouterr().out
    assert not (tmp_path / "log").exists()


def test_nvenc_is_not_asked_where_nobody_wants_it(tmp_path, feigned, capsys):
    source, _ = film(tmp_path / "a.mp4", 5), feigned()
    for number, words in enumerate(([], ["--hwaccel", "auto", "--codec", "libx265"])):
        assert restored(source, tmp_path / f"{number}.mp4", *words) == 0
    assert restored(source, tmp_path / "%d.png", "--hwaccel", "auto") == 0
    assert "writes the film" not in capsys.readouterr().out
    assert not (tmp_path / "log").exists()


def test_without_a_gpu_the_default_codec_writes_by_auto(tmp_path, capsys):
    source = film(tmp_path / "a.mp4", 5, "160x160")
    assert restored(source, tmp_path / "b.mp4", "--hwaccel", "auto") == 0
    if shutil.which("nvidia-smi") is None:
        assert "note: libx264 writes the film: h264_nvenc" in capsys.readouterr().out
    assert len(pts_of(tmp_path / "b.mp4")) == 5
