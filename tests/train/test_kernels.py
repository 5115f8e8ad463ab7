"""Blur kernels, the filter and unsharp masking against the reference's numbers, and their laws."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from golden import shared_file
from torch import Tensor

from vrestore.train.kernels import (
    filter2d,
    gaussian,
    generalized_gaussian,
    plateau,
    sharpen,
    sinc,
)

SHAPES = {
    "bivariate_Gaussian": gaussian,
    "bivariate_generalized_Gaussian": generalized_gaussian,
    "bivariate_plateau": plateau,
}


def golden(name: str) -> Tensor:
    with np.load(shared_file("golden/kernels.npz")) as file:
        return torch.from_numpy(file[name])


def test_every_kernel_equals_the_reference() -> None:
    parameters = json.loads(bytes(golden("params_json").numpy()).decode())
    compared = 0
    for name, (function, arguments, _) in parameters.items():
        if function in SHAPES:
            actual = SHAPES[function](*arguments)
            torch.testing.assert_close(actual, golden(name), rtol=0, atol=1e-6)
            compared += 1
    assert compared == 11


def test_the_sinc_kernel_equals_the_reference() -> None:
    torch.testing.assert_close(sinc(21, torch.pi / 3), golden("sinc_21"), rtol=0, atol=1e-6)
    padded = torch.nn.functional.pad(sinc(9, 2.2), (6, 6, 6, 6))
    torch.testing.assert_close(padded, golden("sinc_9_pad21"), rtol=0, atol=1e-6)


def test_the_filter_equals_the_reference() -> None:
    actual = filter2d(golden("in_clip")[:1], gaussian(21, 2.5, 0.8, 0.6))
    torch.testing.assert_close(actual, golden("filter2d_aniso21"), rtol=0, atol=1e-5)


def test_sharpening_equals_both_references() -> None:
    sharp = sharpen(golden("in_clip")[:1])
    torch.testing.assert_close(sharp, golden("usm_torch_r50_w0.5_t10"), rtol=0, atol=1e-5)
    by_opencv = golden("usm_cv_r50_w0.5_t10").permute(2, 0, 1)[None]
    torch.testing.assert_close(sharp, by_opencv, rtol=0, atol=1e-5)


def kernels_of_all_kinds(size: int) -> dict[str, Tensor]:
    widths, angles = torch.tensor([0.2, 1.1, 3.0]), torch.tensor([-3.0, 0.4, 2.0])
    betas = torch.tensor([0.5, 1.3, 4.0])
    return {
        "gaussian": gaussian(size, widths, widths.flip(0), angles),
        "generalized": generalized_gaussian(size, widths, widths.flip(0), angles, betas),
        "plateau": plateau(size, widths, widths.flip(0), angles, betas),
        "sinc": sinc(size, torch.tensor([1.1, 2.0, torch.pi])),
    }


@pytest.mark.parametrize("size", [7, 12, 21])
def test_no_kernel_moves_the_picture_or_changes_its_brightness(size: int) -> None:
    for name, kernel in kernels_of_all_kinds(size).items():
        assert kernel.shape == (3, size, size), name
        torch.testing.assert_close(kernel.sum((1, 2)), torch.ones(3, dtype=torch.float64))
        torch.testing.assert_close(kernel, kernel.flip(1, 2), rtol=0, atol=1e-12)


def test_kernels_of_many_frames_are_those_of_each() -> None:
    together = kernels_of_all_kinds(9)["plateau"]
    torch.testing.assert_close(together[1], plateau(9, 1.1, 1.1, 0.4, 1.3))


def test_each_frame_has_its_own_kernel() -> None:
    clip = torch.rand(3, 3, 20, 26, generator=torch.Generator().manual_seed(1))
    kernels = kernels_of_all_kinds(7)["gaussian"]
    together = filter2d(clip, kernels)
    assert together.shape == clip.shape
    for frame, kernel, actual in zip(clip, kernels, together, strict=True):
        torch.testing.assert_close(filter2d(frame[None], kernel)[0], actual)
    assert (together[0] - filter2d(clip[:1], kernels[2])[0]).abs().max() > 0.01


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (9, 3)])
def test_pictures_smaller_than_the_kernel_are_filtered(size: tuple[int, int]) -> None:
    flat = filter2d(torch.full((1, 3, *size), 0.4), gaussian(21, 3.0, 1.0, 0.3))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.4))


def test_sharpening_leaves_flat_parts_and_lifts_edges() -> None:
    step = torch.full((1, 3, 64, 128), 0.3)
    step[..., 64:] = 0.7
    sharp = sharpen(step)
    torch.testing.assert_close(sharp[..., :10], step[..., :10], rtol=0, atol=2e-3)
    assert sharp[..., 62].max() < 0.25
    assert sharp[..., 66].min() > 0.75
    faint = 0.5 + 0.02 * (step - 0.3)
    assert torch.equal(sharpen(faint), faint)
