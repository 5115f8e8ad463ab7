"""Which device decodes a film: one that gives the very samples that software gives, or none.

Each is tried on the film's first picture, beside software: whether a device knows a profile, and
what it hands over, is not to be read from anywhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import av
import numpy as np
from av.codec import Codec
from av.codec.hwaccel import HWAccel, HWConfig, hwdevices_available

from vrestore.errors import InputError, UsageError
from vrestore.video.frame import VideoInfo
from vrestore.video.pixels import layout_from_device, layout_of, unpack
from vrestore.video.probe import first_picture, open_film

log = logging.getLogger("vrestore")

# Their standards say of every bit what is decoded. MPEG-1, 2 and 4 and JPEG leave the inverse
# transform open, and what is predicted from it drifts from decoder to decoder.
_EXACT = frozenset({"h264", "hevc", "vp8", "vp9", "av1"})


def check_device(kind: str) -> None:
    """UsageError where ``kind`` is none of FFmpeg's names, or such a device is not there."""
    known = ("none", "auto", *hwdevices_available())
    if kind not in known:
        raise UsageError(f"hwaccel {kind!r} is unknown here; choose one of {', '.join(known)}")
    if kind in ("none", "auto"):
        return
    try:
        HWAccel(kind).create(Codec("h264", "r"))
    except (av.FFmpegError, NotImplementedError) as error:
        raise UsageError(
            f"hwaccel {kind} cannot be used: {_reason(error)}; leave it out, or choose auto"
        ) from error


def device_for(info: VideoInfo, kind: str) -> HWAccel | None:
    """The device of ``kind``, or the first of any where that is ``auto``, that decodes ``info``'s
    film; None: software does, and where a device was asked for, the log says why."""
    if kind == "none":
        return None
    refusals = []
    if info.codec not in _EXACT:
        refusals.append(f"decoders of {info.codec} differ in their samples")
    else:
        truth = _first(info, None)
        for config in truth.codec.hardware_configs:
            name = config.device_type.name
            if config.is_supported and kind in ("auto", name):
                refusal = _refusal(info, config, truth)
                if refusal is None:
                    return HWAccel(name)
                refusals.append(f"{name}: {refusal}")
    why = "; ".join(refusals) or f"no such device decodes {info.codec}"
    log.warning("%s: decoded in software (%s)", info.path, why)
    return None


@dataclass(frozen=True)
class _First:
    """A film's first picture, and whence: ``decoded`` is the decoder's own pixel format, which is
    the device's while that decodes."""

    picture: av.VideoFrame
    codec: Codec
    decoded: str | None


def _first(info: VideoInfo, device: HWAccel | None) -> _First:
    with open_film(info.path, device) as film:
        stream = film.streams[info.stream_index]
        assert isinstance(stream, av.VideoStream)
        picture = first_picture(film, stream, info.path)
        return _First(picture, stream.codec_context.codec, stream.codec_context.pix_fmt)


def _refusal(info: VideoInfo, config: HWConfig, truth: _First) -> str | None:
    """Why a device does not decode the film; None where its first picture is that of ``truth``."""
    device = HWAccel(config.device_type.name)
    try:
        device.create(truth.codec)  # when a film is opened, its error would pass for the film's
        found = _first(info, device)
    except (av.FFmpegError, InputError) as error:
        return _reason(error)
    if config.format is None or found.decoded != config.format.name:
        return f"not as {info.native_format}"
    layout, stored = layout_from_device(found.picture, info), layout_of(info.native_format)
    assert stored is not None
    if layout is None or found.picture.pts != truth.picture.pts:
        return f"its {found.picture.format.name} is not the film's {info.native_format}"
    pairs = zip(unpack(found.picture, layout), unpack(truth.picture, stored), strict=True)
    if not all(np.array_equal(mine, its) for its, mine in pairs):
        return "its samples are others than software's"
    return None


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
