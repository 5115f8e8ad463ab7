"""The real-world chain: pure, smooth in time, aligned, and every branch of it alive."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from train_material import texture

from vrestore.errors import UsageError
from vrestore.settings import read_toml
from vrestore.train import real_world
from vrestore.train.real_world import (
    CODECS,
    KERNELS,
    RESIZES,
    RealWorld,
    Round,
    SecondRound,
    add_noise,
    degrade,
    kernels,
    pick,
    resize,
    resize_sizes,
    walk,
)

QUIET = {"gaussian_sigma": (0.0, 0.0), "noise_odds": (1.0, 0.0), "jpeg_share": 0.0,
         "codec_share": 0.0}  # fmt: skip


def clip(frames: int = 4, side: int = 64) -> Tensor:
    big = texture(11, 160, 240)
    return torch.stack([big[:, t : t + side, 2 * t : 2 * t + side] for t in range(frames)])


def only(count: int, which: int) -> tuple[float, ...]:
    return tuple(float(i == which) for i in range(count))


def both(**changes: object) -> RealWorld:
    """The published chain with the same changes in its two rounds."""
    first, second = (replace(each, **changes) for each in (Round(), SecondRound()))
    return RealWorld(first, second)


@pytest.mark.parametrize(("scale", "side"), [(4, 16), (2, 32), (1, 64)])
def test_the_clip_comes_out_at_its_size_in_8_bit(scale: int, side: int) -> None:
    for seed in range(6):
        lq = degrade(np.random.default_rng(seed), clip(), RealWorld(), scale)
        assert lq.shape == (4, 3, side, side)
        assert lq.dtype == torch.uint8
        assert lq.float().std() > 3


def test_the_same_seed_gives_the_same_clip_and_another_seed_another() -> None:
    hr = clip()
    for seed in range(4):
        first, second = (degrade(np.random.default_rng(seed), hr, RealWorld(), 4) for _ in "ab")
        assert torch.equal(first, second)
        other = degrade(np.random.default_rng(seed + 50), hr, RealWorld(), 4)
        assert not torch.equal(first, other)
    assert torch.equal(hr, clip())


@pytest.mark.parametrize("side", [4, 12, 48])
def test_a_single_frame_is_a_clip(side: int) -> None:
    for seed in range(8):
        lq = degrade(np.random.default_rng(seed), clip(1, side), RealWorld(), 4)
        assert lq.shape == (1, 3, side // 4, side // 4)


def test_strengths_walk_in_bounded_steps_within_their_range() -> None:
    for seed in range(20):
        values = walk(np.random.default_rng(seed), (0.2, 3.0), 0.5, 60)
        assert values.min() >= 0.2
        assert values.max() <= 3.0
        assert np.abs(np.diff(values)).max() <= 0.5 + 1e-12
        assert np.ptp(values) > 0.5


def test_what_frames_are_made_of_changes_slowly() -> None:
    """Kernels and sizes of neighbouring frames are near each other, of distant ones less so."""
    how, near, far = Round(kernel_odds=only(7, 1), resize_odds=only(3, 1)), [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        made = kernels(rng, how, 30).flatten(1)
        near.append((made[1:] - made[:-1]).abs().sum(1).mean().item())
        far.append((made[20:] - made[:-20]).abs().sum(1).mean().item())
        sides = np.array(resize_sizes(rng, how, (200, 200), 30))
        assert np.abs(np.diff(sides, axis=0)).max() <= 200 * how.resize_step + 2
        assert (sides % 2 == 0).all()
        assert (sides >= 2 * round(200 * how.resize_factor[0] / 2)).all()
    assert np.mean(near) < 0.4 * np.mean(far)


def test_a_still_clip_flickers_no_more_than_its_strengths_walk() -> None:
    """Without noise and codecs a still picture stays nearly still: one mode per round and clip."""
    still = clip(1, 96).expand(6, -1, -1, -1)
    for seed in range(10):
        lq = degrade(np.random.default_rng(seed), still, both(**QUIET), 4).float()
        assert (lq[1:] - lq[:-1]).abs().mean() < 4
        assert lq[0].std() > 5


@pytest.mark.parametrize("mode", RESIZES)
@pytest.mark.parametrize("scale", [4, 1])
def test_every_resize_leaves_the_picture_where_it_is(mode, scale: int) -> None:
    """A blob's middle, seen from the result, is where it was: no half pixel goes astray."""
    hr = blobs(5)
    odds = only(3, RESIZES.index(mode))
    how = both(**QUIET, resize_mode_odds=odds)
    shifts = torch.cat([
        (middle(degrade(np.random.default_rng(seed), hr, how, scale)) + 0.5) * scale - 0.5
        - middle(hr) for seed in range(12)
    ])  # fmt: skip
    assert shifts.mean(0).abs().max() < 0.1 * scale
    assert shifts.abs().mean() < 0.1 * scale


@pytest.mark.parametrize("step", ["blur_share", "jpeg_share", "codec_share"])
def test_no_other_step_moves_the_picture(step: str) -> None:
    hr = blobs(5)
    how = both(**{**QUIET, "blur_share": 0.0, "resize_odds": only(3, 2), step: 1.0})
    how = replace(how, last_sinc_share=1.0)
    shifts = torch.cat([
        (middle(degrade(np.random.default_rng(seed), hr, how, 4)) + 0.5) * 4 - 0.5 - middle(hr)
        for seed in range(12)
    ])  # fmt: skip
    assert shifts.mean(0).abs().max() < 0.2


def blobs(frames: int, side: int = 112) -> Tensor:
    """A light spot that drifts on dark grey, ``(T, 3, side, side)`` uint8."""
    place = torch.arange(side).float()
    spots = []
    for t in range(frames):
        y, x = 52.3 + 1.3 * t, 58.7 - 0.9 * t
        spots.append(torch.exp(-((place[:, None] - y) ** 2 + (place - x) ** 2) / (2 * 9.0**2)))
    return (torch.stack(spots)[:, None].expand(-1, 3, -1, -1) * 220 + 20).round().to(torch.uint8)


def middle(clip: Tensor) -> Tensor:
    """``(T, 2)``: y and x of the spot in each frame; what is below a third of it is ground."""
    light = clip.float().mean(1)
    low, high = light.amin((1, 2), keepdim=True), light.amax((1, 2), keepdim=True)
    light = (light - low - 0.3 * (high - low)).clamp(min=0)
    y, x = (torch.arange(side).float() for side in light.shape[1:])
    total = light.sum((1, 2))
    return torch.stack((light.sum(2) @ y / total, light.sum(1) @ x / total), 1)


@pytest.mark.parametrize("size", [(31, 50), (64, 64), (150, 97), (3, 2)])
@pytest.mark.parametrize("mode", RESIZES)
def test_resizing_keeps_flat_pictures_and_ramps(mode, size: tuple[int, int]) -> None:
    ramp = (torch.arange(64) + 0.5) / 64
    resized = resize(ramp.expand(1, 3, 64, 64), size, mode)
    there = ((torch.arange(size[1]) + 0.5) / size[1]).expand(1, 3, *size)
    assert resized.shape == there.shape
    inner = slice(size[1] // 8, size[1] - size[1] // 8)
    assert (resized - there)[..., inner].abs().max() < 1 / 64
    flat = resize(torch.full((1, 3, 64, 64), 0.3), size, mode)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.3))


def test_every_kind_of_every_step_is_reached_and_differs() -> None:
    """One seed, each kind forced in turn: finite, and no two the same."""
    hr = clip(3)
    forced = [("kernel_odds", len(KERNELS)), ("resize_odds", 3), ("noise_odds", 2)]
    forced += [("resize_mode_odds", len(RESIZES)), ("codec_odds", len(CODECS))]
    for name, count in forced:
        made = []
        for which in range(count):
            how = both(**{name: only(count, which)})
            made.append(degrade(np.random.default_rng(3), hr, how, 4))
        for i, a in enumerate(made):
            for b in made[i + 1 :]:
                assert not torch.equal(a, b), name


def test_the_published_odds_reach_every_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: set[object] = set()

    def noting(rng, kinds, odds):
        kind = pick(rng, kinds, odds)
        reached.add((kinds, kind))
        return kind

    monkeypatch.setattr(real_world, "pick", noting)
    hr = clip(1, 16)
    for seed in range(60):
        degrade(np.random.default_rng(seed), hr, RealWorld(), 4)
    for kinds, count in ((KERNELS, 7), (RESIZES, 3), (CODECS, 4)):
        assert len([1 for of, _ in reached if of == kinds]) == count
    assert {kind for of, kind in reached if "up" in of} == {"up", "down", "neither"}
    assert {kind for of, kind in reached if of == (True, False)} == {True, False}


@pytest.mark.parametrize("share", ["blur_share", "noise_share", "jpeg_share", "codec_share"])
def test_each_step_can_be_left_out_and_counts(share: str) -> None:
    hr, how = clip(3), both()
    without = both(**{share: 0.0})
    assert any(
        not torch.equal(*(degrade(np.random.default_rng(seed), hr, h, 4) for h in (how, without)))
        for seed in range(3)
    )


@pytest.mark.parametrize("gaussian", [True, False])
@pytest.mark.parametrize("grey", [True, False])
def test_noise_has_the_strength_and_the_colour_that_were_asked_for(gaussian, grey) -> None:
    how = Round(
        noise_odds=(1.0, 0.0) if gaussian else (0.0, 1.0),
        grey_noise_share=float(grey),
        gaussian_sigma=(10.0, 10.0),
        poisson_scale=(1.0, 1.0),
    )
    given = torch.full((1, 3, 120, 120), 0.5)
    [noisy] = add_noise(np.random.default_rng(0), [given], how)
    noise = noisy - given
    expected = 10 / 255 if gaussian else (0.5 / 256) ** 0.5
    assert abs(noise.std().item() / expected - 1) < 0.03
    assert noise.mean().abs() < 0.02 * expected * 3
    assert torch.allclose(noise[:, 0], noise[:, 1], atol=1e-6) == grey


def test_poisson_noise_grows_with_the_light() -> None:
    how = Round(noise_odds=(0.0, 1.0), poisson_scale=(1.0, 1.0))
    light = torch.tensor([0.1, 0.4, 0.7])[:, None, None].expand(1, 3, 90, 90).contiguous()
    [noisy] = add_noise(np.random.default_rng(0), [light], replace(how, grey_noise_share=0.0))
    ratio = (noisy - light)[0].var((1, 2)) / light[0, :, 0, 0]
    torch.testing.assert_close(ratio, torch.full((3,), 1 / 256), rtol=0.06, atol=0)


def test_ringing_beside_black_and_white_stays_in_range() -> None:
    """What overshoots is cut, not wrapped round to the other end of the 8 bits."""
    hr = torch.zeros(2, 3, 96, 96, dtype=torch.uint8)
    hr[..., 48:] = 255
    sinc_alone = {**QUIET, "kernel_odds": only(7, 6), "resize_odds": only(3, 2)}
    how = replace(both(**sinc_alone), last_sinc_share=1.0)
    for seed in range(5):
        lq = degrade(np.random.default_rng(seed), hr, how, 4)
        assert lq[..., :9].max() < 100
        assert lq[..., 15:].min() > 155


def test_a_toml_section_fills_it_and_keeps_the_other_defaults(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("last_sinc_share = 0.5\n[second]\njpeg_quality = [50, 90]\nblur_share = 1\n")
    how = read_toml(path, RealWorld)
    assert how == RealWorld(
        Round(), SecondRound(jpeg_quality=(50.0, 90.0), blur_share=1.0), last_sinc_share=0.5
    )
    assert how.second.sigma_px == (0.2, 1.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kernel_odds": (1.0,)}, "give 7 numbers"),
        ({"codec_odds": (0.0,) * 4}, "not all 0"),
        ({"jpeg_quality": (90.0, 30.0)}, "give \\[low, high\\]"),
        ({"blur_share": 1.2}, "no probability"),
        ({"kernel_sizes": (7, 8)}, "even ones shift"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Round(**changes)


def test_a_clip_that_does_not_divide_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match="divide by the scale"):
        degrade(rng, torch.zeros(1, 3, 18, 16, dtype=torch.uint8), RealWorld(), 4)
    with pytest.raises(UsageError, match=r"torch\.float32"):
        degrade(rng, torch.zeros(1, 3, 16, 16), RealWorld(), 4)
