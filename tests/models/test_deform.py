"""The deformable convolution against the reference's numbers, gradients included."""

from __future__ import annotations

import json
import math
import sys
import time
import types
from typing import Any

import numpy as np
import pytest
import torch
from golden import shared_file
from torch.nn import functional as F

from vrestore.models import deform
from vrestore.models.deform import (
    STIFF,
    Geometry,
    modulated_deform_conv,
    plain_kernel,
    row_kernel,
)

CASES = ["base", "dg2_far", "stride2", "dil2_group2", "rect", "aniso", "k1"]
INPUTS = ("x", "offset", "mask", "weight", "bias")


def case(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with np.load(shared_file("golden/modulated_deform_conv.npz")) as file:
        config = json.loads(file["config_json"].tobytes())[name]
        head = f"{name}."
        arrays = {k.removeprefix(head): file[k] for k in file.files if k.startswith(head)}
    keys = ("stride", "padding", "dilation")
    how = {key: tuple(config[key]) for key in keys} | {"groups": config["groups"]}
    return how, {key: torch.from_numpy(value) for key, value in arrays.items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("band_bytes", [1, deform.BAND_BYTES])
def test_values_and_gradients_equal_the_reference(name, band_bytes, monkeypatch):
    monkeypatch.setattr(deform, "BAND_BYTES", band_bytes)
    how, z = case(name)
    inputs = {k: z[f"in.{k}"].requires_grad_() for k in INPUTS if f"in.{k}" in z}
    y = modulated_deform_conv(**inputs, **how)
    torch.testing.assert_close(y, z["y"], rtol=0, atol=1e-10)
    y.backward(z["gy"])
    for key, value in inputs.items():
        torch.testing.assert_close(value.grad, z[f"grad.{key}"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_float32_stays_near_the_reference(name):
    how, z = case(name)
    y = modulated_deform_conv(**{k: z[f"in.{k}"].float() for k in INPUTS if f"in.{k}" in z}, **how)
    torch.testing.assert_close(y, z["y"].float(), rtol=0, atol=1e-5 * max(1, z["y"].abs().max()))


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("dil2_group2", "aniso")])
@pytest.mark.parametrize("band_bytes", [1, deform.BAND_BYTES])
def test_what_infers_equals_the_reference(name, band_bytes, monkeypatch):
    monkeypatch.setattr(deform, "BAND_BYTES", band_bytes)
    how, z = case(name)
    inputs = {k: z[f"in.{k}"] for k in INPUTS if f"in.{k}" in z}
    calls = []
    monkeypatch.setattr(deform, "row_kernel", lambda *args: calls.append(1) or row_kernel(*args))
    y = modulated_deform_conv(**inputs, **how)
    assert calls
    torch.testing.assert_close(y, z["y"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups", [1, 2])
def test_far_and_broken_offsets_do_the_same_with_and_without_gradients(groups, layout):
    z = {key: value.float() for key, value in random_inputs(groups=groups).items()}
    z["offset"][0, 0, 2, 2:5] = torch.tensor([1e30, -1e30, 4e9])
    z["offset"][1, 3, :, 1] = -3e9
    z = {k: v.contiguous(memory_format=layout) if v.ndim == 4 else v for k, v in z.items()}
    y = modulated_deform_conv(**z, padding=1)
    z["x"].requires_grad_()
    torch.testing.assert_close(y, modulated_deform_conv(**z, padding=1).detach())
    z["offset"][0, 4:6, 3, 3] = math.nan  # y and x
    with torch.no_grad():
        assert modulated_deform_conv(**z, padding=1).isnan().sum() == len(z["weight"])


def random_inputs(height: int = 6, width: int = 7, groups: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(2, 4, height, width, generator=g, dtype=torch.float64),
        "offset": torch.randn(2, 18 * groups, height, width, generator=g, dtype=torch.float64) * 2,
        "mask": torch.rand(2, 9 * groups, height, width, generator=g, dtype=torch.float64),
        "weight": torch.randn(3, 4, 3, 3, generator=g, dtype=torch.float64),
        "bias": torch.randn(3, generator=g, dtype=torch.float64),
    }


def test_the_gradient_is_the_slope():
    inputs = [value.requires_grad_() for value in random_inputs(3, 4).values()]
    assert torch.autograd.gradcheck(lambda *args: modulated_deform_conv(*args, padding=1), inputs)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (6, 7)])
def test_without_offsets_it_is_a_convolution(size):
    z = random_inputs(*size)
    z["offset"].zero_()
    z["mask"].fill_(1)
    expected = F.conv2d(z["x"], z["weight"], z["bias"], padding=1)
    torch.testing.assert_close(modulated_deform_conv(**z, padding=1), expected)


def test_whole_offsets_move_the_picture():
    z = random_inputs()
    z["mask"].fill_(1)
    z["offset"].zero_()
    z["offset"][:, 0::2] = 2  # every point two rows down
    z["offset"][:, 1::2] = -1  # and one column to the left
    moved = F.pad(z["x"], (1, 0, 0, 2))[:, :, 2:, :-1]
    expected = F.conv2d(moved, z["weight"], z["bias"], padding=1)[:, :, 1:-1, 1:-1]
    y = modulated_deform_conv(**z, padding=1)
    torch.testing.assert_close(y[:, :, 1:-1, 1:-1], expected)


def test_an_installed_kernel_is_taken_where_it_is_faster_and_works(monkeypatch):
    def broken(*args):
        raise RuntimeError("operator torchvision::deform_conv2d does not exist")

    def slow(*args):
        time.sleep(0.2)
        return plain_kernel(*args)

    def fast(x, *args):
        if x.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return x.new_zeros(1)

    for installed, dtype, expected in (
        ([], torch.float32, plain_kernel), ([broken], torch.float32, plain_kernel),
        ([slow], torch.float32, plain_kernel), ([broken, slow, fast], torch.float32, fast),
        ([broken, slow, fast], torch.bfloat16, plain_kernel),
    ):  # fmt: skip
        found = {kernel.__name__: kernel for kernel in installed}
        monkeypatch.setattr(deform, "foreign_kernels", lambda found=found: found)
        deform.fastest_kernel.cache_clear()
        chosen = deform.fastest_kernel(plain_kernel, torch.device("cpu"), dtype)
        assert chosen is expected, (list(found), dtype)
    monkeypatch.undo()
    deform.fastest_kernel.cache_clear()


def test_fused_kernels_are_given_one_type(monkeypatch):
    """Half-precision weights, offsets and masks in float32: a fused kernel refuses the mixture."""
    package = types.ModuleType("torchvision.ops")
    seen = []

    def deform_conv2d(x, offset, weight, bias, stride, padding, dilation, mask):
        seen.append({t.dtype for t in (x, offset, weight, mask)})
        return plain_kernel(x, offset, mask, weight, bias, Geometry(stride, padding, dilation, 1))

    package.deform_conv2d = deform_conv2d
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.ops", package)
    z = random_inputs()
    z = {
        k: v.to(torch.bfloat16 if k in ("weight", "bias") else torch.float32) for k, v in z.items()
    }
    theirs = deform.foreign_kernels()["torchvision"](*(z[k] for k in INPUTS), STIFF)
    assert seen == [{torch.bfloat16}]
    ours = plain_kernel(*(z[k].bfloat16() for k in INPUTS), STIFF)
    torch.testing.assert_close(theirs, ours)


@pytest.mark.mmcv
@pytest.mark.parametrize("name", CASES)
def test_mmcvs_kernel_agrees(name):
    pytest.importorskip("mmcv.ops", reason="mmcv is not compiled here")
    how, z = case(name)
    inputs = {k: z[f"in.{k}"].double() if f"in.{k}" in z else None for k in INPUTS}
    pairs = (deform._pair(how[k]) for k in ("stride", "padding", "dilation"))
    theirs = deform.foreign_kernels()["mmcv"](*inputs.values(), Geometry(*pairs, how["groups"]))
    ours = modulated_deform_conv(**inputs, **how)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)  # its coordinates are single


def test_half_precision_keeps_its_coordinates():
    """Column 1500 with an offset of a quarter pixel: bfloat16 would round it to a multiple of 8."""
    x = torch.arange(1600.0).sin().expand(1, 1, 1, 1600).contiguous()
    offset = torch.zeros(1, 2, 1, 1600)
    offset[:, 1] = 0.25
    weight, mask = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1600)
    half = [t.bfloat16() for t in (x, offset, mask, weight)]
    y, full = modulated_deform_conv(*half), modulated_deform_conv(x, offset, mask, weight)
    assert (y.float() - full)[..., 1400:1590].abs().max() < 0.02
