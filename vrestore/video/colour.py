"""Y'CbCr planes to R'G'B' tensors and back, on the tensors' own device.

The arithmetic is additions and scalings only, never a matrix product or a convolution: TF32,
autocast and the choice of a cuDNN kernel cannot reach it, so that 12-bit codes survive on every
device.

Chroma goes up by a cubic interpolation U at its true siting, and down by the least-squares inverse
D of that U: of all chroma planes, D gives the one whose U comes nearest the picture. So D U = I,
what was decoded and not touched is encoded with the very codes that it had, and D is an
antialiasing low-pass besides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from vrestore.errors import InputError
from vrestore.video.frame import Colour, PixelFormat

# H.273, table 4: K_R and K_B of each matrix.
_LUMA_WEIGHTS: Final = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
}
# H.273, figure 10: where the first chroma sample lies in its group of luma samples, across and
# down; 0 on the first of them, 1/2 amid the group, 1 on the last.
_SITINGS: Final = {
    "left": (0.0, 0.5),
    "center": (0.5, 0.5),
    "topleft": (0.0, 0.0),
    "top": (0.5, 0.0),
    "bottomleft": (0.0, 1.0),
    "bottom": (0.5, 1.0),
}
# Taps of D below this are left out: 2**-20 of a 16-bit code range is a sixteenth of a code.
_SMALLEST_TAP: Final = 2.0**-20
# A filter: offsets from the sample in question, and their weights.
_Taps = list[tuple[int, float]]


class ColourConverter:
    """Planes of one format and size to R'G'B' and back; holds its filters, changes nothing.

    Raises InputError for a matrix or a siting that it does not know.
    """

    def __init__(
        self,
        pixel_format: PixelFormat,
        colour: Colour,
        height: int,
        width: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.pixel_format: Final = pixel_format
        self.colour: Final = colour
        self.size: Final = (height, width)
        self.device: Final = torch.device(device)
        self._luma_weights: Final = luma_weights(pixel_format, colour)
        # H.273, equations 26 to 35: the code of black, and how many codes lie from 0 to 1.
        unit = 1 << (pixel_format.depth - 8)
        self._black: Final = 0 if colour.full_range else 16 * unit
        self._luma_codes: Final = pixel_format.peak if colour.full_range else 219 * unit
        self._chroma_codes: Final = pixel_format.peak if colour.full_range else 224 * unit
        self._neutral: Final = 128 * unit
        across, down = (0.0, 0.0)
        if pixel_format.sub_x or pixel_format.sub_y:
            if colour.siting not in _SITINGS:
                raise InputError(
                    f"chroma siting {colour.siting!r} is not known; known: {', '.join(_SITINGS)}"
                )
            across, down = _SITINGS[colour.siting]
        self._rows: Final = _ChromaAxis(height, pixel_format.sub_y, down, self.device)
        self._columns: Final = _ChromaAxis(width, pixel_format.sub_x, across, self.device)

    def to_rgb(self, planes: Sequence[Tensor]) -> Tensor:
        """Code values to R'G'B'.

        ``planes``: integer ``(h, w)`` each, of any integer type, as ``Frame`` orders them. Returns
        float32 ``(3, H, W)``, nominal range 0..1, not clamped: what lies above white or
        below black stays. Raises ValueError for planes that are not of this format and size.
        """
        self._check([tuple(plane.shape) for plane in planes], "planes")
        # To the device as stored: a quarter of the bytes.
        values = [plane.to(self.device).to(torch.float32) for plane in planes]
        if self.pixel_format.family != "yuv":
            channels = [(value - self._black) / self._luma_codes for value in values]
            return torch.stack(channels * (3 // len(channels)))
        luma = (values[0] - self._black) / self._luma_codes
        chroma = (torch.stack(values[1:]) - self._neutral) / self._chroma_codes
        cb, cr = self._rows.up(_turn(self._columns.up(_turn(chroma))))
        kr, kb = self._luma_weights
        kg = 1 - kr - kb
        rgb = luma.new_empty(3, *self.size)
        torch.add(luma, cr, alpha=2 * (1 - kr), out=rgb[0])
        torch.add(luma, cb, alpha=-2 * (1 - kb) * kb / kg, out=rgb[1])
        rgb[1].add_(cr, alpha=-2 * (1 - kr) * kr / kg)
        torch.add(luma, cb, alpha=2 * (1 - kb), out=rgb[2])
        return rgb

    def from_rgb(self, rgb: Tensor) -> tuple[Tensor, ...]:
        """R'G'B' to the nearest code values.

        ``rgb``: float ``(3, H, W)``, nominal range 0..1, float64 where 16 bits of a picture are to
        be exact; what lies outside is kept as far as the format has codes for it (0..peak).
        Returns uint8 planes up to 8 bits, else uint16. Raises ValueError for a picture of another
        size.
        """
        if tuple(rgb.shape) != (3, *self.size):
            raise ValueError(f"picture {tuple(rgb.shape)}, expected {(3, *self.size)}")
        exact = rgb.dtype == torch.float64 and self.pixel_format.family != "yuv"
        red, green, blue = rgb.to(self.device, torch.float64 if exact else torch.float32)
        if self.pixel_format.family == "rgb":
            return tuple(self._luma_plane(channel) for channel in (red, green, blue))
        kr, kb = self._luma_weights
        # Written as differences from green, so that grey is neutral to the last bit.
        luma = green.add(red - green, alpha=kr).add_(blue - green, alpha=kb)
        if self.pixel_format.family == "gray":
            return (self._luma_plane(luma),)
        chroma = torch.stack([(blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))])
        chroma = _turn(self._columns.down(_turn(self._rows.down(chroma))))
        cb, cr = chroma.mul_(self._chroma_codes).add_(self._neutral)
        return self._luma_plane(luma), self._quantise(cb), self._quantise(cr)

    def _luma_plane(self, value: Tensor) -> Tensor:
        return self._quantise(value.mul(self._luma_codes).add_(self._black))

    def _quantise(self, code: Tensor) -> Tensor:
        code = code.round().clamp_(0, self.pixel_format.peak)
        if self.pixel_format.depth <= 8:
            return code.to(torch.uint8)
        return code.to(torch.int32).to(torch.uint16)

    def _check(self, found: list[tuple[int, ...]], what: str) -> None:
        height, width = self.size
        chroma = (self._rows.chroma_size, self._columns.chroma_size)
        expected = {
            "gray": [(height, width)],
            "rgb": [(height, width)] * 3,
            "yuv": [(height, width), chroma, chroma],
        }[self.pixel_format.family]
        if found != expected:
            raise ValueError(f"{what} {found}, expected {expected}")


class _ChromaAxis:
    """Chroma up and down along one axis of the picture, always the second last of the tensor.

    ``size``: luma samples; ``sub``: log2 of how many of them share one chroma sample; ``site``:
    where in its group that sample lies, 0..1. Chroma sample i lies at luma sample
    ``factor*i + offset``.
    """

    def __init__(self, size: int, sub: int, site: float, device: torch.device) -> None:
        self.size: Final = size
        self.factor: Final = 1 << sub
        self.chroma_size: Final = -(-size // self.factor)
        if sub == 0:
            return
        offset_halves = round(2 * site * (self.factor - 1))
        mirror = _Mirror(size, self.chroma_size, self.factor, offset_halves)
        self._up_taps: Final = [
            _cubic_taps((2 * x - offset_halves) / (2 * self.factor)) for x in range(self.factor)
        ]
        self._up_reach: Final = _Reach.of(self._up_taps)
        self._up_index: Final = mirror.chroma_index(
            self._up_reach.positions(self.chroma_size, 1), device
        )
        self._down_taps: Final = _inverse_taps(self._up_taps)
        self._down_reach: Final = _Reach.of([self._down_taps])
        self._down_index: Final = mirror.luma_index(
            self._down_reach.positions(self.chroma_size, self.factor), device
        )
        self._refinements: Final = 12 if mirror.beyond_border else 0

    def up(self, chroma: Tensor) -> Tensor:
        """``(..., h, w)`` at chroma's size to ``(..., size, w)``."""
        if self.factor == 1:
            return chroma
        rows = chroma.index_select(-2, self._up_index)
        out = chroma.new_empty(*chroma.shape[:-2], self.chroma_size, self.factor, chroma.shape[-1])
        for phase, taps in enumerate(self._up_taps):
            out[..., phase, :] = self._up_reach.weigh(rows, taps, self.chroma_size, 1)
        return out.flatten(-3, -2)[..., : self.size, :]

    def down(self, luma_sized: Tensor) -> Tensor:
        """``(..., size, w)`` to ``(..., h, w)`` at chroma's size."""
        if self.factor == 1:
            return luma_sized
        chroma = self._down_once(luma_sized)
        for _ in range(self._refinements):
            chroma += self._down_once(luma_sized - self.up(chroma))
        return chroma

    def _down_once(self, luma_sized: Tensor) -> Tensor:
        rows = luma_sized.index_select(-2, self._down_index)
        return self._down_reach.weigh(rows, self._down_taps, self.chroma_size, self.factor)


@dataclass(frozen=True)
class _Reach:
    """How far taps reach from the sample that they are for: ``first`` to ``last``."""

    first: int
    last: int

    @classmethod
    def of(cls, filters: Sequence[_Taps]) -> _Reach:
        offsets = [offset for taps in filters for offset, _ in taps]
        return cls(min(offsets), max(offsets))

    def positions(self, count: int, step: int) -> range:
        """All that ``count`` outputs, ``step`` apart, look at."""
        return range(self.first, self.last + step * (count - 1) + 1)

    def weigh(self, rows: Tensor, taps: _Taps, count: int, step: int) -> Tensor:
        """``count`` outputs, ``step`` rows apart: each the sum of its weighted neighbours.

        ``rows``: ``(..., n, w)``, those of ``positions``. Returns ``(..., count, w)``.
        """
        length = step * (count - 1) + 1
        out = torch.zeros_like(rows[..., :count, :])
        for offset, weight in taps:
            start = offset - self.first
            out.add_(rows[..., start : start + length : step, :], alpha=weight)
        return out


class _Mirror:
    """What stands in for samples beyond the border: the picture's reflection.

    Reflected at a point about which chroma's and luma's grids are both symmetric, U of mirrored
    chroma is mirrored U of chroma, and D U = I holds up to the border as well. Twice such a point
    is, modulo ``factor``, twice chroma's offset. All positions are counted in half luma samples.
    """

    def __init__(self, size: int, chroma_size: int, factor: int, offset_halves: int) -> None:
        self._size = size
        self._factor = factor
        self._offset = offset_halves
        self._low = -1 + (offset_halves + 1) % factor
        last_chroma = 2 * factor * (chroma_size - 1) + offset_halves
        high = 2 * size - 1
        self._high = max(high - (high - offset_halves) % factor, last_chroma, self._low)
        # The last chroma sample can lie where no luma is left to mirror (bottom siting at an odd
        # height; centred 4:1:1 at 4k + 1). D U = I fails there, and is mended by iteration.
        self.beyond_border = self._high > high

    def luma_index(self, positions: range, device: torch.device) -> Tensor:
        """The luma samples inside the picture that stand at these, int64."""
        inside = [min(self._reflect(2 * x) // 2, self._size - 1) for x in positions]
        return torch.tensor(inside, device=device)

    def chroma_index(self, positions: range, device: torch.device) -> Tensor:
        """The chroma samples inside the picture that stand at these, int64."""
        halves = [self._reflect(2 * self._factor * i + self._offset) for i in positions]
        return torch.tensor(
            [(x - self._offset) // (2 * self._factor) for x in halves], device=device
        )

    def _reflect(self, position: int) -> int:
        period = 2 * (self._high - self._low)
        if period == 0:
            return self._low
        beyond = (position - self._low) % period
        return self._low + min(beyond, period - beyond)


def luma_weights(pixel_format: PixelFormat, colour: Colour) -> tuple[float, float]:
    """K_R and K_B of the stream's matrix (H.273, table 4); InputError: one that is not known."""
    if colour.matrix in _LUMA_WEIGHTS:
        return _LUMA_WEIGHTS[colour.matrix]
    if pixel_format.family == "yuv":
        raise InputError(
            f"colour matrix {colour.matrix!r} is not supported; "
            f"supported: {', '.join(_LUMA_WEIGHTS)}. Convert the film to one of them first."
        )
    return _LUMA_WEIGHTS["bt709"]  # sRGB's primaries, for grey made of colour


def _cubic_taps(position: float) -> _Taps:
    """Keys' cubic convolution (1981, eq. 15) at ``position``: which samples, by what weights."""
    first = math.floor(position) - 1
    taps = []
    for sample in range(first, first + 4):
        x = abs(position - sample)
        near = 1.5 * x**3 - 2.5 * x**2 + 1
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        taps.append((sample, near if x <= 1 else far))
    return [(sample, weight) for sample, weight in taps if weight != 0]


def _inverse_taps(phases: Sequence[_Taps]) -> _Taps:
    """D's row for chroma sample 0, over luma samples; ``phases``: U's row for each of its group.

    The row of the pseudo-inverse of U on a ring, long enough that its ends do not feel each other.
    """
    factor, ring = len(phases), 64
    spread = torch.zeros(factor * ring, dtype=torch.float64)  # U of chroma sample 0
    for phase, taps in enumerate(phases):
        for sample, weight in taps:
            spread[phase - factor * sample] += weight
    upsampling = torch.stack([spread.roll(factor * i) for i in range(ring)], 1)
    middle = ring // 2
    row = torch.linalg.solve(upsampling.T @ upsampling, upsampling.T)[middle]
    row = torch.where(row.abs() < _SMALLEST_TAP, 0, row)
    row /= row.sum()
    return [(i - factor * middle, w) for i, w in enumerate(row.tolist()) if w != 0]


def _turn(x: Tensor) -> Tensor:
    """Rows to columns."""
    return x.transpose(-1, -2)
