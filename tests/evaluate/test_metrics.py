import math

import torch

from vrestore.evaluate.metrics import luma, psnr, to_8bit


def test_luma_of_black_white_and_the_primaries_is_matlabs():
    rgb = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    y = luma(rgb.double().T.reshape(3, 1, 5))
    expected = torch.tensor([16, 235, 81.481, 144.553, 40.966], dtype=torch.float64)
    assert torch.allclose(y[0], expected, atol=1e-9)


def test_psnr_of_a_known_error():
    a, b = torch.zeros(2, 8, 8), torch.full((2, 8, 8), 5.0)
    assert torch.allclose(psnr(a, b), torch.full((2,), 10 * math.log10(255**2 / 25)).double())
    b[:, 2:-2, 2:-2] = 0
    assert psnr(a, b, crop=2).isinf().all()
    assert psnr(a, b).isfinite().all()


def test_to_8bit_rounds_and_clips():
    assert to_8bit(torch.tensor([-0.1, 0.0019, 0.002, 1.3])).tolist() == [0, 0, 1, 255]
