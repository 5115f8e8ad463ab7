"""NVENC's settings; the machine that tests has no such encoder, and says so in one line."""

import itertools
import subprocess

import pytest
from films import film

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
