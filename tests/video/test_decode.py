from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import witness

from vrestore.errors import InputError
from vrestore.video.decode import Decoder
from vrestore.video.pixels import layout_of, planar_name, unpack
from vrestore.video.probe import probe

MakeClip = Callable[..., Path]
SOURCE = ("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=2")
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "12", "-bf", "3", "-pix_fmt", "yuv420p")

FRAMES = {
    "alpha.webm": 150,
    "camera_mjpeg.avi": 41,
    "cover_art.mp4": 1,
    "cups_no_codec_data.mp4": 300,
    "edit_list_positive_shift.mp4": 270,
    "first_pts_10s.mp4": 120,
    "hls_cea608.ts": 58,
    "iphone_hlg_10bit_rotated.mp4": 9,
    "mpeg2.ts": 3,
    "people.gif": 23,
    "phone_rot90_data_first_audio.mov": 120,
    "rotate_and_reflect.mp4": 30,
    "srt_subtitles.mkv": 30,
    "webcam_vfr.mov": 123,
}


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_of_every_odd_file_comes_at_its_time(name: str, shared: Path) -> None:
    path = shared / "fixtures" / name
    info = probe(path)
    decoder = Decoder(info)
    times = []
    for frame in decoder:
        assert frame.planes[0].shape == (info.height, info.width)
        times.append(frame.pts * info.time_base)
    assert times == witness.times_of(path)
    assert len(times) == FRAMES[name]
    assert decoder.damage is None


def test_planes_are_the_stored_samples(make_clip: MakeClip) -> None:
    clip = make_clip("film.mkv", *SOURCE, "-t", "0.4", "-c:v", "ffv1", "-pix_fmt", "yuv420p10le")
    command = ["ffmpeg", "-v", "error", "-i", str(clip), "-f", "rawvideo", "-"]
    try:
        raw = subprocess.run(command, check=True, capture_output=True).stdout
    except FileNotFoundError:
        pytest.skip("no ffmpeg on PATH to bear witness")
    planes = b"".join(p.tobytes() for frame in Decoder(probe(clip)) for p in frame.planes)
    assert planes == raw


# What swscale repacks without touching a value, from a planar format with the same samples.
PACKED = [
    *("nv12", "nv21", "nv16", "nv24", "nv42", "p010le", "p010be", "p016le", "p210le", "p410le"),
    *("yuyv422", "uyvy422", "yvyu422", "y210le", "y212le", "vuya", "vuyx", "ayuv64le", "xv36le"),
    *("rgb24", "bgr24", "rgba", "bgra", "argb", "abgr", "rgb0", "0bgr", "gray16be", "ya8"),
    *("rgb48le", "rgb48be", "bgr48le", "rgba64le", "bgra64be", "gbrap10le", "yuva444p", "gray10be"),
    *("yuv422p10be", "yuv444p12be", "gbrp12be", "yuvj420p", "yuv411p", "yuv440p"),
]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("width", [64, 46])
def test_every_layout_unpacks_to_the_samples_it_was_packed_from(name: str, width: int) -> None:
    layout = layout_of(name)
    assert layout is not None
    fmt, height = layout.fmt, 24
    random = np.random.default_rng(7)
    word = np.uint8 if fmt.depth <= 8 else np.uint16
    small = (height >> fmt.sub_y, -(-width >> fmt.sub_x))
    shapes = [(height, width)] + [small] * (0 if fmt.family == "gray" else 2)
    planes = [random.integers(0, fmt.peak + 1, shape, dtype=word) for shape in shapes]
    # swscale (FFmpeg 8.0) spoils gbrp10 -> gbrap10; planes with alpha need no packing anyway.
    direct = name.startswith(("gbra", "yuva"))
    flat = av.VideoFrame(width, height, name if direct else planar_name(fmt))
    if name.startswith("yuvj"):
        flat.color_range = 2
    order = (1, 2, 0) if fmt.family == "rgb" else range(len(planes))
    for plane, index in zip(flat.planes, order, strict=not direct):
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        stored = np.ascontiguousarray(planes[index]).view(np.uint8)
        lines[:, : stored.shape[1]] = stored
    packed = flat if direct else flat.reformat(format=name)
    for got, want in zip(unpack(packed, layout), planes, strict=True):
        np.testing.assert_array_equal(got, want)
        assert got.flags.owndata


def test_a_palette_unpacks_to_the_colours_it_names() -> None:
    picture = av.VideoFrame(8, 4, "pal8")
    indices = np.frombuffer(memoryview(picture.planes[0]), np.uint8).reshape(4, -1)
    indices[:, :8] = np.arange(32).reshape(4, 8)
    colours = np.frombuffer(memoryview(picture.planes[1]), np.uint8).reshape(256, 4)
    colours[:, :3] = np.random.default_rng(3).integers(0, 256, (256, 3))
    colours[:, 3] = 255
    layout = layout_of("pal8")
    assert layout is not None
    red, green, blue = unpack(picture, layout)
    for plane, channel in ((blue, 0), (green, 1), (red, 2)):
        np.testing.assert_array_equal(plane, colours[:32, channel].reshape(4, 8))


def test_raw_pictures_stored_upside_down_come_upright(make_clip: MakeClip) -> None:
    bars = ("-f", "lavfi", "-i", "testsrc2=s=50x40:r=5:d=0.4")
    upside = make_clip("down.avi", *bars, "-c:v", "rawvideo", "-pix_fmt", "bgr24")
    upright = make_clip("up.mkv", *bars, "-c:v", "ffv1", "-pix_fmt", "bgr0")
    pairs = zip(Decoder(probe(upside)), Decoder(probe(upright)), strict=True)
    for down, up in pairs:
        for got, want in zip(down.planes, up.planes, strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_format_that_cannot_be_unpacked_is_refused(make_clip: MakeClip) -> None:
    clip = make_clip("film.nut", *SOURCE, "-t", "0.1", "-c:v", "rawvideo", "-pix_fmt", "rgb4_byte")
    info = probe(clip)
    assert layout_of("xyz12le") is layout_of("bayer_rggb8") is layout_of("gbrpf32le") is None
    with pytest.raises(InputError, match="cannot unpack xyz12le"):
        Decoder(replace(info, native_format="xyz12le"))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize(
    ("start", "end"), [("0", "0.5"), ("0.5", "1"), ("0.52", "1.3"), ("1.5", None), (None, "0.04")]
)
def test_a_part_is_the_same_frames_as_in_the_whole(
    suffix: str, start: str | None, end: str | None, make_clip: MakeClip
) -> None:
    late = ("-output_ts_offset", "3") if suffix in ("mp4", "mkv") else ()
    info = probe(make_clip(f"film.{suffix}", *SOURCE, *X264, *late))
    begin = Fraction(start) if start else None
    stop = Fraction(end) if end else None
    first = info.start_pts or 0
    wanted = [
        frame
        for frame in Decoder(info)
        if (begin is None or (frame.pts - first) * info.time_base >= begin)
        and (stop is None or (frame.pts - first) * info.time_base < stop)
    ]
    part = list(Decoder(info, start=begin, end=stop))
    assert wanted
    assert [frame.pts for frame in part] == [frame.pts for frame in wanted]
    for got, want in zip(part, wanted, strict=True):
        np.testing.assert_array_equal(got.planes[0], want.planes[0])


def test_a_part_of_an_open_gop_is_whole(make_clip: MakeClip) -> None:
    open_gop = ("-c:v", "libx264", "-x264-params", "keyint=10:open-gop=1:bframes=3", "-crf", "30")
    info = probe(make_clip("open.mkv", *SOURCE, *open_gop, "-pix_fmt", "yuv420p"))
    frames = {frame.pts: frame for frame in Decoder(info)}
    for tenths in range(1, 19):
        decoder = Decoder(info, start=Fraction(tenths, 10), end=Fraction(tenths + 1, 10))
        part = list(decoder)
        assert len(part) in (2, 3)
        for frame in part:
            np.testing.assert_array_equal(frame.planes[0], frames[frame.pts].planes[0])


def test_a_part_without_frames_says_where_the_film_ends(make_clip: MakeClip) -> None:
    info = probe(make_clip("film.mp4", *SOURCE, *X264))
    with pytest.raises(InputError, match=r"no frame lies between.*00:00:01\.960"):
        list(Decoder(info, start=Fraction(60)))


def test_durations_are_those_of_the_stream(shared: Path) -> None:
    frames = list(Decoder(probe(shared / "fixtures" / "webcam_vfr.mov")))
    assert [frame.duration for frame in frames[:3]] == [80, 40, 40]
    assert frames[-1].pts + frames[-1].duration == 4407


def test_a_frame_that_cannot_be_decoded_is_counted_and_the_rest_comes(shared: Path) -> None:
    decoder = Decoder(probe(shared / "fixtures" / "truncated.mp4"))
    frames = list(decoder)
    assert [frame.pts // 1024 for frame in frames] == [i for i in range(50) if i != 30]
    assert decoder.damage is not None
    assert decoder.damage.lost_frames == 1
    assert decoder.damage.at_pts == 30 * 1024
    assert "00:00:03.000" in decoder.damage.message


def test_a_file_that_breaks_off_gives_its_frames_and_says_how_many_are_missing(
    make_clip: MakeClip,
) -> None:
    clip = make_clip("film.mp4", *SOURCE, *X264, "-movflags", "faststart")
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    info = probe(clip)
    decoder = Decoder(info)
    frames = list(decoder)
    assert 5 < len(frames) < 45
    damage = decoder.damage
    assert damage is not None
    assert damage.lost_frames == 50 - len(frames)
    assert "of 50" in damage.message


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_a_container_that_breaks_off_is_noticed(suffix: str, make_clip: MakeClip) -> None:
    clip = make_clip(f"film.{suffix}", "-stream_loop", "3", *SOURCE, *X264)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 3])
    decoder = Decoder(probe(clip))
    assert len(list(decoder)) > 5
    assert decoder.damage is not None
    assert "break" in decoder.damage.message or "cannot be read" in decoder.damage.message


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_film_that_lacks_its_last_tenth_of_a_second_is_noticed(
    suffix: str, make_clip: MakeClip
) -> None:
    faststart = ("-movflags", "faststart") if suffix == "mp4" else ()
    clip = make_clip(f"film.{suffix}", *SOURCE, "-c:v", "mjpeg", *faststart)
    whole = Decoder(probe(clip))
    assert len(list(whole)) == 50
    assert whole.damage is None
    with av.open(str(clip)) as film:
        places = [packet.pos for packet in film.demux(video=0) if packet.size]
    assert places[-2] is not None
    clip.write_bytes(clip.read_bytes()[: places[-2] - 8])
    decoder = Decoder(probe(clip))
    assert len(list(decoder)) == 48
    assert decoder.damage is not None
    assert "bytes" in decoder.damage.message


CLUSTER = bytes.fromhex("1f43b675")  # Matroska's element that holds packets


def clusters(film: bytes) -> list[int]:
    """Where they begin."""
    found, at = [], film.find(CLUSTER)
    while at >= 0:
        found.append(at)
        at = film.find(CLUSTER, at + 4)
    return found


@pytest.fixture
def in_clusters(make_clip: MakeClip) -> Path:
    """Fifty frames, in clusters of ten, each of which begins with a key frame."""
    form = ("-c:v", "libx264", "-g", "10", "-bf", "0", "-cluster_time_limit", "390")
    return make_clip("film.mkv", *SOURCE, *form)


def test_a_hole_in_the_middle_is_told(in_clusters: Path) -> None:
    film = bytearray(in_clusters.read_bytes())
    places = clusters(bytes(film))
    assert len(places) == 5
    film[places[2] : places[3]] = bytes(places[3] - places[2])
    in_clusters.write_bytes(film)
    decoder = Decoder(probe(in_clusters))
    assert len(list(decoder)) == 40
    damage = decoder.damage
    assert damage is not None
    assert damage.lost_frames == 10
    assert "between 00:00:00.760 and 00:00:01.200" in damage.message


def test_a_hole_in_a_transport_stream_is_told(make_clip: MakeClip) -> None:
    clip = make_clip("film.ts", *SOURCE, "-c:v", "mpeg2video", "-g", "10", "-b:v", "2M")
    film = clip.read_bytes()
    part = len(film) // 188 // 3 * 188
    clip.write_bytes(film[:part] + film[part + 188 * 100 :])
    decoder = Decoder(probe(clip))
    lacking = 50 - len(list(decoder))
    assert lacking > 5
    assert decoder.damage is not None
    assert f"about {lacking} frames missing" in decoder.damage.message


def test_pauses_of_a_film_of_varying_rate_are_no_holes(make_clip: MakeClip) -> None:
    """A recording of a screen: frames where something moves, and pauses of a second."""
    moving = "select='not(mod(n,3))*lt(mod(n,50),30)+not(mod(n,7))*lt(mod(n,50),30)'"
    clip = make_clip("film.mkv", "-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=8", "-vf", moving,
                     "-c:v", "libx264", "-fps_mode", "vfr")  # fmt: skip
    decoder = Decoder(probe(clip))
    assert len(list(decoder)) > 40
    assert decoder._found._holes
    assert decoder.damage is None


def test_two_pictures_far_apart_are_no_hole(make_clip: MakeClip) -> None:
    """Nothing says yet that frames follow each other evenly."""
    pictures = ("-vf", "select=eq(n\\,0)+eq(n\\,1)+eq(n\\,40)", "-fps_mode", "vfr")
    clip = make_clip("film.mkv", *SOURCE, *pictures, "-c:v", "ffv1")
    decoder = Decoder(probe(clip))
    assert len(list(decoder)) == 3
    assert decoder._found._holes
    assert decoder.damage is None


def test_an_early_end_behind_other_damage_is_told(in_clusters: Path) -> None:
    """Less than a second is missing, which alone is no sign."""
    film = bytearray(in_clusters.read_bytes())
    places = clusters(bytes(film))
    film[places[1] + 200 : places[1] + 400] = bytes(200)
    film[places[3] :] = bytes(len(film) - places[3])
    in_clusters.write_bytes(film)
    decoder = Decoder(probe(in_clusters))
    assert 10 < len(list(decoder)) <= 30
    assert decoder.damage is not None
    assert "breaks off at 00:00:01" in decoder.damage.message


def test_errors_while_threads_are_drained_cost_only_the_bad_frame(make_clip: MakeClip) -> None:
    clip = make_clip("film.mp4", *SOURCE, "-c:v", "png")
    with av.open(str(clip)) as film:
        packets = [(p.pos, p.size) for p in film.demux(video=0) if p.size]
    content = bytearray(clip.read_bytes())
    position, size = packets[-2]
    assert position is not None
    content[position : position + size] = b"\x55" * size
    clip.write_bytes(bytes(content))
    decoder = Decoder(probe(clip))
    assert len(list(decoder)) == 49
    assert decoder.damage is not None
    assert decoder.damage.lost_frames == 1


def test_a_change_of_size_stops_at_that_frame(make_clip: MakeClip) -> None:
    small = make_clip("a.ts", *SOURCE, *X264)
    large = ("-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=1", "-output_ts_offset", "2")
    joined = small.with_name("ab.ts")
    joined.write_bytes(small.read_bytes() + make_clip("b.ts", *large, *X264).read_bytes())
    decoder = Decoder(probe(joined))
    frames = []
    with pytest.raises(InputError, match=r"changes at frame \d+ .*96x64.*128x96"):
        for frame in decoder:
            frames.append(frame)
    assert len(frames) > 40


def test_times_that_do_not_rise_are_moved_by_one_tick_and_told(make_clip: MakeClip) -> None:
    twins = ("-c:v", "ffv1", "-enc_time_base", "1:1000", "-bsf:v", "setts=ts=TS-mod(N\\,2)*40")
    clip = make_clip("twins.mkv", *SOURCE, "-t", "0.4", *twins)
    decoder = Decoder(probe(clip))
    times = [frame.pts for frame in decoder]
    assert len(times) == 10
    assert all(a < b for a, b in pairwise(times))
    assert decoder.damage is not None
    assert decoder.damage.lost_frames == 0
    assert "did not rise" in decoder.damage.message


def test_frames_without_times_follow_each_other(make_clip: MakeClip) -> None:
    info = probe(make_clip("raw.h264", *SOURCE, *X264, "-f", "h264"))
    frames = list(Decoder(info))
    assert len(frames) == 50
    assert all(a.pts < b.pts for a, b in pairwise(frames))


def test_an_iterator_that_is_closed_closes_the_file(make_clip: MakeClip) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("no /proc to count open files in")
    clip = make_clip("film.mp4", *SOURCE, *X264)

    def opened() -> int:
        return sum(1 for link in descriptors.iterdir() if link.exists() and link.samefile(clip))

    frames = iter(Decoder(probe(clip)))
    next(frames)
    assert opened() == 1
    frames.close()
    assert opened() == 0


def test_a_second_pass_is_the_same_as_the_first(make_clip: MakeClip) -> None:
    decoder = Decoder(probe(make_clip("film.mp4", *SOURCE, *X264)))
    assert [f.pts for f in decoder] == [f.pts for f in decoder]


@pytest.mark.parametrize("b_frames", ["0", "3"])
def test_h264_in_avi_is_shown_when_it_was_stored(make_clip, b_frames):
    """AVI keeps the order of storage alone: the k-th picture shown has the k-th time stored."""
    lossless = ["-c:v", "libx264", "-crf", "0", "-bf", b_frames, "-pix_fmt", "yuv420p"]
    source = ["-f", "lavfi", "-i", "mandelbrot=s=64x48:r=15", "-frames:v", "12"]
    clip = make_clip("clip.avi", *source, *lossless)
    witness = make_clip("clip.mkv", *source, "-c:v", "ffv1", "-pix_fmt", "yuv420p")
    frames = list(Decoder(probe(clip)))
    assert [frame.pts for frame in frames] == list(range(12))
    for frame, true in zip(frames, Decoder(probe(witness)), strict=True):
        assert (frame.planes[0] == true.planes[0]).all()
