"""What a training run is, whole: one TOML, saved beside the run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from vrestore.errors import UsageError
from vrestore.settings import from_table
from vrestore.train.real_world import RealWorld

Pixel = Literal["charbonnier", "l1", "log_error"]
Adversarial = Literal["vanilla", "lsgan", "hinge", "relativistic"]


@dataclass(frozen=True)
class Data:
    """Where the pictures are; a run learns from all sets that are named.

    ``folder`` holds ``clips/*.mp4`` and ``photos/*``, all decoded at the start. The others may be
    large and are read as they are needed: ``reds`` (``CCC/00000000.png``; the four clips of REDS4
    are left out), ``vimeo90k`` (``sequences/00001/0001/im1.png``, those of ``vimeo90k_list``),
    ``videos`` (films without cuts), ``div2k`` (pictures, for the synthetic camera).
    ``validation`` holds clips, or folders of frames. ``sampling``: ``uniform`` as published runs
    draw their samples, any place and time alike; ``detailed`` prefers detail, and lets time run at
    twice its speed and backwards as well.
    """

    validation: Path
    folder: Path | None = None
    reds: Path | None = None
    vimeo90k: Path | None = None
    vimeo90k_list: Path | None = None
    videos: Path | None = None
    div2k: Path | None = None
    degradation: Literal["bi", "bd", "real"] = "bi"
    sampling: Literal["detailed", "uniform"] = "detailed"
    photo_share: float = 0.25  # of all samples, made of photographs under a synthetic camera
    workers: int = 1


@dataclass(frozen=True)
class FlowWarmUp:
    """The flow network alone, before all else; sizes and reach in low-resolution pixels.

    ``tied_steps`` with one network for all of ``tied_levels`` levels, on small motions; then
    ``steps`` with all levels, on every motion: exact on photographs, photometric on clips.
    ``weights``: a flow network's checkpoint, taken instead.
    """

    tied_steps: int = 0
    steps: int = 0
    weights: Path | None = None
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
class Perceptual:
    """VGG19 of ImageNet (its licence lets nobody ship it), and the weight of each layer.

    ``layers`` are convolutions before their ReLU; the default is Real-ESRGAN's (sec. 4.1).
    """

    weights: Path
    layers: dict[str, float] = field(
        default_factory=lambda: {
            "conv1_2": 0.1,
            "conv2_2": 0.1,
            "conv3_4": 1.0,
            "conv4_4": 1.0,
            "conv5_4": 1.0,
        }
    )


@dataclass(frozen=True)
class Adversary:
    """The discriminator that stages with ``gan`` are trained against, and its constant rate.

    The averages of ``relativistic`` are each process's own.
    """

    form: Adversarial = "vanilla"
    num_feat: int = 64
    skip_connection: bool = True
    rate: float = 1e-4


@dataclass(frozen=True)
class Teacher:
    """A larger network that is to be imitated."""

    weights: Path


@dataclass(frozen=True)
class Stage:
    """``steps`` optimiser steps on ``batch`` clips, ``frames`` x ``patch`` x ``patch`` of input.

    The loss is ``loss`` times ``loss_share``, and as much of each other kind as its field says.
    ``sharpened``: against the truth after unsharp masking (Real-ESRGAN, sec. 3.4), all but ``gan``.
    """

    steps: int
    batch: int
    frames: int
    patch: int
    loss: Pixel = "charbonnier"
    loss_share: float = 1.0
    cleaning: float = 0.0  # the cleaned input against the reduced truth (RealBasicVSR, sec. 3.2)
    perceptual: float = 0.0
    gan: float = 0.0
    teacher: float = 0.0
    sharpened: bool = False


@dataclass(frozen=True)
class Optimiser:
    """Adam or Muon. The rate rises over ``warm_up`` steps and follows ``schedule``.

    ``cosine``: from ``rate`` to ``final_rate`` over the whole run. ``restarts``: that once for
    every one of ``periods`` (in steps), from ``rate`` times its ``restart_shares``. ``multistep``:
    times ``decay`` at every one of ``milestones``.

    The flow network stays as it is for the first ``flow_fixed`` steps (BasicVSR, sec. 4): trunks
    that have not learned to read what is warped would move it out of place. So does IconVSR's
    refill where it was loaded, and a cleaner. For the first ``new_alone`` steps only that learns
    which no loaded file knew (EDVR's attention, after a run without it).

    Of ``muon`` the rate is that of convolutions with more than three outputs, whose weights
    ``shrink`` by so much of the rate at each step; what paints, and all biases, are Adam's, at
    ``adam_share`` of it.
    """

    rate: float
    final_rate: float = 1e-6
    schedule: Literal["cosine", "restarts", "multistep"] = "cosine"
    periods: tuple[int, ...] = ()
    restart_shares: tuple[float, ...] = ()
    milestones: tuple[int, ...] = ()
    decay: float = 0.5
    flow_fixed: int = 2000
    flow_share: float = 0.05  # of the rate, for the flow network (BasicVSR++, sec. 4)
    new_alone: int = 0
    warm_up: int = 200
    clip: float = 0.5  # largest gradient norm; inf clips nothing
    ema: float = 0.999
    method: Literal["adam", "muon"] = "adam"
    adam_share: float = 0.15
    shrink: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """A whole run. ``network``: ``name``, perhaps files to start from, constructor arguments.

    ``weights`` there is a checkpoint of the whole network or of what it has in common with it,
    ``refill`` one of an EDVR, for IconVSR, ``cleaner`` one of a FRBasicVSR with ``hr_in``, for
    FRRealBasicVSR. ``dropout``: of the channels before the last convolution
    (arXiv 2112.12089).
    """

    network: dict[str, Any]
    data: Data
    optimiser: Optimiser
    stage: tuple[Stage, ...]
    flow: FlowWarmUp | None = None
    perceptual: Perceptual | None = None
    gan: Adversary = Adversary()
    teacher: Teacher | None = None
    real: RealWorld = field(default_factory=RealWorld)
    precision: Literal["fp32", "bf16"] = "fp32"
    dropout: float = 0.0
    seed: int = 0
    log_every: int = 50
    validate_every: int = 1000
    save_every: int = 250

    def __post_init__(self) -> None:
        self._check_ranges()
        for section in ("perceptual", "teacher"):
            if getattr(self, section) is None and any(getattr(s, section) for s in self.stage):
                raise UsageError(f"a stage asks for {section}: name its weights in [{section}]")
        o = self.optimiser
        if o.schedule == "restarts" and len(o.periods) != len(o.restart_shares):
            raise UsageError("[optimiser]: every one of periods needs its own of restart_shares")
        if o.schedule == "restarts" and sum(o.periods) < self.steps:
            raise UsageError(
                f"[optimiser]: periods end at step {sum(o.periods)}, the stages at {self.steps}"
            )

    def _check_ranges(self) -> None:
        """UsageError for the first number that no run can have."""
        if not self.stage:
            raise UsageError("a run needs a [[stage]]")
        counts = {
            name: getattr(self, name) for name in ("log_every", "validate_every", "save_every")
        }
        for n, stage in enumerate(self.stage):
            for name in ("batch", "frames", "patch"):
                counts[f"stage.{n}.{name}"] = getattr(stage, name)
        for name, value in counts.items():
            if value < 1:
                raise UsageError(f"{name} = {value}: give 1 or more")
        others = {"seed": self.seed, "data.workers": self.data.workers}
        others |= {f"stage.{n}.steps": stage.steps for n, stage in enumerate(self.stage)}
        for name, value in others.items():
            if value < 0:
                raise UsageError(f"{name} = {value}: give 0 or more")
        if not self.optimiser.rate > 0:
            raise UsageError(f"optimiser.rate = {self.optimiser.rate}: give more than 0")
        if not 0 <= self.data.photo_share <= 1:
            raise UsageError(f"data.photo_share = {self.data.photo_share}: give 0 to 1")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout = {self.dropout}: give 0 or more, and less than 1")

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


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """The run that the TOML describes, after ``changes`` like ``stage.0.steps=3``.

    A change's value is TOML, or else a plain string. UsageError names what is unknown or wrong.
    """
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not TOML: {error}") from error
    for change in changes:
        _change(table, change)
    return from_table(table, TrainConfig, str(path))


def _change(table: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    if not equals:
        raise UsageError(f"{change!r}: write key=value, as in stage.0.steps=3")
    *way, last = name.strip().split(".")
    place: Any = table
    try:
        for key in way:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        place[int(last) if isinstance(place, list) else last] = value
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise UsageError(f"{change!r}: there is no {name!r} to set") from error


def to_toml(config: TrainConfig) -> str:
    """The configuration as TOML that gives the same run again; what is None is left out."""
    return "\n".join(_lines(_plain(config), "")) + "\n"


def _plain(value: Any) -> Any:
    """Dataclasses and mappings as dictionaries, sequences as lists, paths as strings."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({f.name: getattr(value, f.name) for f in fields(value)})
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _lines(table: dict[str, Any], name: str) -> list[str]:
    """Plain keys first: in TOML what follows a header belongs to it."""
    headed = {k: v for k, v in table.items() if isinstance(v, dict) or _is_tables(v)}
    lines = [f"{key} = {_inline(v)}" for key, v in table.items() if key not in headed]
    for key, inner in headed.items():
        full = f"{name}.{key}" if name else key
        form = "[[{}]]" if isinstance(inner, list) else "[{}]"
        for each in inner if isinstance(inner, list) else [inner]:
            lines += ["", form.format(full), *_lines(each, full)]
    return lines


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _inline(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    # JSON's strings are TOML's basic strings, and repr gives TOML's floats, inf among them.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
