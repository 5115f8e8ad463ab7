"""A clip as a codec leaves it: encoded and decoded in memory, by real encoders.

Always 4:2:0, BT.601, limited range: what most small film is. One thread, so that the same clip
gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vrestore.errors import Fault, UsageError
from vrestore.video.colour import ColourConverter
from vrestore.video.frame import Colour, PixelFormat

if TYPE_CHECKING:  # training without codecs runs where PyAV is not installed
    import av
    from av.video.codeccontext import VideoCodecContext

Codec = Literal["libx264", "libx265", "mpeg2video", "mpeg4"]

FRAMES_A_SECOND: Final = 25  # what ``bitrate`` counts by
SMALLEST_BITRATE: Final = 1000  # x264 counts in kilobits
SMALLEST_PX: Final = 64  # x265 4.x writes beyond its own buffers where a side is 48 or less
_DECODERS: Final = {"libx264": "h264", "libx265": "hevc"}
_COLOUR: Final = Colour("smpte170m", full_range=False, siting="left")
_TAGS: Final = {"colorspace": "smpte170m", "color_range": "tv", "chroma_sample_location": "left"}
# Presets that cost a training worker little; B-frames everywhere.
_OPTIONS: Final[dict[str, dict[str, str]]] = {
    # Its macroblock tree gives now these bits and now those on the smallest pictures.
    "libx264": {"preset": "veryfast", "x264-params": "mbtree=0"},
    "libx265": {
        "preset": "ultrafast",
        "x265-params": "log-level=none:pools=none:frame-threads=1:bframes=3",
    },
    "mpeg2video": {"bf": "2"},
    "mpeg4": {"bf": "2"},
}
_RANGES: Final = {"crf": (0, 51), "qscale": (1, 31), "bitrate": (SMALLEST_BITRATE, 10**9)}


def compress(
    frames: Tensor,
    codec: Codec,
    *,
    crf: float | None = None,
    bitrate: int | None = None,
    qscale: int | None = None,
) -> Tensor:
    """``(T, 3, H, W)`` uint8 R'G'B' through ``codec`` and back: as many frames, in their order.

    One of: ``crf`` 0..51 for x264 and x265; ``qscale`` 1..31, a constant quantiser, for MPEG-2 and
    MPEG-4; ``bitrate``, from 1000, in bits a second at 25 frames a second. Any size: what is odd
    or very small is padded by its edge and cut again. Raises UsageError for settings that
    contradict the codec, and where this build of PyAV lacks it.
    """
    settings = _settings(codec, {"crf": crf, "bitrate": bitrate, "qscale": qscale})
    height, width = frames.shape[-2:]
    padded = _padded(frames)
    if not padded.shape[0]:
        return frames.clone()
    converter = ColourConverter(PixelFormat("yuv", 8, 1, 1), _COLOUR, *padded.shape[-2:])
    packets = _encoded(padded, codec, settings, converter)
    decoded = [_rgb(frame, converter) for frame in _decoded(packets, codec)]
    if len(decoded) != padded.shape[0]:
        raise Fault(f"{codec} gave {len(decoded)} frames for {padded.shape[0]}; report this clip")
    return torch.stack(decoded)[..., :height, :width]


def _settings(codec: str, rates: dict[str, float | None]) -> dict[str, str]:
    """The encoder's options; UsageError where they do not fit."""
    import av

    if codec not in get_args(Codec):
        raise UsageError(f"codec {codec!r} is not one of {', '.join(get_args(Codec))}")
    if codec not in av.codecs_available or _DECODERS.get(codec, codec) not in av.codecs_available:
        raise UsageError(f"this build of PyAV has no {codec}; install PyAV's own wheel (pip)")
    given = {name: value for name, value in rates.items() if value is not None}
    constant = "crf" if codec.startswith("libx") else "qscale"
    if len(given) != 1 or not given.keys() <= {constant, "bitrate"}:
        raise UsageError(f"{codec}: give one of {constant} and bitrate, and no other rate")
    [(name, value)] = given.items()
    low, high = _RANGES[name]
    if not low <= value <= high:
        raise UsageError(f"{codec}: {name} {value:g} is outside {low} to {high}")
    if name == "qscale":
        rate = {"qmin": f"{value:g}", "qmax": f"{value:g}"}
    else:
        rate = {"crf": f"{value:g}"} if name == "crf" else _bits(int(value))
    return _OPTIONS[codec] | _TAGS | rate


def _bits(bitrate: int) -> dict[str, str]:
    """An average rate that holds from the first frames on.

    FFmpeg's own encoders may be off by 4 Mbit in all by default: a short clip never noticed.
    """
    return {"b": str(bitrate), "bt": str(-(-bitrate // FRAMES_A_SECOND))}


def _padded(frames: Tensor) -> Tensor:
    """Even sides that no encoder finds too small, by repeating the last row and column."""
    height, width = frames.shape[-2:]
    down, right = (max(side + side % 2, SMALLEST_PX) - side for side in (height, width))
    if not down and not right:
        return frames
    return F.pad(frames.float(), (0, right, 0, down), mode="replicate").to(torch.uint8)


def _encoded(
    frames: Tensor, codec: str, options: dict[str, str], converter: ColourConverter
) -> Iterator[av.Packet[av.VideoStream]]:
    import av

    encoder = _context(codec, "w")
    encoder.height, encoder.width = frames.shape[-2:]
    encoder.pix_fmt = "yuv420p"
    encoder.framerate = Fraction(FRAMES_A_SECOND)
    encoder.time_base = Fraction(1, FRAMES_A_SECOND)
    encoder.options = options
    for number, frame in enumerate(frames):
        planes = converter.from_rgb(frame / 255)
        packed = np.concatenate([plane.numpy().ravel() for plane in planes])
        picture = av.VideoFrame.from_ndarray(packed.reshape(-1, frames.shape[-1]), "yuv420p")
        picture.pts, picture.time_base = number, encoder.time_base
        yield from encoder.encode(picture)
    yield from encoder.encode(None)


def _decoded(packets: Iterable[av.Packet[av.VideoStream]], codec: str) -> Iterator[av.VideoFrame]:
    decoder = _context(_DECODERS.get(codec, codec), "r")
    for packet in packets:
        yield from decoder.decode(packet)
    yield from decoder.decode(None)


def _context(codec: str, mode: Literal["r", "w"]) -> VideoCodecContext:
    from av.codec.context import CodecContext
    from av.video.codeccontext import VideoCodecContext

    context = CodecContext.create(codec, mode)
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    return context


def _rgb(frame: av.VideoFrame, converter: ColourConverter) -> Tensor:
    """``(3, H, W)`` uint8 of a decoded 4:2:0 frame."""
    packed = torch.from_numpy(frame.to_ndarray(format="yuv420p")).flatten()
    luma = frame.height * frame.width
    half = (frame.height // 2, frame.width // 2)
    chroma = packed[luma:].view(2, *half)
    planes = (packed[:luma].view(frame.height, frame.width), *chroma)
    return (converter.to_rgb(planes) * 255).round().clamp(0, 255).to(torch.uint8)
