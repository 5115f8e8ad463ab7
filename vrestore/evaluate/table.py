"""What an evaluation found: frame, clip and set, as the field's table, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from vrestore.errors import OutputError, UsageError
from vrestore.evaluate.figures import Figure
from vrestore.evaluate.protocols import Protocol
from vrestore.report import of

FlowBetween = Literal["true", "enlarged input"]

CLIPS_SHOWN = 60  # of Vimeo's thousands the mean alone; a file holds the rest
INPUTS = {
    "bi": "BI (MATLAB bicubic)",
    "bd": "BD (BasicVSR's)",
    "bd_duf": "BD of DUF's phase, 1.5 pixels beside BasicVSR's",
}


# What --also knows, as users write it, and as tables and messages do.
TITLES = {
    "niqe": "NIQE",
    "tof": "tOF",
    "tlp": "tLP",
    "lpips": "LPIPS",
    "dists": "DISTS",
    "warping": "warping",
    "vmaf": "VMAF",
}
SMALL = {"warping"}  # of the order of 0.001
FLOW = (
    "  warping: flow of the network that ships, between {} frames; published figures have "
    "FlowNet2's: compare with vrestore's own only"
)


@dataclass(frozen=True)
class Scores:
    """What was measured; None: this was not.

    PSNR in dB (equal pictures: infinity), SSIM and VMAF (0..100): more is better. Less is better of
    the others: NIQE, tOF in pixels, 100 tLP, LPIPS, DISTS, and the warping error of pictures in
    0..1. tOF, tLP and warping are of a frame and the one before it.
    """

    psnr_rgb: float | None = None
    ssim_rgb: float | None = None
    psnr_y: float | None = None
    ssim_y: float | None = None
    niqe: float | None = None
    tof: float | None = None
    tlp: float | None = None
    lpips: float | None = None
    dists: float | None = None
    warping: float | None = None
    vmaf: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """What was measured, for JSON, which knows no infinity: None."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v if math.isfinite(v) else None for k, v in found.items() if v is not None}


@dataclass(frozen=True)
class FrameScores:
    """One frame, by the number that its file has. ``judged`` False: the protocol judges others, and
    only what is measured between neighbours was measured."""

    number: int
    scores: Scores
    judged: bool = True


@dataclass(frozen=True)
class ClipScores:
    """The scored frames of a clip; ``restored`` counts those that the network made."""

    name: str
    restored: int
    frames: tuple[FrameScores, ...]

    @property
    def mean(self) -> Scores:
        """Over its frames."""
        return mean([frame.scores for frame in self.frames])

    @property
    def judged(self) -> int:
        """How many frames the protocol judges."""
        return sum(frame.judged for frame in self.frames)


@dataclass(frozen=True)
class Evaluation:
    """One model on one set. ``how`` it ran: device, precision, propagation, ensembles.

    ``made_by``: the reduction that made the input (``bi``, ``bd``, ``bd_duf``), None: not told.
    ``seconds_per_frame``: of the network alone, with the reading of its input. ``parameters``: of
    the network. ``flow_between``: the frames that the warping error's flow was found in.
    """

    protocol: Protocol
    model: str
    how: tuple[str, ...]
    rounded: bool
    crop: int
    made_by: str | None
    clips: tuple[ClipScores, ...]
    seconds_per_frame: float
    parameters: int
    published: Figure | None = None
    flow_between: FlowBetween | None = None

    @property
    def mean(self) -> Scores:
        """Over the clips' means: each clip weighs the same, whatever its length."""
        return mean([clip.mean for clip in self.clips])

    @property
    def mean_over_frames(self) -> Scores:
        """Over all frames of all clips, which TecoGAN states beside the other."""
        return mean([frame.scores for clip in self.clips for frame in clip.frames])

    @property
    def judged(self) -> int:
        """How many frames the protocol judges."""
        return sum(clip.judged for clip in self.clips)

    def lines(self) -> list[str]:
        """The table, with the published figure under the column that it belongs to."""
        width = max(10, *(len(clip.name) for clip in self.clips))
        head = [of(self.judged, "frame"), *self.how]
        head.append("rounded to 8 bit" if self.rounded else "not rounded")
        text = [
            f"{self.protocol.title}, {of(len(self.clips), 'clip')}: {self.model}; "
            f"{', '.join(head)}",
            f"  judged in {self.protocol.channel}, crop {self.crop}; "
            f"input: {INPUTS.get(self.made_by or '', self._unknown)}",
        ]
        names = _columns(self.mean)
        if not names:
            return [*text, f"  no truth was given, nothing scored; {self.speed}"]
        text.append("".join([f"{'clip':{width}}", f"{'frames':>8}", *map(_heading, names)]))
        for clip in self.clips if len(self.clips) <= CLIPS_SHOWN else ():
            text.append(_row(clip.name, width, str(clip.judged), clip.mean, names))
        text.append(_row("mean", width, str(self.judged), self.mean, names))
        if self.published:
            text += self._beside(self.published, names, width)
        if self.flow_between:
            text.append(FLOW.format(self.flow_between))
        return [*text, f"  {self.speed}"]

    @property
    def _unknown(self) -> str:
        asked = self.protocol.degradation
        known = f": not {INPUTS[asked]}, which published figures are of" if asked else ""
        return f"of unknown making{known}"

    @property
    def speed(self) -> str:
        """What the network took."""
        return f"{self.seconds_per_frame:.3f} s a frame, {self.parameters:,} parameters"

    def _beside(self, published: Figure, names: Sequence[str], width: int) -> list[str]:
        theirs = placed(published, self.protocol)
        ours = self.mean
        both = set(names).intersection(_columns(theirs))
        less = Scores(**{name: getattr(ours, name) - getattr(theirs, name) for name in both})
        if not both:
            return []
        return [
            f"{_row('published', width, '', theirs, names)}  {published.source}",
            _row("difference", width, "", less, names, sign="+"),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the set, each clip, each frame."""
        return {
            "protocol": self.protocol.name,
            "channel": self.protocol.channel,
            "crop": self.crop,
            "model": self.model,
            "how": list(self.how),
            "rounded": self.rounded,
            "input": self.made_by,
            "seconds_per_frame": round(self.seconds_per_frame, 6),
            "parameters": self.parameters,
            "warping_flow_between": self.flow_between,
            "mean": self.mean.as_dict(),
            "mean_over_frames": self.mean_over_frames.as_dict(),
            "published": asdict(self.published) if self.published else None,
            "clips": [
                {
                    "clip": clip.name,
                    "mean": clip.mean.as_dict(),
                    "frames": [{"frame": f.number, **f.scores.as_dict()} for f in clip.frames],
                }
                for clip in self.clips
            ],
        }


def mean(scores: Sequence[Scores]) -> Scores:
    """Measure by measure, over those that it was measured of; None where it was of none."""
    columns = {f.name: [getattr(s, f.name) for s in scores] for f in fields(Scores)}
    found = {name: [x for x in column if x is not None] for name, column in columns.items()}
    return Scores(**{name: sum(values) / len(values) for name, values in found.items() if values})


def placed(figure: Figure, protocol: Protocol) -> Scores:
    """The published figure in the columns of the protocol's channel."""
    if protocol.channel == "RGB":
        return Scores(psnr_rgb=figure.psnr, ssim_rgb=figure.ssim, niqe=figure.niqe)
    return Scores(psnr_y=figure.psnr, ssim_y=figure.ssim, niqe=figure.niqe)


def frames_file(evaluation: Evaluation, file: Path) -> str:
    """The text of ``file``: every frame's values, as CSV or JSON by its ending (or UsageError)."""
    if file.suffix.lower() == ".json":
        return json.dumps(evaluation.as_dict(), indent=1) + "\n"
    if file.suffix.lower() != ".csv":
        raise UsageError(f"{file}: values per frame go into a .csv or a .json")
    names = _columns(evaluation.mean)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["clip", "frame", *names])
    for clip in evaluation.clips:
        for frame in clip.frames:
            rows.writerow([clip.name, frame.number, *(getattr(frame.scores, n) for n in names)])
    return text.getvalue()


def write(text: str, file: Path) -> None:
    """OutputError where it cannot be."""
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error


def _columns(scores: Scores) -> list[str]:
    return [f.name for f in fields(scores) if getattr(scores, f.name) is not None]


def _heading(name: str) -> str:
    measure, _, channel = name.partition("_")
    title = TITLES.get(measure, measure.upper())
    return f"{(title + ' ' + channel.upper()).strip():>11}"


def _row(
    name: str, width: int, frames: str, scores: Scores, names: Sequence[str], sign: str = ""
) -> str:
    values = {column: getattr(scores, column) for column in names}
    cells = [
        "" if value is None else format(value, f"{sign}.{6 if column in SMALL else 4}f")
        for column, value in values.items()
    ]
    return "".join([f"{name:{width}}", f"{frames:>8}", *(f"{cell:>11}" for cell in cells)])
