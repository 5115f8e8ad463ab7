"""The order of pictures in a folder; without PyAV, for training where there is none."""

from __future__ import annotations

import re
from pathlib import Path


def natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Sorts by names, and numbers in them by size: 2 before 10."""
    parts = re.split(r"([0-9]+)", path.name.casefold())
    keys = [(1, 0, p) if nth % 2 == 0 else (0, int(p), "") for nth, p in enumerate(parts) if p]
    return keys, path.name
