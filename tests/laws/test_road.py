"""Laws 1, 2, 6: one frame in, one out, same pts; identity is lossless; a name is a promise."""

from itertools import pairwise

import numpy as np
import pytest
from films import ffmpeg, film, packets_of, raw, seconds_of, shared

import vrestore
from vrestore.errors import OutputError, UsageError

EXAMPLE = vrestore.__file__.replace("vrestore/__init__.py", "examples/flower.mp4")


def go(source, target, **options):
    return vrestore.restore(source, target, device="cpu", **{"model": "identity"} | options)


def test_every_frame_and_every_sound_packet_of_the_example_comes_out(tmp_path):
    report = go(EXAMPLE, tmp_path / "out.mp4")
    assert report.frames == len(seconds_of(EXAMPLE)) == 75
    assert seconds_of(tmp_path / "out.mp4") == seconds_of(EXAMPLE)
    assert packets_of(tmp_path / "out.mp4", "audio") == packets_of(EXAMPLE, "audio") != []


@pytest.mark.parametrize(
    ("pix_fmt", "extra"),
    [
        ("yuv444p", ()),
        ("yuv444p10le", ()),
        ("yuv420p", ("-color_range", "tv", "-colorspace", "bt709")),
        ("yuv420p10le", ()),
        ("yuvj420p", ("-color_range", "pc")),
    ],
)
def test_identity_to_ffv1_is_within_one_code_of_the_source(tmp_path, pix_fmt, extra):
    source = film(
        tmp_path / "in.mkv", 4, "66x50", options=("-c:v", "ffv1", "-pix_fmt", pix_fmt, *extra)
    )
    report = go(source, tmp_path / "out.mkv", codec="ffv1")
    assert ("chroma" in report.colour) == ("420" in pix_fmt)  # a place is said where it counts
    a, b = raw(source, pix_fmt), raw(tmp_path / "out.mkv", pix_fmt)
    assert a.size == b.size
    luma = 66 * 50
    per_frame = a.size // 4
    difference = np.abs(a - b).reshape(4, per_frame)
    assert difference[:, :luma].max() <= 1
    if "444" in pix_fmt:
        assert difference.max() <= 1
    assert (a.reshape(4, -1)[0] != a.reshape(4, -1)[3]).any()


@pytest.mark.parametrize("name", ["media/demo/flower.mp4", "media/val/road.mp4"])
def test_identity_keeps_chroma_of_natural_film(tmp_path, name):
    source = tmp_path / "in.mkv"
    ffmpeg("-i", shared(name), "-frames:v", 5, "-c:v", "ffv1", "-pix_fmt", "yuv420p", "-an", source)
    go(source, tmp_path / "out.mkv", codec="ffv1")
    a, b = (
        raw(source, "yuv420p").reshape(5, -1),
        raw(tmp_path / "out.mkv", "yuv420p").reshape(5, -1),
    )
    luma = a.shape[1] * 2 // 3
    assert np.abs(a - b)[:, :luma].max() <= 1
    mse = np.square(a - b)[:, luma:].mean()
    assert 10 * np.log10(255**2 / max(mse, 1e-9)) >= 44


def test_super_whites_survive_the_road(tmp_path):
    source = tmp_path / "in.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "color=white:s=32x32,geq=lum='236+mod(X,20)':cb=128:cr=128",
        "-frames:v", 2, "-c:v", "ffv1", "-pix_fmt", "yuv444p", "-color_range", "tv", source,
    )  # fmt: skip
    assert raw(source, "yuv444p").max() == 255
    go(source, tmp_path / "out.mkv", codec="ffv1")
    assert np.abs(raw(source, "yuv444p") - raw(tmp_path / "out.mkv", "yuv444p")).max() <= 1


def test_variable_frame_rate_keeps_every_pts(tmp_path):
    source = tmp_path / "in.mp4"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:r=30", "-frames:v", 20,
        "-vf", "setpts='(N*N*37+N*400)/TB/9000'", "-fps_mode", "vfr", "-enc_time_base", "1/90000",
        "-video_track_timescale", 90000, source,
    )  # fmt: skip
    times = seconds_of(source)
    assert len({round(b - a, 6) for a, b in pairwise(times)}) > 5
    go(source, tmp_path / "out.mp4")
    assert seconds_of(tmp_path / "out.mp4") == times


def test_output_is_larger_by_the_scale_and_frames_are_in_order(tmp_path):
    source = film(tmp_path / "in.mp4", 9, "64x48", source="mandelbrot")
    report = go(source, tmp_path / "out.mkv", model="bicubic", codec="ffv1", pix_fmt="yuv444p")
    assert report.output_size == (256, 192)
    small = raw(source, "gray").reshape(9, 48, 64)
    big = raw(tmp_path / "out.mkv", "gray").reshape(9, 48, 4, 64, 4).mean((2, 4))
    errors = np.array([[np.abs(s - b).mean() for b in big] for s in small])
    assert (errors.argmin(1) == np.arange(9)).all()


def test_scale_changes_the_size_after_the_network(tmp_path):
    source = film(tmp_path / "in.mp4", 3, "64x48", sound=False)
    report = go(source, tmp_path / "out.mp4", model="bicubic", scale=2.0)
    assert report.output_size == (128, 96)
    assert raw(tmp_path / "out.mp4", "gray").size == 3 * 128 * 96


def test_a_part_of_a_film_is_that_part(tmp_path):
    source = film(tmp_path / "in.mkv", 24, "64x48", options=("-c:v", "ffv1", "-pix_fmt", "yuv444p"))
    from fractions import Fraction

    report = go(
        source, tmp_path / "out.mkv", codec="ffv1", start=Fraction(1, 4), end=Fraction(3, 4)
    )
    whole = raw(source, "yuv444p").reshape(24, -1)
    part = raw(tmp_path / "out.mkv", "yuv444p").reshape(report.frames, -1)
    first = next(i for i, t in enumerate(seconds_of(source)) if t >= 0.25)
    assert report.frames == sum(1 for t in seconds_of(source) if 0.25 <= t < 0.75)
    assert np.abs(part - whole[first : first + report.frames]).max() <= 1


def test_exact_propagation_gives_the_whole_shots_film(tmp_path):
    """Through a spool of the frames as stored, over a cut, ten bits deep."""
    source = tmp_path / "in.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=32x24:r=25:d=0.4", "-f", "lavfi", "-i",
        "mandelbrot=s=32x24:r=25", "-filter_complex",
        "[1]trim=end_frame=7,setpts=PTS-STARTPTS[b];[0][b]concat", "-c:v", "ffv1", "-pix_fmt",
        "yuv420p10le", source,
    )  # fmt: skip
    how = {"model": "basicvsr", "codec": "ffv1", "precision": "fp32"}
    report = go(source, tmp_path / "exact.mkv", propagation="exact", chunk=4, **how)
    assert (report.frames, report.shots) == (17, 2)
    go(source, tmp_path / "whole.mkv", propagation="whole", **how)
    go(source, tmp_path / "chunks.mkv", chunk=4, lookahead=1, **how)
    exact, whole, chunks = (
        raw(tmp_path / f"{name}.mkv", "yuv420p10le") for name in ("exact", "whole", "chunks")
    )
    assert (exact == whole).all()
    assert (chunks != whole).any()
    assert seconds_of(tmp_path / "exact.mkv") == seconds_of(source)
    assert len(list(tmp_path.iterdir())) == 4


def test_an_existing_output_is_refused_and_unharmed(tmp_path):
    source, target = film(tmp_path / "in.mp4", 3), tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"out\.mp4"):
        go(source, target)
    assert target.read_bytes() == b"precious"
    go(source, target, overwrite=True)
    assert len(seconds_of(target)) == 3


def test_an_output_is_never_its_own_input(tmp_path):
    source = film(tmp_path / "in.mp4", 3)
    before = source.read_bytes()
    with pytest.raises(UsageError):
        go(source, source, overwrite=True)
    link = tmp_path / "link.mp4"
    link.symlink_to(source)
    with pytest.raises((UsageError, OutputError)):
        go(source, link, overwrite=True)
    assert source.read_bytes() == before


def test_a_failure_midway_leaves_no_file_behind(tmp_path, monkeypatch):
    source = film(tmp_path / "in.mp4", 12)
    from vrestore.engine.restorer import Restorer

    whole = Restorer.finished

    def breaks(self, frames, finish):
        for n, frame in enumerate(whole(self, frames, finish)):
            if n == 5:
                raise RuntimeError("boom")
            yield frame

    monkeypatch.setattr(Restorer, "finished", breaks)
    with pytest.raises(RuntimeError, match="boom"):
        go(source, tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]
