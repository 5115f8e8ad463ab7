"""Black-and-white film stays black and white, evenly toned film keeps its tone.

A network that learned from colour paints some into grey, single pixels by many code values. A frame
that is of one tint throughout gets no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrestore.video.colour import luma_weights
from vrestore.video.frame import Colour, PixelFormat, Plane

SPREAD_CODES: Final = 2  # of 8 bits, least to largest: what a codec may leave of an even plane
GLANCE_ROWS: Final = 16  # one row of so many tells most frames that have colours
Tint = tuple[float, float]  # R' - Y' and B' - Y', alike for all pixels


class OneTint:
    """Knows a frame of one tint in a stream of this form, and gives pictures that tint."""

    def __init__(self, stored: PixelFormat, colour: Colour) -> None:
        self._family: Final = stored.family
        self._kr, self._kb = luma_weights(stored, colour)
        unit = 1 << (stored.depth - 8)
        self._spread: Final = SPREAD_CODES * unit
        self._neutral: Final = 128 * unit
        steps = 224 if stored.family == "yuv" else 219
        self._codes: Final = stored.peak if colour.full_range else steps * unit

    def of(self, planes: Sequence[Plane]) -> Tint | None:
        """What all pixels of a frame, as it is stored, have in common; None where it has colours.

        Its chroma samples (of R'G'B': the differences from green) lie within two codes of 8 bits.
        """
        if self._family == "gray":
            return 0.0, 0.0
        for rows in (slice(None, None, GLANCE_ROWS), slice(None)):
            blue, red = self._differences([plane[rows] for plane in planes])
            if max(np.ptp(blue), np.ptp(red)) > self._spread:
                return None
        b, r = float(blue.mean()) / self._codes, float(red.mean()) / self._codes
        if self._family == "yuv":
            return 2 * (1 - self._kr) * r, 2 * (1 - self._kb) * b
        above_green = self._kr * r + self._kb * b  # of luma
        return r - above_green, b - above_green

    def give(self, rgb: Tensor, tint: Tint) -> Tensor:
        """``(3, H, W)`` R'G'B' with the same luma, of that tint."""
        (red, green, blue), (of_red, of_blue) = rgb, tint
        luma = green.add(red - green, alpha=self._kr).add_(blue - green, alpha=self._kb)
        of_green = -(self._kr * of_red + self._kb * of_blue) / (1 - self._kr - self._kb)
        return torch.stack((luma + of_red, luma + of_green, luma + of_blue))

    def _differences(self, planes: Sequence[Plane]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Cb and Cr less what is neutral, or blue and red less green, in codes."""
        first, second, third = planes
        if self._family == "yuv":
            zero = np.int32(self._neutral)
            return second - zero, third - zero
        green = second.astype(np.int32)
        return third - green, first - green
