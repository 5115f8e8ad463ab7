"""What a training run is, whole: one TOML, saved beside the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Data:
    """Where the pictures are. ``folder`` holds ``clips/`` and ``photos/``; ``validation`` clips."""

    folder: Path
    validation: Path
    photo_share: float = 0.25  # of all samples, made of photographs under a synthetic camera
    workers: int = 1


@dataclass(frozen=True)
class FlowWarmUp:
    """The flow network alone, before all else; sizes and reach in low-resolution pixels.

    ``tied_steps`` with one network for all of ``tied_levels`` levels, on small motions; then
    ``steps`` with all levels, on every motion: exact on photographs, photometric on clips.
    """

    tied_steps: int
    steps: int
    tied_levels: int = 3
    tied_batch: int = 16
    tied_patch: int = 32
    tied_reach: float = 4.0
    tied_rate: float = 1e-3
    batch: int = 8
    patch: int = 64
    rate: float = 3e-4
    clip: float = 10.0  # largest gradient norm


@dataclass(frozen=True)
class Stage:
    """``steps`` optimiser steps on ``batch`` clips, ``frames`` x ``patch`` x ``patch`` in LR."""

    steps: int
    batch: int
    frames: int
    patch: int
    loss: Literal["charbonnier", "log_error"] = "charbonnier"


@dataclass(frozen=True)
class Optimiser:
    """Adam; the rate rises over ``warm_up`` steps, then falls along a cosine to ``final_rate``.

    The flow network stays as it is for the first ``flow_fixed`` steps (BasicVSR, sec. 4): trunks
    that have not learned to read what is warped would move it out of place.
    """

    rate: float
    final_rate: float = 1e-6
    flow_fixed: int = 2000
    flow_share: float = 0.05  # of the rate, for the flow network (BasicVSR++, sec. 4)
    warm_up: int = 200
    clip: float = 0.5  # largest gradient norm
    ema: float = 0.999


@dataclass(frozen=True)
class TrainConfig:
    """A whole run. ``network`` holds the constructor arguments of BasicVSR."""

    network: dict[str, Any]
    data: Data
    flow: FlowWarmUp
    optimiser: Optimiser
    stage: tuple[Stage, ...]
    seed: int = 0
    log_every: int = 50
    validate_every: int = 1000
    save_every: int = 250

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages together."""
        return sum(stage.steps for stage in self.stage)

    def stage_at(self, step: int) -> Stage:
        """The stage that the given step (from 0) belongs to."""
        for stage in self.stage:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stage[-1]
