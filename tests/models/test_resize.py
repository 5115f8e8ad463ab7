"""MATLAB's imresize against the reference's numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from golden import shared_file
from torch import Tensor

from vrestore.models.baselines import Bicubic
from vrestore.models.resize import imresize


def cases() -> list[str]:
    kinds = ["even_small", "odd_small"]
    return [
        *(f"up{factor}_{kind}" for factor in (2, 3, 4) for kind in kinds),
        *(f"down{f}_{aa}_{k}" for f in (2, 3, 4) for aa in ("aa", "noaa") for k in ("even", "odd")),
        "down2_aa_rgb",
        "down4_aa_rgb",
        "scale0.6_aa_odd",
        "scale1.5_odd_small",
    ]


def test_every_golden_case_is_named() -> None:
    with np.load(shared_file("golden/matlab_imresize.npz")) as file:
        assert sorted(cases()) == sorted(k for k in file.files if not k.startswith("in_"))


@pytest.mark.parametrize("name", cases())
def test_resize_equals_matlab(name: str) -> None:
    parsed = re.fullmatch(r"(up|down|scale)([\d.]+)_(?:(aa|noaa)_)?(.+)", name)
    assert parsed
    kind, number, antialias, source = parsed.groups()
    scale = 1 / float(number) if kind == "down" else float(number)
    with np.load(shared_file("golden/matlab_imresize.npz")) as file:
        given, expected = (picture(file[key]) for key in (f"in_{source}", name))
    actual = imresize(given, scale, antialias != "noaa")
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)


def test_the_bicubic_baseline_is_matlabs_in_float32_and_half() -> None:
    with np.load(shared_file("golden/matlab_imresize.npz")) as file:
        given, expected = picture(file["in_odd_small"]), picture(file["up4_odd_small"])
    given, expected = (x.expand(1, 3, *x.shape[1:]) for x in (given, expected))
    net = Bicubic()
    torch.testing.assert_close(net(given.float()), expected.float(), rtol=0, atol=1e-6)
    half = net(given.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 3)])
def test_a_flat_picture_of_any_size_stays_flat(size: tuple[int, int]) -> None:
    for scale in (4.0, 0.25):
        out = imresize(torch.full((3, *size), 0.3, dtype=torch.float64), scale)
        torch.testing.assert_close(out, torch.full_like(out, 0.3), rtol=0, atol=1e-12)


def picture(array: np.ndarray) -> Tensor:
    """``(H, W)`` or ``(H, W, 3)`` -> ``(C, H, W)``."""
    return torch.from_numpy(array if array.ndim == 3 else array[..., None]).permute(2, 0, 1)
