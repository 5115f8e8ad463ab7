from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from vrestore.errors import InputError
from vrestore.video.decode import Decoder
from vrestore.video.frame import PixelFormat
from vrestore.video.probe import matrix_by_size, probe

MakeClip = Callable[..., Path]
SMALL = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=0.2")
X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
YUV420 = PixelFormat("yuv", 8, 1, 1)

# name: stream, width, height, matrix, full range, time base, first pts, kinds of all streams
FACTS = {
    "alpha.webm": (0, 200, 200, "bt470bg", False, 1000, 0, "video audio"),
    "camera_mjpeg.avi": (0, 320, 240, "bt470bg", True, 15, 0, "video audio"),
    "cover_art.mp4": (0, 320, 240, "smpte170m", False, 12800, 0, "video audio cover"),
    "cups_no_codec_data.mp4": (0, 1280, 720, "bt709", False, 30000, 0, "video audio data"),
    "edit_list_positive_shift.mp4": (0, 1920, 1080, "bt709", False, 15360, 15360, "video audio"),
    "first_pts_10s.mp4": (0, 800, 640, "smpte170m", False, 15360, 153600, "video"),
    "hls_cea608.ts": (0, 640, 360, "smpte170m", False, 90000, 0, "video audio"),
    "iphone_hlg_10bit_rotated.mp4": (
        *(0, 1920, 1080, "bt2020nc", False, 600, 0),
        "video audio data data data",
    ),
    "mpeg2.ts": (0, 640, 426, "smpte170m", False, 90000, 129003, "video audio"),
    "people.gif": (0, 480, 270, "gbr", True, 100, 0, "video"),
    "phone_rot90_data_first_audio.mov": (
        *(1, 568, 320, "bt709", False, 600, 0),
        "audio video data data",
    ),
    "rotate_and_reflect.mp4": (0, 1080, 720, "bt709", False, 30000, 0, "video audio"),
    "srt_subtitles.mkv": (0, 1080, 720, "bt709", False, 1000, 67, "video audio subtitle"),
    "truncated.mp4": (0, 1280, 720, "bt709", False, 10240, 0, "video"),
    "webcam_vfr.mov": (1, 640, 480, "bt709", False, 600, 0, "audio video"),
}


@pytest.mark.parametrize("name", FACTS)
def test_the_facts_of_every_odd_file_are_read(name: str, shared: Path) -> None:
    info = probe(shared / "fixtures" / name)
    found = (
        *(info.stream_index, info.width, info.height, info.colour.matrix, info.colour.full_range),
        *(info.time_base.denominator, info.start_pts),
        " ".join(stream.kind for stream in info.streams),
    )
    assert found == FACTS[name]


def test_rotation_and_mirror_are_read_to_the_last_entry(shared: Path) -> None:
    fixtures = shared / "fixtures"
    one = 65536
    matrices = {
        "phone_rot90_data_first_audio.mov": (0, one, 0, -one, 0, 0, 320 * one, 0, 1 << 30),
        "rotate_and_reflect.mp4": (0, one, 0, one, 0, 0, 0, 0, 1 << 30),
        "webcam_vfr.mov": None,
    }
    for name, matrix in matrices.items():
        assert probe(fixtures / name).display_matrix == matrix, name


def test_a_rate_that_the_container_does_not_know_is_none(shared: Path) -> None:
    assert probe(shared / "fixtures" / "hls_cea608.ts").average_rate is None
    vfr = probe(shared / "fixtures" / "webcam_vfr.mov")
    assert vfr.average_rate == Fraction(24600, 1469)


def test_square_and_other_pixels_are_told_apart(shared: Path) -> None:
    fixtures = shared / "fixtures"
    assert probe(fixtures / "first_pts_10s.mp4").sample_aspect == Fraction(1137, 800)
    assert probe(fixtures / "webcam_vfr.mov").sample_aspect == 1


def test_ten_bits_alpha_and_palettes_are_seen(shared: Path) -> None:
    fixtures = shared / "fixtures"
    phone = probe(fixtures / "iphone_hlg_10bit_rotated.mp4")
    assert phone.pixel_format == PixelFormat("yuv", 10, 1, 1)
    assert phone.colour.transfer == "arib-std-b67"
    assert phone.colour.primaries == "bt2020"
    assert probe(fixtures / "alpha.webm").has_alpha
    assert probe(fixtures / "people.gif").pixel_format == PixelFormat("rgb", 8)
    assert not phone.has_alpha


def test_what_the_stream_does_not_say_is_decided_and_listed(make_clip: MakeClip) -> None:
    silent = probe(make_clip("silent.mp4", *SMALL, *X264))
    assert silent.colour.matrix == "smpte170m"
    assert not silent.colour.full_range
    assert {"matrix", "range"} <= set(silent.colour.guessed)
    tags = [
        "-colorspace",
        "bt470bg",
        "-color_range",
        "pc",
        "-color_primaries",
        "bt470bg",
        "-color_trc",
        "gamma28",
    ]
    told = probe(make_clip("told.mkv", *SMALL, *X264, *tags))
    assert (told.colour.matrix, told.colour.full_range) == ("bt470bg", True)
    assert (told.colour.primaries, told.colour.transfer) == ("bt470bg", "gamma28")
    assert not {"matrix", "range"} & set(told.colour.guessed)


@pytest.mark.parametrize("where", ["left", "center", "topleft"])
def test_where_chroma_lies_is_read(where: str, make_clip: MakeClip) -> None:
    clip = make_clip("siting.mp4", *SMALL, *X264, "-chroma_sample_location", where)
    colour = probe(clip).colour
    assert colour.siting == where
    assert "siting" not in colour.guessed


def test_jpeg_pictures_are_full_range_with_chroma_in_the_middle(make_clip: MakeClip) -> None:
    clip = make_clip("jpeg.avi", *SMALL, "-c:v", "mjpeg", "-pix_fmt", "yuvj420p")
    colour = probe(clip).colour
    assert colour.full_range
    assert colour.siting == "center"


def test_the_matrix_of_silent_video_follows_its_size() -> None:
    assert matrix_by_size(1080, None) == matrix_by_size(720, Fraction(25)) == "bt709"
    assert matrix_by_size(576, Fraction(25)) == "bt470bg"
    assert matrix_by_size(480, Fraction(30000, 1001)) == "smpte170m"
    assert matrix_by_size(719, None) == "smpte170m"


def test_an_interlaced_film_is_seen(make_clip: MakeClip) -> None:
    fields = ("-vf", "tinterlace=interleave_top,setfield=tff", "-flags", "+ilme+ildct")
    clip = make_clip("fields.ts", *SMALL, *fields, "-c:v", "mpeg2video")
    assert probe(clip).interlaced
    assert not probe(make_clip("frames.ts", *SMALL, "-c:v", "mpeg2video")).interlaced


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", 'it\'s "so".mp4', "100%.mp4", "%03d.mp4", "-dash.mp4", "a:b.mp4", "🎬 Straße.mp4"],
)
def test_no_character_in_a_name_is_in_the_way(
    name: str, make_clip: MakeClip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_clip("plain.mp4", *SMALL, *X264)
    plain.rename(tmp_path / name)
    assert probe(tmp_path / name).width == 64
    monkeypatch.chdir(tmp_path)
    info = probe(Path(name))
    assert len(list(Decoder(info))) == 5


def test_a_picture_under_a_films_name_is_a_film_of_one_frame(make_clip: MakeClip) -> None:
    for codec, suffix in (("png", "png"), ("mjpeg", "jpg")):
        picture = make_clip(f"still.{suffix}", *SMALL, "-frames:v", "1", "-c:v", codec)
        film = picture.rename(picture.with_name(f"{codec}.mp4"))
        assert len(list(Decoder(probe(film)))) == 1


def _garbage(folder: Path) -> Path:
    path = folder / "garbage.mp4"
    path.write_bytes(bytes(range(256)) * 40)
    return path


def _empty(folder: Path) -> Path:
    path = folder / "empty.mp4"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "nobody.mp4", "no such file"),
        (lambda folder: folder, "is a folder"),
        (_empty, "is empty"),
        (_garbage, "not a film"),
        (lambda folder: _empty(folder) / "beneath.mp4", "cannot be read"),
    ],
)
def test_what_is_no_film_ends_in_one_clear_message(
    make: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        probe(path)
    assert str(caught.value).startswith(str(path))


def test_sound_alone_is_no_film(make_clip: MakeClip) -> None:
    clip = make_clip("sound.mp4", "-f", "lavfi", "-i", "sine=d=0.2", "-c:a", "aac")
    with pytest.raises(InputError, match=r"holds no video stream \(#0 audio\)"):
        probe(clip)


def test_sound_with_a_cover_is_no_film(make_clip: MakeClip) -> None:
    cover = make_clip("cover.jpg", *SMALL, "-frames:v", "1")
    sound = ("-f", "lavfi", "-i", "sine=d=0.2", "-i", str(cover), "-map", "0", "-map", "1")
    kept = ("-c:a", "aac", "-c:v", "copy", "-disposition:v:0", "attached_pic")
    with pytest.raises(InputError, match="only video streams are cover pictures"):
        probe(make_clip("album.m4a", *sound, *kept, "-f", "mp4"))


def test_a_stream_of_rubbish_has_no_frame(make_clip: MakeClip) -> None:
    clip = make_clip("rubbish.mp4", *SMALL, *X264)
    content = clip.read_bytes()
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    assert start < end
    clip.write_bytes(content[:start] + b"\x55" * (end - start) + content[end:])
    with pytest.raises(InputError, match="no frame of video stream 0"):
        probe(clip)


def test_a_codec_that_nobody_knows_is_named_as_such(make_clip: MakeClip) -> None:
    clip = make_clip("strange.avi", *SMALL, "-c:v", "mpeg4", "-vtag", "DIVX")
    clip.write_bytes(clip.read_bytes().replace(b"DIVX", b"Qq9z"))
    with pytest.raises(InputError, match="codec"):
        probe(clip)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(make_clip: MakeClip) -> None:
    clip = make_clip("secret.mp4", *SMALL, *X264)
    clip.chmod(0)
    with pytest.raises(InputError, match="permission"):
        probe(clip)


def test_probing_leaves_the_log_as_it_was(make_clip: MakeClip) -> None:
    import av.logging

    clip = make_clip("quiet.mp4", *SMALL, *X264)
    before = av.logging.get_level()
    probe(clip)
    assert av.logging.get_level() == before
    shutil.rmtree(clip.parent)
