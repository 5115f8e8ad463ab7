"""How FFmpeg lays samples out in memory, and how they become planes without loss.

Names are those of libavutil/pixfmt.h; a layout says where each component's samples lie.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import av
import numpy as np
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from vrestore.video.frame import PixelFormat, Plane, VideoInfo

# Component -> (plane, first sample, samples from one to the next); Y Cb Cr or R G B.
_Comps = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the components of a stored picture lie.

    ``components``: (plane, first sample, step in samples) of Y, Cb, Cr or R, G, B or grey.
    ``shift``: bits below the value in its word. ``via``: the format to ask FFmpeg for first,
    where the stored one has no whole samples (palettes, bit fields); the same values, repacked.
    """

    fmt: PixelFormat
    components: _Comps
    shift: int = 0
    big_endian: bool = False
    has_alpha: bool = False
    via: str | None = None


def _packed(family: str, order: str) -> _Comps:
    """``order`` as in FFmpeg's names: "bgra" -> R at 2, G at 1, B at 0 of every 4 samples."""
    names = "rgb" if family == "rgb" else "yuv"
    return tuple((0, order.index(name), len(order)) for name in names)


_SEMI: _Comps = ((0, 0, 1), (1, 0, 2), (1, 1, 2))
_SEMI_VU: _Comps = ((0, 0, 1), (1, 1, 2), (1, 0, 2))
_YUYV: _Comps = ((0, 0, 2), (0, 1, 4), (0, 3, 4))
_UYVY: _Comps = ((0, 1, 2), (0, 0, 4), (0, 2, 4))
_YVYU: _Comps = ((0, 0, 2), (0, 3, 4), (0, 1, 4))

# family, depth, sub_x, sub_y, components, shift
_Row = tuple[str, int, int, int, _Comps, int]


def _irregular() -> dict[str, _Row]:
    """Semi-planar and packed formats by name, less the endianness."""
    rows: dict[str, _Row] = {
        "nv12": ("yuv", 8, 1, 1, _SEMI, 0),
        "nv21": ("yuv", 8, 1, 1, _SEMI_VU, 0),
        "nv16": ("yuv", 8, 1, 0, _SEMI, 0),
        "nv24": ("yuv", 8, 0, 0, _SEMI, 0),
        "nv42": ("yuv", 8, 0, 0, _SEMI_VU, 0),
        "nv20": ("yuv", 10, 1, 0, _SEMI, 0),
        "yuyv422": ("yuv", 8, 1, 0, _YUYV, 0),
        "uyvy422": ("yuv", 8, 1, 0, _UYVY, 0),
        "yvyu422": ("yuv", 8, 1, 0, _YVYU, 0),
        "y210": ("yuv", 10, 1, 0, _YUYV, 6),
        "y212": ("yuv", 12, 1, 0, _YUYV, 4),
        "y216": ("yuv", 16, 1, 0, _YUYV, 0),
        "xv36": ("yuv", 12, 0, 0, _packed("yuv", "uyvx"), 4),
        "vyu444": ("yuv", 8, 0, 0, _packed("yuv", "vyu"), 0),
        "ayuv64": ("yuv", 16, 0, 0, _packed("yuv", "ayuv"), 0),
        "ya8": ("gray", 8, 0, 0, ((0, 0, 2),), 0),
        "ya16": ("gray", 16, 0, 0, ((0, 0, 2),), 0),
    }
    for order in ("vuya", "vuyx", "ayuv", "uyva"):
        rows[order] = ("yuv", 8, 0, 0, _packed("yuv", order), 0)
    for digit, sub_x, sub_y in (("0", 1, 1), ("2", 1, 0), ("4", 0, 0)):
        for bits in (10, 12, 16):
            rows[f"p{digit}{bits}"] = ("yuv", bits, sub_x, sub_y, _SEMI, 16 - bits)
    for order in ("rgb", "bgr"):
        rows[f"{order}24"] = ("rgb", 8, 0, 0, _packed("rgb", order), 0)
    for order in ("rgba", "bgra", "argb", "abgr", "rgb0", "bgr0", "0rgb", "0bgr"):
        rows[order] = ("rgb", 8, 0, 0, _packed("rgb", order), 0)
    for order in ("rgb", "bgr", "rgba", "bgra"):
        rows[f"{order}{16 * len(order)}"] = ("rgb", 16, 0, 0, _packed("rgb", order), 0)
    return rows


_IRREGULAR = _irregular()

_VIA: dict[str, str] = {
    "pal8": "bgra",
    "monob": "gray",
    "monow": "gray",
    "uyyvyy411": "yuv411p",
    "xv30": "yuv444p10le",
    "x2rgb10": "gbrp10le",
    "x2bgr10": "gbrp10le",
    "rgb8": "rgb24",
    "bgr8": "rgb24",
    "rgb4_byte": "rgb24",
    "bgr4_byte": "rgb24",
    **{f"{o}{bits}": "rgb24" for o in ("rgb", "bgr") for bits in ("565", "555", "444")},
}


def layout_of(name: str) -> Layout | None:
    """How FFmpeg's pixel format ``name`` is unpacked; None where vrestore cannot."""
    try:
        described = av.VideoFormat(name, 64, 64)
    except ValueError:
        return None
    stem = name.removesuffix("le").removesuffix("be")
    big = described.is_big_endian and name.endswith("be")
    parts = described.components
    alpha = any(part.is_alpha for part in parts) or stem == "pal8"
    if stem in _VIA:
        via = layout_of(_VIA[stem])
        assert via is not None
        return Layout(via.fmt, via.components, has_alpha=alpha, via=_VIA[stem])
    if stem in _IRREGULAR:
        family, depth, sub_x, sub_y, components, shift = _IRREGULAR[stem]
        fmt = PixelFormat(family, depth, sub_x, sub_y)  # type: ignore[arg-type]
        return Layout(fmt, components, shift, big, alpha)
    colours = [part for part in parts if not part.is_alpha]
    depth = colours[0].bits if colours else 0
    plain = (described.is_planar or len(parts) == 1) and not described.is_bayer
    if not plain or not 8 <= depth <= 16 or "f" in stem:
        return None
    shift = 16 - depth if stem.endswith("msb") else 0
    if len(colours) == 1 and stem.startswith("gray"):
        return Layout(PixelFormat("gray", depth), ((0, 0, 1),), big_endian=big)
    if stem.startswith("gbr") and len(colours) == 3:
        # FFmpeg stores G, B, R; Frame wants R, G, B.
        comps = ((2, 0, 1), (0, 0, 1), (1, 0, 1))
        return Layout(PixelFormat("rgb", depth), comps, shift, big, alpha)
    if stem.startswith("yuv") and len(colours) == 3:
        sub_x = (64 // colours[1].width).bit_length() - 1
        sub_y = (64 // colours[1].height).bit_length() - 1
        comps = ((0, 0, 1), (1, 0, 1), (2, 0, 1))
        fmt = PixelFormat("yuv", depth, sub_x, sub_y)
        return Layout(fmt, comps, shift, big, alpha)
    return None


def layout_from_device(picture: av.VideoFrame, info: VideoInfo) -> Layout | None:
    """How a picture that a device has decoded is unpacked to the samples of ``info``'s film.

    Devices hand over forms of their own (nv12, p010, p016), with the value in a word's high bits.
    None: those samples are not in it, or it is of another size or range than the film.
    """
    layout, fmt = layout_of(picture.format.name), info.pixel_format
    same_size = (picture.width, picture.height) == (info.width, info.height)
    full_range = int(picture.color_range) == ColorRange.JPEG
    if layout is None or not same_size or full_range != info.colour.full_range:
        return None
    spare = layout.fmt.depth - fmt.depth
    wide = (fmt.depth > 8) == (layout.fmt.depth > 8) and spare >= 0
    if layout.via is not None or replace(layout.fmt, depth=fmt.depth) != fmt or not wide:
        return None
    return replace(layout, fmt=fmt, shift=layout.shift + spare)


def planar_name(fmt: PixelFormat) -> str:
    """FFmpeg's name of the planar format with ``fmt``'s samples ("yuv420p10le").

    Raises ValueError where FFmpeg has none.
    """
    chroma = {(2, 2): "410", (2, 0): "411", (1, 1): "420", (1, 0): "422", (0, 1): "440"}
    stem = {"gray": "gray", "rgb": "gbrp", "yuv": ""}[fmt.family]
    if fmt.family == "yuv":
        stem = f"yuv{chroma.get((fmt.sub_x, fmt.sub_y), '444')}p"
    name = stem if fmt.depth == 8 else f"{stem}{fmt.depth}le"
    layout = layout_of(name)
    if layout is None or layout.fmt != fmt:
        raise ValueError(f"FFmpeg has no planar format for {fmt}")
    return name


def unpack(picture: av.VideoFrame, layout: Layout) -> tuple[Plane, ...]:
    """The components of ``picture`` as planes of their own memory, ``(h, w)`` each."""
    if layout.via is not None:
        picture = picture.reformat(format=layout.via)
    elif any(plane.line_size < 0 for plane in picture.planes):  # stored bottom-up
        picture = picture.reformat(format=planar_name(layout.fmt))
        flat = layout_of(picture.format.name)
        assert flat is not None
        layout = flat
    word = "u1" if layout.fmt.depth <= 8 else (">u2" if layout.big_endian else "<u2")
    planes: list[Plane] = []
    for nth, (index, first, step) in enumerate(layout.components):
        subsampled = nth > 0 and layout.fmt.family == "yuv"
        width = -(-picture.width >> layout.fmt.sub_x) if subsampled else picture.width
        height = -(-picture.height >> layout.fmt.sub_y) if subsampled else picture.height
        stored = picture.planes[index]
        lines: NDArray[np.uint8] = np.frombuffer(memoryview(stored), np.uint8)
        lines = lines[: height * stored.line_size].reshape(height, stored.line_size)
        samples = lines.view(np.dtype(word))[:, first::step][:, :width]
        if layout.fmt.depth <= 8:
            planes.append(samples.astype(np.uint8, copy=True))
        else:
            planes.append((samples >> layout.shift).astype(np.uint16, copy=True))
    return tuple(planes)
