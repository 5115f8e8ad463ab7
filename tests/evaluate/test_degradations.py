"""The field's low-resolution inputs: the reference's numbers, their phases, their borders."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden import shared_file
from torch import Tensor

from vrestore.errors import UsageError
from vrestore.evaluate.degradations import bd, bd_duf, bi, gaussian_taps, reflected
from vrestore.models.resize import imresize

ALL = [bi, bd, bd_duf]


def golden(name: str) -> Tensor:
    with np.load(shared_file("golden/kernels.npz")) as file:
        return torch.from_numpy(file[name])


def golden_clip(name: str) -> tuple[Tensor, Tensor]:
    """The HR crops of a golden clip, 0..1, and its published LR input, uint8."""
    with np.load(shared_file("weights/golden_basicvsr_reds4.npz")) as file:
        path = file["path_hr_yx"]
    with np.load(shared_file(f"weights/golden_basicvsr_{name}.npz")) as file:
        canvas, lq = (torch.from_numpy(file[key]) for key in ("canvas", "lq"))
    crops = [canvas[y : y + 144, x : x + 176] for y, x in path.tolist()]
    return torch.stack(crops).permute(0, 3, 1, 2) / 255, lq.permute(0, 3, 1, 2)


def centroid(x: Tensor) -> tuple[float, float]:
    """Of a light blob on black, ``(..., H, W)``: x and y in pixels."""
    light = x.double().flatten(0, -3).mean(0)
    light = light / light.sum()
    down, across = (torch.arange(n, dtype=torch.float64) for n in light.shape)
    return float((light.sum(0) * across).sum()), float((light.sum(1) * down).sum())


def blob(at: tuple[float, float], size: tuple[int, int] = (96, 120), width: float = 6) -> Tensor:
    x, y = at
    down, across = (torch.arange(n, dtype=torch.float64) for n in size)
    spot = torch.exp(-((across - x) ** 2 + (down[:, None] - y) ** 2) / (2 * width**2))
    return spot.expand(1, 3, *size)


@pytest.mark.parametrize(
    ("how", "name"), [(bi, "vimeo90k_bix4"), (bi, "reds4"), (bd, "vimeo90k_bdx4")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_8_bit_input_equals_the_published_one(how, name, dtype) -> None:
    hr, lq = golden_clip(name)
    made = (how(hr.to(dtype), 4) * 255).round().clamp(0, 255).to(torch.uint8)
    assert torch.equal(made, lq)


def test_bd_equals_the_reference() -> None:
    actual = bd(golden("in_clip"), 4)
    torch.testing.assert_close(actual, golden("bd_down_x4"), rtol=0, atol=2e-6)
    taps = gaussian_taps(12, 1.6)
    kernel = golden("bd_kernel_12x12_1.6")
    torch.testing.assert_close(taps[:, None] * taps, kernel, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_duf_equals_the_reference(scale: int) -> None:
    actual = bd_duf(golden("in_clip"), scale)
    torch.testing.assert_close(actual, golden(f"duf_down_x{scale}"), rtol=0, atol=2e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_duf_answers_to_a_single_pixel_with_its_kernel(scale: int) -> None:
    dots = torch.eye(24 * 24, dtype=torch.float64).view(24, 24, 1, 24, 24)[6:19, 6:19]
    answers = bd_duf(dots, scale)[:, :, 0, 12 // scale, 12 // scale]  # what pixel 12 is made of
    torch.testing.assert_close(answers, golden(f"duf_kernel_x{scale}"), rtol=0, atol=1e-7)


def test_the_phases_of_duf_and_basicvsr_differ_by_one_and_a_half_pixels() -> None:
    """Where a blob's middle lands, in HR pixels if LR pixel i is the centre of its 4x4 block."""
    there = (61.3, 47.6)
    hr = blob(there)
    for how, shift in ((bi, 0.0), (bd, 0.0), (bd_duf, 1.5)):
        found = centroid(how(hr, 4))
        for place, true in zip(found, there, strict=True):
            assert abs((place + 0.5) * 4 - 0.5 - (true + shift)) < 0.02, how.__name__


@pytest.mark.parametrize("how", ALL)
def test_a_flat_picture_of_any_size_stays_flat(how) -> None:
    for size in ((4, 4), (5, 7), (8, 30)):
        actual = how(torch.full((2, 3, *size), 0.3), 4)
        assert actual.shape == (2, 3, size[0] // 4, size[1] // 4)
        torch.testing.assert_close(actual, torch.full_like(actual, 0.3))


@pytest.mark.parametrize("how", ALL)
def test_what_does_not_divide_is_cut_right_and_bottom(how) -> None:
    x = torch.rand(3, 31, 42, generator=torch.Generator().manual_seed(0))
    assert torch.equal(how(x, 4), how(x[:, :28, :40], 4))
    assert how(x, 4).shape == (3, 7, 10)


@pytest.mark.parametrize("how", ALL)
def test_one_picture_has_the_values_that_it_has_in_a_clip(how) -> None:
    clip = torch.rand(2, 3, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(how(clip, 4)[1, 2], how(clip[1, 2], 4))


def test_bi_is_imresize_and_is_not_clipped() -> None:
    x = torch.zeros(3, 16, 16)
    x[..., 8:] = 1
    assert torch.equal(bi(x, 4), imresize(x, 1 / 4))
    assert bi(x, 4).min() < 0


def test_a_border_is_repeated_in_bd_and_reflected_in_duf() -> None:
    top_row = torch.zeros(3, 48, 48, dtype=torch.float64)
    top_row[:, 0] = 1
    repeated = gaussian_taps(12, 1.6)[:5].sum()  # rows -4 to 0 of the 12 around 1.5
    assert abs(bd(top_row, 4)[0, 0, 6] - repeated) < 1e-12
    assert abs(bd_duf(top_row, 4)[0, 0, 6] - gaussian_taps(13, 1.6)[6]) < 1e-12


def test_reflection_goes_on_where_the_picture_is_smaller_than_the_reach() -> None:
    row = reflected(torch.arange(3).expand(1, 3), 4)[0]
    assert row.tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="2 or 4"):
        bd(torch.zeros(3, 12, 12), 3)
    with pytest.raises(UsageError, match="2, 3 and 4, not 5"):
        bd_duf(torch.zeros(3, 15, 15), 5)
    with pytest.raises(UsageError, match="6x3 is too small"):
        bi(torch.zeros(3, 3, 6), 4)
