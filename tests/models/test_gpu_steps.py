"""Steps for a GPU. Without one, Triton's interpreter runs the kernels, in a process of its own."""

import json
import logging
import os
import subprocess
import sys
from copy import deepcopy
from itertools import product

import pytest
import torch
from networks import awake, moving_clip, small_frbasicvsr_same_size
from torch.nn import functional as F

from vrestore.models import gpu_steps
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.frbasicvsr import FRBasicVSR
from vrestore.models.layers import warp

CPU = torch.device("cpu")
FLOW = {"spynet_levels": 3, "spynet_kernel": 3, "spynet_widths": (4, 4, 4, 4)}
SHAPES = [(2, 12, 9, 14), (1, 64, 5, 3), (1, 4, 2, 7), (2, 8, 7, 2), (1, 48, 33, 17)]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def features(shape, dtype, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def biases(channels, dtype):
    return torch.randn(channels, generator=torch.Generator().manual_seed(channels)).to(dtype)


def far_flow(n, h, w):
    """Within, at the border, far outside, and exactly on pixels."""
    flow = torch.randn(n, 2, h, w, generator=torch.Generator().manual_seed(h)) * 3
    flow[:, :, ::3] *= 1000
    flow[:, :, 1::3] = flow[:, :, 1::3].round()
    flow[0, 0, 0, 0], flow[0, 1, -1, -1] = torch.inf, -torch.inf
    return flow


def finite(flow):
    """What torch must be given, to which infinitely far is no place."""
    return flow.clamp(-1e6, 1e6)


def followed(shape, dtype):
    x, other, bias = features(shape, dtype), features(shape, dtype, 1), biases(shape[1], dtype)
    sum_ = x.float() + bias.float()[:, None, None]
    yield gpu_steps.follow(x.clone(), bias), sum_
    yield gpu_steps.follow(x.clone(), bias, 0.1), F.leaky_relu(sum_, 0.1)
    yield gpu_steps.follow(x.clone(), bias, other=other), sum_ + other.float()
    yield gpu_steps.follow(x.clone(), bias, 0.1, x), F.leaky_relu(sum_, 0.1) + x.float()


def shuffled(shape, dtype):
    x, bias = features(shape, dtype), biases(shape[1], dtype)
    sum_ = x.float() + bias.float()[:, None, None]
    by_channel = sum_.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
    yield gpu_steps.shuffled(x, bias, 0.1), F.leaky_relu(F.pixel_shuffle(by_channel, 2), 0.1)


def sampled(shape, dtype):
    for channels, mode, layout in product((shape[1], 1), ("zeros", "border"), LAYOUTS):
        x, flow = features(shape, dtype)[:, :channels], far_flow(shape[0], *shape[2:])
        found = gpu_steps.sampled(x, flow.contiguous(memory_format=layout), mode)
        yield found, warp(x.float(), finite(flow), mode)


def features_without_channels_last(shape, dtype):
    flow = far_flow(shape[0], *shape[2:])
    x = features(shape, dtype).contiguous()
    yield (
        gpu_steps.sampled(x, torch.cat((flow, flow), 1)[:, 2:], "zeros"),
        warp(x.float(), finite(flow)),
    )


KERNELS = [followed, shuffled, sampled, features_without_channels_last]


def errors():
    """Of each kernel and type the largest error, in roundings of what is right."""
    return {
        f"{kernel.__name__} {dtype}": max(
            in_roundings(found, right) for shape in SHAPES for found, right in kernel(shape, dtype)
        )
        for kernel, dtype in product(KERNELS, (torch.float16, torch.bfloat16))
    }


def in_roundings(found, right):
    assert found.shape == right.shape
    assert found.isfinite().all()
    # To the nearest; the interpreter, not the compiler, rounds bfloat16 towards zero.
    nearest = 0.5 if found.dtype == torch.float16 else 1.0
    rounding = right.abs() * torch.finfo(found.dtype).eps * nearest + 1e-3
    return ((found.float() - right).abs() / rounding).max().item()


def test_kernels_give_what_torch_gives():
    pytest.importorskip("triton", reason="Triton, which comes with torch for CUDA, is not here")
    pytest.importorskip("triton.language")
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    run = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert len(found) == 2 * len(KERNELS) + 1
    assert found.pop("are known") == [True, True]
    assert {name: error for name, error in found.items() if not error <= 1} == {}


def tail_of(net):
    return [(conv.in_channels, conv.out_channels) for conv in (net.upconv2, *net.tail[-2:])]


@pytest.mark.parametrize("network", [BasicVSR, FRBasicVSR])
@torch.no_grad()
def test_a_wider_tail_paints_the_same_pictures(network):
    net, clip = awake(network(8, 1, 12, **FLOW)), moving_clip(3)
    wide = deepcopy(net)
    gpu_steps.align_tail(wide)
    assert tail_of(net) == [(8, 48), (12, 12), (12, 3)]
    assert tail_of(wide) == [(8, 64), (16, 16), (16, 3)]
    assert torch.allclose(wide(clip), net(clip), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "net", [BasicVSR(8, 1, 16, **FLOW), small_frbasicvsr_same_size()], ids=["aligned", "beside"]
)
def test_a_tail_stays_that_is_aligned_or_sees_a_frame_beside(net):
    before = list(net.modules())
    gpu_steps.align_tail(net)
    assert all(a is b for a, b in zip(net.modules(), before, strict=True))


def test_a_tail_of_twelve_that_sees_a_frame_beside_stays():
    net = FRBasicVSR(8, 1, 12, hr_in=True, **FLOW)
    before = tail_of(net)
    gpu_steps.align_tail(net)
    assert tail_of(net) == before == [(8, 48), (15, 12), (12, 3)]


@pytest.fixture
def untried():
    gpu_steps.are_known.cache_clear()
    yield
    gpu_steps.are_known.cache_clear()


class CompilationError(Exception):
    """As Triton's own, no RuntimeError."""


@pytest.mark.parametrize("fault", [CompilationError, OSError, RuntimeError, AttributeError])
@pytest.mark.parametrize("step", ["follow", "shuffled", "sampled"])
def test_kernels_that_fail_in_any_way_are_not_known(monkeypatch, caplog, untried, fault, step):
    def fails(*args, **kwargs):
        raise fault("at 3:17:\nAny is not defined")

    doubles(monkeypatch)
    monkeypatch.setattr(gpu_steps, step, fails)
    with caplog.at_level(logging.WARNING, "vrestore"):
        assert not gpu_steps.are_known(CPU, torch.float16)
    (line,) = caplog.messages
    assert "the plain layers are taken, which are slower" in line
    assert f"{fault.__name__}: at 3:17: Any is not defined" in line


@pytest.mark.parametrize("step", ["follow", "shuffled", "sampled"])
def test_kernels_that_give_other_values_are_not_known(monkeypatch, caplog, untried, step):
    doubles(monkeypatch)
    assert gpu_steps.are_known(CPU, torch.float16)
    gpu_steps.are_known.cache_clear()
    right = getattr(gpu_steps, step)
    monkeypatch.setattr(gpu_steps, step, lambda *args: right(*args) + 0.1)
    with caplog.at_level(logging.WARNING, "vrestore"):
        assert not gpu_steps.are_known(CPU, torch.float16)
    assert "give other values" in caplog.text


def test_without_triton_nothing_is_tried(monkeypatch, untried):
    monkeypatch.setattr(gpu_steps, "HAS_TRITON", False)
    monkeypatch.setattr(gpu_steps, "_tried", lambda *args: pytest.fail("tried"))
    assert not gpu_steps.are_known(CPU, torch.float16)


def test_a_stray_folder_called_triton_is_not_triton(tmp_path):
    (tmp_path / "triton").mkdir()
    code = "from vrestore.models import gpu_steps; print(gpu_steps.HAS_TRITON)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() in ("False", str(gpu_steps.HAS_TRITON))


@torch.no_grad()
def test_on_a_cpu_the_steps_serve_nothing(monkeypatch):
    monkeypatch.setattr(gpu_steps, "are_known", lambda *args: True)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert not gpu_steps.serve(torch.zeros(1, 8, 4, 4, dtype=dtype))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_gpu_the_kernels_compile_and_give_what_torch_gives(dtype):
    pytest.importorskip("triton.language", reason="Triton is not here")
    x = torch.zeros(1, 8, 4, 4, dtype=dtype, device="cuda")
    with torch.no_grad():
        assert gpu_steps.serve(x)
        assert not gpu_steps.serve(x.float())
    assert not gpu_steps.serve(x)


def doubles(monkeypatch):
    """What the kernels are to give, by torch's own layers."""

    def follow(x, bias, slope=1.0, other=None):
        x = F.leaky_relu(x.float() + bias.float()[:, None, None], slope)
        return (x if other is None else x + other.float()).half()

    def shuffled(x, bias, slope):
        by_channel = follow(x, bias, slope).unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
        return F.pixel_shuffle(by_channel, 2)

    monkeypatch.setattr(gpu_steps, "HAS_TRITON", True)
    monkeypatch.setattr(gpu_steps, "follow", follow)
    monkeypatch.setattr(gpu_steps, "shuffled", shuffled)
    monkeypatch.setattr(gpu_steps, "sampled", warp)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    dtypes = (torch.float16, torch.bfloat16)
    known = [gpu_steps.are_known(CPU, dtype) for dtype in dtypes]
    print(json.dumps(errors() | {"are known": known}))
