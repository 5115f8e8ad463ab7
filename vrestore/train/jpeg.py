"""JPEG's loss as tensor arithmetic: fast on batches, one quality a frame, and differentiable.

Everything of a baseline JPEG that loses something (ITU-T T.81): Y'CbCr of JFIF, 4:2:0, DCT of 8x8
blocks, quantisation. What loses nothing, the entropy coding, is left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vrestore.errors import UsageError

# T.81, annex K.1 and K.2: luma and chroma steps at quality 50. Luma's are applied with horizontal
# and vertical frequency exchanged, as in the published training, whose loss this equals.
_LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_STEPS = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# JFIF 1.02: Y, Cb - 128, Cr - 128 of R'G'B', all in 0..255.
_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
BLOCK = 8


def jpeg(x: Tensor, quality: Tensor | float, *, soft: bool = False) -> Tensor:
    """``(T, 3, H, W)`` R'G'B' in 0..1 as a JPEG of ``quality`` 1..100 gives it back, in 0..1.

    ``quality``: one for all frames, or ``(T,)``; whole or not. Steps are libjpeg's scaled ones, not
    rounded. ``soft`` rounds by a cubic that has a gradient (Shin and Song 2017), else as JPEG does,
    without one. Any size: what a whole 16x16 unit lacks is black. Raises UsageError for a quality
    outside 1..100.
    """
    quality = torch.as_tensor(quality, dtype=x.dtype, device=x.device)
    if not bool(((quality >= 1) & (quality <= 100)).all()):
        raise UsageError(f"JPEG quality {quality.tolist()}: must be 1 to 100")
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50).expand(x.shape[0])
    height, width = x.shape[-2:]
    padded = F.pad(x, (0, -width % 16, 0, -height % 16)) * 255
    ycc = torch.einsum("dc,tchw->tdhw", x.new_tensor(_TO_YCC), padded)
    luma = _coded(ycc[:, :1] - 128, x.new_tensor(_LUMA_STEPS).T, factor, soft) + 128
    chroma = _coded(F.avg_pool2d(ycc[:, 1:], 2), x.new_tensor(_CHROMA_STEPS), factor, soft)
    chroma = chroma.repeat_interleave(2, -1).repeat_interleave(2, -2)
    rgb = torch.einsum("dc,tchw->tdhw", x.new_tensor(_TO_RGB), torch.cat((luma, chroma), 1))
    return rgb[..., :height, :width].clamp(0, 255) / 255


def _coded(planes: Tensor, steps: Tensor, factor: Tensor, soft: bool) -> Tensor:
    """``(T, c, h, w)`` through DCT, quantisation by ``steps * factor`` and back."""
    t, c, h, w = planes.shape
    dct = _dct_matrix().to(planes)
    steps = steps * factor.clamp(min=1e-6).view(t, 1, 1, 1, 1, 1)  # quality 100 has no steps left
    blocks = planes.view(t, c, h // BLOCK, BLOCK, w // BLOCK, BLOCK).transpose(3, 4)
    quotients = dct @ blocks @ dct.T / steps
    whole = quotients.round()
    if soft:
        whole = whole + (quotients - whole) ** 3
    back = dct.T @ (whole * steps) @ dct
    return back.transpose(3, 4).reshape(t, c, h, w)


def _dct_matrix() -> Tensor:
    """The orthonormal DCT of a block's rows (T.81, A.3.3), ``(frequency, place)``."""
    place = torch.arange(BLOCK, dtype=torch.float64)
    matrix = torch.cos((2 * place + 1) * place[:, None] * math.pi / (2 * BLOCK)) / 2
    matrix[0] /= math.sqrt(2)
    return matrix
