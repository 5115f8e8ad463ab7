"""What was published of the models that can be named, set by set: PSNR in dB and SSIM, or NIQE.

RGB on REDS4, Y elsewhere, no crop: as the protocols have it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from vrestore.errors import ModelError
from vrestore.models.catalogue import find, is_checkpoint
from vrestore.models.published import PUBLISHED


@dataclass(frozen=True)
class Figure:
    """One cell of a published table; ``source`` says which. What it does not give is None."""

    source: str
    psnr: float | None = None
    ssim: float | None = None
    niqe: float | None = None


ZOO = "mmagic's model zoo"
ZOO_COLUMNS: tuple[tuple[str, str], ...] = (
    ("reds4", "bi"),
    ("vimeo90k-t", "bi"),
    ("vid4", "bi"),
    ("udm10", "bd"),
    ("vimeo90k-t", "bd"),
    ("vid4", "bd"),
)
# fmt: off
ZOO_ROWS: dict[str, tuple[str, ...]] = {  # both projects' files of a name hold the same weights
    "basicvsr-reds4": ("31.4170/0.8909", "36.2848/0.9395", "27.2694/0.8318",
                       "33.4478/0.9306", "34.4700/0.9286", "24.4541/0.7455"),
    "basicvsr-vimeo-bi": ("30.3128/0.8660", "37.2026/0.9434", "27.2755/0.8248",
                          "34.5554/0.9451", "34.8097/0.9316", "25.0517/0.7636"),
    "basicvsr-vimeo-bd": ("29.0376/0.8481", "34.6427/0.9335", "26.2708/0.8022",
                          "39.9953/0.9695", "37.5501/0.9499", "27.9791/0.8556"),
    "iconvsr-reds4": ("31.6926/0.8951", "36.4983/0.9416", "27.4809/0.8354",
                      "35.3377/0.9471", "34.4299/0.9287", "25.2110/0.7732"),
    "iconvsr-vimeo-bi": ("30.3452/0.8659", "37.3729/0.9467", "27.4238/0.8297",
                         "34.2595/0.9398", "34.5548/0.9295", "24.6666/0.7491"),
    "iconvsr-vimeo-bd": ("29.0150/0.8465", "34.6780/0.9339", "26.3109/0.8028",
                         "40.0640/0.9697", "37.7573/0.9517", "28.2464/0.8612"),
    "basicvsrpp-reds4": ("32.3855/0.9069", "36.4445/0.9411", "27.7674/0.8444",
                         "34.6868/0.9417", "34.0372/0.9244", "24.6209/0.7540"),
    "basicvsrpp-vimeo-bi": ("31.0126/0.8804", "37.7864/0.9500", "27.7882/0.8401",
                            "33.1211/0.9270", "33.8972/0.9195", "23.6086/0.7033"),
    "basicvsrpp-vimeo-bd": ("29.2041/0.8528", "34.7248/0.9351", "26.4377/0.8074",
                            "40.7216/0.9722", "38.2054/0.9550", "29.0400/0.8753"),
}
OTHERS: dict[tuple[str, str, str | None], tuple[str, str]] = {
    ("edvr-l-reds4", "reds4", "bi"): ("31.09/0.8800", "EDVR's paper"),
    ("edvr-m-reds4", "reds4", "bi"): ("30.53/0.8699", "BasicSR's model zoo"),
    ("edvr-l-vimeo", "vid4", "bi"): ("27.35/0.8264", "EDVR's paper"),
    ("edvr-l-vimeo", "vimeo90k-t", "bi"): ("37.61/0.9489", "EDVR's paper"),
    ("edvr-m-reds4-mmagic", "reds4", "bi"): ("30.4194/0.8684", ZOO),
    ("edvr-m-wotsa-reds4-mmagic", "reds4", "bi"): ("30.3430/0.8664", ZOO),
    ("edvr-l-reds4-mmagic", "reds4", "bi"): ("31.0467/0.8793", ZOO),
    ("edvr-l-wotsa-reds4-mmagic", "reds4", "bi"): ("31.0010/0.8784", ZOO),
    ("bicubic", "vid4", "bi"): ("23.78/0.6347", "BasicVSR's paper, as quoted"),
    ("bicubic", "vimeo90k-t", "bi"): ("31.32/0.8684", "BasicVSR's paper, as quoted"),
    # These quotations were not traced to their tables.
    ("bicubic", "reds4", "bi"): ("26.14/0.7292", "BasicVSR's paper, as quoted; not verified"),
    ("bicubic", "udm10", "bd"): ("28.47/0.8253", "BasicVSR's paper, as quoted; not verified"),
    ("bicubic", "vimeo90k-t", "bd"): ("31.30/0.8687", "BasicVSR's paper, as quoted; not verified"),
    ("bicubic", "vid4", "bd"): ("21.80/0.5246", "BasicVSR's paper, as quoted; not verified"),
    ("realbasicvsr", "videolq", None): ("3.7662", "RealBasicVSR's paper, table 3"),
}
# fmt: on


def published(model: str, protocol: str, degradation: str | None) -> Figure | None:
    """The figure of a catalogue's model on that set and input, None where there is none."""
    plain = model.removesuffix("-mmagic").removesuffix("-basicsr")
    if plain in ZOO_ROWS:
        row = dict(zip(ZOO_COLUMNS, ZOO_ROWS[plain], strict=True))
        cell = row.get((protocol, degradation or ""))
        return _figure(cell, ZOO) if cell else None
    found = OTHERS.get((model, protocol, degradation))
    return _figure(*found) if found else None


def known_as(model: str, weights: Path | None) -> str | None:
    """The catalogue's name of what runs: a checkpoint is known by its content, whatever its name.

    None for weights that nobody has published.
    """
    file = weights or (Path(model) if is_checkpoint(model) else None)
    if file is None:
        return find(model).name
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}") from error
    entries = (e.name for e in PUBLISHED if e.remote and digest.startswith(e.remote.sha256))
    return next(entries, None)


def _figure(text: str, source: str) -> Figure:
    if "/" not in text:
        return Figure(source, niqe=float(text))
    psnr, ssim = map(float, text.split("/"))
    return Figure(source, psnr, ssim)
