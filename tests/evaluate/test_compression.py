"""Real codecs in memory: frame count and order, sizes, quality, determinism."""

from __future__ import annotations

from typing import get_args

import av
import pytest
import torch
from torch import Tensor
from train_material import texture

from vrestore.errors import UsageError
from vrestore.evaluate import compression
from vrestore.evaluate.compression import Codec, compress

CODECS = get_args(Codec)
GOOD = {"libx264": {"crf": 12}, "libx265": {"crf": 12},
        "mpeg2video": {"qscale": 2}, "mpeg4": {"qscale": 2}}  # fmt: skip
BAD = {"libx264": {"crf": 40}, "libx265": {"crf": 40},
       "mpeg2video": {"qscale": 28}, "mpeg4": {"qscale": 28}}  # fmt: skip


def clip(frames: int, height: int, width: int) -> Tensor:
    """A camera over a texture: no two frames alike."""
    big = texture(5, 200, 240)
    moved = [big[:, 3 * t : 3 * t + height, 4 * t : 4 * t + width] for t in range(frames)]
    return torch.stack(moved)


def loss(a: Tensor, b: Tensor) -> float:
    return (a.float() - b.float()).square().mean().item()


@pytest.mark.parametrize("codec", CODECS)
def test_every_frame_comes_back_in_its_place(codec: Codec) -> None:
    given = clip(12, 64, 80)
    actual = compress(given, codec, **GOOD[codec])
    assert actual.shape == given.shape
    assert actual.dtype == torch.uint8
    for number, frame in enumerate(actual):
        nearest = min(range(12), key=lambda t: loss(frame, given[t]))
        assert nearest == number
    assert 0 < loss(actual, given) < 60


@pytest.mark.parametrize("codec", CODECS)
def test_frames_are_sent_in_another_order_than_shown(codec: Codec, monkeypatch) -> None:
    """There are B-frames: the order is put to the test."""
    sent: list[int] = []
    original = compression._context

    def noting(name, mode):
        return Noting(original(name, mode), sent) if mode == "w" else original(name, mode)

    monkeypatch.setattr(compression, "_context", noting)
    compress(clip(12, 64, 80), codec, **GOOD[codec])
    assert len(sent) == 12
    assert sent != sorted(sent)


class Noting:
    """An encoder that notes the pts of what it gives."""

    def __init__(self, context, sent) -> None:
        self.__dict__.update(inner=context, sent=sent)

    def __setattr__(self, name, value) -> None:
        setattr(self.inner, name, value)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def encode(self, frame):
        packets = self.inner.encode(frame)
        self.sent.extend(packet.pts for packet in packets)
        return packets


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 66), (81, 20)])
def test_any_size_comes_back_whole(codec: Codec, size: tuple[int, int]) -> None:
    given = clip(3, *size)
    actual = compress(given, codec, **GOOD[codec])
    assert actual.shape == given.shape
    edge = (actual[..., -1, :].float() - given[..., -1, :].float()).abs().mean()
    assert edge < 12


@pytest.mark.parametrize("codec", CODECS)
def test_quality_falls_with_the_rate(codec: Codec) -> None:
    given = clip(6, 96, 96)
    name, low = next(iter(GOOD[codec].items()))
    high = BAD[codec][name]
    steps = [low, (low + high) // 2, high]
    losses = [loss(compress(given, codec, **{name: step}), given) for step in steps]
    assert losses[0] < losses[1] < losses[2]
    rates = [50_000, 1_500_000]
    few, many = (loss(compress(given, codec, bitrate=rate), given) for rate in rates)
    assert few > 1.5 * many


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_clip_gives_the_same_bits(codec: Codec) -> None:
    given = clip(6, 64, 64)
    first, second = (compress(given, codec, bitrate=200_000) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("codec", CODECS)
def test_colours_stay_what_they_are(codec: Codec) -> None:
    """A wrong matrix or range would move flat colours by far more than a code or two."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (30, 90, 160)]
    given = torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(6, 3, 64, 64)
    for frame in given:
        actual = compress(frame[None], codec, **GOOD[codec])
        assert (frame.float() - actual.float()).abs().max() <= 4


@pytest.mark.parametrize("codec", CODECS)
def test_the_stream_is_bt601_in_limited_range_and_says_so(codec: Codec, monkeypatch) -> None:
    seen: list[av.VideoFrame] = []
    original = compression._decoded

    def noting(*arguments):
        for frame in original(*arguments):
            seen.append(frame)
            yield frame

    monkeypatch.setattr(compression, "_decoded", noting)
    levels = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0]], dtype=torch.uint8)
    for level, luma in zip(levels, (16, 235, 81), strict=True):
        compress(level[None, :, None, None].expand(1, 3, 64, 64), codec, **GOOD[codec])
        assert abs(int(seen[-1].to_ndarray()[32, 32]) - luma) <= 2
    if codec != "mpeg4":  # its headers have no place for them in FFmpeg
        assert seen[0].color_range == 1  # FFmpeg's number of the limited one
        assert seen[0].colorspace == 6  # H.273, table 4


def test_no_frame_and_one_frame_are_clips_too() -> None:
    for codec in CODECS:
        assert compress(clip(1, 64, 64), codec, **GOOD[codec]).shape == (1, 3, 64, 64)
    assert compress(torch.zeros(0, 3, 8, 8, dtype=torch.uint8), "mpeg4", qscale=4).shape[0] == 0


@pytest.mark.parametrize(
    ("codec", "settings", "words"),
    [
        ("libx264", {}, "one of crf and bitrate"),
        ("libx264", {"crf": 20, "bitrate": 100_000}, "one of crf and bitrate"),
        ("mpeg2video", {"crf": 20}, "one of qscale and bitrate"),
        ("libx265", {"qscale": 4}, "one of crf and bitrate"),
        ("libx264", {"crf": 52}, "crf 52 is outside 0 to 51"),
        ("mpeg4", {"bitrate": 10}, "bitrate 10 is outside"),
        ("vp9", {"crf": 20}, "'vp9' is not one of libx264, libx265"),
    ],
)
def test_settings_that_do_not_fit_are_refused(codec, settings, words) -> None:
    with pytest.raises(UsageError, match=words):
        compress(clip(2, 64, 64), codec, **settings)


def test_a_codec_that_this_build_lacks_is_one_clear_error(monkeypatch) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx265"})
    with pytest.raises(UsageError, match="has no libx265"):
        compress(clip(2, 64, 64), "libx265", crf=20)
