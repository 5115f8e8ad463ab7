"""What an output is called while it grows, and what becomes of those whose run was killed."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

_LONGEST_NAME = 255  # bytes, on all file systems in use


def partial_name(path: Path) -> str:
    """Hidden, of this machine and process, with the final suffix: no reader takes it for done."""
    return _name(path, os.getpid())


def clear_abandoned(path: Path) -> None:
    """Delete what earlier runs of this machine left of the film ``path`` and will not finish.

    Folders of pictures stay: those in them are whole, and a run that could not name them has said
    where they are. What other machines left stays, as nobody here knows whether they run; so does
    what cannot be deleted, and everything where processes cannot be asked for without harm
    (Windows).
    """
    if os.name != "posix":
        return
    of_process = re.compile(rf"-(\d+){re.escape(path.suffix)}$")
    try:
        there = list(path.parent.iterdir())
    except OSError:  # none yet, or not ours to read; whoever writes there will say so
        return
    for entry in there:
        found = of_process.search(entry.name)
        if not found or entry.name != _name(path, int(found[1])) or _runs(int(found[1])):
            continue
        with contextlib.suppress(OSError):
            entry.unlink()


def fitting(name: str, end: str, longest: int = _LONGEST_NAME) -> str:
    """``name`` and ``end``, the name shortened to what a file may be called."""
    room = longest - len(os.fsencode(end))
    raw = os.fsencode(name)
    return (name if len(raw) <= room else raw[:room].decode(errors="ignore")) + end


def _name(path: Path, pid: int) -> str:
    return "." + fitting(path.stem, f".part-{_machine()}-{pid}{path.suffix}", _LONGEST_NAME - 1)


def _machine() -> str:
    return re.sub(r"\W", "", platform.node(), flags=re.ASCII)[:32] or "here"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks only
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's; no process can have that number
        return True
    return True
