"""Two pictures of an evaluation: PSNR frame by frame, and models against what they cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrestore.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    from vrestore.evaluate.table import Evaluation

KIND = ("protocol", "channel", "crop", "input", "rounded")  # alike in these can be compared
NEEDED = {*KIND, "model", "how", "mean", "clips", "seconds_per_frame", "parameters"}


@dataclass(frozen=True)
class Cost:
    """A model's point: the mean PSNR in dB of the set's channel, and what it took."""

    model: str
    how: str
    psnr: float
    seconds_per_frame: float
    parameters: int


def plot_frames(evaluation: Evaluation, file: Path) -> None:
    """A line for each clip. UsageError without matplotlib, or where no PSNR was measured."""
    column = _column(evaluation.protocol.channel)
    pyplot = plotter()
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for clip in evaluation.clips:
        judged = [frame for frame in clip.frames if frame.judged]
        values = [getattr(frame.scores, column) for frame in judged]
        if None in values or not values:
            raise UsageError(f"{file}: clip {clip.name} has no PSNR to draw")
        mean = getattr(clip.mean, column)
        label = f"{clip.name} ({mean:.2f} dB)"
        axes.plot([frame.number for frame in judged], values, marker=".", label=label)
    axes.set(
        xlabel="frame",
        ylabel=f"PSNR [dB], {evaluation.protocol.channel}",
        title=f"{evaluation.protocol.title}: {evaluation.model}",
    )
    if len(evaluation.clips) <= 10:
        axes.legend(fontsize="small")
    _save(figure, file)
    pyplot.close(figure)


def plot_costs(runs: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Models against their seconds a frame; ``runs`` as ``Evaluation.as_dict`` gives them.

    UsageError without matplotlib, and for runs of different sets, inputs or crops: their figures
    have nothing to do with each other.
    """
    protocol, channel = check_comparable(runs, file)
    costs = [_cost(run, channel, file) for run in runs]
    pyplot = plotter()
    figure, axes = pyplot.subplots(figsize=(6, 4.5), layout="constrained")
    for cost in costs:
        label = f"{cost.model}, {cost.parameters / 1e6:.1f} M ({cost.how})"
        axes.scatter(cost.seconds_per_frame, cost.psnr, s=40, label=label)
    axes.set(
        xscale="log",
        xlabel="measured seconds a frame",
        ylabel=f"PSNR [dB], {channel}",
        title=protocol,
    )
    axes.margins(0.15)
    figure.legend(loc="outside lower center", fontsize="small")
    _save(figure, file)
    pyplot.close(figure)


def check_comparable(runs: Sequence[Mapping[str, Any]], file: Path) -> tuple[str, str]:
    """The protocol and the channel that all runs have; UsageError where they differ in ``KIND``,
    or in the frames that were judged."""
    kinds = {tuple(run[key] for key in KIND): run["model"] for run in runs}
    if len(kinds) != 1:
        (one, first), (other, second) = list(kinds.items())[:2]
        raise UsageError(
            f"{file}: runs of one set, input and crop can be drawn together; {first} was of "
            f"{_said(one)}, {second} of {_said(other)}"
        )
    judged = {_judged(run): run["model"] for run in runs}
    if len(judged) != 1:
        (some, first), (others, second) = list(judged.items())[:2]
        lacking = sorted({clip for clip, _ in some ^ others})
        raise UsageError(
            f"{file}: runs of the same frames can be drawn together; those of {first} and {second} "
            f"differ in {', '.join(lacking[:3])}"
        )
    ((protocol, channel, *_),) = kinds
    return protocol, channel


def _judged(run: Mapping[str, Any]) -> frozenset[tuple[str, int]]:
    column = _column(run["channel"])
    return frozenset(
        (clip["clip"], frame["frame"])
        for clip in run["clips"]
        for frame in clip["frames"]
        if column in frame
    )


def read_run(file: Path) -> dict[str, Any]:
    """What ``--out`` wrote as JSON. Raises InputError for anything else."""
    try:
        run = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{file}: is no run's JSON: {error}") from error
    if not isinstance(run, dict) or not set(run) >= NEEDED or not isinstance(run["mean"], dict):
        raise InputError(f"{file}: is no run's JSON; vrestore evaluate --out FILE.json makes one")
    return run


def check_plot(file: Path) -> None:
    """UsageError without matplotlib, and where it draws no files of that kind."""
    kinds = plotter().figure().canvas.get_supported_filetypes()
    plotter().close()
    if file.suffix.lower().removeprefix(".") not in kinds:
        raise UsageError(f"{file}: plots are drawn into {', '.join(sorted(kinds))}; name a .png")


def plotter() -> Any:
    """matplotlib's pyplot, drawing into files; UsageError where it is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        matplotlib.rcParams["text.parse_math"] = False  # a clip may be called anything
        from matplotlib import pyplot
    except ImportError as error:
        raise UsageError("plots need matplotlib: pip install matplotlib") from error
    return pyplot


def _cost(run: Mapping[str, Any], channel: str, file: Path) -> Cost:
    psnr = run["mean"].get(_column(channel))
    if psnr is None:
        raise UsageError(f"{file}: the run of {run['model']} has no PSNR to draw")
    return Cost(run["model"], run["how"][0], psnr, run["seconds_per_frame"], run["parameters"])


def _said(kind: tuple[Any, ...]) -> str:
    return ", ".join(f"{key} {value}" for key, value in zip(KIND, kind, strict=True))


def _column(channel: str) -> str:
    return f"psnr_{channel.lower()}"


def _save(figure: Any, file: Path) -> None:
    try:
        figure.savefig(file, dpi=110)
    except (OSError, ValueError) as error:  # ValueError: a format that matplotlib does not have
        raise OutputError(f"{file}: cannot be written: {error}") from error
