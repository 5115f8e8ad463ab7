import numpy as np
import pytest
import torch
from train_material import tiny_config, tiny_material

from vrestore.errors import InputError
from vrestore.models.layers import warp
from vrestore.train.config import Data
from vrestore.train.data import Batches, FlowPairs, Material, clip_view, photo_view, shrink


@pytest.fixture(scope="module")
def material():
    return tiny_material()


def test_lr_and_hr_crops_show_the_same_place(material):
    rng = np.random.default_rng(0)
    for _ in range(5):
        lq, gt = clip_view(rng, material.clips, 3, 12).pair(rng, None)
        assert lq.shape == (3, 3, 12, 12)
        assert gt.shape == (3, 3, 48, 48)
        inner = slice(4, -4)
        difference = shrink(gt).float()[..., inner, inner] - lq.float()[..., inner, inner]
        assert difference.abs().max() <= 1


def test_synthetic_flow_is_the_motion_that_the_camera_made(material):
    """Warping the second frame by the true flow gives the first: far better than not warping."""
    rng = np.random.default_rng(3)
    warped_error, still_error = [], []
    for _ in range(12):
        view, flow = photo_view(rng, material.photos, 2, 24)
        lq, _ = view.pair(rng, None)
        ref, supp = lq.float()
        place = torch.stack(torch.meshgrid(torch.arange(24), torch.arange(24), indexing="xy"))
        inside = ((place + flow > 1) & (place + flow < 22)).all(0)
        if inside.sum() < 100:
            continue
        warped = warp(supp[None], flow[None])[0]
        warped_error.append((warped - ref)[:, inside].abs().mean().item())
        still_error.append((supp - ref)[:, inside].abs().mean().item())
    assert len(warped_error) > 3
    assert sum(warped_error) < 0.35 * sum(still_error)


def test_a_batch_is_a_function_of_seed_and_step_alone(material):
    config = tiny_config()
    for make in (Batches, FlowPairs):
        a, b = make(config, material), make(config, material)
        a[0]
        for x, y in zip(a[3], b[3], strict=True):
            assert torch.equal(x.nan_to_num(), y.nan_to_num())
        assert not torch.equal(a[3][0], a[4][0])


def test_a_folder_without_clips_is_named(tmp_path):
    with pytest.raises(InputError, match=r"clips/\*\.mp4"):
        Material.load(Data(validation=tmp_path, folder=tmp_path))
