"""What is wrong with an output, seen before it gets its name."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path

import pytest
from copying import PICTURES, X264, MakeClip

from vrestore.errors import OutputError
from vrestore.video.verify import PtsLog, verify


def _compare(clip: Path, times: list[int], kinds: tuple[str, ...] = ("video",)) -> None:
    with contextlib.closing(PtsLog()) as log:
        for time in times:
            log.append(time)
        verify(clip, log, Fraction(1, 12800), 0, list(kinds))


def test_verification_sees_every_kind_of_difference(make_clip: MakeClip) -> None:
    clip = make_clip("film.mp4", *PICTURES, *X264)
    right = [512 * n for n in range(50)]
    _compare(clip, right)
    wrong = {
        "50 of 51 frames": [*right, 512 * 50],
        "more than the 49 frames": right[:-1],
        "frame 7 is shown": [t + (n == 7) for n, t in enumerate(right)],
        "frame 49 is shown": [*right[:-1], right[-1] + 1],
    }
    for said, times in wrong.items():
        with pytest.raises(OutputError, match=said):
            _compare(clip, times)
    with pytest.raises(OutputError, match="1 audio streams became 0"):
        _compare(clip, right, ("video", "audio"))
    clip.write_bytes(clip.read_bytes()[:2000])
    with pytest.raises(OutputError, match="did not turn out"):
        _compare(clip, right)
