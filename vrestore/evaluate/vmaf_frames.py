"""VMAF of frames that come one by one: through two lossless films, since ffmpeg compares films."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from vrestore.evaluate.vmaf import vmaf
from vrestore.video.encode import Encoder, EncodeSettings
from vrestore.video.frame import Colour, Frame, PixelFormat, VideoInfo

RATE = Fraction(25)  # any: VMAF pairs frames by number


class VmafOfFrames:
    """One clip's scores. The films lie in a temporary folder, gone when the block is left."""

    def __init__(self) -> None:
        self._held = ExitStack()
        folder = self._held.enter_context(tempfile.TemporaryDirectory(prefix="vrestore-"))
        self._paths = (Path(folder) / "restored.mkv", Path(folder) / "truth.mkv")
        self._films: list[Encoder] = []
        self._count = 0

    def add(self, truth: Tensor, restored: Tensor) -> None:
        """The next frame of both, ``(3, H, W)`` R'G'B' in 0..255, rounded here to 8 bit.

        Raises OutputError where the films cannot be written.
        """
        if not self._films:
            for path, rgb in zip(self._paths, (restored, truth), strict=True):
                self._films.append(self._held.enter_context(film_at(path, *rgb.shape[1:])))
        for film, rgb in zip(self._films, (restored, truth), strict=True):
            codes = rgb.round().clamp(0, 255).to(torch.uint8).cpu().numpy()
            film.write(Frame(tuple(codes), self._count, 1))
        self._count += 1

    def end(self) -> dict[int, float]:
        """The score of each frame, by number from 0; raises what `vmaf` raises."""
        if not self._films:
            return {}
        for film in self._films:
            film.close()
        return dict(enumerate(vmaf(*self._paths).frames))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.__exit__(kind, error, trace)


def film_at(path: Path, height: int, width: int) -> Encoder:
    """Takes 8-bit R, G, B planes of that size, and writes them in FFV1."""
    pictures = VideoInfo(
        path=path.parent,
        container="pictures",
        stream_index=0,
        codec="rawvideo",
        width=width,
        height=height,
        native_format="gbrp",
        pixel_format=PixelFormat("rgb", 8),
        colour=Colour("gbr", full_range=True),
        time_base=1 / RATE,
        average_rate=RATE,
        frame_count=None,
        duration=None,
        start_pts=0,
        sample_aspect=Fraction(1),
        display_matrix=None,
        interlaced=False,
        has_alpha=False,
        streams=(),
    )
    return Encoder(path, pictures, width, height, EncodeSettings(codec="ffv1"))
