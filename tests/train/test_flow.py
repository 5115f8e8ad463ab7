import dataclasses
import math

import numpy as np
import pytest
import torch
from train_material import texture, tiny_config, tiny_material

from vrestore.errors import ModelError
from vrestore.models.layers import warp
from vrestore.models.spynet import SPyNet
from vrestore.train import flow
from vrestore.train.camera import gentle_pair
from vrestore.train.config import FlowWarmUp
from vrestore.train.data import FlowPairs
from vrestore.train.network import build_network
from vrestore.train.share import Share
from vrestore.train.stop import Stop

CPU = torch.device("cpu")


@pytest.fixture
def spynet():
    torch.manual_seed(1)
    return SPyNet(3, 3, (4, 4, 4, 4))


def test_the_flow_of_a_gentle_pair_is_its_motion():
    """Warping the second picture by it gives the first, in every mirroring."""
    pictures = (texture(1, 96, 128), texture(2, 96, 128))
    warped_error, still_error = 0.0, 0.0
    for seed in range(12):
        pair, motion = gentle_pair(np.random.default_rng(seed), pictures, 32, 4.0)
        ref, supp = pair.float()
        assert motion.norm(dim=0).max() < 6
        inner = (..., slice(7, -7), slice(7, -7))
        warped_error += (warp(supp[None], motion[None])[0] - ref)[inner].abs().mean().item()
        still_error += (supp - ref)[inner].abs().mean().item()
    assert warped_error < 0.35 * still_error


def test_tied_levels_are_one_network_and_then_each_its_own(spynet, tmp_path):
    config = tiny_config()
    tied, one = flow.tie(spynet, 2)
    assert [level is one for level in tied.basic_module] == [True, True]
    before = [p.clone() for p in spynet.basic_module[0].parameters()]
    flow.warm_up_flow(spynet, config, tiny_material(), tmp_path, CPU)
    levels = [list(level.parameters()) for level in spynet.basic_module]
    assert not torch.equal(levels[0][0], before[0])
    assert not torch.equal(levels[0][0], levels[1][0])


def test_what_tied_levels_learned_is_every_levels_though_no_step_follows(spynet, tmp_path):
    config = tiny_config()
    alone = dataclasses.replace(config, flow=dataclasses.replace(config.flow, steps=0))
    flow.warm_up_flow(spynet, alone, tiny_material(), tmp_path, CPU)
    first, *others = (level.state_dict() for level in spynet.basic_module)
    for other in others:
        for name, value in first.items():
            assert torch.equal(other[name], value)


def test_a_warm_up_stopped_and_resumed_is_the_one_that_was_never_stopped(
    spynet, tmp_path, monkeypatch
):
    start = {key: value.clone() for key, value in spynet.state_dict().items()}
    config, material = tiny_config(), tiny_material()
    (tmp_path / "whole").mkdir()
    flow.warm_up_flow(spynet, config, material, tmp_path / "whole", CPU)
    whole = {key: value.clone() for key, value in spynet.state_dict().items()}
    (tmp_path / "pieces").mkdir()
    real, died = FlowPairs.__getitem__, []

    def dies_twice(self, step):
        if step in (2, 5) and step not in died:  # saved at 2 and 4
            died.append(step)
            raise KeyboardInterrupt
        return real(self, step)

    monkeypatch.setattr(FlowPairs, "__getitem__", dies_twice)
    for _ in range(2):
        spynet.load_state_dict(start)
        with pytest.raises(KeyboardInterrupt):
            flow.warm_up_flow(spynet, config, material, tmp_path / "pieces", CPU)
    spynet.load_state_dict(start)
    flow.warm_up_flow(spynet, config, material, tmp_path / "pieces", CPU)
    assert died == [2, 5]
    for key, value in whole.items():
        assert torch.equal(value, spynet.state_dict()[key]), key


def test_the_rate_falls_to_nothing_twice():
    plan = FlowWarmUp(tied_steps=400, steps=200, tied_rate=1e-3, rate=2e-4)
    rates = [flow.flow_rate_at(step, plan) for step in range(600)]
    assert max(rates[:400]) == pytest.approx(1e-3, rel=0.2)
    assert max(rates[400:]) == pytest.approx(2e-4, rel=0.5)
    assert rates[399] < 1e-6
    assert rates[599] < 1e-6


def test_every_sample_is_made_by_one_process_and_both_have_known_flow():
    config, material = tiny_config(), tiny_material()
    for step in (0, 4):
        whole = FlowPairs(config, material)[step][0]
        parts = [FlowPairs(config, material, Share(rank, 2))[step] for rank in (0, 1)]
        seen = torch.cat([pairs for pairs, _ in parts])
        assert sorted(map(str, seen.flatten(1).tolist())) == sorted(
            map(str, whole.flatten(1).tolist())
        )
        assert all(torch.isfinite(truth).any() for _, truth in parts)


def test_the_loss_is_least_at_the_true_flow():
    pairs, truth = FlowPairs(tiny_config(), tiny_material())[4]
    assert torch.isnan(truth).any()
    assert torch.isfinite(truth).any()
    ref, supp = (pairs.float() / 255).unbind(1)
    known = truth.nan_to_num()
    right, errors = flow.flow_loss([known], ref, supp, truth)
    wrong, _ = flow.flow_loss([known + 0.5], ref, supp, truth)
    assert right < wrong
    assert errors[0] == 0 < errors[1]


def test_a_flow_network_that_goes_astray_is_not_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "end_point_error", lambda *_: torch.tensor(math.nan))
    config = tiny_config()
    net = build_network(config.network)
    with pytest.raises(FloatingPointError, match="flow network's loss is no number at its step 0"):
        flow.warm_up_flow(net.spynet, config, tiny_material(), tmp_path, torch.device("cpu"))
    assert list(tmp_path.iterdir()) == []


def test_the_lessons_of_a_flow_network_stop_when_asked_and_go_on(tmp_path):
    config, cpu = tiny_config(), torch.device("cpu")
    nets = [build_network(config.network) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    for folder, net in zip(("whole", "pieces"), nets, strict=True):
        (tmp_path / folder).mkdir()
        given = net.spynet, config, tiny_material(), tmp_path / folder, cpu
        stop = Stop(0.0) if folder == "pieces" else None
        calls = 1
        while not flow.warm_up_flow(*given, stop=stop):
            calls += 1
    assert calls == config.flow.tied_steps + config.flow.steps
    for one, other in zip(*(net.spynet.parameters() for net in nets), strict=True):
        assert torch.equal(one, other)
    wider = SPyNet(3, 3, (8, 8, 8, 8))
    with pytest.raises(ModelError, match="another flow network"):
        flow.warm_up_flow(wider, config, tiny_material(), tmp_path / "whole", cpu)
