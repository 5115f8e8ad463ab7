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


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_a_convolution_of_parts_sees_them_side_by_side(dtype, slope):
    parts = [picture(c, dtype=dtype) for c in (3, 4, 16)]
    conv = convolution(23, 8, dtype=dtype)
    wanted = one_step.conv_lrelu(conv, torch.cat(parts, 1), slope)
    assert torch.equal(one_step.conv_of(conv, parts, slope), wanted)
    alone = convolution(16, 8, dtype=dtype)
    wanted = one_step.conv_lrelu(alone, parts[2], slope)
    assert torch.equal(one_step.conv_of(alone, parts[2:], slope), wanted)


@torch.no_grad()
def test_parts_of_other_types_come_in_the_type_of_the_last():
    frame, state = picture(3, dtype=torch.float32), picture(5)
    out = one_step.conv_of(convolution(8, 8), (frame, state))
    assert out.dtype == HALF
    assert torch.equal(out, one_step.conv_of(convolution(8, 8), (frame.to(HALF), state)))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_convolution_to_few_channels_is_the_plain_one(dtype):
    conv, x = convolution(16, 3, dtype=dtype), picture(16, dtype=dtype)
    assert torch.equal(one_step.conv_to_few(conv, x), conv(x))


def test_parts_and_few_channels_learn():
    conv, last = convolution(7, 8, dtype=torch.float32), convolution(8, 3, dtype=torch.float32)
    parts = [picture(c, dtype=torch.float32).requires_grad_() for c in (3, 4)]
    one_step.conv_to_few(last, one_step.conv_of(conv, parts)).square().sum().backward()
    assert all(x.grad.any() for x in (*parts, conv.weight, conv.bias, last.weight, last.bias))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The way over ``gpu_steps``, whose steps are doubles; the widths that are multiplied."""
    widths, conv2d = [], F.conv2d

    def watched(x, weight, *how):
        assert x.shape[1] == weight.shape[1]
        widths.append(weight.shape[:2])
        return conv2d(x, weight, *how)

    def follow(x, bias, slope=1.0, other=None):
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert other is None or other.is_contiguous(memory_format=torch.channels_last)
        assert bias.shape == x.shape[1:2]
        x = F.leaky_relu(x + bias[:, None, None], slope)
        return x if other is None else x + other

    def shuffled(x, bias, slope):
        pixels = follow(x, bias, slope).unflatten(1, (4, -1)).transpose(1, 2)
        return F.pixel_shuffle(pixels.flatten(1, 2), 2)

    def convolution_relu(x, weight, bias, *how):
        return watched(x, weight, bias, *how).relu()

    monkeypatch.setattr(one_step, "_on_gpu", lambda conv, x: True)
    monkeypatch.setattr(one_step.F, "conv2d", watched)
    monkeypatch.setattr(one_step.gpu_steps, "follow", follow)
    monkeypatch.setattr(one_step.gpu_steps, "shuffled", shuffled)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", convolution_relu)
    return widths


def near(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("stride", [1, 2])
def test_steps_of_a_gpu_have_the_values_of_the_layers(as_on_a_gpu, layout, stride):
    conv = convolution(12, 16, stride, torch.float32)
    x = picture(12, dtype=torch.float32).contiguous(memory_format=layout)
    plain = conv(x)
    other = torch.rand(plain.shape).contiguous(memory_format=layout)
    for slope in (0.0, 0.1):
        assert near(one_step.conv_lrelu(conv, x, slope), F.leaky_relu(plain, slope))
    assert near(one_step.conv_plus(conv, x, other), plain + other)
    wanted = F.leaky_relu(F.pixel_shuffle(plain, 2), 0.1)
    assert near(one_step.conv_shuffle_lrelu(conv, x), wanted)


@torch.no_grad()
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_channels_of_zeros_beyond_the_parts_change_nothing(as_on_a_gpu, slope):
    parts = [picture(c, dtype=torch.float32) for c in (3, 16)]
    conv = convolution(19, 8, dtype=torch.float32)
    wanted = F.leaky_relu(conv(torch.cat(parts, 1)), slope)
    as_on_a_gpu.clear()
    assert near(one_step.conv_of(conv, parts, slope), wanted)
    assert as_on_a_gpu == [(8, 24)]
    aligned = convolution(16, 8, dtype=torch.float32)
    one_step.conv_of(aligned, parts[1:], slope)
    assert as_on_a_gpu[1:] == [(8, 16)]


@torch.no_grad()
@pytest.mark.parametrize(("few", "made"), [(3, 8), (8, 8), (12, 16)])
def test_channels_made_beyond_the_few_change_nothing(as_on_a_gpu, few, made):
    conv, x = convolution(16, few, dtype=torch.float32), picture(16, dtype=torch.float32)
    wanted = conv(x)
    as_on_a_gpu.clear()
    out = one_step.conv_to_few(conv, x)
    assert out.shape == wanted.shape
    assert near(out, wanted)
    assert as_on_a_gpu == [(made, 16)]


@torch.no_grad()
def test_a_convolution_that_is_watched_is_no_step_of_a_gpu(monkeypatch):
    monkeypatch.setattr(one_step.gpu_steps, "serve", lambda x: True)
    conv, x = convolution(16, 16), picture(16)
    assert one_step._on_gpu(conv, x)
    assert not one_step._on_gpu(nn.Conv2d(16, 16, 3, bias=False), x)
    assert not one_step._on_gpu(type("Other", (nn.Conv2d,), {})(16, 16, 3), x)
    assert not plainly(monkeypatch, one_step._on_gpu, conv, x)
    conv.register_forward_pre_hook(lambda module, inputs: None)
    assert not one_step._on_gpu(conv, x)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_features_side_by_side_are_laid_out_as_convolutions_want_them(dtype):
    parts = [picture(c, dtype=dtype) for c in (3, 1, 8)]
    parts[1] = parts[1].contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        out = one_step.side_by_side(parts)
    assert torch.equal(out, torch.cat(parts, 1))
    assert out.is_contiguous(memory_format=torch.channels_last)
    parts[0].requires_grad_()
    one_step.side_by_side(parts).sum().backward()
    assert (parts[0].grad == 1).all()
