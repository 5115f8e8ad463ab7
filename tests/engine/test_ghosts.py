"""Tensors without values: as large as torch itself says that they would be."""

import subprocess
import sys

import networks
import pytest
import torch
from torch.nn import functional as F

from vrestore.engine import costs as costing
from vrestore.engine import ghosts
from vrestore.models.catalogue import load_model

SMALL = [make for name, make in vars(networks).items() if name.startswith("small_")]
SHIPPED = ["basicvsr", "basicvsr-real", "restore", "edvr", "iconvsr", "bicubic"]


def by_both(run):
    """By our rules, and by torch's."""
    for made in (ghosts.made, lambda func, args, kwargs: func(*args, **kwargs)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ghosts, "made", made)
            yield run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [*SMALL, *SHIPPED])
def test_a_network_takes_what_torch_says_that_it_takes(make, dtype):
    net = load_model(make) if isinstance(make, str) else make()
    with costing._Rounding():
        ours, torchs = by_both(lambda: costing._costs(net, 37, 54, dtype))
    assert ours == torchs


def works(device, layout):
    """By name; the same of tensors with values, and of such without."""

    def given(*shape, layout=torch.contiguous_format):
        return torch.empty(shape, device=device).to(memory_format=layout)

    a, b = given(2, 6, 8, 10, layout=layout), given(1, 6, 1, 1)
    grouped = given(1, 3, 9, 9), given(5, 3, 3, 3, layout=layout)
    return {
        "sum": lambda: a + b,
        "half": lambda: a.bfloat16() * a,
        "compared": lambda: a > 0.5,
        "in place": lambda: F.leaky_relu(a, 0.1, inplace=True),
        "part": lambda: a[:, 1:4] * 2,
        "outer": lambda: given(3, 1) - given(1, 4),
        "whole numbers": lambda: torch.arange(7, device=device) // 2,
        "steps": lambda: torch.arange(1, 8, 2, dtype=torch.float32, device=device),
        "cat": lambda: torch.cat([a, a[:, :2]], -3),
        "stack": lambda: torch.stack([a[0], a[1], a[0]], -1),
        "first": lambda: torch.stack([given(2, 3), given(2, 3)]),
        "sampled": lambda: F.grid_sample(a, given(2, 3, 5, 2), align_corners=True),
        "resized": lambda: F.interpolate(a, scale_factor=2, mode="bilinear"),
        "nearest": lambda: F.interpolate(a, scale_factor=2),
        "convolved": lambda: F.conv2d(a, given(5, 6, 3, 3), stride=2, padding=1),
        "grouped": lambda: F.conv2d(*grouped, padding=2, dilation=2),
        "mean": lambda: F.avg_pool2d(a, 2),
        "mean of many": lambda: F.avg_pool2d(a, (3, 2), (2, 1), padding=1),
        "largest": lambda: F.max_pool2d(a, 3, 2, 1),
        "product": lambda: given(2, 3) @ given(3, 5),
        "products": lambda: given(4, 2, 3) @ given(4, 3, 5),
        "unpacked": lambda: F.pixel_shuffle(given(1, 8, 3, 5, layout=layout), 2),
        "packed": lambda: F.pixel_unshuffle(a, 2),
        "sums": lambda: a.sum((1, 3)),
        "largest of channels": lambda: a.amax(1, True),
        "zeros": lambda: torch.zeros_like(a[:, :2]),
        "flipped": lambda: a.flip(-1),
        "padded": lambda: F.pad(a, (0, 2, 0, 3), "reflect"),
        "continued": lambda: F.pad(a, (1, 2, 1, 3), "replicate"),
        "repeated": lambda: given(3, 4).repeat(2, 1, 3),
        "copy": lambda: a.clone(memory_format=torch.contiguous_format),
    }


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_is_made_has_the_form_and_layout_that_it_has_with_values(layout):
    real = works("cpu", layout)
    for name, run in works("meta", layout).items():
        assert form(run) == form(real[name]), name


def form(run):
    found = ghosts.measured(run).result
    sides = zip(found.shape, found.stride(), strict=True)
    return found.shape, found.dtype, [stride for side, stride in sides if side > 1]


def test_a_plan_is_made_without_torch_s_compiler():
    """It would take as much memory as is planned for."""
    run = (
        "import sys; from vrestore import load_model; from vrestore.engine.costs import costs\n"
        "for name in sys.argv[1:]: costs(load_model(name), 37, 54)\n"
        "print(*{'sympy', 'torch._dynamo'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", run, *SHIPPED]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stdout.strip()) == (0, ""), found.stderr
