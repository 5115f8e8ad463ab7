import json
import math

import numpy as np
import pytest
import torch
from golden import shared_file

from vrestore.errors import UsageError
from vrestore.evaluate.metrics import filtered, luma, psnr, ssim, to_8bit


def golden_pairs():
    with np.load(shared_file("golden/metrics.npz")) as file:
        pictures = {key: torch.from_numpy(file[key]) for key in file.files}
    values = json.loads(shared_file("golden/metrics.json").read_text())["values"]
    for name, scores in values.items():
        a, b = (pictures[f"{name}_{side}"].permute(2, 0, 1) for side in "ab")
        yield name, a, b, scores


def single_precision_luma(picture):
    """As BasicSR has it: in 0..1 and float32 before and after. Worth 6e-6 dB at 64 dB."""
    return (luma((picture.float() / 255).double() * 255) / 255).float() * 255


@pytest.mark.parametrize("crop", [0, 4])
@pytest.mark.parametrize("channels", ["rgb", "y"])
def test_psnr_and_ssim_are_basicsrs(channels, crop):
    for name, a, b, scores in golden_pairs():
        if channels == "y":
            a, b = single_precision_luma(a), single_precision_luma(b)
        for metric in (psnr, ssim):
            expected = float(scores[f"{metric.__name__}_{channels}_crop{crop}"])
            assert metric(a, b, crop).item() == pytest.approx(expected, abs=1e-6), (name, metric)


def test_float64_luma_gives_the_values_of_both_houses_to_their_float32():
    for name, a, b, scores in golden_pairs():
        for metric in (psnr, ssim):
            ours = metric(luma(a), luma(b)).item()
            for house, off in (("", 1e-5), ("mmagic_", 1e-4)):
                expected = float(scores[f"{house}{metric.__name__}_y_crop0"])
                assert ours == pytest.approx(expected, abs=off), (house, name, metric)


def test_luma_equals_the_reference_table():
    with np.load(shared_file("golden/metrics.npz")) as file:
        rgb, expected = file["table_rgb"], file["table_y_float"]
    y = luma(torch.from_numpy(rgb).T[:, None])
    np.testing.assert_allclose(y[0, 0].numpy() / 255, expected, atol=1e-6)


def test_luma_of_black_white_and_the_primaries_is_matlabs():
    rgb = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    for dtype in (torch.uint8, torch.float64):
        y = luma(rgb.to(dtype).T.reshape(3, 1, 5))
        expected = torch.tensor([[[16, 235, 81.481, 144.553, 40.966]]], dtype=torch.float64)
        torch.testing.assert_close(y, expected, atol=1e-9, rtol=0)


def test_psnr_of_a_known_error():
    a, b = torch.zeros(2, 1, 8, 8), torch.full((2, 1, 8, 8), 5.0)
    assert torch.allclose(psnr(a, b), torch.full((2,), 10 * math.log10(255**2 / 25)).double())
    b[..., 2:-2, 2:-2] = 0
    assert psnr(a, b, crop=2).isinf().all()
    assert psnr(a, b).isfinite().all()


def test_psnr_averages_the_error_of_the_channels_and_not_their_decibels():
    a, b = torch.zeros(3, 6, 6), torch.zeros(3, 6, 6)
    b[0] = 6.0
    assert psnr(a, b).item() == pytest.approx(10 * math.log10(255**2 / 12))


def test_every_picture_of_every_clip_has_its_own_score():
    g = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (2, 3, 3, 16, 17), generator=g, dtype=torch.uint8)
    b = torch.randint(0, 256, (2, 3, 3, 16, 17), generator=g, dtype=torch.uint8)
    for metric in (psnr, ssim):
        scores = metric(a, b)
        assert scores.shape == (2, 3)
        assert scores.unique().numel() == 6
        assert scores[1, 2] == metric(a[1, 2], b[1, 2])


def test_ssim_of_two_flat_pictures_is_what_the_formula_says():
    """No variance: only the luminance term is left (Wang et al., eq. 6)."""
    a, b = torch.full((1, 20, 20), 100.0), torch.full((1, 20, 20), 50.0)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 50 + c1) / (100**2 + 50**2 + c1)
    assert ssim(a, b).item() == pytest.approx(expected, abs=1e-9)


def test_the_separable_filter_is_the_outer_products():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 9, 8, generator=g, dtype=torch.float64)
    taps = torch.tensor([0.2, 0.6, 0.2], dtype=torch.float64)
    window = torch.outer(taps, taps)
    expected = torch.stack([(x[:, i : i + 3, 2:5] * window).sum((1, 2)) for i in range(7)], 1)
    torch.testing.assert_close(filtered(x, taps)[:, :, 2], expected)


def test_shapes_that_cannot_be_compared_are_refused_in_one_sentence():
    a = torch.zeros(2, 3, 16, 16)
    for other in (torch.zeros(3, 16, 16), torch.zeros(2, 3, 16, 15)):
        with pytest.raises(UsageError, match="cannot compare"):
            psnr(a, other)
    with pytest.raises(UsageError, match="C = 1 or 3"):
        ssim(torch.zeros(2, 16, 16), torch.zeros(2, 16, 16))
    with pytest.raises(UsageError, match="leaves nothing"):
        psnr(a, a, crop=8)
    with pytest.raises(UsageError, match="11 pixels wide"):
        ssim(a, a, crop=3)
    with pytest.raises(UsageError, match="no picture"):
        psnr(a[:0], a[:0])


def test_to_8bit_rounds_and_clips():
    assert to_8bit(torch.tensor([-0.1, 0.0019, 0.002, 1.3])).tolist() == [0, 0, 1, 255]
