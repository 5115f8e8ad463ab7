"""``vrestore models``: what is on the shelf, where it lies, and how it gets there."""

from __future__ import annotations

import json
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from vrestore.models.catalogue import CATALOGUE, find, is_checkpoint, obtain
from vrestore.models.entry import Entry

if TYPE_CHECKING:
    from vrestore.progress import Silence


def list_models(as_json: bool) -> None:
    """Every named model, two lines each; as JSON one."""
    if as_json:
        for entry in CATALOGUE:
            print(json.dumps(facts(entry)))
        return
    rows = [("name", "task", "parameters", "trained on", "published", "here")]
    for entry in CATALOGUE:
        scale = f" x{entry.scale}" if entry.scale > 1 else ""
        size = f"{entry.parameters / 1e6:.1f} M" if entry.parameters else "0"
        here = "yes" if entry.is_here else "no"
        task = entry.task + scale
        rows.append((entry.name, task, size, entry.data or "-", entry.figure or "-", here))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row, entry_ in zip(rows, (None, *CATALOGUE), strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())
        if entry_:
            known = facts(entry_)
            print(f"    {known['file'] or 'no file'}; licence: {entry_.licence}")
    print("\nvrestore models show NAME | get NAME (fetch it) | path NAME (where it lies)")


def show(name: str, as_json: bool) -> None:
    """All that is known of one model."""
    known = facts(find(name))
    if as_json:
        print(json.dumps(known))
        return
    width = max(60, shutil.get_terminal_size().columns - 14)
    for key, value in known.items():
        if value not in (None, ""):
            lines = textwrap.wrap(str(value), width, break_long_words=False) or [""]
            print(f"{key:12}  " + ("\n" + " " * 14).join(lines))


def facts(entry: Entry) -> dict[str, Any]:
    """The entry as plain values."""
    remote = entry.remote
    return {
        "name": entry.name,
        "network": entry.architecture,
        "task": entry.task,
        "scale": entry.scale,
        "parameters": entry.parameters,
        "trained on": entry.data,
        "published": entry.figure,
        "licence": entry.licence,
        "note": entry.note,
        "file": remote.file if remote else entry.file,
        "sha256": remote.sha256 if remote and len(remote.sha256) == 64 else None,
        "sha256 begins": remote.sha256[:8] if remote else None,
        "from": (remote.url or remote.page) if remote else None,
        "here": entry.is_here,
        "path": str(entry.path) if entry.path else None,
    }


def get(name: str, *, offline: bool, display: Silence) -> None:
    """Fetch a model's weights in the user's sight, or see that they are here and whole."""
    try:
        obtain(find(name), offline=offline, announce=display.fetching, progress=display.fetched)
    finally:
        display.close()


def path_of(name: str, as_json: bool) -> None:
    """Print where a model's weights lie, or would."""
    entry = find(name)
    if as_json:
        print(json.dumps({"name": entry.name, "path": facts(entry)["path"]}))
    else:
        print(entry.path or f"{entry.name} needs no weights")


def at_hand(name: str, *, offline: bool, display: Silence) -> None:
    """Before a run: what the model needs is fetched."""
    if not is_checkpoint(name) and not find(name).is_here:
        get(name, offline=offline, display=display)
