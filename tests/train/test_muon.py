"""Muon's steps: momentum made orthogonal where a weight is a matrix, Adam's elsewhere."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from train_material import SIZES, tiny_config

from vrestore.train import loop
from vrestore.train.config import Optimiser
from vrestore.train.muon import MOMENTUM, Muon, orthogonal
from vrestore.train.network import build_network


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 1000))
def test_singular_values_become_one_and_directions_stay(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    matrices = (
        torch.randn(2, rows, columns, generator=generator)
        * torch.tensor([1e-4, 30.0])[:, None, None]
    )
    found = orthogonal(matrices)
    for matrix, turned in zip(matrices, found, strict=True):
        u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
        inside = (u.mT @ turned @ vh.mT).diagonal()
        large = values > 0.05 * values.max()  # of smaller ones five iterations do not make one
        assert inside[large].min() > 0.6
        assert inside.max() < 1.3


def test_what_is_zero_stays_zero():
    assert not orthogonal(torch.zeros(1, 4, 9)).any()


def test_weights_shrink_by_their_share_of_the_rate():
    weights = [nn.Parameter(torch.randn(6, 4, 3, 3)) for _ in range(2)]
    before = weights[0].detach().clone()
    weights[0].grad, unseen = torch.zeros(6, 4, 3, 3), weights[1].detach().clone()
    Muon([{"params": weights, "orthogonal": True, "shrink": 0.5}], lr=0.1).step()
    torch.testing.assert_close(weights[0].detach(), 0.95 * before)
    assert torch.equal(weights[1], unseen)


def test_a_step_is_that_of_each_weight_by_itself():
    """Weights of one shape are turned together; each is moved by its own momentum."""
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.randn(6, 4, 3, 3)) for _ in range(3)]
    before = [w.detach().clone() for w in weights]
    grads = [[torch.randn(6, 4, 3, 3) for _ in weights] for _ in range(2)]
    muon = Muon([{"params": weights, "orthogonal": True}], lr=0.01)
    for step in grads:
        for weight, grad in zip(weights, step, strict=True):
            weight.grad = grad.clone()
        muon.step()
    for k, weight in enumerate(weights):
        momentum, expected = torch.zeros(6, 36), before[k].flatten(1)
        for step in grads:
            grad = step[k].flatten(1)
            momentum = MOMENTUM * momentum + (1 - MOMENTUM) * grad
            ahead = MOMENTUM * momentum + (1 - MOMENTUM) * grad
            expected = expected - 0.01 * 0.2 * 6.0 * orthogonal(ahead[None])[0]
        torch.testing.assert_close(weight.detach().flatten(1), expected)
        assert torch.equal(weight.grad, grads[1][k])  # it is not lost for who looks at it


def test_elements_move_about_as_far_as_adams():
    torch.manual_seed(0)
    moved = {}
    for kind in (Muon, torch.optim.Adam):
        weight = nn.Parameter(torch.zeros(32, 32, 3, 3))
        optimiser = kind([{"params": [weight], "orthogonal": kind is Muon}], lr=0.01)
        weight.grad = torch.randn(32, 32, 3, 3)
        optimiser.step()
        moved[kind] = weight.detach().square().mean().sqrt().item()
    assert 0.1 < moved[Muon] / moved[torch.optim.Adam] < 0.4  # 0.2, of Adam's first and largest


@pytest.mark.parametrize("name", sorted(SIZES))
def test_convolutions_are_turned_and_what_paints_is_adams(name):
    net = build_network({"name": name, **SIZES[name]})
    config = dataclasses.replace(
        tiny_config(),
        optimiser=Optimiser(rate=0.01, method="muon", adam_share=0.1, flow_share=0.05),
    )
    inner, outer, *flow = loop.build_optimiser(net, config).param_groups
    assert [group["orthogonal"] for group in (inner, outer, *flow)] == [
        True,
        *[False] * (1 + len(flow)),
    ]
    assert [group["share"] for group in (inner, outer, *flow)] == [1.0, 0.1, 0.05][: 2 + len(flow)]
    names = {id(p): key for key, p in net.named_parameters()}
    turned = {names[id(p)] for p in inner["params"]}
    assert all(key.endswith("weight") for key in turned)
    assert not any("conv_last" in key or "spynet" in key for key in turned)
    assert len(turned) > 3
    known = sum(len(group["params"]) for group in (inner, outer, *flow))
    assert known == len(names)
    plain = loop.build_optimiser(net, dataclasses.replace(config, optimiser=Optimiser(rate=0.01)))
    assert type(plain) is torch.optim.Adam
