"""What was found, kept, converted, dropped, and at what speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

BEGUN = 0.75  # of a frame's work comes before it is rendered


@dataclass(frozen=True)
class Progress:
    """Where a film stands. ``total`` is what the container claims, None where it is silent.

    ``begun``: frames that the network has seen and not yet given back: most of a chunk's work comes
    before its first frame is there.
    """

    source: Path
    frames: int
    total: int | None
    seconds: float
    begun: int = 0

    @property
    def fps(self) -> float:
        """Frames restored a second since the first was asked for."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """At this speed, what is begun being three quarters done; None while it is not known."""
        if self.total is None or not self.frames:
            return None
        done = self.frames + BEGUN * self.begun
        return self.seconds * max(self.total - done, 0) / done


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class Report:
    """The whole truth about one restored film."""

    source: Path
    target: Path
    frames: int
    shots: int
    seconds: float
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    model: str
    device: str
    precision: str
    colour: str
    guessed: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    damage: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return plain(self)

    def lines(self) -> list[str]:
        """For a person: what was done, then whatever is not as it was."""
        w, h = self.input_size
        wide, high = self.output_size
        speed = f" ({self.frames / self.seconds:.2f} frames/s)" if self.seconds else ""
        text = [
            f"{self.target}: {of(self.frames, 'frame')}, {w}x{h} -> {wide}x{high}, "
            f"{of(self.shots, 'shot')}, "
            f"{self.seconds:.1f} s{speed}; {self.model} on {self.device} in {self.precision}",
            f"  colour: {self.colour}",
        ]
        if self.guessed:
            text.append(f"  not said by the stream, and decided: {', '.join(self.guessed)}")
        for label, items in (
            ("copied", self.copied),
            ("converted", self.converted),
            ("dropped", self.dropped),
            ("note", self.notes),
        ):
            if items:
                text.append(f"  {label}: {'; '.join(items)}")
        if self.damage:
            text.append(f"  damaged: {self.damage}")
        return text


def plain(facts: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON takes them: paths as text."""
    values = {f.name: getattr(facts, f.name) for f in fields(facts)}
    return {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}


def of(number: int, thing: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
