"""One picture's bytes to upright planes, and planes to bytes, by FFmpeg's codecs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal, cast

import av
import numpy as np
import torch
from numpy.typing import NDArray

from vrestore.errors import InputError
from vrestore.video.colour import ColourConverter
from vrestore.video.frame import Colour, PixelFormat, Plane, VideoInfo
from vrestore.video.pixels import layout_of, unpack

_EXIF_ORIENTATION: Final = 0x0112


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture as it lay in its file, turned upright."""

    planes: tuple[Plane, ...]
    pixel_format: PixelFormat
    colour: Colour
    codec: str
    native_format: str
    has_alpha: bool


@dataclass(frozen=True, slots=True)
class PictureCoding:
    """How a picture is stored: FFmpeg's encoder, its format and options, and what that holds."""

    codec: str
    native_format: str
    options: dict[str, str]
    pixel_format: PixelFormat
    colour: Colour

    def encode(self, planes: Sequence[Plane]) -> bytes:
        """The file's bytes. Raises ValueError for planes that are not of the format."""
        channels = 1 if self.pixel_format.family == "gray" else 3
        shapes = {plane.shape for plane in planes}
        if len(planes) != channels or len(shapes) != 1:
            raise ValueError(f"{channels} planes of one size expected, got {shapes}")
        stored: NDArray[Any] = planes[0]
        if self.pixel_format.family == "yuv":
            stored = np.stack(planes)
        elif self.native_format == "bgra":
            stored = np.stack((*planes[::-1], np.full_like(planes[0], 255)), axis=-1)
        elif channels == 3:
            stored = np.stack(planes[::-1] if self.native_format == "bgr24" else planes, axis=-1)
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), format=self.native_format)
        encoder = cast("av.VideoCodecContext", av.CodecContext.create(self.codec, "w"))
        encoder.width, encoder.height = frame.width, frame.height
        encoder.pix_fmt = self.native_format
        encoder.time_base = Fraction(1, 25)
        encoder.sample_aspect_ratio = Fraction(1)
        encoder.options = self.options
        if self.colour.full_range:
            encoder.color_range = frame.color_range = av.video.reformatter.ColorRange.JPEG
        return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def coding_for(name: str, source: VideoInfo) -> PictureCoding:
    """How ``name``'s suffix and ``source``'s depth and family ask a picture to be stored."""
    gray = source.pixel_format.family == "gray"
    family: Literal["gray", "rgb"] = "gray" if gray else "rgb"
    deep = source.pixel_format.depth > 8
    rgb = Colour("gbr", full_range=True)
    suffix = Path(name).suffix.lower()
    if suffix in (".jpg", ".jpeg"):
        # Quantiser 1: steps of 2, the finest that FFmpeg's encoder has. It knows no grey.
        yuv = Colour("bt470bg", full_range=True, siting="center")
        options = {"qmin": "1", "qmax": "1", "flags": "+bitexact"}
        return PictureCoding("mjpeg", "yuvj444p", options, PixelFormat("yuv", 8), yuv)
    if suffix == ".webp":
        return PictureCoding("libwebp", "bgra", {"lossless": "1"}, PixelFormat("rgb", 8), rgb)
    if suffix == ".bmp":
        return PictureCoding("bmp", "bgr24", {}, PixelFormat("rgb", 8), rgb)
    if suffix == ".png":
        names = ("gray16be", "rgb48be") if deep else ("gray", "rgb24")
        codec, options = "png", {"pred": "paeth", "compression_level": "3"}
    else:
        names = ("gray16le", "rgb48le") if deep else ("gray", "rgb24")
        codec, options = "tiff", {"compression_algo": "deflate"}
    pixel_format = PixelFormat(family, 16 if deep else 8)
    return PictureCoding(codec, names[0] if gray else names[1], options, pixel_format, rgb)


def png(picture: NDArray[np.uint8]) -> bytes:
    """``(3, H, W)`` R'G'B' as a file's bytes."""
    options = {"pred": "paeth", "compression_level": "3"}
    coding = PictureCoding(
        "png", "rgb24", options, PixelFormat("rgb", 8), Colour("gbr", full_range=True)
    )
    return coding.encode([np.ascontiguousarray(plane) for plane in picture])


def png_size(path: Path) -> tuple[int, int] | None:
    """Width and height as stored, by the header alone (PNG, 11.2.2); None: no PNG. InputError."""
    try:
        with path.open("rb") as file:
            header = file.read(24)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(header) < 24 or _codec_of(header) != "png":
        return None
    return int.from_bytes(header[16:20]), int.from_bytes(header[20:24])


def decode_picture(path: Path) -> StoredPicture:
    """The picture as stored, but upright. Raises InputError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    codec = _codec_of(data)
    if codec is None:
        raise InputError(f"{path}: no PNG, JPEG, TIFF, WebP or BMP picture is in it")
    decoder = cast("av.VideoCodecContext", av.CodecContext.create(codec, "r"))
    if codec == "mjpeg":
        # The decoder that gives half a picture, its rest grey, where it is not told otherwise. The
        # others refuse by themselves; told so, TIFF's refuses whole pictures as well.
        decoder.options = {"err_detect": "explode"}
    try:
        frames = [*decoder.decode(av.Packet(data)), *decoder.decode(None)]
    except av.FFmpegError as error:
        raise InputError(f"{path}: cannot be decoded as {codec}: {error.strerror}") from error
    if len(frames) != 1 or frames[0].is_corrupt or (codec == "mjpeg" and not _jpeg_ends(data)):
        raise InputError(f"{path}: cannot be decoded as {codec}: damaged or cut short")
    frame = frames[0]
    layout = layout_of(frame.format.name)
    if layout is None:
        raise InputError(f"{path}: stored as {frame.format.name}, which vrestore cannot read")
    picture = StoredPicture(
        unpack(frame, layout),
        layout.fmt,
        _colour_of(frame, layout.fmt),
        codec,
        frame.format.name,
        layout.has_alpha,
    )
    return _upright(picture, _orientation(data))


def _codec_of(data: bytes) -> str | None:
    if data.startswith(b"\x89PNG"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "mjpeg"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "tiff"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    return "bmp" if data.startswith(b"BM") else None


def _jpeg_ends(data: bytes) -> bool:
    """Whether the end-of-image marker follows the first scan (ITU-T T.81, B.1.1.4).

    A thumbnail before it has a marker of its own, and so has what some cameras append.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        fill = data[at + 1 : at + 2] == b"\xff"
        at += 1 if fill else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) >= 0


def _colour_of(frame: av.VideoFrame, fmt: PixelFormat) -> Colour:
    if fmt.family != "yuv":
        return Colour("gbr", full_range=True)
    # JFIF 1.02 and WebP's lossy format: BT.601's matrix, chroma amid its luma samples. WebP's is
    # of limited range, and its decoder says so.
    limited = frame.color_range == av.video.reformatter.ColorRange.MPEG
    return Colour("bt470bg", full_range=not limited, siting="center")


def _orientation(data: bytes) -> int:
    """Exif's orientation, 1..8; 1 where the picture says none (Exif 2.3, 4.6.4 A)."""
    start = 0
    if not data.startswith((b"II*\0", b"MM\0*")):
        marker = re.search(
            rb"Exif\0\0(?=II\*\0|MM\0\*)|(?:eXIf|EXIF....)(?=II\*\0|MM\0\*)", data, re.S
        )
        if marker is None:
            return 1
        start = marker.end()
    tiff = memoryview(data)[start:]
    order: Any = "little" if bytes(tiff[:2]) == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(tiff[at : at + size], order)

    directory = number(4, 4)
    for entry in range(directory + 2, directory + 2 + 12 * number(directory, 2), 12):
        if number(entry, 2) == _EXIF_ORIENTATION:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def _upright(picture: StoredPicture, orientation: int) -> StoredPicture:
    """Turned and mirrored as ``orientation`` asks: sample for sample where chroma allows it."""
    if orientation == 1:
        return picture
    fmt = picture.pixel_format
    height, width = picture.planes[0].shape
    if width % (1 << fmt.sub_x) or height % (1 << fmt.sub_y):
        # Mirrored, the chroma of an odd size would lie beside its place: give each luma its own.
        full = PixelFormat(fmt.family, fmt.depth)
        rgb = ColourConverter(fmt, picture.colour, height, width).to_rgb(
            [torch.from_numpy(plane) for plane in picture.planes]
        )
        converted = ColourConverter(full, picture.colour, height, width).from_rgb(rgb)
        planes = tuple(plane.numpy() for plane in converted)
        fmt = full
    else:
        planes = picture.planes
    if orientation >= 5:
        fmt = PixelFormat(fmt.family, fmt.depth, fmt.sub_y, fmt.sub_x)
    turned = tuple(_turned(plane, orientation) for plane in planes)
    return StoredPicture(
        turned, fmt, picture.colour, picture.codec, picture.native_format, picture.has_alpha
    )


def _turned(plane: Plane, orientation: int) -> Plane:
    """Exif names the side on which the stored first row and first column are to be seen."""
    turned: NDArray[Any] = plane
    if orientation >= 5:
        turned = turned.T
        orientation -= 4
    if orientation in (2, 3):
        turned = turned[:, ::-1]
    if orientation in (3, 4):
        turned = turned[::-1]
    return np.ascontiguousarray(turned)
