"""What film goes through before somebody restores it, at random: two rounds, then a last resize.

The second-order model of Real-ESRGAN (sec. 3) made temporal as RealBasicVSR does: per clip one kind
of blur, resize, noise and codec in each round, whose strengths walk slowly from frame to frame.
Sharpening the target (``kernels.sharpen``) is the caller's: before this, where it is wanted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Final, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vrestore.errors import UsageError
from vrestore.evaluate.compression import FRAMES_A_SECOND, SMALLEST_BITRATE, Codec, compress
from vrestore.train.jpeg import jpeg
from vrestore.train.kernels import filter2d, gaussian, generalized_gaussian, plateau, sinc

Kernel = Literal["iso", "aniso", "generalized_iso", "generalized_aniso",
                 "plateau_iso", "plateau_aniso", "sinc"]  # fmt: skip
Resize = Literal["bilinear", "area", "bicubic"]

KERNELS: Final[tuple[Kernel, ...]] = get_args(Kernel)
RESIZES: Final[tuple[Resize, ...]] = get_args(Resize)
CODECS: Final[tuple[Codec, ...]] = get_args(Codec)
LUMA: Final = (0.299, 0.587, 0.114)  # BT.601, of grey noise
POISSON_COUNTS: Final = 256  # photons of a white pixel; the codes of an 8-bit one
PUBLISHED_PATCH_PX: Final = 256 * 256  # of the target: what ``bits_a_frame`` is for
Kind = TypeVar("Kind")
# How many kinds each ``_odds`` is of.
_KINDS: Final = {
    "kernel_odds": len(KERNELS),
    "resize_odds": 3,
    "resize_mode_odds": len(RESIZES),
    "noise_odds": 2,
    "codec_odds": len(CODECS),
}
_FULL_TURN: Final = (-math.pi, math.pi)


@dataclass(frozen=True)
class Round:
    """Blur, resize, noise, JPEG, codec: the first round as published (RealBasicVSR's settings).

    A ``_share`` is the probability of a step, ``_odds`` are those of its kinds, a ``_step`` is the
    most by which a strength changes from one frame to the next; ranges are (low, high).
    """

    blur_share: float = 1.0
    kernel_odds: tuple[float, ...] = (0.405, 0.225, 0.108, 0.027, 0.108, 0.027, 0.1)  # of KERNELS
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)
    sigma_px: tuple[float, ...] = (0.2, 3.0)
    sigma_step: float = 0.02
    angle_step: float = 0.31416  # radians
    gaussian_beta: tuple[float, ...] = (0.5, 4.0)
    gaussian_beta_step: float = 0.05
    plateau_beta: tuple[float, ...] = (1.0, 2.0)
    plateau_beta_step: float = 0.1
    cutoff_step: float = 0.0628  # radians a pixel
    resize_odds: tuple[float, ...] = (0.2, 0.7, 0.1)  # up, down, neither
    resize_factor: tuple[float, ...] = (0.15, 1.5)
    resize_step: float = 0.015
    resize_mode_odds: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)  # of RESIZES
    noise_share: float = 1.0
    noise_odds: tuple[float, ...] = (0.5, 0.5)  # Gaussian, Poisson
    grey_noise_share: float = 0.4  # of either kind: the same in all channels
    gaussian_sigma: tuple[float, ...] = (1.0, 30.0)  # code values of 255
    gaussian_sigma_step: float = 0.1
    poisson_scale: tuple[float, ...] = (0.05, 3.0)
    poisson_scale_step: float = 0.005
    jpeg_share: float = 1.0
    jpeg_quality: tuple[float, ...] = (30.0, 95.0)
    jpeg_quality_step: float = 3.0
    codec_share: float = 1.0
    codec_odds: tuple[float, ...] = (0.25, 0.25, 0.25, 0.25)  # of CODECS
    bits_a_frame: tuple[float, ...] = (1e4, 1e5)  # of a 256x256 target; in proportion to its area

    def __post_init__(self) -> None:
        for name, count in _KINDS.items():
            odds = getattr(self, name)
            if len(odds) != count or min(odds) < 0 or not sum(odds):
                raise UsageError(f"{name}: {odds}; give {count} numbers, none below 0, not all 0")
        if not self.kernel_sizes or any(size % 2 == 0 for size in self.kernel_sizes):
            raise UsageError(f"kernel_sizes: {self.kernel_sizes}; give odd ones: even ones shift")
        if min(self.sigma_px) <= 0:
            raise UsageError(f"sigma_px: {self.sigma_px}; give more than 0: none is no kernel")
        _check_ranges(self)


@dataclass(frozen=True)
class SecondRound(Round):
    """Weaker, as published; its resize is counted from the size of the result."""

    blur_share: float = 0.8
    sigma_px: tuple[float, ...] = (0.2, 1.5)
    resize_odds: tuple[float, ...] = (0.3, 0.4, 0.3)
    resize_factor: tuple[float, ...] = (0.3, 1.2)
    resize_step: float = 0.03
    gaussian_sigma: tuple[float, ...] = (1.0, 25.0)
    poisson_scale: tuple[float, ...] = (0.05, 2.5)


@dataclass(frozen=True)
class RealWorld:
    """The whole chain: two rounds, and the share of clips that ring at last (a sinc filter)."""

    first: Round = field(default_factory=Round)
    second: SecondRound = field(default_factory=SecondRound)
    last_sinc_share: float = 0.8
    last_cutoff: tuple[float, ...] = (math.pi / 3, math.pi)  # radians a pixel

    def __post_init__(self) -> None:
        _check_ranges(self)


def degrade(rng: np.random.Generator, hr: Tensor, how: RealWorld, scale: int) -> Tensor:
    """``(T, 3, H, W)`` uint8 -> ``(T, 3, H/scale, W/scale)`` uint8, aligned with it.

    A pure function of the generator's state and the arguments. The second round's codec comes
    before or after the last resize and sinc, by even chance (RealBasicVSR's settings; Real-ESRGAN,
    sec. 3.4, has JPEG in its place). Raises UsageError where the sides do not divide by ``scale``.
    """
    height, width = hr.shape[-2:]
    if hr.dtype != torch.uint8 or height % scale or width % scale or not hr.numel():
        raise UsageError(
            f"a clip of {tuple(hr.shape)} {hr.dtype} cannot be degraded to 1/{scale}; "
            "give uint8 (T, 3, H, W) whose sides divide by the scale"
        )
    bits_share, target = height * width / PUBLISHED_PATCH_PX, (height // scale, width // scale)
    clip = hr.float() / 255
    clip = _spoilt(rng, clip, how.first, (height, width))
    clip = _through_codec(rng, clip, how.first, bits_share)
    clip = _spoilt(rng, clip, how.second, target)
    codec_last = rng.random() < 0.5
    if not codec_last:
        clip = _through_codec(rng, clip, how.second, bits_share)
    clip = resize(clip, target, pick(rng, RESIZES, how.second.resize_mode_odds))
    if rng.random() < how.last_sinc_share:
        size = int(rng.choice(how.second.kernel_sizes))
        cutoffs = walk(rng, how.last_cutoff, how.second.cutoff_step, len(clip))
        clip = filter2d(clip, sinc(size, torch.from_numpy(cutoffs))).clamp(0, 1)
    if codec_last:
        clip = _through_codec(rng, clip, how.second, bits_share)
    return _to_uint8(clip)


def _spoilt(rng: np.random.Generator, clip: Tensor, how: Round, size: tuple[int, int]) -> Tensor:
    """Blur; then resize, noise and JPEG frame by frame. ``size`` is what the factors are of.

    Frames leave this at the first one's size, as a codec would have them.
    """
    count = len(clip)
    if rng.random() < how.blur_share:
        clip = filter2d(clip, kernels(rng, how, count)).clamp(0, 1)
    mode = pick(rng, RESIZES, how.resize_mode_odds)
    sizes = resize_sizes(rng, how, size, count)
    frames = [resize(clip[t : t + 1], sizes[t], mode) for t in range(count)]
    if rng.random() < how.noise_share:
        frames = add_noise(rng, frames, how)
    if rng.random() < how.jpeg_share:
        qualities = walk(rng, how.jpeg_quality, how.jpeg_quality_step, count)
        frames = [_as_jpeg(x, float(q)) for x, q in zip(frames, qualities, strict=True)]
    return torch.cat([resize(x, sizes[0], mode) for x in frames])


def walk(
    rng: np.random.Generator, bounds: Sequence[float], step: float, count: int
) -> NDArray[np.float64]:
    """``(count,)`` from anywhere within ``bounds``, each at most ``step`` from the one before."""
    low, high = bounds
    values = np.empty(count)
    values[0] = rng.uniform(low, high)
    for t, change in enumerate(rng.uniform(-step, step, count - 1), 1):
        values[t] = min(max(values[t - 1] + change, low), high)
    return values


def pick(rng: np.random.Generator, kinds: Sequence[Kind], odds: Sequence[float]) -> Kind:
    """One of ``kinds``, by their odds."""
    return kinds[int(rng.choice(len(kinds), p=np.asarray(odds) / np.sum(odds)))]


def kernels(rng: np.random.Generator, how: Round, count: int) -> Tensor:
    """``(count, k, k)``: one kind and size, the widths, angle and exponent walking."""

    def walking(bounds: Sequence[float], step: float) -> Tensor:
        return torch.from_numpy(walk(rng, bounds, step, count))

    kind, size = pick(rng, KERNELS, how.kernel_odds), int(rng.choice(how.kernel_sizes))
    if kind == "sinc":
        lowest = math.pi / 3 if size < 13 else math.pi / 5  # what so few taps can hold
        return sinc(size, walking((lowest, math.pi), how.cutoff_step))
    sigma_x, angle = walking(how.sigma_px, how.sigma_step), walking(_FULL_TURN, how.angle_step)
    iso = kind.endswith("iso") and not kind.endswith("aniso")
    sigma_y = sigma_x if iso else walking(how.sigma_px, how.sigma_step)
    if kind.startswith("generalized"):
        beta = walking(how.gaussian_beta, how.gaussian_beta_step)
        return generalized_gaussian(size, sigma_x, sigma_y, angle, beta)
    if kind.startswith("plateau"):
        beta = walking(how.plateau_beta, how.plateau_beta_step)
        return plateau(size, sigma_x, sigma_y, angle, beta)
    return gaussian(size, sigma_x, sigma_y, angle)


def resize_sizes(
    rng: np.random.Generator, how: Round, size: tuple[int, int], count: int
) -> list[tuple[int, int]]:
    """Height and width of each frame: even, ``size`` times a factor that walks above or below 1."""
    low, high = how.resize_factor
    bounds = {"up": (1.0, max(high, 1.0)), "down": (min(low, 1.0), 1.0), "neither": (1.0, 1.0)}
    way = pick(rng, tuple(bounds), how.resize_odds)
    if way == "neither":
        return [size] * count
    factors = walk(rng, bounds[way], how.resize_step, count)
    return [(_even(size[0] * f), _even(size[1] * f)) for f in factors]


def resize(x: Tensor, size: tuple[int, int], mode: Resize) -> Tensor:
    """``(T, 3, h, w)`` to ``size``, the picture's edges where they were; without antialiasing.

    ``area`` is the mean of what lies under each pixel, in exact fractions.
    """
    if tuple(x.shape[-2:]) == size:
        return x
    if mode == "area":
        rows, columns = (_overlap(x.shape[2 + i], size[i]).to(x) for i in (0, 1))
        return rows @ (x @ columns.T)
    return F.interpolate(x, size, mode=mode, align_corners=False).clamp(0, 1)


def add_noise(rng: np.random.Generator, frames: list[Tensor], how: Round) -> list[Tensor]:
    """Gaussian or Poisson noise, in colour or grey, on frames ``(1, 3, h, w)`` of any sizes."""
    grey = rng.random() < how.grey_noise_share
    if pick(rng, (True, False), how.noise_odds):
        strengths = walk(rng, how.gaussian_sigma, how.gaussian_sigma_step, len(frames)) / 255
        noise = _gaussian_noise
    else:
        strengths = walk(rng, how.poisson_scale, how.poisson_scale_step, len(frames))
        noise = _poisson_noise
    return [
        (x + float(strength) * noise(rng, x, grey)).clamp(0, 1)
        for x, strength in zip(frames, strengths, strict=True)
    ]


def _gaussian_noise(rng: np.random.Generator, x: Tensor, grey: bool) -> Tensor:
    shape = (1, 1 if grey else 3, *x.shape[2:])
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def _poisson_noise(rng: np.random.Generator, x: Tensor, grey: bool) -> Tensor:
    """What counting photons adds; of grey light the same to all channels.

    How many photons make white follows, as published, from how many codes a frame has: over a clip
    that would jump.
    """
    light = torch.einsum("c,tchw->thw", x.new_tensor(LUMA), x)[:, None] if grey else x
    counts = rng.poisson(light.numpy() * POISSON_COUNTS).astype(np.float32)
    return torch.from_numpy(counts) / POISSON_COUNTS - light


def _as_jpeg(x: Tensor, quality: float) -> Tensor:
    """Through JPEG, filled up to whole 16x16 units by its edge, as encoders do."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
    return jpeg(padded, quality)[..., :height, :width]


def _through_codec(rng: np.random.Generator, clip: Tensor, how: Round, bits_share: float) -> Tensor:
    if rng.random() >= how.codec_share:
        return clip
    codec = pick(rng, CODECS, how.codec_odds)
    low, high = how.bits_a_frame
    bitrate = int(rng.uniform(low, high) * bits_share * FRAMES_A_SECOND)
    return compress(_to_uint8(clip), codec, bitrate=max(bitrate, SMALLEST_BITRATE)).float() / 255


def _to_uint8(clip: Tensor) -> Tensor:
    """0..1, which every step ends in, to code values."""
    return (clip * 255).round().to(torch.uint8)


def _even(side: float) -> int:
    return max(2 * round(side / 2), 2)


def _overlap(size: int, out: int) -> Tensor:
    """``(out, size)``: the share of each old pixel in each new one, float64, rows of sum 1."""
    edges = torch.arange(out + 1, dtype=torch.float64)[:, None] * (size / out)
    pixel = torch.arange(size, dtype=torch.float64)
    shared = torch.minimum(edges[1:], pixel + 1) - torch.maximum(edges[:-1], pixel)
    return shared.clamp(min=0) / (size / out)


def _check_ranges(how: Round | RealWorld) -> None:
    """UsageError for a share that is no probability, or a range that is none."""
    for entry in fields(how):
        name, value = entry.name, getattr(how, entry.name)
        if name.endswith("_share") and not 0 <= value <= 1:
            raise UsageError(f"{name}: {value:g} is no probability; give 0 to 1")
        is_range = isinstance(value, tuple) and name not in (*_KINDS, "kernel_sizes")
        if is_range and (len(value) != 2 or value[0] > value[1]):
            raise UsageError(f"{name}: {value} is no range; give [low, high]")
