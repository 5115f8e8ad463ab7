import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vrestore.errors import InputError, OutputError, UsageError
from vrestore.evaluate.vmaf import Vmaf, alike, ffmpeg_with_libvmaf, scores_in, vmaf
from vrestore.video.ffmpeg import ffmpeg_binary
from vrestore.video.probe import probe

SOURCE = ("-f", "lavfi", "-i", "testsrc2=size=192x144:rate=25")
LOSSLESS = ("-frames:v", "6", "-c:v", "ffv1")


@pytest.fixture
def truth(make_clip):
    """Six frames of moving shapes, lossless; skips where no ffmpeg at hand can compare films."""
    try:
        ffmpeg_with_libvmaf()
    except UsageError:
        pytest.skip("no ffmpeg here has libvmaf")
    return make_clip("truth.mkv", *SOURCE, *LOSSLESS, "-pix_fmt", "yuv420p")


def program(path, filters):
    """An ffmpeg that has these filters, and does nothing else."""
    path.write_text(f"#!/bin/sh\necho ' .. {filters}'\n")
    path.chmod(0o755)
    return str(path)


def luma_after(filters, path):
    """``(frames, pixels)`` of a 192x144 film that the filters turn to 8-bit 4:2:0."""
    command = [
        ffmpeg_binary(),
        "-v",
        "error",
        "-i",
        str(path),
        "-vf",
        filters,
        "-f",
        "rawvideo",
        "-",
    ]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(6, -1)[:, : 192 * 144].astype(int)


def log_of(scores):
    frames = [{"frameNum": n, "metrics": {"vmaf": s, "vif": 0.5}} for n, s in scores]
    return json.dumps({"version": "3.0.0", "frames": frames, "pooled_metrics": {}})


def test_a_film_scores_best_against_itself_and_less_where_it_is_blurred(make_clip, truth):
    blur = ("-vf", "gblur=sigma=2:enable='gte(n,4)'")
    blurred = make_clip("blurred.mkv", *SOURCE, *blur, *LOSSLESS, "-pix_fmt", "yuv420p")
    same, lower = vmaf(truth, truth), vmaf(blurred, truth)
    assert len(same.frames) == len(lower.frames) == 6
    assert min(same.frames) > 95
    assert lower.frames[:4] == pytest.approx(same.frames[:4], abs=0.5)
    assert max(lower.frames[4:]) < 80
    assert lower.mean == pytest.approx(sum(lower.frames) / 6)


def test_frames_are_paired_by_number_at_any_rate(make_clip, truth):
    slow = make_clip("slow.mkv", *SOURCE, "-vf", "setpts=5*PTS", "-r", "5", *LOSSLESS)
    assert vmaf(slow, truth).frames == vmaf(truth, truth).frames


@pytest.mark.parametrize(
    ("matrix", "range_", "fmt"),
    [
        ("bt709", "full", "yuv444p"),
        ("bt709", "limited", "yuv420p10le"),
        ("bt2020nc", "full", "yuv422p"),
        (None, None, "gbrp"),
    ],
)
def test_luma_comes_out_alike_however_the_films_store_it(make_clip, matrix, range_, fmt):
    """Within one code. Mistaken for the truth's, these matrices and ranges are 14 and 21 off."""
    soft = "gblur=sigma=3,eq=saturation=0.5:contrast=0.7"  # within what R'G'B' can hold
    one = make_clip("one.mkv", *SOURCE, "-vf", soft, *LOSSLESS, "-pix_fmt", "yuv420p")
    how = "flags=accurate_rnd+full_chroma_int+full_chroma_inp:in_color_matrix=bt601"
    tags = ()
    if matrix:
        how += f":in_range=limited:out_color_matrix={matrix.removesuffix('nc')}:out_range={range_}"
        tags = ("-colorspace", matrix, "-color_range", {"full": "pc", "limited": "tv"}[range_])
    how = ("-vf", f"scale={how},format={fmt}", *tags)
    other = make_clip("other.mkv", "-i", str(one), *how, "-c:v", "ffv1")
    films = probe(one), probe(other)
    assert films[0].colour != films[1].colour or films[0].pixel_format != films[1].pixel_format
    y, y_other = (luma_after(alike(film, "smpte170m", deep=False), film.path) for film in films)
    assert np.abs(y - y_other).max() <= 1


def test_what_probe_decided_holds_where_the_stream_says_nothing(make_clip):
    soft = "gblur=sigma=3,eq=saturation=0.5:contrast=0.7,format=yuv444p"
    film = probe(make_clip("silent.mkv", *SOURCE, "-vf", soft, *LOSSLESS))
    assert "matrix" in film.colour.guessed
    other = replace(film, colour=replace(film.colour, matrix="bt709"))
    y, y_other = (luma_after(alike(one, "bt709", deep=False), film.path) for one in (film, other))
    assert np.abs(y - y_other).max() > 4


def test_films_that_cannot_be_compared_are_refused_in_one_sentence(make_clip, truth):
    shorter = make_clip("shorter.mkv", *SOURCE, "-frames:v", "5", "-c:v", "ffv1")
    smaller = make_clip("smaller.mkv", *SOURCE, "-vf", "scale=96:72", *LOSSLESS)
    for pair in ((shorter, truth), (truth, shorter)):
        with pytest.raises(InputError, match=r"has \d frames, .* \d; VMAF compares frame by frame"):
            vmaf(*pair)
    with pytest.raises(InputError, match=r"is 96x72, .* 192x144"):
        vmaf(smaller, truth)
    with pytest.raises(InputError):
        vmaf(truth.with_name("absent.mkv"), truth)


def test_an_ffmpeg_that_fails_is_told_in_its_own_words(make_clip, truth, monkeypatch, tmp_path):
    failing = tmp_path / "failing"
    failing.write_text("#!/bin/sh\necho could not load libvmaf model >&2\nexit 1\n")
    failing.chmod(0o755)
    monkeypatch.setattr("vrestore.evaluate.vmaf.ffmpeg_with_libvmaf", lambda: str(failing))
    with pytest.raises(OutputError, match="could not load libvmaf model"):
        vmaf(truth, truth)


def test_the_first_ffmpeg_with_the_filter_is_taken(monkeypatch, tmp_path):
    without = program(tmp_path / "a", "vmafmotion V->V")
    with_it = program(tmp_path / "b", "libvmaf VV->V")
    wheel = SimpleNamespace(get_ffmpeg_exe=lambda: with_it)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", wheel)
    monkeypatch.setattr("shutil.which", lambda name: without)
    assert ffmpeg_with_libvmaf() == with_it


def test_where_no_ffmpeg_has_libvmaf_the_error_names_them_and_the_remedy(monkeypatch, tmp_path):
    without = program(tmp_path / "a", "vmafmotion V->V")
    monkeypatch.setattr("shutil.which", lambda name: without)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UsageError, match="needs an ffmpeg that was built with libvmaf") as told:
        ffmpeg_with_libvmaf()
    assert without in str(told.value)


def test_the_log_is_read_in_the_order_of_the_frames():
    scores = scores_in(log_of([(1, 90.5), (0, 80.0), (2, 100)]))
    assert scores == (80, 90.5, 100)
    assert Vmaf(scores).mean == pytest.approx(270.5 / 3)


@pytest.mark.parametrize("log", ["", "{}", "[]", '{"frames": [{"frameNum": 0, "metrics": {}}]}'])
def test_a_log_of_another_kind_is_refused(log):
    with pytest.raises(OutputError, match="not as expected"):
        scores_in(log)


def test_a_log_without_frames_is_refused():
    with pytest.raises(OutputError, match="no frames"):
        scores_in(log_of([]))
