"""RestoreOptions: what flags, a TOML and Python all fill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from vrestore.errors import UsageError
from vrestore.settings import ByteSize, FrameRate, converted


@dataclass(frozen=True)
class RestoreOptions:
    """How a film is restored and written.

    ``model``: a catalogue name, or a checkpoint's path; ``weights``: a checkpoint instead of the
    catalogue's. ``scale``: of the output against the input, None = the network's. ``fps``: of a
    film made of pictures, None = 25. ``chunk`` and ``tile`` None: what fits the memory at hand;
    the program may take ``memory`` bytes of it. ``start`` and ``end``: seconds from the first
    frame, ``[start, end)``. ``crf``, ``preset``, ``bitrate``, ``pix_fmt``: ffmpeg's, None = a
    visually lossless default of the codec. ``hwaccel``: which video engine decodes the film, in
    FFmpeg's names, or ``auto``; with that and ``cuda`` NVENC encodes it where no codec is named and
    it can. ``offline``: weights that are not on this machine are not fetched.
    """

    model: str = "basicvsr"
    weights: Path | None = None
    scale: float | None = None
    device: str = "auto"
    hwaccel: str = "none"
    precision: str = "auto"
    propagation: str = "lookahead"
    chunk: int | None = None
    lookahead: int = 16
    tile: int | None = None
    memory: ByteSize | None = None
    scene_cuts: bool = True
    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    bitrate: str | None = None
    fps: FrameRate | None = None
    start: Fraction | None = None
    end: Fraction | None = None
    overwrite: bool = False
    allow_truncated: bool = False
    offline: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale <= 16:
            raise UsageError(f"scale {self.scale:g} must lie above 0 and at most 16")
        if self.start is not None and self.start < 0:
            raise UsageError(f"start {float(self.start):g} s must not be negative")
        if self.end is not None and self.end <= (self.start or 0):
            raise UsageError(f"end {float(self.end):g} s must lie after the start")
        if self.crf is not None and self.bitrate is not None:
            raise UsageError("--crf and --bitrate contradict each other; give one of them")

    def but(self, changes: Mapping[str, Any], where: str) -> Self:
        """Changed, and checked by name and type: a path may be a string, a time ``"0:01:30"``.

        ``where`` the changes come from is said in the UsageError.
        """
        return replace(self, **converted(changes, type(self), where))
