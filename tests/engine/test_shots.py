"""Cuts are found at the exact frame; motion, flashes, fades and noise are not cuts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vrestore.engine.shots import AHEAD_FRAMES, CutDetector, shots

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
HEIGHT, WIDTH = 90, 160


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A smooth colour picture ``(3, height, width)`` in 0..1, unlike that of any other seed."""
    blobs = torch.rand(1, 3, 5, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(blobs, (height, width), mode="bilinear")[0]


def still(seed: int, count: int) -> Tensor:
    """A shot ``(count, 3, H, W)`` that does not move, with a camera's noise."""
    noise = torch.randn(count, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))
    return texture(seed) + 0.02 * noise


def pan(seed: int, count: int, step_px: int) -> Tensor:
    """A shot ``(count, 3, H, W)`` of a camera that turns by ``step_px`` a frame."""
    wide = texture(seed, HEIGHT, WIDTH + count * step_px)
    return torch.stack([wide[:, :, i * step_px : i * step_px + WIDTH] for i in range(count)])


def cuts(clip: Tensor, detector: CutDetector | None = None) -> list[int]:
    """The first frame of every shot but the first."""
    return cuts_of_stream(iter(clip), detector)


def cuts_of_stream(frames: Iterator[Tensor], detector: CutDetector | None = None) -> list[int]:
    parted = shots(frames, lambda frame: frame, detector=detector or CutDetector())
    lengths = [sum(1 for _ in shot) for shot in parted]
    return [sum(lengths[:n]) for n in range(1, len(lengths))]


# What is a cut


def test_cuts_between_different_pictures_are_found_at_the_exact_frame() -> None:
    clip = torch.cat([still(1, 7), still(2, 12), still(3, 5), still(4, 9)])
    assert cuts(clip) == [7, 19, 24]


def test_a_cut_out_of_and_into_fast_motion_is_found() -> None:
    clip = torch.cat([pan(1, 10, 6), still(2, 10), pan(3, 10, 6), pan(4, 10, 2)])
    assert cuts(clip) == [10, 20, 30]


def test_a_cut_between_frames_that_do_not_change_at_all_is_found() -> None:
    clip = torch.cat([texture(1).expand(5, -1, -1, -1), texture(2).expand(5, -1, -1, -1)])
    assert cuts(clip) == [5]


def test_the_motion_of_a_shot_does_not_hide_the_end_of_the_next() -> None:
    b, c = texture(2), texture(2).lerp(texture(3), 0.3)
    stills = [picture.expand(5, -1, -1, -1) for picture in (b, c)]
    assert cuts(torch.cat([pan(1, 10, 8), *stills])) == [10, 15]


def test_a_picture_after_black_is_a_cut_and_so_is_black_after_a_picture() -> None:
    black = torch.zeros(6, 3, HEIGHT, WIDTH)
    assert cuts(torch.cat([black, still(1, 8), black])) == [6, 14]


def test_a_cut_in_a_dark_scene_is_found() -> None:
    assert cuts(0.25 * torch.cat([still(1, 8), still(2, 8)])) == [8]


def test_shots_of_three_frames_are_told_apart() -> None:
    clip = torch.cat([still(seed, 3) for seed in range(8)])
    assert cuts(clip) == list(range(3, 24, 3))


def test_a_frame_left_over_from_another_shot_is_parted_from_either_end_of_the_stream() -> None:
    assert cuts(torch.cat([still(1, 1), still(2, 8), still(3, 1)])) == [1, 9]


def test_a_single_frame_between_two_shots_makes_one_cut() -> None:
    a, b = still(1, 8), still(2, 8)
    blend = (a[-1:] + b[:1]) / 2
    assert cuts(torch.cat([a, blend, b])) in ([8], [9])
    assert cuts(torch.cat([a, still(3, 1), b])) == [8]


def test_the_shortest_shot_is_a_setting() -> None:
    clip = torch.cat([still(1, 8), still(2, 4), still(3, 8)])
    assert cuts(clip) == [8, 12]
    assert cuts(clip, CutDetector(shortest_shot_frames=5)) == [8]


# What is none


@pytest.mark.parametrize("flash_frames", [1, 2])
@pytest.mark.parametrize("strength", [0.4, 1.0])
@pytest.mark.parametrize("step_px", [0, 4])
def test_a_flash_is_not_a_cut(flash_frames: int, strength: float, step_px: int) -> None:
    clip = pan(1, 20, step_px) if step_px else still(1, 20)
    for start in (1, 2, 9, 16):
        lit = clip.clone()
        lit[start : start + flash_frames].lerp_(torch.ones(()), strength)
        assert cuts(lit) == []


def test_a_strobe_is_not_a_row_of_cuts() -> None:
    clip = still(1, 20)
    clip[::2] = 1.0
    assert cuts(clip) == []


@pytest.mark.parametrize("step_px", [1, 4, 16, 40])
def test_a_pan_is_not_a_cut_however_suddenly_it_starts_and_ends(step_px: int) -> None:
    moving = pan(1, 12, step_px)
    rest = [moving[:1].expand(6, -1, -1, -1), moving, moving[-1:].expand(6, -1, -1, -1)]
    assert cuts(torch.cat(rest)) == []


@pytest.mark.parametrize("held_frames", [2, 3])
def test_animation_on_twos_and_threes_is_not_a_row_of_cuts(held_frames: int) -> None:
    assert cuts(pan(1, 12, 6).repeat_interleave(held_frames, 0)) == []


@pytest.mark.parametrize("fade_frames", [4, 8, 25])
def test_fades_and_dissolves_are_not_cuts(fade_frames: int) -> None:
    share = torch.linspace(0, 1, fade_frames).view(-1, 1, 1, 1)
    a, b, black = texture(1), texture(2), torch.zeros(3, HEIGHT, WIDTH)
    for start, end in ((black, a), (a, black), (a, b)):
        shot = [start.expand(6, -1, -1, -1), start.lerp(end, share), end.expand(6, -1, -1, -1)]
        assert cuts(torch.cat(shot)) == []


def test_noise_is_not_a_cut() -> None:
    grain = torch.randn(30, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    assert cuts(texture(1) + 0.3 * grain) == []


def test_one_picture_for_ever_is_one_shot() -> None:
    assert cuts(torch.full((30, 3, HEIGHT, WIDTH), 0.5)) == []


# What frames may be


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 3), (35, 65), (400, 8)])
def test_frames_of_any_size_will_do(height: int, width: int) -> None:
    dark, bright = torch.full((5, 3, height, width), 0.1), torch.full((5, 3, height, width), 0.9)
    assert cuts(torch.cat([dark, bright])) == [5]


def test_values_beyond_the_nominal_range_and_half_precision_will_do() -> None:
    clip = torch.cat([still(1, 6) * 3 - 1, still(2, 6) * 3 - 1])
    assert cuts(clip.half()) == cuts(clip) == [6]


def test_a_large_frame_costs_what_a_small_one_does_and_parts_alike() -> None:
    small = torch.cat([pan(1, 6, 3), still(2, 6)])
    large = F.interpolate(small, (1080, 1920))
    assert cuts(large) == cuts(small) == [6]


# The stream


def levels(values: list[int]) -> list[tuple[int, Tensor]]:
    """Numbered flat pictures, of which neighbouring ones differ or not."""
    return [(n, torch.full((3, 4, 4), value / 4)) for n, value in enumerate(values)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=24), st.booleans())
def test_the_shots_in_a_row_are_the_stream(values: list[int], enabled: bool) -> None:
    items = levels(values)
    parted = [list(shot) for shot in shots(iter(items), lambda item: item[1], enabled=enabled)]
    assert [n for n, _ in chain.from_iterable(parted)] == list(range(len(items)))
    assert all(parted)
    if not enabled:
        assert len(parted) == min(1, len(items))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), max_size=16), st.lists(st.integers(0, 4), max_size=16))
def test_a_cut_far_from_the_end_does_not_depend_on_what_follows(a: list[int], b: list[int]) -> None:
    def numbers(values: list[int]) -> list[int]:
        found = enumerate(shots(levels(values), lambda item: item[1]))
        return [shot for shot, frames in found for _ in frames]

    sure = max(0, len(a) - AHEAD_FRAMES)
    assert numbers(a)[:sure] == numbers(a + b)[:sure]


@pytest.mark.parametrize(("enabled", "ahead"), [(True, AHEAD_FRAMES), (False, 0)])
def test_no_more_than_two_frames_are_read_ahead(enabled: bool, ahead: int) -> None:
    read = 0

    def endless() -> Iterator[Tensor]:
        nonlocal read
        while True:
            read += 1
            yield texture(read // 5)

    handed_out = 0
    for shot in shots(endless(), lambda frame: frame, enabled=enabled):
        for _ in shot:
            handed_out += 1
            assert read - handed_out <= ahead
            if handed_out == 40:
                return


def test_every_picture_is_looked_at_once_and_in_order() -> None:
    looked: list[int] = []

    def picture(item: tuple[int, Tensor]) -> Tensor:
        looked.append(item[0])
        return item[1]

    for shot in shots(levels([0, 0, 0, 4, 4, 4, 1, 1]), picture):
        list(shot)
    assert looked == list(range(8))


def test_detection_off_is_one_shot_of_everything_and_looks_at_nothing() -> None:
    def picture(item: int) -> Tensor:
        raise AssertionError

    assert [list(shot) for shot in shots(range(9), picture, enabled=False)] == [list(range(9))]


@pytest.mark.parametrize("enabled", [True, False])
def test_an_empty_stream_has_no_shot(enabled: bool) -> None:
    nothing: list[Tensor] = []
    assert list(shots(nothing, lambda frame: frame, enabled=enabled)) == []


def test_what_is_left_of_a_shot_is_skipped_when_the_next_is_asked_for() -> None:
    items = levels([0] * 6 + [4] * 6 + [1] * 6)
    walk = shots(items, lambda item: item[1])
    first = next(walk)
    assert next(first)[0] == 0
    assert next(next(walk))[0] == 6
    assert list(first) == []
    assert [n for n, _ in next(walk)] == list(range(12, 18))
    assert list(walk) == []


def test_an_error_of_the_source_passes_through() -> None:
    def broken() -> Iterator[Tensor]:
        yield from still(1, 5)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        cuts_of_stream(broken())


# Real film


@pytest.fixture(scope="module")
def film() -> Callable[[Path], Tensor]:
    av = pytest.importorskip("av")
    if not (SHARED / "media").is_dir():
        pytest.skip("the shared films are not here")
    known: dict[Path, Tensor] = {}

    def decode(path: Path) -> Tensor:
        if path not in known:
            with av.open(str(path)) as container:
                pictures = [
                    torch.from_numpy(frame.to_ndarray(width=128, height=72, format="rgb24"))
                    for frame in container.decode(video=0)
                ]
            known[path] = torch.stack(pictures).permute(0, 3, 1, 2)
        return known[path].float() / 255

    return decode


def clips(folder: str) -> list[Path]:
    return sorted((SHARED / "media" / folder).glob("*.mp4"))


def scene(path: Path) -> str:
    """Clips whose names begin alike are of one scene (the media's README)."""
    return path.stem.split("_")[0]


@pytest.mark.parametrize(("folder", "count"), [("train/clips", 44), ("val", 6), ("demo", 2)])
def test_no_cut_is_seen_in_real_film_without_cuts(
    film: Callable[[Path], Tensor], folder: str, count: int
) -> None:
    assert len(clips(folder)) == count
    seen = {path.stem: cuts(film(path)) for path in clips(folder)}
    assert {name: found for name, found in seen.items() if found} == {}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_all_ten_cuts_between_real_scenes_are_found_and_no_other(
    film: Callable[[Path], Tensor], seed: int, gain: float
) -> None:
    chance = random.Random(seed)
    by_scene = {scene(path): path for path in chance.sample(clips("train/clips"), 44)}
    chosen = chance.sample(sorted(by_scene), 11)
    parts = []
    for path in (by_scene[name] for name in chosen):
        whole = film(path)
        length = chance.randint(3, min(24, len(whole)))
        start = chance.randint(0, len(whole) - length)
        parts.append(gain * whole[start : start + length])
    edges = [0]
    for part in parts[:-1]:
        edges.append(edges[-1] + len(part))
    assert all(b > a for a, b in pairwise(edges))
    assert cuts(torch.cat(parts)) == edges[1:]


@pytest.mark.parametrize("flash_frames", [1, 2])
def test_a_flash_in_a_fast_shot_of_real_film_is_not_a_cut(
    film: Callable[[Path], Tensor], flash_frames: int
) -> None:
    fast = ["cars_above", "london_window", "tears_a", "hillside"]
    white = torch.ones(())
    for path in (path for path in clips("train/clips") if path.stem in fast):
        whole = film(path)
        for start in range(1, len(whole) - flash_frames, 4):
            lit = whole[max(0, start - 6) : start + 8].clone()
            first = min(start, 6)
            lit[first : first + flash_frames].lerp_(white, 0.8)
            # Elsewhere the excerpt's edges, not the flash, may make a jolt look like a cut.
            assert not {first, first + flash_frames} & set(cuts(lit)), (path.stem, start)
