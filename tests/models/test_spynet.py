"""SPyNet and the warp against the reference's numbers and against known motion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import assert_equals_golden, golden_case, in_container
from torch.nn import functional as F

from vrestore.models.checkpoint import load_module
from vrestore.models.layers import warp
from vrestore.models.spynet import SPyNet

CASES = [
    "spynet_basicsr",
    "spynet_basicsr_odd",
    "spynet_basicsr_70x100",
    "spynet_mmagic_odd",
    "spynet_mmagic_small",
]


@pytest.mark.parametrize("name", CASES)
def test_flow_equals_the_reference(name: str, tmp_path: Path) -> None:
    case = golden_case(name)
    torch.save(in_container(case.state, case.layout), tmp_path / "spynet.pth")
    net = load_module(tmp_path / "spynet.pth")
    assert isinstance(net, SPyNet)
    assert net.levels == 6
    assert_equals_golden(case, net(case.inputs["ref"], case.inputs["supp"]), "flow")


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (31, 33), (64, 32)])
def test_any_picture_size_gives_a_finite_flow_of_that_size(size: tuple[int, int]) -> None:
    net = compact()
    a, b = torch.rand(2, 1, 3, *size).unbind()
    flow = net(a, b)
    assert flow.shape == (1, 2, *size)
    assert flow.isfinite().all()


def test_a_batch_of_two_pairs_equals_the_pairs_alone() -> None:
    net = compact()
    a, b = torch.rand(2, 2, 3, 21, 26).unbind()
    alone = torch.cat([net(a[i : i + 1], b[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(net(a, b), alone, rtol=0, atol=1e-5)


def test_the_pyramid_has_one_flow_per_level_each_twice_the_last() -> None:
    flows = compact().pyramid(torch.rand(1, 3, 16, 24), torch.rand(1, 3, 16, 24))
    assert [tuple(flow.shape[2:]) for flow in flows] == [(4, 6), (8, 12), (16, 24)]


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 0), (0, 1), (3, -2), (-4, 5)])
def test_warp_by_whole_pixels_is_a_shift_with_zeros_outside(dx: int, dy: int) -> None:
    # Exact up to the rounding of grid_sample's coordinates, which are scaled to -1..1 and back.
    x = torch.rand(2, 3, 9, 17)
    flow = torch.tensor([dx, dy], dtype=torch.float32).view(1, 2, 1, 1).expand(2, 2, 9, 17)
    reach = 5
    expected = F.pad(x, (reach,) * 4)[
        ..., reach + dy : reach + dy + 9, reach + dx : reach + dx + 17
    ]
    torch.testing.assert_close(warp(x, flow), expected, rtol=0, atol=1e-5)


def test_warp_by_whole_pixels_repeats_the_border_where_asked() -> None:
    x = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 4, 5)
    flow = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 5)
    expected = torch.tensor([3.0, 4, 4, 4, 4]).expand(1, 1, 4, 5)
    torch.testing.assert_close(warp(x, flow, "border"), expected, rtol=0, atol=1e-5)


def test_warp_by_half_a_pixel_is_the_mean_of_two() -> None:
    x = torch.rand(1, 2, 6, 8)
    flow = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 6, 8)
    expected = (x[..., :-1] + x[..., 1:]) / 2
    torch.testing.assert_close(warp(x, flow)[..., :-1], expected, rtol=0, atol=1e-5)


def test_warp_of_halves_keeps_their_type_and_finds_far_columns() -> None:
    # Half precision cannot tell column 3000 from 3001; the coordinates must not be halves.
    x = (torch.arange(4096) % 7).view(1, 1, 1, -1).expand(1, 1, 2, -1).half()
    warped = warp(x, torch.zeros(1, 2, 2, 4096).half())
    assert warped.dtype == torch.float16
    torch.testing.assert_close(warped.float(), x.float(), rtol=0, atol=5e-3)


def compact() -> SPyNet:
    torch.manual_seed(0)
    return SPyNet(levels=3, kernel=3, widths=(8, 8)).eval().requires_grad_(False)
