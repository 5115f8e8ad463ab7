"""What an output is called while it grows."""

from __future__ import annotations

import os
from pathlib import Path

_LONGEST_NAME = 255  # bytes, on all file systems in use


def partial_name(path: Path) -> str:
    """Hidden, this process's own, with the final suffix: no reader takes it for the result."""
    return "." + fitting(path.stem, f".part-{os.getpid()}{path.suffix}", _LONGEST_NAME - 1)


def fitting(name: str, end: str, longest: int = _LONGEST_NAME) -> str:
    """``name`` and ``end``, the name shortened to what a file may be called."""
    room = longest - len(os.fsencode(end))
    raw = os.fsencode(name)
    return (name if len(raw) <= room else raw[:room].decode(errors="ignore")) + end
