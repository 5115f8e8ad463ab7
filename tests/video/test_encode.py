"""Films that are written: every time, sample and tag as it was."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import witness
from copying import FAST, PICTURES, TONE, X264, MakeClip, assert_same_sound, copy_film, leftovers

from vrestore.errors import OutputError, UsageError
from vrestore.video.command import plan
from vrestore.video.decode import Decoder
from vrestore.video.encode import CONTAINERS, Encoder, EncodeSettings
from vrestore.video.ffmpeg import ffmpeg_version
from vrestore.video.frame import PixelFormat
from vrestore.video.probe import probe

ROUND_TRIPS = {
    "alpha.webm": "out.webm",
    "camera_mjpeg.avi": "out.avi",
    "cover_art.mp4": "out.mp4",
    "cups_no_codec_data.mp4": "out.mp4",
    "edit_list_positive_shift.mp4": "out.mp4",
    "first_pts_10s.mp4": "out.mp4",
    "hls_cea608.ts": "out.ts",
    "iphone_hlg_10bit_rotated.mp4": "out.mp4",
    "mpeg2.ts": "out.ts",
    "people.gif": "out.mp4",
    "phone_rot90_data_first_audio.mov": "out.mov",
    "rotate_and_reflect.mp4": "out.mp4",
    "srt_subtitles.mkv": "out.mkv",
    "truncated.mp4": "out.mp4",
    "webcam_vfr.mov": "out.mov",
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_every_odd_file_comes_back_with_all_that_was_in_it(
    name: str, either_ffmpeg: str, shared: Path, tmp_path: Path
) -> None:
    source = shared / "fixtures" / name
    info = probe(source)
    target = tmp_path / ROUND_TRIPS[name]
    settings = EncodeSettings(crf=40) if target.suffix == ".webm" else FAST
    report = copy_film(source, target, settings)
    decoded = [frame.pts * info.time_base for frame in Decoder(info)]
    assert report.frames == len(decoded)
    witness.assert_same_pts(decoded, target)
    witness.assert_same_packets(source, target, ("audio", "subtitle"))
    kinds = [stream.kind for stream in info.streams if stream.kind != "data"]
    assert [stream.kind for stream in witness.streams_of(target)] == kinds
    assert len(report.dropped) == len(info.streams) - len(kinds)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["webcam_vfr.mov", "first_pts_10s.mp4", "edit_list_positive_shift.mp4", "people.gif"]
)
def test_the_last_frame_is_shown_as_long_as_before(
    name: str, either_ffmpeg: str, shared: Path, tmp_path: Path
) -> None:
    source = shared / "fixtures" / name
    copy_film(source, tmp_path / "out.mp4")
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
        old, new = before.streams.video[0], after.streams.video[0]
        assert old.duration * old.time_base == new.duration * new.time_base


@pytest.mark.parametrize(
    ("settings", "refined"), [(EncodeSettings(), 4), (EncodeSettings(preset="slow"), 8)]
)
def test_x264_is_asked_for_its_faster_preset_where_none_is_named(
    settings: EncodeSettings, refined: int, make_clip: MakeClip, tmp_path: Path
) -> None:
    """x264 writes what it was asked for into the film: subme 4 is ``faster``, 7 its own preset."""
    copy_film(make_clip("in.mp4", *PICTURES, *X264), tmp_path / "out.mp4", settings)
    stream = (tmp_path / "out.mp4").read_bytes()
    assert f" subme={refined} ".encode() in stream
    assert b" crf=14.0 " in stream


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_with_b_frames_and_a_variable_rate_the_last_frame_is_shown_as_long(
    suffix: str, either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    """MP4 says when packets are decoded; the last one stored is not the last one shown."""
    thin = ("-vf", "select='not(mod(n,3))+gt(n,47)'", "-fps_mode", "passthrough")
    source = make_clip(f"in.{suffix}", *PICTURES, *thin, *X264, "-g", "99", "-preset", "medium")
    copy_film(source, tmp_path / f"out.{suffix}")
    with av.open(str(source)) as before, av.open(str(tmp_path / f"out.{suffix}")) as after:
        old, new = before.streams.video[0], after.streams.video[0]
        assert old.duration * old.time_base == new.duration * new.time_base


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts"])
def test_every_pts_survives_variable_frame_rate(
    suffix: str, either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    uneven = ("-vf", "setpts=N*N*0.004/TB+N*0.02/TB", "-fps_mode", "passthrough")
    timed = ("-enc_time_base", "1:90000", "-video_track_timescale", "90000")
    source = make_clip("uneven.mp4", *PICTURES, *TONE, *uneven, *timed, *X264)
    times = witness.times_of(source)
    gaps = {b - a for a, b in itertools.pairwise(times)}
    assert len(gaps) > 10
    target = tmp_path / f"out.{suffix}"
    copy_film(source, target, EncodeSettings(preset="veryfast"))  # with B-frames
    witness.assert_same_pts(source, target)
    assert_same_sound(source, target)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts", "m2ts", "m4v"])
@pytest.mark.parametrize("late", ["video", "audio"])
def test_a_late_start_stays_late(
    suffix: str, late: str, either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    delay = ("-itsoffset", "1.25")
    inputs = (*delay, *PICTURES, *TONE) if late == "video" else (*PICTURES, *delay, *TONE)
    times = ("-fps_mode", "passthrough", "-movie_timescale", "44100")
    source = make_clip("late.mp4", *inputs, *X264, *times)
    assert abs(witness.times_of(source, late)[0] - Fraction(5, 4)) < Fraction(1, 20)
    target = tmp_path / f"out.{suffix}"
    copy_film(source, target)
    witness.assert_same_pts(source, target)
    assert_same_sound(source, target)


LOSSLESS = ["yuv420p", "yuv422p10le", "yuv444p12le", "yuvj422p", "gray", "gray16le", "bgr0"]


@pytest.mark.parametrize("pix_fmt", LOSSLESS)
def test_ffv1_keeps_every_sample_whatever_the_format(
    pix_fmt: str, either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    tags = ("-color_range", "pc") if pix_fmt.startswith("yuvj") else ()
    codec = ("-c:v", "mjpeg" if pix_fmt.startswith("yuvj") else "ffv1")
    source = make_clip("in.mkv", *PICTURES, "-t", "0.2", *codec, "-pix_fmt", pix_fmt, *tags)
    target = tmp_path / "out.mkv"
    copy_film(source, target, EncodeSettings(codec="ffv1"))
    before, after = probe(source), probe(target)
    assert after.pixel_format == before.pixel_format
    assert after.colour.full_range == before.colour.full_range
    for old, new in zip(Decoder(before), Decoder(after), strict=True):
        for was, now in zip(old.planes, new.planes, strict=True):
            np.testing.assert_array_equal(now, was)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("full", [False, True])
def test_what_the_samples_mean_is_written_into_the_film(
    codec: str, full: bool, either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    tags = ("-colorspace", "bt2020nc", "-color_primaries", "bt2020", "-color_trc", "smpte2084")
    extent = ("-color_range", "pc" if full else "tv", "-chroma_sample_location", "topleft")
    deep = ("-c:v", "libx265", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error")
    source = make_clip("in.mp4", *PICTURES, "-t", "0.2", *deep, *tags, *extent)
    target = tmp_path / "out.mp4"
    report = copy_film(source, target, EncodeSettings(codec=codec, preset="ultrafast", crf=20))
    colour = probe(target).colour
    assert (colour.matrix, colour.full_range, colour.siting) == ("bt2020nc", full, "topleft")
    assert (colour.primaries, colour.transfer) == ("bt2020", "smpte2084")
    assert probe(target).pixel_format == PixelFormat("yuv", 10, 1, 1)
    assert any("HDR" in note for note in report.notes)
    for old, new in zip(Decoder(probe(source)), Decoder(probe(target)), strict=True):
        difference = old.planes[0].astype(int) - new.planes[0].astype(int)
        assert abs(difference.mean()) < 2, "values were converted on the way"


def test_a_silent_film_is_tagged_with_what_was_decided(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mp4", *PICTURES, *X264)
    assert "matrix" in probe(source).colour.guessed
    copy_film(source, tmp_path / "out.mp4")
    colour = probe(tmp_path / "out.mp4").colour
    assert colour.matrix == "smpte170m"
    assert colour.guessed == ()


def test_rgb_goes_into_a_yuv_film_by_the_rule_of_its_height(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    info = probe(make_clip("in.mkv", *PICTURES, "-c:v", "ffv1", "-pix_fmt", "bgr0"))
    for height, matrix in ((64, "smpte170m"), (768, "bt709")):
        with pytest.raises(OutputError, match="no frame was written"):  # noqa: SIM117
            with Encoder(tmp_path / "out.mp4", info, 96, height, FAST) as encoder:
                assert encoder.colour.matrix == matrix
                assert not encoder.colour.full_range
                assert encoder.pixel_format == PixelFormat("yuv", 8, 1, 1)
    encoder = Encoder(tmp_path / "out.mkv", info, 96, 64, EncodeSettings(codec="ffv1"))
    assert encoder.colour.matrix == "gbr"
    assert encoder.pixel_format == PixelFormat("rgb", 8)
    encoder.abort()
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_shape_of_pixels_is_kept_exactly(
    suffix: str, either_ffmpeg: str, shared: Path, tmp_path: Path
) -> None:
    target = tmp_path / f"out.{suffix}"
    source = shared / "fixtures" / "first_pts_10s.mp4"
    copy_film(source, target, end=Fraction(1, 5))
    assert probe(target).sample_aspect == Fraction(1137, 800)


@pytest.mark.parametrize("name", ["phone_rot90_data_first_audio.mov", "rotate_and_reflect.mp4"])
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_rotation_and_mirror_come_through_to_the_last_entry(
    name: str, suffix: str, either_ffmpeg: str, shared: Path, tmp_path: Path
) -> None:
    source, target = shared / "fixtures" / name, tmp_path / f"out.{suffix}"
    copy_film(source, target)
    assert probe(target).display_matrix == probe(source).display_matrix
    assert probe(target).display_matrix is not None


def test_the_offset_of_a_rotation_grows_with_the_pictures(
    either_ffmpeg: str, shared: Path, tmp_path: Path
) -> None:
    source = shared / "fixtures" / "phone_rot90_data_first_audio.mov"
    copy_film(source, tmp_path / "out.mov", scale=2, end=Fraction(1, 5))
    before, after = probe(source).display_matrix, probe(tmp_path / "out.mov").display_matrix
    assert before is not None
    assert after == (*before[:6], before[6] * 2, before[7] * 2, before[8])


TURNS = [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1), (-1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 0, -1)]


@pytest.mark.parametrize("turn", TURNS)
def test_matroska_says_the_rotation_where_ffmpeg_can_and_else_is_refused(
    turn: tuple[int, int, int, int], either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    info = probe(make_clip("in.mp4", *PICTURES, "-t", "0.2", *X264))
    a, b, c, d = (65536 * entry for entry in turn)
    turned = replace(info, display_matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30))
    target = tmp_path / "out.mkv"
    if ffmpeg_version(either_ffmpeg) < 7:
        with pytest.raises(UsageError, match="rotated or mirrored"):
            Encoder(target, turned, 96, 64, FAST)
    else:
        with Encoder(target, turned, 96, 64, FAST) as encoder:
            for frame in Decoder(info):
                encoder.write(frame)
        assert probe(target).display_matrix == turned.display_matrix
        assert probe(target).width == 96
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("suffix", ["avi", "ts", "webm"])
def test_containers_that_cannot_turn_a_film_refuse_a_turned_one(
    suffix: str, either_ffmpeg: str, shared: Path, tmp_path: Path
) -> None:
    source = shared / "fixtures" / "rotate_and_reflect.mp4"
    with pytest.raises(UsageError, match="rotated or mirrored"):
        copy_film(source, tmp_path / f"out.{suffix}")


@pytest.mark.parametrize("size", [(97, 64), (96, 63), (33, 31)])
def test_odd_sizes_are_kept_and_told(
    size: tuple[int, int], either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    width, height = size
    pictures = ("-f", "lavfi", "-i", f"testsrc=s={width}x{height}:r=25:d=0.2")
    source = make_clip("odd.mkv", *pictures, "-c:v", "ffv1", "-pix_fmt", "yuv420p")
    report = copy_film(source, tmp_path / "out.mp4")
    info = probe(tmp_path / "out.mp4")
    assert (info.width, info.height) == size
    assert info.pixel_format == PixelFormat("yuv", 8)
    assert any("odd" in note for note in report.notes)
    copy_film(source, tmp_path / "out.mkv", EncodeSettings(codec="ffv1"))
    assert probe(tmp_path / "out.mkv").pixel_format == PixelFormat("yuv", 8, 1, 1)
    with pytest.raises(UsageError, match="its sizes are even"):
        copy_film(source, tmp_path / "no.mp4", replace(FAST, pix_fmt="yuv420p"))


def test_pictures_without_a_film_make_a_film_of_their_own(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    film = probe(make_clip("in.mkv", *PICTURES, "-t", "0.4", "-c:v", "ffv1"))
    pictures = replace(film, path=tmp_path, container="pictures", streams=())
    with Encoder(tmp_path / "out.mp4", pictures, 96, 64, FAST) as encoder:
        for frame in Decoder(film):
            encoder.write(frame)
    assert len(witness.times_of(tmp_path / "out.mp4")) == 10


@pytest.mark.parametrize("name", ["a b.mp4", "-dash.mp4", "100%d.mp4", "a:b.mp4", "it's 🎬.mp4"])
def test_no_character_in_an_outputs_name_is_in_the_way(
    name: str, either_ffmpeg: str, make_clip: MakeClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_clip("in.mp4", *PICTURES, "-t", "0.2", *X264)
    monkeypatch.chdir(source.parent)
    source.rename(source.with_name(f"in {name}"))
    copy_film(Path(f"in {name}"), Path(name))
    assert probe(Path(name)).frame_count == 5


def test_gif_and_unknown_endings_are_refused_with_the_good_ones(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    info = probe(make_clip("in.mp4", *PICTURES, *X264))
    for name in ("out.gif", "out.xyz", "out"):
        with pytest.raises(UsageError, match="mp4 m4v mov mkv webm avi ts m2ts"):
            Encoder(tmp_path / name, info, 96, 64, FAST)
    assert " ".join(s.removeprefix(".") for s in CONTAINERS) == "mp4 m4v mov mkv webm avi ts m2ts"


@pytest.mark.parametrize(
    ("stored", "scale", "told"),
    [
        ("yuv444p", 1, "--pix-fmt yuv444p keeps it"),
        ("yuv422p10le", 1, "--pix-fmt yuv422p10le keeps it"),
        ("gbrp", 1, "--pix-fmt yuv444p keeps it"),
        ("yuv444p", 2, None),  # the chroma of four samples has a place of its own
        ("yuv420p", 1, None),
        ("gray", 1, None),
    ],
)
def test_chroma_that_the_output_has_no_room_for_is_told(
    stored: str, scale: int, told: str | None, make_clip: MakeClip, tmp_path: Path
) -> None:
    info = probe(make_clip("in.mkv", *PICTURES, "-c:v", "ffv1", "-pix_fmt", stored))
    size = info.width * scale, info.height * scale
    notes = plan(".mkv", info, *size, EncodeSettings()).notes
    assert [told in note for note in notes] == [True] if told else notes == ()


def test_the_rate_in_the_header_is_that_of_the_film(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mp4", "-f", "lavfi", "-i", "testsrc2=s=96x64:r=30000/1001:d=1", *X264)
    for suffix in ("mkv", "mp4", "avi"):
        copy_film(source, tmp_path / f"out.{suffix}")
        rate = probe(tmp_path / f"out.{suffix}").average_rate
        assert rate is not None
        assert abs(rate - Fraction(30000, 1001)) < Fraction(1, 50)


def test_a_film_in_matroska_ends_when_it_did(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mp4", *PICTURES, *X264)
    copy_film(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as film:
        assert film.streams.video[0].metadata["DURATION"].startswith("00:00:02.00")
