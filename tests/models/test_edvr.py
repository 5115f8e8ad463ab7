"""EDVR against the reference's numbers, in every variant and layout, and how it is streamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import assert_equals_golden, golden_case, in_container
from networks import moving_clip, small_edvr

from vrestore import Restorer
from vrestore.errors import ModelError
from vrestore.models.checkpoint import load_network, save_network
from vrestore.models.edvr import EDVR
from vrestore.models.temporal import neighbours

CASES = [
    "edvr_m_tsa",
    "edvr_wotsa",
    "edvr_7f",
    "edvr_predeblur",
    "edvr_predeblur_hrin",
    "edvr_center0",
    "edvr_mmagic_tsa",
    "edvr_mmagic_wotsa",
    "edvr_legacy_tsa",
    "edvr_legacy_wotsa",
    "edvr_legacy_predeblur",
    "edvr_legacy_predeblur_hrin",
    "edvr_legacy_stage2",
]


@pytest.mark.parametrize("name", CASES)
def test_output_equals_the_reference(name: str, tmp_path: Path) -> None:
    case = golden_case(name)
    torch.save(in_container(case.state, case.layout), tmp_path / "edvr.pth")
    told = {"center_frame_idx": 0} if name == "edvr_center0" else {}  # no shape tells it
    net = load_network(tmp_path / "edvr.pth", **told)
    assert isinstance(net, EDVR)
    assert_equals_golden(case, net(case.inputs["x"]), "y")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"num_frame": 7, "with_tsa": False},
        {"num_frame": 3, "center_frame_idx": 0},
        {"hr_in": True, "with_predeblur": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("frames", [1, 2, 4, 9])
def test_a_stream_equals_the_windows_one_by_one_bit_for_bit(how, frames):
    net, clip = small_edvr(**how), moving_clip(frames, 18, 22)
    streamed = list(Restorer(net, precision="fp32", device="cpu").stream(clip))
    assert len(streamed) == frames
    for i, frame in enumerate(streamed):
        window = neighbours(i, net.before, net.after, net.border, frames - 1)
        assert torch.equal(frame, net(clip[window][None])[0])


def test_features_of_a_frame_are_computed_once_and_one_window_is_held():
    net, made, taken = small_edvr(), [], 0
    original = net.features
    net.features = lambda frame: made.append(1) or original(frame)

    def source():
        nonlocal taken
        for frame in moving_clip(12):
            taken += 1
            yield frame

    stream = Restorer(net, precision="fp32", device="cpu").stream(source())
    next(stream)
    assert taken == len(made) == 5
    for _ in range(3):
        next(stream)
    assert taken == len(made) == 6
    assert len(list(stream)) == 8
    assert len(made) == 12


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 1), (18, 33)])
@pytest.mark.parametrize("hr_in", [False, True])
def test_any_frame_size_works(size, hr_in):
    net = small_edvr(hr_in=hr_in, with_predeblur=hr_in)
    out = net(torch.rand(1, 5, 3, *size))
    assert out.shape == (1, 3, size[0] * net.scale, size[1] * net.scale)
    assert out.isfinite().all()


def test_what_cannot_be_the_reference_frame_is_refused(tmp_path):
    save_network(small_edvr(), tmp_path / "edvr.safetensors", {})
    for wrong in (7, -1, "a"):
        with pytest.raises(ModelError, match=r"center_frame_idx|sizes cannot"):
            load_network(tmp_path / "edvr.safetensors", center_frame_idx=wrong)
    assert load_network(tmp_path / "edvr.safetensors", border="replicate").border == "replicate"
    with pytest.raises(ModelError, match="holds a EDVR, which has no stride"):
        load_network(tmp_path / "edvr.safetensors", stride=2)


def test_the_border_does_not_change_what_is_far_from_it():
    """A size that does not divide is continued: its output begins as that of the larger picture."""
    net, clip = small_edvr(), torch.rand(1, 5, 3, 64, 64)
    whole, cut = net(clip), net(clip[..., :62])
    assert torch.allclose(whole[..., :40], cut[..., :40], atol=1e-6)


def test_a_cascade_is_one_restorer_fed_by_another():
    """The paper's second stage restores what the first one made; nothing is collected."""
    first, second = small_edvr(), small_edvr(hr_in=True, num_frame=3)
    clip, read = moving_clip(7, 8, 8), []
    stages = [Restorer(net, precision="fp32", device="cpu") for net in (first, second)]
    source = (read.append(1) or frame for frame in clip)
    stream = stages[1].stream(stages[0].stream(source))
    out = [next(stream)]
    assert len(read) == 5  # two windows, no more
    out += stream
    between = torch.stack(list(stages[0].stream(clip)))
    expected = torch.stack(list(stages[1].stream(between)))
    assert torch.equal(torch.stack(out), expected)
    assert expected.shape == (7, 3, 32, 32)


def test_one_training_step_moves_every_parameter():
    for how in ({}, {"with_tsa": False}, {"hr_in": True, "with_predeblur": True}, {"hr_in": True}):
        net = small_edvr(**how).requires_grad_(True)
        net(torch.rand(1, 5, 3, 16, 16)).square().mean().backward()
        still = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert not still, f"{how}: {still}"
