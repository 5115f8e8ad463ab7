import pytest
import torch
from torch import nn
from torch.nn import functional as F

from vrestore.models import one_step
from vrestore.models.layers import ResidualBlockNoBN

HALF = torch.bfloat16
needs_it = pytest.mark.skipif(
    not one_step._one_step_is_known(), reason="this torch has no such steps on this CPU"
)


def convolution(c_in, c_out, stride=1, dtype=HALF):
    torch.manual_seed(c_in + c_out)
    return nn.Conv2d(c_in, c_out, 3, stride, 1).to(dtype, memory_format=torch.channels_last)


def picture(channels, height=13, width=18, dtype=HALF):
    x = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(channels))
    return x.sub(0.5).to(dtype)


def plainly(monkeypatch, function, *args):
    with monkeypatch.context() as patch:
        patch.setattr(one_step, "ONE_STEP", False)
        return function(*args)


@needs_it
@torch.no_grad()
@pytest.mark.parametrize(("c_in", "c_out"), [(3, 64), (64, 64), (35, 32), (32, 16), (16, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_step_has_the_values_of_the_layers_one_by_one(c_in, c_out, layout):
    x, other = (picture(c).contiguous(memory_format=layout) for c in (c_in, c_out))
    for stride in (1, 2):
        conv = convolution(c_in, c_out, stride)
        for slope in (0.0, 0.1):
            wanted = F.leaky_relu(conv(x), slope)
            assert torch.allclose(one_step.conv_lrelu(conv, x, slope), wanted, 2**-7, 1e-3)
    conv = convolution(c_in, c_out)
    sum_ = conv(x) + other
    assert torch.allclose(one_step.conv_plus(conv, x, other), sum_, 2**-7, 1e-2)
    assert torch.allclose(one_step.conv_plus(conv, x, other.clone(), over=True), sum_, 2**-7, 1e-2)
    wanted = F.leaky_relu(F.pixel_shuffle(conv(x), 2), 0.1)
    assert torch.allclose(one_step.conv_shuffle_lrelu(conv, x), wanted, 2**-7, 1e-3)


@torch.no_grad()
def test_float32_goes_layer_by_layer():
    conv, x = convolution(16, 16, dtype=torch.float32), picture(16, dtype=torch.float32)
    assert not one_step._in_one_step(conv, x)
    assert torch.equal(one_step.conv_plus(conv, x, x), conv(x) + x)
    assert torch.equal(one_step.conv_lrelu(conv, x, 0.0), conv(x).relu())


@needs_it
@torch.no_grad()
def test_a_residual_block_that_infers_calls_no_layer_by_itself(monkeypatch):
    block, x = ResidualBlockNoBN(16).to(HALF), picture(16)
    calls = []
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: calls.append(self))
    block(x)
    assert not calls


@needs_it
@torch.no_grad()
def test_in_half_precision_a_sum_is_rounded_once(monkeypatch):
    conv, x = convolution(32, 32), picture(32)
    other = -conv(x)  # all that is left of the sum is what rounding took from the convolution
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), 1, 1) + other.double()
    assert not plainly(monkeypatch, one_step.conv_plus, conv, x, other).any()
    once = one_step.conv_plus(conv, x, other)
    assert (once - exact).abs().mean() < 0.01 * exact.abs().mean()


def test_what_learns_goes_layer_by_layer():
    conv, x = convolution(16, 16), picture(16)
    one_step.conv_plus(conv, one_step.conv_lrelu(conv, x, 0.0), x).sum().backward()
    assert conv.weight.grad is not None
    assert conv.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_only_what_nobody_needs_again_is_written_over():
    block, x = ResidualBlockNoBN(16).to(HALF), picture(16)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


@torch.no_grad()
def test_a_convolution_that_is_watched_is_called():
    conv, seen = convolution(16, 16), []
    conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    one_step.conv_lrelu(conv, picture(16))
    assert seen == [(2, 16, 13, 18)]


@torch.no_grad()
@pytest.mark.parametrize("fault", [AttributeError, RuntimeError, TypeError])
def test_a_torch_without_these_steps_goes_layer_by_layer(monkeypatch, fault):
    def missing(*args):
        raise fault("no such operator")

    monkeypatch.setattr(one_step, "_lrelu", missing)
    one_step._one_step_is_known.cache_clear()
    try:
        conv, x = convolution(16, 16), picture(16)
        assert torch.equal(one_step.conv_lrelu(conv, x), F.leaky_relu(conv(x), 0.1))
    finally:
        one_step._one_step_is_known.cache_clear()


@torch.no_grad()
def test_steps_with_other_values_are_not_taken(monkeypatch):
    off = lambda conv, x, weight, bias, slope: conv(x)  # noqa: E731
    monkeypatch.setattr(one_step, "_lrelu", off)
    one_step._one_step_is_known.cache_clear()
    try:
        assert not one_step._one_step_is_known()
    finally:
        one_step._one_step_is_known.cache_clear()
