"""Self-ensembles against the same mean made by hand on whole clips."""

import pytest
import torch
from networks import moving_clip, small_basicvsr

from vrestore import Restorer
from vrestore.engine.exact import Again
from vrestore.evaluate.ensemble import EIGHT, both_ways, eightfold, mirrored, turned, turned_back


def again(clip):
    return Again(range(len(clip)), clip.__getitem__)


def by(function):
    """A run that restores a clip frame by frame."""
    return lambda clip: (function(clip[i]) for i in range(len(clip)))


def slanted(x):
    """Another result for each of the eight guises: nothing in it is symmetric."""
    ramp = torch.arange(x.shape[-2])[:, None] * 0.3 + torch.arange(x.shape[-1]) ** 2 * 0.07
    return x * (1 + ramp)


@pytest.fixture(scope="module")
def run():
    restorer = Restorer(small_basicvsr(), precision="fp32", device="cpu", propagation="exact")
    return restorer.stream


@pytest.fixture(scope="module")
def clip():
    return moving_clip(7, 16, 20)


def whole(clip):
    with torch.no_grad():
        return small_basicvsr()(clip)


def test_the_eight_guises_are_in_the_published_order_and_each_is_undone():
    x = torch.arange(6.0).reshape(1, 2, 3)
    flips = [x, x.flip(-1), x.flip(-2), x.flip(-1).flip(-2)]
    expected = [*flips, *(flip.transpose(-1, -2) for flip in flips)]
    for way, guise in zip(EIGHT, expected, strict=True):
        assert torch.equal(turned(x, *way), guise)
        assert torch.equal(turned_back(turned(x, *way), *way), x)


def test_the_eightfold_mean_is_the_one_made_by_hand(clip):
    found = torch.stack(list(eightfold(by(slanted))(again(clip))))
    flips = [(), (-1,), (-2,), (-1, -2)]
    parts = [slanted(clip.flip(f)).flip(f) for f in flips]
    parts += [slanted(clip.flip(f).mT).mT.flip(f) for f in flips]
    assert torch.allclose(found, torch.stack(parts).mean(0), rtol=1e-5)
    assert not torch.allclose(found, slanted(clip), rtol=1e-2)


def test_a_networks_eightfold_mean_is_that_of_eight_whole_clips(run, clip):
    found = torch.stack(list(eightfold(run)(again(clip))))
    expected = sum(turned_back(whole(turned(clip, *way)), *way) for way in EIGHT) / 8
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_temporal_mirror_is_the_mean_with_the_reversed_clips_result(run, clip):
    found = torch.stack(list(both_ways(run)(again(clip))))
    expected = (whole(clip) + whole(clip.flip(0)).flip(0)) / 2
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, whole(clip), atol=1e-4)


def test_of_a_mirrored_clip_frame_3_is_the_mean_of_outputs_3_and_10(run, clip):
    found = list(mirrored(run)(again(clip)))
    out = whole(torch.cat((clip, clip.flip(0))))
    assert len(found) == 7
    for index in range(7):
        assert torch.allclose(found[index], (out[index] + out[13 - index]) / 2, atol=1e-6)
    assert torch.allclose(found[3], (out[3] + out[10]) / 2, atol=1e-6)
    assert not torch.allclose(found[3], out[3], atol=1e-4)


def test_ensembles_nest(run, clip):
    found = torch.stack(list(both_ways(eightfold(run))(again(clip[:3]))))

    def eight(clip):
        return sum(turned_back(whole(turned(clip, *way)), *way) for way in EIGHT) / 8

    expected = (eight(clip[:3]) + eight(clip[:3].flip(0)).flip(0)) / 2
    assert torch.allclose(found, expected, atol=1e-5)
