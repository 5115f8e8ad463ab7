"""Whether ffmpeg will take the settings: known before the first frame, not after an hour.

One blank picture goes through the codec into the container, as the film's pictures will.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from vrestore.errors import UsageError
from vrestore.video.command import (
    CONTAINERS,
    NVENC,
    NVENC_FORMATS,
    EncodeSettings,
    Plan,
    plan,
    trial_arguments,
)
from vrestore.video.frame import VideoInfo

SECONDS = 60.0  # for one picture; a driver that hangs longer than that is told by the film itself
_REFUSED = re.compile("Error setting (option|preset)|Invalid encoder type")
_ADDRESS = re.compile(r"^\[[^]]*\] ")  # of the part of ffmpeg that speaks


@cache
def try_out(command: tuple[str, ...], planned: Plan) -> None:
    """Run ``command`` (from ``trial_arguments``); UsageError, in ffmpeg's words, where it fails.

    What was taken once is not tried again: films of one size follow each other.
    """
    suffix = next(name for name, muxer in CONTAINERS.items() if muxer == planned.muxer)
    with tempfile.TemporaryDirectory(prefix="vrestore-") as folder:
        words = [*command, str(Path(folder) / f"trial{suffix}")]
        try:
            tried = subprocess.run(words, capture_output=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return
    said = tried.stderr.decode(errors="replace").splitlines()
    if tried.returncode and not any("No space left on device" in line for line in said):
        raise refusal(said, planned) or UsageError(
            f"ffmpeg does not write {planned.codec} in {planned.coded_format} into "
            f"{planned.muxer}: {in_short(said)}. Correct --codec, --pix-fmt or the output's ending"
        )


def by_nvenc(
    binary: str,
    suffix: str,
    source: VideoInfo,
    width: int,
    height: int,
    settings: EncodeSettings,
    default: Plan,
) -> Plan:
    """The plan for NVENC's counterpart of the default codec; ``default``, noted, where it fails."""
    codec = NVENC.get(default.codec)
    if codec is None:
        return _noted(default, f"{default.codec} writes the film: NVENC has nothing like it")
    if default.coded_format not in NVENC_FORMATS:
        held = f"{codec} does not hold {default.coded_format}"
        return _noted(default, f"{default.codec} writes the film: {held}")
    try:
        planned = plan(suffix, source, width, height, replace(settings, codec=codec))
        words = trial_arguments(binary, source, planned, width, height, settings)
        try_out(tuple(words), planned)
    except UsageError:
        said = f"{codec} does not take it here (--codec {codec} says why)"
        return _noted(default, f"{default.codec} writes the film: {said}")
    return planned


def _noted(planned: Plan, note: str) -> Plan:
    return replace(planned, notes=(*planned.notes, note))


def refusal(said: Sequence[str], planned: Plan) -> UsageError | None:
    """What ffmpeg's lines say about the settings; None where the fault is another."""
    if any("Unknown encoder" in line for line in said):
        return UsageError(
            f"this ffmpeg has no encoder {planned.codec}; ffmpeg -encoders lists its own"
        )
    refused = next((line for line in said if _REFUSED.search(line)), None)
    if refused:
        return UsageError(
            f"{planned.codec} does not take these settings: {_ADDRESS.sub('', refused)} "
            "Correct --codec, --preset, --crf, --bitrate or --pix-fmt"
        )
    return None


def in_short(said: Sequence[str]) -> str:
    """The first and the last lines: the cause comes first, what followed from it after."""
    lines = [re.sub(r" @ 0x[0-9a-f]+", "", line) for line in said]
    if len(lines) > 5:
        lines = [*lines[:3], "...", *lines[-2:]]
    return " / ".join(lines) or "it said nothing"
