"""Layers that networks share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import small_basicvsr, small_edvr
from torch import Tensor, nn

from vrestore.models import layers
from vrestore.models.basicvsrpp import BasicVSRPlusPlus
from vrestore.models.layers import band_bytes, enlarge_x2, enlarge_x4


def tail(features: int, last: int) -> list[nn.Conv2d]:
    """The four convolutions of a tail, in the layout that networks have them in."""
    torch.manual_seed(0)
    widths = ((features, 4 * features), (features, 4 * last), (last, last), (last, 3))
    parts = [nn.Conv2d(a, b, 3, 1, 1).to(memory_format=torch.channels_last) for a, b in widths]
    return [part.requires_grad_(False) for part in parts]


def in_bands_of(
    rows: int,
    x: Tensor,
    parts: list[nn.Conv2d],
    patch: pytest.MonkeyPatch,
    beside: Tensor | None = None,
) -> Tensor:
    times = 4 if beside is None else 2
    row_bytes = times**2 * x.shape[3] * len(x) * parts[2].out_channels * x.element_size()
    patch.setattr(layers, "TAIL_BAND_BYTES", rows * row_bytes)
    if beside is not None:
        return enlarge_x2(x, *parts, beside)
    n, _, h, w = x.shape
    less = min(h, w) % 4  # as where frames do not divide by what a network needs
    return enlarge_x4(x, *parts, torch.ones(n, 3, 4 * h - less, 4 * w - less))


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    rows=st.integers(2, 20),
    widths=st.sampled_from([(8, 8), (32, 16), (64, 64)]),
    channels_last=st.booleans(),
)
def test_a_tail_in_bands_gives_the_bits_of_the_whole(height, width, rows, widths, channels_last):
    parts, g = tail(*widths), torch.Generator().manual_seed(height * 64 + width)
    x = torch.randn(2, widths[0], height, width, generator=g)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = x.to(memory_format=layout)
    with pytest.MonkeyPatch.context() as patch:
        whole = in_bands_of(height, x, parts, patch)
        assert torch.equal(in_bands_of(rows, x, parts, patch), whole)


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), rows=st.integers(2, 10))
def test_bands_see_their_own_rows_of_what_is_beside_the_features(height, width, rows):
    parts, g = tail(8, 8), torch.Generator().manual_seed(height * 64 + width)
    parts[0] = nn.Conv2d(8, 8, 3, 1, 1).requires_grad_(False)
    parts[2] = nn.Conv2d(11, 8, 3, 1, 1).requires_grad_(False)
    x = torch.randn(2, 8, height, width, generator=g)
    beside = torch.randn(2, 3, 2 * height, 2 * width, generator=g)
    with pytest.MonkeyPatch.context() as patch:
        whole = in_bands_of(height, x, parts, patch, beside)
        assert torch.equal(in_bands_of(rows, x, parts, patch, beside), whole)
        assert not torch.equal(in_bands_of(rows, x, parts, patch, beside.roll(1, 2)), whole)


def test_a_band_sees_what_reaches_it_and_no_more(monkeypatch):
    """One row fewer around a band shows."""
    parts, x = tail(8, 8), torch.randn(1, 8, 12, 9, generator=torch.Generator().manual_seed(0))
    whole = in_bands_of(12, x, parts, monkeypatch)
    monkeypatch.setattr(layers, "TAIL_REACH", 1)
    assert not torch.equal(in_bands_of(4, x, parts, monkeypatch), whole)
    parts[0] = nn.Conv2d(8, 8, 3, 1, 1).requires_grad_(False)
    parts[2] = nn.Conv2d(11, 8, 3, 1, 1).requires_grad_(False)
    beside = torch.randn(1, 3, 24, 18)
    whole = in_bands_of(12, x, parts, monkeypatch, beside)
    assert torch.equal(in_bands_of(4, x, parts, monkeypatch, beside), whole)
    monkeypatch.setattr(layers, "TAIL_REACH_X2", 2)
    assert not torch.equal(in_bands_of(4, x, parts, monkeypatch, beside), whole)


@pytest.mark.parametrize(
    ("properties", "bands"),
    [
        ({"L2_cache_size": 50 << 20}, 50 << 20),
        ({"L2_cache_size": 4 << 20}, 32 << 20),
        ({}, 32 << 20),
    ],
    ids=["H100", "T4", "a torch that does not say"],
)
def test_a_band_fills_the_cache_of_its_gpu(properties, bands, monkeypatch):
    asked = []

    def of(device):
        asked.append(device)
        return SimpleNamespace(**properties)

    monkeypatch.setattr(torch.cuda, "get_device_properties", of)
    assert band_bytes(torch.device("cuda", 1)) == bands
    assert asked == [torch.device("cuda", 1)]
    assert band_bytes(torch.device("cpu")) == 16 << 20
    assert len(asked) == 1


def test_the_tail_goes_in_the_bands_of_its_device(monkeypatch):
    parts, x, asked, tops = tail(8, 8), torch.zeros(1, 8, 12, 9), [], []
    row_bytes = 16 * 9 * 8 * 4
    monkeypatch.setattr(layers, "band_bytes", lambda device: asked.append(device) or 5 * row_bytes)
    original = layers._enlarged
    monkeypatch.setattr(
        layers, "_enlarged", lambda x, *rest: tops.append(x.shape[2]) or original(x, *rest)
    )
    assert enlarge_x4(x, *parts, torch.zeros(1, 3, 48, 36)).shape == (1, 3, 48, 36)
    assert asked == [x.device]
    assert tops == [5 + 2, 2 + 5 + 2, 2 + 2]


@pytest.mark.parametrize(
    "net",
    [
        small_edvr(),
        small_edvr(hr_in=True),
        BasicVSRPlusPlus(8, 1, is_low_res_input=False),
    ],
    ids=["EDVR", "EDVR, same size", "BasicVSR++, same size"],
)
def test_what_goes_in_stays_as_it_is(net, monkeypatch):
    """Tails are added in place, band by band: not to the caller's frames."""
    monkeypatch.setattr(layers, "TAIL_BAND_BYTES", 1)
    clip = torch.rand(1, 5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = clip.clone()
    with torch.no_grad():
        assert not torch.equal(net.eval()(clip), before)
    assert torch.equal(clip, before)


def test_what_learns_is_not_cut(monkeypatch):
    monkeypatch.setattr(layers, "TAIL_BAND_BYTES", 1)
    net = small_basicvsr().requires_grad_(True)
    calls = []
    original = layers._enlarged
    monkeypatch.setattr(layers, "_enlarged", lambda *args: calls.append(1) or original(*args))
    net(torch.rand(1, 3, 8, 8)).sum().backward()
    assert len(calls) == 1
    with torch.no_grad():
        net(torch.rand(1, 3, 8, 8))
    assert len(calls) == 1 + 4
