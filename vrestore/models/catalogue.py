"""One table: every named model."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vrestore.errors import ModelError

if TYPE_CHECKING:
    from vrestore.models.temporal import Network


def _identity(weights: Path | None) -> Network:
    from vrestore.models.baselines import Identity

    return Identity().eval()


def _bicubic(weights: Path | None) -> Network:
    from vrestore.models.baselines import Bicubic

    return Bicubic().eval()


def _from_checkpoint(weights: Path | None) -> Network:
    from vrestore.models.checkpoint import load_network

    assert weights is not None  # load_model sees to it
    return load_network(weights)


@dataclass(frozen=True)
class Entry:
    """A model by name. ``file``: its weights inside the package, None where it needs none."""

    name: str
    task: str
    scale: int
    file: str | None
    architecture: str  # the class that its weights must turn out to be
    build: Callable[[Path | None], Network]
    licence: str
    note: str

    @property
    def path(self) -> Path | None:
        """Where the shipped weights lie, whether or not they do."""
        return Path(__file__).parent / self.file if self.file else None


CATALOGUE: tuple[Entry, ...] = (
    Entry(
        name="identity",
        task="nothing",
        scale=1,
        file=None,
        architecture="Identity",
        build=_identity,
        licence="none needed",
        note="gives the frames back unchanged: checks the road from file to file",
    ),
    Entry(
        name="bicubic",
        task="super-resolution",
        scale=4,
        file=None,
        architecture="Bicubic",
        build=_bicubic,
        licence="none needed",
        note="MATLAB's imresize, the baseline of the field's tables; no network",
    ),
    Entry(
        name="basicvsr",
        task="super-resolution",
        scale=4,
        file="weights/basicvsr.safetensors",
        architecture="BasicVSR",
        build=_from_checkpoint,
        licence="as vrestore",
        note="trained by this project; published checkpoints fit too (--weights)",
    ),
)


def find(name: str) -> Entry:
    """The entry of that name. Raises ``ModelError`` naming the nearest one and all of them."""
    names = [entry.name for entry in CATALOGUE]
    if name in names:
        return CATALOGUE[names.index(name)]
    near = difflib.get_close_matches(name.lower(), names, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise ModelError(
        f"{name}: no model of that name and no checkpoint file{hint} Known: {', '.join(names)}"
    )


def load_model(name: str, weights: Path | None = None) -> Network:
    """The network of that name, or of the checkpoint file at that path; eval mode, CPU.

    ``weights`` takes the place of the entry's own file. Raises ``ModelError``.
    """
    if all(entry.name != name for entry in CATALOGUE) and Path(name).is_file():
        if weights is not None:
            raise ModelError(f"{name} and {weights} are both checkpoints; give one of them")
        return _from_checkpoint(Path(name))
    entry = find(name)
    if entry.path is None and weights is not None:
        raise ModelError(f"{weights}: {name} takes no weights; leave them out")
    if weights is None and entry.path is not None and not entry.path.is_file():
        raise ModelError(
            f"{name}: its weights are not in this installation ({entry.path}); "
            "give a checkpoint's path with --weights"
        )
    net = entry.build(weights or entry.path)
    if type(net).__name__ != entry.architecture:
        raise ModelError(
            f"{weights or entry.path}: holds a {type(net).__name__}, but {name} is a "
            f"{entry.architecture}; give the path as the model itself"
        )
    return net
