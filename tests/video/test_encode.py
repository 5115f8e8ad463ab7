from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import witness

from vrestore.errors import OutputError, UsageError
from vrestore.video import encode
from vrestore.video.command import plan
from vrestore.video.decode import Decoder
from vrestore.video.encode import CONTAINERS, Encoder, EncodeSettings
from vrestore.video.ffmpeg import ffmpeg_binary, ffmpeg_version
from vrestore.video.frame import Frame, PixelFormat, VideoInfo, Written
from vrestore.video.isobmff import write_display_matrix
from vrestore.video.partial import partial_name
from vrestore.video.probe import probe
from vrestore.video.verify import PtsLog, verify

MakeClip = Callable[..., Path]
FAST = EncodeSettings(preset="ultrafast", crf=30)
PICTURES = ("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=2")
TONE = ("-f", "lavfi", "-i", "sine=f=440:d=2")
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "12", "-bf", "3", "-pix_fmt", "yuv420p")


def as_wanted(frame: Frame, fmt: PixelFormat, width: int, height: int) -> Frame:
    """The frame itself where it fits ``fmt``, else grey of that shape."""
    small = (-(-height >> fmt.sub_y), -(-width >> fmt.sub_x))
    shapes = [(height, width)] + [small] * (0 if fmt.family == "gray" else 2)
    word = np.uint8 if fmt.depth <= 8 else np.uint16
    if [(p.shape, p.dtype) for p in frame.planes] == [(s, word) for s in shapes]:
        return frame
    planes = tuple(np.full(shape, fmt.peak // 2, word) for shape in shapes)
    return Frame(planes, frame.pts, frame.duration)


def copy_film(
    source: Path,
    target: Path,
    settings: EncodeSettings = FAST,
    *,
    scale: int = 1,
    start: Fraction | None = None,
    end: Fraction | None = None,
    overwrite: bool = False,
) -> Written:
    info = probe(source)
    width, height = info.width * scale, info.height * scale
    part = {"start": start, "end": end}
    with Encoder(target, info, width, height, settings, overwrite=overwrite, **part) as encoder:
        for frame in Decoder(info, **part):
            encoder.write(as_wanted(frame, encoder.pixel_format, width, height))
        return encoder.close()


def assert_same_sound(source: Path, target: Path) -> None:
    """Packet for packet; in a transport stream AAC gets a header (ADTS), so by times alone."""
    if target.suffix in (".ts", ".m2ts"):
        witness.assert_same_pts(source, target, "audio")
    else:
        witness.assert_same_packets(source, target, ("audio",))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".part-" in path.name]


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


@pytest.fixture
def rich(make_clip: MakeClip, tmp_path: Path) -> Path:
    """Two languages of sound, subtitles, a font, chapters and tags, in Matroska."""
    subtitles = tmp_path / "words.srt"
    subtitles.write_text("1\n00:00:00,200 --> 00:00:00,900\nHello\n\n", encoding="utf-8")
    font = tmp_path / "font.ttf"
    font.write_bytes(b"\0\1\0\0" + bytes(500))
    chapters = tmp_path / "chapters.txt"
    one = "[CHAPTER]\nTIMEBASE=1/1000\nSTART={}\nEND={}\ntitle={}\n"
    text = one.format(0, 1000, "Dawn") + one.format(1000, 2000, "Dusk")
    chapters.write_text(f";FFMETADATA1\ntitle=A film\n{text}", encoding="utf-8")
    inputs = (*TONE, *PICTURES, *TONE, "-i", str(subtitles), "-i", str(chapters))
    maps = [part for n in ("0:a", "1:v", "2:a", "3:s") for part in ("-map", n)]
    said = ("-map_metadata", "4", "-metadata:s:a:0", "language=deu", "-metadata:s:v", "title=Main")
    more = ("-metadata:s:a:1", "language=fra", "-disposition:a:1", "comment", "-disposition:v", "0")
    fonts = ("-attach", str(font), "-metadata:s:t", "mimetype=application/x-truetype-font")
    coded = (*X264, "-c:a", "aac", "-c:s", "srt")
    return make_clip("rich.mkv", *inputs, *maps, *coded, *said, *more, *fonts)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "mov"])
def test_sound_subtitles_chapters_and_tags_come_along_in_their_order(
    suffix: str, either_ffmpeg: str, rich: Path, tmp_path: Path
) -> None:
    target = tmp_path / f"out.{suffix}"
    report = copy_film(rich, target)
    witness.assert_same_pts(rich, target)
    witness.assert_same_packets(rich, target, ("audio",))
    with av.open(str(rich)) as before, av.open(str(target)) as after:
        kinds = ["audio", "video", "audio", "subtitle"]
        assert [stream.type for stream in after.streams][:4] == kinds
        languages = [stream.metadata.get("language") for stream in after.streams.audio]
        assert languages == ["ger" if suffix == "mov" else "deu", "fra"]
        assert after.metadata["title"] == "A film"
        if suffix != "mov":  # QuickTime has no word for a commentary
            assert after.streams.audio[1].disposition == before.streams.audio[1].disposition
        titles = [chapter["metadata"]["title"] for chapter in after.chapters()]
        assert titles == ["Dawn", "Dusk"]
        if suffix == "mkv":
            assert after.streams.video[0].metadata["title"] == "Main"
            assert after.streams.video[0].disposition == before.streams.video[0].disposition
            assert bytes(after.streams.attachments[0].data) == bytes(
                before.streams.attachments[0].data
            )
            assert (report.converted, report.dropped) == ((), ())
    if suffix == "mkv":
        witness.assert_same_packets(rich, target, ("subtitle",))
    else:
        assert any("subtitle subrip -> mov_text" in line for line in report.converted)
        assert any("attachment" in line for line in report.dropped)
        subtitles = next(s for s in witness.streams_of(target) if s.kind == "subtitle")
        assert set(witness.times_of(rich, "subtitle")) <= {p.time for p in subtitles.packets}


def test_subtitles_of_mp4_become_srt_in_matroska(
    either_ffmpeg: str, rich: Path, tmp_path: Path
) -> None:
    copy_film(rich, tmp_path / "text.mp4")
    report = copy_film(tmp_path / "text.mp4", tmp_path / "out.mkv")
    assert any("-> srt" in line for line in report.converted)
    stream = next(s for s in witness.streams_of(tmp_path / "out.mkv") if s.kind == "subtitle")
    assert stream.codec in ("subrip", "srt")
    assert [packet.time for packet in stream.packets] == witness.times_of(rich, "subtitle")


def test_what_a_container_cannot_hold_is_converted_or_dropped_and_told(
    either_ffmpeg: str, rich: Path, tmp_path: Path
) -> None:
    report = copy_film(rich, tmp_path / "out.webm", EncodeSettings(crf=50))
    assert [line.split(":")[0] for line in report.converted] == [
        *("#0 audio aac -> libopus", "#2 audio aac -> libopus", "#3 subtitle subrip -> webvtt"),
    ]
    assert any("attachment" in line for line in report.dropped)
    assert probe(tmp_path / "out.webm").codec == "vp9"
    witness.assert_same_pts(rich, tmp_path / "out.webm")
    report = copy_film(rich, tmp_path / "out.ts")
    assert any("subtitle" in line for line in report.dropped)
    assert_same_sound(rich, tmp_path / "out.ts")


def test_sound_that_players_would_not_find_in_a_transport_stream_is_converted(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mov", *PICTURES, *TONE, *X264, "-c:a", "pcm_s16le")
    report = copy_film(source, tmp_path / "out.ts")
    assert any("pcm_s16le -> aac" in line for line in report.converted)
    kinds = [(s.kind, s.codec) for s in witness.streams_of(tmp_path / "out.ts")]
    assert kinds == [("video", "h264"), ("audio", "aac")]


def test_a_cover_picture_stays_a_cover_picture(
    either_ffmpeg: str, shared: Path, tmp_path: Path
) -> None:
    source = shared / "fixtures" / "cover_art.mp4"
    for suffix in ("mp4", "mkv"):
        target = tmp_path / f"out.{suffix}"
        copy_film(source, target)
        covers = [s for s in witness.streams_of(target) if s.kind == "cover"]
        assert [cover.codec for cover in covers] == ["mjpeg"]
        before = next(s for s in witness.streams_of(source) if s.kind == "cover")
        assert covers[0].packets[0].payload == before.packets[0].payload
    report = copy_film(source, tmp_path / "out.avi")
    assert any("cover" in line for line in report.dropped)


def test_the_place_and_the_camera_stay_in_a_phones_film(
    either_ffmpeg: str, shared: Path, tmp_path: Path
) -> None:
    source = shared / "fixtures" / "iphone_hlg_10bit_rotated.mp4"
    copy_film(source, tmp_path / "out.mov")
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mov")) as after:
        apple = {k: v for k, v in before.metadata.items() if k.startswith("com.apple")}
        assert len(apple) > 3
        assert {k: after.metadata.get(k) for k in apple} == apple


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_a_part_of_a_film_begins_where_the_film_did(
    suffix: str, either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    late = ("-output_ts_offset", "2")
    source = make_clip("in.mp4", *PICTURES, *TONE, *X264, *late, "-movie_timescale", "44100")
    info = probe(source)
    start, end = Fraction(3, 5), Fraction(7, 5)
    target = tmp_path / f"out.{suffix}"
    copy_film(source, target, start=start, end=end)
    first = (info.start_pts or 0) * info.time_base
    whole = [frame.pts * info.time_base for frame in Decoder(info)]
    wanted = [t - start for t in whole if first + start <= t < first + end]
    assert len(wanted) == 20
    witness.assert_same_pts(wanted, target)
    before = next(s for s in witness.streams_of(source) if s.kind == "audio")
    after = next(s for s in witness.streams_of(target) if s.kind == "audio")
    kept = [p for p in before.packets if first + start <= p.time < first + end]
    if suffix != "ts":
        assert [p.payload for p in after.packets] == [p.payload for p in kept]
    for was, now in zip(kept, after.packets, strict=True):
        assert abs(was.time - start - now.time) * 2 <= after.tick + Fraction(1, 500_000)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_subtitle_on_screen_when_the_part_begins_is_shown_from_there(
    suffix: str, either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    lines = tmp_path / "lines.srt"
    lines.write_text(
        "1\n00:00:00,200 --> 00:00:00,500\ngone\n\n2\n00:00:00,600 --> 00:00:01,200\nthere\n\n"
        "3\n00:00:01,300 --> 00:00:01,850\nnext\n\n4\n00:00:01,900 --> 00:00:01,960\nlater\n\n"
    )
    codec = "mov_text" if suffix == "mp4" else "srt"
    source = make_clip(f"in.{suffix}", *PICTURES, "-i", lines, *X264, "-c:s", codec)
    target = tmp_path / f"out.{suffix}"
    copy_film(source, target, start=Fraction(1), end=Fraction(9, 5))
    with av.open(str(target)) as film:
        (stream,) = film.streams.subtitles
        shown = [p for p in film.demux(stream) if bytes(p).strip(b"\0")]
        times = [(float(p.pts * p.time_base), float(p.duration * p.time_base)) for p in shown]
        words = [bytes(p)[2 * (suffix == "mp4") :] for p in shown]
    assert words == [b"there", b"next"]
    np.testing.assert_allclose(times, [(0.0, 0.2), (0.3, 0.5)], atol=0.0011)


def test_opus_sound_is_not_earlier_than_it_was(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.webm", *PICTURES, *TONE, "-c:v", "libvpx", "-c:a", "libopus")
    for target in (tmp_path / "out.webm", tmp_path / "out.mkv"):
        copy_film(source, target)
        witness.assert_same_pts(source, target, "audio")


def test_flac_in_mp4_stays_flac(either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path) -> None:
    source = make_clip("in.mp4", *PICTURES, *TONE, *X264, "-c:a", "flac", "-strict", "-2")
    report = copy_film(source, tmp_path / "out.mp4")
    assert report.converted == ()
    assert_same_sound(source, tmp_path / "out.mp4")


def test_a_sound_track_without_sound_is_no_reason_to_refuse_a_film(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mkv", *PICTURES, *TONE, *X264, "-bsf:a", "noise=drop=1")
    assert [s.kind for s in probe(source).streams] == ["video", "audio"]
    report = copy_film(source, tmp_path / "out.mp4")
    assert any("#1 audio holds nothing" in note for note in report.notes)
    assert len(witness.times_of(tmp_path / "out.mp4")) == 50


def test_a_part_says_that_its_chapters_are_left_out(
    either_ffmpeg: str, rich: Path, tmp_path: Path
) -> None:
    report = copy_film(rich, tmp_path / "out.mkv", end=Fraction(1))
    assert any("chapters" in note for note in report.notes)
    with av.open(str(tmp_path / "out.mkv")) as film:
        assert film.chapters() == []


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


def test_the_rate_in_the_header_is_that_of_the_film(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mp4", "-f", "lavfi", "-i", "testsrc2=s=96x64:r=30000/1001:d=1", *X264)
    for suffix in ("mkv", "mp4", "avi"):
        copy_film(source, tmp_path / f"out.{suffix}")
        rate = probe(tmp_path / f"out.{suffix}").average_rate
        assert rate is not None
        assert abs(rate - Fraction(30000, 1001)) < Fraction(1, 50)


def _compare(clip: Path, times: list[int], kinds: tuple[str, ...] = ("video",)) -> None:
    with contextlib.closing(PtsLog()) as log:
        for time in times:
            log.append(time)
        verify(clip, log, Fraction(1, 12800), 0, list(kinds))


def test_verification_sees_every_kind_of_difference(make_clip: MakeClip) -> None:
    clip = make_clip("film.mp4", *PICTURES, *X264)
    right = [512 * n for n in range(50)]
    _compare(clip, right)
    wrong = {
        "50 of 51 frames": [*right, 512 * 50],
        "more than the 49 frames": right[:-1],
        "frame 7 is shown": [t + (n == 7) for n, t in enumerate(right)],
        "frame 49 is shown": [*right[:-1], right[-1] + 1],
    }
    for said, times in wrong.items():
        with pytest.raises(OutputError, match=said):
            _compare(clip, times)
    with pytest.raises(OutputError, match="1 audio streams became 0"):
        _compare(clip, right, ("video", "audio"))
    clip.write_bytes(clip.read_bytes()[:2000])
    with pytest.raises(OutputError, match="did not turn out"):
        _compare(clip, right)


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


def test_a_film_in_matroska_ends_when_it_did(
    either_ffmpeg: str, make_clip: MakeClip, tmp_path: Path
) -> None:
    source = make_clip("in.mp4", *PICTURES, *X264)
    copy_film(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as film:
        assert film.streams.video[0].metadata["DURATION"].startswith("00:00:02.00")
