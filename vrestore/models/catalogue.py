"""Every named model: what ships, what needs no weights, and what the field has published."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vrestore.errors import ModelError
from vrestore.models.download import ProgressBytes, fetch, models_folder
from vrestore.models.entry import Entry
from vrestore.models.published import PUBLISHED

if TYPE_CHECKING:
    from vrestore.models.temporal import Network

log = logging.getLogger("vrestore")

CATALOGUE: tuple[Entry, ...] = (
    Entry(
        name="basicvsr",
        architecture="BasicVSR",
        task="super-resolution",
        scale=4,
        parameters=747_893,
        data="free clips and photographs (BI)",
        figure="",
        licence="as vrestore",
        note="ships with vrestore, trained by it; carries a picture along: see its card",
        file="weights/basicvsr.safetensors",
    ),
    Entry(
        name="basicvsr-real",
        architecture="FRRealBasicVSR",
        task="super-resolution of footage as it is found",
        scale=4,
        parameters=1_433_170,
        data="free clips and photographs (blur, noise, codecs)",
        figure="",
        licence="as vrestore",
        note="ships with vrestore, trained by it; see its card",
        file="weights/basicvsr-real.safetensors",
    ),
    Entry(
        name="restore",
        architecture="FRBasicVSR",
        task="cleaning at the same size",
        scale=1,
        parameters=685_277,
        data="free clips and photographs (noise, blur, JPEG, codecs)",
        figure="",
        licence="as vrestore",
        note="ships with vrestore, trained by it; see its card",
        file="weights/restore.safetensors",
    ),
    Entry(
        name="edvr",
        architecture="EDVR",
        task="super-resolution",
        scale=4,
        parameters=781_843,
        data="free clips and photographs (BI)",
        figure="",
        licence="as vrestore",
        note="ships with vrestore, trained by it; windows of five frames: see its card",
        file="weights/edvr.safetensors",
    ),
    Entry(
        name="iconvsr",
        architecture="IconVSR",
        task="super-resolution",
        scale=4,
        parameters=1_422_085,
        data="free clips and photographs (BI)",
        figure="",
        licence="as vrestore",
        note="ships with vrestore, trained by it; refilled by the features of edvr: see its card",
        file="weights/iconvsr.safetensors",
    ),
    Entry(
        name="bicubic",
        architecture="Bicubic",
        task="super-resolution",
        scale=4,
        parameters=0,
        data="",
        figure="",
        licence="none needed",
        note="MATLAB's imresize, the baseline of the field's tables; no network",
    ),
    Entry(
        name="identity",
        architecture="Identity",
        task="nothing",
        scale=1,
        parameters=0,
        data="",
        figure="",
        licence="none needed",
        note="gives the frames back unchanged: checks the road from file to file",
    ),
    *PUBLISHED,
)


def find(name: str) -> Entry:
    """The entry of that name, or of the published file so called, with or without its ending.

    Raises ``ModelError`` naming the nearest one.
    """
    for entry in CATALOGUE:
        file = entry.remote.file if entry.remote else entry.name
        if name in (entry.name, file, file.removesuffix(".pth")):
            return entry
    names = [entry.name for entry in CATALOGUE]
    near = difflib.get_close_matches(name.lower(), names, 1, 0.5)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise ModelError(
        f"{name}: no model of that name and no checkpoint file{hint} `vrestore models` lists all"
    )


def obtain(
    entry: Entry,
    *,
    offline: bool = False,
    announce: Callable[[Entry], None] | None = None,
    progress: ProgressBytes | None = None,
) -> Path | None:
    """The file of the entry's weights, fetched and checked if need be; None: it needs none.

    ``announce`` is called before anything is fetched and must show the licence; None: to the log.
    """
    if entry.remote:
        if not (entry.is_here or offline or entry.remote.url is None):
            (announce or _log_licence)(entry)
        return fetch(entry.remote, models_folder(), offline=offline, progress=progress)
    if not entry.is_here:
        raise ModelError(
            f"{entry.name}: its weights are not in this installation ({entry.path}); "
            "give a checkpoint's path with --weights"
        )
    return entry.path


def _log_licence(entry: Entry) -> None:
    log.warning("%s is fetched; its licence: %s", entry.name, entry.licence)


def load_model(name: str, weights: Path | None = None, *, offline: bool = False) -> Network:
    """The network of that name, or of the checkpoint file at that path; eval mode, CPU.

    ``weights`` takes the place of the entry's own file, which is fetched where it is not here,
    unless ``offline``. Raises ``ModelError``.
    """
    from vrestore.models.baselines import Bicubic, Identity
    from vrestore.models.checkpoint import load_network

    if is_checkpoint(name):
        if weights is not None:
            raise ModelError(f"{name} and {weights} are both checkpoints; give one of them")
        return load_network(Path(name))
    entry = find(name)
    if entry.path is None:
        if weights is not None:
            raise ModelError(f"{weights}: {name} takes no weights; leave them out")
        return {"Bicubic": Bicubic, "Identity": Identity}[entry.architecture]().eval()
    file = weights or obtain(entry, offline=offline)
    assert file is not None
    net = load_network(file, **entry.told)
    if all(kind.__name__ != entry.architecture for kind in type(net).__mro__):
        raise ModelError(
            f"{file}: holds a {type(net).__name__}, but {name} is a {entry.architecture}; "
            "give the path as the model itself"
        )
    return net


def is_checkpoint(name: str) -> bool:
    """Whether a model's name is the path of a file, and no name of the catalogue."""
    return all(entry.name != name for entry in CATALOGUE) and Path(name).is_file()
