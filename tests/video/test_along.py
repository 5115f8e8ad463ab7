"""What comes along beside the pictures: sound, subtitles, fonts, chapters, tags, covers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import witness
from copying import PICTURES, TONE, X264, MakeClip, assert_same_sound, copy_film

from vrestore.video.decode import Decoder
from vrestore.video.encode import EncodeSettings
from vrestore.video.probe import probe


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
