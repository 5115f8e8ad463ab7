import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from train_material import tiny_config, tiny_material

from vrestore.errors import InputError, UsageError
from vrestore.models.layers import warp
from vrestore.train import data
from vrestore.train.config import Data
from vrestore.train.data import (
    Batches,
    FlowPairs,
    Material,
    batches,
)
from vrestore.train.footage import Held, pictures_in
from vrestore.train.real_world import RealWorld, Round, SecondRound
from vrestore.train.reduction import shrink
from vrestore.train.view import detailed_view, photo_view


@pytest.fixture(scope="module")
def material():
    return tiny_material()


def test_lr_and_hr_crops_show_the_same_place(material):
    rng = np.random.default_rng(0)
    for _ in range(5):
        lq, gt = detailed_view(rng, material.clips, 3, 12, 4).pair(shrink)
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
        view, flow = photo_view(rng, material.photos, 2, 24, 4)
        lq, _ = view.pair(shrink)
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
    for a, b in (
        [Batches(config, material, 4) for _ in "ab"],
        [FlowPairs(config, material) for _ in "ab"],
    ):
        a[0]
        for x, y in zip(a[3], b[3], strict=True):
            assert torch.equal(x.nan_to_num(), y.nan_to_num())
        assert not torch.equal(a[3][0], a[4][0])


def test_a_folder_without_clips_is_named(tmp_path):
    with pytest.raises(InputError, match=r"clips/\*\.mp4"):
        Material.load(Data(validation=tmp_path, folder=tmp_path))


def run_on(degradation, photo_share=0.5, sampling="detailed"):
    what = {"degradation": degradation, "photo_share": photo_share, "sampling": sampling}
    return dataclasses.replace(tiny_config(), data=Data(Path("unused"), workers=0, **what))


@pytest.mark.parametrize("photo_share", [0.0, 1.0])
def test_at_scale_1_input_and_truth_are_of_one_size_and_show_the_same_place(material, photo_share):
    """Patches are counted in the input's pixels, at either scale."""
    config = run_on("real", photo_share)
    for step in range(3):
        lq, gt = Batches(config, material, 1)[step]
        assert lq.shape == gt.shape == (2, 3, 3, 12, 12)
    quiet = {"blur_share": 0.0, "resize_odds": (0.0, 0.0, 1.0), "noise_share": 0.0}
    nothing = quiet | {"jpeg_share": 0.0, "codec_share": 0.0}
    real = RealWorld(Round(**nothing), SecondRound(**nothing), last_sinc_share=0.0)
    for step in range(3):
        lq, gt = Batches(dataclasses.replace(config, real=real), material, 1)[step]
        assert torch.equal(lq, gt)


@pytest.mark.parametrize("degradation", ["bi", "bd"])
def test_a_reduction_leaves_nothing_to_undo_at_scale_1(material, degradation):
    config = run_on(degradation)
    with pytest.raises(UsageError, match=rf"'{degradation}' only makes .* say degradation = .real"):
        Batches(config, material, 1)[0]
    assert Batches(config, material, 4)[0][0].shape == (2, 3, 3, 12, 12)


class Broken(Dataset):
    """Its third item cannot be made."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == 2:
            raise InputError("im3.png: is missing")
        return torch.tensor(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_keeps_a_batch_from_being_made_is_told_in_its_own_words(workers):
    made = batches(Broken(), 1, workers)
    assert int(next(made)) == 1
    with pytest.raises(InputError) as error:
        next(made)
    assert str(error.value) == "im3.png: is missing"


def test_pictures_follow_each_other_by_their_numbers(tmp_path):
    for number in (10, 2, 1, 0):
        (tmp_path / f"{number}.png").touch()
    assert [path.stem for path in pictures_in(tmp_path)] == ["0", "1", "2", "10"]


def paces(sampling):
    """By how many frames of the clip each sample's frames are apart; below 0: backwards."""
    clip = Held(torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 3, 64, 96))
    found = set()
    for seed in range(10):
        config = dataclasses.replace(run_on("bi", 0.0, sampling), seed=seed)
        for step in range(config.steps):
            for truth in Batches(config, Material([clip]), 4)[step][1]:
                found |= set(truth[:, 0, 0, 0].int().diff().tolist())
    return found


def test_published_runs_see_time_run_forwards_at_its_own_speed():
    assert paces("uniform") == {1}
    assert paces("detailed") == {1, -1, 2, -2}


def test_what_is_real_is_turned_before_it_is_spoilt(material, monkeypatch):
    """Else a codec's frames would follow the one that they were predicted from backwards."""
    seen = []

    def spoilt(rng, frames, config, scale):
        seen.append(frames)
        return shrink(frames)

    monkeypatch.setattr(data, "reduce_clip", spoilt)
    for step in range(3):
        truths = Batches(run_on("real"), material, 4)[step][1]
        for given, truth in zip(seen[-2:], truths, strict=True):
            assert torch.equal(given, truth)
