"""JPEG as tensor arithmetic: the reference's numbers, a real JPEG, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import shared_file
from torch import Tensor
from train_material import texture

from vrestore.errors import UsageError
from vrestore.train.jpeg import jpeg


def golden(name: str) -> Tensor:
    with np.load(shared_file("golden/kernels.npz")) as file:
        return torch.from_numpy(file[name])


def picture(height: int, width: int, frames: int = 1) -> Tensor:
    made = texture(3, 160, 160)[:, :height, :width].float() / 255
    return made.expand(frames, -1, -1, -1).clone()


def loss(a: Tensor, b: Tensor) -> float:
    return (a - b).square().mean().item()


@pytest.mark.parametrize("quality", [18, 70, 95])
@pytest.mark.parametrize("rounding", ["round", "diff"])
def test_jpeg_equals_the_reference(quality: int, rounding: str) -> None:
    actual = jpeg(golden("in_clip")[:1], quality, soft=rounding == "diff")
    expected = golden(f"jpeg_q{quality}_{rounding}")
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_sizes_that_are_no_multiples_equal_the_reference() -> None:
    actual = jpeg(golden("in_jpeg_pad"), 50)
    torch.testing.assert_close(actual, golden("jpeg_pad_q50_round"), rtol=0, atol=1e-4)


def test_one_quality_a_frame_equals_the_reference() -> None:
    actual = jpeg(golden("in_clip"), golden("jpeg_batch_q"))
    torch.testing.assert_close(actual, golden("jpeg_batch_round"), rtol=0, atol=1e-4)


def test_each_frame_has_the_loss_of_its_own_quality() -> None:
    clip = picture(48, 64, frames=3)
    together = jpeg(clip, torch.tensor([10.0, 50.0, 90.0]))
    for frame, quality in zip(together, (10.0, 50.0, 90.0), strict=True):
        torch.testing.assert_close(frame[None], jpeg(clip[:1], quality))
    losses = [loss(frame, clip[0]) for frame in together]
    assert losses[0] > 1.5 * losses[1] > 3 * losses[2]


@pytest.mark.parametrize(
    ("quality", "grey", "expected"),
    [(50, 131.2, 132.0), (25, 131.2, 132.0), (75, 131.2, 131.0), (25, 129.0, 128.0)],
)
def test_a_flat_grey_lands_on_the_standards_steps(
    quality: int, grey: float, expected: float
) -> None:
    """A block's mean is coded as 8 (grey - 128) in steps of 16 at quality 50 (T.81, table K.1)."""
    actual = jpeg(torch.full((1, 3, 16, 16), grey / 255), quality) * 255
    torch.testing.assert_close(actual, torch.full_like(actual, expected), rtol=0, atol=0.01)


def test_the_soft_form_has_a_gradient_and_the_hard_one_has_none() -> None:
    for soft in (True, False):
        given = picture(32, 32).requires_grad_()
        jpeg(given, 40, soft=soft).square().sum().backward()
        assert given.grad is not None
        assert bool(given.grad.isfinite().all())
        assert (given.grad.abs().max() > 0.01) == soft


@pytest.mark.parametrize("quality", [1.0, 100.0])
def test_the_ends_of_the_range_are_finite(quality: float) -> None:
    given = picture(17, 33)
    actual = jpeg(given, quality)
    assert actual.shape == given.shape
    assert bool(actual.isfinite().all())
    if quality == 100:
        luma = torch.tensor([0.299, 0.587, 0.114])
        difference = torch.einsum("c,tchw->thw", luma, actual - given)[:, :16, :32]
        assert difference.abs().mean() < 0.005


@pytest.mark.parametrize("quality", [0.5, 101.0])
def test_a_quality_out_of_range_is_refused(quality: float) -> None:
    with pytest.raises(UsageError, match="must be 1 to 100"):
        jpeg(picture(16, 16), quality)
