"""Local attribution maps: their sum is what they explain, and they point to its source."""

import pytest
import torch
from networks import moving_clip, small_basicvsr, small_edvr
from torch.nn import functional as F

from vrestore.evaluate.attribution import attribution, blurred, edges_in, shares
from vrestore.explain import picture_of


@pytest.mark.parametrize("make", [small_basicvsr, small_edvr])
def test_contributions_add_up_to_what_is_explained(make):
    """Completeness of integrated gradients: the ends of the path differ by just their sum."""
    net, clip = make(), moving_clip(5, 16, 16)

    def run(c):
        return picture_of(net, c, 2)

    errors = []
    for steps in (4, 64):
        total = attribution(run, clip, 20, 24, 16, steps).sum()
        ends = [edges_in(run(c), 20, 24, 16) for c in (clip, blurred(clip, 1.2))]
        errors.append(abs(float(total - (ends[0] - ends[1])) / float(ends[0])))
    assert errors[1] < 0.01
    assert errors[1] < errors[0] + 1e-4


def test_the_map_points_at_the_pixels_and_the_frame_that_were_used():
    clip = torch.rand(4, 3, 16, 16)

    def run(c):  # frame 3, moved by (2, 1)
        return F.pad(c[3], (1, 0, 2, 0))[:, :16, :16]

    found = attribution(run, clip, 8, 8, 4, 8)
    assert shares(found) == [0, 0, 0, 1]
    rows, columns = found[3].abs().sum(0).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 9, 7, 10)


def test_a_blurred_clip_keeps_its_brightness_and_loses_its_edges():
    clip = torch.rand(2, 3, 20, 24)
    soft = blurred(clip, 2.0)
    assert abs(float(soft.mean() - clip.mean())) < 0.01
    assert edges_in(soft[0], 4, 4, 12) < 0.3 * edges_in(clip[0], 4, 4, 12)
    assert torch.allclose(blurred(torch.full((1, 3, 9, 9), 0.7), 3.0), torch.tensor(0.7))
    assert torch.equal(blurred(clip, 0), clip)
