"""What a run leaves: its state to go on from, rows of figures, curves, strips to look at."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrestore.errors import ModelError, OutputError
from vrestore.models.resize import imresize

log = logging.getLogger("vrestore.train")

STRIP_PX = 256  # side of each of a strip's three pictures


def save(path: Path, state: Mapping[str, Any]) -> None:
    """All that is needed to go on; complete under its name or not there. Raises OutputError."""
    partial = path.with_suffix(".part")
    try:
        torch.save(dict(state), partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch's own of a full disk is a RuntimeError
        partial.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) else "is there room?"
        raise OutputError(
            f"{path}: cannot be written ({reason}); make room, and run again to go on from what "
            "was saved before"
        ) from error


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    """What ``save`` wrote, or None where there is nothing yet. ModelError for damage."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # what a reader of pickles meets in foreign bytes is of any kind
        raise ModelError(
            f"{path}: is damaged, or no state of a run; delete it to begin anew"
        ) from error
    return state


def keep_config(run: Path, text: str, step: int) -> None:
    """``run/config.toml``; what said otherwise there stays, by the step that it led to."""
    path = run / "config.toml"
    if step and path.exists() and path.read_text("utf-8") != text:
        former = run / f"config_to_step_{step}.toml"
        os.replace(path, former)
        log.info("goes on with another configuration; that of the steps so far is %s", former)
    path.write_text(text, "utf-8")


def resume_log(path: Path, step: int, columns: Sequence[str]) -> list[str]:
    """Drop from the log what the run is about to do again; the columns of the log, old ones first.

    The first line names them all from now on.
    """
    if not path.exists() or not path.stat().st_size:
        return list(columns)
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        kept = [row for row in reader if int(row["step"]) <= step]
        former = list(reader.fieldnames or ())
    together = [*former, *(name for name in columns if name not in former)]
    partial = path.with_suffix(".part")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, together)
        writer.writeheader()
        writer.writerows(kept)
    os.replace(partial, path)
    return together


def write_row(path: Path, row: Mapping[str, float], columns: Sequence[str]) -> None:
    """Append one row to the log, with the header first in a new file."""
    new = not path.exists() or not path.stat().st_size
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerow(row)


def open_curves(run: Path, step: int) -> Any:
    """TensorBoard's writer into ``run/curves``, or None where it is not installed.

    What an earlier call wrote after ``step`` is not shown any more.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(run / "curves", purge_step=step + 1)


def write_curves(curves: Any, row: Mapping[str, float]) -> None:
    """A row of the log into TensorBoard, and onto the disk; nothing where ``curves`` is None."""
    if curves is not None:
        for name, value in row.items():
            if name != "step":
                curves.add_scalar(name, value, int(row["step"]))
        curves.flush()


def save_strip(path: Path, lr: Tensor, output: Tensor, truth: Tensor) -> None:
    """Input (enlarged by bicubic), output and truth of a frame's middle side by side, as PNG.

    ``lr`` ``(3, h, w)`` in 0..1; the others ``(3, H, W)`` in 0..255. Where PyAV is not installed (a
    bare GPU machine) there are none.
    """
    try:
        from vrestore.video.picture_codec import png
    except ModuleNotFoundError:
        return
    pictures = (imresize(lr, truth.shape[-1] / lr.shape[-1]) * 255, output, truth)
    top, left = (max(0, (side - STRIP_PX) // 2) for side in truth.shape[1:])
    cut = [p[:, top : top + STRIP_PX, left : left + STRIP_PX].float().cpu() for p in pictures]
    strip = torch.cat(cut, 2).round().clamp(0, 255).to(torch.uint8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(png(strip.numpy()))
