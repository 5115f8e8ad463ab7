"""What the losses count."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from vrestore.errors import UsageError
from vrestore.evaluate.metrics import psnr
from vrestore.train.config import read_config
from vrestore.train.losses import charbonnier, log_error


def pair(spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Three samples of two frames, errors of one, two and four times ``spread``."""
    g = torch.Generator().manual_seed(1)
    truth = torch.rand(3, 2, 3, 8, 8, generator=g)
    size = torch.tensor([1.0, 2.0, 4.0]).reshape(3, 1, 1, 1, 1) * spread
    return truth + size * torch.randn(truth.shape, generator=g), truth


def test_charbonnier_is_the_mean_distance():
    a, b = pair(0.1)
    assert charbonnier(a, b).item() == pytest.approx((a - b).abs().mean().item(), abs=1e-5)


def test_log_error_falls_as_mean_psnr_rises():
    decibels, losses = [], []
    for spread in (0.02, 0.1):
        a, b = pair(spread)
        scores = [
            psnr(x.flatten(0, 1)[:, None] * 255, y.flatten(0, 1)[:, None] * 255)
            for x, y in zip(a, b, strict=True)
        ]
        decibels.append(torch.stack(scores).mean().item())
        losses.append(log_error(a, b).item())
    expected = (decibels[0] - decibels[1]) * math.log(10) / 10 / 100
    assert losses[1] - losses[0] == pytest.approx(expected, rel=0.02)


def test_log_error_pulls_at_good_samples_as_at_bad_ones():
    a, b = pair(0.05)
    a.requires_grad_()
    log_error(a, b).backward()
    error = (a - b).detach()
    relative = (a.grad * error).flatten(1).sum(1)  # of a sample all of whose errors shrink alike
    torch.testing.assert_close(relative, torch.full((3,), 2 / 3 / 100), rtol=0.01, atol=0)


def test_log_error_is_finite_where_nothing_is_wrong():
    a = torch.full((1, 1, 3, 4, 4), 0.5, requires_grad=True)
    log_error(a, a.detach()).backward()
    assert torch.equal(a.grad, torch.zeros_like(a))


def test_a_loss_that_is_not_known_is_refused_with_the_known_ones(tmp_path):
    config = Path(__file__).parents[2] / "configs/train/basicvsr_compact.toml"
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(config.read_text("utf-8").replace('"log_error"', '"l3"'), "utf-8")
    with pytest.raises(UsageError, match=r"loss: must be 'charbonnier' or 'l1' or 'log_error'"):
        read_config(wrong)
