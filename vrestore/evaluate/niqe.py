"""NIQE: how far a picture's statistics are from those of natural ones; no truth is needed.

Mittal, Soundararajan and Bovik, IEEE Signal Processing Letters 20(3), 2013, with the pristine model
of the authors' release (`niqe_pris_params.md`) and its habits: MATLAB's luma in whole codes, blocks
of 96 pixels, all of them and not the sharp ones only. Lower is better.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vrestore.errors import UsageError
from vrestore.evaluate.metrics import filtered, luma
from vrestore.models.resize import imresize

BLOCK_PX = 96
PRISTINE = Path(__file__).with_name("niqe_pris_params.npz")
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # down and right: the paper's H, V, D1, D2


def niqe(picture: Tensor, crop: int = 0) -> float:
    """The score of ``picture``: ``(3, H, W)`` R'G'B' or ``(1, H, W)`` grey, in 0..255.

    Of colour Y is scored, rounded; grey is rounded as well. ``crop`` pixels are cut at each side
    first. What is left below or right of whole blocks does not count. NIQE depends on a picture's
    size: an input is enlarged (`imresize`) before it is compared with what was made of it.
    UsageError for other shapes, and where there are not two blocks with detail in them.
    """
    found = if_any(picture, crop)
    if found is None:
        raise UsageError("the picture is flat: NIQE finds no two blocks with detail in it")
    return found


def check_size(width: int, height: int, crop: int = 0) -> tuple[int, int]:
    """How many blocks there are, down and across; UsageError where it is less than two."""
    width, height = width - 2 * crop, height - 2 * crop
    down, across = height // BLOCK_PX, width // BLOCK_PX
    if crop < 0 or min(down, across) < 1 or down * across < 2:
        raise UsageError(
            f"NIQE compares blocks of {BLOCK_PX}x{BLOCK_PX} pixels, and a picture of "
            f"{width}x{height} does not hold two of them; give a larger one"
        )
    return down, across


def if_any(picture: Tensor, crop: int = 0) -> float | None:
    """As `niqe`, but None where there are not two blocks with detail: films fade to black."""
    if picture.dim() != 3 or picture.shape[0] not in (1, 3):
        raise UsageError(f"NIQE is of one picture (1 or 3, H, W), not {tuple(picture.shape)}")
    down, across = check_size(picture.shape[2], picture.shape[1], crop)
    grey = luma(picture) if picture.shape[0] == 3 else picture.double()
    grey = grey[0, crop : crop + down * BLOCK_PX, crop : crop + across * BLOCK_PX].cpu().round()
    with np.load(PRISTINE) as model:
        mean, covariance = (torch.from_numpy(model[f"{name}_pris_param"]) for name in ("mu", "cov"))
        window = torch.from_numpy(model["gaussian_window"]).sum(0)  # separable: its outer product
    half = imresize((grey / 255).float(), 0.5) * 255
    features = torch.cat(
        [
            _features(_normalised(grey.float(), window), BLOCK_PX),
            _features(_normalised(half, window), BLOCK_PX // 2),
        ],
        1,
    )
    whole = features[~features.isnan().any(1)]
    if len(whole) < 2:
        return None
    distance = mean[0] - features.nanmean(0)
    inverse = torch.linalg.pinv((covariance + torch.cov(whole.T)) / 2, rtol=1e-15)
    return float((distance @ inverse @ distance).sqrt())


def _normalised(grey: Tensor, window: Tensor) -> Tensor:
    """Each pixel less its neighbourhood's mean, over its deviation (the paper's eq. 1 to 3).

    In float32, as in the field's code, with sums in float64: what is flat is its own mean then, and
    neither below nor above it. In float64 its last bits were, and bars at a picture's edges cost
    0.3.
    """
    reach = len(window) // 2
    padded = F.pad(grey[None, None], (reach,) * 4, mode="replicate")[0, 0]
    mean = filtered(padded.double(), window).float()
    squares = filtered((padded * padded).double(), window).float()
    return ((grey - mean) / ((squares - mean * mean).abs().sqrt() + 1)).double()


def _features(normalised: Tensor, block: int) -> Tensor:
    """``(blocks, 18)``: what each block's values and products of neighbours are distributed like.

    Sec. II-C. NaN where a block is flat.
    """
    blocks = normalised.unfold(0, block, block).unfold(1, block, block).flatten(0, 1)
    shape, left, right = _asymmetric_gaussian(blocks)
    features = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        shape, left, right = _asymmetric_gaussian(blocks * blocks.roll(shift, (1, 2)))
        ratio = torch.exp(torch.lgamma(2 / shape) - torch.lgamma(1 / shape))
        features += [shape, (right - left) * ratio, left, right]
    return torch.stack(features, 1)


def _asymmetric_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, left and right scale of a generalised Gaussian per block, by matching moments.

    Lasmar, Stitou and Berthoumieu, ICIP 2009; the shape is looked up in steps of 0.001, as the
    authors' release does.
    """
    squares = blocks.square()
    below, above = blocks < 0, blocks > 0
    left = ((squares * below).sum((1, 2)) / below.sum((1, 2))).sqrt()
    right = ((squares * above).sum((1, 2)) / above.sum((1, 2))).sqrt()
    ratio = left / right
    peakedness = blocks.abs().mean((1, 2)) ** 2 / squares.mean((1, 2))
    sought = peakedness * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    shapes = 0.2 + 0.001 * torch.arange(9801, dtype=torch.float64)
    one, two, three = (torch.lgamma(n / shapes) for n in (1, 2, 3))
    nearest = (torch.exp(2 * two - one - three) - sought[:, None]).abs().argmin(1)
    scale = torch.exp((one - three)[nearest] / 2)
    return shapes[nearest], left * scale, right * scale
