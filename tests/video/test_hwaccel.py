"""Films decoded by a device. Here is none: a double of PyAV hands over what a device would, its
pictures repacked into a device's own forms, and fails where it is told to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.codec import Codec
from av.codec.hwaccel import HWAccel, HWDeviceType
from films import film, raw

from vrestore.cli import main
from vrestore.errors import InputError, UsageError
from vrestore.video import decode, hwaccel
from vrestore.video.decode import Decoder
from vrestore.video.frame import PixelFormat
from vrestore.video.hwaccel import check_device, device_for
from vrestore.video.pixels import layout_from_device, layout_of, unpack
from vrestore.video.probe import open_film, probe

MakeClip = Callable[..., Path]
SOURCE = ("-f", "lavfi", "-i", "testsrc2=s=94x62:r=25:d=2")
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "12", "-bf", "3")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error")


def handed_over(picture: av.VideoFrame, name: str) -> av.VideoFrame:
    """The same samples as a device lays them out: chroma side by side, values in the high bits."""
    stored = layout_of(picture.format.name)
    assert stored is not None
    planes = unpack(picture, stored)
    out = av.VideoFrame(picture.width, picture.height, name)
    shift = 0 if stored.fmt.depth == 8 else 16 - stored.fmt.depth
    if len(out.planes) == 2:
        chroma = np.stack(planes[1:], -1)
        planes = (planes[0], chroma.reshape(len(chroma), -1))
    for plane, samples in zip(out.planes, planes, strict=True):
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        moved = np.ascontiguousarray(samples << shift).view(np.uint8)
        lines[: len(moved), : moved.shape[1]] = moved
    out.pts, out.duration = picture.pts, picture.duration
    out.color_range = picture.color_range
    return out


class Engine:
    """A device: its form of pictures, and at which packet it fails (-1: when it is drained)."""

    def __init__(self, form: str = "nv12") -> None:
        self.form: str | None = form  # None: software decodes in its place, as FFmpeg arranges it
        self.there = True
        self.fails_at: int | None = None
        self.opens = 100
        self.opened = 0
        self.change: Callable[[av.VideoFrame], av.VideoFrame] = lambda picture: picture

    def accel(self, kind: str) -> Accel:
        return Accel(self, kind)

    @contextmanager
    def open_film(self, path: Path, device: Accel | None = None):
        with open_film(path) as real:
            if device is None:
                yield Container(real, None)
                return
            self.opened += 1
            if self.opened > self.opens:
                raise InputError(f"{path}: may not be read; check its permissions")
            yield Container(real, self)


class Accel:
    """HWAccel."""

    def __init__(self, engine: Engine, kind: str) -> None:
        self.engine, self.kind = engine, kind

    def create(self, codec: Codec) -> Accel:
        if not self.engine.there:
            raise av.error.PermissionError(1, "Operation not permitted")
        return self


class Container:
    """InputContainer, with such a device or none."""

    def __init__(self, real: av.container.InputContainer, engine: Engine | None) -> None:
        self.real = real
        self.streams = [Stream(stream, engine) for stream in real.streams]

    def __getattr__(self, name: str):
        return getattr(self.real, name)

    def demux(self, stream: Stream):
        return self.real.demux(stream.real)

    def seek(self, target: int, *, stream: Stream, backward: bool) -> None:
        self.real.seek(target, stream=stream.real, backward=backward)


class Stream:
    """VideoStream."""

    __class__ = av.VideoStream

    def __init__(self, real: av.VideoStream, engine: Engine | None) -> None:
        self.real, self.engine, self.packets = real, engine, 0
        cuda = SimpleNamespace(name="cuda")
        config = SimpleNamespace(device_type=HWDeviceType.cuda, is_supported=True, format=cuda)
        self.codec = SimpleNamespace(hardware_configs=(config,))

    def __getattr__(self, name: str):
        return getattr(self.real, name)

    @property
    def codec_context(self):
        own = self.real.codec_context.pix_fmt
        on_device = self.engine is not None and self.engine.form is not None
        return SimpleNamespace(codec=self.codec, pix_fmt="cuda" if on_device else own)

    def decode(self, packet: av.Packet | None):
        engine = self.engine
        pictures = self.real.decode(packet)
        if engine is None or engine.form is None:
            return pictures
        self.packets += 1
        if engine.fails_at == (-1 if packet is None else self.packets):
            raise av.error.ExternalError(542398533, "Generic error in an external library")
        return [engine.change(handed_over(picture, engine.form)) for picture in pictures]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(hwaccel, "HWAccel", made.accel)
    monkeypatch.setattr(hwaccel, "hwdevices_available", lambda: ["cuda"])
    monkeypatch.setattr(hwaccel, "open_film", made.open_film)
    monkeypatch.setattr(decode, "open_film", made.open_film)
    return made


def same_frames(path: Path, engine: Engine, **part: Fraction) -> Decoder:
    """By the device and in software: the same planes, times and durations, the same damage."""
    info = probe(path)
    device = device_for(info, "cuda")
    assert device is not None
    software, decoder = Decoder(info, **part), Decoder(info, device=device, **part)
    count = 0
    for want, got in zip(software, decoder, strict=True):
        assert (got.pts, got.duration) == (want.pts, want.duration)
        for mine, its in zip(want.planes, got.planes, strict=True):
            assert mine.dtype == its.dtype
            np.testing.assert_array_equal(its, mine)
        count += 1
    assert count > 0
    assert decoder.damage == software.damage
    return decoder


@pytest.mark.parametrize(
    ("name", "form", "codec"),
    [
        ("a.mp4", "nv12", (*X264, "-pix_fmt", "yuv420p")),
        ("a.mkv", "nv12", (*X264, "-pix_fmt", "yuvj420p")),
        ("a.ts", "yuv444p", (*X264, "-pix_fmt", "yuv444p")),
        ("b.mkv", "p010le", (*X265, "-pix_fmt", "yuv420p10le")),
        ("b.mp4", "yuv444p10msble", (*X265, "-pix_fmt", "yuv444p10le")),
        ("c.mkv", "yuv444p16le", (*X265, "-pix_fmt", "yuv444p10le")),
        ("c.webm", "nv12", ("-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p", "-g", "20")),
    ],
)
def test_a_film_is_the_same_by_a_device(name, form, codec, engine, make_clip, caplog):
    clip = make_clip(name, *SOURCE, *codec)
    engine.form = form
    assert same_frames(clip, engine).damage is None
    same_frames(clip, engine, start=Fraction(1, 2), end=Fraction(3, 2))
    assert engine.opened == 4
    assert not caplog.messages


def test_a_variable_rate_is_the_same_by_a_device(engine, shared):
    same_frames(shared / "fixtures" / "webcam_vfr.mov", engine)


def described(fmt: PixelFormat, full_range: bool = False):
    colour = SimpleNamespace(full_range=full_range)
    return SimpleNamespace(pixel_format=fmt, width=64, height=48, colour=colour)


@pytest.mark.parametrize(
    ("form", "depth", "sub", "shift"),
    [
        ("nv12", 8, (1, 1), 0),
        ("p010le", 10, (1, 1), 6),
        ("p012le", 12, (1, 1), 4),
        ("p016le", 10, (1, 1), 6),
        ("p016le", 12, (1, 1), 4),
        ("p210le", 10, (1, 0), 6),
        ("yuv444p16le", 12, (0, 0), 4),
        ("yuv444p12msble", 12, (0, 0), 4),
    ],
)
def test_a_devices_words_hold_the_value_in_their_high_bits(form, depth, sub, shift):
    info = described(PixelFormat("yuv", depth, *sub))
    layout = layout_from_device(av.VideoFrame(64, 48, form), info)
    assert layout is not None
    assert (layout.fmt, layout.shift) == (info.pixel_format, shift)
    samples = np.random.default_rng(1).integers(0, info.pixel_format.peak, (48, 64), np.uint16)
    picture = av.VideoFrame(64, 48, form)
    lines = np.frombuffer(memoryview(picture.planes[0]), np.uint8)
    lines = lines.reshape(-1, picture.planes[0].line_size)
    word = np.uint8 if depth == 8 else "<u2"
    lines[:48].view(word)[:, :64] = samples << shift
    np.testing.assert_array_equal(unpack(picture, layout)[0], samples)


def test_what_does_not_hold_the_films_samples_is_not_unpacked():
    info = described(PixelFormat("yuv", 10, 1, 1))
    for form in ("nv12", "p210le", "yuv444p10le", "gray10le", "yuv420p"):
        assert layout_from_device(av.VideoFrame(64, 48, form), info) is None, form
    twelve = described(PixelFormat("yuv", 12, 1, 1))
    assert layout_from_device(av.VideoFrame(64, 48, "p010le"), twelve) is None
    eight = described(PixelFormat("yuv", 8, 1, 1))
    for form in ("p010le", "p016le", "nv16", "rgb24"):
        assert layout_from_device(av.VideoFrame(64, 48, form), eight) is None, form
    assert layout_from_device(av.VideoFrame(64, 50, "nv12"), eight) is None
    assert layout_from_device(av.VideoFrame(66, 48, "nv12"), eight) is None
    full = av.VideoFrame(64, 48, "nv12")
    full.color_range = 2
    assert layout_from_device(full, eight) is None
    assert layout_from_device(full, described(eight.pixel_format, full_range=True)) is not None


@pytest.mark.parametrize(("packed", "planar"), [("nv12", "yuv420p"), ("p010le", "yuv420p10le")])
def test_nv12_and_p010_are_read_to_the_bit(packed, planar, make_clip):
    """ffmpeg repacks, and is the witness."""
    clip = make_clip("a.mkv", *SOURCE, "-frames:v", "1", "-pix_fmt", planar, "-c:v", "ffv1")
    info, picture = probe(clip), av.VideoFrame(94, 62, packed)
    layout = layout_from_device(picture, info)
    assert layout is not None
    for plane, samples in zip(picture.planes, np.split(raw(clip, packed), [62 * 94]), strict=True):
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        word = np.uint8 if packed == "nv12" else np.dtype("<u2")
        rows = samples.astype(word).reshape(-1, 94).view(np.uint8)
        lines[: len(rows), : rows.shape[1]] = rows
    read = np.concatenate([plane.ravel() for plane in unpack(picture, layout)])
    np.testing.assert_array_equal(read, raw(clip, planar))


def test_a_device_that_is_not_there_is_an_error_by_name_and_one_line_by_auto(
    engine, make_clip, caplog
):
    clip = make_clip("a.mp4", *SOURCE, *X264, "-pix_fmt", "yuv420p")
    check_device("cuda")
    engine.there = False
    with pytest.raises(UsageError, match=r"hwaccel cuda cannot be used: Operation not permitted;"):
        check_device("cuda")
    check_device("auto")
    assert device_for(probe(clip), "auto") is None
    assert caplog.messages == [f"{clip}: decoded in software (cuda: Operation not permitted)"]
    with pytest.raises(UsageError, match="'nvdec' is unknown here; choose one of none, auto, cuda"):
        check_device("nvdec")


def spoilt(picture: av.VideoFrame) -> av.VideoFrame:
    lines = np.frombuffer(memoryview(picture.planes[1]), np.uint8)
    lines[7] ^= 1
    return picture


def late(picture: av.VideoFrame) -> av.VideoFrame:
    picture.pts += 1
    return picture


def smaller(picture: av.VideoFrame) -> av.VideoFrame:
    return av.VideoFrame(picture.width - 2, picture.height, picture.format.name)


@pytest.mark.parametrize(
    ("form", "change", "why"),
    [
        (None, None, "cuda: not as yuv420p"),
        ("nv12", spoilt, "cuda: its samples are others than software's"),
        ("nv12", late, "cuda: its nv12 is not the film's yuv420p"),
        ("nv12", smaller, "cuda: its nv12 is not the film's yuv420p"),
        ("yuv444p", None, "cuda: its yuv444p is not the film's yuv420p"),
    ],
)
def test_a_device_that_gives_other_pictures_is_not_taken(
    form, change, why, engine, make_clip, caplog, monkeypatch
):
    clip = make_clip("a.mp4", *SOURCE, *X264, "-pix_fmt", "yuv420p")
    engine.form, engine.change = form, change or engine.change
    if form == "yuv444p":
        monkeypatch.setitem(globals(), "handed_over", lambda p, name: p.reformat(format=name))
    for kind in ("cuda", "auto"):
        assert device_for(probe(clip), kind) is None
        assert caplog.messages == [f"{clip}: decoded in software ({why})"]
        caplog.clear()


@pytest.mark.parametrize(
    ("name", "codec", "why"),
    [
        ("a.ts", ("-c:v", "mpeg2video"), "decoders of mpeg2video differ in their samples"),
        ("a.mkv", ("-c:v", "ffv1"), "decoders of ffv1 differ in their samples"),
    ],
)
def test_what_a_device_could_not_decode_alike_is_not_tried(
    name, codec, why, engine, make_clip, caplog
):
    clip = make_clip(name, *SOURCE, *codec, "-pix_fmt", "yuv420p")
    assert device_for(probe(clip), "cuda") is None
    assert caplog.messages == [f"{clip}: decoded in software ({why})"]
    assert engine.opened == 0


def test_without_the_option_no_device_is_asked(engine, make_clip, caplog):
    clip = make_clip("a.mp4", *SOURCE, *X264, "-pix_fmt", "yuv420p")
    check_device("none")
    assert device_for(probe(clip), "none") is None
    assert engine.opened == 0
    assert not caplog.messages


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "a.h264"])
@pytest.mark.parametrize("packet", [1, 2, 20, 50, -1])
def test_software_goes_on_where_the_device_fails(packet, name, engine, make_clip, caplog):
    clip = make_clip(name, *SOURCE, *X264, "-pix_fmt", "yuv420p")
    device = device_for(probe(clip), "cuda")
    engine.fails_at = packet
    info = probe(clip)
    software, decoder = list(Decoder(info)), Decoder(info, device=device)
    frames = list(decoder)
    assert [frame.pts for frame in frames] == [frame.pts for frame in software]
    for want, got in zip(software, frames, strict=True):
        for mine, its in zip(want.planes, got.planes, strict=True):
            np.testing.assert_array_equal(its, mine)
    assert decoder.damage is None
    assert len(caplog.messages) == 1
    assert "software goes on" in caplog.messages[0]
    engine.fails_at, opened = None, engine.opened
    assert len(list(decoder)) == len(software)
    assert engine.opened == opened + 1  # a second pass asks the device anew
    assert len(caplog.messages) == 1


def test_times_that_begin_anew_do_not_confuse_who_takes_over(engine, make_clip, tmp_path):
    part = make_clip("1.ts", *SOURCE, "-t", "1", *X264, "-pix_fmt", "yuv420p").read_bytes()
    clip = tmp_path / "twice.ts"
    clip.write_bytes(part + part)
    for engine.fails_at in (20, 45):
        same_frames(clip, engine)


def test_packets_are_counted_once_whoever_decodes_them(engine, make_clip):
    clip = make_clip("a.mp4", *SOURCE, *X264, "-pix_fmt", "yuv420p")
    info = probe(clip)
    device = device_for(info, "cuda")
    for packet in (1, 20, -1):
        engine.fails_at = packet
        decoder = Decoder(info, device=device)
        list(decoder)
        assert decoder._found.packets == info.frame_count == 50


def test_a_device_that_cannot_be_opened_again_costs_no_frame(engine, make_clip, caplog):
    clip = make_clip("a.mp4", *SOURCE, *X264, "-pix_fmt", "yuv420p")
    device = device_for(probe(clip), "cuda")
    engine.opens = engine.opened
    assert len(list(Decoder(probe(clip), device=device))) == 50
    assert len(caplog.messages) == 1


def test_a_part_is_the_same_where_the_device_fails_in_it(engine, make_clip):
    clip = make_clip("a.mp4", *SOURCE, *X264, "-pix_fmt", "yuv420p")
    device, info = device_for(probe(clip), "cuda"), probe(clip)
    part = {"start": Fraction(2, 5), "end": Fraction(8, 5)}
    engine.fails_at = 15
    times = [[f.pts for f in Decoder(info, device=d, **part)] for d in (device, None)]
    assert times[0] == times[1]
    assert len(times[0]) == 30


def test_a_range_that_changes_in_mid_film_is_softwares_to_judge(engine, make_clip, caplog):
    clip = make_clip("a.mp4", *SOURCE, *X264, "-pix_fmt", "yuv420p")
    device = device_for(probe(clip), "cuda")

    def full_from_20_on(picture):
        if picture.pts >= 20 * 512:
            picture.color_range = 2
        return picture

    engine.change = full_from_20_on
    assert len(list(Decoder(probe(clip), device=device))) == 50
    assert caplog.messages == [
        f"{clip}: software goes on after 00:00:00.760 (pictures of another form)"
    ]


def test_a_change_of_size_is_told_as_software_tells_it(engine, make_clip, tmp_path):
    small = make_clip("1.ts", *SOURCE, "-t", "1", *X264, "-pix_fmt", "yuv420p")
    large = make_clip("2.ts", *SOURCE, "-vf", "scale=64:48", *X264, "-pix_fmt", "yuv420p")
    clip = tmp_path / "a.ts"
    clip.write_bytes(small.read_bytes() + large.read_bytes())
    info = probe(clip)
    said = []
    for device in (device_for(info, "cuda"), None):
        with pytest.raises(InputError) as error:
            list(Decoder(info, device=device))
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "from 94x62 yuv420p to 64x48 yuv420p" in said[0]


def test_damage_that_a_device_meets_is_told_as_software_tells_it(engine, make_clip, shared):
    same_frames(shared / "fixtures" / "truncated.mp4", engine)
    clip = make_clip("a.ts", *SOURCE, *X264, "-pix_fmt", "yuv420p")
    data = bytearray(clip.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    clip.write_bytes(data)
    assert "patched by the decoder" in same_frames(clip, engine).damage.message


def there_is_a_gpu() -> bool:
    try:
        HWAccel("cuda").create(Codec("h264", "r"))
    except (av.FFmpegError, NotImplementedError):
        return False
    return True


def test_the_command_refuses_a_device_that_is_not_there(tmp_path, capsys):
    if there_is_a_gpu():
        pytest.skip("there is a GPU here")
    clip = film(tmp_path / "a.mp4", 3)
    target = tmp_path / "b.mkv"
    words = [str(clip), "-o", str(target), "-n", "identity", "--device", "cpu"]
    assert main([*words, "--hwaccel", "cuda"]) == 2
    said = capsys.readouterr().err
    assert "hwaccel" in said
    assert "cuda" in said
    assert list(tmp_path.iterdir()) == [clip]


def test_auto_gives_the_film_that_none_gives(tmp_path, caplog):
    clip = film(tmp_path / "a.mp4", 12, options=(*X264, "-pix_fmt", "yuv420p"))
    samples = []
    for kind in ("none", "auto"):
        target = tmp_path / f"{kind}.mkv"
        words = [str(clip), "-o", str(target), "-n", "identity", "--device", "cpu"]
        assert main([*words, "--codec", "ffv1", "--hwaccel", kind, "--quiet"]) == 0
        samples.append(raw(target, "yuv420p"))
    np.testing.assert_array_equal(*samples)
    if not there_is_a_gpu():
        assert len(caplog.messages) == 1
        assert caplog.messages[0].startswith(f"{clip}: decoded in software (")


@pytest.mark.parametrize("codec", [X264, X265])
def test_on_a_gpu_a_film_is_the_same(codec, make_clip):
    if not there_is_a_gpu():
        pytest.skip("there is no GPU here")
    size = ("-vf", "scale=320:240")  # smaller ones no NVDEC takes
    clip = make_clip("a.mp4", *SOURCE, *size, *codec, "-pix_fmt", "yuv420p")
    info = probe(clip)
    device = device_for(info, "cuda")
    assert device is not None
    for want, got in zip(Decoder(info), Decoder(info, device=device), strict=True):
        assert got.pts == want.pts
        for mine, its in zip(want.planes, got.planes, strict=True):
            np.testing.assert_array_equal(its, mine)
