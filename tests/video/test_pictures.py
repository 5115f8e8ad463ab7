"""Pictures as films, with the ffmpeg binary as the witness of what the files hold."""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from vrestore.errors import InputError, OutputError, UsageError
from vrestore.video.frame import Colour, Frame, PixelFormat, Plane, StreamInfo, VideoInfo
from vrestore.video.partial import partial_name
from vrestore.video.pictures import (
    PictureReader,
    PictureWriter,
    is_picture,
    list_pictures,
    probe_pictures,
)

ODD_NAMES = ["a b.png", "it's.png", "100%.png", "%d.png", "%08d.png", "🎬.png", "-y.png", "a:b.png"]


@pytest.fixture
def ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        found = str(pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe())
    return found


def noise(channels: int, height: int = 13, width: int = 21, depth: int = 8) -> np.ndarray:
    generator = np.random.default_rng(channels * height + depth)
    codes = generator.integers(0, 1 << depth, (channels, height, width))
    return codes.astype(np.uint8 if depth == 8 else np.uint16)


def frame_of(planes: np.ndarray, pts: int = 0) -> Frame:
    return Frame(tuple(planes), pts, 1)


def film(family: str = "rgb", depth: int = 8, frame_count: int | None = None) -> VideoInfo:
    """The facts of some film that frames to be written come from."""
    return VideoInfo(
        path=Path("some.mkv"),
        container="matroska",
        stream_index=0,
        codec="ffv1",
        width=21,
        height=13,
        native_format="gbrp",
        pixel_format=PixelFormat(family, depth),  # type: ignore[arg-type]
        colour=Colour("gbr", full_range=True),
        time_base=Fraction(1, 25),
        average_rate=Fraction(25),
        frame_count=frame_count,
        duration=None,
        start_pts=0,
        sample_aspect=Fraction(1),
        display_matrix=None,
        interlaced=False,
        has_alpha=False,
        streams=(),
    )


def seen_by(ffmpeg: str, picture: Path, pixel_format: str) -> np.ndarray:
    """The file's samples as the ffmpeg binary gives them in ``pixel_format``."""
    source = ["-f", "image2", "-pattern_type", "none"]
    wanted = ["-f", "rawvideo", "-pix_fmt", pixel_format, "-"]
    command = [ffmpeg, "-v", "error", *source, "-i", f"file:{picture}", *wanted]
    samples = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(
        samples, np.uint16 if "16" in pixel_format or "48" in pixel_format else "u1"
    )


def made_by(ffmpeg: str, picture: Path, samples: np.ndarray, pixel_format: str, *how: str) -> None:
    """``samples`` ``(h, w)`` or ``(h, w, n)`` of ``pixel_format`` into a picture, by ffmpeg."""
    height, width = samples.shape[:2]
    raw = ["-f", "rawvideo", "-pix_fmt", pixel_format, "-s", f"{width}x{height}", "-i", "-"]
    target = [*how, "-frames:v", "1", "-f", "image2", "-update", "1", "-y", f"file:{picture}"]
    command = [ffmpeg, "-v", "error", *raw, *target]
    subprocess.run(command, check=True, capture_output=True, input=samples.tobytes())


def written(path: Path, *frames: np.ndarray, depth: int = 8, family: str = "rgb") -> None:
    with PictureWriter(path, film(family, depth)) as writer:
        for planes in frames:
            writer.write(frame_of(planes))


def only(path: Path) -> tuple[Plane, ...]:
    (frame,) = PictureReader(probe_pictures(path))
    return frame.planes


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF", ".webp", ".bmp"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("family", ["rgb", "gray"])
def test_what_is_written_is_what_ffmpeg_and_we_read(
    tmp_path: Path, ffmpeg: str, suffix: str, depth: int, family: str
) -> None:
    picture = tmp_path / f"one{suffix}"
    deep_enough = suffix not in (".webp", ".bmp")
    if not deep_enough and (depth > 8 or family == "gray"):
        writer = PictureWriter(picture, film(family, depth))
        assert writer.pixel_format == PixelFormat("rgb", 8)
        return
    planes = noise(3 if family == "rgb" else 1, depth=depth)
    written(picture, planes, depth=depth, family=family)
    pixel_format = {"rgb": {8: "rgb24", 16: "rgb48le"}, "gray": {8: "gray", 16: "gray16le"}}
    theirs = seen_by(ffmpeg, picture, pixel_format[family][depth])
    assert np.array_equal(theirs.reshape(13, 21, -1), np.moveaxis(planes, 0, -1))
    assert np.array_equal(np.stack(only(picture)), planes)
    info = probe_pictures(picture)
    assert info.pixel_format == PixelFormat(family, depth)  # type: ignore[arg-type]
    assert info.colour.full_range


@pytest.mark.parametrize("stored", ["rgb24", "rgb48be", "gray", "gray16be", "rgba", "ya8", "monob"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_what_ffmpeg_wrote_is_read_bit_for_bit(
    tmp_path: Path, ffmpeg: str, stored: str, suffix: str
) -> None:
    picture = tmp_path / f"theirs{suffix}"
    if suffix == ".tif":
        stored = stored.replace("be", "le")
    source, channels = {"ya8": ("ya8", 2), "rgba": ("rgba", 4), "monob": ("gray", 1)}.get(
        stored, ("gray" if "gray" in stored else "rgb24", 1 if "gray" in stored else 3)
    )
    samples = np.ascontiguousarray(np.moveaxis(noise(channels), 0, -1))
    made_by(ffmpeg, picture, samples, source, "-pix_fmt", stored)
    planes = only(picture)
    deep = "16" in stored or "48" in stored
    wanted = "gray" if stored in ("ya8", "monob") or "gray" in stored else "rgb24"
    if deep:
        wanted = "gray16le" if wanted == "gray" else "rgb48le"
    # swscale blends grey with alpha away; there the samples sent are the witness.
    theirs = samples[..., 0].ravel() if stored == "ya8" else seen_by(ffmpeg, picture, wanted)
    assert np.array_equal(np.stack(planes, -1).reshape(-1), theirs)
    assert planes[0].dtype == (np.uint16 if deep else np.uint8)
    assert probe_pictures(picture).has_alpha == (stored in ("rgba", "ya8"))


def test_a_palette_becomes_its_colours(tmp_path: Path, ffmpeg: str) -> None:
    picture = tmp_path / "palette.png"
    samples = np.ascontiguousarray(np.moveaxis(noise(3, 16, 16), 0, -1) // 86 * 127)
    split = "split[a][b];[a]palettegen=reserve_transparent=0[p];[b][p]paletteuse=dither=none"
    made_by(ffmpeg, picture, samples, "rgb24", "-vf", split)
    assert probe_pictures(picture).native_format == "pal8"
    theirs = seen_by(ffmpeg, picture, "rgb24").reshape(16, 16, 3)
    assert np.array_equal(np.stack(only(picture), -1), theirs)


@pytest.mark.parametrize(
    ("stored", "sub"), [("yuvj420p", (1, 1)), ("yuvj422p", (1, 0)), ("yuvj444p", (0, 0))]
)
def test_jpeg_keeps_its_planes_and_full_range(
    tmp_path: Path, ffmpeg: str, stored: str, sub: tuple[int, int]
) -> None:
    picture = tmp_path / "photo.jpg"
    samples = np.ascontiguousarray(np.moveaxis(noise(3), 0, -1))
    made_by(ffmpeg, picture, samples, "rgb24", "-pix_fmt", stored, "-q:v", "2")
    info = probe_pictures(picture)
    assert info.pixel_format == PixelFormat("yuv", 8, *sub)
    assert info.colour == Colour("bt470bg", full_range=True, siting="center")
    joined = np.concatenate([plane.ravel() for plane in only(picture)])
    theirs = seen_by(ffmpeg, picture, stored)
    # Two builds of FFmpeg have two inverse cosine transforms.
    assert np.abs(joined.astype(int) - theirs).max() <= 1


def test_jpeg_is_written_near_lossless(tmp_path: Path, ffmpeg: str) -> None:
    y, x = np.mgrid[:40, :60]
    planes = np.stack([128 + 90 * np.sin(x / 7 + y / 9), 128 + x, 200 - 2 * y]).astype(np.uint8)
    picture = tmp_path / "photo.jpeg"
    with PictureWriter(picture, film()) as writer:
        assert writer.pixel_format == PixelFormat("yuv", 8)
        assert writer.colour == Colour("bt470bg", full_range=True, siting="center")
        writer.write(frame_of(planes))
    theirs = seen_by(ffmpeg, picture, "yuvj444p").reshape(3, 40, 60)
    assert np.abs(theirs.astype(int) - planes).max() <= 3
    assert picture.read_bytes()[6:10] == b"JFIF"


def test_webp_is_of_limited_range(shared: Path) -> None:
    picture = sorted((shared / "media" / "train" / "photos").glob("*.webp"))[0]
    info = probe_pictures(picture)
    assert info.codec == "webp"
    assert info.colour == Colour("bt470bg", full_range=False, siting="center")
    assert only(picture)[0].shape == (info.height, info.width)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(16, 32), (15, 31)])
def test_a_photo_on_its_side_is_read_upright(
    tmp_path: Path, ffmpeg: str, orientation: int, size: tuple[int, int]
) -> None:
    """Exif 2.3, 4.6.4 A; the turning is written out here by what it does to the corners."""
    plain, tagged = tmp_path / "plain.jpg", tmp_path / "tagged.jpg"
    height, width = size
    y, x = np.mgrid[:height, :width]
    samples = np.stack([x * 255 // width, y * 255 // height, 0 * x], -1).astype(np.uint8)
    made_by(ffmpeg, plain, samples, "rgb24", "-pix_fmt", "yuvj420p", "-q:v", "2")
    exif = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    app1 = b"Exif\0\0" + exif
    data = plain.read_bytes()
    tagged.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(app1) + 2) + app1 + data[2:])
    stored, upright = only(plain), only(tagged)
    info = probe_pictures(tagged)
    assert (info.height, info.width) == (size if orientation < 5 else size[::-1])
    # Orientation: where the stored first row and first column are to be seen.
    seen = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda p: np.rot90(p, -1),  # first row on the right: a quarter turn clockwise
        7: lambda p: np.rot90(p, 2).T,
        8: np.rot90,
    }[orientation]
    assert np.array_equal(upright[0], seen(stored[0]))
    if size == (16, 32) or orientation == 1:
        assert np.array_equal(upright[1], seen(stored[1]))
    else:  # an odd size: chroma for every pixel instead of chroma beside its place
        spread = np.kron(stored[1].astype(int), np.ones((2, 2), int))[: size[0], : size[1]]
        assert upright[1].shape == upright[0].shape
        inner = (slice(4, -4), slice(4, -4))
        # A chroma sample beside its place would be off by the ramps' slopes, 3 and 6 codes a pixel.
        assert abs((upright[1] - seen(spread))[inner].mean()) < 0.7


def test_numbers_in_names_count_as_numbers(tmp_path: Path) -> None:
    for name in ["f10.png", "f9.png", "f1.png", "F2.PNG", "f010b.png", "a.png", ".f3.png", "f.txt"]:
        (tmp_path / name).touch()
    names = [picture.name for picture in list_pictures(tmp_path)]
    assert names == ["a.png", "f1.png", "F2.PNG", "f9.png", "f10.png", "f010b.png"]
    assert is_picture(Path("x.JPEG"))
    assert not is_picture(Path("x.mp4"))


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_may_hold_what_it_likes(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "-in %d 'x'"
    folder.mkdir()
    planes = noise(3)
    info = film(frame_count=1)
    with PictureWriter(folder, info, [name], overwrite=True) as writer:
        writer.write(frame_of(planes))
    assert [entry.name for entry in folder.iterdir()] == [name]
    assert np.array_equal(np.stack(only(folder)), planes)
    assert np.array_equal(np.stack(only(folder / name)), planes)


def test_a_dash_first_works_without_a_folder_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("-i.png"), noise(3))
    assert np.array_equal(np.stack(only(Path("-i.png"))), noise(3))


def test_a_film_becomes_numbered_pictures_with_pts_in_order(tmp_path: Path) -> None:
    target = tmp_path / "out"
    pictures = [noise(3) ^ np.uint8(nth) for nth in range(12)]
    written(target, *pictures)
    names = [entry.name for entry in list_pictures(target)]
    assert names == [f"{nth:08d}.png" for nth in range(12)]
    info = probe_pictures(target, Fraction(24000, 1001))
    assert (info.frame_count, info.time_base) == (12, Fraction(1001, 24000))
    frames = list(PictureReader(info))
    assert [frame.pts for frame in frames] == list(range(12))
    for frame, picture in zip(frames, pictures, strict=True):
        assert np.array_equal(np.stack(frame.planes), picture)


def test_a_pattern_numbers_as_it_says(tmp_path: Path) -> None:
    written(tmp_path / "out" / "f%03d.tif", noise(3), noise(3))
    assert [entry.name for entry in list_pictures(tmp_path / "out")] == ["f000.tif", "f001.tif"]
    again = probe_pictures(tmp_path / "out")
    with PictureWriter(tmp_path / "again" / "%d.png", again) as writer:
        for frame in PictureReader(again):
            writer.write(frame)
    assert [entry.name for entry in list_pictures(tmp_path / "again")] == ["0.png", "1.png"]


def test_what_pictures_cannot_hold_is_reported(tmp_path: Path) -> None:
    streams = (StreamInfo(0, "audio", "aac"), StreamInfo(1, "video", "h264"))
    info = replace(film(), stream_index=1, streams=streams, has_alpha=True)
    with PictureWriter(tmp_path / "out", info) as writer:
        writer.write(frame_of(noise(3)))
        report = writer.close()
        assert report == writer.close()
    assert (report.path, report.frames) == (tmp_path / "out", 1)
    assert report.dropped == ("#0 audio aac: pictures hold none",)
    assert report.notes == ("the alpha plane is left out",)


def test_pictures_keep_their_own_names(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    with PictureWriter(source, film(), ["b 2.tif", "b 10.tif"]) as writer:
        writer.write(frame_of(noise(3)))
        writer.write(frame_of(noise(3) // 2))
    with PictureWriter(target, probe_pictures(source)) as writer:
        for frame in PictureReader(probe_pictures(source)):
            writer.write(frame)
    assert [entry.name for entry in list_pictures(target)] == ["b 2.png", "b 10.png"]


def test_another_size_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    written(folder, noise(3), noise(3))
    written(folder / "9.png", noise(3, 12, 20))
    with pytest.raises(InputError, match=r"9\.png: 20x12, but 00000000\.png is 21x13"):
        list(PictureReader(probe_pictures(folder)))


def test_another_format_is_refused_but_grey_among_colour_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    written(folder, noise(3))
    written(folder / "1.png", noise(1), family="gray")
    frames = list(PictureReader(probe_pictures(folder)))
    assert np.array_equal(np.stack(frames[1].planes), np.repeat(noise(1), 3, 0))
    written(folder / "2.png", noise(3, depth=16), depth=16)
    with pytest.raises(InputError, match=r"2\.png: stored as rgb48be, but 00000000\.png as rgb24"):
        list(PictureReader(probe_pictures(folder)))


def test_what_a_run_over_one_picture_left_is_no_frame_of_its_folder(tmp_path: Path) -> None:
    for name in ("1.png", "1_restored.png", "2.jpg", "2_restored.png", "3_restored.png"):
        (tmp_path / name).write_bytes(b"")
    found = [picture.name for picture in list_pictures(tmp_path)]
    assert found == ["1.png", "2.jpg", "3_restored.png"]


def test_a_folder_without_pictures_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found: nothing"):
        probe_pictures(tmp_path)
    (tmp_path / "film.mp4").touch()
    with pytest.raises(InputError, match=r"found: 1 others, film\.mp4"):
        probe_pictures(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp", ".bmp"])
@pytest.mark.parametrize("kept", [0, 9, 300, 0.5, 0.9])
def test_a_picture_cut_short_is_refused_by_name(tmp_path: Path, suffix: str, kept: float) -> None:
    picture = tmp_path / f"cut{suffix}"
    written(picture, noise(3, 40, 60))
    data = picture.read_bytes()
    picture.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(InputError, match=f"cut{suffix}"):
        probe_pictures(picture)


def test_a_jpeg_may_hold_more_than_its_picture_but_not_less(tmp_path: Path) -> None:
    picture = tmp_path / "photo.jpg"
    written(picture, noise(3, 40, 60))
    data = picture.read_bytes()
    thumbnail = b"\xff\xe1" + struct.pack(">H", 6 + 2) + b"\xff\xd8\xff\xda\xff\xd9"
    picture.write_bytes(data[:2] + thumbnail + data[2:] + b"a film, as phones append it")
    assert only(picture)[0].shape == (40, 60)
    for cut in (2, 30):
        picture.write_bytes(data[:2] + thumbnail + data[2:-cut])
        with pytest.raises(InputError, match="damaged or cut short"):
            probe_pictures(picture)


def test_a_missing_or_disguised_picture_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.png: cannot be read"):
        probe_pictures(tmp_path / "none.png")
    written(tmp_path / "real.tif", noise(3))
    (tmp_path / "real.tif").rename(tmp_path / "disguised.png")
    assert probe_pictures(tmp_path / "disguised.png").codec == "tiff"
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png: no PNG"):
        probe_pictures(tmp_path / "text.png")


def test_what_exists_is_not_overwritten_unasked(tmp_path: Path) -> None:
    picture, folder = tmp_path / "one.png", tmp_path / "many"
    written(picture, noise(3))
    written(folder, noise(3))
    (folder / "notes.txt").write_text("mine")
    for target in (picture, folder):
        with pytest.raises(OutputError, match="exists already"):
            PictureWriter(target, film())
        with PictureWriter(target, film(), overwrite=True) as writer:
            writer.write(frame_of(noise(3) // 2))
    assert np.array_equal(np.stack(only(picture)), noise(3) // 2)
    assert np.array_equal(np.stack(only(folder)), noise(3) // 2)
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["many", "one.png"]


def test_the_input_is_never_the_output(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    written(folder, noise(3))
    picture = folder / "00000000.png"
    for source, target in [(folder, folder), (picture, picture), (folder, picture)]:
        with pytest.raises(UsageError, match="the input itself"):
            PictureWriter(target, probe_pictures(source), overwrite=True)


@pytest.mark.parametrize("target", ["one.png", "many"])
def test_a_run_that_fails_leaves_nothing(tmp_path: Path, target: str) -> None:
    with pytest.raises(ZeroDivisionError), PictureWriter(tmp_path / target, film()) as writer:
        writer.write(frame_of(noise(3)))
        assert not (tmp_path / target).exists()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / partial_name(Path("many"))
    left.mkdir()
    (left / "00000007.png").touch()
    written(tmp_path / "many", noise(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["many"]
    assert [entry.name for entry in (tmp_path / "many").iterdir()] == ["00000000.png"]


def test_a_folder_that_exists_stays_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the current one, a link or a mount: it cannot be replaced by a rename."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    number = (tmp_path / "real").stat().st_ino
    written(tmp_path / "link", noise(3))
    assert (tmp_path / "real").stat().st_ino == number
    assert [entry.name for entry in (tmp_path / "real").iterdir()] == ["00000000.png"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    written(Path("%03d.png"), noise(3))
    assert [entry.name for entry in Path().iterdir()] == ["000.png"]
    written(Path("b%03d.png"), noise(3))
    with pytest.raises(OutputError, match=r"b000\.png: exists already"):
        written(Path("b%03d.png"), noise(3))


def test_frames_and_names_must_agree(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one picture cannot hold 5 frames"):
        PictureWriter(tmp_path / "one.png", film(frame_count=5))
    with pytest.raises(OutputError, match="more frames"):
        written(tmp_path / "one.png", noise(3), noise(3))
    with pytest.raises(OutputError, match="0 frames came"):
        written(tmp_path / "many")
    for names, why in [
        (["a.png", "A.png"], "two pictures"),
        (["a.png", "b.tif"], "one format"),
        (["../a.png"], "plain file name"),
        (["a.gif"], "pictures are"),
    ]:
        with pytest.raises(UsageError, match=why):
            PictureWriter(tmp_path / "many", film(), names)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no folder"):
        PictureWriter(tmp_path / "none" / "one.png", film())
    with pytest.raises(OutputError, match="cannot be made"):
        PictureWriter(tmp_path / "none" / "many", film())


def test_a_full_disk_is_an_output_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    for target in ("one.png", "many"):
        with pytest.raises(OutputError, match="cannot be written: No space left"):
            written(tmp_path / target, noise(3))
    assert not list(tmp_path.iterdir())
