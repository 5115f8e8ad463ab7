"""The curve of a run: loss and validation gain against steps."""

from __future__ import annotations

import csv
from pathlib import Path

from vrestore.errors import UsageError
from vrestore.train.config import TrainConfig

SMOOTHED_ROWS = 9


def plot(log: Path, config: TrainConfig, picture: Path) -> None:
    """Draw ``log.csv`` of a run, every kind of loss on an axis of its own.

    UsageError where matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise UsageError("plots need matplotlib: pip install matplotlib") from error
    with log.open() as file:
        rows = list(csv.DictReader(file))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    left.set(xlabel="step")
    kinds = dict.fromkeys(stage.loss for stage in config.stage)
    for nth, kind in enumerate(kinds):
        made = [r for r in rows if config.stage_at(int(r["step"]) - 1).loss == kind]
        steps, losses = [int(r["step"]) for r in made], [float(r["loss"]) for r in made]
        half = SMOOTHED_ROWS // 2
        near = [losses[max(0, i - half) : i + half + 1] for i in range(len(losses))]
        axis = left.twinx() if nth else left
        axis.set_ylabel(f"{kind} loss", color=f"C{nth}")
        axis.plot(steps, losses, color=f"C{nth}", alpha=0.3)
        axis.plot(steps, [sum(window) / len(window) for window in near], color=f"C{nth}")
    clips = [c for c in rows[0] if c not in ("step", "loss", "norm", "s_per_step")]
    scored = [r for r in rows if clips and r[clips[0]]]
    for clip in clips:
        right.plot([int(r["step"]) for r in scored], [float(r[clip]) for r in scored], label=clip)
    right.set(xlabel="step", ylabel="Y-PSNR over bicubic [dB]")
    right.legend(fontsize="small")
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)
