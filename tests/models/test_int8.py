"""Networks in 8-bit integers against the same in float32."""

import pytest
import torch
from networks import (
    moving_clip,
    small_basicvsr,
    small_basicvsrpp,
    small_edvr,
    small_frbasicvsr,
    small_frbasicvsr_same_size,
    small_frrealbasicvsr,
    small_iconvsr,
    small_realbasicvsr,
)
from torch import nn

from vrestore.engine.precision import difference
from vrestore.engine.restorer import Restorer
from vrestore.errors import UsageError
from vrestore.models import int8
from vrestore.models.catalogue import load_model
from vrestore.models.frrealbasicvsr import FRRealBasicVSR
from vrestore.models.int8 import Int8Conv, Int8ResidualBlock, in_int8, int8_is_possible
from vrestore.models.layers import ResidualBlockNoBN

SMALL = [
    small_basicvsr,
    small_frbasicvsr_same_size,
    small_frrealbasicvsr,
    small_iconvsr,
    small_basicvsrpp,
    small_frbasicvsr,
    small_realbasicvsr,
    small_edvr,
]

pytestmark = pytest.mark.skipif(
    not int8_is_possible(), reason="this torch has no integer convolutions for this CPU"
)


@pytest.mark.parametrize("padding", [0, 1])
def test_a_convolution_is_that_of_its_rounded_input_and_weights(padding):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 24, 3, 1, padding).requires_grad_(False)
    quantized = Int8Conv(conv, -0.7, 1.9)
    x = torch.rand(1, 16, 13, 17) * 2.6 - 0.7
    seen = (quantized.rounded(x).float() - quantized.zero) * quantized.step
    assert (seen - x).abs().max() <= quantized.step / 2 + 1e-6
    scale = quantized.scale.view(-1, 1, 1, 1)
    weight = (conv.weight / scale).round() * scale
    expected = nn.functional.conv2d(seen, weight, conv.bias, padding=padding)
    torch.testing.assert_close(quantized(x), expected, atol=1e-5, rtol=1e-5)


def test_what_lies_beyond_the_range_saturates():
    conv = Int8Conv(nn.Conv2d(1, 1, 1), -1.0, 1.0)
    edges = torch.tensor([-1e6, -1.4, 0.0, 1.4, 1e6]).view(1, 1, 1, 5)
    assert conv.rounded(edges).flatten().tolist() == [0, 0, 128, 255, 255]


def test_bands_of_rows_are_rounded_as_the_whole(monkeypatch):
    conv, x = Int8Conv(nn.Conv2d(8, 8, 3), -1.0, 1.0), torch.randn(1, 8, 37, 20)
    whole = conv.rounded(x)
    monkeypatch.setattr(int8, "BAND_BYTES", 5000)
    assert torch.equal(conv.rounded(x), whole)


def test_what_a_residual_block_adds_to_is_not_rounded():
    torch.manual_seed(0)
    block = ResidualBlockNoBN(16).requires_grad_(False)
    x = torch.randn(1, 16, 12, 12)
    inner = torch.relu(block.conv1(x))
    quantized = Int8ResidualBlock(
        Int8Conv(block.conv1, x.min().item(), x.max().item()),
        Int8Conv(block.conv2, 0.0, inner.max().item()),
    )
    assert 0 < (quantized(x) - block(x)).abs().max() < 0.05
    for conv in (block.conv1, block.conv2):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    still = Int8ResidualBlock(Int8Conv(block.conv1, -1, 1), Int8Conv(block.conv2, 0, 1))
    assert torch.equal(still(x), x)


@pytest.mark.parametrize("make", SMALL)
def test_every_network_has_an_int8_form_near_its_own(make, monkeypatch):
    monkeypatch.setattr("vrestore.engine.precision.NEAR_DB", 30)  # random weights are no network
    net = make()
    quantized = in_int8(net)
    blocks = [m for m in net.modules() if isinstance(m, ResidualBlockNoBN)]
    assert not any(isinstance(m, ResidualBlockNoBN) for m in quantized.modules())
    convs = [m for m in quantized.modules() if isinstance(m, Int8Conv)]
    tails = 2 if isinstance(net, FRRealBasicVSR) else 1
    assert len(convs) == 2 * len(blocks) + tails * len(int8.TAIL)
    clip = moving_clip(5, 16, 16)
    full, small = (
        torch.stack(list(Restorer(net, precision=p, device="cpu").stream(clip)))
        for p in ("fp32", "int8")
    )
    assert 0 < (small - full).abs().mean() < 0.05 * full.std()


def test_the_shipped_network_in_int8_is_near_its_float32():
    net, clip = load_model("basicvsr"), moving_clip(4, 40, 48)
    restorer = Restorer(net, precision="int8", device="cpu")
    small = torch.stack(list(restorer.stream(clip)))
    full = torch.stack(list(Restorer(net, precision="fp32", device="cpu").stream(clip)))
    assert restorer.precision == "int8"
    assert difference(full, small) is None
    assert not torch.equal(full, small)


def test_chunks_and_bands_change_nothing_in_int8(monkeypatch):
    net, clip = small_basicvsr(), moving_clip(11)

    def restored(**how):
        restorer = Restorer(net, precision="int8", device="cpu", **how)
        return torch.stack(list(restorer.stream(clip)))

    whole = restored(propagation="whole")
    assert torch.equal(restored(propagation="exact", chunk=3), whole)
    monkeypatch.setattr("vrestore.models.layers.TAIL_BAND_BYTES", 1)
    assert torch.equal(restored(propagation="whole"), whole)


def test_int8_is_refused_elsewhere_than_on_a_cpu(monkeypatch):
    monkeypatch.setattr("vrestore.engine.precision.int8_is_possible", lambda: False)
    with pytest.raises(UsageError, match="int8 is for x86 CPUs"):
        Restorer(small_basicvsr(), precision="int8", device="cpu")
