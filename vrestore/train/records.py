"""What a run leaves beside its state: rows of figures, curves, strips to look at."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrestore.models.resize import imresize
from vrestore.video.picture_codec import png

STRIP_PX = 256  # side of each of a strip's three pictures


def forget_rows_after(step: int, path: Path) -> None:
    """Drop from the log what the run is about to do again."""
    if path.exists():
        header, *rows = path.read_text().splitlines()
        kept = [row for row in rows if int(row.split(",")[0]) <= step]
        path.write_text("\n".join([header, *kept]) + "\n")


def write_row(path: Path, row: Mapping[str, float], columns: list[str]) -> None:
    """Append one row to the log, with the header first in a new file."""
    new = not path.exists()
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

    ``lr`` ``(3, h, w)`` in 0..1; the others ``(3, H, W)`` in 0..255.
    """
    pictures = (imresize(lr, truth.shape[-1] / lr.shape[-1]) * 255, output, truth)
    top, left = (max(0, (side - STRIP_PX) // 2) for side in truth.shape[1:])
    cut = [p[:, top : top + STRIP_PX, left : left + STRIP_PX].float().cpu() for p in pictures]
    strip = torch.cat(cut, 2).round().clamp(0, 255).to(torch.uint8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(png(strip.numpy()))
