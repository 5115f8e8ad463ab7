"""What travels between the rooms: one frame, and the frozen facts of its stream."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture as stored, and when it is shown.

    ``planes``: ``(h, w)`` each, at native depth and subsampling, in the order Y, Cb, Cr or
    R, G, B or a single grey one; uint8 up to 8 bits, else uint16 with the value in the low bits.
    ``pts`` and ``duration`` count ticks of the stream's time base; duration 0 = unknown.
    """

    planes: tuple[Plane, ...]
    pts: int
    duration: int


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How samples are stored: family, bits per sample, log2 of the chroma subsampling."""

    family: Literal["yuv", "rgb", "gray"]
    depth: int
    sub_x: int = 0
    sub_y: int = 0

    @property
    def peak(self) -> int:
        """The largest code value."""
        return (1 << self.depth) - 1

    def frame_bytes(self, width: int, height: int) -> int:
        """What a frame takes, each sample in one byte, or in two of more than 8 bits."""
        samples = width * height
        if self.family == "rgb":
            samples *= 3
        elif self.family == "yuv":
            samples += 2 * -(-width >> self.sub_x) * -(-height >> self.sub_y)
        return samples * (1 if self.depth <= 8 else 2)


@dataclass(frozen=True, slots=True)
class Colour:
    """What the code values mean (ITU-T H.273, clauses 8.1 to 8.5), in FFmpeg's names.

    ``matrix``: bt709, smpte170m (BT.601), bt470bg (BT.601), bt2020nc, smpte240m, fcc, or gbr.
    ``siting``: left, center, topleft, top, bottomleft, bottom; of no weight in 4:4:4.
    ``transfer`` and ``primaries`` are carried along, None where the stream is silent. ``guessed``
    names the facts that the stream did not say and ``probe`` decided.
    """

    matrix: str
    full_range: bool
    siting: str = "left"
    transfer: str | None = None
    primaries: str | None = None
    guessed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream of the file, as the report names it. ``codec`` is None where FFmpeg knows none."""

    index: int
    kind: str
    codec: str | None


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """The frozen facts of a film: of its file, and of the video stream that is restored.

    ``time_base`` is seconds per tick. ``frame_count`` and ``duration``, in
    seconds, are what the container claims (None: silent).
    ``display_matrix``: the nine entries of ISO/IEC 14496-12, 6.2.2, in 16.16 and 2.30 fixed point
    as stored, None where there is none. ``native_format`` is FFmpeg's name of the stored format;
    ``pixel_format`` says how ``decode`` hands it over (packed and semi-planar unpacked, lossless).
    """

    path: Path
    container: str
    stream_index: int
    codec: str
    width: int
    height: int
    native_format: str
    pixel_format: PixelFormat
    colour: Colour
    time_base: Fraction
    average_rate: Fraction | None
    frame_count: int | None
    duration: Fraction | None
    start_pts: int | None
    sample_aspect: Fraction
    display_matrix: tuple[int, ...] | None
    interlaced: bool
    has_alpha: bool
    streams: tuple[StreamInfo, ...]


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished output is made of; other streams were copied, converted or dropped."""

    path: Path
    frames: int
    copied: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
